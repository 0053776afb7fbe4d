"""Places are computed in float32 whatever the type of the network: bfloat16 has 8 bits.

Between 0.5 and 1 its numbers are 1/256 apart, half a cell of a map of 128: a map that changes from cell to
cell tells.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xsam.config import RegionSamplerConfig
from xsam.model.blocks.mask2former import LEVELS, POINTS, sine_code
from xsam.model.mask_decoder import ClassPredictor
from xsam.model.pixel_decoder import decode_pixels, sample_grids, sample_weighted
from xsam.model.region_sampler import sample_regions
from xsam.model.xsam import XSamModel

SIDE = 128
HALF = [torch.bfloat16, torch.float16]


def _checkerboard(side: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return 1.0 - 2.0 * ((rows + columns) % 2)


def _centers(side: int) -> Tensor:
    middle = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("sample", [sample_grids, sample_weighted])
def test_samples_at_the_centers_of_cells_are_the_cells(
    sample: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    sizes = [(SIDE, SIDE)] * LEVELS
    board = _checkerboard(SIDE).flatten()
    value = board.repeat(LEVELS)[:, None, None].to(dtype)
    offsets = torch.zeros((SIDE * SIDE, 1, LEVELS, POINTS, 2), dtype=dtype)
    weights = torch.full((SIDE * SIDE, 1, LEVELS * POINTS), 1 / (LEVELS * POINTS), dtype=dtype)
    sampled = sample(value, sizes, _centers(SIDE), offsets, weights)
    assert sampled.dtype == dtype
    torch.testing.assert_close(sampled[:, 0].float(), board, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_regions_are_read_where_they_are(dtype: torch.dtype) -> None:
    cells = torch.arange(0, SIDE, 5)
    points = torch.stack([cells, (cells * 3 + 1) % SIDE], dim=-1) / (SIDE - 1)
    config = RegionSamplerConfig(num_sample_point=len(cells), pooling_mode="mean", pooling_kernel_size=1)
    features = _checkerboard(SIDE)[None, None].to(dtype)
    tokens = sample_regions(features, points[None], config)
    assert tokens.dtype == dtype
    expected = _checkerboard(SIDE)[cells, (cells * 3 + 1) % SIDE]
    torch.testing.assert_close(tokens[0, :, 0].float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_codes_of_positions_are_those_of_float32_rounded(dtype: torch.dtype) -> None:
    exact = sine_code((64, 128), 32, like=torch.empty(0))
    assert torch.equal(sine_code((64, 128), 32, like=torch.empty(0, dtype=dtype)), exact.to(dtype))


@pytest.mark.parametrize("dtype", HALF)
def test_scores_are_finer_than_the_type_of_the_network(dtype: torch.dtype) -> None:
    """Logits of about 10 are 1/16 apart in bfloat16, and several queries would tie."""
    predictor = ClassPredictor(clamp=100.0).to(dtype)
    queries, conditions = torch.randn(2, 200, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        logits = predictor(queries, conditions[:1])
        exact = predictor.float()(queries.float(), conditions[:1].float())
    torch.testing.assert_close(logits, exact, rtol=0, atol=1e-4)


def test_the_pixel_decoder_in_bfloat16(model: XSamModel, noise: Callable[..., Tensor]) -> None:
    """Only the rounding of numbers is left, 1/256 of each, which layers add up."""
    side = model.config.sam.image_size
    with torch.no_grad():
        pyramid = model.encode_segmentation(noise(1, 3, side, side)).pyramid
        _, exact = decode_pixels(model.segmentor.pixel_decoder, pyramid)
        rounded = [level.bfloat16() for level in pyramid]
        decoder = type(model.segmentor.pixel_decoder)(
            model.config.mask2former, [level.shape[1] for level in pyramid]
        )
        decoder.load_state_dict(model.segmentor.pixel_decoder.state_dict())
        _, features = decode_pixels(decoder.bfloat16(), rounded)
    assert float((features.float() - exact).norm() / exact.norm()) < 0.02
