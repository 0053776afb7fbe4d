"""Measure whether cleanup releases the model's memory: a real node goes through its lifecycle repeatedly.

    python -m benchmarks.ros.memory --cycles 3

Each cycle configures, activates, answers requests on different images, so that the frame cache fills,
deactivates and cleans up. The last line is JSON with the resident MB at each point, medians over the cycles
after the first, which also loads PyTorch; `given_back` is the released share of what the cycle allocated.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from benchmarks.ros.load import LoadClient
from support.processes import NodeProcesses, use_private_domain
from xsam_ros.messages.image_messages import image_from_array
from xsam_ros.msg import SegmentQuery
from xsam_ros.srv import GetStatus, Segment

_IMAGE_HW = (480, 640)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    cycles: Annotated[int, typer.Option(min=1, help="Cycles of the lifecycle.")] = 3,
    frames: Annotated[int, typer.Option(min=1, help="Images per cycle.")] = 10,
    model: Annotated[str, typer.Option(help="tiny or a converted folder.")] = "tiny",
    out: Annotated[Path, typer.Option(help="Folder for logs.")] = Path("memory_output"),
) -> None:
    """Run the cycles; exit with 0 if memory after cleanup grows by at most a tenth over all of them."""
    out.mkdir(parents=True, exist_ok=True)
    use_private_domain()
    points: dict[str, list[float]] = {"unconfigured": [], "configured": [], "worked": [], "cleaned": []}
    with NodeProcesses(log_dir=out) as processes, LoadClient("memory") as client:
        processes.start(
            *("segmenter", "xsam_ros.segmenter_node", "-p", f"model:={model}"),
            *("-p", "cameras:=[front]", "-p", "autostart:=false"),
        )

        def record(point: str) -> None:
            points[point].append(processes.resident_mb("segmenter"))
            print(f"[memory] {point}: {points[point][-1]:.0f} MB", flush=True)

        client.try_call(GetStatus, "/xsam/get_status", GetStatus.Request(), timeout_s=60.0)
        for _ in range(cycles):
            record("cleaned" if points["unconfigured"] else "unconfigured")
            _change(client, Transition.TRANSITION_CONFIGURE)
            record("configured")
            _change(client, Transition.TRANSITION_ACTIVATE)
            for index in range(frames):
                _segment(client, index)
            record("worked")
            _change(client, Transition.TRANSITION_DEACTIVATE)
            _change(client, Transition.TRANSITION_CLEANUP)
        record("cleaned")
        processes.check()
    later = slice(1, None) if cycles > 1 else slice(None)
    median_mb = {point: round(statistics.median(values[later] or values)) for point, values in points.items()}
    growth_mb = points["cleaned"][-1] - points["cleaned"][0]
    report = {
        **{f"{point}_mb": value for point, value in median_mb.items()},
        "given_back": round(_released_share(median_mb), 3),
        "growth_mb_from_first_to_last_cleanup": round(growth_mb, 1),
        "cycles": cycles,
        "frames": frames,
    }
    print(json.dumps(report, allow_nan=False))
    raise typer.Exit(0 if growth_mb <= 0.1 * points["cleaned"][0] else 1)


def _released_share(mb: dict[str, float]) -> float:
    return (mb["worked"] - mb["cleaned"]) / max(1, mb["worked"] - mb["unconfigured"])


def _change(client: LoadClient, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    response = client.try_call(ChangeState, "/xsam/change_state", request, timeout_s=300.0)
    if response is None or not response.success:
        raise RuntimeError(f"transition {transition} failed")


def _segment(client: LoadClient, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (*_IMAGE_HW, 3), np.uint8)
    request = Segment.Request(
        image=image_from_array(rgb, "rgb8"), queries=[SegmentQuery(text="the mug")], timeout_s=120.0
    )
    response = client.try_call(Segment, "/xsam/segment", request, timeout_s=130.0)
    if response is None or response.status != Segment.Response.STATUS_ANSWERED:
        raise RuntimeError(f"image {seed} was not segmented: {response and response.message}")


if __name__ == "__main__":
    app()
