"""Presence, near misses and counts, on values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.eval.answers import rectangle, result
from xsam.eval.presence import PresenceScorer, area_under_roc, matthews, rejected_at
from xsam.eval.questions import CountTruth, PresenceTruth, Question, RegionTruth
from xsam.eval.scoreboard import Scoreboard
from xsam.types.requests import Query, SegmentationResult, Status

HW = (20, 40)
EMPTY = np.zeros(HW, np.bool_)
LEFT, RIGHT = rectangle(0, 0, 10, 20, HW), rectangle(30, 0, 40, 20, HW)


def test_the_area_under_the_curve_counts_pairs() -> None:
    present, absent = np.array([0.9, 0.4, 0.4]), np.array([0.4, 0.1])
    # Of six pairs, one is 0.9 > 0.4, three have 0.1 below, and two are ties.
    assert area_under_roc(present, absent) == pytest.approx((1 + 3 + 2 * 0.5) / 6)


def test_what_is_rejected_at_a_share_of_false_alarms() -> None:
    present = np.linspace(0.1, 1.0, 10)
    absent = np.array([0.05, 0.15, 0.25, 0.95])
    assert rejected_at(present, absent, 0.0) == 0.25  # the threshold is 0.1: none of the present lies below
    assert rejected_at(present, absent, 0.1) == 0.5  # 0.2: one may
    assert rejected_at(present, absent, 0.19) == 0.5
    assert rejected_at(present, absent, 0.2) == 0.75


def test_the_correlation() -> None:
    assert matthews(hits=5, misses=0, false_alarms=0, rejections=5) == 1.0
    assert matthews(hits=0, misses=5, false_alarms=5, rejections=0) == -1.0
    assert matthews(hits=5, misses=0, false_alarms=5, rejections=0) == 0.0  # all answers alike
    # The table 6, 2, 1, 3 of a textbook: (6·3 − 2·1) / sqrt(7 · 8 · 4 · 5).
    assert matthews(hits=6, misses=2, false_alarms=1, rejections=3) == pytest.approx(16 / 1120**0.5)


def _question(group: str, kind: str = "", *, mask: np.ndarray = EMPTY) -> Question:
    return Question(group=group, kind=kind, query=Query(text="the mug"), truth=RegionTruth(mask=mask))


def _found(status: Status = Status.FOUND) -> SegmentationResult:
    from dataclasses import replace

    return replace(result(Query(text="the mug"), HW, [(0, LEFT, 0.9)]), status=status)


def test_an_unsure_answer_is_not_believed() -> None:
    board = Scoreboard()
    board.add(_question("referring", mask=LEFT), _found())
    board.add(_question("referring", mask=LEFT), _found(Status.UNSURE))
    board.add(_question("referring", "absent_color"), _found(Status.UNSURE))
    board.add(_question("referring", "absent_color"), result(Query(text="the mug"), HW))
    scores = board.scores()
    # One of two present things believed, none of two absent ones.
    assert scores["presence_mcc"] == pytest.approx(2 / (1 * 2 * 2 * 3) ** 0.5, abs=1e-4)


def test_near_misses_count_by_themselves() -> None:
    board = Scoreboard()
    board.add(_question("referring", mask=LEFT), _found())
    board.add(_question("near_miss", "miss_side"), _found())
    board.add(_question("near_miss", "miss_side"), _found(Status.UNSURE))
    board.add(_question("near_miss", "miss_part"), result(Query(text="the mug"), HW))
    scores = board.scores()
    assert scores["near_miss_believed"] == pytest.approx(1 / 3, abs=1e-4)
    assert (scores["miss_side_believed"], scores["miss_part_believed"]) == (0.5, 0.0)
    assert scores.get("absent_rejected") is None
    assert scores["counts"] == {"near_miss": 3, "referring": 1}
    assert "near_miss_miou" not in scores


def test_counts() -> None:
    board = Scoreboard()
    query = Query(thing_classes=("mug", "bowl", "spoon"))
    question = Question(group="count", query=query, truth=CountTruth(counts=(2, 0, 3)))
    board.add(question, result(query, HW, [(0, LEFT, 0.9), (0, RIGHT, 0.8), (1, LEFT, 0.7), (2, LEFT, 0.6)]))
    scores = board.scores()
    assert scores["count_exact"] == pytest.approx(1 / 3, abs=1e-4)
    assert scores["count_mae"] == 1.0  # (0 + 1 + 2) / 3


def test_scores_before_any_threshold() -> None:
    board = Scoreboard()
    query = Query(text="the mug", score_threshold=0.0)
    for present, score in ((True, 0.9), (True, 0.2), (False, 0.3), (False, 0.1)):
        question = Question(group="presence", query=query, truth=PresenceTruth(present=present))
        board.add(question, result(query, HW, [(0, LEFT, score)]))
    scores = board.scores()
    assert scores["presence_auc"] == 0.75
    assert scores["absent_rejected_at_05"] == 0.5


def test_nothing_added_gives_no_scores() -> None:
    assert PresenceScorer().results() == {}
