"""The same weights for larger images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train.small import SIDE, small_config, small_model
from xsam.errors import TrainingConfigError
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.train.run import at_image_size
from xsam.weights.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow  # the file takes several seconds

LARGER = 128
CELLS, MORE_CELLS = SIDE // 8, LARGER // 8


@torch.inference_mode()
def _encode(model: XSamModel, side: int) -> Any:
    vision = model.config.vision_encoder.image_size
    generator = torch.Generator().manual_seed(0)
    small = torch.rand((1, 3, vision, vision), generator=generator)
    return model.eval().encode_image(small, torch.rand((1, 3, side, side), generator=generator))


def test_a_resized_model_reads_larger_pictures() -> None:
    model = small_model(50)
    larger = at_image_size(model, LARGER)
    assert model.config.sam.image_size == SIDE  # the original is unchanged
    assert (
        _encode(model, SIDE).image_tokens.shape[1] + (MORE_CELLS // 2) ** 2 - (CELLS // 2) ** 2
        == (_encode(larger, LARGER).image_tokens.shape[1])
    )
    moved = {
        name for name, value in model.state_dict().items() if larger.state_dict()[name].shape != value.shape
    }
    assert moved == {"segmentor.encoder.pos_embed"}
    for name, value in model.state_dict().items():
        if name not in moved:
            torch.testing.assert_close(larger.state_dict()[name], value)


def test_positions_keep_their_place_in_the_picture() -> None:
    """A plane stays a plane, up to the ripple of bicubic weights (a cell of the old grid is 0.08)."""
    model = small_model(50)
    rows, columns = torch.meshgrid(*[(torch.arange(CELLS) + 0.5) / CELLS] * 2, indexing="ij")
    positions = model.segmentor.encoder.pos_embed
    with torch.no_grad():
        positions[...] = (2 * rows - columns)[None, ..., None]
    larger = at_image_size(model, LARGER).segmentor.encoder.pos_embed
    rows, columns = torch.meshgrid(*[(torch.arange(MORE_CELLS) + 0.5) / MORE_CELLS] * 2, indexing="ij")
    inside = slice(3, -3)
    torch.testing.assert_close(
        larger[0, inside, inside, 0].detach(), (2 * rows - columns)[inside, inside], atol=0.015, rtol=0
    )


def test_relative_positions_grow_where_the_whole_picture_is_seen() -> None:
    config = small_config(50)
    config.sam.use_rel_pos = True
    model = XSamModel(config)
    initialize_weights(model)
    larger = at_image_size(model, LARGER)
    sizes = [
        (len(a.attn.rel_pos_h), len(b.attn.rel_pos_h))
        for a, b in zip(model.segmentor.encoder.layers, larger.segmentor.encoder.layers, strict=True)
    ]
    window = 2 * config.sam.window_size - 1
    everywhere = (2 * CELLS - 1, 2 * MORE_CELLS - 1)
    seen_whole = config.sam.global_attn_indexes
    assert sizes == [everywhere if i in seen_whole else (window, window) for i in range(len(sizes))]
    _encode(larger, LARGER)


def test_the_same_size_is_the_same_model() -> None:
    model = small_model(50)
    assert at_image_size(model, SIDE) is model


@pytest.mark.parametrize("side", [0, -16, 8, 100, 120, 1_000_000])
def test_sizes_that_do_not_fit_the_patches(side: int) -> None:
    with pytest.raises(TrainingConfigError, match="multiple of 16"):
        at_image_size(small_model(50), side)


def test_a_resized_model_is_saved_with_its_size(tokenizer: Any, tmp_path: Path) -> None:
    larger = at_image_size(small_model(len(tokenizer)), LARGER)
    save_checkpoint(larger, tokenizer, tmp_path, dtype=torch.float32)
    opened, _ = load_checkpoint(tmp_path)
    assert opened.config.sam.image_size == LARGER
    torch.testing.assert_close(opened.segmentor.encoder.pos_embed, larger.segmentor.encoder.pos_embed)
