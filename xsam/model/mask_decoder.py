"""Mask2Former's masked-attention decoder, conditioned on the LLM, for many prompts of one image.

P prompts share the keys and values of their image instead of repeating them, and so that what depends
on the image alone is computed once per image (`decoder_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xsam.model.blocks.mask2former import MaskDecoder, QueryLayer, sine_code
from xsam.model.blocks.parts import activate

_PLACE_PERIODS = 4
_PLACE_CODE = 5 + 4 * _PLACE_PERIODS


class ClassPredictor(nn.Module):
    """Cosine similarity of query states to condition embeddings, times a learned scale."""

    def __init__(self, clamp: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full((1,), 2.3))
        self.clamp = clamp

    def forward(self, queries: Tensor, conditions: Tensor) -> Tensor:
        """Compare (..., Q, C) with (..., K, C): (..., Q, K) logits within ±clamp, float32."""
        # In bfloat16, logits of 10 are 1/16 apart: queries would tie.
        queries, conditions = F.normalize(queries.float(), dim=-1), F.normalize(conditions.float(), dim=-1)
        similarity = queries @ conditions.transpose(-1, -2)
        return (self.logit_scale.float().exp() * similarity).clamp(-self.clamp, self.clamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPrediction:
    """Prediction of one decoder layer."""

    states: Tensor  # (B, P, Q, C) after the shared layer norm
    mask_logits: Tensor  # (B, P, Q, H, W) at the resolution of the mask features


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderMemory:
    """Part of the decoder that depends on the image alone; shared by all prompts on it."""

    keys: tuple[Tensor, ...]  # one per layer, (B, heads, h·w, C / heads)
    values: tuple[Tensor, ...]
    mask_features: Tensor  # (B, C, H, W)
    level_mask_features: tuple[Tensor, ...]  # (B, C, h, w), resized to each scale, coarse to fine

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.keys, *self.values, self.mask_features, *self.level_mask_features)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptText:
    """Projected states of the condition tokens of P prompts of each image."""

    tokens: Tensor  # (B, P, N, C), padded
    valid: Tensor  # (B, P, N) bool, False at padding


class MaskPlaces(nn.Linear):
    """Tells a query where its mask is and how large: a linear map of `place_code`."""

    def __init__(self, width: int) -> None:
        super().__init__(_PLACE_CODE, width)

    def forward(self, mask_logits: Tensor) -> Tensor:
        """(B, P, Q, h, w) → (B, P, Q, C). No gradient reaches the masks."""
        return super().forward(place_code(mask_logits.detach()))


def place_code(mask_logits: Tensor) -> Tensor:
    """Describe soft masks: center, spread and area, and sines of the center at several periods.

    Args:
        mask_logits: (..., h, w).

    Returns:
        (..., 21). Centers are −1 … 1 from left to right and from top to bottom of the map.
    """
    height, width = mask_logits.shape[-2:]
    share = mask_logits.float().sigmoid()
    area = share.mean(dim=(-2, -1))
    moments = []
    for marginal, count in ((share.sum(dim=-2), width), (share.sum(dim=-1), height)):
        at = (torch.arange(count, device=share.device, dtype=share.dtype) + 0.5) * (2 / count) - 1
        weight = marginal / marginal.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        center = (weight * at).sum(dim=-1)
        spread = (weight * (at - center[..., None]).square()).sum(dim=-1).sqrt()
        moments += [center, spread]
    centers = torch.stack(moments[::2], dim=-1)
    angles = torch.cat([centers * (math.pi * 2**k / 2) for k in range(_PLACE_PERIODS)], dim=-1)
    plain = torch.stack([*moments, (area + 1e-4).log() / 4], dim=-1)
    return torch.cat([plain, angles.sin(), angles.cos()], dim=-1).to(mask_logits.dtype)


def add_mask_places(module: MaskDecoder) -> None:
    """Let every layer begin with the places of the masks so far (not part of the published X-SAM)."""
    module.mask_places = MaskPlaces(module.queries_features.embedding_dim)


def add_text_attention(module: MaskDecoder) -> None:
    """Give every layer cross-attention to the prompt's text, as in X2SAM."""
    for layer in module.decoder.layers:
        width, heads = layer.cross_attn.embed_dim, layer.cross_attn.num_heads
        layer.text_cross_attn = nn.MultiheadAttention(width, heads)
        layer.text_cross_attn_layer_norm = nn.LayerNorm(width)


