from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ros.messages.strategies import TEXT, over_the_wire
from xsam import Frame, InvalidImageError
from xsam_ros.messages.frames import frame_from_image, image_from_frame, stamp_from_ns, stamp_ns
from xsam_ros.messages.image_messages import image_from_array


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamps(nanoseconds: int) -> None:
    assert stamp_ns(stamp_from_ns(nanoseconds)) == nanoseconds


@pytest.mark.parametrize("nanoseconds", [2**31 * 10**9, -(2**31) * 10**9 - 1, 2**63])
def test_stamps_beyond_ros(nanoseconds: int) -> None:
    with pytest.raises(InvalidImageError, match="stamp"):
        stamp_from_ns(nanoseconds)


@given(rgb=hnp.arrays(np.uint8, (3, 4, 3)), frame_id=TEXT, stamp=st.integers(0, 2**31 * 10**9 - 1))
def test_frames(rgb: np.ndarray, frame_id: str, stamp: int) -> None:
    frame = Frame(rgb=rgb, camera="front", frame_id=frame_id, stamp_ns=stamp)
    got = frame_from_image(over_the_wire(image_from_frame(frame)), camera="front")
    np.testing.assert_array_equal(got.rgb, rgb)
    assert (got.camera, got.frame_id, got.stamp_ns) == ("front", frame_id, stamp)


@pytest.mark.parametrize("frame_id", ["/front_optical", "front optical", "x" * 100_000])
def test_an_image_of_a_frame_that_nobody_has_is_noted(frame_id: str) -> None:
    """An image that is sent has no locations: its header is passed on."""
    image = image_from_array(np.zeros((2, 2, 3), np.uint8), "rgb8")
    image.header.frame_id = frame_id
    notes: list[str] = []
    assert frame_from_image(image, notes=notes).frame_id == frame_id
    (note,) = notes
    assert note.startswith("the frame_id of the image '")
    assert len(note) < 200


def test_notes_of_an_image() -> None:
    notes: list[str] = []
    frame_from_image(image_from_array(np.full((2, 2), 4095, np.uint16), "mono16"), notes=notes)
    assert "12 bits" in notes[0]
