"""The calibration in `config.json`: read, checked, and written back."""

from __future__ import annotations

import json

import pytest

from support.golden import GOLDEN_X2SAM
from xsam import CheckpointError
from xsam.config import X2SamConfig
from xsam.config.calibration import EVIDENCE, EvidenceWeights, check_calibration

SECTION = {"known_categories": ["mug", "vase"], "sure_from": 0.8, "phrase": {"score": 1.0}}


def test_a_calibration_is_read_and_written() -> None:
    problems: list[str] = []
    found = check_calibration({"calibration": SECTION}, problems)
    assert found is not None
    assert (problems, found.known_categories, found.sure_from) == ([], ("mug", "vase"), 0.8)
    assert check_calibration({"calibration": found.to_dict()}, problems) == found
    assert check_calibration({}, problems) is None
    assert check_calibration(5, problems) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sure_from": 2}, "xsam.calibration.sure_from must be a number from 0 to 1, got 2"),
        ({"known_categories": ["a\nb"]}, "on one line"),
        ({"known_categories": "mug"}, "xsam.calibration.known_categories must be a list"),
        (
            {"thresholds": {"category": 2}},
            "xsam.calibration.thresholds.category must be a number from 0 to 1",
        ),
        ({"thresholds": {"phrase": 0.5}}, "xsam.calibration.thresholds.phrase is unknown"),
        ({"phrase": {"scorre": 1}}, "xsam.calibration.phrase.scorre is unknown (did you mean score?)"),
        ({"sure_form": 1}, "xsam.calibration.sure_form is unknown"),
    ],
)
def test_what_is_wrong_is_named(change: dict, problem: str) -> None:
    problems: list[str] = []
    assert check_calibration({"calibration": {**SECTION, **change}}, problems) is None
    assert any(problem in found for found in problems), problems


def test_x2sam_has_its_own_section() -> None:
    content = json.loads((GOLDEN_X2SAM / "x2a" / "config.json").read_text())
    content["x2sam"]["calibration"] = SECTION
    config = X2SamConfig.from_dict(content)
    assert config.calibration is not None
    assert config.calibration.known_categories == ("mug", "vase")
    assert config.to_dict()["x2sam"]["calibration"] == config.calibration.to_dict()
    content["x2sam"]["calibration"] = {**SECTION, "sure_from": 2}
    with pytest.raises(CheckpointError, match=r"x2sam\.calibration\.sure_from must be a number"):
        X2SamConfig.from_dict(content)


def test_the_chance_follows_the_evidence() -> None:
    even = dict.fromkeys(EVIDENCE, 0.5)
    weights = EvidenceWeights(score=1.0, named=0.5, rival=-0.5, firmness=2.0, runner_up=-1.0)
    assert weights.chance(even) == pytest.approx(0.5)
    assert weights.chance({**even, "score": 0.9}) == pytest.approx(0.9)
    assert weights.chance({**even, "firmness": 0.75}) == pytest.approx(0.9)  # odds of 3², to 1
    assert weights.chance({**even, "runner_up": 0.0}) == pytest.approx(0.99)  # clipped to 0.01
    # What a census does not list may have a score up to 0.05.
    assert weights.chance({**even, "rival": 0.0}) == weights.chance({**even, "rival": 0.05}) < 0.95
