"""Running the LLM: many prompts behind one image in a single pass, and greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, Phi3ForCausalLM


def packed_hidden_states(
    llm: Phi3ForCausalLM, prefix: Tensor, texts: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Last hidden states of P texts that each follow the same prefix, in one sequence.

    Every text sees the prefix and itself, not the other texts, and is placed as if it followed the
    prefix alone, so the states equal P separate passes. The sliding window is honoured.

    Args:
        prefix: (B, T, D) embeddings that all texts share: user tag and image tokens.
        texts: P tensors (B, L, D), each with a length of its own; padding goes to the right, where
            no real token sees it.

    Returns:
        (B, T, D) states of the prefix and P tensors (B, L, D) of the texts.
    """
    device = prefix.device
    lengths = [text.shape[1] for text in texts]
    owner = torch.repeat_interleave(
        torch.arange(1, len(texts) + 1, device=device), torch.tensor(lengths, device=device)
    )
    offset = torch.cat([torch.arange(n, device=device) for n in lengths])
    first, rest = packed_row_states(llm, prefix, torch.cat(list(texts), dim=1), owner[None], offset[None])
    return first, list(rest.split(lengths, dim=1))


def packed_row_states(
    llm: Phi3ForCausalLM, prefix: Tensor, rows: Tensor, owner: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Last hidden states of rows in which several texts stand one after the other.

    Args:
        prefix: (B, T, D) embeddings that all texts of a row follow.
        rows: (B, L, D) embeddings of the texts.
        owner: (B or 1, L) int64, which text a position belongs to, counted from 1.
        offset: (B or 1, L) int64, the position within its text.

    Returns:
        (B, T, D) states of the prefix and (B, L, D) of the rows.
    """
    batch, shared, _ = prefix.shape
    positions = torch.cat(
        [torch.arange(shared, device=prefix.device).expand(len(offset), -1), shared + offset], dim=1
    )
    owner = F.pad(owner, (shared, 0))  # the prefix is everyone's
    distance = positions[:, :, None] - positions[:, None]
    visible = (distance >= 0) & ((owner[:, None] == 0) | (owner[:, :, None] == owner[:, None]))
    if llm.config.sliding_window is not None:
        visible &= distance < llm.config.sliding_window
    hidden = llm.model(
        inputs_embeds=torch.cat([prefix, rows], dim=1),
        attention_mask=visible[:, None].expand(batch, 1, -1, -1),
        position_ids=positions.expand(batch, -1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, :shared], hidden[:, shared:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A greedy continuation."""

    token_ids: list[int]  # generated tokens, the stop token included
    hidden_states: Tensor  # (T + N − 1, D): of the prompt and of every generated token but the last


@torch.no_grad()
def generate(
    llm: Phi3ForCausalLM,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    forced_ids: Sequence[int] | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Continue one prompt greedily, keeping the last hidden states.

    Args:
        prompt: (T, D) embeddings.
        stop_ids: generation ends after any of these.
        forced_ids: take these tokens instead of the most likely ones (tests, teacher forcing).
        on_token: called with each new token; may raise to cancel.
    """
    cache = DynamicCache(config=llm.config)
    step = prompt[None]
    states: list[Tensor] = []
    token_ids: list[int] = []
    limit = max_new_tokens if forced_ids is None else len(forced_ids)
    position = 0
    while len(token_ids) < limit:
        length = step.shape[1]
        hidden = llm.model(
            inputs_embeds=step,
            past_key_values=cache,
            position_ids=torch.arange(position, position + length, device=step.device)[None],
            use_cache=True,
        ).last_hidden_state
        position += length
        states.append(hidden[0])
        if forced_ids is None:
            token = int(llm.lm_head(hidden[:, -1]).argmax())
        else:
            token = forced_ids[len(token_ids)]
        token_ids.append(token)
        if on_token is not None:
            on_token(token)
        if token in stop_ids:
            break
        step = llm.model.embed_tokens(torch.tensor([[token]], device=step.device))
    return Generation(token_ids=token_ids, hidden_states=torch.cat(states))
