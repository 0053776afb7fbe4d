"""What a network answers before anything is doubted, corrected or selected; for measurements."""

from __future__ import annotations

from collections.abc import Sequence

from xsam.errors import ModelError
from xsam.inference.census import Census, census_of, census_query
from xsam.inference.forward import ForwardPass
from xsam.inference.frame_cache import FrameCache
from xsam.inference.mask_support import MaskSupport
from xsam.inference.prepare import Prompt
from xsam.inference.results import Prediction
from xsam.inference.stages import StageClock
from xsam.types.deadline import Deadline
from xsam.types.requests import Frame, Query, SegmentationResult


def examine(
    forward: ForwardPass, frame: Frame, queries: Sequence[Query], names: Sequence[str]
) -> tuple[list[tuple[SegmentationResult, MaskSupport]], Census]:
    """Answer queries without doubting or correcting anything, and take a census.

    Args:
        forward: the network.
        frame: the source image.
        queries: what to answer.
        names: the categories that the census looks for.

    Raises:
        XSamError: a query cannot be answered.
    """
    clock, prompts, found = _predict(forward, frame, (*queries, census_query(names)))
    *answers, surveyed = (
        forward.composer.plain(prediction, prompt, frame, clock)
        for prompt, prediction in zip(prompts, found, strict=True)
    )
    return answers, census_of(*surveyed)


def predict(forward: ForwardPass, frame: Frame, queries: Sequence[Query]) -> list[Prediction]:
    """Return what the network predicts for each query, with all of its masks.

    Raises:
        XSamError: a query cannot be answered.
    """
    return _predict(forward, frame, queries)[2]


def _predict(
    forward: ForwardPass, frame: Frame, queries: Sequence[Query]
) -> tuple[StageClock, list[Prompt], list[Prediction]]:
    clock = StageClock(Deadline(None))
    prompts = [forward.prepare(index, query, frame) for index, query in enumerate(queries)]
    found, _ = forward.predict(frame, prompts, FrameCache(0), clock, None, keep_frame=False)
    predictions = []
    for prompt in prompts:
        prediction = found[prompt.index]
        if isinstance(prediction, ModelError):
            raise prediction
        predictions.append(prediction)
    return clock, prompts, predictions
