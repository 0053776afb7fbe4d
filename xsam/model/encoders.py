"""The two image encoders, run only as deep as their outputs are used.

Both hold all their published parameters; the last SigLIP layer, its pooling head, and the SAM neck are loaded
but never run, because nothing uses their output.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xsam.model.blocks.sam import SamEncoder
from xsam.model.blocks.siglip import SiglipEncoder


def siglip_hidden_state(model: SiglipEncoder, pixels: Tensor, select_layer: int) -> Tensor:
    """Compute the hidden state `select_layer` of SigLIP, equal to `hidden_states[select_layer]`.

    Args:
        pixels: (B, 3, S, S), normalized with mean = std = 0.5.
        select_layer: negative, counted from the end; −2 skips the last layer.

    Returns:
        (B, positions, C).
    """
    layers = model.encoder.layers
    depth = len(layers) + 1 + select_layer
    x = model.embeddings(pixels)
    for layer in layers[:depth]:
        x = model.run_layer(layer, x)
    return x


def sam_hidden_states(model: SamEncoder, pixels: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
    """Compute hidden states of the SAM encoder, channels-last.

    Args:
        pixels: (B, 3, S, S), ImageNet-normalized, zero-padded right and bottom.
        wanted: indices; 0 is the patch embedding + position, i the output of layer i.

    Returns:
        index → (B, H, W, C).
    """
    x = model.patch_embed(pixels)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    states = {0: x}
    for index, layer in enumerate(model.layers[: max(wanted)], start=1):
        x = model.run_layer(layer, x)
        if index in wanted:
            states[index] = x
    return {index: states[index] for index in wanted}
