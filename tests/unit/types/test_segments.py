"""Segments: columns that stay aligned, tracks and locations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.unit.types.four_segments import four_segments, mask_of
from xsam import MaskRle, Segments
from xsam.types.location import Location3D
from xsam.types.requests import Segments as FromStructures

_UNKNOWN = Location3D.unknown("no depth")


def _segments(count: int, **columns: Any) -> Segments:
    mask = MaskRle.encode(np.eye(4, dtype=np.bool_))
    return Segments(
        image_hw=(4, 4),
        masks=(mask,) * count,
        labels=tuple("abcdef"[:count]),
        label_indices=np.arange(count, dtype=np.int32),
        scores=np.linspace(1, 0.5, count, dtype=np.float32),
        boxes_xyxy=np.zeros((count, 4), np.float32),
        **columns,
    )


def test_tracks_and_places_may_be_left_out() -> None:
    """Code written before tracks and locations existed makes segments without them."""
    segments = _segments(3)
    assert segments.track_ids.tolist() == [0, 0, 0]
    assert segments.track_ids.dtype == np.uint32
    assert segments.locations == (None, None, None)
    assert Segments(image_hw=(4, 4)).locations == ()
    assert FromStructures is Segments


def test_tracks_and_places_are_filtered_with_the_rest() -> None:
    segments = _segments(3, track_ids=np.array([7, 0, 9], np.uint32), locations=(None, _UNKNOWN, None))
    chosen = segments[[1, 2]]
    assert chosen.labels == ("b", "c")
    assert chosen.track_ids.tolist() == [0, 9]
    assert chosen.locations == (_UNKNOWN, None)
    assert segments[:0].locations == ()
    assert segments[np.array([True, False, False])].track_ids.tolist() == [7]


def test_tracks_and_places_are_added_to_segments() -> None:
    ids = np.array([4, 5], np.uint32)
    segments = dataclasses.replace(_segments(2), track_ids=ids, locations=(_UNKNOWN, _UNKNOWN))
    assert segments.track_ids.tolist() == [4, 5]
    assert segments.locations == (_UNKNOWN, _UNKNOWN)
    with pytest.raises(ValueError, match="read-only"):
        segments.track_ids[0] = 1


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"track_ids": np.ones(3, np.uint32)}, "track_ids"),
        ({"track_ids": np.ones(2, np.int64)}, "track_ids"),
        ({"locations": (_UNKNOWN,)}, "locations"),
    ],
)
def test_columns_that_do_not_fit(columns: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"do not fit together.*{name}"):
        _segments(2, **columns)


# ------------------------------------------------------------------------- filters and columns


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        ([2, 0], [2, 0]),
        ([-1], [3]),
        ([], []),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (np.array([3, 3]), [3, 3]),
        ((1,), [1]),
        ([False, True, False, True], [1, 3]),
        (np.zeros(4, np.bool_), []),
    ],
)
def test_filtering_keeps_the_columns_together(index: Any, chosen: list[int]) -> None:
    """A bool array was once read as indices 0 and 1 and returned the first two segments repeatedly."""
    kept = four_segments()[index]
    assert [mask.area - 1 for mask in kept.masks] == chosen
    assert [mask.decode().any(axis=1).argmax() for mask in kept.masks] == chosen
    assert list(kept.labels) == ["abcd"[i] for i in chosen]
    assert kept.label_indices.tolist() == [10 + i for i in chosen]
    assert kept.scores.tolist() == pytest.approx([0.9 - 0.1 * i for i in chosen])
    assert kept.boxes_xyxy.tolist() == [[0, i, i + 1, i + 1] for i in chosen]
    assert kept.image_hw == (4, 7)


def test_segments_can_be_filtered_by_score() -> None:
    segments = four_segments()
    assert segments[segments.scores < 0.75].labels == ("c", "d")


@pytest.mark.parametrize("index", [[4], [True, False], [-5]])
def test_places_that_do_not_exist_are_errors(index: Any) -> None:
    with pytest.raises(IndexError):
        four_segments()[index]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", ("a",)),
        ("label_indices", np.zeros(3, np.int32)),
        ("scores", np.zeros((4, 1), np.float32)),
        ("boxes_xyxy", np.zeros((4, 2), np.float32)),
        ("masks", (MaskRle.encode(np.ones((7, 4), np.bool_)),) * 4),
        ("masks", ()),
    ],
)
def test_columns_of_other_lengths_are_errors(column: str, value: Any) -> None:
    good = four_segments()
    columns = {
        name: getattr(good, name) for name in ("masks", "labels", "label_indices", "scores", "boxes_xyxy")
    }
    with pytest.raises(ValueError, match="do not fit"):
        Segments(image_hw=(4, 7), **{**columns, column: value})


def test_columns_are_read_only() -> None:
    segments = four_segments()
    for array in (segments.label_indices, segments.scores, segments.boxes_xyxy):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_no_segments_still_have_the_size_of_the_image() -> None:
    empty = Segments(image_hw=(4, 7))
    assert len(empty) == 0
    assert empty.decode_masks().shape == (0, 4, 7)
    assert empty.label_map().shape == (4, 7)
    assert empty.label_map().max() == 0


def _overlapping(scores: list[float]) -> Segments:
    masks = [mask_of(2, 3, (0, 0), (0, 1)), mask_of(2, 3, (0, 1), (0, 2))]
    return Segments(
        image_hw=(2, 3),
        masks=tuple(MaskRle.encode(mask) for mask in masks),
        labels=("first", "second"),
        label_indices=np.zeros(2, np.int32),
        scores=np.array(scores, np.float32),
        boxes_xyxy=np.zeros((2, 4), np.float32),
    )


@pytest.mark.parametrize(
    ("scores", "row"), [([0.9, 0.5], [1, 1, 2]), ([0.5, 0.9], [1, 2, 2]), ([0.5, 0.5], [1, 1, 2])]
)
def test_the_better_score_wins_an_overlap(scores: list[float], row: list[int]) -> None:
    """In segments not sorted by score, such as filtered ones, the first one once won."""
    ids = _overlapping(scores).label_map()
    assert ids.dtype == np.uint16
    assert ids.tolist() == [row, [0, 0, 0]]


def test_segments_of_several_results_are_joined_with_every_column() -> None:
    """The second part has no embeddings and no tracks: zeros stand for them."""
    vectors = np.eye(3, dtype=np.float32)[:2]
    first = _segments(2, track_ids=np.array([7, 9], np.uint32), doubts=("weak", ""), embeddings=vectors)
    second = _segments(1, locations=(_UNKNOWN,), chances=np.array([0.25], np.float32))
    joined = Segments.joined([first, second, _segments(0)])
    assert joined.labels == ("a", "b", "a")
    assert joined.label_indices.tolist() == [0, 1, 0]
    assert joined.track_ids.tolist() == [7, 9, 0]
    assert joined.locations == (None, None, _UNKNOWN)
    assert joined.doubts == ("weak", "", "")
    assert joined.chances[2] == 0.25
    assert joined.embeddings.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_segments_of_different_images_are_not_joined() -> None:
    with pytest.raises(ValueError, match="images of one size"):
        Segments.joined([_segments(1), Segments(image_hw=(8, 8))])
