"""Predictions → results: composed, checked, and doubted where something speaks against a segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from xsam.config import ModelConfig
from xsam.errors import ModelError
from xsam.inference.census import NO_CENSUS, Census
from xsam.inference.doubts import with_doubts, with_mark_doubts
from xsam.inference.kinds import kind_of, least_score
from xsam.inference.look_alikes import with_look_alikes
from xsam.inference.mask_support import MaskSupport
from xsam.inference.naming import completed
from xsam.inference.overlooked import with_overlooked
from xsam.inference.places import corrected
from xsam.inference.pointing import Reference
from xsam.inference.prepare import Prompt
from xsam.inference.prompts import unknown_words
from xsam.inference.results import Prediction, compose, with_names_of
from xsam.inference.stages import StageClock
from xsam.types.requests import Frame, SegmentationResult, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Builds the results of one model."""

    config: ModelConfig
    tokenizer: Any
    model_id: str

    def answer(
        self,
        prediction: Prediction | ModelError,
        prompt: Prompt,
        frame: Frame,
        clock: StageClock,
        *,
        census: Census = NO_CENSUS,
        references: Sequence[Reference] = (),
        of_video: bool = False,
    ) -> SegmentationResult:
        """Build the result of one prompt with its doubts, still without timing.

        Args:
            prediction: of the network; an error becomes a FAILED result.
            prompt: what it answers.
            frame: the source image.
            clock: its `check` is called in every loop; may raise.
            census: of the frame.
            references: masks of the prompt's object in earlier frames of a video.
            of_video: the object is followed from frame to frame, so that it must stay the model's choice.
        """
        if isinstance(prediction, ModelError):
            return replace(
                SegmentationResult.from_error(prediction, prompt.query, frame), model_id=self.model_id
            )
        described = prompt.task is Task.GROUNDED_CONVERSATION  # which does not read the text of the query
        unknown = {} if described else unknown_words(self.tokenizer, prompt.query)
        words = dict.fromkeys(word for found in unknown.values() for word in found)
        hint = f"the model does not know the word(s): {', '.join(words)}" if words else ""
        result, support = self.plain(prediction, prompt, frame, clock, references=references, hint=hint)
        calibration = self.config.calibration
        if calibration is not None and calibration.corrects_places and not of_video:
            result, support = corrected(result, support, prompt.task, frame, census)
        marks_here = prompt.regions is not None
        kind = kind_of(prompt.distinct, prompt.task)
        if calibration is not None and kind in calibration.completes:
            if described:
                result, support = completed(result, support, prompt.task, census)
            elif not of_video:
                result, support = with_look_alikes(
                    result, support, prompt.task, census, marks_here=marks_here
                )
        may_be_undecided = (
            kind == "categories"
            and not prompt.distinct.stuff_classes
            and prompt.distinct.score_threshold is None
        )
        result = with_doubts(
            result,
            prompt.task,
            frame,
            census=census,
            support=support,
            calibration=calibration,
            unknown=unknown,
            marks_here=marks_here,
            decided_from=least_score(prompt.distinct, prompt.task, self.config) if may_be_undecided else 0.0,
        )
        if marks_here:
            result = with_mark_doubts(result, prompt.task)
        if calibration is not None and not of_video:
            result = with_overlooked(result, prompt.task, census)
        return result if prompt.distinct is prompt.query else with_names_of(result, prompt.query)

    def plain(
        self,
        prediction: Prediction | ModelError,
        prompt: Prompt,
        frame: Frame,
        clock: StageClock,
        *,
        references: Sequence[Reference] = (),
        hint: str = "",
    ) -> tuple[SegmentationResult, MaskSupport]:
        """Build the result of one prompt before anything is doubted; see `xsam.inference.results.compose`.

        Raises:
            ModelError: the prediction is one.
        """
        if isinstance(prediction, ModelError):
            raise prediction
        return compose(
            prediction,
            prompt.distinct,
            frame,
            self.config,
            task=prompt.task,
            prompt_region=prompt.prompt_region,
            references=references,
            model_id=self.model_id,
            hint=hint,
            check=clock.check,
        )
