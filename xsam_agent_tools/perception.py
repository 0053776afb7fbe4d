"""What the tools share: the segmenter, the cameras' frames, the scene store and the limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xsam.errors import (
    DeadlineExceededError,
    ModelError,
    NoFrameError,
    StaleFrameError,
    UnknownCameraError,
)
from xsam.segmenter import Segmenter
from xsam.structures import CameraRef, Frame, Query, SegmentationResult
from xsam_agent_tools.deadline import OneAtATime
from xsam_agent_tools.errors import ImageNotKeptError
from xsam_agent_tools.scene_store import Scene, SceneStore

FrameSource = Callable[[str], Frame]

_CLOCK_SLACK_S = 0.5  # a stamp further in the future comes from another clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on time and age, in seconds; None = no bound."""

    deadline_s: float = 30.0  # of one tool call: frame, waiting for the model, inference
    max_age_s: float | None = 5.0  # of a camera's newest frame when it is asked for
    max_image_age_s: float | None = 120.0  # of an earlier image that is asked about again

    def __post_init__(self) -> None:
        for name in ("deadline_s", "max_age_s", "max_image_age_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What the segmenter said about one frame, before the objects have ids."""

    scene: Scene | None  # the earlier image that was asked about
    frame: Frame | None  # None = the segmenter took it from its camera
    results: list[SegmentationResult]


class Perception:
    """Asks the segmenter about a camera or an earlier image, and refuses what is too old."""

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Sequence[str],
        *,
        store: SceneStore,
        limits: Limits,
        frame_source: FrameSource | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.cameras = tuple(cameras)
        self.store = store
        self.limits = limits
        self._segmenter = segmenter
        self._frame_source = frame_source
        self._clock_ns = clock_ns
        self._queue = OneAtATime()

    @property
    def keeps_frames(self) -> bool:
        """Whether earlier images can be asked about again."""
        return self._frame_source is not None

    def look(self, queries: Sequence[Query], *, camera: str, image_id: str = "") -> Look:
        """Ask all queries about one frame: the newest of `camera`, or that of `image_id`.

        Raises:
            XSamError: unknown camera or id, no or too old a frame, deadline, refused or failed as a whole.
        """
        scene = self.store.scene(image_id) if image_id else None
        frame: Frame | None = None
        if scene is not None:
            frame = scene.frame
            if frame is None:
                raise ImageNotKeptError(f"the pixels of image {image_id} were not kept")
            limit_s = self.limits.max_image_age_s
            self._refuse_old(scene.stamp_ns, self._clock_ns(), limit_s, f"image {image_id}")
        elif camera not in self.cameras:
            names = ", ".join(self.cameras)
            raise UnknownCameraError(f"unknown camera {camera[:40]!r}", hint=f"use one of: {names}")
        frame, results = self._queue.run(
            lambda left_s: self._ask(frame, camera, queries, left_s), deadline_s=self.limits.deadline_s
        )
        if len(results) != len(queries):
            raise ModelError(f"the segmenter gave {len(results)} answers to {len(queries)} queries")
        return Look(scene=scene, frame=frame, results=results)

    def age_s(self, stamp_ns: int) -> float | None:
        """Seconds since the stamp; None when there is no stamp or it is of another clock."""
        return _age_s(stamp_ns, self._clock_ns())

    def _ask(
        self, frame: Frame | None, camera: str, queries: Sequence[Query], left_s: float
    ) -> tuple[Frame | None, list[SegmentationResult]]:
        """On the worker thread: fetch the frame unless given, and segment it, in `left_s` together."""
        ends_s = time.monotonic() + left_s
        asked_ns = self._clock_ns()
        limit_s, subject = self.limits.max_age_s, f"the newest frame of {camera!r}"
        if frame is None and self._frame_source is not None:
            frame = self._frame_source(camera)
            if frame is None:  # a source that has nothing yet
                raise NoFrameError(f"camera {camera!r} has not delivered a frame yet")
            self._refuse_old(frame.stamp_ns, asked_ns, limit_s, subject)
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceededError(f"camera {camera!r} took all of the time to deliver a frame")
        if frame is not None:
            return frame, self._segmenter.segment(frame, queries, deadline_s=left_s)
        results = self._segmenter.segment(
            CameraRef(name=camera, max_age_s=limit_s), queries, deadline_s=left_s
        )
        for result in results[:1]:
            self._refuse_old(result.stamp_ns, asked_ns, limit_s, subject)
        return None, results

    def _refuse_old(self, stamp_ns: int, now_ns: int, limit_s: float | None, subject: str) -> None:
        age_s = _age_s(stamp_ns, now_ns)
        if age_s is not None and limit_s is not None and age_s > limit_s:
            raise StaleFrameError(
                f"{subject} is {age_s:.1f} s old, at most {limit_s:g} s is allowed",
                hint="the camera may have stopped; do not act on what it showed before",
            )


def _age_s(stamp_ns: int, now_ns: int) -> float | None:
    age_s = (now_ns - stamp_ns) / 1e9
    return None if stamp_ns <= 0 or age_s < -_CLOCK_SLACK_S else max(0.0, age_s)
