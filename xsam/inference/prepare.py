"""Queries → prompts: what the network reads for one query, as tokens and regions."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsam.config import IMAGE_ID
from xsam.errors import InvalidQueryError
from xsam.inference.category_passes import split_categories
from xsam.inference.inputs import PromptInputs
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
    # With parts of the categories, if all of them take more tokens than the model has room for.
    passes: tuple[Prompt, ...] = ()


def prepare(
    inputs: PromptInputs, tokenizer: Any, index: int, query: Query, frame: Frame, *, split: bool = False
) -> Prompt:
    """Validate a query and turn it into tokens and region masks.

    Args:
        inputs: how the frame is shown to the language model.
        tokenizer: of the network.
        index: of the query in the request.
        query: as given.
        frame: the source image.
        split: divide categories that take more tokens than the model has room for into several passes.

    Raises:
        InvalidQueryError: a field is wrong, a text is empty without its tags, or the query takes more
            tokens than the model has room for.
    """
    config = inputs.config
    task = query.validate(frame.image_hw)
    distinct = without_repeats(query)
    conversation, tokens = _read(inputs, tokenizer, distinct, task, frame)
    passes: tuple[Prompt, ...] = ()
    if problem := _too_long(inputs, conversation, tokens):
        if split and task in (Task.GENERIC, Task.OPEN_VOCABULARY):
            passes = _in_passes(inputs, tokenizer, distinct, task, frame)
        if not passes:
            raise problem
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
        passes=passes,
    )


def _read(
    inputs: PromptInputs, tokenizer: Any, query: Query, task: Task, frame: Frame
) -> tuple[Conversation, TokenizedPrompt]:
    conversation = conversation_for(query, task, medium=inputs.chat.medium)
    tokens = tokenize(tokenizer, conversation, inputs.chat)
    per_region = inputs.config.sampler.tokens_per_region
    return conversation, tokens.expand(inputs.count_image_tokens(frame.image_hw), per_region)


def _too_long(
    inputs: PromptInputs, conversation: Conversation, tokens: TokenizedPrompt
) -> InvalidQueryError | None:
    room = inputs.max_positions - (0 if conversation.answer else MAX_NEW_TOKENS)
    if len(tokens.input_ids) <= room:
        return None
    return InvalidQueryError(
        f"the query takes {len(tokens.input_ids)} tokens, the model has room for {room}",
        hint="ask for fewer categories or regions at a time, or shorten the text",
    )


def _in_passes(
    inputs: PromptInputs, tokenizer: Any, query: Query, task: Task, frame: Frame
) -> tuple[Prompt, ...]:
    """Divide the categories into as few parts as fit; empty if not even single ones do."""
    for count in range(2, len(query.thing_classes + query.stuff_classes) + 1):
        passes: list[Prompt] = []
        for part in split_categories(query, count):
            conversation, tokens = _read(inputs, tokenizer, part, task, frame)
            if _too_long(inputs, conversation, tokens):
                break
            passes.append(
                Prompt(
                    index=len(passes),
                    query=part,
                    distinct=part,
                    task=task,
                    conversation=conversation,
                    tokens=tokens,
                    text_start=int(np.flatnonzero(tokens.input_ids == IMAGE_ID)[-1]) + 1,
                    regions=None,
                    prompt_region=None,
                )
            )
        if len(passes) == count:
            return tuple(passes)
    return ()


def several(queries: Any) -> list[Any]:
    """Return the members of a sequence of queries.

    Raises:
        InvalidQueryError: it is not a sequence.
    """
    try:
        unordered = isinstance(queries, (bytes, Mapping, Set))  # results are in the order of the queries
        return list(None if unordered else queries)  # type: ignore[arg-type]
    except TypeError:  # not iterable
        raise InvalidQueryError(
            f"queries must be text, a Query or a sequence of them, got {type(queries).__name__}"
        ) from None


def as_query(query: Any) -> Query:
    """Return a query, or the query that a text stands for.

    Raises:
        InvalidQueryError: it is neither.
    """
    if isinstance(query, Query):
        return query
    if not isinstance(query, str):
        raise InvalidQueryError(f"a query must be text or a Query, got {type(query).__name__}")
    return Query(text=query)
