"""`XSam`: images and words in, typed results out. The in-process `Segmenter`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.answer import RawAnswer, compose
from xsam.checkpoint import load_checkpoint, resolve_model
from xsam.config import XSamConfig
from xsam.errors import (
    DeadlineExceededError,
    InvalidQueryError,
    ModelError,
    OutOfMemoryError,
    UnknownCameraError,
    XSamError,
)
from xsam.model.language import generate, packed_hidden_states
from xsam.model.region_sampler import region_points
from xsam.model.xsam import ImageFeatures, XSamModel, pad_conditions, span_means
from xsam.preprocess import prompt_mask, region_mask, segmentation_pixels, vision_pixels
from xsam.prompts import (
    END_TAG,
    IMAGE_ID,
    Conversation,
    TokenizedPrompt,
    category_name,
    clean_text,
    conversation_for,
    mark_positions,
    tokenize,
)
from xsam.structures import CameraRef, Frame, Query, SegmentationResult, Task

MAX_PROMPTS_PER_PASS = 8
MAX_NEW_TOKENS = 256

StageHook = Callable[[str], None]
ImageOrFrame = NDArray[np.uint8] | Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A query that passed validation, as tokens."""

    index: int  # place in the request
    query: Query
    conversation: Conversation
    tokens: TokenizedPrompt  # expanded
    regions: Tensor | None  # (R, S, S) masks for the region sampler


