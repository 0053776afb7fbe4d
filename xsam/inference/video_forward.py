"""From a frame and sessions to results: encode once → language if due → memory → decode → remember."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xsam.errors import InvalidImageError, InvalidQueryError, error_for_code
from xsam.inference.census import NO_CENSUS, census_of
from xsam.inference.doubts import compete, doubted
from xsam.inference.family import VideoFamily
from xsam.inference.finite import not_finite_error
from xsam.inference.forward import ForwardPass, prediction_of
from xsam.inference.frame_cache import EncodedFrame, FrameCache
from xsam.inference.pointing import MAX_REFERENCES
from xsam.inference.prepare import Prompt
from xsam.inference.stages import StageClock
from xsam.inference.video import ReadQuery, VideoSession, VideoState
from xsam.model.x2sam import FrameFeatures
from xsam.types.deadline import TextHook
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, Query, SegmentationResult, Task


def run(
    forward: ForwardPass,
    frame: Frame,
    queries: Sequence[Query | VideoSession],
    *,
    frames: FrameCache,
    clock: StageClock,
    on_text: TextHook | None,
    keep_frame: bool,
) -> list[SegmentationResult]:
    """Answer queries as `ForwardPass.run` does, those of sessions with their memory.

    Sessions change together, once all queries are answered: a request that ends early changes none.
    """
    sessions = {i: query for i, query in enumerate(queries) if isinstance(query, VideoSession)}
    plain = {i: query for i, query in enumerate(queries) if isinstance(query, Query)}
    steps = advance(forward, [session.state for session in sessions.values()], frame, clock)
    states = {index: state for index, (_, state) in zip(sessions, steps, strict=True)}
    results = {index: result for index, (result, _) in zip(sessions, steps, strict=True)}
    if plain:
        indices = list(plain)
        answers = forward.run(
            frame,
            list(plain.values()),
            frames=frames,
            clock=clock,
            on_text=None if on_text is None else lambda index, text: on_text(indices[index], text),
            keep_frame=keep_frame,
        )
        results.update(zip(indices, answers, strict=True))
    competed = compete([results[index] for index in range(len(queries))])
    stages_s = clock.finish()
    for index, session in sessions.items():
        session.state = states[index]
    return [result.with_timing(stages_s) if result.answered else result for result in competed]


def segment_clip(
    forward: ForwardPass, frames: Sequence[Frame], query: Query, clock: StageClock
) -> list[SegmentationResult]:
    """Segment every frame of a clip that the language model reads whole, in the given order.

    Args:
        forward: of a family with a memory.
        frames: at least one, all of one size; visual prompts belong to the first.
        query: a valid one that generates no text.
        clock: stages and deadline of the request.

    Raises:
        InvalidQueryError: it takes more tokens than the model has room for.
        ModelError: the network gives NaN or infinity.
        DeadlineExceededError: no time is left.
    """
    family = forward.family.video
    assert family is not None
    clock.begin("preprocess")
    inputs = family.of_clip(len(frames))
    prompt = forward.prepare(0, query, frames[0], inputs=inputs)
    survey = forward.survey([prompt], frames[0], inputs=inputs)
    state = VideoState(query=query, bank=family.new_bank(), refresh_every=0, late_s=math.inf)
    results: list[SegmentationResult] = []
    read: ReadQuery | None = None
    for index, frame in enumerate(frames):
        pixels = family.pixels(frame.rgb)
        clock.begin("encode")
        features = family.encode_step(pixels, first=index == 0)
        if read is None:
            seen = family.look_at_clip([f.rgb for f in frames], features)
            clock.begin("language")
            read = _read(forward, seen, prompt, survey, clock)
        step = _Step(before=state, now=state, prompt=prompt if index == 0 else None, read=read)
        result, state = _decode(forward, family, step, features, frame, clock)
        if result.code:
            raise error_for_code(result.code, result.message, hint=result.hint)
        state = replace(state, newest_ns=0)  # the order is given, whatever the stamps
        results.append(result)
    competed = [compete([result])[0] for result in results]
    stages_s = clock.finish()
    return [result.with_timing(stages_s) for result in competed]


@dataclass(slots=True, kw_only=True)
class _Step:
    """What is known of one session's step."""

    before: VideoState
    now: VideoState  # with which the frame is segmented: `before`, or begun again
    prompt: Prompt | None = None  # to read with this frame
    survey: Prompt | None = None
    read: ReadQuery | None = None
    refused: SegmentationResult | None = None


