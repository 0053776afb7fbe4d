"""Thresholds chosen on validation scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.golden import GOLDEN_X2SAM
from xsam.config import X2SamConfig
from xsam.engine import XSam
from xsam.sim.scene import VALIDATION_SEEDS
from xsam.train.calibrate import INSTANCE_THRESHOLDS, app, calibrate, choose_rejection
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
def test_a_checkpoint_of_either_family_is_calibrated(tmp_path: Path) -> None:
    """With random weights nothing is known; what is printed fits into `config.json` all the same."""
    folder = tmp_path / "x2sam"
    shutil.copytree(GOLDEN_X2SAM / "x2a", folder)
    first = VALIDATION_SEEDS.start + 2000
    result = CliRunner().invoke(app, [str(folder), "--scenes", f"{first}:1"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert 0.0 <= found["reject_below"] <= 1.0
    content = json.loads((folder / "config.json").read_text())
    for name in ("reject_below", "instance_threshold", "calibration"):
        content["x2sam"][name] = found[name]
    (folder / "config.json").write_text(json.dumps(content))
    engine = XSam.load(folder)
    assert isinstance(engine.config, X2SamConfig)
    assert engine.config.reject_below == found["reject_below"]
    assert engine.config.calibration is not None
    assert engine.config.calibration.to_dict() == found["calibration"]
    assert X2SamConfig.from_dict(engine.config.to_dict()).to_dict() == engine.config.to_dict()


@pytest.mark.slow
def test_thresholds_of_the_shipped_checkpoint() -> None:
    first = VALIDATION_SEEDS.start + 2000
    found = calibrate(resolve_model("tiny")[0], range(first, first + 2))
    assert found["n"] == 2
    assert found["phrases"] >= 4
    assert 0.0 <= found["reject_below"] < 1.0
    assert found["instance_threshold"] in INSTANCE_THRESHOLDS
    assert found["present_rejected"] <= 0.1
    assert {"look_alike", "mark"}.isdisjoint(found["calibration"]), "too few samples in two scenes"


@pytest.mark.slow
def test_processes_find_the_same_together() -> None:
    first = VALIDATION_SEEDS.start + 2000
    folder, seeds = resolve_model("tiny")[0], range(first, first + 2)
    assert calibrate(folder, seeds, processes=2) == calibrate(folder, seeds)
