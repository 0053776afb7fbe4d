"""Does cleanup give the memory of the model back? A real node through its lifecycle, again and again.

    python -m benchmarks.ros.memory --cycles 3

Each cycle configures, activates, answers requests on pictures that differ, so that the frame cache fills,
deactivates and cleans up. The last line is JSON with resident MB at each point, medians over the cycles after
the first one, which also loads PyTorch; `given_back` is the part of what configuring and working took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from benchmarks.ros.load import RosSide
from examples.ros_processes import RosProcesses
from xsam_ros.messages.images import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

_HW = (480, 640)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cycles; 0 when memory does not grow by more than a tenth from the second one on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--frames", type=int, default=10, help="pictures a cycle")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("memory_output"), help="folder for logs")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    points: dict[str, list[float]] = {"unconfigured": [], "configured": [], "worked": [], "cleaned": []}
    with RosProcesses(log_dir=options.out) as processes, RosSide("memory") as side:
        processes.start(
            *("segmenter", "xsam_ros.segmenter_node", "-p", f"model:={options.model}"),
            *("-p", "cameras:=[front]", "-p", "autostart:=false"),
        )

        def note(point: str) -> None:
            points[point].append(processes.resident_mb("segmenter"))
            print(f"[memory] {point}: {points[point][-1]:.0f} MB", flush=True)

        side.call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=60.0)
        for _ in range(options.cycles):
            note("cleaned" if points["unconfigured"] else "unconfigured")
            _change(side, Transition.TRANSITION_CONFIGURE)
            note("configured")
            _change(side, Transition.TRANSITION_ACTIVATE)
            for number in range(options.frames):
                _ask(side, number)
            note("worked")
            _change(side, Transition.TRANSITION_DEACTIVATE)
            _change(side, Transition.TRANSITION_CLEANUP)
        note("cleaned")
        processes.check()
    later = slice(1, None) if options.cycles > 1 else slice(None)
    at = {point: round(statistics.median(values[later] or values)) for point, values in points.items()}
    growth_mb = points["cleaned"][-1] - points["cleaned"][0]
    report = {
        **{f"{point}_mb": value for point, value in at.items()},
        "given_back": round((at["worked"] - at["cleaned"]) / max(1, at["worked"] - at["unconfigured"]), 3),
        "growth_mb_from_first_to_last_cleanup": round(growth_mb, 1),
        "cycles": options.cycles,
        "frames": options.frames,
    }
    print(json.dumps(report, allow_nan=False))
    return 0 if growth_mb <= 0.1 * points["cleaned"][0] else 1


def _change(side: RosSide, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    response = side.call(ChangeState, "/xsam/change_state", request, timeout_s=300.0)
    if response is None or not response.success:
        raise RuntimeError(f"transition {transition} failed")


def _ask(side: RosSide, number: int) -> None:
    rgb = np.random.default_rng(number).integers(0, 256, (*_HW, 3), np.uint8)
    request = Segment.Request(
        image=image_from_array(rgb, "rgb8"), queries=[SegmentQuery(text="the mug")], timeout_s=120.0
    )
    response = side.call(Segment, "/xsam/segment", request, timeout_s=130.0)
    if response is None or response.status != Segment.Response.STATUS_ANSWERED:
        raise RuntimeError(f"no answer to picture {number}: {response and response.message}")


if __name__ == "__main__":
    raise SystemExit(main())
