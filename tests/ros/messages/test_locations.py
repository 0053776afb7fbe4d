"""Locations and track ids ↔ messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xsam_ros.msg as messages
from tests.ros.messages.strategies import over_the_wire
from xsam import MaskRle, ModelError, Segments
from xsam.types.location import Location3D
from xsam_ros.messages.locations import location_from_message, location_to_message
from xsam_ros.messages.results import instances_from_segments, segments_from_instances

_number = st.floats(-1e3, 1e3)
_triple = st.tuples(_number, _number, _number)
_ratio = st.floats(0.0, 1.0, width=32)
_reason = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
_known = st.builds(
    Location3D,
    position_m=_triple,
    center_m=_triple,
    size_m=_triple,
    orientation_xyzw=st.tuples(_number, _number, _number, _number),
    distance_m=st.floats(0.0, 1e3, width=32),
    depth_valid_ratio=_ratio,
    frame_id=st.sampled_from(["lens", "base_link"]),
)
_unknown = st.builds(
    lambda reason, ratio: Location3D.unknown(reason, depth_valid_ratio=ratio), _reason, _ratio
)


@given(location=_known)
def test_a_known_location_survives(location: Location3D) -> None:
    message = over_the_wire(location_to_message(location))
    assert message.valid
    assert location_from_message(message) == location


@given(location=_unknown)
def test_an_unknown_location_keeps_its_reason_and_has_no_numbers(location: Location3D) -> None:
    message = over_the_wire(location_to_message(location))
    assert not message.valid
    assert math.isnan(message.position.x)
    assert math.isnan(message.box_pose.orientation.w)
    assert math.isnan(message.distance)
    back = location_from_message(message)
    assert back is not None
    assert (back.reason, back.depth_valid_ratio) == (location.reason, location.depth_valid_ratio)


def test_an_instance_that_nobody_located() -> None:
    message = over_the_wire(location_to_message(None))
    assert not message.valid
    assert message.reason
    assert location_from_message(message) is None
    assert location_from_message(messages.Location()) is None


@pytest.mark.parametrize("field", ["position", "box_size"])
def test_numbers_that_contradict_valid_are_an_error(field: str) -> None:
    message = location_to_message(
        Location3D(
            position_m=(1.0, 2.0, 3.0),
            center_m=(1.0, 2.0, 3.0),
            size_m=(1.0, 1.0, 1.0),
            orientation_xyzw=(0.0, 0.0, 0.0, 1.0),
            distance_m=4.0,
        )
    )
    getattr(message, field).y = math.nan
    with pytest.raises(ModelError, match="contradicts"):
        location_from_message(message)


@given(
    locations=st.lists(st.one_of(_known, _unknown, st.none()), max_size=4),
    first_track=st.integers(0, 2**32 - 5),
)
def test_segments_keep_locations_and_tracks_together(
    locations: list[Location3D | None], first_track: int
) -> None:
    count = len(locations)
    mask = np.zeros((6, 8), np.bool_)
    mask[1:3, 2:5] = True
    segments = Segments(
        image_hw=(6, 8),
        masks=(MaskRle.encode(mask),) * count,
        labels=tuple(f"object {index}" for index in range(count)),
        label_indices=np.arange(count, dtype=np.int32),
        scores=np.ones(count, np.float32),
        boxes_xyxy=np.tile(np.array([[2, 1, 5, 3]], np.float32), (count, 1)),
        track_ids=np.arange(first_track, first_track + count, dtype=np.uint32),
        locations=tuple(locations),
    )
    sent = [over_the_wire(item) for item in instances_from_segments(segments)]
    assert [item.track_id for item in sent] == segments.track_ids.tolist()
    back = segments_from_instances(sent, (6, 8))
    assert back.locations == segments.locations
    np.testing.assert_array_equal(back.track_ids, segments.track_ids)
