"""The whole pipeline at smoke-test size: scenes, three stages, a working checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.train.short_runs import PowerCut
from xsam import Query, Status, VisualPrompt, XSam
from xsam.errors import TrainingConfigError
from xsam.sim.render import render
from xsam.sim.scene import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, sample_scene
from xsam.sim.shards import load_shards
from xsam.train import pipeline
from xsam.train.card import score_table, stage_table
from xsam.train.publish import publish


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("single_process")
def test_the_smoke_run_ends_in_a_checkpoint_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted once after training: the same command then only publishes."""
    data, out = tmp_path / "data", tmp_path / "runs"
    seed = TEST_SEEDS.start
    command = ["--smoke", "--cpu", "--data", str(data), "--out", str(out), "--scenes", f"{seed}:1"]

    def stop(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as stopped:
        stopped.setattr(pipeline, "publish", stop)
        with pytest.raises(PowerCut):
            pipeline.app(command, standalone_mode=False)
    trained = {path: path.stat().st_mtime_ns for path in out.glob("stage?/checkpoint/*")}
    assert len([path for path in trained if path.name == "model.safetensors"]) == 3
    pipeline.app(command, standalone_mode=False)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained

    scenes = load_shards(data / "train")
    assert scenes.seeds.tolist() == list(TRAIN_SEEDS[: pipeline.SMOKE.train_scenes])
    assert scenes.rgb.shape[1] == pipeline.SCENE_SIDE_PX
    assert load_shards(data / "val").seeds[0] == VALIDATION_SEEDS.start

    published = out / "published"
    scores = json.loads((published / "scores.json").read_text(encoding="utf-8"))
    assert scores["n"] == 1
    assert scores["failed"] == 0
    card = (published / "README.md").read_text(encoding="utf-8")
    assert "sha256" in card
    assert "| 3 | mixed" in card

    model = XSam.load(published)
    rgb = render(sample_scene(seed)).rgb
    queries = [
        Query(text="the red mug"),
        Query(thing_classes=("mug", "book")),
        Query(prompts=(VisualPrompt.point(99, 80),)),
    ]
    for answer in model.segment(rgb, queries):
        assert answer.status in (Status.FOUND, Status.NOT_FOUND), answer.message
        assert answer.masks.shape[1:] == rgb.shape[:2]
        assert np.isfinite(answer.segments.scores).all()


# ------------------------------------------------------------------------------------------- card


def test_scores_that_were_not_measured_are_left_out() -> None:
    table = score_table({"referring_miou": 0.4567, "vgd_ap50": None, "unknown": 1.0})
    assert table.splitlines()[2:] == ["| referring expressions, mean IoU | 0.46 |"]


def test_the_stages_are_told_from_their_logs(tmp_path: Path) -> None:
    (tmp_path / "stage4").mkdir()  # not ours
    runs = (("stage1", 59.6), ("stage2", 40.2), ("stage3", 0.0), ("continued", 71.4))
    for number, (name, minutes) in enumerate(runs, start=1):
        folder = tmp_path / name
        folder.mkdir()
        records = [{"step": 10, "minutes": 1.0}, {"step": 1234 * number, "minutes": minutes}]
        (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in stage_table(tmp_path).splitlines()[2:]
    ]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("1", "1,234", "60"),
        ("2", "2,468", "40"),
        ("3", "3,702", "0"),
        ("continued", "4,936", "71"),
    ]


def test_nothing_is_published_before_a_run_has_finished(tmp_path: Path) -> None:
    (tmp_path / "stage1").mkdir()
    with pytest.raises(TrainingConfigError, match="no finished run"):
        publish(tmp_path, tmp_path / "out", range(1))
    assert not (tmp_path / "out").exists()
