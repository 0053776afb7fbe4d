"""Thresholds chosen on validation scenes."""

from __future__ import annotations

import pytest

from xsam.sim.scene import VALIDATION_SEEDS
from xsam.train.calibrate import INSTANCE_THRESHOLDS, calibrate, choose_rejection
from xsam.weights.checkpoint import resolve_model


def test_the_threshold_lets_a_share_of_present_phrases_go() -> None:
    present = [i / 100 for i in range(1, 101)]
    threshold = choose_rejection(present, [0.99], max_false_alarm=0.05)
    assert sum(score < threshold for score in present) <= 5
    assert sum(score < threshold + 0.02 for score in present) > 5


def test_it_is_no_higher_than_the_absent_phrases_need() -> None:
    assert choose_rejection([0.9] * 10, [0.1, 0.2], max_false_alarm=0.05) == pytest.approx(0.21)


def test_without_phrases_everything_is_answered() -> None:
    assert choose_rejection([], [0.5]) == 0.0


@pytest.mark.slow
def test_thresholds_of_the_shipped_checkpoint() -> None:
    first = VALIDATION_SEEDS.start + 2000
    found = calibrate(resolve_model("tiny")[0], range(first, first + 2))
    assert found["n"] == 2
    assert found["phrases"] >= 4
    assert 0.0 <= found["reject_below"] < 1.0
    assert found["instance_threshold"] in INSTANCE_THRESHOLDS
    assert found["present_rejected"] <= 0.1
