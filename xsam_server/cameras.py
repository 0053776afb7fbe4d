"""Cameras that the server can see: their newest pictures, and questions about exactly these."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import cv2
from fastapi import FastAPI, Request, Response

from xsam.errors import XSamError
from xsam.types.requests import Frame
from xsam.web.gate import CLIENT_KEY, NO_TOKEN_CLIENT
from xsam_server.answers import error_response
from xsam_server.frames import KeptFrame

_JPEG_QUALITY = 90


class CameraSource(Protocol):
    """Whoever has cameras, such as a ROS node."""

    @property
    def node(self) -> str:
        """Full name of the ROS node that answers, for commands that name it."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the cameras, as far as they are known; does not wait."""
        ...

    def newest_frame(self, camera: str) -> Frame:
        """Return the newest frame of a camera; may wait, within a deadline of its own.

        Raises:
            XSamError: unknown camera, or no frame in time.
        """
        ...


@dataclass(slots=True, kw_only=True)
class LiveCameras:
    """Pictures of cameras for clients.

    A picture is JPEG; the frame itself, with its depth, is kept under the id of the picture, so that a
    question about the picture is one about the frame.
    """

    source: CameraSource
    keep: Callable[[str, KeptFrame], None]  # gets the client's name
    _threads: ThreadPoolExecutor = field(
        init=False, default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="xsam_cameras")
    )

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def add_to(self, app: FastAPI) -> None:
        """Add the path of the pictures."""

        @app.get("/v1/cameras/{name}", summary="Newest picture of a camera, as JPEG")
        async def newest(name: str, request: Request) -> Response:
            client = str(request.scope.get(CLIENT_KEY, NO_TOKEN_CLIENT))
            loop = asyncio.get_running_loop()
            try:
                identifier, jpeg = await loop.run_in_executor(self._threads, self._picture, client, name)
            except XSamError as error:
                return error_response(error)
            headers = {"x-xsam-frame": identifier, "cache-control": "no-store"}
            return Response(jpeg, media_type="image/jpeg", headers=headers)

    def _picture(self, client: str, name: str) -> tuple[str, bytes]:
        """Return the id and the file of the newest picture of a camera."""
        frame = self.source.newest_frame(name)
        bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        jpeg = encoded.tobytes()
        identifier = hashlib.sha256(jpeg).hexdigest()
        self.keep(client, KeptFrame(id=identifier, frame=frame))
        return identifier, jpeg
