"""Overlays: what they must not cover, where numbers and labels may go, and extreme images."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from xsam import InvalidImageError, MaskRle, Segments, VisualPrompt
from xsam.draw.layout import lay_out_overlay
from xsam.draw.overlay import (
    NEGATIVE,
    PALETTE,
    POSITIVE,
    draw_depth,
    draw_outline,
    draw_overlay,
    draw_prompts,
)
from xsam.draw.shapes import DrawSizes
from xsam.types.masks import BoolMask, box_of_mask


def _noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)


def _circle(height: int, width: int, x_px: int, y_px: int, radius: int) -> BoolMask:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x_px) ** 2 + (rows - y_px) ** 2 <= radius**2


def _segments(masks: list[BoolMask], labels: list[str] | None = None, *, image_hw=(480, 640)) -> Segments:
    count = len(masks)
    return Segments(
        image_hw=image_hw,
        masks=tuple(MaskRle.encode(mask) for mask in masks),
        labels=tuple(labels or ["mug"] * count),
        label_indices=np.zeros(count, np.int32),
        scores=np.linspace(0.95, 0.5, count, dtype=np.float32),
        boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4),
    )


def _table(count: int = 10) -> Segments:
    """Return `count` discs of several sizes, some touching each other and the border."""
    rng = np.random.default_rng(7)
    spots = [(rng.integers(0, 640), rng.integers(0, 480), rng.integers(3, 60)) for _ in range(count)]
    return _segments(
        [_circle(480, 640, *spot) for spot in spots], [f"thing number {i}" for i in range(count)]
    )


@pytest.mark.parametrize("style", ["fill", "outline"])
def test_pixels_away_from_masks_and_labels_do_not_change(style) -> None:
    rgb, masks = _noise(480, 640), [_circle(480, 640, 150, 300, 40), _circle(480, 640, 480, 120, 25)]
    overlay = draw_overlay(rgb, _segments(masks), style=style)
    labels = lay_out_overlay(_segments(masks), style=style).labels

    allowed = cv2.dilate((masks[0] | masks[1]).astype(np.uint8), np.ones((15, 15))) > 0
    assert len(labels) == 2
    for label in labels:
        left, top, right, bottom = label.rect
        allowed[top:bottom, left:right] = True
    changed = (overlay != rgb).any(axis=2)
    assert changed.any()
    assert not (changed & ~allowed).any()


def test_outline_leaves_the_colors_inside_alone_and_fill_does_not() -> None:
    rgb, mask = _noise(480, 640), _circle(480, 640, 320, 240, 100)
    inner = _circle(480, 640, 320, 240, 90)
    segments = _segments([mask], [""])
    outline = draw_overlay(rgb, segments, style="outline", numbered=False)
    fill = draw_overlay(rgb, segments, numbered=False)
    assert np.array_equal(outline[inner], rgb[inner])
    assert (fill[inner] != rgb[inner]).any(axis=1).mean() > 0.99
    assert (outline[mask & ~inner] != rgb[mask & ~inner]).any()


def test_an_outline_hides_nothing_of_a_small_object() -> None:
    """A lemon of 30 pixels disappeared under its own outline and number."""
    rgb, lemon, bead = _noise(480, 640), _circle(480, 640, 200, 240, 15), _circle(480, 640, 400, 100, 4)
    overlay = draw_overlay(rgb, _segments([lemon, bead], ["lemon", "bead"]), style="outline")
    for mask in (lemon, bead):
        changed = (overlay != rgb).any(axis=2) & mask
        assert changed.sum() <= 0.15 * mask.sum()  # where the anti-aliased rim begins
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask
        assert (overlay != rgb).any(axis=2)[around].mean() > 0.5


def test_a_number_that_finds_no_room_beside_the_object_goes_on_it() -> None:
    crowd = [_circle(120, 160, 8 + 16 * (i % 10), 8 + 16 * (i // 10), 6) for i in range(70)]
    segments = _segments(crowd, ["a rather long label"] * 70, image_hw=(120, 160))
    layout = lay_out_overlay(segments, style="outline")
    assert {label.badge for label in layout.labels}.isdisjoint(disc.text for disc in layout.discs)
    assert len(layout.labels) + len(layout.discs) == 70


def test_alpha_mixes_the_segments_color() -> None:
    rgb = np.full((480, 640, 3), 100, np.uint8)
    segments = _segments([_circle(480, 640, 320, 240, 100)], [""])
    solid = draw_overlay(rgb, segments, alpha=1.0, numbered=False)
    half = draw_overlay(rgb, segments, alpha=0.5, numbered=False)
    assert tuple(solid[240, 320]) == PALETTE[0]
    np.testing.assert_allclose(half[240, 320], (np.array(PALETTE[0]) + 100) / 2, atol=1)


def test_the_smaller_object_is_painted_over_the_larger() -> None:
    """A mug in front of a tray with a higher score used to vanish under the tray's color."""
    tray, mug = _circle(480, 640, 320, 240, 150), _circle(480, 640, 320, 240, 40)
    rgb = np.zeros((480, 640, 3), np.uint8)
    overlay = draw_overlay(rgb, _segments([tray, mug], ["", ""]), alpha=1.0, numbered=False)
    assert tuple(overlay[240, 320]) == PALETTE[1]
    assert tuple(overlay[240, 200]) == PALETTE[0]


