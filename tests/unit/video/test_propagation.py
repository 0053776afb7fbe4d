"""Masks that are carried from keyframes: where they go, what is in front, when the model is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.unit.video.moving import HW, Box, answer, frame, masks
from xsam.types.masks import mask_iou
from xsam.types.requests import Frame, Query, SegmentationResult, Status
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions

ASKED = Query(text="the boxes")


class _Player:
    """Frames go in one after the other; the model answers when it is told to."""

    def __init__(self, options: PropagationOptions | None = None) -> None:
        self.camera = CameraMotion()
        self.propagation = Propagation(ASKED, options or PropagationOptions(every=100, eager=False))
        self.count = 0

    def show(self, boxes: Sequence[Box]) -> Frame:
        shown = frame(boxes, self.count)
        self.count += 1
        motion = self.camera.advance(shown)
        self.propagation.advance(shown, self.camera.gray, motion)
        return shown

    def keyframe(self, boxes: Sequence[Box]) -> None:
        shown = self.show(boxes)
        self.propagation.hold()
        self.propagation.correct(answer(masks(boxes), ASKED, shown))

    def result(self) -> SegmentationResult:
        result = self.propagation.result()
        assert result is not None
        return result


def _iou(result: SegmentationResult, boxes: Sequence[Box], number: int) -> float:
    index = result.segments.labels.index(f"box {number}")
    return mask_iou(result.segments.masks[index].decode(), masks(boxes)[number])


def _moved(box: Box, x: float, y: float) -> Box:
    return (round(box[0] + x), round(box[1] + y), box[2], box[3])


@pytest.mark.parametrize(("x", "y"), [(3, 0), (-2, 2), (0, -5)])
def test_a_mask_follows_its_object(x: int, y: int) -> None:
    player, start = _Player(), (130, 100, 60, 50)
    player.keyframe([start])
    for step in range(1, 9):
        player.show([_moved(start, x * step, y * step)])
    result = player.result()
    assert _iou(result, [_moved(start, 8 * x, 8 * y)], 0) > 0.9
    assert result.status is Status.FOUND
    np.testing.assert_array_equal(result.segments.boxes_xyxy[0], result.segments.masks[0].crop().box_xyxy)


def test_a_result_says_what_it_was_carried_from() -> None:
    player = _Player()
    player.keyframe([(100, 100, 60, 50)])
    assert player.result().carried is None
    shown = [player.show([(100 + step, 100, 60, 50)]) for step in range(1, 4)][-1]
    result = player.result()
    assert result.stamp_ns == shown.stamp_ns
    assert result.carried is not None
    assert (result.carried.frames, result.carried.keyframe_ns) == (3, 100_000_000)
    assert result.carried.age_s == pytest.approx(0.3)


def test_confidence_falls_with_every_frame() -> None:
    player = _Player()
    player.keyframe([(100, 100, 60, 50)])
    confidences = []
    for step in range(1, 6):
        player.show([(100 + step, 100, 60, 50)])
        carried = player.result().carried
        assert carried is not None
        confidences.append(carried.confidence)
    assert confidences == sorted(confidences, reverse=True)
    assert 0.8 < confidences[-1] < confidences[0] <= 1.0


def test_what_passes_in_front_hides_what_is_behind() -> None:
    """Both masks would claim the pixels where they meet; the one in back has to give way."""
    player = _Player()
    back: Box = (150, 90, 70, 70)

    def boxes(step: int) -> list[Box]:
        return [back, (60 + 6 * step, 100, 60, 40)]

    player.keyframe(boxes(0))
    for step in range(1, 13):
        player.show(boxes(step))
    result, now = player.result(), boxes(12)
    behind, front = (result.segments.masks[result.segments.labels.index(f"box {n}")].decode() for n in (0, 1))
    assert not (behind & front).any()
    assert _iou(result, now, 0) > 0.8
    assert _iou(result, now, 1) > 0.85


def test_something_unknown_in_front_hides_an_object_too() -> None:
    """Only the mask of the object in back is known; the one in front was not asked for."""
    player = _Player()
    back: Box = (150, 80, 80, 80)

    def boxes(step: int) -> list[Box]:
        return [back, (60 + 6 * step, 90, 60, 60)]

    shown = player.show(boxes(0))
    player.propagation.hold()
    player.propagation.correct(answer({0: masks(boxes(0))[0]}, ASKED, shown))
    for step in range(1, 13):
        player.show(boxes(step))
    claimed = player.result().segments.masks[0].decode()
    cover = masks(boxes(12))[1]
    assert (claimed & cover).sum() < 0.3 * (cover & masks([back])[0]).sum()


def test_a_late_answer_is_carried_to_the_newest_frame() -> None:
    """The robot does not wait for the model: frames go by until it answers."""
    player, start = _Player(), (100, 100, 60, 50)
    held = player.show([start])
    player.propagation.hold()
    for step in range(1, 7):
        player.show([_moved(start, 3 * step, 0)])
        assert player.propagation.result() is None
    player.propagation.correct(answer(masks([start]), ASKED, held))
    result = player.result()
    assert result.carried is not None
    assert result.carried.frames == 6
    assert _iou(result, [_moved(start, 18, 0)], 0) > 0.88


@pytest.mark.parametrize("speed", [4, 6, 8])
def test_an_object_that_leaves_is_not_found_any_more(speed: int) -> None:
    """At 8 px a frame, a piece of the ground was left for it at the edge of the image."""
    player = _Player()
    player.keyframe([(250, 100, 50, 50)])
    for step in range(1, 20):
        player.show([(250 + speed * step, 100, 50, 50)])
    result = player.result()
    assert result.status is Status.NOT_FOUND
    assert not len(result.segments)
    assert "out of view" in result.message


def test_a_changed_object_is_in_doubt() -> None:
    """The box is exchanged for another one in the same place: the mask may be of something else."""
    player, box = _Player(), (100, 80, 80, 80)
    player.keyframe([box])
    player.show([(0, 0, 1, 1), box])
    result = player.result()
    assert result.status is Status.UNSURE
    assert "may have changed" in result.segments.doubts[0]
    assert result.carried is not None
    assert result.carried.confidence < 0.5


def test_a_keyframe_is_due_after_so_many_frames() -> None:
    player = _Player(PropagationOptions(every=3, eager=False))
    box: Box = (100, 80, 60, 60)
    player.keyframe([box])
    due = []
    for _ in range(3):
        player.show([box])
        due.append(player.propagation.due)
    assert due[:2] == ["", ""]
    assert "3 frames ago" in due[2]


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (lambda step: [(100, 100, 60, 60), (320 - 10 * step, 40, 120, 90)], "appeared"),
        (lambda step: [(-30 + 6 * step, 100, 60, 60)], "come into view"),
        (lambda step: [(0, 0, 1, 1), (100, 100, 60, 60)], "does not look"),
    ],
)
def test_an_eager_session_asks_when_something_changes(later: object, reason: str) -> None:
    assert callable(later)
    player = _Player(PropagationOptions(every=100))
    player.keyframe(later(0) if reason == "come into view" else [(100, 100, 60, 60)])
    for step in range(1, 10):
        player.show(later(step))
        if due := player.propagation.due:
            assert reason in due
            return
    pytest.fail("no keyframe was due")


def test_a_still_scene_asks_for_nothing() -> None:
    player = _Player(PropagationOptions(every=100))
    player.keyframe([(100, 100, 60, 60)])
    for _ in range(20):
        player.show([(100, 100, 60, 60)])
        assert player.propagation.due == ""


def test_another_size_and_time_that_goes_back_begin_anew() -> None:
    player = _Player()
    player.keyframe([(100, 100, 60, 60)])
    small = Frame(rgb=np.zeros((120, 160, 3), np.uint8), stamp_ns=10**9)
    player.propagation.advance(small, np.zeros((120, 160), np.uint8), player.camera.advance(small))
    assert player.propagation.result() is None
    assert player.propagation.due
    player = _Player()
    player.keyframe([(100, 100, 60, 60)])
    player.count = 0
    player.show([(100, 100, 60, 60)])
    earlier = frame([(100, 100, 60, 60)], -1)
    player.propagation.advance(earlier, player.camera.gray, player.camera.advance(earlier))
    assert player.propagation.result() is None


def test_a_refused_keyframe_leaves_the_masks_and_says_why() -> None:
    player = _Player()
    box: Box = (100, 100, 60, 60)
    player.keyframe([box])
    shown = player.show([box])
    player.propagation.hold()
    refusal = answer({}, ASKED, shown)
    object.__setattr__(refusal, "status", Status.FAILED)
    object.__setattr__(refusal, "message", "out of memory")
    player.propagation.correct(refusal)
    player.show([box])
    result = player.result()
    assert len(result.segments) == 1
    assert "out of memory" in result.notes[-1]


def test_a_result_does_not_change_later() -> None:
    player = _Player()
    player.keyframe([(100, 100, 60, 60)])
    player.show([(103, 100, 60, 60)])
    early = player.result()
    before = early.segments.masks[0].decode()
    for step in range(2, 8):
        player.show([(100 + 3 * step, 100, 60, 60)])
    np.testing.assert_array_equal(early.segments.masks[0].decode(), before)
    assert before.shape == HW
