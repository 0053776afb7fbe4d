"""`XSam`: images and words in, typed results out. The in-process `Segmenter`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.acceleration import compile_fixed_shapes, cpu_threads, quantize_language_model
from xsam.answer import RawAnswer, compose, plain_text
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
from xsam.frame_cache import EncodedFrame, FrameCache
from xsam.model.language import PrefixCache, cache_prefix, following_states, generate
from xsam.model.region_sampler import region_points
from xsam.model.xsam import DecoderStage, XSamModel, pad_conditions, span_means
from xsam.preprocess import prompt_mask, region_mask, segmentation_pixels, vision_pixels
from xsam.prompts import (
    END_TAG,
    IMAGE_ID,
    SEG_TAG,
    Conversation,
    TokenizedPrompt,
    category_name,
    clean_text,
    conversation_for,
    mark_positions,
    tokenize,
)
from xsam.request_clock import RequestClock, StageHook
from xsam.structures import CameraRef, Frame, Query, SegmentationResult, Task

MAX_PROMPTS_PER_PASS = 8
MAX_NEW_TOKENS = 256
DEFAULT_FRAME_CACHE_MIB = 2048
PREFIX_ROOM = 320  # positions behind the image that are allocated with it: eight short prompts

TextHook = Callable[[int, str], None]
ImageOrFrame = NDArray[np.uint8] | Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A query that passed validation, as tokens."""

    index: int  # place in the request
    query: Query
    conversation: Conversation
    tokens: TokenizedPrompt  # expanded
    text_start: int  # index of the first token behind the image
    regions: Tensor | None  # (R, S, S) masks for the region sampler