def advance(
    forward: ForwardPass, states: Sequence[VideoState], frame: Frame, clock: StageClock
) -> list[tuple[SegmentationResult, VideoState]]:
    """Segment the next frame of several sessions.

    Returns:
        For each session the result, without timing, and its new state. One that cannot take the frame has a
        REFUSED result and its old state; one for which the network gives NaN or infinity has a FAILED result
        and begins again, since its memory may be the cause.

    Raises:
        DeadlineExceededError: no time is left.
    """
    family = forward.family.video
    assert family is not None
    clock.begin("preprocess")
    steps = [_begin(forward, state, frame) for state in states]
    features: dict[bool, FrameFeatures] = {}
    if any(step.refused is None for step in steps):
        pixels = family.pixels(frame.rgb)
        clock.begin("encode")
        going = [step for step in steps if step.refused is None]
        for first in dict.fromkeys(step.now.index == 0 for step in going):
            features[first] = family.encode_step(pixels, first=first)
        clock.begin("language")
        if any(step.prompt is not None for step in going):
            seen = family.look(pixels, next(iter(features.values())))
            for step in going:
                if step.prompt is not None:
                    step.read = _read(forward, seen, step.prompt, step.survey, clock)
    return [
        (step.refused, step.before)
        if step.refused is not None
        else _decode(forward, family, step, features[step.now.index == 0], frame, clock)
        for step in steps
    ]


def _begin(forward: ForwardPass, state: VideoState, frame: Frame) -> _Step:
    """Prepare what has to be read with the frame."""
    try:
        now = state.before(frame)
        if not now.is_due:
            return _Step(before=state, now=now, read=now.read)
        prompt = forward.prepare(0, state.query, frame)
        survey = forward.survey([prompt], frame)
        return _Step(before=state, now=now, prompt=prompt, survey=survey)
    except (InvalidQueryError, InvalidImageError) as error:
        refused = SegmentationResult.from_error(error.with_traceback(None), state.query, frame)
        return _Step(before=state, now=state, refused=refused)


def _read(
    forward: ForwardPass, seen: EncodedFrame, prompt: Prompt, survey: Prompt | None, clock: StageClock
) -> ReadQuery:
    """Let the language model read a prompt; alone, so that its states do not depend on other sessions."""
    states = forward.read(seen, [prompt], clock)[0]
    return ReadQuery(
        prompt=replace(prompt, regions=None, prompt_region=None),
        states=replace(states, seg=states.seg.clone()),  # a view of the states of the whole text
        survey=None if survey is None else _read(forward, seen, survey, None, clock),
    )


def _decode(
    forward: ForwardPass,
    family: VideoFamily,
    step: _Step,
    features: FrameFeatures,
    frame: Frame,
    clock: StageClock,
) -> tuple[SegmentationResult, VideoState]:
    """Recall, decode, remember, and compose the result."""
    now, read = step.now, step.read
    assert read is not None
    clock.begin("memory")
    encoded = family.recall(features, now.bank, now.index, check=clock.check)
    clock.begin("decode")
    decoded = family.decode(encoded, [read.states])
    prediction = prediction_of(decoded, 0, len(read.states.conditions))
    if not prediction.is_finite:
        failed = forward.compose(not_finite_error(forward.model, None), read.prompt, frame, clock)
        return failed, step.before.restarted("the model failed")
    entry = family.remember(features, decoded, now.index)
    census = NO_CENSUS
    if read.survey is not None:
        surveyed = family.decode(encoded, [read.survey.states])
        known = prediction_of(surveyed, 0, len(read.survey.states.conditions))
        if known.is_finite:
            census = census_of(*forward.composer.plain(known, read.survey.prompt, frame, clock))
    clock.begin("postprocess")
    prompt = read.prompt if step.prompt is None else step.prompt
    result = forward.composer.answer(
        prediction, prompt, frame, clock, census=census, references=now.references, of_video=True
    )
    if now.is_late(frame):
        return _in_doubt(result, now), step.before
    pointed, accepted, first_doubts = now.pointed, now.accepted, now.first_doubts
    if now.index == 0 and prompt.query.prompts:
        first_doubts = dict(zip(result.segments.label_indices.tolist(), result.segments.doubts, strict=True))
    if prompt.task is Task.INTERACTIVE:
        if pointed is None and prompt.prompt_region is not None:
            pointed = (MaskRle.encode(prompt.prompt_region), 1.0)
        if len(result.segments):
            accepted = (*accepted, (result.segments.masks[0], float(result.segments.scores[0])))
    new = replace(
        now,
        bank=now.bank.with_entry(entry),
        index=now.index + 1,
        read=read,
        read_at=now.read_at if step.prompt is None else now.index,
        image_hw=frame.image_hw,
        newest_ns=frame.stamp_ns or now.newest_ns,
        pointed=pointed,
        first_doubts=first_doubts,
        accepted=accepted[-MAX_REFERENCES:],
    )
    return _in_doubt(result, now), new


def _in_doubt(result: SegmentationResult, state: VideoState) -> SegmentationResult:
    """Doubt what was in doubt when it was pointed at, and what was pointed at in another video."""
    segments = result.segments
    foreign = f"it was pointed at before {state.interruption}" if state.interruption else ""
    if not (state.query.prompts and (foreign or any(state.first_doubts.values()))):
        return result
    reasons = []
    for label_index in segments.label_indices.tolist():
        first = state.first_doubts.get(label_index, "")
        reasons.append(foreign or (f"in the first frame: {first}" if first else ""))
    doubts = tuple(doubt or reason for doubt, reason in zip(segments.doubts, reasons, strict=True))
    return doubted(replace(result, segments=replace(segments, doubts=doubts)))
