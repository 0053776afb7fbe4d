"""Images and visual prompts on their way to the encoders, and masks on their way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.golden import GOLDEN
from xsam import VisualPrompt
from xsam.config import XSamConfig
from xsam.config.square import Square, scaled_hw
from xsam.inference.preprocess import region_mask, segmentation_pixels, vision_pixels
from xsam.inference.prompt_masks import prompt_mask
from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import BoolMask, box_of_mask

CONFIG = XSamConfig.read(GOLDEN / "a" / "config.json")
SIDE = CONFIG.sam.image_size
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("image_hw", "longest_px", "expected"),
    [
        ((480, 640), 1024, (768, 1024)),
        ((640, 480), 1024, (1024, 768)),
        ((97, 151), 128, (82, 128)),  # 82.23
        ((1080, 1920), 1024, (576, 1024)),
        ((3, 200), 128, (2, 128)),  # 1.92
        ((1, 2), 5, (3, 5)),  # 2.5: halves go up
        ((1, 1000), 128, (1, 128)),  # 0.128: at least one pixel
        ((1000, 1), 128, (128, 1)),
        ((1, 1), 128, (128, 128)),
    ],
)
def test_size_inside_the_square(
    image_hw: tuple[int, int], longest_px: int, expected: tuple[int, int]
) -> None:
    assert scaled_hw(image_hw, longest_px) == expected


def _quarters(height: int, width: int) -> np.ndarray:
    """Return an image: red top left, green top right, blue bottom left, white bottom right."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2, 0] = 255
    rgb[: height // 2, width // 2 :, 1] = 255
    rgb[height // 2 :, : width // 2, 2] = 255
    rgb[height // 2 :, width // 2 :] = 255
    return rgb


def test_siglip_sees_the_whole_picture_squeezed() -> None:
    pixels = vision_pixels(_quarters(60, 200), CONFIG)
    side = CONFIG.vision_encoder.image_size
    assert pixels.shape == (3, side, side)
    assert pixels.dtype == torch.float32
    near, far = side // 4, side * 3 // 4
    assert pixels[:, near, near].tolist() == [1, -1, -1]
    assert pixels[:, near, far].tolist() == [-1, 1, -1]
    assert pixels[:, far, near].tolist() == [-1, -1, 1]
    assert pixels[:, far, far].tolist() == [1, 1, 1]


@pytest.mark.parametrize("image_hw", [(60, 200), (200, 60), (97, 151), (1, 1), (3, 200), (128, 128)])
def test_sam_sees_it_in_proportion_with_zeros_right_and_below(image_hw: tuple[int, int]) -> None:
    color = np.array([200, 100, 50], np.uint8)
    pixels = segmentation_pixels(np.broadcast_to(color, (*image_hw, 3)).copy(), CONFIG.square)
    assert pixels.shape == (3, SIDE, SIDE)
    longest = max(image_hw)
    height, width = (max(1, int(side * SIDE / longest + 0.5)) for side in image_hw)
    expected = torch.tensor([(v / 255 - m) / s for v, m, s in zip((200, 100, 50), MEAN, STD, strict=True)])
    torch.testing.assert_close(pixels[:, :height, :width], expected[:, None, None].expand(-1, height, width))
    assert not pixels[:, height:].any()
    assert not pixels[:, :, width:].any()


def test_sam_keeps_left_and_right_above_and_below() -> None:
    pixels = segmentation_pixels(_quarters(64, 128), CONFIG.square)  # half of the square
    bright = pixels > 0
    assert bright[:, 16, 32].tolist() == [True, False, False]
    assert bright[:, 16, 96].tolist() == [False, True, False]
    assert bright[:, 48, 32].tolist() == [False, False, True]
    assert bright[:, 48, 96].tolist() == [True, True, True]


def test_views_of_a_picture_are_read_right() -> None:
    """`bgr[..., ::-1]` and flipped images have negative strides."""
    rgb = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    for view in (rgb[..., ::-1], rgb[::-1], rgb[:, ::-1], rgb[::2, 1::2]):
        plain = np.ascontiguousarray(view)
        assert torch.equal(vision_pixels(view, CONFIG), vision_pixels(plain, CONFIG))
        assert torch.equal(
            segmentation_pixels(view, CONFIG.square), segmentation_pixels(plain, CONFIG.square)
        )


# --------------------------------------------------------------------------------- prompts as masks


def _distance_from(x_px: float, y_px: float, image_hw: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: image_hw[0], : image_hw[1]]
    return np.hypot(columns - x_px, rows - y_px)


def test_a_point_is_a_disc_of_one_percent_of_the_longest_side() -> None:
    mask = prompt_mask([VisualPrompt.point(250, 60)], (200, 400))
    away = _distance_from(250, 60, (200, 400))
    assert mask[away <= 3.5].all()
    assert not mask[away > 4.5].any()


def test_a_point_on_a_small_picture_is_still_some_pixels() -> None:
    assert prompt_mask([VisualPrompt.point(4, 2)], (5, 9)).sum() == 5  # radius 1
    assert prompt_mask([VisualPrompt.point(0, 0)], (1, 1)).tolist() == [[True]]


@pytest.mark.parametrize("image_hw", [(31, 33), (97, 151), (1, 1), (3, 200)])
def test_points_on_the_border_leave_a_mark(image_hw: tuple[int, int]) -> None:
    """The last corner, (32.6, 30.6) of 33×31, was once rounded to a pixel outside: `IndexError`."""
    height, width = image_hw
    for x_px in (0.0, width - 0.4):
        for y_px in (0.0, height - 0.4):
            prompt = VisualPrompt.point(x_px, y_px)
            prompt.check_inside(image_hw)
            assert prompt_mask([prompt], image_hw)[int(y_px), int(x_px)]
    scribble = VisualPrompt.scribble([(width - 0.4, height - 0.4)] * 2)
    assert prompt_mask([scribble], image_hw)[-1, -1]


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((5, 2, 9, 12), (2, 12), (5, 9)),
        ((-10, -5, 20.4, 12.6), (0, 13), (0, 20)),
        ((25, 15, 99, 99), (15, 20), (25, 30)),
        ((7.2, 3.1, 7.4, 3.3), (3, 4), (7, 8)),  # thinner than a pixel
        ((29.7, 19.7, 50, 50), (19, 20), (29, 30)),
        ((-5, -5, 0.2, 0.2), (0, 1), (0, 1)),
    ],
)
def test_a_box_is_filled_and_clipped(
    box: tuple[float, float, float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    expected = np.zeros((20, 30), np.bool_)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(prompt_mask([VisualPrompt.box(*box)], (20, 30)), expected)


def test_a_scribble_is_a_stroke_through_its_points() -> None:
    mask = prompt_mask([VisualPrompt.scribble([(20, 10), (120, 10), (120, 60)])], (80, 200))  # radius 2
    assert mask[10, 20:121].all()
    assert mask[10:61, 120].all()
    assert not mask[5].any()
    assert not mask[15:, :110].any()
    assert not mask[40, 20]  # not closed to a triangle
    assert not mask[35, 70]


def test_a_mask_is_itself() -> None:
    given_mask = np.random.default_rng(0).random((20, 30)) < 0.3
    np.testing.assert_array_equal(prompt_mask([VisualPrompt.from_mask(given_mask)], (20, 30)), given_mask)


def test_negatives_are_taken_away_in_any_order() -> None:
    keep, drop = VisualPrompt.box(0, 0, 10, 4), VisualPrompt.box(6, 0, 30, 20, positive=False)
    expected = np.zeros((20, 30), np.bool_)
    expected[:4, :6] = True
    for prompts in ([keep, drop], [drop, keep]):
        np.testing.assert_array_equal(prompt_mask(prompts, (20, 30)), expected)


def test_negatives_never_take_everything() -> None:
    keep, drop = VisualPrompt.box(3, 2, 6, 4), VisualPrompt.box(0, 0, 30, 20, positive=False)
    assert box_of_mask(prompt_mask([keep, drop], (20, 30))) == (3, 2, 6, 4)


# ------------------------------------------------------------------------------ there and back again


@settings(max_examples=60)
@given(data=st.data())
def test_a_single_pixel_survives_in_its_place(data: st.DataObject) -> None:
    """Nearest-neighbor resizing drops most single pixels of a large image."""
    height, width = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 700))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), np.bool_)
    mask[row, column] = True
    square = region_mask(mask, CONFIG.square)
    assert square.shape == (SIDE, SIDE)
    assert square.dtype == torch.uint8
    inside_h, inside_w = scaled_hw((height, width), SIDE)
    marked = square.nonzero().float() + 0.5
    assert len(marked) >= 1
    place = torch.tensor([(row + 0.5) * inside_h / height, (column + 0.5) * inside_w / width])
    reach = torch.tensor([max(1.0, inside_h / height), max(1.0, inside_w / width)])
    assert ((marked - place).abs() <= reach).all()


