"""Outlines of carried masks: on the edge of colors, where the keyframe's mask was there too."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, MaskCrop
from xsam.video.outline import Outline

HW = (80, 120)
RED, GREEN = (200, 60, 50), (70, 110, 80)
NOWHERE = np.zeros(HW, np.bool_)


def _box(left: int, top: int = 20, width: int = 40, height: int = 30) -> BoolMask:
    mask = np.zeros(HW, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def _image(mask: BoolMask, color: tuple[int, int, int] = RED) -> NDArray[np.uint8]:
    return np.where(mask[..., None], np.array(color, np.uint8), np.array(GREEN, np.uint8))


def _doubtful(outline: Outline) -> BoolMask:
    mask = np.zeros(HW, np.bool_)
    height, width = outline.planes.shape[:2]
    mask[outline.top : outline.top + height, outline.left : outline.left + width] = outline.planes[..., 1] > 0
    return mask


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_outline_returns_to_the_edge_of_colors(shift: int) -> None:
    outline = Outline.of(MaskCrop.of(_box(30)), _image(_box(30)))
    now = _box(30 + shift)
    settled = outline.settled(_box(30), NOWHERE, _image(now))
    assert np.count_nonzero(settled ^ now) <= 2  # of 60 pixels; the rest are corners


def test_a_pixel_that_shows_both_sides_belongs_where_it_did_in_the_keyframe() -> None:
    """The mask of the keyframe takes in what shows 45 % of the object, and so does every later one."""
    image = _image(_box(30)).astype(np.float32)
    image[20:50, 29] = 0.45 * np.array(RED) + 0.55 * np.array(GREEN)
    generous = _box(29, width=41)
    outline = Outline.of(MaskCrop.of(generous), image.astype(np.uint8))
    assert not _doubtful(outline).any()
    settled = outline.settled(generous, NOWHERE, image.astype(np.uint8))
    np.testing.assert_array_equal(settled, generous)


def test_where_colors_did_not_give_the_mask_they_do_not_decide() -> None:
    """On its right the mask of the keyframe ends inside the red; only its left side lies on an edge."""
    image = _image(_box(30, width=60))
    part = _box(30, width=40)
    outline = Outline.of(MaskCrop.of(part), image)
    image[20:50, 66:74] = GREEN  # a mark near the end that the mask had, which is none of its edges
    doubtful = _doubtful(outline)
    settled = outline.settled(_box(31, width=39), doubtful, image)
    assert settled[25:45, 30].all()
    worse = Outline.of(MaskCrop.of(_box(33)), _image(_box(30)))  # nothing of it lies on the edge
    moved = _box(34)
    np.testing.assert_array_equal(worse.settled(moved, _doubtful(worse), _image(_box(31))), moved)


def test_without_contrast_the_outline_stays() -> None:
    faint = (GREEN[0] + 6, GREEN[1] + 6, GREEN[2] + 6)
    outline = Outline.of(MaskCrop.of(_box(30)), _image(_box(30), faint))
    settled = outline.settled(_box(30), NOWHERE, _image(_box(31), faint))
    np.testing.assert_array_equal(settled, _box(30))


def test_an_object_at_the_border_of_the_image() -> None:
    """There it has no outline, and loses nothing."""
    now = _box(0, top=0)
    outline = Outline.of(MaskCrop.of(now), _image(now))
    np.testing.assert_array_equal(outline.settled(now, NOWHERE, _image(now)), now)


def test_a_single_pixel() -> None:
    dot = _box(30, width=1, height=1)
    outline = Outline.of(MaskCrop.of(dot), _image(dot))
    np.testing.assert_array_equal(outline.settled(dot, NOWHERE, _image(dot)), dot)
