"""One query on the frames of a video, with a memory of what was segmented before.

The query is read together with a frame: the first one, and then every `refresh_every` frames. Between them a
frame costs the segmentation branch alone: encoder, memory and decoder. The reference implementation lets the
language model read a whole clip first; a stream has no such clip, so the embeddings differ from the
reference, while everything after them is equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from xsam.errors import InvalidImageError, InvalidQueryError
from xsam.inference.family import PromptStates, X2SamFamily
from xsam.inference.finite import not_finite_error
from xsam.inference.forward import ForwardPass, prediction_of
from xsam.inference.images import ImageOrFrame, as_frame
from xsam.inference.pointing import MAX_REFERENCES, Reference
from xsam.inference.prepare import Prompt
from xsam.inference.stages import StageClock
from xsam.model.memory import MemoryBank
from xsam.types.deadline import Deadline, StageHook
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, Query, SegmentationResult, Task


@dataclass(slots=True, kw_only=True)
class VideoState:
    """Everything that a session keeps between frames; constant in size."""

    query: Query
    bank: MemoryBank
    refresh_every: int  # frames between two readings of the query; 0 = it is read once
    index: int = 0  # of the next frame
    prompt: Prompt | None = None  # None = the query is read with the next frame
    states: PromptStates | None = None
    read_at: int = 0  # frame with which it was read
    pointed: Reference | None = None  # what an INTERACTIVE query pointed at, in the first frame
    accepted: deque[Reference] = field(default_factory=lambda: deque(maxlen=MAX_REFERENCES))

    def restart(self) -> None:
        """Forget the video; the next frame is its first."""
        self.bank.clear()
        self.accepted.clear()
        self.index, self.prompt, self.states, self.pointed = 0, None, None, None

    @property
    def is_due(self) -> bool:
        """True if the query is read with the next frame.

        Visual prompts belong to the first frame, so they are never read again.
        """
        if self.prompt is None or self.states is None:
            return True
        if self.query.prompts or not self.refresh_every:
            return False
        return self.index - self.read_at >= self.refresh_every

    @property
    def references(self) -> tuple[Reference, ...]:
        """Masks that an INTERACTIVE query's object is recognized by; none in the first frame."""
        return () if self.pointed is None else (self.pointed, *self.accepted)


class VideoSession:
    """One query on the frames of one video; made by `XSam.open_session`.

    Not for several threads at once. Memory is constant, however long the video is.
    """

    def __init__(
        self, exclusive: Callable[[StageClock], AbstractContextManager[ForwardPass]], state: VideoState
    ) -> None:
        self._exclusive = exclusive
        self._state = state

    @property
    def frame_count(self) -> int:
        """Number of frames since the beginning or the last reset; dropped ones do not count."""
        return self._state.index

    @property
    def nbytes(self) -> int:
        """Size of the memory of earlier frames, bytes."""
        return self._state.bank.nbytes

    def step(
        self,
        source: ImageOrFrame,
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
    ) -> SegmentationResult:
        """Segment the next frame.

        Args:
            source: see `XSam.segment`.
            deadline_s: seconds from now; checked between stages. None = no limit.
            on_stage: see `StageHook`.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, ModelError. The session is as before
            then: the frame counts as dropped.
        """
        clock = StageClock(Deadline(deadline_s), on_stage)
        notes: list[str] = []
        frame = as_frame(source, notes)
        with self._exclusive(clock) as forward:
            return step(forward, self._state, frame, clock).with_notes(notes)

    def refresh(self) -> None:
        """Read the query again together with the next frame; does nothing for visual prompts."""
        if not self._state.query.prompts:
            self._state.prompt = None

    def reset(self) -> None:
        """Forget the video: the next frame is the first of another one."""
        self._state.restart()


def check_video_query(query: Query) -> None:
    """Raise `InvalidQueryError` for a query whose answer is generated: it has no masks to follow."""
    if query.explain or query.resolved_task() in (Task.CHAT, Task.GROUNDED_CONVERSATION):
        raise InvalidQueryError(
            "a video session segments, it does not generate text",
            hint="segment one frame with this query, then open a session for what it names",
        )


def step(forward: ForwardPass, state: VideoState, frame: Frame, clock: StageClock) -> SegmentationResult:
    """Segment the next frame of a video; `state` changes only if that succeeds.

    Raises:
        InvalidQueryError: the query does not fit the frame.
        InvalidImageError: the size differs from that of the frame that visual prompts were given for.
        ModelError: the network gives NaN or infinity.
        DeadlineExceededError: no time is left; the frame counts as dropped.
    """
    family = forward.family
    assert isinstance(family, X2SamFamily)
    clock.begin("preprocess")
    first = state.pointed[0] if state.pointed is not None else None
    if first is not None and (first.height, first.width) != frame.image_hw:
        raise InvalidImageError(
            f"the frame has {frame.image_hw[1]}×{frame.image_hw[0]} pixels, "
            f"the first one {first.width}×{first.height}",
            hint="reset the session and point at the object again",
        )
    due = state.is_due
    prompt = forward.prepare(0, state.query, frame) if due or state.prompt is None else state.prompt
    pixels = family.pixels(frame.rgb)
    clock.begin("encode")
    encoded, features = family.encode_step(pixels, state.bank, state.index, read=due)
    clock.begin("language")
    states = forward.read(encoded, [prompt], clock)[0] if due or state.states is None else state.states
    clock.begin("decode")
    decoded = family.decode(encoded, [states])
    prediction = prediction_of(decoded, 0, len(states.conditions))
    if not prediction.is_finite:
        raise not_finite_error(forward.model, None)
    entry = family.model.remember(
        features, decoded.class_logits[:, 0], decoded.mask_logits[:, 0], state.index
    )
    clock.begin("postprocess")
    result = forward.compose(prediction, prompt, frame, clock, references=state.references)
    stages_s = clock.finish()

    if due:
        state.read_at = state.index
    if prompt.task is Task.INTERACTIVE:
        if state.pointed is None and prompt.prompt_region is not None:
            state.pointed = (MaskRle.encode(prompt.prompt_region), 1.0)
        if len(result.segments):
            state.accepted.append((result.segments.masks[0], float(result.segments.scores[0])))
    state.prompt, state.states = prompt, states
    state.bank.push(entry)
    state.index += 1
    return result.with_timing(stages_s)