def test_input_is_not_modified_and_may_be_read_only() -> None:
    rgb = _noise(480, 640)
    before = rgb.copy()
    rgb.flags.writeable = False
    overlay = draw_overlay(rgb, _table(), title="things")
    prompted = draw_prompts(rgb, [VisualPrompt.point(10, 10)])
    assert np.array_equal(rgb, before)
    assert not np.shares_memory(overlay, rgb)
    assert not np.shares_memory(prompted, rgb)
    assert overlay.flags.writeable


def test_deterministic() -> None:
    rgb, segments = _noise(480, 640), _table()
    first = draw_overlay(rgb, segments, title="things")
    draw_overlay(_noise(100, 100, 1), _segments([], image_hw=(100, 100)), title="something else")
    assert np.array_equal(first, draw_overlay(rgb, segments, title="things"))


@pytest.mark.parametrize("count", [2, 10, 40])
@pytest.mark.parametrize("title", [None, "find the things"])
def test_labels_stay_inside_and_apart(count: int, title: str | None) -> None:
    labels = lay_out_overlay(_table(count), title=title).labels
    assert len(labels) >= min(count, 10)
    bar_px = 3 * DrawSizes.for_image((480, 640)).text if title else 0
    for label in labels:
        left, top, right, bottom = label.rect
        assert 0 <= left < right <= 640
        assert bar_px <= top < bottom <= 480
    for one, two in itertools.combinations(labels, 2):
        a, b = one.rect, two.rect
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, two)


@pytest.mark.slow
@pytest.mark.parametrize(("image_hw", "radius"), [((480, 640), 3), ((1440, 1920), 1)])
def test_labels_do_not_hide_small_objects(image_hw: tuple[int, int], radius: int) -> None:
    """Screws of a few pixels disappeared under their own labels."""
    height, width = image_hw
    rng = np.random.default_rng(3)
    spots = [(rng.integers(20, width - 20), rng.integers(20, height - 20)) for _ in range(24)]
    masks = [_circle(height, width, *spot, radius) for spot in spots]
    labels = lay_out_overlay(_segments(masks, image_hw=image_hw)).labels
    assert len(labels) >= 20
    for label in labels:
        left, top, right, bottom = label.rect
        for mask in masks:
            assert not mask[top:bottom, left:right].any()


def test_numbers_are_on_their_objects() -> None:
    """The centroid of a ring or a crescent is off the object; the number must not be."""
    ring = _circle(480, 640, 200, 240, 90) & ~_circle(480, 640, 200, 240, 50)
    crescent = _circle(480, 640, 450, 240, 90) & ~_circle(480, 640, 485, 240, 90)
    covered = _circle(480, 640, 120, 60, 50)
    cover = _circle(480, 640, 120, 40, 40)
    masks = [ring, crescent, covered, cover]
    discs = {disc.text: disc.center for disc in lay_out_overlay(_segments(masks)).discs}
    assert sorted(discs) == ["1", "2", "3", "4"]
    for number, (x_px, y_px) in discs.items():
        assert masks[int(number) - 1][int(y_px), int(x_px)]
    x_px, y_px = discs["3"]
    assert not cover[int(y_px), int(x_px)], "the number of the covered object lies on the one that covers it"


def test_numbers_can_be_given() -> None:
    segments = _segments([_circle(480, 640, 150, 300, 40), _circle(480, 640, 480, 120, 25)])
    layout = lay_out_overlay(segments, numbers=[4, 9])
    assert sorted(disc.text for disc in layout.discs) == ["4", "9"]
    assert sorted(label.badge for label in layout.labels) == ["4", "9"]
    with pytest.raises(ValueError, match="1 numbers for 2 segments"):
        draw_overlay(_noise(480, 640), segments, numbers=[4])