@pytest.mark.parametrize("image_hw", [(97, 151), (151, 97), (61, 90), (480, 640), (40, 200), (128, 128)])
def test_a_region_comes_back_to_where_it_was(image_hw: tuple[int, int]) -> None:
    """Image → square → logits → image, within one pixel of the coarser of the two."""
    height, width = image_hw
    box = (width * 6 // 10, height // 8, width * 9 // 10, height // 2)
    mask = prompt_mask([VisualPrompt.box(*box)], image_hw)
    logits = region_mask(mask, CONFIG.square).float() * 20 - 10
    back = MaskGeometry.for_image(image_hw, Square(side=SIDE)).upsample(logits[None])[0] > 0
    assert back.shape == image_hw
    tolerance = max(1.0, max(image_hw) / SIDE)
    assert np.abs(np.subtract(box_of_mask(back.numpy()), box)).max() <= tolerance


def test_the_decoders_small_masks_land_where_they_were() -> None:
    """Logits at a quarter of the square, as from the decoder; the image is not square."""
    image_hw = (300, 900)
    small = torch.full((2, SIDE // 4, SIDE // 4), -8.0)
    small[0, 2:6, 20:28] = 8.0  # rows 8…24 of the square and columns 80…112
    small[1, 12:, :] = 8.0  # below the image, which ends at row 43 of 128
    back = MaskGeometry.for_image(image_hw, Square(side=SIDE)).upsample(small) > 0
    assert back.shape == (2, *image_hw)
    scale = 900 / 128
    found = box_of_mask(back[0].numpy())
    np.testing.assert_allclose(found, [80 * scale, 8 * scale, 112 * scale, 24 * scale], atol=scale)
    assert not back[1].any()


@pytest.mark.parametrize("image_hw", [(1, 1), (3, 200), (200, 3), (1, 5000)])
def test_extreme_pictures_make_the_way(image_hw: tuple[int, int]) -> None:
    everything: BoolMask = np.ones(image_hw, np.bool_)
    square = region_mask(everything, CONFIG.square)
    assert tuple(square.nonzero().max(dim=0).values + 1) == scaled_hw(image_hw, SIDE)
    logits = square.float() * 20 - 10
    assert (MaskGeometry.for_image(image_hw, Square(side=SIDE)).upsample(logits[None]) > 0).all()
