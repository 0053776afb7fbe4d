from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from xsam import MaskRle, Segments
from xsam.sim import orbit_camera, render, sample_scene
from xsam.spatial.tracking import InstanceTracker
from xsam.types.masks import BoolMask, box_of_mask

_HW = (120, 160)
_STEP_S = 0.1


def _disc(x_px: float, y_px: float = 60.0, radius_px: float = 10.0) -> BoolMask:
    y, x = np.mgrid[: _HW[0], : _HW[1]]
    disc: BoolMask = (x - x_px) ** 2 + (y - y_px) ** 2 <= radius_px**2
    return disc


def _segments(masks: Sequence[BoolMask], labels: Sequence[str] | str = "mug") -> Segments:
    labels = (labels,) * len(masks) if isinstance(labels, str) else tuple(labels)
    return Segments(
        image_hw=masks[0].shape if masks else _HW,  # type: ignore[arg-type]
        masks=tuple(MaskRle.encode(mask) for mask in masks),
        labels=labels,
        label_indices=np.zeros(len(masks), np.int32),
        scores=np.ones(len(masks), np.float32),
        boxes_xyxy=np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4),
    )


def _update(
    tracker: InstanceTracker, stamp_s: float, *masks: BoolMask, labels: Sequence[str] | str = "mug"
) -> list[int]:
    ids = tracker.update(_segments(masks, labels), stamp_s=stamp_s)
    assert ids.dtype == np.uint32
    return ids.tolist()


# ----------------------------------------------------------------------------- simulated camera


def _orbit(seed: int, count: int) -> tuple[list[str], list[NDArray[np.uint16]]]:
    """Categories and instance images of a scene, from a camera that orbits it at 10 Hz."""
    scene = sample_scene(seed)
    images = [
        render(scene, camera=orbit_camera(scene, index * _STEP_S), image_hw=_HW, supersample=1).instance_ids
        for index in range(count)
    ]
    return [item.category for item in scene.objects], images


@pytest.fixture(scope="module", params=[1_000_003, 1_000_010])
def orbit(request: pytest.FixtureRequest) -> tuple[list[str], list[NDArray[np.uint16]]]:
    return _orbit(request.param, 25)


def _ids_by_object(
    orbit: tuple[list[str], list[NDArray[np.uint16]]],
    *,
    labels: Sequence[str] | None = None,
    hidden: Iterable[tuple[int, int]] = (),
) -> dict[int, set[int]]:
    """The track ids of each object, with segments in random order; `hidden`: pairs of frame and object."""
    categories, images = orbit
    names = categories if labels is None else labels
    rng = np.random.default_rng(0)
    tracker = InstanceTracker()
    ids_by_object: dict[int, set[int]] = {}
    for index, image in enumerate(images):
        seen = [k for k in np.unique(image[image > 0]).tolist() if (index, k) not in set(hidden)]
        seen = [k for k in rng.permutation(seen).tolist() if np.count_nonzero(image == k) >= 15]
        segments = _segments([image == k for k in seen], [names[k - 1] for k in seen])
        for k, track_id in zip(seen, tracker.update(segments, stamp_s=index * _STEP_S).tolist(), strict=True):
            ids_by_object.setdefault(k, set()).add(track_id)
    return ids_by_object


def _assert_one_id_each(ids_by_object: dict[int, set[int]]) -> None:
    assert len(ids_by_object) >= 3
    assert {k: len(ids) for k, ids in ids_by_object.items()} == dict.fromkeys(ids_by_object, 1)
    assert len(set.union(*ids_by_object.values())) == len(ids_by_object)
    assert 0 not in set.union(*ids_by_object.values())


def test_ids_are_kept_while_the_camera_moves(orbit: tuple[list[str], list[NDArray[np.uint16]]]) -> None:
    _assert_one_id_each(_ids_by_object(orbit))


def test_ids_are_kept_when_all_labels_are_the_same(orbit: tuple[list[str], list[NDArray[np.uint16]]]) -> None:
    _assert_one_id_each(_ids_by_object(orbit, labels=["thing"] * len(orbit[0])))


def test_objects_lost_for_less_than_a_second_are_found_again(
    orbit: tuple[list[str], list[NDArray[np.uint16]]],
) -> None:
    """Each object in turn is out of sight in eight images: 0.9 s between the images that show it."""
    hidden = [
        (frame, k)
        for k in range(1, len(orbit[0]) + 1)
        for start in [3 + 2 * k]
        for frame in range(start, start + 8)
    ]
    _assert_one_id_each(_ids_by_object(orbit, hidden=hidden))


