from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from xsam.types.location import Location3D, matrix_of_quaternion, quaternion_of_matrix

_LOCATION: dict[str, Any] = {
    "position_m": (0.1, -0.2, 1.0),
    "center_m": (0.15, -0.25, 1.1),
    "size_m": (0.3, 0.2, 0.1),
    "orientation_xyzw": (0.5, -0.5, 0.1, 0.7),
    "distance_m": 1.02,
    "depth_valid_ratio": 0.75,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_valid_ratio": 1.5}, "depth_valid_ratio"),
        ({"depth_valid_ratio": math.nan}, "depth_valid_ratio"),
        ({"position_m": (0.0, math.inf, 1.0)}, "finite"),
        ({"distance_m": math.nan}, "finite"),
    ],
)
def test_locations_are_checked(changes: dict[str, object], message: str) -> None:
    assert Location3D(**_LOCATION).valid
    with pytest.raises(ValueError, match=message):
        Location3D(**{**_LOCATION, **changes})
    with pytest.raises(ValueError, match="needs a reason"):
        Location3D.unknown("")


_QUATERNIONS = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1)


@given(_QUATERNIONS)
@pytest.mark.slow
def test_quaternions_are_those_of_scipy(xyzw: tuple[float, float, float, float]) -> None:
    wanted = Rotation.from_quat(xyzw)
    np.testing.assert_allclose(matrix_of_quaternion(xyzw), wanted.as_matrix(), atol=1e-12)
    got = np.array(quaternion_of_matrix(wanted.as_matrix()))
    other = wanted.as_quat()
    np.testing.assert_allclose(got, other * np.sign(got @ other), atol=1e-9)
    assert got[3] >= 0


@pytest.mark.parametrize("xyzw", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0)])
def test_quaternions_that_are_no_rotation(xyzw: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="is not a rotation"):
        matrix_of_quaternion(xyzw)


@given(_QUATERNIONS, st.tuples(*[st.floats(-5, 5)] * 3))
def test_a_location_in_another_frame(
    xyzw: tuple[float, float, float, float], shift: tuple[float, float, float]
) -> None:
    turn = Rotation.from_quat(xyzw)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), shift
    before = Location3D(**_LOCATION)
    after = before.transformed(matrix, "base_link")
    np.testing.assert_allclose(after.position_m, turn.apply(before.position_m) + shift, atol=1e-9)
    np.testing.assert_allclose(after.center_m, turn.apply(before.center_m) + shift, atol=1e-9)
    turned = turn * Rotation.from_quat(before.orientation_xyzw)
    np.testing.assert_allclose(
        Rotation.from_quat(after.orientation_xyzw).as_matrix(), turned.as_matrix(), atol=1e-9
    )
    assert (after.size_m, after.distance_m, after.frame_id) == (before.size_m, before.distance_m, "base_link")


def test_transforms_that_are_not_rigid() -> None:
    location = Location3D(**_LOCATION)
    for matrix in (np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1]), np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="transform"):
            location.transformed(matrix, "base_link")
    unknown = Location3D.unknown("no depth")
    assert unknown.transformed(np.eye(4), "base_link") is unknown
