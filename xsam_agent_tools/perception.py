"""What the tools share: the segmenter, the cameras' frames, the scene store, the history and the limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.errors import DeadlineExceededError, ModelError, NoFrameError, StaleFrameError, UnknownCameraError
from xsam.segmenter import Segmenter
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam_agent_tools.errors import ArgumentsError, ImageNotKeptError, NoTransformError
from xsam_agent_tools.memory.history import History
from xsam_agent_tools.memory.scene_store import Scene, SceneStore
from xsam_agent_tools.runtime.deadline import OneAtATime
from xsam_agent_tools.runtime.health import Latencies

FrameSource = Callable[[str], Frame]
"""Camera name → its newest frame."""

TransformSource = Callable[[str, str, int], "NDArray[np.float64] | None"]
"""(target frame, source frame, stamp in ns) → (4, 4) that takes points from source to target, or None."""

QueriesFor = Callable[[tuple[int, int]], Sequence[Query]]
"""(H, W) of the frame → what to ask about it."""

_CLOCK_SLACK_S = 0.5  # a stamp further in the future comes from another clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on time and age, in seconds; None = no bound."""

    deadline_s: float = 30.0  # of one tool call: frame, waiting for the model, inference
    max_age_s: float | None = 5.0  # of a camera's newest frame when it is asked for
    max_image_age_s: float | None = 120.0  # of an earlier image that is asked about again
    max_position_age_s: float | None = 30.0  # of an image whose positions may drive an arm

    def __post_init__(self) -> None:
        for name in ("deadline_s", "max_age_s", "max_image_age_s", "max_position_age_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not math.isfinite(self.deadline_s):
            raise ValueError("deadline_s must be finite: an agent must not wait for ever")


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """How old an image is.

    `from_arrival`: it has no stamp of a clock known here, so `seconds` counts from when it came.
    """

    seconds: float
    from_arrival: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What the segmenter said about one frame, before the objects have ids."""

    camera: str
    scene: Scene | None  # the earlier image that was asked about
    frame: Frame | None  # None = the segmenter took it from its camera
    arrived_ns: int
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
        history: History | None = None,
        frame_source: FrameSource | None = None,
        transforms: TransformSource | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.segmenter = segmenter
        self.cameras = tuple(cameras)
        self.store = store
        self.limits = limits
        self.history = history if history is not None else History()
        self.latencies = Latencies()
        self._frame_source = frame_source
        self._transforms = transforms
        self._clock_ns = clock_ns
        self._queue = OneAtATime()
        self._grabs = OneAtATime()  # frames for the status, which must answer while the model runs

    @property
    def keeps_frames(self) -> bool:
        """Whether earlier images can be asked about again."""
        return self._frame_source is not None

    def look(
        self,
        queries: Sequence[Query] | QueriesFor,
        *,
        camera: str,
        image_id: str = "",
        refuse: Callable[[Frame | None], None] | None = None,
    ) -> Look:
        """Ask all queries about one frame: the newest of `camera`, or that of `image_id`.

        Args:
            queries: at least one, or a function that makes them once (H, W) of the frame is known.
            camera: name; not used when there is an `image_id`.
            image_id: of an earlier image.
            refuse: called with a fresh frame (None = unknown) before it is segmented; may raise.

        Raises:
            XSamError: unknown camera or id, no or too old a frame, deadline, refused or failed as a whole.
        """
        scene = self.kept_scene(image_id) if image_id else None
        if scene is None:
            self.check_camera(camera)
        given = scene.frame if scene is not None else None
        started_s = time.monotonic()
        frame, arrived_ns, results = self._queue.run(
            lambda left_s: self._ask(given, camera, queries, left_s, refuse),
            deadline_s=self.limits.deadline_s,
        )
        self.latencies.add(time.monotonic() - started_s, results)
        return Look(
            camera=scene.camera if scene is not None else camera,
            scene=scene,
            frame=frame,
            arrived_ns=arrived_ns,
            results=results,
        )

    def check_camera(self, camera: str) -> None:
        """Raise `UnknownCameraError` unless the camera is one of the toolkit's."""
        if camera not in self.cameras:
            names = ", ".join(self.cameras)
            raise UnknownCameraError(f"unknown camera {camera[:40]!r}", hint=f"use one of: {names}")

    def kept_scene(self, image_id: str) -> Scene:
        """An earlier image whose pixels are still here and which is not too old.

        Raises:
            XSamError: the id is unknown or was dropped, the pixels were not kept, or the image is too old.
        """
        scene = self.store.scene(image_id)
        if scene.frame is None:
            raise ImageNotKeptError(f"the pixels of image {image_id} were not kept")
        self.refuse_old_scene(scene)
        return scene

    def refuse_old_scene(self, scene: Scene, *, position: bool = False) -> None:
        """Raise `StaleFrameError` when an earlier image is older than allowed.

        `position`: the stricter limit for positions in space applies, too.
        """
        age = self.age(scene)
        limits = [self.limits.max_image_age_s, self.limits.max_position_age_s if position else None]
        limit_s = min((limit for limit in limits if limit is not None), default=None)
        if age is not None and limit_s is not None and age.seconds > limit_s:
            what = "positions from image" if position else "image"
            raise StaleFrameError(
                f"{what} {scene.image_id} would be {age.seconds:.1f} s old, at most {limit_s:g} s is allowed",
                hint="things may have moved: look again and use the new ids",
            )

    def age(self, scene: Scene) -> Age | None:
        """Age of an image by its stamp, else since it came; None when neither is known."""
        now_ns = self._clock_ns()
        by_stamp = _age_s(scene.stamp_ns, now_ns)
        if by_stamp is not None:
            return Age(seconds=by_stamp)
        since = _age_s(scene.arrived_ns, now_ns)
        return None if since is None else Age(seconds=since, from_arrival=True)

    def transform(self, target: str, source: str, scene: Scene) -> NDArray[np.float64]:
        """(4, 4) that takes points of the source frame to the target frame, at the image's stamp.

        Raises:
            NoTransformError: nothing provides it. It is never guessed.
        """
        if self._transforms is None:
            raise NoTransformError(
                f"no transforms are available here, so nothing is known in frame {target[:40]!r}"
            )
        if not source:
            raise NoTransformError(f"image {scene.image_id} does not say in which frame its camera is")
        matrix = self._transforms(target, source, scene.stamp_ns)
        if matrix is None:
            raise NoTransformError(f"no transform from {source!r} to {target[:40]!r} at that time")
        return matrix

    def newest_frame_age(self, camera: str, *, within_s: float) -> float | None:
        """Age in seconds of the newest frame that the frame source has; None = unknown.

        Raises:
            XSamError: the source gave nothing in time.
        """
        source = self._frame_source
        if source is None:
            return None
        frame = self._grabs.run(lambda _: source(camera), deadline_s=within_s)
        if frame is None:
            raise NoFrameError(f"camera {camera!r} has not delivered a frame yet")
        return _age_s(frame.stamp_ns, self._clock_ns())

    def _ask(
        self,
        frame: Frame | None,
        camera: str,
        queries: Sequence[Query] | QueriesFor,
        left_s: float,
        refuse: Callable[[Frame | None], None] | None,
    ) -> tuple[Frame | None, int, list[SegmentationResult]]:
        """On the worker thread: fetch the frame unless given, and segment it, in `left_s` together."""
        ends_s = time.monotonic() + left_s
        asked_ns = arrived_ns = self._clock_ns()
        limit_s, subject = self.limits.max_age_s, f"the newest frame of {camera!r}"
        if frame is None:
            if self._frame_source is not None:
                frame = self._frame_source(camera)
                if frame is None:  # a source that has nothing yet
                    raise NoFrameError(f"camera {camera!r} has not delivered a frame yet")
                arrived_ns = self._clock_ns()
                _refuse_old(frame.stamp_ns, asked_ns, limit_s, subject)
            if refuse is not None:
                refuse(frame)
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceededError(f"camera {camera!r} took all of the time to deliver a frame")
        expected_hw = frame.image_hw if frame is not None else None
        if callable(queries):
            expected_hw = expected_hw or self._known_size(camera)
            queries = queries(expected_hw)
        source = frame if frame is not None else CameraRef(name=camera, max_age_s=limit_s)
        results = self.segmenter.segment(source, queries, deadline_s=left_s)
        if len(results) != len(queries):
            raise ModelError(f"the segmenter gave {len(results)} answers to {len(queries)} queries")
        if expected_hw is not None and any(r.segments.image_hw != expected_hw for r in results):
            raise ModelError(f"the answer is for an image of another size than {expected_hw[::-1]}")
        if frame is None:
            _refuse_old(results[0].stamp_ns, asked_ns, limit_s, subject)
        return frame, arrived_ns, results

    def _known_size(self, camera: str) -> tuple[int, int]:
        """(H, W) of the last image of a camera whose frames are not seen here."""
        seen = self.store.newest(camera)
        if seen is None:
            raise ArgumentsError(
                f"no image of camera {camera!r} was looked at yet, so places on it mean nothing",
                hint="look with segment_objects first",
            )
        return seen.image_hw


def _refuse_old(stamp_ns: int, now_ns: int, limit_s: float | None, subject: str) -> None:
    age_s = _age_s(stamp_ns, now_ns)
    if age_s is not None and limit_s is not None and age_s > limit_s:
        raise StaleFrameError(
            f"{subject} is {age_s:.1f} s old, at most {limit_s:g} s is allowed",
            hint="the camera may have stopped; do not act on what it showed before",
        )


def _age_s(stamp_ns: int, now_ns: int) -> float | None:
    age_s = (now_ns - stamp_ns) / 1e9
    return None if stamp_ns <= 0 or age_s < -_CLOCK_SLACK_S else max(0.0, age_s)
