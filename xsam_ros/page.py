"""The page of the model server with a node behind it: `python -m xsam_ros.page`; see docs/server.md.

Pictures come from the node's cameras, and questions go to the node, over the same interfaces as those of
`xsam_ros.client`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsam_ros.runtime.process import run_entry_point

if TYPE_CHECKING:
    from xsam.types.deadline import StageHook, TextHook
    from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
    from xsam_ros.client import RosSegmenter

__all__ = ["NodeEngine", "main"]

_CHECK_EVERY_S = 2.0
_STATUS_WITHIN_S = 2.0
_FRAME_WITHIN_S = 4.0


class NodeEngine:
    """A running node as the engine and the cameras of a server; implements `xsam.segmenter.Engine`.

    The node may come and go: a thread asks for its status, and requests meanwhile end with a typed error.
    """

    def __init__(self, segmenter: RosSegmenter) -> None:
        """Start the thread.

        Args:
            segmenter: the client of the node; closed with the engine.
        """
        self._segmenter = segmenter
        self._closing = threading.Event()
        self._model_id = ""
        self._names: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._watch, name="xsam_node_status", daemon=True)
        self._thread.start()

    @property
    def model_id(self) -> str:
        """Identifier of the node's model, as far as it is known."""
        return self._model_id

    @property
    def node(self) -> str:
        """Full name of the node."""
        return self._segmenter.node_name

    @property
    def names(self) -> Sequence[str]:
        """Names of the node's cameras, as far as they are known."""
        return self._names

    def newest_frame(self, camera: str) -> Frame:
        """Return the newest frame of a camera; see `RosSegmenter.newest_frame`."""
        return self._segmenter.newest_frame(camera, deadline_s=_FRAME_WITHIN_S)

    def segment(
        self,
        source: Frame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """See `xsam.segmenter.Engine.segment`; adds locations in the camera's frame where there is depth.

        `keep_frame` is the node's own decision.
        """
        results = self._segmenter.segment(
            source, queries, deadline_s=deadline_s, on_stage=on_stage, on_text=on_text
        )
        return [_located(result, source) for result in results]

    def warm_up(self) -> None:
        """Do nothing: the node has warmed up its model."""

    def close(self) -> None:
        """Leave ROS."""
        self._closing.set()
        self._thread.join(_STATUS_WITHIN_S + 1.0)
        self._segmenter.close()

    def _watch(self) -> None:
        from xsam.errors import XSamError

        while not self._closing.is_set():
            try:
                status = self._segmenter.status(deadline_s=_STATUS_WITHIN_S)
            except XSamError:  # it is away; requests say so
                self._names = ()
            else:
                self._model_id = str(status.model_id)
                self._names = tuple(str(camera.name) for camera in status.cameras)
            self._closing.wait(_CHECK_EVERY_S)


def _located(result: SegmentationResult, source: Frame | CameraRef) -> SegmentationResult:
    """Return a result with the locations of its objects, or with the reason why there are none."""
    from xsam.errors import InvalidImageError
    from xsam.spatial.localize import locate_masks
    from xsam.types.location import Location3D
    from xsam.types.requests import Frame

    if not isinstance(source, Frame) or source.depth_m is None or not len(result.segments):
        return result
    masks = result.segments.masks
    try:
        if source.intrinsics is None:
            raise InvalidImageError("there is no camera matrix")
        places = locate_masks(
            masks, source.depth_m, source.intrinsics, calibrated_hw=source.image_hw, lens=source.lens
        )
    except InvalidImageError as error:
        places = (Location3D.unknown(error.message),) * len(masks)
    places = tuple(replace(place, frame_id=source.frame_id) for place in places)
    return replace(result, segments=replace(result.segments, locations=places))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until SIGINT or SIGTERM."""
    return run_entry_point(_load, arguments)


def _load() -> Callable[[Sequence[str] | None], int]:
    import rclpy.utilities

    from xsam.errors import XSamError
    from xsam_ros.client import RosSegmenter

    # By name: the node and its client work without the server and must not depend on it.
    clients: Any = import_module("xsam_server.clients")
    serving: Any = import_module("xsam_server.serving")
    settings_type: Any = import_module("xsam_server.settings").ServerSettings

    def run(arguments: Sequence[str] | None) -> int:
        given = list(sys.argv if arguments is None else ["xsam_page", *arguments])
        parser = _parser()
        options = parser.parse_args(rclpy.utilities.remove_ros_args(given)[1:])
        if (options.tls_cert is None) != (options.tls_key is None):
            parser.error("--tls-cert and --tls-key belong together")
        try:
            settings = serving.check_settings(
                settings_type(
                    host=options.host,
                    port=options.port,
                    allowed_hosts=tuple(options.allowed_host),
                    clients=clients.read_token_file(options.token_file) if options.token_file else (),
                    tls=None if options.tls_cert is None else (options.tls_cert, options.tls_key),
                )
            )
            engine = NodeEngine(RosSegmenter(options.node))
            serving.serve(lambda: engine, settings, cameras=engine)
        except (XSamError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xsam_page", description="A page in the browser to look through a node's cameras and ask it."
    )
    parser.add_argument("--node", default="/xsam", help="full name of the node (default: /xsam)")
    parser.add_argument("--host", default="127.0.0.1", help="address; any but loopback needs --token-file")
    parser.add_argument(
        "--port",
        type=int,
        choices=range(65536),
        metavar="PORT",
        default=8080,
        help="port; 0 = a free one (default: 8080)",
    )
    parser.add_argument("--token-file", type=Path, help="clients, one a line: NAME TOKEN")
    parser.add_argument(
        "--allowed-host", action="append", default=[], help="name of this machine; repeatable"
    )
    parser.add_argument("--tls-cert", type=Path, help="certificate chain (PEM) for HTTPS")
    parser.add_argument("--tls-key", type=Path, help="private key (PEM) of --tls-cert")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