def test_an_object_lost_for_longer_is_a_new_one() -> None:
    tracker = InstanceTracker(max_lost_s=1.0)
    assert _update(tracker, 0.0, _disc(50), _disc(120)) == [1, 2]
    assert _update(tracker, 0.5, _disc(120)) == [2]
    assert _update(tracker, 1.0, _disc(50), _disc(120)) == [1, 2]
    assert _update(tracker, 1.5, _disc(120)) == [2]
    assert _update(tracker, 2.1, _disc(50), _disc(120)) == [3, 2]


# ------------------------------------------------------------------------------------- crossing


@pytest.mark.parametrize("speed_px_s", [30, 60, 150])
@pytest.mark.parametrize("front_moves", [False, True])
def test_an_object_that_passes_behind_another_one(speed_px_s: float, front_moves: bool) -> None:
    """Both have the same label; the one behind disappears gradually and reappears on the other side."""
    tracker = InstanceTracker()
    behind_ids, front_ids, hidden = set(), set(), 0
    for index in range(int(140 / speed_px_s / _STEP_S)):
        traveled = speed_px_s * index * _STEP_S
        front = _disc(150 - traveled if front_moves else 80, radius_px=15)
        behind = _disc(10 + traveled) & ~front
        if behind.sum() < 20:
            front_ids |= set(_update(tracker, index * _STEP_S, front))
            hidden += 1
            continue
        behind_id, front_id = _update(tracker, index * _STEP_S, behind, front)
        behind_ids.add(behind_id)
        front_ids.add(front_id)
    assert (behind_ids, front_ids) == ({1}, {2})
    assert hidden > 0 or speed_px_s > 100


def test_a_lost_object_is_found_at_its_predicted_position() -> None:
    """Another object of its kind is where it was lost; the one farther along its path is the same object."""
    tracker = InstanceTracker()
    for index in range(5):
        assert _update(tracker, index * 0.1, _disc(20 + 8 * index)) == [1]
    assert _update(tracker, 0.5) == []
    assert _update(tracker, 0.9, _disc(52), _disc(52 + 40)) == [2, 1]


def test_fast_objects_do_not_overlap_from_frame_to_frame() -> None:
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(20), _disc(130)) == [1, 2]
    assert _update(tracker, 0.5, _disc(36), _disc(130)) == [1, 2]  # nearly its size away
    assert _update(tracker, 1.0, _disc(61), _disc(130)) == [1, 2]  # now its speed is known
    assert _update(tracker, 1.5, _disc(86), _disc(130)) == [1, 2]


def test_something_far_away_is_something_else() -> None:
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(30)) == [1]
    assert _update(tracker, 0.1, _disc(80)) == [2]
    assert _update(tracker, 5.0, _disc(30, radius_px=20)) == [3]
    assert _update(tracker, 5.1, _disc(66, radius_px=10)) == [4]  # hardly in reach, and a quarter of the size


def test_recently_seen_objects_have_priority() -> None:
    """A mask halfway between a lost object and one in the previous frame continues the latter."""
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(50), _disc(70)) == [1, 2]
    assert _update(tracker, 0.1, _disc(70)) == [2]
    assert _update(tracker, 0.2, _disc(60)) == [2]


# --------------------------------------------------------------------------------------- labels


def test_a_label_that_flickers() -> None:
    """An open vocabulary cannot decide between a mug and a cup; it is still one object."""
    tracker = InstanceTracker()
    for index, label in enumerate(["mug", "cup", "cup", "mug", "coffee mug"]):
        assert _update(tracker, index * 0.1, _disc(50 + index), labels=label) == [1]


def test_the_label_decides_between_masks_in_one_position() -> None:
    tracker = InstanceTracker()
    mug, book = _disc(60, radius_px=14), _disc(62, radius_px=15)
    assert _update(tracker, 0.0, mug, book, labels=["mug", "book"]) == [1, 2]
    assert _update(tracker, 0.1, book, mug, labels=["mug", "book"]) == [1, 2]
    assert _update(tracker, 0.2, mug, book, labels=["book", "mug"]) == [2, 1]


# --------------------------------------------------------------------------------------- stamps


def test_late_frames_are_not_tracked_and_change_nothing() -> None:
    tracker = InstanceTracker()
    assert _update(tracker, 10.0, _disc(50)) == [1]
    assert _update(tracker, 9.5, _disc(90), _disc(20)) == [0, 0]
    assert _update(tracker, 10.1, _disc(50)) == [1]
    assert tracker.next_id == 2


def test_a_clock_reset_starts_over_with_new_ids() -> None:
    tracker = InstanceTracker()
    assert _update(tracker, 1000.0, _disc(50)) == [1]
    assert _update(tracker, 3.0, _disc(50)) == [2]
    assert _update(tracker, 3.1, _disc(50)) == [2]


