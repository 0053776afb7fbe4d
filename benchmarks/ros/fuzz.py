"""Hostile requests to a real node: is each answered or refused in time, and does the node live on?

    python -m benchmarks.ros.fuzz --requests 1000 --seed 0

The seed of every request is printed when something is wrong with its answer; `--seed S --requests 1` repeats
it. The last line is JSON; the exit code is 1 when a request was lost or the node is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ros.hostile import hostile_request
from benchmarks.ros.load import RosSide, Tally
from examples.ros_processes import RosProcesses
from xsam.sim import render, sample_scene
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

_START_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzz; 0 when every request ended and the node still answers a good one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of the first request; default: by the clock")
    parser.add_argument("--out", type=Path, default=Path("fuzz_output"), help="folder for logs")
    options = parser.parse_args(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    print(f"[fuzz] {options.requests} requests, seeds from {seed} on; logs go to {options.out}/", flush=True)
    with RosProcesses(log_dir=options.out) as processes, RosSide("fuzz") as side:
        processes.start("segmenter", "xsam_ros.segmenter_node", "-p", "model:=tiny", "-p", "cameras:=[front]")
        _wait_until_active(processes, side)
        report = fuzz(side, range(seed, seed + options.requests))
        report["alive"] = _answers_a_good_request(side)
        processes.check()
    print(json.dumps(report, allow_nan=False))
    return 0 if report["alive"] and not report["lost"] else 1


def fuzz(side: RosSide, seeds: range) -> dict[str, Any]:
    """Send one request a seed, one after the other."""
    tally = Tally()
    mutations: Counter[str] = Counter()
    slowest_s = 0.0
    for seed in seeds:
        request, mutation = hostile_request(random.Random(seed))
        mutations[mutation.strip("_")] += 1
        began_s = time.monotonic()
        response = tally.ask(side, "/xsam/segment", request, f"seed {seed} ({mutation})")
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        if response is None:
            print(f"[fuzz] seed {seed} ({mutation}): no answer", flush=True)
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


def _wait_until_active(processes: RosProcesses, side: RosSide) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        processes.check()
        status = side.call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=10.0)
        if status is not None and status.state == "active":
            return
        time.sleep(0.2)
    raise RuntimeError(f"the node was not ready within {_START_S:.0f} s")


def _answers_a_good_request(side: RosSide) -> bool:
    picture = image_from_array(render(sample_scene(2_000_012)).rgb, "rgb8")
    request = Segment.Request(image=picture, queries=[SegmentQuery(text="the mug")], timeout_s=30.0)
    response = side.call(Segment, "/xsam/segment", request, timeout_s=40.0)
    return response is not None and response.status == Segment.Response.STATUS_ANSWERED


if __name__ == "__main__":
    sys.exit(main())
