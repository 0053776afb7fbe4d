"""J, F and identity switches: cases by hand, and a model that knows the answer."""

from __future__ import annotations

import numpy as np
import pytest

from xsam.eval.boundary import boundary, boundary_f
from xsam.eval.clips import TrackScores
from xsam.types.masks import BoolMask, MaskRle


def _square(left: int, top: int, side: int = 40, *, hw: tuple[int, int] = (120, 160)) -> BoolMask:
    mask = np.zeros(hw, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_boundary_is_where_the_right_or_lower_neighbor_differs() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 1:3] = True
    wanted = ["###..", "#.#..", "###..", "....."]
    assert ["".join(".#"[int(v)] for v in row) for row in boundary(mask)] == wanted


def test_f_is_one_within_the_tolerance() -> None:
    # The diagonal is 200 px, of which 0.8 % are 1.6: two pixels.
    assert boundary_f(_square(50, 50), _square(50, 50)) == 1.0
    assert boundary_f(_square(52, 50), _square(50, 50)) == 1.0


def test_f_beyond_the_tolerance_by_hand() -> None:
    """Three pixels apart: of the two boundaries, only the parallel sides along the shift still agree."""
    shifted = boundary_f(_square(53, 50), _square(50, 50))
    # A boundary of 164 - 4 pixels; the two sides of 41 px that run along x agree, and 2 px next to them.
    edge = 4 * 41 - 4
    right = 2 * 41 - 2 * 1 + 2 * 2
    assert shifted == pytest.approx(right / edge, abs=0.02)


@pytest.mark.parametrize("swapped", [False, True])
def test_f_of_empty_masks(swapped: bool) -> None:
    nothing, something = np.zeros((120, 160), np.bool_), _square(10, 10)
    first, second = (something, nothing) if swapped else (nothing, something)
    assert boundary_f(first, second) == 0.0
    assert boundary_f(nothing, nothing.copy()) == 1.0


def test_f_of_other_shapes() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        boundary_f(np.zeros((4, 4), np.bool_), np.zeros((4, 5), np.bool_))


def _clip(*frames: dict[int, int]) -> list[dict[int, MaskRle]]:
    """Return frames with squares: key → left."""
    return [{key: MaskRle.encode(_square(left, 50)) for key, left in frame.items()} for frame in frames]


def test_j_and_switches_by_hand() -> None:
    truth = _clip({1: 10, 2: 100}, {1: 10, 2: 100}, {1: 10, 2: 100}, {1: 10, 2: 100})
    # Track 7 is object 1 throughout. Object 2 is track 8, then 9 from the third frame on.
    found = _clip({7: 10, 8: 100}, {7: 10, 8: 100}, {7: 10, 9: 100}, {7: 10, 9: 100})
    scores = TrackScores()
    scores.add_clip(truth, found)
    assert scores.j == pytest.approx((4 + 2) / 8)  # half of object 2 is not in the track that it is given
    assert scores.f == pytest.approx((4 + 2) / 8)
    assert scores.switches == 1
    assert scores.switches_per_100 == pytest.approx(100 / 8)


def test_a_track_that_is_lost_for_a_while_is_no_switch() -> None:
    truth = _clip({1: 10}, {1: 10}, {1: 10})
    scores = TrackScores()
    scores.add_clip(truth, [*_clip({7: 10}), {}, *_clip({7: 10})])
    assert (scores.switches, scores.j) == (0, pytest.approx(2 / 3))


def test_j_of_a_shifted_mask_by_hand() -> None:
    scores = TrackScores()
    scores.add_clip(_clip({1: 10}), _clip({7: 20}))
    assert scores.j == pytest.approx(30 / 50)


def test_two_tracks_that_swap_objects_are_two_switches() -> None:
    truth = _clip({1: 10, 2: 100}, {1: 10, 2: 100})
    scores = TrackScores()
    scores.add_clip(truth, _clip({7: 10, 8: 100}, {8: 10, 7: 100}))
    assert (scores.switches, scores.transfers) == (2, 2)


def test_an_id_that_goes_over_to_another_object_is_a_transfer() -> None:
    """Object 2 has no id before, so that none of its own changes; that of object 1 now lies."""
    scores = TrackScores()
    scores.add_clip(_clip({1: 10, 2: 100}, {1: 10, 2: 100}), _clip({7: 10}, {7: 100}))
    assert (scores.switches, scores.transfers) == (0, 1)
    assert scores.transfers_per_100 == pytest.approx(25.0)


def test_nothing_found_is_zero() -> None:
    scores = TrackScores()
    scores.add_clip(_clip({1: 10}), [{}])
    assert (scores.jf, scores.switches_per_100) == (0.0, 0.0)