def test_the_title_tells_whether_something_was_found() -> None:
    rgb = _noise(480, 640)
    bar = lay_out_overlay(_segments([]), title="the unicorn").title
    assert bar is not None
    assert (bar.status, bar.text, bar.color) == ("not found", "the unicorn", NEGATIVE)
    overlay = draw_overlay(rgb, _segments([]), title="the unicorn")
    assert (overlay[: bar.height_px] != rgb[: bar.height_px]).any(axis=(1, 2)).all()
    assert np.array_equal(overlay[bar.height_px :], rgb[bar.height_px :])
    bar = lay_out_overlay(_segments([_circle(480, 640, 99, 300, 40)]), title="mug " * 100).title
    assert bar is not None
    assert (bar.status, bar.color) == ("1 found", POSITIVE)
    assert bar.text.endswith("...")


def test_what_is_in_doubt_is_counted_apart_and_has_a_question_mark() -> None:
    circles = [_circle(480, 640, 150, 300, 40), _circle(480, 640, 480, 120, 25)]
    segments = replace(_segments(circles), doubts=("", "looks more like a ball"))
    layout = lay_out_overlay(segments, title="mug")
    assert layout.title is not None
    assert (layout.title.status, layout.title.color) == ("1 found, 1 unsure", POSITIVE)
    assert sorted("?" in label.text for label in layout.labels) == [False, True]
    doubted = replace(segments, doubts=("no", "no"))
    bar = lay_out_overlay(doubted, title="mug").title
    assert bar is not None
    assert bar.status == "2 unsure"
    assert bar.color not in (POSITIVE, NEGATIVE)
    assert len(bar.text) < 100


def test_no_segments_and_no_title_gives_a_copy() -> None:
    rgb = _noise(480, 640)
    overlay = draw_overlay(rgb, _segments([]))
    assert np.array_equal(overlay, rgb)
    assert overlay is not rgb


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 640), (480, 1), (7, 9), (31, 400), (3000, 4000)])
@pytest.mark.slow
def test_any_size(image_hw: tuple[int, int]) -> None:
    mask = np.zeros(image_hw, np.bool_)
    mask[: image_hw[0] // 2 + 1, : image_hw[1] // 2 + 1] = True
    rgb = np.full((*image_hw, 3), 128, np.uint8)
    overlay = draw_overlay(rgb, _segments([mask, mask], image_hw=image_hw), title="half of it")
    assert overlay.shape == rgb.shape
    assert overlay.dtype == np.uint8
    assert not np.array_equal(overlay, rgb)


def test_marks_grow_with_the_image() -> None:
    small, large = DrawSizes.for_image((480, 640)), DrawSizes.for_image((2160, 3840))
    assert large.text == pytest.approx(4.5 * small.text, rel=0.1)
    assert large.line > 3 * small.line


def test_empty_mask_among_others_is_skipped() -> None:
    masks = [np.zeros((480, 640), np.bool_), _circle(480, 640, 300, 300, 40)]
    layout = lay_out_overlay(_segments(masks))
    assert [label.index for label in layout.labels] == [disc.index for disc in layout.discs] == [1]
    assert draw_overlay(_noise(480, 640), _segments(masks)).shape == (480, 640, 3)


def test_labels_in_any_script_do_not_turn_into_question_marks() -> None:
    masks = [_circle(480, 640, 100 + 200 * i, 300, 40) for i in range(3)]
    labels = lay_out_overlay(_segments(masks, ["café crème", "咖啡杯", "a\nb"])).labels
    assert [label.text for label in sorted(labels, key=lambda label: label.index)] == [
        "cafe creme",
        "",
        "a b",
    ]


def test_the_label_of_a_mask_in_two_parts_is_at_one_of_them() -> None:
    """It used to be midway between them, on whatever was there."""
    mask = np.zeros((480, 640), np.bool_)
    mask[200:260, 60:120] = mask[200:260, 500:560] = True
    (label,) = lay_out_overlay(_segments([mask], ["pads"]), style="outline").labels
    left, top, right, bottom = label.rect
    for x_min, x_max in ((60, 120), (500, 560)):
        if right >= x_min - 20 and left <= x_max + 20:
            assert bottom >= 180
            assert top <= 280
            break
    else:
        pytest.fail(f"the label is at {label.rect}, at neither part")


def test_size_mismatch_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="segments are for"):
        draw_overlay(_noise(100, 100), _segments([]))
    with pytest.raises(InvalidImageError, match="uint8"):
        draw_overlay(np.zeros((480, 640, 3), np.float32), _segments([]))  # type: ignore[arg-type]


