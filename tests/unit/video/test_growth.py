"""Carried masks take in what comes into view: at the border of the image, and behind what moves away."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.video.moving import Box, answer, texture
from xsam.types.masks import BoolMask, MaskCrop, mask_iou
from xsam.types.requests import Frame, Query
from xsam.video.growth import ObjectColors, grown
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions

HW = (120, 160)
RED, BLUE, GREEN, WHITE = (200, 50, 40), (40, 60, 190), (80, 120, 80), (235, 235, 225)
Color = tuple[int, int, int]


def _box(left: int, top: int, width: int, height: int) -> BoolMask:
    mask = np.zeros(HW, np.bool_)
    mask[max(0, top) : top + height, max(0, left) : left + width] = True
    return mask


def _image(*parts: tuple[BoolMask, Color]) -> NDArray[np.uint8]:
    image = np.full((*HW, 3), GREEN, np.uint8)
    for mask, color in parts:
        image[mask] = color
    return image


def _full(crop: MaskCrop | None) -> BoolMask:
    assert crop is not None
    mask = np.zeros(HW, np.bool_)
    mask[crop.window] = crop.pixels
    return mask


def _unseen(mask: BoolMask) -> NDArray[np.bool_]:
    return mask[::4, ::4].copy()


def _colors(mask: BoolMask, *parts: tuple[BoolMask, Color]) -> ObjectColors | None:
    return ObjectColors.of(MaskCrop.of(mask), _image(*parts))


def test_a_mask_grows_over_what_was_not_seen_and_looks_like_its_object() -> None:
    whole, seen, hidden = _box(40, 40, 50, 30), _box(40, 40, 30, 30), _box(70, 40, 40, 30)
    colors = _colors(seen, (seen, RED), (hidden, BLUE))
    now = [grown([MaskCrop.of(seen)], [colors], _unseen(hidden), _image((whole, RED)))[0]]
    np.testing.assert_array_equal(_full(now[0]), whole)


def test_a_mask_does_not_grow_over_what_was_seen_before() -> None:
    """What has its colors and was there in the keyframe is something else: the model did not take it in."""
    whole, seen = _box(40, 40, 60, 30), _box(40, 40, 30, 30)
    colors = _colors(seen, (seen, RED))
    crop = grown([MaskCrop.of(seen)], [colors], np.zeros((30, 40), np.bool_), _image((whole, RED)))[0]
    np.testing.assert_array_equal(_full(crop), seen)


@pytest.mark.parametrize(
    "revealed",
    [
        (_box(70, 40, 30, 30), BLUE),  # another color
        (_box(84, 40, 20, 30), RED),  # its color, apart from it
    ],
)
def test_what_is_not_more_of_the_object_stays_outside(revealed: tuple[BoolMask, Color]) -> None:
    seen = _box(40, 40, 30, 30)
    colors = _colors(seen, (seen, RED))
    crop = grown([MaskCrop.of(seen)], [colors], _unseen(_box(70, 40, 40, 30)), _image((seen, RED), revealed))[
        0
    ]
    np.testing.assert_array_equal(_full(crop), seen)


def test_no_mask_takes_pixels_of_another() -> None:
    """Two red boxes, and a gap between them that was hidden: it can be of one of them only."""
    left, right, gap = _box(20, 40, 30, 30), _box(70, 40, 30, 30), _box(50, 40, 20, 30)
    colors = [_colors(mask, (left, RED), (right, RED), (gap, BLUE)) for mask in (left, right)]
    red = _image((left | gap | right, RED))
    if None in colors:  # each has the other around it
        colors = [_colors(mask, (mask, RED)) for mask in (left, right)]
    first, second = map(_full, grown([MaskCrop.of(left), MaskCrop.of(right)], colors, _unseen(gap), red))
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, left | gap | right)


def test_an_object_like_its_surroundings_has_no_colors_of_its_own() -> None:
    mask = _box(40, 40, 30, 30)
    assert _colors(mask, (_box(0, 0, 160, 120), RED)) is None
    assert _colors(mask, (mask, RED), (_box(70, 30, 20, 50), RED)) is None  # one of its kind beside it
    assert _colors(mask, (mask, RED), (_box(100, 0, 10, 10), WHITE)) is not None


# ------------------------------------------------------------------------------------------- whole


def _scene(boxes: dict[Box, Color], index: int) -> tuple[Frame, list[BoolMask]]:
    """Draw boxes with a little texture from back to front, and return what can be seen of each."""
    hw = (240, 320)
    rgb = np.repeat(texture(1, hw, 60, 120)[..., None], 3, axis=2)
    ids = np.zeros(hw, np.int64)
    for number, ((left, top, width, height), color) in enumerate(boxes.items()):
        skin = texture(50 + number, (height, width), 0, 24)[..., None] + np.array(color, np.int64)
        y0, x0, y1, x1 = max(0, top), max(0, left), min(hw[0], top + height), min(hw[1], left + width)
        if y0 < y1 and x0 < x1:
            rgb[y0:y1, x0:x1] = skin[y0 - top : y1 - top, x0 - left : x1 - left].clip(0, 255)
            ids[y0:y1, x0:x1] = number + 1
    frame = Frame(rgb=rgb, stamp_ns=(index + 1) * 100_000_000)
    return frame, [ids == number + 1 for number in range(len(boxes))]


def _carried(scenes: list[dict[Box, Color]], asked: set[int]) -> list[float]:
    """Return the IoU of each object in the last scene, carried from the first one."""
    camera, query = CameraMotion(), Query(text="boxes")
    propagation = Propagation(query, PropagationOptions(every=100, eager=False))
    truth: list[BoolMask] = []
    for index, boxes in enumerate(scenes):
        frame, truth = _scene(boxes, index)
        motion = camera.advance(frame)
        propagation.advance(frame, camera.gray, motion)
        if not index:
            propagation.hold()
            propagation.correct(answer({k: mask for k, mask in enumerate(truth) if k in asked}, query, frame))
    result = propagation.result()
    assert result is not None
    found = dict(zip(result.segments.labels, result.segments.masks, strict=True))
    return [mask_iou(found[f"box {k}"].decode(), truth[k]) for k in sorted(asked)]


def test_an_object_that_enters() -> None:
    """A quarter of it was in view in the keyframe, and all of it six frames later."""
    scenes: list[dict[Box, Color]] = [{(-60 + 10 * step, 90, 80, 60): RED} for step in range(7)]
    assert _carried(scenes, {0})[0] > 0.85


@pytest.mark.parametrize("front_is_known", [True, False])
def test_an_object_that_is_revealed(front_is_known: bool) -> None:
    """Something passes in front of it; in the keyframe, only its left third could be seen."""
    scenes: list[dict[Box, Color]] = [
        {(100, 80, 90, 80): RED, (130 + 12 * step, 60, 90, 120): BLUE} for step in range(7)
    ]
    ious = _carried(scenes, {0, 1} if front_is_known else {0})
    assert min(ious) > 0.9
