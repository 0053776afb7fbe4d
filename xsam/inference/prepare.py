"""Queries → prompts: what the network reads for one query, as tokens and regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsam.config import IMAGE_ID
from xsam.errors import InvalidQueryError
from xsam.inference.family import Family
from xsam.inference.preprocess import region_mask
from xsam.inference.prompt_masks import prompt_mask
from xsam.inference.prompts import Conversation, TokenizedPrompt, conversation_for, tokenize, without_repeats
from xsam.types.masks import BoolMask
from xsam.types.requests import Frame, Query, Task

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A valid query as tokens and regions."""

    index: int  # of the query in the request
    query: Query
    distinct: Query  # without repeated categories, which would share their probability
    task: Task  # resolved
    conversation: Conversation
    tokens: TokenizedPrompt  # expanded
    text_start: int  # index of the first token after the image
    regions: Tensor | None  # (R, S, S) masks for the region sampler
    prompt_region: BoolMask | None  # (H, W) pixels that an INTERACTIVE query points at


def prepare(family: Family, tokenizer: Any, index: int, query: Query, frame: Frame) -> Prompt:
    """Validate a query and turn it into tokens and region masks.

    Raises:
        InvalidQueryError: a field is wrong, a text is empty without its tags, or the query takes more
            tokens than the model has room for.
    """
    config = family.network.config
    task = query.validate(frame.image_hw)
    distinct = without_repeats(query)
    conversation = conversation_for(distinct, task)
    tokens = tokenize(tokenizer, conversation, family.chat)
    tokens = tokens.expand(family.count_image_tokens(frame.image_hw), config.sampler.tokens_per_region)
    room = family.max_positions - (0 if conversation.answer else MAX_NEW_TOKENS)
    if len(tokens.input_ids) > room:
        raise InvalidQueryError(
            f"the query takes {len(tokens.input_ids)} tokens, the model has room for {room}",
            hint="ask for fewer categories or regions at a time, or shorten the text",
        )
    regions = prompt_region = None
    if task is Task.INTERACTIVE:
        prompt_region = prompt_mask(query.prompts, frame.image_hw)
        regions = region_mask(prompt_region, config.square)[None]
    elif task is Task.VISUAL_GROUNDED:
        negatives = [p for p in query.prompts if not p.positive]
        positives = [p for p in query.prompts if p.positive]
        regions = torch.stack(
            [region_mask(prompt_mask([p, *negatives], frame.image_hw), config.square) for p in positives]
        )
    return Prompt(
        index=index,
        query=query,
        distinct=distinct,
        task=task,
        conversation=conversation,
        tokens=tokens,
        text_start=int(np.flatnonzero(tokens.input_ids == IMAGE_ID)[-1]) + 1,
        regions=regions,
        prompt_region=prompt_region,
    )
