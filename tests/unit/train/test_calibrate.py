"""Thresholds chosen on validation scenes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.golden import GOLDEN_X2SAM
from tests.unit.inference.test_doubts import box, result_of
from xsam.config import X2SamConfig
from xsam.engine import XSam
from xsam.eval.questions import InstanceTruth
from xsam.sim.scene import VALIDATION_SEEDS
from xsam.train.calibrate import (
    INSTANCE_THRESHOLDS,
    SCORES,
    Detections,
    app,
    calibrate,
    choose_rejection,
    choose_threshold,
    detections_of,
)
from xsam.types.requests import Query
from xsam.weights.checkpoint import resolve_model


def test_the_threshold_lets_a_share_of_present_phrases_go() -> None:
    present = [i / 100 for i in range(1, 101)]
    threshold = choose_rejection(present, [0.99], max_false_alarm=0.05)
    assert sum(score < threshold for score in present) <= 5
    assert sum(score < threshold + 0.02 for score in present) > 5


def test_it_is_no_higher_than_the_absent_phrases_need() -> None:
    assert choose_rejection([0.9] * 10, [0.1, 0.2], max_false_alarm=0.05) == pytest.approx(0.21)


def test_the_threshold_of_instances_gives_the_best_f1() -> None:
    """Three objects: 0.9, 0.6 and 0.3 show them, 0.5, 0.25 and 0.2 show nothing."""
    found = Detections(
        scores=(0.9, 0.6, 0.5, 0.3, 0.25, 0.2), right=(True, True, False, True, False, False), wanted=3
    )
    assert choose_threshold([found]) == 0.3  # F1 6/7; 0.8 from 0.55 on
    missing = replace(found, scores=found.scores[:3], right=found.right[:3])
    assert choose_threshold([missing]) == 0.6  # 4/5, and the highest of 0.55 and 0.6
    assert choose_threshold([Detections(scores=(), right=(), wanted=2)]) == SCORES[-1]


def test_detections_are_matched_with_objects_of_their_label() -> None:
    """The better one of two on one object counts; another label, or a place without one, is wrong."""
    one, two, other, crowd = (box(left) for left in (10, 60, 110, 160))
    query = Query(thing_classes=("mug", "vase"))
    rows = (one, 0, 0.6), (one, 0, 0.9), (two, 1, 0.8), (other, 1, 0.7), (crowd, 0, 0.5)
    result = result_of(query, *(("", score, mask) for mask, _, score in rows))
    indices = np.array([label for _, label, _ in rows], np.int32)
    result = replace(result, segments=replace(result.segments, label_indices=indices))
    truth = InstanceTruth(
        classes=("mug", "vase"),
        masks=((one.decode(), two.decode()), (other.decode(),)),
        crowd=((crowd.decode(),), ()),
    )
    found = detections_of(result, truth)
    assert found.scores == pytest.approx((0.9, 0.8, 0.7, 0.6))
    assert (found.right, found.wanted) == ((True, False, True, False), 3)


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
