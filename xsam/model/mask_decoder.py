"""Mask2Former's masked-attention decoder, conditioned on the LLM, for many prompts of one image.

The parameters are those of `transformers`' `Mask2FormerTransformerModule`; the forward pass is our
own so that P prompts share the keys and values of their image instead of repeating them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerTransformerModule,
)


class ClassPredictor(nn.Module):
    """Cosine similarity of query states to condition embeddings, times a learned scale."""

    def __init__(self, clamp: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full((1,), 2.3))
        self.clamp = clamp

    def forward(self, queries: Tensor, conditions: Tensor) -> Tensor:
        """(..., Q, C), (..., K, C) → (..., Q, K) logits within ±clamp."""
        similarity = F.normalize(queries, dim=-1) @ F.normalize(conditions, dim=-1).transpose(-1, -2)
        return (self.logit_scale.exp() * similarity).clamp(-self.clamp, self.clamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPrediction:
    """What one decoder layer predicts."""

    states: Tensor  # (B, P, Q, C) after the shared layer norm
    mask_logits: Tensor  # (B, P, Q, H, W) at the resolution of the mask features


def decode_queries(
    module: Mask2FormerTransformerModule,
    multi_scale: Sequence[Tensor],
    mask_features: Tensor,
    seg_embeds: Tensor,
) -> list[QueryPrediction]:
    """Run the decoder for P prompts of each image.

    Args:
        multi_scale: three maps (B, C, H, W), coarse to fine, from the pixel decoder.
        mask_features: (B, C, H, W).
        seg_embeds: (B, P, C), the projected state at `<SEG>`; added to every query feature.

    Returns:
        One prediction before the first layer and one after each, the last being the answer.
    """
    batch, prompts, _ = seg_embeds.shape
    decoder = module.decoder
    memory, keys, sizes = [], [], []
    for level, features in enumerate(multi_scale):
        position = module.position_embedder(features.shape, features.device, features.dtype, None)
        tokens = module.input_projections[level](features).flatten(2).transpose(1, 2)
        tokens = tokens + module.level_embed.weight[level]
        memory.append(tokens)
        keys.append(tokens + position.flatten(2).transpose(1, 2))
        sizes.append(features.shape[-2:])

    num_queries, width = module.queries_features.weight.shape
    query_position = module.queries_embedder.weight
    x = (module.queries_features.weight + seg_embeds[:, :, None]).expand(batch, prompts, num_queries, width)
    flat_features = mask_features.flatten(2)

    def predict(states: Tensor) -> QueryPrediction:
        normed = decoder.layernorm(states)
        embeds = decoder.mask_predictor.mask_embedder(normed)
        logits = embeds.reshape(batch, prompts * num_queries, -1) @ flat_features
        return QueryPrediction(
            states=normed,
            mask_logits=logits.reshape(batch, prompts, num_queries, *mask_features.shape[-2:]),
        )

    predictions = [predict(x)]
    for index, layer in enumerate(decoder.layers):
        level = index % len(memory)
        visible = _visible_pixels(predictions[-1].mask_logits, sizes[level])
        x = _layer(layer, x, query_position, keys[level], memory[level], visible)
        predictions.append(predict(x))
    return predictions


def _visible_pixels(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, P·Q, h·w) bool: where each query may look; everywhere when its mask is empty."""
    batch, prompts, queries = mask_logits.shape[:3]
    with torch.no_grad():
        logits = mask_logits.detach().flatten(1, 2)
        resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        visible = resized.sigmoid().flatten(2) >= 0.5
        visible = visible | ~visible.any(dim=-1, keepdim=True)
    return visible.reshape(batch, 1, prompts * queries, -1)


def _layer(
    layer: Mask2FormerMaskedAttentionDecoderLayer,
    x: Tensor,
    query_position: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
) -> Tensor:
    """One post-norm layer: masked cross-attention, self-attention within a prompt, feed-forward."""
    batch, prompts, queries, width = x.shape
    heads = layer.cross_attn.num_heads

    def split(t: Tensor) -> Tensor:  # (N, S, C) → (N, heads, S, C / heads)
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    weight_q, weight_k, weight_v = layer.cross_attn.in_proj_weight.chunk(3)
    bias_q, bias_k, bias_v = layer.cross_attn.in_proj_bias.chunk(3)
    query = F.linear(x + query_position, weight_q, bias_q).reshape(batch, prompts * queries, width)
    attended = F.scaled_dot_product_attention(
        split(query),
        split(F.linear(keys, weight_k, bias_k)),
        split(F.linear(values, weight_v, bias_v)),
        attn_mask=visible,
    )
    attended = layer.cross_attn.out_proj(attended.transpose(1, 2).flatten(2))
    x = layer.cross_attn_layer_norm(x + attended.reshape(x.shape))

    own = layer.self_attn
    flat = x.flatten(0, 1)
    placed = flat + query_position
    attended = F.scaled_dot_product_attention(
        split(own.q_proj(placed)), split(own.k_proj(placed)), split(own.v_proj(flat))
    )
    attended = own.out_proj(attended.transpose(1, 2).flatten(2))
    x = layer.self_attn_layer_norm(x + attended.reshape(x.shape))

    return layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))