def decoder_memory(
    module: MaskDecoder, multi_scale: Sequence[Tensor], mask_features: Tensor
) -> DecoderMemory:
    """Project an image's features to the keys and values of every decoder layer.

    Args:
        multi_scale: three maps (B, C, H, W), coarse to fine, from the pixel decoder.
        mask_features: (B, C, H, W).
    """
    memory, positioned = [], []
    for level, features in enumerate(multi_scale):
        tokens = module.input_projections[level](features).flatten(2).transpose(1, 2)
        tokens = tokens + module.level_embed.weight[level]
        memory.append(tokens)
        height, width = features.shape[-2:]
        positioned.append(tokens + sine_code((height, width), tokens.shape[-1], like=tokens))
    keys, values = [], []
    for index, layer in enumerate(module.decoder.layers):
        level = index % len(memory)
        attention: Any = layer.cross_attn
        _, weight_k, weight_v = attention.in_proj_weight.chunk(3)
        _, bias_k, bias_v = attention.in_proj_bias.chunk(3)
        keys.append(_split_heads(F.linear(positioned[level], weight_k, bias_k), attention.num_heads))
        values.append(_split_heads(F.linear(memory[level], weight_v, bias_v), attention.num_heads))
    return DecoderMemory(
        keys=tuple(keys),
        values=tuple(values),
        mask_features=mask_features,
        level_mask_features=tuple(
            mask_features
            if m.shape[-2:] == mask_features.shape[-2:]
            else F.interpolate(mask_features, size=m.shape[-2:], mode="bilinear", align_corners=False)
            for m in multi_scale
        ),
    )


def decode_queries(
    module: MaskDecoder,
    memory: DecoderMemory,
    seg_embeds: Tensor,
    text: PromptText | None = None,
) -> list[QueryPrediction]:
    """Run the decoder for P prompts of each image, with a prediction at every depth (training).

    Args:
        seg_embeds: (B, P, C), the projected state at `<SEG>`; added to every query feature.
        text: what the layers of X2SAM attend to; None for X-SAM.

    Returns:
        One prediction before the first layer and one after each.
    """
    x = _first_states(module, seg_embeds)
    predictions = [_predict(module, x, memory.mask_features)]
    for index, layer in enumerate(module.decoder.layers):
        level = index % len(memory.level_mask_features)
        size = memory.level_mask_features[level].shape[-2:]
        logits = _resized(predictions[-1].mask_logits, size)
        visible = _visible_pixels(logits)
        x = _layer(
            layer,
            _placed(module, x, logits),
            module.queries_embedder.weight,
            memory.keys[index],
            memory.values[index],
            visible,
            text,
        )
        predictions.append(_predict(module, x, memory.mask_features))
    return predictions


def predict_queries(
    module: MaskDecoder,
    memory: DecoderMemory,
    seg_embeds: Tensor,
    text: PromptText | None = None,
) -> QueryPrediction:
    """Compute only the last prediction of `decode_queries`.

    Intermediate masks only restrict the next layer's attention, at the size of its scale. Resizing is linear,
    so they are computed from mask features resized once per image instead of from resized masks.
    """
    x = _first_states(module, seg_embeds)
    for index, layer in enumerate(module.decoder.layers):
        features = memory.level_mask_features[index % len(memory.level_mask_features)]
        logits = _predict(module, x, features).mask_logits
        visible = _visible_pixels(logits)
        x = _layer(
            layer,
            _placed(module, x, logits),
            module.queries_embedder.weight,
            memory.keys[index],
            memory.values[index],
            visible,
            text,
        )
    return _predict(module, x, memory.mask_features)


