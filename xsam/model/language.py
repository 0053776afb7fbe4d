"""Running the LLM: a cached prefix, many prompts after it in a single pass, greedy generation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from xsam.model.blocks.text import CausalText, PackedAttention, SplitAttention, rotate_heads

if TYPE_CHECKING:  # it loads the model classes of `transformers`
    from xsam.model.qwen_vl import QwenVlText

LanguageModel: TypeAlias = "CausalText | QwenVlText"


def packed_hidden_states(
    llm: LanguageModel, prefix: Tensor, texts: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Compute the last hidden states of P texts that each follow the same prefix, in one sequence.

    Every text attends to the prefix and itself, not to the other texts, and has the positions it would have
    right after the prefix, so the states equal those of P separate passes. The sliding window is honored.

    Args:
        prefix: (B, T, D) embeddings that all texts share: user tag and image tokens.
        texts: P tensors (B, L, D) of any lengths; padding goes to the right, where no real token
            attends to it.

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
    llm: LanguageModel,
    prefix: Tensor,
    rows: Tensor,
    owner: Tensor,
    offset: Tensor,
    *,
    lengths: Tensor | None = None,
    visual: Tensor | None = None,
    deepstack: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Compute the states that the decoder reads, of rows that concatenate several texts.

    Args:
        prefix: (B, T, D) embeddings that all texts of a row follow.
        rows: (B, L, D) embeddings of the texts.
        owner: (B or 1, L) int64, index of the text that a position belongs to, counted from 1.
        offset: (B or 1, L) int64, the position within its text.
        lengths: (B,) of the prefixes, where some end earlier than T; None = all have T positions.
        visual: (B, T) bool, the visual tokens of the prefixes; needed with `deepstack`.
        deepstack: (N, D) features of the N visual tokens, image after image; the j-th tensor is added to
            their states after layer j.

    Returns:
        (B, T, D) states of the prefix and (B, L, D) of the rows.
    """
    batch, shared, _ = prefix.shape
    within = torch.arange(shared, device=prefix.device)[None]
    ends = torch.full((1, 1), shared, device=prefix.device) if lengths is None else lengths[:, None]
    count = max(len(offset), len(ends))
    positions = torch.cat([within.expand(count, -1), (ends + offset).expand(count, -1)], dim=1)
    of_prefix = torch.where(within < ends, 0, -1)  # 0: belongs to all texts, −1: padding
    owner = torch.cat([of_prefix.expand(count, -1), owner.expand(count, -1)], dim=1)
    distance = positions[:, :, None] - positions[:, None]
    visible = (distance >= 0) & ((owner[:, None] == 0) | (owner[:, :, None] == owner[:, None]))
    visible &= distance < _window(llm)
    embeds = torch.cat([prefix, rows], dim=1)
    if isinstance(llm, CausalText):
        hidden = llm.model(embeds, positions, visible[:, None])
        return hidden[:, :shared], hidden[:, shared:]
    own = (
        {}
        if visual is None
        else {
            "visual_pos_masks": F.pad(visual, (0, rows.shape[1])),
            "deepstack_visual_embeds": list(deepstack),
        }
    )
    with _states_of(llm) as states:
        llm.model(
            inputs_embeds=embeds,
            attention_mask=visible[:, None].expand(batch, 1, -1, -1),
            position_ids=positions.expand(batch, -1),
            use_cache=False,
            **own,
        )
    hidden = states[0]
    return hidden[:, :shared], hidden[:, shared:]


@contextmanager
def _states_of(llm: QwenVlText) -> Iterator[list[Tensor]]:
    """Collect what enters the final norm, which is what the decoder reads."""
    states: list[Tensor] = []
    hook = llm.model.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    try:
        yield states
    finally:
        hook.remove()


