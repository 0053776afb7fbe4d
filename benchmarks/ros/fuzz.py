"""Send hostile requests to a real node: each has to get a response in time, and the node has to survive.

    python -m benchmarks.ros.fuzz --requests 1000 --seed 0

The seed of a request without a response is printed; `--seed S --requests 1` repeats it. The last line is
JSON; the exit code is 1 if a request was lost or the node no longer works.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ros.hostile import hostile_request
from benchmarks.ros.load import LoadClient, Tally
from support.processes import NodeProcesses, use_private_domain
from support.readiness import wait_until_active
from xsam.sim import render, sample_scene
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import Segment

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 1000,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first request; default: from the clock.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for logs.")] = Path("fuzz_output"),
) -> None:
    """Run the fuzz; exit with 0 if every request ended and the node still answers a valid one."""
    first = int(time.time()) if seed is None else seed
    out.mkdir(parents=True, exist_ok=True)
    use_private_domain()
    print(f"[fuzz] {requests} requests, seeds from {first}; logs go to {out}/", flush=True)
    with NodeProcesses(log_dir=out) as processes, LoadClient("fuzz") as client:
        processes.start("segmenter", "xsam_ros.segmenter_node", "-p", "model:=tiny", "-p", "cameras:=[front]")
        with RosSegmenter("/xsam") as segmenter:
            wait_until_active(segmenter, processes=processes)
        report = fuzz(client, range(first, first + requests))
        report["alive"] = _answers_a_valid_request(client)
        processes.check()
    print(json.dumps(report, allow_nan=False))
    raise typer.Exit(0 if report["alive"] and not report["lost"] else 1)


def fuzz(client: LoadClient, seeds: range) -> dict[str, Any]:
    """Send one request for each seed, one after the other, and return the report."""
    tally = Tally()
    mutations: Counter[str] = Counter()
    slowest_s = 0.0
    for seed in seeds:
        request, mutation = hostile_request(random.Random(seed))
        mutations[mutation.strip("_")] += 1
        began_s = time.monotonic()
        response = tally.call(client, "/xsam/segment", request, f"seed {seed} ({mutation})")
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        if response is None:
            print(f"[fuzz] seed {seed} ({mutation}): no response", flush=True)
    return {
        "requests": tally.requests,
        "answers": tally.answers,
        "refusals": dict(sorted(tally.refusals.items())),
        "failures": dict(sorted(tally.failures.items())),
        "lost": len(tally.lost),
        "late": len(tally.late),
        "late_requests": tally.late[:20],
        "lost_requests": tally.lost[:20],
        "slowest_s": round(slowest_s, 2),
        "mutations": dict(sorted(mutations.items())),
        "first_seed": seeds.start,
    }


def _answers_a_valid_request(client: LoadClient) -> bool:
    image = image_from_array(render(sample_scene(2_000_012)).rgb, "rgb8")
    request = Segment.Request(image=image, queries=[SegmentQuery(text="the mug")], timeout_s=30.0)
    response = client.try_call(Segment, "/xsam/segment", request, timeout_s=40.0)
    return response is not None and response.status == Segment.Response.STATUS_ANSWERED


if __name__ == "__main__":
    app()