def test_outline_of_one_mask_is_drawn_around_it_and_nowhere_else() -> None:
    rgb, mask = _noise(480, 640), _circle(480, 640, 500, 120, 60)
    before = rgb.copy()
    drawn = draw_outline(rgb, mask)
    changed = (drawn != rgb).any(axis=2)
    assert np.array_equal(rgb, before)
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11))) > cv2.erode(
        mask.astype(np.uint8), np.ones((11, 11))
    )
    assert changed[120, 555:566].any()
    assert not (changed & ~rim).any()
    assert np.array_equal(draw_outline(rgb, np.zeros((480, 640), np.bool_)), rgb)
    with pytest.raises(InvalidImageError, match="the mask is"):
        draw_outline(rgb, mask[:100])


def test_prompts_are_drawn_where_they_are_and_differ_by_sign() -> None:
    rgb = np.full((480, 640, 3), 128, np.uint8)
    for x_px, y_px in ((500, 60), (60, 400)):  # x beyond the height: swapped axes would fall outside
        changed = np.argwhere((draw_prompts(rgb, [VisualPrompt.point(x_px, y_px)]) != rgb).any(axis=2))
        np.testing.assert_allclose(changed.mean(axis=0), (y_px, x_px), atol=1)
    positive = draw_prompts(rgb, [VisualPrompt.box(400, 100, 600, 300)])
    negative = draw_prompts(rgb, [VisualPrompt.box(400, 100, 600, 300, positive=False)])
    assert tuple(positive[200, 400]) == POSITIVE
    assert tuple(negative[200, 400]) == NEGATIVE
    assert np.array_equal(positive[200, 500], rgb[200, 500])
    mask = _circle(480, 640, 500, 100, 50)
    both = draw_prompts(rgb, [VisualPrompt.scribble([(50, 300), (90, 350)]), VisualPrompt.from_mask(mask)])
    assert (both[100, 520] != 128).any()
    assert tuple(both[325, 70]) == POSITIVE
    outside = draw_prompts(rgb, [VisualPrompt.point(-50, 9999), VisualPrompt.box(-500, -500, 9000, 9000)])
    assert outside.shape == rgb.shape


def test_depth_colors_near_far_and_missing() -> None:
    depth = np.array([[0.3, 3.0, 0.0, np.nan]], np.float32)
    near, far, zero, missing = draw_depth(depth)[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert tuple(zero) == tuple(missing) == (45, 45, 45)


@pytest.mark.parametrize("kind", ["normal", "deuteranopia", "protanopia"])
def test_neighboring_colors_differ_for_color_blind_eyes(kind: str) -> None:
    """Machado et al. 2009, severity 1; distance in CIE L*a*b*, about 2 is just noticeable."""
    matrix = {
        "normal": np.eye(3),
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }[kind]
    linear = (np.array(PALETTE) / 255) ** 2.2 @ np.transpose(matrix)
    seen = (np.clip(linear, 0, 1) ** (1 / 2.2)).astype(np.float32)
    lab = cv2.cvtColor(seen[None], cv2.COLOR_RGB2Lab)[0]
    for index, (one, two) in enumerate(itertools.pairwise(lab)):
        assert np.linalg.norm(one - two) > 30, (PALETTE[index], PALETTE[index + 1])
    for one, two in itertools.combinations(range(8), 2):
        assert np.linalg.norm(lab[one] - lab[two]) > 15, (PALETTE[one], PALETTE[two])


def test_a_number_keeps_its_color_when_the_order_changes() -> None:
    """In a stream the best score comes first, and that changes from frame to frame."""
    left, right = np.zeros((2, 240, 320), bool)
    left[80:160, 40:120] = True
    right[80:160, 200:280] = True
    rgb = np.full((240, 320, 3), 128, np.uint8)

    def drawn(masks: list[np.ndarray], numbers: list[int]) -> np.ndarray:
        segments = Segments(
            image_hw=(240, 320),
            masks=tuple(MaskRle.encode(mask) for mask in masks),
            labels=("mug",) * 2,
            label_indices=np.zeros(2, np.int32),
            scores=np.full(2, 0.5, np.float32),
            boxes_xyxy=np.zeros((2, 4), np.float32),
        )
        return draw_overlay(rgb, segments, numbers=numbers)

    first, second = drawn([left, right], [7, 3]), drawn([right, left], [3, 7])
    assert (first[150, 50] == second[150, 50]).all()
    assert (first[150, 210] == second[150, 210]).all()
    assert (first[150, 50] != first[150, 210]).any()
