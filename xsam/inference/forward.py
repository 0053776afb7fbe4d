"""From a frame and queries to results: prepare → encode → language → decode → compose, top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.errors import InvalidQueryError, ModelError
from xsam.inference.acceleration import is_out_of_memory
from xsam.inference.answers import Composer
from xsam.inference.category_passes import join_passes
from xsam.inference.census import NO_CENSUS, Census, census_names, census_of, census_query
from xsam.inference.doubts import CHECKED_TASKS, compete
from xsam.inference.family import Family, Network, PromptStates, TextSpans, copied_to, family_of
from xsam.inference.finite import (
    NotFiniteError,
    all_finite,
    finite_groups,
    first_not_finite,
    not_finite_error,
)
from xsam.inference.frame_cache import EncodedFrame, FrameCache
from xsam.inference.inputs import PromptInputs
from xsam.inference.prepare import MAX_NEW_TOKENS, Prompt, prepare
from xsam.inference.prompts import SEG_TAG, mark_positions
from xsam.inference.results import Prediction, plain_text
from xsam.inference.stages import StageClock
from xsam.model.language import PrefixCache, following_states, generate
from xsam.model.region_sampler import region_points
from xsam.model.xsam import DecoderStage
from xsam.types.deadline import TextHook
from xsam.types.requests import Frame, Query, SegmentationResult

MAX_PROMPTS_PER_BATCH = 8
_SURVEY = -1  # index of the prompt for the census, which is no query of the request


class ForwardPass:
    """A network and its tokenizer; one call at a time, inside `torch.inference_mode`."""

    def __init__(self, model: Network, tokenizer: Any, *, model_id: str) -> None:
        self.model = model
        self.family: Family = family_of(model)
        self.tokenizer = tokenizer
        self.model_id = model_id
        self.composer = Composer(config=model.config, tokenizer=tokenizer, model_id=model_id)
        self._last_survey: tuple[Any, Prompt] | None = None  # nearly always, the next one is the same

    def run(
        self,
        frame: Frame,
        queries: Sequence[Query],
        *,
        frames: FrameCache,
        clock: StageClock,
        on_text: TextHook | None,
        keep_frame: bool = True,
    ) -> list[SegmentationResult]:
        """Answer every query on one frame.

        Args:
            frame: the source image.
            queries: at least one; an invalid one becomes a REFUSED result at its index.
            frames: what is kept of earlier frames.
            clock: stages and deadline of the request.
            on_text: hook for generated text.
            keep_frame: whether what is computed from the frame alone is kept, see `FrameCache.put`.

        Returns:
            One result per query, in order, all with the same timing. A query for which the network gives NaN
            or infinity is FAILED.

        Raises:
            ModelError: what the network computes from the frame alone is not finite.
        """
        clock.begin("preprocess")
        results: dict[int, SegmentationResult] = {}
        prompts: list[Prompt] = []
        for index, query in enumerate(queries):
            try:
                prompts.append(self.prepare(index, query, frame, split=True))
            except InvalidQueryError as error:
                results[index] = SegmentationResult.from_error(error, query, frame)
        if prompts:
            predictions, census = self.predict(frame, prompts, frames, clock, on_text, keep_frame=keep_frame)
            clock.begin("postprocess")
            composed = compete(
                [
                    self.compose(predictions[prompt.index], prompt, frame, clock, census=census)
                    for prompt in prompts
                ]
            )
            stages_s = clock.finish()
            for prompt, result in zip(prompts, composed, strict=True):
                results[prompt.index] = result.with_timing(stages_s)
        return [results[index] for index in range(len(queries))]

    def prepare(
        self,
        index: int,
        query: Query,
        frame: Frame,
        *,
        split: bool = False,
        inputs: PromptInputs | None = None,
    ) -> Prompt:
        """Validate a query and turn it into tokens and region masks; see `xsam.inference.prepare`.

        Args:
            index, query, split: see there.
            frame: what it is about; of a clip, the first frame.
            inputs: how the frame is shown to the language model; None = as an image.
        """
        return prepare(inputs or self.family, self.tokenizer, index, query, frame, split=split)

    # ------------------------------------------------------------------------------------ encode

    def predict(
        self,
        frame: Frame,
        prompts: Sequence[Prompt],
        frames: FrameCache,
        clock: StageClock,
        on_text: TextHook | None,
        *,
        keep_frame: bool,
    ) -> tuple[dict[int, Prediction | ModelError], Census]:
        """Encode the frame unless it is cached, and predict for every prompt.

        Returns:
            The predictions by prompt index, and the census of the frame that the answers are checked with.
        """
        key = frame.pixels_id
        encoded = frames.get(key)
        if encoded is None:
            frames.make_room()
            try:
                encoded = self._encode(frame, clock)
            except NotFiniteError:
                raise self._not_finite(frame, None, clock) from None
            except (RuntimeError, IndexError, ValueError) as error:
                # NaN as a coordinate is an index out of range.
                if is_out_of_memory(error) or not (found := self._find_not_finite(frame, None, clock)):
                    raise
                raise not_finite_error(self.model, found) from error
        else:
            clock.begin("encode")  # announced all the same: every request has the same stages
        predictions: dict[int, Prediction | ModelError] = {}
        survey = self.survey(prompts, frame, known=encoded.census)
        try:
            forced = [prompt for prompt in prompts if prompt.conversation.answer and not prompt.passes]
            for start in range(0, len(forced), MAX_PROMPTS_PER_BATCH):
                batch = forced[start : start + MAX_PROMPTS_PER_BATCH]
                predictions.update(self._predict_forced(encoded, batch, clock))
            for prompt in prompts:
                if prompt.passes:
                    predictions.update(self._predict_passes(encoded, prompt, clock))
                elif not prompt.conversation.answer:
                    with suppress(NotFiniteError):
                        predictions[prompt.index] = self._predict_generated(encoded, prompt, clock, on_text)
            if survey:  # a pass of its own: the last bits of an answer must not depend on what is cached
                predictions.update(self._predict_forced(encoded, [survey], clock))
        finally:
            frames.put(key, encoded, keep=keep_frame)
        answer = predictions.pop(_SURVEY, None)
        if survey is not None and isinstance(answer, Prediction):
            encoded.census = census_of(*self.composer.plain(answer, survey, frame, clock))
        failed = [prompt for prompt in prompts if prompt.index not in predictions]
        if failed:
            frames.drop(key)  # what the language model computed from the image may be the cause
            failure = self._not_finite(frame, failed[0], clock)
            predictions.update((prompt.index, failure) for prompt in failed)
        return predictions, encoded.census or NO_CENSUS

    def survey(
        self,
        prompts: Sequence[Prompt],
        frame: Frame,
        *,
        known: Census | None = None,
        inputs: PromptInputs | None = None,
    ) -> Prompt | None:
        """Return the prompt for the census that these prompts need; None if `known` is enough."""
        checked = [prompt.query for prompt in prompts if prompt.task in CHECKED_TASKS]
        names = census_names(checked, self.model.config.calibration) if checked else ()
        if not names or (known is not None and set(names) <= set(known.names)):
            return None
        key = (names, frame.image_hw)
        if inputs is None and self._last_survey is not None and self._last_survey[0] == key:
            return self._last_survey[1]
        try:
            survey = self.prepare(_SURVEY, census_query(names), frame, inputs=inputs)
        except InvalidQueryError:  # it takes more tokens than the model has room for
            return None
        if inputs is None:
            self._last_survey = key, survey
        return survey

    def _not_finite(self, frame: Frame, prompt: Prompt | None, clock: StageClock) -> ModelError:
        return not_finite_error(self.model, self._find_not_finite(frame, prompt, clock))

    def _find_not_finite(
        self, frame: Frame, prompt: Prompt | None, clock: StageClock
    ) -> torch.nn.Module | None:
        """Repeat what gave NaN or infinity, and return the first block that does."""
        again = StageClock(clock.deadline)

        def run() -> None:
            encoded = self._encode(frame, again, compiled=False)
            if prompt is not None and prompt.conversation.answer:
                for part in prompt.passes or (prompt,):
                    self._predict_forced(encoded, [part], again)
            elif prompt is not None:
                self._predict_generated(encoded, prompt, again, None)

        return first_not_finite(self.model, run)

    def _encode(self, frame: Frame, clock: StageClock, *, compiled: bool = True) -> EncodedFrame:
        """Compute what depends on the frame alone, except the LLM's prefix, which needs a first prompt.

        Raises:
            NotFiniteError: it contains NaN or infinity.
        """
        pixels = self.family.pixels(frame.rgb)
        clock.begin("encode")
        encoded = self.family.encode(pixels, compiled=compiled)
        assert encoded.image_tokens is not None
        if not all_finite((encoded.image_tokens, *encoded.deepstack, *encoded.memory.tensors)):
            raise NotFiniteError
        return encoded

    # ---------------------------------------------------------------------------------- language

    def _predict_forced(
        self, encoded: EncodedFrame, prompts: Sequence[Prompt], clock: StageClock
    ) -> dict[int, Prediction]:
        """Predict for several prompts with a fixed answer in one LLM pass and one decoder pass.

        Returns:
            The predictions by index of the prompt, without those that are not finite.
        """
        clock.begin("language")
        projected = self.read(encoded, prompts, clock)
        clock.begin("decode")
        decoded = self.family.decode(encoded, projected)
        predictions = {
            prompt.index: prediction_of(decoded, p, len(projected[p].conditions))
            for p, prompt in enumerate(prompts)
        }
        finite = finite_groups([prediction.logits for prediction in predictions.values()])
        return {i: prediction for (i, prediction), ok in zip(predictions.items(), finite, strict=True) if ok}

    def _predict_passes(
        self, encoded: EncodedFrame, prompt: Prompt, clock: StageClock
    ) -> dict[int, Prediction]:
        """Predict for a prompt with passes, one after the other: each fills the model's room."""
        parts = [self._predict_forced(encoded, [part], clock).get(part.index) for part in prompt.passes]
        finite = [part for part in parts if part is not None]
        return {prompt.index: join_passes(finite)} if len(finite) == len(parts) else {}

    def read(self, encoded: EncodedFrame, prompts: Sequence[Prompt], clock: StageClock) -> list[PromptStates]:
        """Read prompts with a fixed answer after the image, in one pass of the language model."""
        prefix = self._prefix(encoded, prompts[0])
        clock.check()
        texts = [self._embed(encoded, prompt)[None] for prompt in prompts]
        # Before the language model is started: a copy to a GPU would wait until it is done.
        spans = [
            self._spans(
                prompt.tokens.cond_ids[prompt.text_start :], prompt.tokens.seg_ids[prompt.text_start :]
            )
            for prompt in prompts
        ]
        states = following_states(self.family.llm, prefix, texts)
        return [PromptStates.of(self.family, of[0], span) for of, span in zip(states, spans, strict=True)]

    def _predict_generated(
        self, encoded: EncodedFrame, prompt: Prompt, clock: StageClock, on_text: TextHook | None
    ) -> Prediction:
        """Generate the answer to one prompt; it has masks only if it contains exactly one `<SEG>`.

        Raises:
            NotFiniteError: states or logits contain NaN or infinity.
        """
        clock.begin("language")
        tokenizer = self.tokenizer
        prefix = self._prefix(encoded, prompt)
        generated: list[int] = []

        def on_token(token: int) -> None:
            clock.check()
            generated.append(token)
            if on_text is not None:
                on_text(prompt.index, plain_text(self._decode_text(generated)))

        generation = generate(
            self.family.llm,
            self._embed(encoded, prompt),
            max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=tokenizer.convert_tokens_to_ids(
                [self.family.chat.end, tokenizer.eos_token, *self.family.chat.also_stop_at]
            ),
            # An explanation ends with its mask; a caption or a chat may continue after one.
            final_ids=[tokenizer.convert_tokens_to_ids(SEG_TAG)] if prompt.query.explain else (),
            prefix=prefix,
            on_token=on_token,
        )
        if not all_finite([generation.hidden_states]):
            raise NotFiniteError
        text = self._decode_text(generation.token_ids)
        ids = np.concatenate(
            [prompt.tokens.input_ids[prompt.text_start :], np.array(generation.token_ids, np.int64)]
        )
        cond_ids, seg_ids = mark_positions(tokenizer, ids[: len(generation.hidden_states)])
        if requested := prompt.tokens.num_conditions:  # phrases of an explanation are not what was asked for
            cond_ids[cond_ids >= requested] = -1
        if int(seg_ids.max()) != 0 or int(cond_ids.max()) < 0:
            return Prediction(class_logits=None, mask_logits=None, text=text)
        spans = self._spans(cond_ids, seg_ids)
        projected = PromptStates.of(self.family, generation.hidden_states, spans)
        clock.begin("decode")
        decoded = self.family.decode(encoded, [projected])
        prediction = Prediction(
            class_logits=decoded.class_logits[0, 0],
            mask_logits=decoded.mask_logits[0, 0],
            text=text,
            states=decoded.states[0, 0],
        )
        if not prediction.is_finite:
            raise NotFiniteError
        return prediction

    def _decode_text(self, token_ids: Sequence[int]) -> str:
        return self.family.chat.restore(self.tokenizer.decode(token_ids, skip_special_tokens=False))

    def _prefix(self, encoded: EncodedFrame, prompt: Prompt) -> PrefixCache:
        """Return keys and values of the user tag and the image, which every prompt begins with."""
        if encoded.prefix is None:
            ids = copied_to(self.model.llm_device, prompt.tokens.input_ids[: prompt.text_start])
            encoded.prefix = self.family.prefix(encoded, ids)
            encoded.image_tokens, encoded.deepstack = None, ()
        return encoded.prefix

    def _embed(self, encoded: EncodedFrame, prompt: Prompt) -> Tensor:
        """Embed what follows the image, (L, D)."""
        model = self.model
        ids = copied_to(model.llm_device, prompt.tokens.input_ids[prompt.text_start :])
        points = None
        if prompt.regions is not None:
            count = model.config.sampler.num_sample_point
            points = torch.stack([region_points(m, count) for m in prompt.regions]).to(model.device)
        return self.family.embed(encoded, ids, points)

    def _spans(self, cond_ids: NDArray[np.int64], seg_ids: NDArray[np.int64]) -> TextSpans:
        return TextSpans.of(cond_ids, seg_ids, text_device=self.model.llm_device, device=self.model.device)

    # ----------------------------------------------------------------------------------- compose

    def compose(
        self,
        prediction: Prediction | ModelError,
        prompt: Prompt,
        frame: Frame,
        clock: StageClock,
        *,
        census: Census = NO_CENSUS,
    ) -> SegmentationResult:
        """Build the result of one prompt, still without timing; see `xsam.inference.answers`."""
        return self.composer.answer(prediction, prompt, frame, clock, census=census)


def prediction_of(decoded: DecoderStage, index: int, conditions: int) -> Prediction:
    """Return the prediction for one of the prompts; padded conditions are cut off, background stays last."""
    logits = decoded.class_logits[0, index]
    return Prediction(
        class_logits=torch.cat([logits[:, :conditions], logits[:, -1:]], dim=-1),
        mask_logits=decoded.mask_logits[0, index],
        states=decoded.states[0, index],
    )