def test_the_same_frame_twice() -> None:
    tracker = InstanceTracker()
    _update(tracker, 0.0, _disc(20))
    assert _update(tracker, 0.1, _disc(28)) == [1]
    assert _update(tracker, 0.1, _disc(28)) == [1]
    assert _update(tracker, 0.3, _disc(44)) == [1]


@pytest.mark.parametrize("stamp_s", [float("nan"), float("inf")])
def test_stamps_must_be_finite(stamp_s: float) -> None:
    with pytest.raises(ValueError, match="stamp_s"):
        InstanceTracker().update(_segments([]), stamp_s=stamp_s)


# ------------------------------------------------------------------------------------------ ids


def test_ids_are_never_reused() -> None:
    tracker = InstanceTracker(first_id=5)
    assert _update(tracker, 0.0, _disc(50)) == [5]
    tracker.reset()
    assert _update(tracker, 0.1, _disc(50)) == [6]
    assert InstanceTracker(first_id=tracker.next_id).next_id == 7


def test_empty_masks_are_not_tracked() -> None:
    tracker = InstanceTracker()
    empty = np.zeros(_HW, np.bool_)
    assert _update(tracker, 0.0, empty, _disc(50)) == [0, 1]
    assert _update(tracker, 0.1, _disc(50), empty) == [1, 0]
    assert _update(tracker, 0.2) == []
    assert _update(tracker, 0.3, _disc(50)) == [1]


def test_another_image_size_starts_over() -> None:
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(50)) == [1]
    assert _update(tracker, 0.1, np.ones((60, 80), np.bool_)) == [2]
    assert _update(tracker, 0.2, np.ones((60, 80), np.bool_)) == [2]