class PrefixCache:
    """Keys and values of a prefix, in fixed buffers with room for the text that follows.

    The whole prefix is kept, whatever the sliding window: each query masks what it must not attend to. The
    room after the prefix is scratch space that every text and every generation overwrites, so a cache serves
    one call at a time.
    """

    def __init__(self, llm: LanguageModel, batch: int, capacity: int) -> None:
        config, weight = llm.config, llm.model.norm.weight
        head_dim = llm.model.layers[0].self_attn.head_dim
        shape = (batch, config.num_key_value_heads, capacity, head_dim)
        self.length = 0  # T, positions of the prefix
        self.keys = [weight.new_empty(shape) for _ in llm.model.layers]  # rotated; (B, heads, capacity, d)
        self.values = [weight.new_empty(shape) for _ in llm.model.layers]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of all buffers, bytes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def reserve(self, room: int) -> None:
        """Make room for this many positions after the prefix."""
        missing = self.length + room - self.capacity
        if missing > 0:
            for buffers in (self.keys, self.values):
                for layer, buffer in enumerate(buffers):
                    larger = buffer.new_empty((*buffer.shape[:2], self.length + room, buffer.shape[3]))
                    larger[:, :, : self.length] = buffer[:, :, : self.length]
                    buffers[layer] = larger


@torch.no_grad()
def cache_prefix(
    llm: LanguageModel, prefix: Tensor, *, room: int = 0, deepstack: Sequence[Tensor] = ()
) -> PrefixCache:
    """Run a prefix once for all texts that follow it.

    The last layer computes only its keys and values: the prefix's own final states are never used.

    Args:
        prefix: (B, T, D) embeddings, T ≥ 1.
        room: positions to allocate after the prefix; more are allocated on demand.
        deepstack: (1, T, D) tensors; the j-th is added to the states after layer j.
    """
    batch, length, _ = prefix.shape
    cache = PrefixCache(llm, batch, length + room)
    positions = torch.arange(length, device=prefix.device)[None]
    mask = None if _window(llm) >= length else _visible(positions, positions, None, None, _window(llm))
    _run_layers(llm, prefix, positions, cache, mask, states=False, deepstack=deepstack)
    cache.length = length
    return cache


@torch.no_grad()
def following_states(llm: LanguageModel, cache: PrefixCache, texts: Sequence[Tensor]) -> list[Tensor]:
    """Compute the last hidden states of P texts that each follow the cached prefix, in one pass.

    Equals `packed_hidden_states` without running the prefix again.

    Args:
        texts: P tensors (B, L, D) of any lengths.
    """
    lengths = [text.shape[1] for text in texts]
    rows = torch.cat(list(texts), dim=1)
    owner = torch.cat([torch.full((1, n), i + 1, device=rows.device) for i, n in enumerate(lengths)], dim=1)
    own = cache.length + torch.cat([torch.arange(n, device=rows.device) for n in lengths])[None]
    shared = torch.arange(cache.length, device=rows.device)[None]
    mask = _visible(
        own, torch.cat([shared, own], dim=1), owner, F.pad(owner, (cache.length, 0)), _window(llm)
    )
    cache.reserve(rows.shape[1])
    hidden = _run_layers(llm, rows, own, cache, mask)
    return list(hidden.split(lengths, dim=1))


def _window(llm: LanguageModel) -> int:
    return getattr(llm.config, "sliding_window", None) or sys.maxsize


def _visible(
    queries: Tensor, keys: Tensor, owner: Tensor | None, key_owner: Tensor | None, window: int
) -> Tensor:
    """Build the (1, 1, queries, keys) bool mask of positions (1, N); owner 0 belongs to all texts."""
    distance = queries[:, :, None] - keys[:, None]
    visible = (distance >= 0) & (distance < window)
    if owner is not None and key_owner is not None:
        visible &= (key_owner[:, None] == 0) | (owner[:, :, None] == key_owner[:, None])
    return visible[:, None]


