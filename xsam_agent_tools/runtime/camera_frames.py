"""The newest frames of a frame source; every camera waits for itself only."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from xsam.errors import DeadlineExceededError, NoFrameError, XSamError
from xsam.types.deadline import Deadline
from xsam.types.requests import Frame
from xsam_agent_tools.planner_hints import for_planner

FrameSource = Callable[[str], Frame]
"""Camera name → its newest frame."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameRequest:
    """One call of the frame source, on a thread of its own; several callers may wait for it."""

    camera: str
    started_s: float  # monotonic
    frame: Future[Frame]


class CameraFrames:
    """Calls a frame source, at most once at a time per camera. Thread-safe.

    A camera that hangs keeps its (daemon) thread. It holds up neither the model nor the other cameras, and
    callers that come later get an error at once instead of waiting, too.
    """

    def __init__(self, source: FrameSource, *, hangs_after_s: float) -> None:
        """Start without any call.

        Args:
            source: called with the name of a camera.
            hangs_after_s: a call that lasts longer is not waited for any more.
        """
        self._source = source
        self._hangs_after_s = hangs_after_s
        self._pending: dict[str, FrameRequest] = {}
        self._lock = threading.Lock()

    def newest(self, camera: str, deadline: Deadline) -> Frame:
        """Return a frame that the source was asked for now, not by an earlier caller.

        Raises:
            NoFrameError: the source has none yet, or has been hanging for some time.
            DeadlineExceededError: the source did not answer in time.
        """
        asked_s = time.monotonic()
        while True:
            request = self.request(camera)
            try:
                frame = self.wait(request, deadline)
            except Exception:
                if request.started_s >= asked_s or deadline.expired or not request.frame.done():
                    raise
            else:
                if request.started_s >= asked_s:
                    return frame

    def request(self, camera: str) -> FrameRequest:
        """Start to fetch a camera's frame, unless that is being done already; does not wait."""
        with self._lock:
            pending = self._pending.get(camera)
            if pending is not None:
                return pending
            request = FrameRequest(camera=camera, started_s=time.monotonic(), frame=Future())
            thread = threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._fetch, request),
                name=f"xsam-camera-{camera}",
                daemon=True,
            )
            thread.start()
            self._pending[camera] = request
            return request

    def wait(self, request: FrameRequest, deadline: Deadline) -> Frame:
        """Return the frame of a request; raises as `newest`."""
        camera = request.camera
        hangs_in_s = request.started_s + self._hangs_after_s - time.monotonic()
        try:
            frame = request.frame.result(timeout=max(0.0, min(deadline.remaining_s, hangs_in_s)))
        except FutureTimeoutError:
            if not request.frame.done():  # else the source raised a TimeoutError of its own
                raise self._late_error(request, deadline) from None
            frame = request.frame.result()
        if frame is None:  # a source that has nothing yet
            raise NoFrameError(f"camera {camera!r} has not delivered a frame yet")
        return frame

    def _late_error(self, request: FrameRequest, deadline: Deadline) -> XSamError:
        hint = "other cameras are not affected: use one of them, or tell the user"
        if deadline.expired:
            allowed_s = deadline.allowed_s or 0.0
            message = f"camera {request.camera!r} delivered no frame within {allowed_s:.3g} s"
            return DeadlineExceededError(message, hint=hint)
        since_s = time.monotonic() - request.started_s
        return NoFrameError(f"camera {request.camera!r} hangs: no frame for {since_s:.1f} s", hint=hint)

    def _fetch(self, request: FrameRequest) -> None:
        try:
            frame = self._source(request.camera)
        except BaseException as error:
            self._forget(request)
            request.frame.set_exception(for_planner(error) if isinstance(error, XSamError) else error)
        else:
            self._forget(request)
            request.frame.set_result(frame)

    def _forget(self, request: FrameRequest) -> None:
        with self._lock:
            self._pending.pop(request.camera, None)
