"""The command line of the MCP server: where its eyes come from."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xsam.errors import InvalidImageError, XSamError
from xsam.types.requests import Frame
from xsam_agent_tools.runtime.loading import LoadingSegmenter
from xsam_agent_tools.toolkit import XSamToolkit
from xsam_agent_tools.tools.definition import Images

ORACLE = "oracle"


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line; ends the program with a usage message when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m xsam_agent_tools.mcp_server", description="X-SAM's perception tools over MCP."
    )
    eyes = parser.add_mutually_exclusive_group(required=True)
    eyes.add_argument("--ros", metavar="NODE", help="a running segmenter node, e.g. /xsam")
    eyes.add_argument("--scene", type=int, metavar="SEED", help="a simulated table, with depth")
    eyes.add_argument("--image", type=Path, metavar="FILE", help="a picture, read anew for every question")
    parser.add_argument(
        "--model", default="tiny", help=f"tiny, a converted folder, or {ORACLE} (the truth about --scene)"
    )
    parser.add_argument("--cameras", help="names, separated by commas; default: all of the node; camera")
    parser.add_argument("--mode", choices=("core", "full"), default="core", help="set of tools")
    parser.add_argument("--no-images", action="store_true", help="text only")
    parser.add_argument("--deadline-s", type=float, default=60.0, help="of one call, seconds")
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--port", type=int, default=8000, help="of http on 127.0.0.1; 0 = a free one")
    options = parser.parse_args(argv)
    if options.model == ORACLE and options.scene is None:
        parser.error("--model oracle needs --scene")
    if options.image is not None and not options.image.is_file():
        parser.error(f"--image {options.image}: no such file")
    return options


@contextmanager
def open_toolkit(options: argparse.Namespace) -> Iterator[XSamToolkit]:
    """The toolkit that the options describe; what it holds open is closed at the end."""
    named = [name.strip() for name in (options.cameras or "").split(",") if name.strip()]
    settings: dict[str, Any] = {"mode": options.mode, "deadline_s": options.deadline_s}
    if options.ros:
        try:
            # By name: the packages do not know each other, and ROS is needed for this choice only.
            client = importlib.import_module("xsam_ros.client")
        except ImportError as error:
            sys.exit(f"--ros needs a sourced ROS 2 workspace with xsam_ros: {error}")
        with client.RosSegmenter(options.ros) as segmenter:
            cameras = named or _cameras_of_node(segmenter, options)
            yield XSamToolkit(segmenter, cameras, **settings)
        return
    images: Images = "none" if options.no_images else "tool"
    cameras = named or ["camera"]
    if options.scene is not None:
        from xsam.sim.oracle import SimulatedTable

        table = SimulatedTable(options.scene, cameras=dict.fromkeys(cameras, 0.0))
        segmenter = table if options.model == ORACLE else _loading(options.model)
        yield XSamToolkit(segmenter, cameras, frame_source=table.frame, images=images, **settings)
        return
    yield XSamToolkit(
        _loading(options.model),
        cameras,
        frame_source=lambda camera: _frame_from(options.image, camera),
        images=images,
        **settings,
    )


def _cameras_of_node(segmenter: Any, options: argparse.Namespace) -> list[str]:
    try:
        status = segmenter.status(deadline_s=options.deadline_s)
    except XSamError as error:
        sys.exit(f"--ros {options.ros}: {error}")
    return [str(camera.name) for camera in status.cameras]


def _loading(model: str) -> LoadingSegmenter:
    def load() -> Any:
        import xsam

        return xsam.XSam.load(model)

    return LoadingSegmenter(load)


def _frame_from(path: Path, camera: str) -> Frame:
    """The picture as a frame without a stamp: when it was taken is not known."""
    import cv2

    # A program that writes the picture may be half way.
    for _ in range(3):
        bgr: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is not None:
            return Frame(rgb=cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), camera=camera)
        time.sleep(0.05)
    raise InvalidImageError(f"{path.name} is not a picture that can be read")