def _run_layers(
    llm: LanguageModel,
    x: Tensor,
    positions: Tensor,
    cache: PrefixCache,
    mask: Tensor | None,
    *,
    start: int | None = None,
    first: int = 0,
    states: bool = True,
    deepstack: Sequence[Tensor] = (),
) -> Tensor:
    """Run the stock layers over (B, L, D), with keys and values in the cache's buffers.

    Args:
        positions: (1, L), for the rotary embedding.
        mask: (1, 1, L, keys) bool; None = causal for a prefix, everything for a single token.
        start: buffer position of the first of the L tokens; None = right after the prefix.
        first: keys before this buffer position are not attended to.
        states: False = the output is not needed, so the last layer stops at its keys and values.
        deepstack: the j-th is added to the states after layer j.
    """
    start = cache.length if start is None else start
    end = start + x.shape[1]
    cos, sin = llm.model.rotary_emb(x, position_ids=positions)
    for index, layer in enumerate(llm.model.layers):
        attention = layer.self_attn
        query, key, value = _project_heads(attention, layer.input_layernorm(x))
        query, key = rotate_heads(query, cos, sin), rotate_heads(key, cos, sin)
        keys, values = cache.keys[index], cache.values[index]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        if not states and index == len(llm.model.layers) - 1:
            break
        attended = F.scaled_dot_product_attention(
            query,
            keys[:, :, first:end],
            values[:, :, first:end],
            attn_mask=mask,
            is_causal=mask is None and x.shape[1] > 1,
            scale=attention.scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        x = x + attention.o_proj(attended.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if index < len(deepstack):
            x = x + deepstack[index]
    return llm.model.norm(x) if states and _state_is_normed(llm) else x


def _state_is_normed(llm: LanguageModel) -> bool:
    """Tell whether the decoder reads the state after the final norm; the head always does."""
    return isinstance(llm, CausalText)


def token_logits(llm: LanguageModel, state: Tensor) -> Tensor:
    """Compute the logits of the next token from states (…, D) as the decoder reads them: (…, vocabulary)."""
    return llm.lm_head(state if _state_is_normed(llm) else llm.model.norm(state))


def _project_heads(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project (B, L, D) to queries, keys and values (B, heads, L, d), before the rotary embedding."""
    if isinstance(attention, (PackedAttention, SplitAttention)):
        return attention.project_heads(x)
    query, key, value = (  # Qwen3-VL's
        project(x).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A greedy continuation."""

    token_ids: list[int]  # generated tokens, the stop token included
    hidden_states: Tensor  # (L + N − 1, D) of the prompt and the generated tokens; L + N after a final one


@torch.no_grad()
def generate(
    llm: LanguageModel,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    final_ids: Sequence[int] = (),
    prefix: PrefixCache | None = None,
    forced_ids: Sequence[int] | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Continue one prompt greedily, keeping the last hidden states.

    Args:
        prompt: (L, D) embeddings; they follow the prefix if there is one.
        stop_ids: generation ends after any of these.
        final_ids: generation ends after any of these as well, with the token's own state computed.
        prefix: cached keys and values of what precedes the prompt.
        forced_ids: use these tokens instead of the most likely ones (tests, teacher forcing).
        on_token: called with each new token; may raise to cancel.
    """
    max_tokens = max_new_tokens if forced_ids is None else len(forced_ids)
    room = len(prompt) + max_tokens
    cache = PrefixCache(llm, 1, room) if prefix is None else prefix
    cache.reserve(room)
    all_positions = torch.arange(cache.length + room, device=prompt.device)[None]
    window = _window(llm)

    start, step = cache.length, prompt[None]
    mask = None
    if start or len(prompt) > window:
        end = start + len(prompt)
        mask = _visible(all_positions[:, start:end], all_positions[:, :end], None, None, window)
    states = prompt.new_empty((room, prompt.shape[1]))
    count = 0
    token_ids: list[int] = []
    while len(token_ids) < max_tokens or (token_ids and token_ids[-1] in final_ids):
        end = start + step.shape[1]
        first = max(0, end - window) if mask is None and step.shape[1] == 1 else 0
        positions = all_positions[:, start:end]
        hidden = _run_layers(llm, step, positions, cache, mask, start=start, first=first)
        start, mask = end, None
        states[count : count + hidden.shape[1]] = hidden[0]
        count += hidden.shape[1]
        if token_ids and token_ids[-1] in final_ids:
            break
        if forced_ids is None:
            likeliest = token_logits(llm, hidden[:, -1]).argmax(dim=-1)
            token = int(likeliest)
        else:
            token = forced_ids[len(token_ids)]
            likeliest = torch.tensor([token], device=prompt.device)
        token_ids.append(token)
        if on_token is not None:
            on_token(token)
        if token in stop_ids:
            break
        step = llm.model.embed_tokens(likeliest[None]).to(prompt.dtype)
    return Generation(token_ids=token_ids, hidden_states=states[:count])
