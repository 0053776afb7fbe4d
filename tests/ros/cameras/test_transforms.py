"""Locations in another frame: with a buffer like that of tf2_ros, and without tf2_ros."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from std_msgs.msg import Header

from xsam.types.location import Location3D
from xsam_ros.cameras import transforms
from xsam_ros.cameras.transforms import Transforms
from xsam_ros.messages.frames import stamp_from_ns

_STAMP_NS = 12_345_678_901
_HEADER = Header(frame_id="lens", stamp=stamp_from_ns(_STAMP_NS))
_LOCATION = Location3D(
    position_m=(1.0, 2.0, 3.0),
    center_m=(1.0, 2.0, 3.1),
    size_m=(0.3, 0.2, 0.1),
    orientation_xyzw=(0.0, 0.0, 0.0, 1.0),
    distance_m=math.sqrt(14.0),
    depth_valid_ratio=0.5,
    frame_id="lens",
)
_UNKNOWN = Location3D.unknown("too few points", depth_valid_ratio=0.25)


_wait_s = 0.1


class _TransformError(Exception):
    pass


class FakeTfBuffer:
    """The used part of `tf2_ros.Buffer`, with one transform at one stamp."""

    created: ClassVar[list[FakeTfBuffer]] = []

    def __init__(self, node: Any = None) -> None:
        self.available_after = 0  # calls
        self.lookups: list[tuple[str, str, int]] = []
        self.created.append(self)

    def can_transform(self, target: str, source: str, time: Any) -> bool:
        self.lookups.append((target, source, time.nanoseconds))
        return (target, source, time.nanoseconds) == ("base", "lens", _STAMP_NS) and (
            len(self.lookups) > self.available_after
        )

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        self.lookups.append((target, source, time.nanoseconds))
        if not self.can_transform(target, source, time):
            raise _TransformError(f"Lookup would require extrapolation for {target}")
        found = TransformStamped()
        # The camera looks along the robot's x axis: z of the lens becomes x, x becomes −y, y becomes −z.
        found.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
        found.transform.translation = Vector3(x=0.1, y=0.0, z=1.5)
        return found


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> Transforms:
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(
        Buffer=FakeTfBuffer,
        TransformListener=lambda buffer, node, spin_thread: listener,
        TransformException=_TransformError,
    )
    monkeypatch.setattr(transforms, "tf2_ros", module)
    return Transforms(SimpleNamespace(), wait_s=lambda: _wait_s)  # type: ignore[arg-type]


def test_position_and_box_are_transformed(tf: Transforms) -> None:
    (location,) = tf.relocate([_LOCATION], _HEADER, "base")
    assert location is not None
    np.testing.assert_allclose(location.position_m, (3.1, -1.0, -0.5), atol=1e-9)
    np.testing.assert_allclose(location.center_m, (3.2, -1.0, -0.5), atol=1e-9)
    np.testing.assert_allclose(np.abs(location.orientation_xyzw), 0.5, atol=1e-9)
    assert location.size_m == _LOCATION.size_m
    assert location.distance_m == _LOCATION.distance_m, "from the camera, whatever the frame"
    assert location.frame_id == "base"


def test_the_transform_is_looked_up_at_the_stamp_of_the_image(tf: Transforms) -> None:
    tf.relocate([_LOCATION], _HEADER, "base")
    assert set(FakeTfBuffer.created[-1].lookups) == {("base", "lens", _STAMP_NS)}


def test_a_transform_that_arrives_a_little_later_is_awaited(tf: Transforms) -> None:
    FakeTfBuffer.created[-1].available_after = 5
    (location,) = tf.relocate([_LOCATION], _HEADER, "base")
    assert location is not None
    assert location.valid


@pytest.mark.parametrize(
    ("header", "target", "reason"),
    [
        (_HEADER, "map", "'map': Lookup would require"),
        (Header(frame_id="lens", stamp=stamp_from_ns(1)), "base", "extrapolation"),
        (Header(stamp=stamp_from_ns(_STAMP_NS)), "base", "frame_id of the image is empty"),
        (Header(frame_id="lens", stamp=stamp_from_ns(-5_000_000_000)), "base", "must not be negative"),
    ],
)
def test_without_a_transform_a_location_is_unknown_and_never_in_the_wrong_frame(
    tf: Transforms, header: Header, target: str, reason: str
) -> None:
    unknown, still_unknown, nothing = tf.relocate([_LOCATION, _UNKNOWN, None], header, target)
    assert unknown is not None
    assert still_unknown is not None
    assert not unknown.valid
    assert reason in unknown.reason
    assert np.isnan(unknown.position_m).all()
    assert unknown.depth_valid_ratio == 0.5
    assert (still_unknown.reason, still_unknown.depth_valid_ratio) == ("too few points", 0.25)
    assert nothing is None


def test_what_is_missing_is_told_until_it_is_there(tf: Transforms) -> None:
    """For `/diagnostics`: the reason was in each location only."""
    assert tf.problems == ()
    for target in ("map", "/base", "map"):
        tf.relocate([_LOCATION], _HEADER, target)
        (problem,) = tf.problems
        assert f"no transform from 'lens' to {target!r}" in problem
    tf.relocate([_LOCATION], Header(frame_id="rear", stamp=_HEADER.stamp), "base")
    assert len(tf.problems) == 2
    assert "'rear' to 'base'" in tf.problems[-1]
    tf.relocate([_LOCATION], _HEADER, "base")
    assert len(tf.problems) == 1
    for number in range(100):
        tf.relocate([_LOCATION], Header(frame_id=f"lens{number}", stamp=_HEADER.stamp), "base")
    assert len(tf.problems) == 16
    tf.relocate([_LOCATION], Header(frame_id="lens99", stamp=_HEADER.stamp), "")
    assert len(tf.problems) == 15


def test_the_wait_is_a_parameter(tf: Transforms, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF of a robot whose localization takes 0.3 s was never found."""
    monkeypatch.setitem(globals(), "_wait_s", 0.0)
    FakeTfBuffer.created[-1].available_after = 5
    (location,) = tf.relocate([_LOCATION], _HEADER, "base")
    assert location is not None
    assert not location.valid


def test_without_tf2_ros_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "tf2_ros", None)
    plain = Transforms(SimpleNamespace(), wait_s=lambda: _wait_s)  # type: ignore[arg-type]
    (location,) = plain.relocate([_LOCATION], _HEADER, "base")
    assert location is not None
    assert "tf2_ros is not installed" in location.reason
    plain.destroy()


@pytest.mark.parametrize("target", ["", "lens"])
def test_the_image_s_own_frame_needs_no_tf(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "tf2_ros", None)
    plain = Transforms(SimpleNamespace(), wait_s=lambda: _wait_s)  # type: ignore[arg-type]
    assert plain.relocate([_LOCATION, _UNKNOWN, None], _HEADER, target) == (_LOCATION, _UNKNOWN, None)