@pytest.mark.parametrize("options", [{"max_lost_s": -1.0}, {"max_lost_s": float("nan")}, {"first_id": 0}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        InstanceTracker(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_scipy_is_imported_before_the_first_frame() -> None:
    """On a busy machine the import took longer than a second, and the second frame gave new ids to all."""
    code = (
        "import sys\n"
        "from xsam.spatial.tracking import InstanceTracker\n"
        "before = 'scipy.optimize' in sys.modules\n"
        "InstanceTracker()\n"
        "print(before, 'scipy.optimize' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "True"]


# ----------------------------------------------------------------------------- identity


def _embedded(masks: Sequence[BoolMask], *embeddings: Sequence[float]) -> Segments:
    return replace(_segments(masks), embeddings=np.array(embeddings, np.float32))


def test_embeddings_tell_objects_apart_that_pass_each_other() -> None:
    """Each mask overlaps more with where the other mug was; only how they look says which is which."""
    red, blue = (1.0, 0.0), (0.0, 1.0)
    for embeddings, expected in (((red, blue), [1, 2]), ((blue, red), [2, 1])):
        tracker = InstanceTracker()
        first = _embedded([_disc(40.0), _disc(60.0)], red, blue)
        assert tracker.update(first, stamp_s=0.0).tolist() == [1, 2]
        passed = _embedded([_disc(51.5), _disc(48.5)], *embeddings)
        assert tracker.update(passed, stamp_s=0.1).tolist() == expected
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(40.0), _disc(60.0)) == [1, 2]
    assert _update(tracker, 0.1, _disc(51.5), _disc(48.5)) == [2, 1]


@pytest.mark.parametrize("missing", [np.zeros((1, 2), np.float32), np.zeros((1, 0), np.float32)])
def test_a_segment_without_an_embedding_goes_by_its_place(missing: NDArray[np.float32]) -> None:
    """A region of several queries has none; the track keeps the one that it had."""
    tracker, red = InstanceTracker(), (1.0, 0.0)
    known = [_embedded([_disc(x)], red) for x in (40.0, 44.0)]
    assert tracker.update(known[0], stamp_s=0.0).tolist() == [1]
    between = replace(_segments([_disc(42.0)]), embeddings=missing)
    assert tracker.update(between, stamp_s=0.1).tolist() == [1]
    assert tracker.update(known[1], stamp_s=0.2).tolist() == [1]


def test_another_embedding_in_the_same_place_keeps_the_id() -> None:
    """As with labels: it may flicker, and there is no other candidate."""
    tracker = InstanceTracker()
    assert tracker.update(_embedded([_disc(40.0)], (1.0, 0.0)), stamp_s=0.0).tolist() == [1]
    assert tracker.update(_embedded([_disc(41.0)], (0.0, 1.0)), stamp_s=0.1).tolist() == [1]


def test_a_new_object_never_gets_the_id_of_a_tracked_one() -> None:
    """In the official video code, numbering restarts with each frame, so the new one would be 1 again."""
    tracker = InstanceTracker()
    assert _update(tracker, 0.0, _disc(30.0), _disc(120.0)) == [1, 2]
    for step, masks in enumerate(([80.0, 31.0, 121.0], [5.0, 122.0, 80.0, 31.0], [150.0, 5.0]), start=1):
        ids = _update(tracker, step * 0.1, *map(_disc, masks))
        assert len(set(ids)) == len(ids)
        assert 0 not in ids
    assert _update(tracker, 0.4, _disc(31.0), _disc(80.0)) == [1, 3]


# ----------------------------------------------------------------------- masks that are wrong for a frame


def test_a_stray_fragment_does_not_throw_an_object_off_its_course() -> None:
    """The mean of such a mask leaps, and what was taken for a speed led away from the object."""
    tracker = InstanceTracker()
    for index, fragment in enumerate([False, False, True, False, True, False, False]):
        mask = _disc(40.0 + index)
        if fragment:
            mask |= _disc(150.0, radius_px=7.0)
        assert _update(tracker, index * 0.1, mask) == [1]


def test_masks_that_are_joined_for_a_moment() -> None:
    """The model gives two neighbors one mask, then tells them apart again: both keep their ids."""
    tracker = InstanceTracker()
    first, second = _disc(40.0), _disc(120.0)
    for index in range(4):
        assert _update(tracker, index * 0.1, first, second) == [1, 2]
    joined = _update(tracker, 0.4, first | second)
    assert len(joined) == 1
    for index in range(5, 8):
        assert _update(tracker, index * 0.1, first, second) == [1, 2]


def test_what_looks_the_same_may_have_come_farther() -> None:
    """A small object that was not found for a while, without a known speed, one and a half sizes on."""
    same, other = (1.0, 0.0), (0.0, 1.0)
    for embedding, x, expected in ((same, 70.0, [1]), (other, 70.0, [2]), (same, 140.0, [2])):
        tracker = InstanceTracker()
        assert tracker.update(_embedded([_disc(40.0)], same), stamp_s=0.0).tolist() == [1]
        assert tracker.update(_segments([]), stamp_s=0.2).tolist() == []
        assert tracker.update(_embedded([_disc(x)], embedding), stamp_s=0.4).tolist() == expected


# ------------------------------------------------------------------------------------- carried masks


def test_carried_masks_keep_the_ids_of_their_keyframe() -> None:
    """Both have moved onto the other's place: by overlap they would swap, but it is known which is which."""
    tracker = InstanceTracker()
    keyframe = _segments([_disc(50.0), _disc(75.0)])
    assert tracker.update(keyframe, stamp_s=0.0, keyframe_ns=7).tolist() == [1, 2]
    swapped = _segments([_disc(74.0), _disc(51.0)])
    carried = replace(swapped, origins=np.array([0, 1], np.int32))
    assert tracker.update(carried, stamp_s=0.1, keyframe_ns=7).tolist() == [1, 2]
    for step in range(2, 9):  # until they stand still there
        assert tracker.update(carried, stamp_s=step * 0.1, keyframe_ns=7).tolist() == [1, 2]
    # Of another keyframe, the numbers mean something else.
    other = replace(_segments([_disc(51.0), _disc(74.0)]), origins=np.array([0, 1], np.int32))
    assert tracker.update(other, stamp_s=0.9, keyframe_ns=8).tolist() == [2, 1]
    assert tracker.update(carried, stamp_s=1.0, keyframe_ns=8).tolist() == [2, 1]


def test_a_carried_mask_that_was_out_of_view_for_a_moment() -> None:
    tracker = InstanceTracker()
    assert tracker.update(_segments([_disc(30.0), _disc(120.0)]), stamp_s=0.0, keyframe_ns=7).tolist() == [
        1,
        2,
    ]
    assert tracker.update(_segments([]), stamp_s=0.1, keyframe_ns=7).tolist() == []
    back = replace(_segments([_disc(80.0)]), origins=np.array([1], np.int32))
    assert tracker.update(back, stamp_s=0.2, keyframe_ns=7).tolist() == [2]


def test_frames_that_were_gone_through_before_keep_their_ids() -> None:
    """A run is resumed: what was saved of its frames says less than the frames themselves did."""
    tracker = InstanceTracker()
    known = np.array([4, 9], np.uint32)
    ids = tracker.update(_segments([_disc(30.0), _disc(90.0)]), stamp_s=0.0, known_ids=known)
    assert ids.tolist() == [4, 9]
    assert _update(tracker, 0.1, _disc(91.0), _disc(31.0), _disc(140.0)) == [9, 4, 10]
    with pytest.raises(ValueError, match="known ids"):
        tracker.update(_segments([]), stamp_s=0.2, known_ids=known)
