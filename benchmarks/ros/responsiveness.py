"""How fast status, parameters and lifecycle state are told while the model works without a break.

    python -m benchmarks.ros.responsiveness --calls 200

The last line is JSON: median and 99th percentile in milliseconds by call, idle and busy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters

from benchmarks.ros.load import RosSide
from examples.ros_processes import RosProcesses
from xsam.sim import render, sample_scene
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

_CALLS: dict[str, tuple[type[Any], Any]] = {
    "get_status": (GetStatus, GetStatus.Request()),
    "get_parameters": (GetParameters, GetParameters.Request(names=["model", "queue_size"])),
    "get_state": (GetState, GetState.Request()),
}
_CLIENTS = 3
_START_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 when every call was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200, help="of each kind")
    parser.add_argument("--out", type=Path, default=Path("responsiveness_output"), help="folder for logs")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with RosProcesses(log_dir=options.out) as processes, RosSide("responsiveness") as side:
        processes.start("segmenter", "xsam_ros.segmenter_node", "-p", "model:=tiny", "-p", "cameras:=[front]")
        _wait_until_active(side)
        idle = _measure(side, options.calls)
        stop = threading.Event()
        load = [threading.Thread(target=_load, args=(number, stop)) for number in range(_CLIENTS)]
        for thread in load:
            thread.start()
        time.sleep(2.0)
        busy = _measure(side, options.calls)
        stop.set()
        for thread in load:
            thread.join(60.0)
    print(json.dumps({"idle": idle, "busy": busy, "calls": options.calls, "clients": _CLIENTS}))
    return 0


def _measure(side: RosSide, calls: int) -> dict[str, dict[str, float]]:
    report = {}
    for name, (service, request) in _CALLS.items():
        took_s = []
        for _ in range(calls):
            began_s = time.perf_counter()
            if side.call(service, f"/xsam/{name}", request, timeout_s=10.0) is None:
                raise RuntimeError(f"{name} was not answered within 10 s")
            took_s.append(time.perf_counter() - began_s)
        p50_ms, p99_ms = 1000 * np.percentile(took_s, [50, 99])
        report[name] = {"p50_ms": round(float(p50_ms), 2), "p99_ms": round(float(p99_ms), 2)}
    return report


def _load(number: int, stop: threading.Event) -> None:
    """Ask without a break, on a picture that is new each time."""
    rgb = render(sample_scene(2_000_000 + number)).rgb.copy()
    with RosSide(f"load_{number}") as side:
        while not stop.is_set():
            rgb[0, 0] += 1
            request = Segment.Request(queries=[SegmentQuery(text="the mug")], timeout_s=30.0)
            request.image = image_from_array(rgb, "rgb8")
            side.call(Segment, "/xsam/segment", request, timeout_s=40.0)


def _wait_until_active(side: RosSide) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        status = side.call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=10.0)
        if status is not None and status.state == "active":
            return
        time.sleep(0.2)
    raise RuntimeError(f"the node was not ready within {_START_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
