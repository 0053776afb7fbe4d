"""The passes of the network: frames and prompts in, raw answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsam.config import IMAGE_ID
from xsam.errors import InvalidQueryError
from xsam.inference.deadline import RequestClock
from xsam.inference.frame_cache import EncodedFrame
from xsam.inference.preprocess import prompt_mask, region_mask, segmentation_pixels, vision_pixels
from xsam.inference.prompts import (
    END_TAG,
    SEG_TAG,
    Conversation,
    TokenizedPrompt,
    conversation_for,
    mark_positions,
    tokenize,
)
from xsam.inference.results import RawAnswer, plain_text
from xsam.model.language import PrefixCache, cache_prefix, following_states, generate
from xsam.model.region_sampler import region_points
from xsam.model.xsam import DecoderStage, XSamModel, pad_conditions, span_means
from xsam.types.requests import Frame, Query, Task

MAX_PROMPTS_PER_PASS = 8
MAX_NEW_TOKENS = 256
PREFIX_ROOM = 320  # positions behind the image that are allocated with it: eight short prompts

TextHook = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A query that passed validation, as tokens."""

    index: int  # place in the request
    query: Query
    conversation: Conversation
    tokens: TokenizedPrompt  # expanded
    text_start: int  # index of the first token behind the image
    regions: Tensor | None  # (R, S, S) masks for the region sampler


class Passes:
    """A network and its tokenizer; one call at a time, within `torch.inference_mode`."""

    def __init__(self, model: XSamModel, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def prepare(self, index: int, query: Query, frame: Frame) -> Prompt:
        """Turn a valid query into tokens and region masks.

        Raises:
            InvalidQueryError: a text is empty without its tags, or the tokens are more than the model takes.
        """
        config = self.model.config
        task = query.resolved_task()
        conversation = conversation_for(query)
        tokens = tokenize(self.tokenizer, conversation, bos=config.bos_before_user)
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
        return Prompt(
            index=index,
            query=query,
            conversation=conversation,
            tokens=tokens,
            text_start=int(np.flatnonzero(tokens.input_ids == IMAGE_ID)[-1]) + 1,
            regions=regions,
        )

    def encode(self, frame: Frame, clock: RequestClock) -> EncodedFrame:
        """Compute everything that no query changes but the language model's prefix, which waits for one."""
        model = self.model
        pixels = vision_pixels(frame.rgb, model.config), segmentation_pixels(frame.rgb, model.config)
        clock.begin("encode")
        features = model.encode_image(*(tensor[None].to(model.device, model.dtype) for tensor in pixels))
        return EncodedFrame(
            image_tokens=features.image_tokens,
            region_map=features.region_map,
            memory=model.decoder_memory(features),
        )

    def answer(
        self, encoded: EncodedFrame, prompts: list[Prompt], clock: RequestClock, on_text: TextHook | None
    ) -> dict[int, RawAnswer]:
        """Answer prompts on a frame, template answers in groups and generated ones each on its own.

        Returns:
            The raw answers by each prompt's index.

        Raises:
            DeadlineExceededError: time ran out between stages or generated tokens.
        """
        raw: dict[int, RawAnswer] = {}
        forced = [p for p in prompts if p.conversation.answer]
        for start in range(0, len(forced), MAX_PROMPTS_PER_PASS):
            raw.update(self._forced(encoded, forced[start : start + MAX_PROMPTS_PER_PASS], clock))
        for prompt in prompts:
            if not prompt.conversation.answer:
                raw[prompt.index] = self._generated(encoded, prompt, clock, on_text)
        return raw

    def _prefix(self, encoded: EncodedFrame, prompt: Prompt) -> PrefixCache:
        """Keys and values of the user tag and the image, which every prompt begins with."""
        if encoded.prefix is None:
            assert encoded.image_tokens is not None
            ids = torch.from_numpy(prompt.tokens.input_ids[: prompt.text_start]).to(self.model.llm_device)
            embeds = self.model.embed(ids, encoded.image_tokens[0])
            encoded.prefix = cache_prefix(self.model.llm, embeds[None], room=PREFIX_ROOM)
            encoded.image_tokens = None
        return encoded.prefix

    def _embed(self, encoded: EncodedFrame, prompt: Prompt) -> Tensor:
        """Embeddings of what follows the image, (L, D)."""
        model = self.model
        ids = torch.from_numpy(prompt.tokens.input_ids[prompt.text_start :]).to(model.llm_device)
        regions = None
        if prompt.regions is not None:
            count = model.config.sampler.num_sample_point
            points = torch.stack([region_points(m.to(model.device), count) for m in prompt.regions])
            regions = model.region_tokens(encoded.region_map.expand(len(points), -1, -1, -1), points)
        return model.embed(ids, None, regions)

    def _forced(
        self, encoded: EncodedFrame, prompts: list[Prompt], clock: RequestClock
    ) -> dict[int, RawAnswer]:
        """Several queries with a given answer: one pass of the LLM behind the image, one of the decoder."""
        clock.begin("language")
        model = self.model
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
        self, encoded: EncodedFrame, prompt: Prompt, clock: RequestClock, on_text: TextHook | None
    ) -> RawAnswer:
        """One query whose answer is generated; masks only if it holds exactly one `<SEG>`."""
        clock.begin("language")
        model, tokenizer = self.model, self.tokenizer
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
        model = self.model
        projected = model.llm_projector(states[torch.from_numpy(read).to(states.device)].to(model.device))
        means = span_means(projected[None], [torch.from_numpy(cond_ids[read]).to(model.device)])
        return projected[int(np.flatnonzero(seg_ids[read] == 0)[0])], means[0]

    def _decode(
        self, encoded: EncodedFrame, seg_embeds: Sequence[Tensor], means: Sequence[Tensor]
    ) -> DecoderStage:
        conditions, valid = pad_conditions(means)
        return self.model.answer(
            encoded.memory, torch.stack(list(seg_embeds))[None], conditions[None], valid[None]
        )
