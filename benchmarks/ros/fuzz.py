"""Send hostile requests to a real node: each has to get a response in time, and the node has to survive.

    python -m benchmarks.ros.fuzz --requests 1000 --seed 0

The seed of a request without a response is printed; `--seed S --requests 1` repeats it. The last line is
JSON; the exit code is 1 if a request was lost or the node no longer works.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ros.hostile import hostile_request
from benchmarks.ros.load import LoadClient, Tally
from support.processes import NodeProcesses, use_private_domain
from support.readiness import wait_until_active
from xsam.sim import render, sample_scene
from xsam_ros.client import RosSegmenter
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import Segment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzz; return 0 if every request ended and the node still answers a valid one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of the first request; default: from the clock"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz_output"), help="folder for logs")
    options = parser.parse_args(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    options.out.mkdir(parents=True, exist_ok=True)
    use_private_domain()
    print(f"[fuzz] {options.requests} requests, seeds from {seed}; logs go to {options.out}/", flush=True)
    with NodeProcesses(log_dir=options.out) as processes, LoadClient("fuzz") as client:
        processes.start("segmenter", "xsam_ros.segmenter_node", "-p", "model:=tiny", "-p", "cameras:=[front]")
        with RosSegmenter("/xsam") as segmenter:
            wait_until_active(segmenter, processes=processes)
        report = fuzz(client, range(seed, seed + options.requests))
        report["alive"] = _answers_a_valid_request(client)
        processes.check()
    print(json.dumps(report, allow_nan=False))
    return 0 if report["alive"] and not report["lost"] else 1


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
    sys.exit(main())
