"""The model classes of `transformers` that our own blocks stand in for, with a network's weights.

Each shares the memory of the network's parameters. They are the reference in tests and the baseline in
benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Phi3ForCausalLM, Qwen3ForCausalLM, SiglipVisionModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder
from transformers.models.sam.modeling_sam import SamVisionEncoder

from xsam.config.x2sam import X2SamConfig
from xsam.model.blocks.text import CausalText
from xsam.model.connector import SegConnector
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import XSamModel


def stock_language(llm: CausalText) -> Any:
    """Return the language model."""
    kind = Phi3ForCausalLM if llm.config.model_type == "phi3" else Qwen3ForCausalLM
    llm.config._attn_implementation = "sdpa"
    stock = _with_weights(lambda: kind(llm.config), llm)
    stock.model.rotary_emb = type(stock.model.rotary_emb)(llm.config).to(llm.model.norm.weight.device)
    return stock


def stock_siglip(model: XSamModel) -> Any:
    """Return SigLIP's encoder."""
    model.config.vision_encoder._attn_implementation = "sdpa"
    stock = _with_weights(lambda: SiglipVisionModel(model.config.vision_encoder), model.vision_encoder)
    stock.embeddings.position_ids = torch.arange(stock.embeddings.num_positions, device=model.device)[None]
    return stock


def stock_sam(model: XSamModel) -> Any:
    """Return SAM's encoder, with the attention of its first release: a whole matrix of weights."""
    model.config.sam._attn_implementation = "eager"
    return _with_weights(lambda: SamVisionEncoder(model.config.sam), model.segmentor.encoder)


def stock_pixel_decoder(model: XSamModel | X2SamModel) -> Any:
    """Return Mask2Former's pixel decoder."""
    config = model.config
    channels = (
        [config.sam2.fpn_hidden_size] * 3
        if isinstance(config, X2SamConfig)
        else SegConnector.out_channels(config.sam.hidden_size, config.connector_scale_factor)
    )
    return _with_weights(
        lambda: Mask2FormerPixelDecoder(config.mask2former, channels), model.segmentor.pixel_decoder
    )


def _with_weights(build: Callable[[], nn.Module], own: nn.Module) -> Any:
    with torch.device("meta"):
        stock = build()
    stock.load_state_dict(own.state_dict(), strict=True, assign=True)
    return stock.eval().requires_grad_(False)
