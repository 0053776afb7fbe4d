"""Measure how fast the node reports status, parameters and lifecycle state while the model is busy.

    python -m benchmarks.ros.responsiveness --calls 200

The last line is JSON: median and 99th percentile in milliseconds for each call, idle and busy, and the
longest call of the status while requests with millions of points, names, prompts and queries arrive.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters

from benchmarks.ros.load import LoadClient
from support.processes import NodeProcesses, use_private_domain
from support.readiness import wait_until_active
from xsam.sim import render, sample_scene
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

_CALLS: dict[str, tuple[type[Any], Any]] = {
    "get_status": (GetStatus, GetStatus.Request()),
    "get_parameters": (GetParameters, GetParameters.Request(names=["model", "queue_size"])),
    "get_state": (GetState, GetState.Request()),
}
_CLIENTS = 3
_LONG = {"points": 3_000_000, "names": 5_000_000, "prompts": 500_000, "queries": 400_000}  # 28 to 48 MB


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    calls: Annotated[int, typer.Option(min=1, help="Calls of each kind.")] = 200,
    out: Annotated[Path, typer.Option(help="Folder for logs.")] = Path("responsiveness_output"),
) -> None:
    """Run the measurement."""
    out.mkdir(parents=True, exist_ok=True)
    use_private_domain()
    with NodeProcesses(log_dir=out) as processes, LoadClient("responsiveness") as client:
        processes.start("segmenter", "xsam_ros.segmenter_node", "-p", "model:=tiny", "-p", "cameras:=[front]")
        with RosSegmenter("/xsam") as segmenter:
            wait_until_active(segmenter, processes=processes)
        idle = _measure(client, calls)
        hostile = {kind: _longest_beside(client, kind, count) for kind, count in _LONG.items()}
        stop = threading.Event()
        load = [threading.Thread(target=_load, args=(index, stop)) for index in range(_CLIENTS)]
        for thread in load:
            thread.start()
        time.sleep(2.0)
        busy = _measure(client, calls)
        stop.set()
        for thread in load:
            thread.join(60.0)
    figures = {"idle": idle, "busy": busy, "hostile": hostile, "calls": calls, "clients": _CLIENTS}
    print(json.dumps(figures))


def _measure(client: LoadClient, calls: int) -> dict[str, dict[str, float]]:
    report = {}
    for name, (service, request) in _CALLS.items():
        elapsed_s = []
        for _ in range(calls):
            began_s = time.perf_counter()
            if client.try_call(service, f"/xsam/{name}", request, timeout_s=10.0) is None:
                raise RuntimeError(f"{name} did not respond within 10 s")
            elapsed_s.append(time.perf_counter() - began_s)
        p50_ms, p99_ms = 1000 * np.percentile(elapsed_s, [50, 99])
        report[name] = {"p50_ms": round(float(p50_ms), 2), "p99_ms": round(float(p99_ms), 2)}
    return report


def _longest_beside(client: LoadClient, kind: str, count: int) -> dict[str, float]:
    """Return the longest call of the status while a long request is handled, and how long that takes."""
    command = [sys.executable, "-m", "benchmarks.ros.hostile", kind, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # "sent"
        began_s, longest_s = time.perf_counter(), 0.0
        while process.poll() is None:
            called_s = time.perf_counter()
            if client.try_call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=30.0) is None:
                raise RuntimeError("get_status did not respond within 30 s")
            longest_s = max(longest_s, time.perf_counter() - called_s)
        took_s = time.perf_counter() - began_s
    return {"longest_ms": round(1000 * longest_s, 1), "request_ms": round(1000 * took_s, 1)}


def _load(seed: int, stop: threading.Event) -> None:
    """Send requests without a pause, each with an image that the node has not seen."""
    rgb = render(sample_scene(2_000_000 + seed)).rgb.copy()
    with LoadClient(f"load_{seed}") as client:
        while not stop.is_set():
            rgb[0, 0] += 1
            request = Segment.Request(queries=[SegmentQuery(text="the mug")], timeout_s=30.0)
            request.image = image_from_array(rgb, "rgb8")
            client.try_call(Segment, "/xsam/segment", request, timeout_s=40.0)


if __name__ == "__main__":
    app()