class XSam:
    """X-SAM with its tokenizer and preprocessing, ready to answer.

    Use `XSam.load`. Calls are serialised by a lock; every answer is deterministic: the same frame
    and queries give the same result.
    """

    def __init__(self, model: XSamModel, tokenizer: Any, *, model_id: str) -> None:
        self._model: XSamModel | None = model.eval()
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self.model_id = model_id

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    ) -> XSam:
        """Open a checkpoint.

        Args:
            model: "tiny" (shipped with the package) or a folder written by `xsam convert`.
            device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1" …
            dtype: "auto" is bfloat16 on CUDA and float32 on the CPU.

        Raises:
            CheckpointError: files are missing, damaged, or do not fit together.
        """
        folder, model_id = resolve_model(model)
        target = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        automatic = torch.bfloat16 if target.type == "cuda" else torch.float32
        network, tokenizer = load_checkpoint(
            folder, device=target, dtype=automatic if dtype == "auto" else getattr(torch, dtype)
        )
        return cls(network, tokenizer, model_id=model_id)

    @property
    def config(self) -> XSamConfig:
        return self._network().config

    def warm_up(self) -> None:
        """Answer once on an empty picture, so that the first real request is not the slow one."""
        self.segment(np.zeros((64, 96, 3), np.uint8), "object")

    def close(self) -> None:
        """Give the model's memory back; later calls raise `ModelError`."""
        with self._lock:
            self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @overload
    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: str | Query,
        *,
        deadline_s: float | None = ...,
        on_stage: StageHook | None = ...,
    ) -> SegmentationResult: ...

    @overload
    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float | None = ...,
        on_stage: StageHook | None = ...,
    ) -> list[SegmentationResult]: ...

    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: str | Query | Sequence[Query],
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
    ) -> SegmentationResult | list[SegmentationResult]:
        """Answer one query or several on one image.

        Args:
            source: uint8 RGB image (H, W, 3) or a `Frame`. The engine has no cameras of its own.
            queries: text (a phrase, or a question that ends in "?"), a `Query`, or a sequence.
            deadline_s: seconds from now; checked between stages. None = no limit.
            on_stage: called with the name of each stage as it begins; may raise an `XSamError`.

        Returns:
            One result for one query, a list for a sequence; see `Segmenter.segment`.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, ModelError, and what
            `on_stage` raises. An invalid query in a sequence is a REFUSED result instead.
        """
        clock = _Stages(deadline_s, on_stage)
        frame = _as_frame(source)
        if isinstance(queries, (str, Query)):
            query = Query(text=queries) if isinstance(queries, str) else queries
            query.validate(frame.image_hw)
            result = self._answer(frame, [query], clock)[0]
            if result.code == InvalidQueryError.code:  # found invalid once it was tokenised
                raise InvalidQueryError(result.message, hint=result.hint)
            return result
        if not queries:
            raise InvalidQueryError("no queries were given")
        return self._answer(frame, list(queries), clock)

    def _answer(self, frame: Frame, queries: list[Query], clock: _Stages) -> list[SegmentationResult]:
        if not self._lock.acquire(timeout=clock.remaining_s()):
            raise DeadlineExceededError("another request kept the model busy until the deadline")
        try:
            with torch.inference_mode(), _model_errors():
                return self._run(frame, queries, clock)
        finally:
            self._lock.release()

    def _run(self, frame: Frame, queries: list[Query], clock: _Stages) -> list[SegmentationResult]:
        clock.begin("preprocess")
        results: dict[int, SegmentationResult] = {}
        prompts: list[_Prompt] = []
        for index, query in enumerate(queries):
            try:
                query.validate(frame.image_hw)
                prompts.append(self._prepare(index, query, frame))
            except InvalidQueryError as error:
                results[index] = SegmentationResult.from_error(error, query, frame)
        if prompts:
            model = self._network()
            vision, seg = vision_pixels(frame.rgb, model.config), segmentation_pixels(frame.rgb, model.config)
            clock.begin("encode")
            pixels = [tensor[None].to(model.device, model.dtype) for tensor in (vision, seg)]
            features = model.encode_image(*pixels)
            raw: dict[int, RawAnswer] = {}
            forced = [p for p in prompts if p.conversation.answer]
            for start in range(0, len(forced), MAX_PROMPTS_PER_PASS):
                raw.update(self._forced(features, forced[start : start + MAX_PROMPTS_PER_PASS], clock))
            for prompt in prompts:
                if not prompt.conversation.answer:
                    raw[prompt.index] = self._generated(features, prompt, clock)
            clock.begin("postprocess")
            composed = {
                prompt.index: compose(
                    raw[prompt.index],
                    prompt.query,
                    frame,
                    model.config,
                    model_id=self.model_id,
                    stages_s={},
                    hint=self._unknown_words(prompt.query),
                )
                for prompt in prompts
            }
            stages = clock.finish()
            results.update({index: result.with_timing(stages) for index, result in composed.items()})
        return [results[index] for index in range(len(queries))]

    def _network(self) -> XSamModel:
        if self._model is None:
            raise ModelError("the model was closed", hint="load it again")
        return self._model

    def _prepare(self, index: int, query: Query, frame: Frame) -> _Prompt:
        config = self._network().config
        task = query.resolved_task()
        conversation = conversation_for(query)
        tokens = tokenize(self._tokenizer, conversation, bos=config.bos_before_user)
        tokens = tokens.expand(config.num_image_tokens, config.sampler.tokens_per_region)
        room = config.llm.max_position_embeddings - (0 if conversation.answer else MAX_NEW_TOKENS)
        if len(tokens.input_ids) > room:
            raise InvalidQueryError(
                f"the query takes {len(tokens.input_ids)} tokens, the model has room for {room}",
                hint="ask for fewer categories or regions at a time, or shorten the text",
            )
        regions = None
        if task is Task.INTERACTIVE:
            regions = region_mask(prompt_mask(query.prompts, frame.image_hw), config)[None]
        elif task is Task.VISUAL_GROUNDED:
            negatives = [p for p in query.prompts if not p.positive]
            positives = [p for p in query.prompts if p.positive]
            regions = torch.stack(
                [region_mask(prompt_mask([p, *negatives], frame.image_hw), config) for p in positives]
            )
        return _Prompt(index=index, query=query, conversation=conversation, tokens=tokens, regions=regions)

    def _embed(self, features: ImageFeatures, prompt: _Prompt) -> tuple[Tensor, Tensor]:
        """Embeddings up to and including the image (T, D), and of the text behind it (L, D)."""
        model = self._network()
        ids = torch.from_numpy(prompt.tokens.input_ids).to(model.device)
        regions = None
        if prompt.regions is not None:
            count = model.config.sampler.num_sample_point
            points = torch.stack([region_points(m.to(model.device), count) for m in prompt.regions])
            regions = model.region_tokens(features.region_map.expand(len(points), -1, -1, -1), points)
        embeds = model.embed(ids, features.image_tokens[0], regions)
        split = int((ids == IMAGE_ID).nonzero().max()) + 1
        return embeds[:split], embeds[split:]

    def _forced(
        self, features: ImageFeatures, prompts: list[_Prompt], clock: _Stages
    ) -> dict[int, RawAnswer]:
        """Several queries with a given answer: one pass of the LLM, one of the decoder."""
        clock.begin("language")
        model = self._network()
        embedded = [self._embed(features, prompt) for prompt in prompts]
        prefix = embedded[0][0]
        _, hidden = packed_hidden_states(model.llm, prefix[None], [text[None] for _, text in embedded])
        seg_embeds, means = [], []
        for prompt, states in zip(prompts, hidden, strict=True):
            projected = model.llm_projector(states)
            cond_ids = torch.from_numpy(prompt.tokens.cond_ids[len(prefix) :]).to(model.device)
            means += span_means(projected, [cond_ids])
            seg_embeds.append(projected[0, int(np.flatnonzero(prompt.tokens.seg_ids == 0)[0]) - len(prefix)])
        clock.begin("decode")
        conditions, valid = pad_conditions(means)
        answer = model.decode(features, torch.stack(seg_embeds)[None], conditions[None], valid[None])[-1]
        return {
            prompt.index: RawAnswer(
                # Padded conditions are cut off again; background stays last.
                class_logits=torch.cat(
                    [answer.class_logits[0, p, :, : len(means[p])], answer.class_logits[0, p, :, -1:]], dim=-1
                ),
                mask_logits=answer.mask_logits[0, p],
            )
            for p, prompt in enumerate(prompts)
        }

    def _generated(self, features: ImageFeatures, prompt: _Prompt, clock: _Stages) -> RawAnswer:
        """One query whose answer is generated; masks only if it holds exactly one `<SEG>`."""
        clock.begin("language")
        model = self._network()
        embeds = torch.cat(self._embed(features, prompt))
        stop = self._tokenizer.convert_tokens_to_ids([END_TAG, self._tokenizer.eos_token])
        generation = generate(
            model.llm,
            embeds,
            max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=stop,
            on_token=lambda _: clock.check(),
        )
        text = self._tokenizer.decode(generation.token_ids, skip_special_tokens=False)
        ids = np.concatenate([prompt.tokens.input_ids, np.array(generation.token_ids, np.int64)])
        cond_ids, seg_ids = mark_positions(self._tokenizer, ids[: len(generation.hidden_states)])
        if asked := prompt.tokens.num_conditions:  # phrases in an explanation are not what was asked for
            cond_ids[cond_ids >= asked] = -1
        if int(seg_ids.max()) != 0 or int(cond_ids.max()) < 0:
            return RawAnswer(class_logits=None, mask_logits=None, text=text)
        clock.begin("decode")
        projected = model.llm_projector(generation.hidden_states)
        means = span_means(projected[None], [torch.from_numpy(cond_ids).to(model.device)])
        seg = projected[int(np.flatnonzero(seg_ids == 0)[0])]
        conditions, valid = pad_conditions(means)
        answer = model.decode(features, seg[None, None], conditions[None], valid[None])[-1]
        return RawAnswer(
            class_logits=answer.class_logits[0, 0], mask_logits=answer.mask_logits[0, 0], text=text
        )

    def _unknown_words(self, query: Query) -> str:
        """A hint that names the words the tokenizer does not know (word-level vocabularies only)."""
        unknown_id = self._tokenizer.unk_token_id
        names = [category_name(name) for name in query.thing_classes + query.stuff_classes]
        words = [word for text in (clean_text(query.text), *names) for word in text.replace("?", " ").split()]
        unknown = [w for w in words if unknown_id in self._tokenizer.encode(w, add_special_tokens=False)]
        return f"the model does not know the word(s): {', '.join(dict.fromkeys(unknown))}" if unknown else ""


