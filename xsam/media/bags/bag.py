"""A bag as a source: the images of one topic, with depth and camera info by time stamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xsam.errors import InvalidImageError, SourceError
from xsam.media.bags.camera_frame import COMPRESSED_TYPES, IMAGE_TYPES, INFO_TYPES, BagFrame
from xsam.media.bags.cdr import decode, header_of
from xsam.media.bags.storage import Damage, RawMessage, Topic, bag_files, count_messages, messages, topics
from xsam.media.bags.transforms import StaticTransforms
from xsam.media.frames import NS_PER_S, SourceFrame
from xsam.media.options import BagTopics
from xsam.types.requests import Frame

SYNC_TOLERANCE_NS = 50_000_000
_PATIENCE_NS = NS_PER_S  # how long, by the bag's clock, a frame is kept back for depth and camera info
_MAX_WAITING, _MAX_WAITING_BYTES = 60, 1 << 28
_MAX_DEPTHS = 60
_STATIC_TF = "/tf_static"


@dataclass(slots=True)
class _State:
    """What was read of a bag and is not used yet; bounded."""

    waiting: deque[RawMessage] = field(default_factory=deque)
    depths: deque[tuple[int, RawMessage]] = field(default_factory=lambda: deque(maxlen=_MAX_DEPTHS))
    infos: dict[str, Any] = field(default_factory=dict)
    transforms: StaticTransforms = field(default_factory=StaticTransforms)
    index: int = 0
    last_ns: int | None = None


class BagSource:
    """The images of one topic of a bag."""

    def __init__(self, name: str, path: Path, chosen: BagTopics) -> None:
        """Open the files of a bag once, to find the topics.

        Raises:
            SourceError: it is no bag, or the topic is missing or has to be chosen.
        """
        self.name = name
        self._stem = path.name.split(".")[0] or "bag"
        self._files = bag_files(path)
        found: dict[Topic, None] = {}
        problems: list[str] = []
        for file in self._files:
            try:
                found |= dict.fromkeys(topics(file))
            except SourceError as error:
                problems.append(error.message)
        if not found:
            raise SourceError(problems[0] if problems else f"{path} has no messages")
        self._color = _color_topic(list(found), chosen.color)
        self._depth = _existing(list(found), chosen.depth, "--depth-topic")
        infos = {topic.name for topic in found if topic.type in INFO_TYPES}
        self._info = chosen.info or _sibling(self._color, infos)
        self._depth_info = _sibling(self._depth, infos) if self._depth else ""
        if chosen.info and chosen.info not in infos:
            raise SourceError(
                f"--info-topic {chosen.info} has no camera info", hint=f"there are: {_listed(infos)}"
            )
        self._hint = ""
        if not self._depth and (others := sorted(topic.name for topic in found if _is_depth(topic))):
            self._hint = f"the bag has depth: --depth-topic {others[0]} gives locations"

    @property
    def count(self) -> int | None:
        counts = [count_messages(file, self._color) for file in self._files]
        return None if None in counts else sum(count or 0 for count in counts)

    def frames(self) -> Iterator[SourceFrame]:
        state = _State()
        names = {self._color, self._depth, self._info, self._depth_info} - {""}
        if self._depth:
            names.add(_STATIC_TF)
        for file in self._files:
            try:
                yield from self._read(messages(file, lambda topic: topic.name in names), state)
            except SourceError as error:
                yield self._damaged(state, 0, error.message)
        yield from self._released(state, None)
        if not state.index:
            yield self._damaged(state, 0, f"there are no messages on {self._color}")

    def _read(self, found: Iterable[RawMessage | Damage], state: _State) -> Iterator[SourceFrame]:
        for message in found:
            if isinstance(message, Damage):
                yield from self._released(state, None)
                yield self._damaged(state, state.last_ns or 0, message.problem)
                continue
            name = message.topic.name
            if name == self._color:
                state.waiting.append(message)
            elif name == self._depth:
                try:
                    state.depths.append((header_of(message)[0], message))
                except InvalidImageError:
                    continue  # the color image that it belongs to says that it has no depth
            else:
                self._take(message, state)
            yield from self._released(state, message.stamp_ns)

    def _take(self, message: RawMessage, state: _State) -> None:
        """Take over a camera info or transforms."""
        try:
            decoded = decode(message)
            if message.topic.name == _STATIC_TF:
                state.transforms.add(decoded)
            elif message.topic.type in INFO_TYPES:
                state.infos[message.topic.name] = decoded
        except (InvalidImageError, AttributeError):
            return  # as if it were not there: what needs it says so

    def _released(self, state: _State, now_ns: int | None) -> Iterator[SourceFrame]:
        """Yield the frames that have all that belongs to them, or waited long enough; None = all."""
        while state.waiting:
            message = state.waiting[0]
            is_small = sum(len(other.data) for other in state.waiting) < _MAX_WAITING_BYTES
            if now_ns is not None and is_small and len(state.waiting) < _MAX_WAITING:
                if self._lacks(message, state) and 0 <= now_ns - message.stamp_ns < _PATIENCE_NS:
                    return
            state.waiting.popleft()
            yield self._frame(message, state)

    def _lacks(self, message: RawMessage, state: _State) -> bool:
        """Return True if something is missing that may still come."""
        if any(name and name not in state.infos for name in (self._info, self._depth_info)):
            return True
        if not self._depth:
            return False
        try:
            stamp_ns, _ = header_of(message)
        except InvalidImageError:
            return False
        return not state.depths or state.depths[-1][0] < stamp_ns

    def _frame(self, message: RawMessage, state: _State) -> SourceFrame:
        try:
            stamp_ns, frame_id = header_of(message)
        except InvalidImageError as error:
            return self._damaged(state, message.stamp_ns, error.message)
        notes = [self._hint] if self._hint and state.index == 0 else []
        if not stamp_ns:
            stamp_ns = message.stamp_ns
            notes.append("the images have no stamps: the times of recording are used")
        if state.last_ns is not None and stamp_ns < state.last_ns:
            notes.append("its stamp is before that of the frame before it")
        depth = min(state.depths, key=lambda item: abs(item[0] - stamp_ns), default=None)
        if depth is not None and abs(depth[0] - stamp_ns) > SYNC_TOLERANCE_NS:
            depth = None
        found = BagFrame(
            camera=self._color,
            color=message,
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            depth=None if depth is None else depth[1],
            info=state.infos.get(self._info),
            depth_info=state.infos.get(self._depth_info),
            transforms=state.transforms if self._depth else None,
            notes=tuple(notes),
        )
        return self._item(state, stamp_ns, found.load, found.locate if self._depth else None)

    def _damaged(self, state: _State, stamp_ns: int, problem: str) -> SourceFrame:
        def load(notes: list[str]) -> Frame:
            raise InvalidImageError(f"{self.name}: {problem}")

        return self._item(state, stamp_ns, load, None)

    def _item(self, state: _State, stamp_ns: int, load: Any, locate: Any) -> SourceFrame:
        index = state.index
        state.index, state.last_ns = index + 1, stamp_ns
        return SourceFrame(
            source=self.name,
            sequence=self.name,
            index=index,
            name=f"{self._stem}_{index:06d}",
            stamp_ns=stamp_ns,
            load=load,
            locate=locate,
        )


def _color_topic(found: Sequence[Topic], chosen: str) -> str:
    images = [topic for topic in found if topic.type in IMAGE_TYPES | COMPRESSED_TYPES]
    names = {topic.name for topic in images}
    if chosen:
        if chosen not in names:
            raise SourceError(f"the bag has no images on {chosen}", hint=f"there are: {_listed(names)}")
        return chosen
    color = {topic.name for topic in images if not _is_depth(topic)}
    # An image and its compressed form are one choice: the better one.
    color -= {name for name in color if name.rpartition("/")[0] in color}
    if len(color) == 1:
        return color.pop()
    if not color:
        raise SourceError("the bag has no color images", hint=f"its images: {_listed(names)}")
    raise SourceError(
        f"the bag has color images on {len(color)} topics", hint=f"choose one with --topic: {_listed(color)}"
    )


def _existing(found: Sequence[Topic], name: str, option: str) -> str:
    names = {topic.name for topic in found if topic.type in IMAGE_TYPES | COMPRESSED_TYPES}
    if name and name not in names:
        raise SourceError(f"{option} {name} has no images", hint=f"there are: {_listed(names)}")
    return name


def _is_depth(topic: Topic) -> bool:
    is_image = topic.type in IMAGE_TYPES | COMPRESSED_TYPES
    return is_image and ("depth" in topic.name.lower() or "disparity" in topic.name.lower())


def _sibling(image: str, infos: set[str]) -> str:
    """Return the camera info beside an image topic, as ROS names it; "" = there is none."""
    folder = image
    for _ in range(2):  # /camera/image_raw/compressed → /camera/camera_info
        folder = folder.rpartition("/")[0]
        if f"{folder}/camera_info" in infos:
            return f"{folder}/camera_info"
    return ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
