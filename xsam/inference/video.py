"""One query on the frames of a video, with a memory of what was segmented before.

The query is read together with a frame: the first one, and then every `refresh_every` frames. Between them a
frame costs the segmentation branch alone: encoder, memory and decoder. The reference implementation lets the
language model read a whole clip first; a stream has no such clip, so the embeddings differ from the
reference, while everything after them is equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from xsam.errors import InvalidImageError
from xsam.inference.family import PromptStates
from xsam.inference.images import ImageOrFrame
from xsam.inference.pointing import Reference
from xsam.inference.prepare import Prompt
from xsam.model.memory import MemoryBank
from xsam.types.deadline import StageHook
from xsam.types.requests import Frame, Query, SegmentationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadQuery:
    """A query as the language model has read it, together with a frame."""

    prompt: Prompt  # without its regions, which nothing needs any more
    states: PromptStates
    survey: ReadQuery | None  # for the census that the answers are checked with

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        own = (self.states.seg, self.states.conditions, self.states.tokens)
        return own if self.survey is None else (*own, *self.survey.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoState:
    """Everything that a session keeps between frames; constant in size. A step makes a new one."""

    query: Query
    bank: MemoryBank
    refresh_every: int  # frames between two readings of the query; 0 = it is read once
    late_s: float  # a frame that is older than the newest one by more begins another video
    index: int = 0  # of the next frame
    read: ReadQuery | None = None  # None = the query is read with the next frame
    read_at: int = 0  # frame with which it was read
    image_hw: tuple[int, int] = (0, 0)  # of the last frame
    newest_ns: int = 0  # stamp of the newest frame; 0 = frames have none
    pointed: Reference | None = None  # what an INTERACTIVE query pointed at, in the first frame
    first_doubts: Mapping[int, str] = field(default_factory=dict)  # label index → what spoke against it there
    accepted: tuple[Reference, ...] = ()  # its last masks, at most `MAX_REFERENCES`
    interruption: str = ""  # why the session began again by itself, if it did

    def restarted(self, interruption: str = "") -> VideoState:
        """Return the state before the first frame of another video.

        Args:
            interruption: why the session begins again by itself; "" = its user wants it.
        """
        return VideoState(
            query=self.query,
            bank=MemoryBank(self.bank.capacity),
            refresh_every=self.refresh_every,
            late_s=self.late_s,
            interruption=interruption,
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, bytes."""
        read = () if self.read is None else self.read.tensors
        return self.bank.nbytes + sum(tensor.numel() * tensor.element_size() for tensor in read)

    @property
    def is_due(self) -> bool:
        """True if the query is read with the next frame.

        Visual prompts belong to the first frame, so they are never read again.
        """
        if self.read is None:
            return True
        if self.query.prompts or not self.refresh_every:
            return False
        return self.index - self.read_at >= self.refresh_every

    @property
    def references(self) -> tuple[Reference, ...]:
        """Masks that an INTERACTIVE query's object is recognized by; none in the first frame."""
        return () if self.pointed is None else (self.pointed, *self.accepted)

    def before(self, frame: Frame) -> VideoState:
        """Return the state that a frame is segmented with: begun again if it belongs to another video.

        Raises:
            InvalidImageError: the size differs from that of the frame that visual prompts were given for.
        """
        if self.index and self.image_hw != frame.image_hw:
            height, width = self.image_hw
            sizes = f"{frame.image_hw[1]}×{frame.image_hw[0]} pixels, the first one {width}×{height}"
            if self.query.prompts:
                raise InvalidImageError(
                    f"the frame has {sizes}", hint="point at the object again, in a frame of the new size"
                )
            return self.restarted("the images have another size")
        behind_s = (self.newest_ns - frame.stamp_ns) * 1e-9 if frame.stamp_ns else 0.0
        if behind_s > self.late_s:
            return self.restarted(f"the time of the camera jumped back by {behind_s:.1f} s")
        return self

    def is_late(self, frame: Frame) -> bool:
        """Return whether a frame is older than the newest one: it is segmented, but not remembered."""
        return 0 < frame.stamp_ns < self.newest_ns


class SessionEngine(Protocol):
    """What a session needs of the engine that it belongs to."""

    def segment(
        self,
        source: ImageOrFrame,
        queries: VideoSession,
        *,
        deadline_s: float | None,
        on_stage: StageHook | None,
    ) -> SegmentationResult: ...


class VideoSession:
    """One query on the frames of one video; made by `XSam.open_session`.

    Not for several threads at once. Memory is constant, however long the video is. Where frames have stamps,
    one that is slightly older than the newest is segmented and not remembered; one that is much older, or of
    another size, begins another video. What visual prompts point at then is in doubt, and the results say so.
    """

    def __init__(self, engine: SessionEngine, state: VideoState) -> None:
        self.engine = engine
        self.state = state  # replaced by the engine after each frame

    @property
    def query(self) -> Query:
        return self.state.query

    @property
    def frame_count(self) -> int:
        """Number of frames since the beginning of the video; dropped ones do not count."""
        return self.state.index

    @property
    def nbytes(self) -> int:
        """Memory of earlier frames and of the query as it was read, bytes."""
        return self.state.nbytes

    def step(
        self,
        source: ImageOrFrame,
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
    ) -> SegmentationResult:
        """Segment the next frame: the same as `XSam.segment(source, session)`.

        Args:
            source: see `XSam.segment`.
            deadline_s: seconds from now; checked between stages. None = no limit.
            on_stage: see `StageHook`.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, and what the hook raises. The session
            is as before then: the frame counts as dropped.
            ModelError: the session begins again with the next frame, since its memory may be the cause.
        """
        return self.engine.segment(source, self, deadline_s=deadline_s, on_stage=on_stage)

    def fork(self) -> VideoSession:
        """Return a session that goes on from here by itself, such as for a look ahead; it shares the past."""
        return VideoSession(self.engine, self.state)

    def refresh(self) -> None:
        """Read the query again together with the next frame; does nothing for visual prompts."""
        if not self.query.prompts:
            self.state = replace(self.state, read=None)

    def reset(self) -> None:
        """Forget the video: the next frame is the first of another one."""
        self.state = self.state.restarted()

    def fail(self) -> None:
        """Forget the video because the model failed."""
        self.state = self.state.restarted("the model failed")