class _Stages:
    """Names and times the stages of a request and keeps its deadline."""

    def __init__(self, deadline_s: float | None, on_stage: StageHook | None) -> None:
        self._start = time.monotonic()
        self._deadline_s = deadline_s
        self._hook = on_stage
        self._current: tuple[str, float] | None = None
        self._spent: dict[str, float] = {}

    def remaining_s(self) -> float:
        """Seconds left; −1 (for ever, as `Lock.acquire` reads it) without a deadline."""
        if self._deadline_s is None:
            return -1.0
        left_s = self._start + self._deadline_s - time.monotonic()
        return min(max(0.0, left_s), threading.TIMEOUT_MAX)

    def check(self) -> None:
        if self._deadline_s is not None and self.remaining_s() <= 0:
            stage = f" in stage {self._current[0]!r}" if self._current else ""
            raise DeadlineExceededError(f"no answer within {self._deadline_s:.3f} s{stage}")

    def begin(self, stage: str) -> None:
        self._close()
        self.check()
        if self._hook is not None:
            self._hook(stage)
        self._current = (stage, time.monotonic())

    def finish(self) -> dict[str, float]:
        self._close()
        self.check()
        return self._spent

    def _close(self) -> None:
        if self._current is not None:
            stage, since = self._current
            self._spent[stage] = self._spent.get(stage, 0.0) + time.monotonic() - since
            self._current = None


def _as_frame(source: ImageOrFrame | CameraRef) -> Frame:
    if isinstance(source, CameraRef):
        raise UnknownCameraError(
            f"unknown camera {source.name!r}: the in-process engine has no cameras",
            hint="pass the image itself",
        )
    return source if isinstance(source, Frame) else Frame(rgb=source)


@contextmanager
def _model_errors() -> Iterator[None]:
    """Turn what PyTorch raises into the project's errors, with the cause attached."""
    try:
        yield
    except XSamError:
        raise
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(str(error).splitlines()[0] if str(error) else "out of memory") from error
    except Exception as error:
        raise ModelError(f"inference failed: {type(error).__name__}: {error}") from error
