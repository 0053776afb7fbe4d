"""Mask logits from the decoder's grid to camera pixels: whole, cropped and in bands."""

from __future__ import annotations

import pytest
import torch

from tests.unit.inference.logits import SMALL, pixels
from xsam.config.square import Square
from xsam.inference.upsample import MaskGeometry


def test_masks_are_interpolated_before_the_threshold() -> None:
    """−1 and 5 at twice the size are −1, ½, 3½, 5: three object pixels, where nearest gives two."""
    geometry = MaskGeometry(side=4, scaled_hw=(4, 4), image_hw=(4, 4))
    up = geometry.upsample(torch.tensor([[[-1.0, 5.0], [-1.0, 5.0]]]))
    torch.testing.assert_close(up[0, 2], torch.tensor([-1.0, 0.5, 3.5, 5.0]))


def test_the_padding_is_cut_off_before_the_picture_is_stretched() -> None:
    geometry = MaskGeometry(side=4, scaled_hw=(2, 4), image_hw=(4, 8))
    logits = torch.full((1, 4, 4), -5.0)
    logits[0, 1:, 3] = 5.0  # row 1 is the lower half of the image, rows 2 and 3 are padding
    mask = geometry.upsample(logits)[0] > 0
    assert mask.shape == (4, 8)
    assert pixels(mask) == {(row, column) for row in (2, 3) for column in (6, 7)}


def test_no_masks_have_the_size_of_the_picture() -> None:
    assert SMALL.upsample(torch.zeros(0, 3, 3)).shape == (0, 2, 3)


GEOMETRIES = [((64, 128), 128), ((97, 31), 64), ((3, 200), 96), ((480, 640), 512), ((1, 1), 32)]


@pytest.mark.parametrize(("image_hw", "side"), GEOMETRIES)
def test_a_crop_holds_all_that_is_positive(image_hw: tuple[int, int], side: int) -> None:
    geometry = MaskGeometry.for_image(image_hw, Square(side=side))
    generator = torch.Generator().manual_seed(0)
    for size, islands in ((16, 1), (16, 3), (12, 40), (16, 0)):
        logits = torch.randn(size, size, generator=generator) - 4.0
        logits.view(-1)[torch.randperm(size * size, generator=generator)[:islands]] = 5.0
        whole = geometry.upsample(logits[None])[0]
        crop, top, left = geometry.crop(logits)
        outside = whole.clone()
        outside[top : top + crop.shape[0], left : left + crop.shape[1]] = -1.0
        assert not (outside > 0).any()
        part = whole[top : top + crop.shape[0], left : left + crop.shape[1]]
        torch.testing.assert_close(crop, part, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("image_hw", "side"), GEOMETRIES)
def test_bands_make_up_the_whole(
    image_hw: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = MaskGeometry.for_image(image_hw, Square(side=side))
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = geometry.upsample(logits)
    for rows in (1, 7, 10_000):
        monkeypatch.setattr("xsam.inference.upsample.BAND_BYTES", rows * 3 * image_hw[1] * 4)
        bands = list(geometry.bands(logits))
        assert [top for top, _ in bands] == list(range(0, image_hw[0], rows))
        torch.testing.assert_close(torch.cat([band for _, band in bands], dim=1), whole, atol=1e-4, rtol=1e-5)