class XSam:
    """X-SAM with its tokenizer and preprocessing, ready to answer.

    Use `XSam.load`. Calls are serialised by a lock; every answer is deterministic: the same frame
    and queries give the same result. What depends on a frame alone is computed once and kept for the
    next query on the same pixels (see `FrameCache`).
    """

    def __init__(
        self,
        model: XSamModel,
        tokenizer: Any,
        *,
        model_id: str,
        frame_cache_mib: float = DEFAULT_FRAME_CACHE_MIB,
        threads: int | None = None,
    ) -> None:
        self._model: XSamModel | None = model.eval()
        self._threads = threads
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._frames = FrameCache(int(frame_cache_mib * 2**20))
        self.model_id = model_id

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        llm_device: str | None = None,
        llm_weights: Literal["as_loaded", "int8"] = "as_loaded",
        compiled: bool = False,
        threads: int | None = None,
        frame_cache_mib: float = DEFAULT_FRAME_CACHE_MIB,
    ) -> XSam:
        """Open a checkpoint.

        Args:
            model: "tiny" (shipped with the package) or a folder written by `xsam convert`.
            device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1" …
            dtype: "auto" is bfloat16 on CUDA and float32 on the CPU.
            llm_device: where the language model goes, if not with the rest.
            llm_weights: "int8" stores the language model's matrices in eight bits; needs torchao.
            compiled: experimental: compile the encoders with `torch.compile`; the first frame takes minutes.
            threads: CPU threads of PyTorch during a call; None leaves PyTorch's own number.
            frame_cache_mib: memory for what was computed from frames; 0 keeps nothing.

        Raises:
            CheckpointError: files are missing, damaged, or do not fit together.
            ModelError: an option needs a package that is not installed.
        """
        folder, model_id = resolve_model(model)
        target = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        automatic = torch.bfloat16 if target.type == "cuda" else torch.float32
        network, tokenizer = load_checkpoint(
            folder,
            device=target,
            llm_device=llm_device,
            dtype=automatic if dtype == "auto" else getattr(torch, dtype),
        )
        if llm_weights == "int8":
            quantize_language_model(network)
        if compiled:
            compile_fixed_shapes(network)
        return cls(network, tokenizer, model_id=model_id, frame_cache_mib=frame_cache_mib, threads=threads)

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
            self._frames.clear()
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
        on_text: TextHook | None = ...,
    ) -> SegmentationResult: ...

    @overload
    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: Sequence[Query],
        *,
        deadline_s: float | None = ...,
        on_stage: StageHook | None = ...,
        on_text: TextHook | None = ...,
    ) -> list[SegmentationResult]: ...

    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: str | Query | Sequence[Query],
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
    ) -> SegmentationResult | list[SegmentationResult]:
        """Answer one query or several on one image.

        Args:
            source: uint8 RGB image (H, W, 3) or a `Frame`. The engine has no cameras of its own.
            queries: text (a phrase, or a question that ends in "?"), a `Query`, or a sequence.
            deadline_s: seconds from now; checked between stages. None = no limit.
            on_stage: called with the name of each stage as it begins; may raise an `XSamError`.
            on_text: called with the index of the query and its answer so far, without tags, after each
                generated token; may raise an `XSamError`. Most tasks generate nothing.

        Returns:
            One result for one query, a list for a sequence; see `Segmenter.segment`.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, ModelError, and what
            the hooks raise. An invalid query in a sequence is a REFUSED result instead.
        """
        clock = RequestClock(deadline_s, on_stage)
        frame = _as_frame(source)
        if isinstance(queries, (str, Query)):
            query = Query(text=queries) if isinstance(queries, str) else queries
            query.validate(frame.image_hw)
            result = self._answer(frame, [query], clock, on_text)[0]
            if result.code == InvalidQueryError.code:  # found invalid once it was tokenised
                raise InvalidQueryError(result.message, hint=result.hint)
            return result
        if not queries:
            raise InvalidQueryError("no queries were given")
        return self._answer(frame, list(queries), clock, on_text)

    def _answer(
        self, frame: Frame, queries: list[Query], clock: RequestClock, on_text: TextHook | None
    ) -> list[SegmentationResult]:
        if not self._lock.acquire(timeout=clock.remaining_s()):
            raise DeadlineExceededError("another request kept the model busy until the deadline")
        try:
            with torch.inference_mode(), cpu_threads(self._threads), _model_errors():
                return self._run(frame, queries, clock, on_text)
        except OutOfMemoryError:
            self._frames.clear()  # the next request may fit
            raise
        finally:
            self._lock.release()

    def _run(
        self, frame: Frame, queries: list[Query], clock: RequestClock, on_text: TextHook | None
    ) -> list[SegmentationResult]:
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
            key = FrameCache.key(frame.rgb)
            encoded = self._frames.get(key)
            if encoded is None:
                encoded = self._encode(frame, clock)
            else:
                clock.begin("encode")  # nothing to do
            try:
                raw = self._ask(encoded, prompts, clock, on_text)
            finally:
                self._frames.put(key, encoded)
            clock.begin("postprocess")
            composed = {
                prompt.index: compose(
                    raw[prompt.index],
                    prompt.query,
                    frame,
                    self.config,
                    model_id=self.model_id,
                    stages_s={},
                    hint=self._unknown_words(prompt.query),
                )
                for prompt in prompts
            }
            stages = clock.finish()
            results.update({index: result.with_timing(stages) for index, result in composed.items()})
        return [results[index] for index in range(len(queries))]

    def _encode(self, frame: Frame, clock: RequestClock) -> EncodedFrame:
        """Run everything but the language model's prefix on a frame that is not in the cache."""
        model = self._network()
        self._frames.make_room()
        pixels = vision_pixels(frame.rgb, model.config), segmentation_pixels(frame.rgb, model.config)
        clock.begin("encode")
        features = model.encode_image(*(tensor[None].to(model.device, model.dtype) for tensor in pixels))
        return EncodedFrame(
            image_tokens=features.image_tokens,
            region_map=features.region_map,
            memory=model.decoder_memory(features),
        )

    def _ask(
        self, encoded: EncodedFrame, prompts: list[_Prompt], clock: RequestClock, on_text: TextHook | None
    ) -> dict[int, RawAnswer]:
        """Template answers in groups, generated ones each on its own."""
        raw: dict[int, RawAnswer] = {}
        forced = [p for p in prompts if p.conversation.answer]
        for start in range(0, len(forced), MAX_PROMPTS_PER_PASS):
            raw.update(self._forced(encoded, forced[start : start + MAX_PROMPTS_PER_PASS], clock))
        for prompt in prompts:
            if not prompt.conversation.answer:
                raw[prompt.index] = self._generated(encoded, prompt, clock, on_text)
        return raw

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
        return _Prompt(
            index=index,
            query=query,
            conversation=conversation,
            tokens=tokens,
            text_start=int(np.flatnonzero(tokens.input_ids == IMAGE_ID)[-1]) + 1,
            regions=regions,
        )

    def _prefix(self, encoded: EncodedFrame, prompt: _Prompt) -> PrefixCache:
        """Keys and values of the user tag and the image, which every prompt begins with."""
        if encoded.prefix is None:
            assert encoded.image_tokens is not None
            model = self._network()
            ids = torch.from_numpy(prompt.tokens.input_ids[: prompt.text_start]).to(model.llm_device)
            embeds = model.embed(ids, encoded.image_tokens[0])
            encoded.prefix = cache_prefix(model.llm, embeds[None], room=PREFIX_ROOM)
            encoded.image_tokens = None
        return encoded.prefix

    def _embed(self, encoded: EncodedFrame, prompt: _Prompt) -> Tensor:
        """Embeddings of what follows the image, (L, D)."""
        model = self._network()
        ids = torch.from_numpy(prompt.tokens.input_ids[prompt.text_start :]).to(model.llm_device)
        regions = None
        if prompt.regions is not None:
            count = model.config.sampler.num_sample_point
            points = torch.stack([region_points(m.to(model.device), count) for m in prompt.regions])
            regions = model.region_tokens(encoded.region_map.expand(len(points), -1, -1, -1), points)
        return model.embed(ids, None, regions)

    def _forced(
        self, encoded: EncodedFrame, prompts: list[_Prompt], clock: RequestClock
    ) -> dict[int, RawAnswer]:
        """Several queries with a given answer: one pass of the LLM behind the image, one of the decoder."""
        clock.begin("language")
        model = self._network()
        prefix = self._prefix(encoded, prompts[0])
        clock.check()
        texts = [self._embed(encoded, prompt)[None] for prompt in prompts]
        seg_embeds, means = [], []
        for prompt, states in zip(prompts, following_states(model.llm, prefix, texts), strict=True):
            seg, conditions = self._project(
                states[0],
                prompt.tokens.cond_ids[prompt.text_start :],
                prompt.tokens.seg_ids[prompt.text_start :],
            )
            seg_embeds.append(seg)
            means.append(conditions)
        clock.begin("decode")
        answer = self._decode(encoded, seg_embeds, means)
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

    def _generated(
        self, encoded: EncodedFrame, prompt: _Prompt, clock: RequestClock, on_text: TextHook | None
    ) -> RawAnswer:
        """One query whose answer is generated; masks only if it holds exactly one `<SEG>`."""
        clock.begin("language")
        model, tokenizer = self._network(), self._tokenizer
        prefix = self._prefix(encoded, prompt)
        said: list[int] = []

        def listen(token: int) -> None:
            clock.check()
            said.append(token)
            if on_text is not None:
                on_text(prompt.index, plain_text(tokenizer.decode(said, skip_special_tokens=False)))

        generation = generate(
            model.llm,
            self._embed(encoded, prompt),
            max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=tokenizer.convert_tokens_to_ids([END_TAG, tokenizer.eos_token]),
            # An explanation ends with its mask; a caption or a chat may go on.
            final_ids=[tokenizer.convert_tokens_to_ids(SEG_TAG)] if prompt.query.explain else (),
            prefix=prefix,
            on_token=listen,
        )
        text = tokenizer.decode(generation.token_ids, skip_special_tokens=False)
        ids = np.concatenate(
            [prompt.tokens.input_ids[prompt.text_start :], np.array(generation.token_ids, np.int64)]
        )
        cond_ids, seg_ids = mark_positions(tokenizer, ids[: len(generation.hidden_states)])
        if asked := prompt.tokens.num_conditions:  # phrases in an explanation are not what was asked for
            cond_ids[cond_ids >= asked] = -1
        if int(seg_ids.max()) != 0 or int(cond_ids.max()) < 0:
            return RawAnswer(class_logits=None, mask_logits=None, text=text)
        seg, conditions = self._project(generation.hidden_states, cond_ids, seg_ids)
        clock.begin("decode")
        answer = self._decode(encoded, [seg], [conditions])
        return RawAnswer(
            class_logits=answer.class_logits[0, 0], mask_logits=answer.mask_logits[0, 0], text=text
        )

    def _project(
        self, states: Tensor, cond_ids: NDArray[np.int64], seg_ids: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """States of a text (L, D) → the seg embedding (C,) and each condition's mean (K, C).

        Only the positions that are read go through the projector.
        """
        read = np.flatnonzero((cond_ids >= 0) | (seg_ids == 0))
        model = self._network()
        projected = model.llm_projector(states[torch.from_numpy(read).to(states.device)].to(model.device))
        means = span_means(projected[None], [torch.from_numpy(cond_ids[read]).to(model.device)])
        return projected[int(np.flatnonzero(seg_ids[read] == 0)[0])], means[0]

    def _decode(
        self, encoded: EncodedFrame, seg_embeds: Sequence[Tensor], means: Sequence[Tensor]
    ) -> DecoderStage:
        conditions, valid = pad_conditions(means)
        return self._network().answer(
            encoded.memory, torch.stack(list(seg_embeds))[None], conditions[None], valid[None]
        )

    def _unknown_words(self, query: Query) -> str:
        """A hint that names the words the tokenizer does not know (word-level vocabularies only)."""
        unknown_id = self._tokenizer.unk_token_id
        names = [category_name(name) for name in query.thing_classes + query.stuff_classes]
        words = [word for text in (clean_text(query.text), *names) for word in text.replace("?", " ").split()]
        unknown = [w for w in words if unknown_id in self._tokenizer.encode(w, add_special_tokens=False)]
        return f"the model does not know the word(s): {', '.join(dict.fromkeys(unknown))}" if unknown else ""


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
