"""The core shared by all tools: segmenter, camera frames, scene store, search history and time limits."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xsam.errors import ModelError, NoFrameError, StaleFrameError, UnknownCameraError, XSamError
from xsam.segmenter import FrameSegmenter, Segmenter, Session
from xsam.types.deadline import Deadline, StageHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam_agent_tools.errors import ArgumentsError, ImageNotKeptError, NoTransformError
from xsam_agent_tools.memory.history import History
from xsam_agent_tools.memory.scene_store import Scene, SceneStore
from xsam_agent_tools.result_checks import ask_for_frame, ask_segmenter
from xsam_agent_tools.runtime.camera_frames import CameraFrames, FrameSource
from xsam_agent_tools.runtime.health import Latencies
from xsam_agent_tools.runtime.serial_runner import SerialRunner
from xsam_agent_tools.runtime.time_limits import ImageAge, TimeLimits, check_age, seconds_since

TransformSource = Callable[[str, str, int], "NDArray[np.float64] | None"]
"""(target frame, source frame, stamp in ns) → (4, 4) that takes points from source to target, or None."""

QueryBuilder = Callable[[tuple[int, int]], "Sequence[Query | Session]"]
"""(H, W) of the frame → the queries to send with it."""

_WAITING_STAGES = frozenset({"request", "waiting"})  # of a segmenter that has not begun
_PREVIEW_S = 2.0  # for the view of a camera before the segmenter takes its frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """One frame with the segmenter's results on it, before objects have ids."""

    camera: str
    scene: Scene | None  # the earlier image that was queried; None = a fresh frame
    frame: Frame | None  # None = the segmenter took it from its own camera
    arrived_ns: int
    results: list[SegmentationResult]


class _AgedFrameError(StaleFrameError):
    """A frame that was new enough when it arrived, but not when the model got it."""


