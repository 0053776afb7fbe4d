from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

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
