"""A camera's buffered messages: pairs the newest image with its depth and camera info, and decodes them."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xsam.errors import InvalidImageError, NoFrameError, StaleFrameError
from xsam_ros.cameras.buffer import BufferedMessage, Instant, TopicBuffer, TopicStatistics
from xsam_ros.cameras.decode import CameraFrame, FrameDecoder
from xsam_ros.cameras.parameters import CameraParameters
from xsam_ros.cameras.registration import TransformLookup, no_transforms

__all__ = ["CameraBuffer", "CameraFrame", "CameraMessages", "CameraStatistics", "CameraTopics"]

_MAX_ARRIVAL_GAP_S = 1.0
"""Color and depth that arrived further apart are never paired, whatever their stamps say: a bag played in a
loop repeats its stamps."""

_MAX_AHEAD_S = 1.0
"""Clocks of machines in one network differ by less; a stamp further in the future is by another clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraTopics:
    """Topic names of one camera; "" = not subscribed."""

    image: str
    depth: str = ""
    info: str = ""
    depth_info: str = ""

    @classmethod
    def from_parameters(cls, name: str, parameters: CameraParameters) -> CameraTopics:
        """Return the topics of camera `name`, defaults filled in, before remapping."""
        image = parameters.image_topic
        if not image:
            image = f"/{name}/image_raw" + ("/compressed" if parameters.compressed else "")
        info = parameters.info_topic
        if not info and parameters.depth_topic:
            base = image.removesuffix("/compressed") if parameters.compressed else image
            folder, slash, _ = base.rpartition("/")
            info = f"{folder}{slash}camera_info"
        depth_info = parameters.depth_info_topic if parameters.depth_topic else ""
        return cls(image=image, depth=parameters.depth_topic, info=info, depth_info=depth_info)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraMessages:
    """Color and depth messages that are held, whatever arrives later; newest first."""

    images: tuple[BufferedMessage, ...] = ()
    depths: tuple[BufferedMessage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStatistics:
    """Statistics of one camera, for status and diagnostics."""

    name: str
    image: TopicStatistics
    depth: TopicStatistics | None  # None = not subscribed
    info: TopicStatistics | None
    depth_info: TopicStatistics | None = None
    used: int  # color images used for a request or stream
    overwritten: int  # color images replaced by a newer one before they were used
    with_depth: int  # used images that had a depth image
    decode_errors: int  # color, depth and camera info messages that could not be decoded
    last_error: str  # why the last of them could not; "" = none
    no_depth_reason: str  # of the last used frame; "" = it had depth, or none was used
    no_intrinsics_reason: str
    notes: tuple[str, ...]


class CameraBuffer:
    """The buffered topics of one camera. Subscriptions fill them; any thread may ask for frames."""

    def __init__(
        self,
        name: str,
        topics: CameraTopics,
        *,
        settings: Callable[[], CameraParameters],
        clock_ns: Callable[[], int],
        is_simulated: Callable[[], bool] = lambda: False,
        look_up: TransformLookup = no_transforms,
        keep_s: float = 0.0,
    ) -> None:
        """Create empty buffers.

        Args:
            name: configured name of the camera.
            topics: fully qualified.
            settings: returns the current parameters; read for each frame, because some may change.
            clock_ns: returns the time of the node clock.
            is_simulated: returns whether the node clock is simulated time.
            look_up: transforms between the frames of depth and color.
            keep_s: how long images are kept at least, within `buffer_mb`, for `frame_at`.
        """
        self.name = name
        self.topic_names = topics
        self._settings = settings
        initial = settings()
        self._max_lag_s = max_lag_s = initial.max_depth_lag_s if topics.depth else 0.0
        keep_s = max(keep_s, max_lag_s)
        max_bytes = initial.buffer_mb * 1_000_000
        image_bytes = max_bytes if keep_s > 0.0 else 0
        buffer = functools.partial(TopicBuffer, clock_ns=clock_ns, is_simulated=is_simulated)
        self.image: TopicBuffer = buffer(topics.image, keep_s=keep_s, max_bytes=image_bytes)
        self.depth: TopicBuffer | None = None
        self.info: TopicBuffer | None = None
        if topics.depth:
            self.depth = buffer(topics.depth, keep_s=keep_s + _MAX_ARRIVAL_GAP_S, max_bytes=max_bytes)
        if topics.info:
            self.info = buffer(topics.info)
        self.depth_info: TopicBuffer | None = buffer(topics.depth_info) if topics.depth_info else None
        self._lock = threading.Lock()
        self._decoding = threading.Lock()
        self._decoder = FrameDecoder(
            camera=name,
            image_topic=topics.image,
            parameters=initial,
            on_error=self._count_error,
            look_up=look_up,
        )
        self._reset()

    def _reset(self) -> None:
        self._last: CameraFrame | None = None
        self._last_key: tuple[object, ...] = ()
        self._used = 0
        self._last_used = 0  # sequence number
        self._with_depth = 0
        self._decode_errors = 0
        self._last_error = ""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that fill it, fully qualified."""
        return tuple(buffer.topic for buffer in self._buffers())

    def clear(self) -> None:
        """Drop everything that arrived."""
        for buffer in self._buffers():
            buffer.clear()
        with self._lock:
            self._reset()

    def _buffers(self) -> list[TopicBuffer]:
        all_buffers = (self.image, self.depth, self.info, self.depth_info)
        return [buffer for buffer in all_buffers if buffer is not None]

    def wait_newer(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait for an image newer than `CameraFrame.sequence`; return whether it came in time."""
        return self.image.wait_newer(sequence, timeout_s=timeout_s)

    def newest_frame(self, *, max_age_s: float, max_side_px: int) -> CameraFrame:
        """Decode the newest image, with depth and intrinsics if available.

        An image up to `max_depth_lag_s` older is preferred if only that one has depth. Missing or broken
        depth is not an error: `CameraFrame` says why it is missing. Asking again for the same image returns
        the same object.

        Args:
            max_age_s: older images are refused; the age is that of `BufferedMessage.age_s`.
            max_side_px: larger images are refused before they are decoded.

        Raises:
            NoFrameError: no image has arrived.
            StaleFrameError: the newest image is older than `max_age_s`.
            InvalidImageError: the image cannot be decoded.
        """
        fresh = self._fresh_images(max_age_s)
        newest = fresh[0].arrived
        recent = [image for image in fresh if newest.since(image.arrived) <= self._max_lag_s]
        image, depth, no_depth_reason = self._pair(recent or fresh[:1])
        return self._decoded(image, depth, no_depth_reason, max_side_px=max_side_px)

    def messages(self) -> CameraMessages:
        """Return the buffered color and depth messages, for `frame_at`."""
        depths = self.depth.recent() if self.depth is not None else ()
        return CameraMessages(images=self.image.recent(), depths=depths)

    def frame_at(
        self, stamp_ns: int, held: Sequence[CameraMessages] = (), *, max_side_px: int
    ) -> CameraFrame | None:
        """Decode the image with this very stamp, with depth and intrinsics if available.

        Args:
            stamp_ns: of the image.
            held: messages from before, which the buffer may have dropped since.
            max_side_px: a larger image is refused before it is decoded.

        Returns:
            None if no image has the stamp, or several have it.

        Raises:
            InvalidImageError: the image cannot be decoded.
        """
        everything = (*held, self.messages())
        images = {i.sequence: i for kept in everything for i in kept.images if i.stamp_ns == stamp_ns}
        if len(images) != 1:
            return None
        depths = {depth.sequence: depth for kept in everything for depth in kept.depths}
        image, depth, no_depth_reason = self._pair(list(images.values()), tuple(depths.values()))
        return self._decoded(image, depth, no_depth_reason, max_side_px=max_side_px)

    def _decoded(
        self,
        image: BufferedMessage,
        depth: BufferedMessage | None,
        no_depth_reason: str,
        *,
        max_side_px: int,
    ) -> CameraFrame:
        info = self.info.newest() if self.info is not None else None
        depth_info = self.depth_info.newest() if self.depth_info is not None else None
        # A camera info that differs in its stamp only does not make a new frame.
        infos = tuple(each and each.serialized[12:] for each in (info, depth_info))
        key = (image, depth, infos, max_side_px)
        with self._lock:
            if self._last is not None and self._last_key == key:
                return self._last
            if image.sequence != self._last_used:
                self._used += 1
                self._with_depth += depth is not None
                self._last_used = image.sequence
        try:
            with self._decoding:
                decoded = self._decoder.decode(
                    image,
                    depth,
                    info,
                    depth_info,
                    no_depth_reason=no_depth_reason,
                    no_info_reason="" if info is not None else self._no_info_reason(self.info, "camera info"),
                    no_depth_info_reason=self._no_info_reason(self.depth_info, "depth camera info"),
                    max_side_px=max_side_px,
                )
        except InvalidImageError as error:
            self._count_error(error.message)
            raise InvalidImageError(f"camera {self.name!r}: {error.message}", hint=error.hint) from error
        decoded = replace(decoded, notes=(*decoded.notes, *self._publisher_notes()))
        with self._lock:
            self._last, self._last_key = decoded, () if decoded.provisional else key
        return decoded

    def _publisher_notes(self) -> list[str]:
        """Return what is wrong with the publishers of topics that deliver, such as that there are two."""
        topics = [buffer.statistics() for buffer in self._buffers()]
        return [topic.problem for topic in topics if topic.received and topic.problem]

    def statistics(self) -> CameraStatistics:
        """Return the statistics since the last `clear`."""
        image = self.image.statistics()
        newest = self.image.newest()
        with self._lock:
            waiting = newest is not None and newest.sequence != self._last_used
            return CameraStatistics(
                name=self.name,
                image=image,
                depth=None if self.depth is None else self.depth.statistics(),
                info=None if self.info is None else self.info.statistics(),
                depth_info=None if self.depth_info is None else self.depth_info.statistics(),
                used=self._used,
                overwritten=max(0, image.received - self._used - waiting),
                with_depth=self._with_depth,
                decode_errors=self._decode_errors,
                last_error=self._last_error,
                no_depth_reason="" if self._last is None else self._last.no_depth_reason,
                no_intrinsics_reason="" if self._last is None else self._last.no_intrinsics_reason,
                notes=() if self._last is None else self._last.notes,
            )

    def _fresh_images(self, max_age_s: float) -> list[BufferedMessage]:
        """Return the images that are recent enough, newest first; raise if there are none."""
        images = self.image.recent()
        if not images:
            raise NoFrameError(
                f"camera {self.name!r} has not delivered a frame on {self.image.topic} yet"
                f"{_qos_hint(self.image, f'{self.name}.image_qos')}"
            )
        now, by_stamp = self.image.now(), self._settings().stamp_clock == "node"
        fresh = [
            image
            for image in images
            if image.age_s(now, by_stamp=by_stamp) <= max_age_s
            and (not by_stamp or image.delay_s >= -_MAX_AHEAD_S)
        ]
        if not fresh:
            raise self._stale(images[0], now, max_age_s, by_stamp=by_stamp)
        return fresh

    def _stale(
        self, image: BufferedMessage, now: Instant, max_age_s: float, *, by_stamp: bool
    ) -> StaleFrameError:
        """Return the error for an image that is too old, or whose age is unknown."""
        newest = f"the newest frame of camera {self.name!r}"
        clocks = (
            "if the images are from a bag or a simulation, set use_sim_time and publish /clock; else "
            "synchronize the clocks of camera and node; if the stamps say nothing about the age, set "
            f"{self.name}.stamp_clock: other"
        )
        if by_stamp and image.delay_s < -_MAX_AHEAD_S:
            return StaleFrameError(
                f"{newest} has a stamp {-image.delay_s:.2f} s in the future, so its age is unknown",
                hint=clocks,
            )
        age_s, arrived_s = image.age_s(now, by_stamp=by_stamp), now.since(image.arrived)
        late = f" (it arrived {arrived_s:.2f} s ago)" if age_s - arrived_s > 0.1 else ""
        hint = None
        if late and arrived_s <= max_age_s:
            hint = f"its stamp is old: check the latency; {clocks}"
        return StaleFrameError(
            f"{newest} is {age_s:.2f} s old{late}, at most {max_age_s:.2f} s is allowed", hint=hint
        )

    def _pair(
        self, images: Sequence[BufferedMessage], depths: tuple[BufferedMessage, ...] | None = None
    ) -> tuple[BufferedMessage, BufferedMessage | None, str]:
        """Return the image to use, its depth image (of `depths`, else of the buffer), and why it has none."""
        tolerance_s = self._settings().sync_tolerance_s
        newest = images[0]
        if self.depth is None:
            return newest, None, f"no depth topic is configured for camera {self.name!r}"
        depths = self.depth.recent() if depths is None else depths
        for image in images:
            depth = _nearest(image, depths)
            if depth is not None and _gap_s(image, depth) <= tolerance_s:
                return image, depth, ""
        return newest, None, self._no_depth_reason(newest, depths, tolerance_s)

    def _no_depth_reason(
        self, image: BufferedMessage, depths: Sequence[BufferedMessage], tolerance_s: float
    ) -> str:
        assert self.depth is not None
        topic = self.depth.topic
        if not depths:
            return f"no depth has arrived on {topic}{_qos_hint(self.depth, f'{self.name}.depth_qos')}"
        nearest = _nearest(image, depths)
        if nearest is None:
            since_s = time.monotonic() - depths[0].monotonic_s
            return f"no depth arrived on {topic} with the image; the newest arrived {since_s:.2f} s ago"
        return (
            f"no depth on {topic} belongs to the image: the nearest stamp is {_gap_s(image, nearest):.3f} s "
            f"away, {tolerance_s:.3f} s is allowed ({self.name}.sync_tolerance_s)"
        )

    def _no_info_reason(self, buffer: TopicBuffer | None, what: str) -> str:
        if buffer is None:
            return f"no {what} topic is configured for camera {self.name!r}"
        hint = _qos_hint(buffer, f"{self.name}.info_qos")
        return f"no {what} has arrived on {buffer.topic}{hint}"

    def _count_error(self, message: str) -> None:
        with self._lock:
            self._decode_errors += 1
            self._last_error = message


def _nearest(image: BufferedMessage, depths: Sequence[BufferedMessage]) -> BufferedMessage | None:
    """Return the depth image with the nearest stamp, of those that arrived at about the same time.

    Of several equally near ones the newest is returned.
    """
    if image.stamp_ns is None:
        return None
    candidates = [
        depth
        for depth in depths
        if depth.stamp_ns is not None and abs(depth.monotonic_s - image.monotonic_s) <= _MAX_ARRIVAL_GAP_S
    ]
    return min(candidates, key=lambda depth: _gap_s(image, depth), default=None)


def _gap_s(image: BufferedMessage, depth: BufferedMessage) -> float:
    if image.stamp_ns is None or depth.stamp_ns is None:
        return float("inf")
    return abs(image.stamp_ns - depth.stamp_ns) * 1e-9


def _qos_hint(buffer: TopicBuffer, parameter: str) -> str:
    statistics = buffer.statistics()
    if statistics.problem:
        return f"; {statistics.problem}"
    if not statistics.incompatible_qos:
        return ""
    return f"; a publisher's {statistics.incompatible_qos} policy is incompatible, see {parameter}"