class Perception:
    """Access to the segmenter for a camera or an earlier image; refuses whatever is too old."""

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Sequence[str],
        *,
        store: SceneStore,
        limits: TimeLimits,
        history: History | None = None,
        frame_source: FrameSource | None = None,
        transforms: TransformSource | None = None,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        """Take what is not given from the segmenter, if it has cameras of its own and gives their frames."""
        self.segmenter = segmenter
        self._frames_of: FrameSegmenter | None = None  # the segmenter, if it takes the frames itself
        if isinstance(segmenter, FrameSegmenter) and segmenter.gives_frames:
            if frame_source is None:
                self._frames_of, frame_source = segmenter, segmenter.newest_frame
            transforms = segmenter.look_up_transform if transforms is None else transforms
            clock_ns = segmenter.clock_ns if clock_ns is None else clock_ns
        self.cameras = tuple(cameras)
        self.store = store
        self.limits = limits
        self.history = history if history is not None else History()
        self.latencies = Latencies()
        hangs_after_s = limits.deadline_s
        self._frames = CameraFrames(frame_source, hangs_after_s=hangs_after_s) if frame_source else None
        self._transforms = transforms
        self._clock_ns = clock_ns if clock_ns is not None else time.time_ns
        self._captures = SerialRunner()
        self._has_stages = "on_stage" in inspect.signature(segmenter.segment).parameters

    @property
    def keeps_frames(self) -> bool:
        """Whether earlier images can be queried again."""
        return self._frames is not None

    @property
    def has_transforms(self) -> bool:
        """Whether positions are available in other frames."""
        return self._transforms is not None

    def capture(
        self,
        queries: Sequence[Query | Session] | QueryBuilder,
        *,
        camera: str,
        image_id: str = "",
        check_frame: Callable[[Frame | None], None] | None = None,
        one_of_all: bool = False,
        deadline: Deadline | None = None,
    ) -> Capture:
        """Send all queries about one frame: the newest of `camera`, or that of `image_id`.

        Args:
            queries: at least one, or a function that builds them once (H, W) of the frame is known.
            camera: name; ignored when there is an `image_id`.
            image_id: id of an earlier image.
            check_frame: called with a fresh frame (None = unknown) before it is segmented; may raise.
            one_of_all: all cameras are asked at once, so none may take longer than `frame_wait_s`.
            deadline: of the call, which has begun already; None = it begins now.

        Raises:
            XSamError: unknown camera or id, missing or stale frame, deadline, or the request as a whole
                was refused or failed.
        """
        scene = self.kept_scene(image_id) if image_id else None
        if scene is None:
            self.check_camera(camera)
        deadline, started_s = deadline or Deadline(self.limits.deadline_s), time.monotonic()
        frame, arrived_ns, results = self._capture(
            scene.frame if scene is not None else None, camera, queries, deadline, check_frame, one_of_all
        )
        self.latencies.add(time.monotonic() - started_s, results)
        return Capture(
            camera=scene.camera if scene is not None else camera,
            scene=scene,
            frame=frame,
            arrived_ns=arrived_ns,
            results=results,
        )

    def look(self, *, camera: str, image_id: str = "", one_of_all: bool = False) -> Scene:
        """Return an earlier image, or keep the newest one of a camera without segmenting it.

        Args:
            camera, image_id, one_of_all: see `capture`.

        Raises:
            XSamError: unknown camera or id, missing or stale frame, or it did not arrive in time.
        """
        if image_id:
            return self.kept_scene(image_id)
        self.check_camera(camera)
        frame, arrived_ns = self._newest_frame(
            camera, self._frame_deadline(Deadline(self.limits.deadline_s), one_of_all)
        )
        scene = self.store.add_scene(
            camera=camera,
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            image_hw=frame.image_hw,
            arrived_ns=arrived_ns,
            frame=frame,
        )
        if scene.frame is None:
            raise ImageNotKeptError(f"the image of camera {camera!r} is too large to be kept")
        return scene

    def check_camera(self, camera: str) -> None:
        """Raise `UnknownCameraError` unless the camera is one of the toolkit's."""
        if camera not in self.cameras:
            names = ", ".join(self.cameras)
            raise UnknownCameraError(f"unknown camera {camera[:40]!r}", hint=f"use one of: {names}")

    def kept_scene(self, image_id: str) -> Scene:
        """Return an earlier image whose pixels are still available and which is not too old.

        Raises:
            XSamError: the id is unknown or was dropped, the pixels were not kept, or the image is too old.
        """
        scene = self.store.scene(image_id)
        if scene.frame is None:
            raise ImageNotKeptError(f"the pixels of image {image_id} were not kept")
        self.check_scene_age(scene)
        return scene

    def check_scene_age(self, scene: Scene, *, position: bool = False) -> None:
        """Raise `StaleFrameError` when an earlier image is older than allowed.

        Args:
            scene: the image.
            position: apply the stricter limit for positions in space, too.
        """
        age = self.age(scene)
        limits = [self.limits.max_image_age_s, self.limits.max_position_age_s if position else None]
        limit_s = min((limit for limit in limits if limit is not None), default=None)
        if age is not None and limit_s is not None and age.seconds > limit_s:
            subject = "positions from image" if position else "image"
            raise StaleFrameError(
                f"{subject} {scene.image_id} would be {age.seconds:.1f} s old,"
                f" at most {limit_s:g} s is allowed",
                hint="things may have moved: look again and use the new ids",
            )

    def age(self, scene: Scene) -> ImageAge | None:
        """Return the age of an image by its stamp, else since arrival; None when neither is known."""
        now_ns = self._clock_ns()
        since_stamp_s = seconds_since(scene.stamp_ns, now_ns)
        if since_stamp_s is not None:
            return ImageAge(seconds=since_stamp_s)
        since_arrival_s = seconds_since(scene.arrived_ns, now_ns)
        return None if since_arrival_s is None else ImageAge(seconds=since_arrival_s, from_arrival=True)

    def transform(self, target: str, source: str, scene: Scene) -> NDArray[np.float64]:
        """Look up the transform from the source to the target frame at the image's stamp.

        Returns:
            (4, 4), takes points of the source frame to the target frame.

        Raises:
            NoTransformError: no such transform is available. It is never guessed.
        """
        if self._transforms is None:
            raise NoTransformError(
                f"no transforms are available here, so nothing is known in frame {target[:40]!r}"
            )
        if not source:
            raise NoTransformError(f"image {scene.image_id} does not name its camera's frame")
        matrix = self._transforms(target, source, scene.stamp_ns)
        if matrix is None:
            raise NoTransformError(f"no transform from {source!r} to {target[:40]!r} at that time")
        return matrix

    def newest_frame_ages(
        self, cameras: Sequence[str], *, deadline_s: float
    ) -> dict[str, float | XSamError | None]:
        """Return the age in seconds of the frame source's newest frame of each camera; None = unknown.

        The value of a camera that delivered nothing in time is the error. All are asked at the same time, so
        none is blamed for another one.
        """
        frames, deadline = self._frames, Deadline(deadline_s)
        if frames is None:
            return dict.fromkeys(cameras)
        requests = {camera: frames.request(camera) for camera in cameras}
        ages: dict[str, float | XSamError | None] = {}
        for camera, request in requests.items():
            try:
                ages[camera] = seconds_since(frames.wait(request, deadline).stamp_ns, self._clock_ns())
            except XSamError as error:
                ages[camera] = error
        return ages

    def _capture(
        self,
        frame: Frame | None,
        camera: str,
        queries: Sequence[Query | Session] | QueryBuilder,
        deadline: Deadline,
        check_frame: Callable[[Frame | None], None] | None,
        one_of_all: bool,
    ) -> tuple[Frame | None, int, list[SegmentationResult]]:
        """Fetch the frame unless it is given, wait for the model, and segment it.

        Cameras are waited for outside the model's queue. A frame that grew too old in the queue is replaced.
        """
        if frame is None and self._frames_of is not None:
            return self._capture_with_frame(self._frames_of, camera, queries, deadline, check_frame)
        if frame is not None or self._frames is None:
            if frame is None and check_frame is not None:
                check_frame(None)
            arrived_ns, segment = self._clock_ns(), partial(self._segment, frame, camera, queries)
            return frame, arrived_ns, self._captures.run(segment, deadline_s=deadline.remaining_s)
        self._wait_until_ready(deadline)
        while True:
            fresh, arrived_ns = self._newest_frame(camera, self._frame_deadline(deadline, one_of_all))
            if check_frame is not None:
                check_frame(fresh)
            deadline.check("frame")
            segment = partial(self._segment, fresh, camera, queries, is_newest=True)
            with suppress(_AgedFrameError):
                return fresh, arrived_ns, self._captures.run(segment, deadline_s=deadline.remaining_s)

    def _capture_with_frame(
        self,
        segmenter: FrameSegmenter,
        camera: str,
        queries: Sequence[Query | Session] | QueryBuilder,
        deadline: Deadline,
        check_frame: Callable[[Frame | None], None] | None,
    ) -> tuple[Frame | None, int, list[SegmentationResult]]:
        """Let the segmenter take the newest frame itself, wait for the model, and return that frame, too."""
        newest: Frame | None = None
        if check_frame is not None or callable(queries):
            with suppress(XSamError):  # then the segmenter says what is wrong with the camera
                newest = self._newest_frame(camera, Deadline(min(deadline.remaining_s, _PREVIEW_S)))[0]
        if check_frame is not None:
            check_frame(newest)
        image_hw = newest.image_hw if newest is not None else None
        if callable(queries):
            queries = queries(image_hw or self._last_image_hw(camera))
        source = CameraRef(name=camera, max_age_s=self.limits.max_age_s)
        arrived_ns = self._clock_ns()

        def segment(left: Deadline) -> tuple[list[SegmentationResult], Frame | None]:
            return ask_for_frame(segmenter, source, queries, deadline_s=left.remaining_s)

        results, frame = self._captures.run(segment, deadline_s=deadline.remaining_s)
        if image_hw is not None and any(result.segments.image_hw != image_hw for result in results):
            raise ModelError(f"the result is for an image of another size than {image_hw[::-1]}")
        return frame, arrived_ns, results

    def _wait_until_ready(self, deadline: Deadline) -> None:
        """Wait for a model that is still being loaded, before its first frame is fetched."""
        wait = getattr(self.segmenter, "wait_until_ready", None)
        if callable(wait):
            wait(deadline)

    def _frame_deadline(self, deadline: Deadline, one_of_all: bool) -> Deadline:
        """Return until when a frame is waited for: one dead camera must not cost all the whole deadline."""
        wait_s = min(deadline.remaining_s, self.limits.frame_wait_s)
        return Deadline(wait_s) if one_of_all else deadline

    def _newest_frame(self, camera: str, deadline: Deadline) -> tuple[Frame, int]:
        """Return the frame source's newest frame of a camera, and when it arrived.

        Raises:
            XSamError: there is none, it is too old, or it did not arrive in time.
        """
        if self._frames is None:
            raise NoFrameError(f"the frames of camera {camera!r} are not available here")
        started_s = time.monotonic()
        frame = self._frames.newest(camera, deadline)
        # Only now: the clock of a ROS client may have become simulated time by this call.
        requested_ns = self._clock_ns() - round((time.monotonic() - started_s) * 1e9)
        check_age(frame.stamp_ns, requested_ns, self.limits.max_age_s, f"the newest frame of {camera!r}")
        return frame, self._clock_ns()

    def _refuse_aged(self, frame: Frame) -> None:
        age_s, limit_s = seconds_since(frame.stamp_ns, self._clock_ns()), self.limits.max_age_s
        if age_s is not None and limit_s is not None and age_s > limit_s:
            raise _AgedFrameError(f"the frame was {age_s:.1f} s old when the model got it")

    def _age_hook(self, frame: Frame) -> StageHook:
        """Return a hook that checks the age until the model has begun: a segmenter may have a queue."""
        has_begun = False

        def on_stage(stage: str) -> None:
            nonlocal has_begun
            if not has_begun:
                self._refuse_aged(frame)
                has_begun = stage not in _WAITING_STAGES

        return on_stage

    def _segment(
        self,
        frame: Frame | None,
        camera: str,
        queries: Sequence[Query | Session] | QueryBuilder,
        deadline: Deadline,
        *,
        is_newest: bool = False,
    ) -> list[SegmentationResult]:
        """Segment the frame, or the newest one of a camera that the segmenter knows; on the model's thread.

        Args:
            frame: None = the segmenter takes it from its own camera.
            camera: name.
            queries: as for `capture`.
            deadline: of the call.
            is_newest: refuse the frame if it is too old by the time the model gets it.

        Raises:
            _AgedFrameError: the newest frame grew too old while it waited for the model.
            XSamError: see `capture`.
        """
        requested_ns, limit_s = self._clock_ns(), self.limits.max_age_s
        expected_hw = frame.image_hw if frame is not None else None
        if callable(queries):
            expected_hw = expected_hw or self._last_image_hw(camera)
            queries = queries(expected_hw)
        source = frame if frame is not None else CameraRef(name=camera, max_age_s=limit_s)
        deadline_s = deadline.remaining_s
        if frame is not None and is_newest:
            self._refuse_aged(frame)
        hook = self._age_hook(frame) if frame is not None and is_newest and self._has_stages else None
        results = ask_segmenter(self.segmenter, source, queries, deadline_s=deadline_s, on_stage=hook)
        if expected_hw is not None and any(r.segments.image_hw != expected_hw for r in results):
            raise ModelError(f"the result is for an image of another size than {expected_hw[::-1]}")
        if frame is None:
            check_age(results[0].stamp_ns, requested_ns, limit_s, f"the newest frame of {camera!r}")
        return results

    def _last_image_hw(self, camera: str) -> tuple[int, int]:
        """Return (H, W) of the last image of a camera whose frames are not available here."""
        newest = self.store.newest(camera)
        if newest is None:
            raise ArgumentsError(
                f"no image of camera {camera!r} was looked at yet, so positions on it mean nothing",
                hint="look with segment_objects first",
            )
        return newest.image_hw