def _first_states(module: MaskDecoder, seg_embeds: Tensor) -> Tensor:
    """Condition the learned queries: (B, P, C) → (B, P, Q, C)."""
    return module.queries_features.weight + seg_embeds[:, :, None]


def _predict(module: MaskDecoder, x: Tensor, mask_features: Tensor) -> QueryPrediction:
    batch, prompts, queries, _ = x.shape
    decoder = module.decoder
    states = decoder.layernorm(x)
    embeds = decoder.mask_predictor.mask_embedder(states)
    logits = embeds.reshape(batch, prompts * queries, -1) @ mask_features.flatten(2)
    return QueryPrediction(
        states=states, mask_logits=logits.reshape(batch, prompts, queries, *mask_features.shape[-2:])
    )


def _resized(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, P, Q, H, W) to (B, P, Q, h, w); no gradient flows back."""
    logits = mask_logits.detach()
    if logits.shape[-2:] == size:
        return logits
    resized = F.interpolate(logits.flatten(1, 2), size=size, mode="bilinear", align_corners=False)
    return resized.unflatten(1, logits.shape[1:3])


def _placed(module: MaskDecoder, x: Tensor, mask_logits: Tensor) -> Tensor:
    return x if module.mask_places is None else x + module.mask_places(mask_logits)


def _visible_pixels(mask_logits: Tensor) -> Tensor:
    """Return the (B, 1, P·Q, h·w) bool attention mask; a query with an empty mask attends to everything."""
    visible = mask_logits.flatten(3).flatten(1, 2) >= 0
    return (visible | ~visible.any(dim=-1, keepdim=True))[:, None]


def _split_heads(t: Tensor, heads: int) -> Tensor:
    """Split heads: (N, S, C) → (N, heads, S, C / heads)."""
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend_text(attention: nn.MultiheadAttention, queries: Tensor, text: PromptText) -> Tensor:
    """Attend from (B, P, Q, C) queries to the text of their prompt."""
    heads = attention.num_heads
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    query, key, value = (
        _split_heads(F.linear(t.flatten(0, 1), weight, bias), heads)
        for t, weight, bias in zip((queries, text.tokens, text.tokens), weights, biases, strict=True)
    )
    mask = text.valid.flatten(0, 1)[:, None, None]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attention.out_proj(attended.transpose(1, 2).flatten(2)).reshape(queries.shape)


def _layer(
    layer: QueryLayer,
    x: Tensor,
    query_position: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
    text: PromptText | None,
) -> Tensor:
    """Run one post-norm layer.

    Masked cross-attention, cross-attention to the prompt's text if the layer has any, self-attention within
    a prompt, feed-forward.
    """
    batch, prompts, queries, width = x.shape
    heads = layer.cross_attn.num_heads

    weight_q, _, _ = layer.cross_attn.in_proj_weight.chunk(3)
    bias_q, _, _ = layer.cross_attn.in_proj_bias.chunk(3)
    query = F.linear(x + query_position, weight_q, bias_q).reshape(batch, prompts * queries, width)
    attended = F.scaled_dot_product_attention(_split_heads(query, heads), keys, values, attn_mask=visible)
    attended = layer.cross_attn.out_proj(attended.transpose(1, 2).flatten(2))
    x = layer.cross_attn_layer_norm(x + attended.reshape(x.shape))

    if text is not None:
        x = layer.text_cross_attn_layer_norm(
            x + _attend_text(layer.text_cross_attn, x + query_position, text)
        )

    own = layer.self_attn
    flat = x.flatten(0, 1)
    positioned = flat + query_position
    attended = F.scaled_dot_product_attention(
        *(_split_heads(t, heads) for t in (own.q_proj(positioned), own.k_proj(positioned), own.v_proj(flat)))
    )
    attended = own.out_proj(attended.transpose(1, 2).flatten(2))
    x = layer.self_attn_layer_norm(x + attended.reshape(x.shape))

    return layer.final_layer_norm(x + layer.fc2(activate(layer.activation, layer.fc1(x))))
