"""An interrupted run ends like an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import xsam.train.trainer as trainer_module
from tests.unit.train.short_runs import PowerCut, Start, assert_same, weights
from xsam.train.stages import Stage
from xsam.train.trainer import Trainer
from xsam.weights.checkpoint import load_checkpoint

pytestmark = [pytest.mark.usefixtures("single_process"), pytest.mark.slow]


def _cut(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Run, and fail in the step after `after` completed ones."""
    step = trainer.train_step

    def interrupted(*arguments: Any) -> dict[str, float]:
        losses = step(*arguments)
        if trainer.progress.step == after:
            raise PowerCut
        return losses

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(PowerCut):
        trainer.fit()


@pytest.mark.parametrize(
    "fields",
    [
        {"ema_decay": 0.9, "attributes": {"color": 11}},
        {"optimizer": "adamw", "accumulation": 2},
        {"stage": Stage.SEGMENTOR},
        {"stage": Stage.ALIGNMENT, "grounding": True, "trainable": ("llm.", "visual_projector.")},
    ],
    ids=["mixed", "accumulation", "segmentor", "alignment"],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    whole = start(tmp_path / "whole", steps=3, **fields)
    whole.fit()
    _cut(start(tmp_path / "cut", steps=3, **fields), monkeypatch, after=2)
    rest = start(tmp_path / "cut", steps=3, seed=5, **fields)  # the initial weights no longer matter
    assert rest.resume()
    assert rest.progress.step == 2
    rest.fit()
    assert rest.progress.step == whole.progress.step
    assert_same(weights(rest), weights(whole))


def test_a_fresh_folder_has_nothing_to_resume(start: Start, tmp_path: Path) -> None:
    trainer = start(tmp_path)
    before = weights(trainer)
    assert not trainer.resume()
    assert trainer.progress.step == 0
    assert_same(weights(trainer), before)


def test_a_finished_run_is_left_as_it_is(start: Start, tmp_path: Path) -> None:
    start(tmp_path, steps=2).fit()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").iterdir()}
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    again = start(tmp_path, steps=2)
    assert again.resume()
    again.fit()
    assert again.progress.step == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").iterdir()} == files
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == lines


def _fail_to_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when the new state is about to replace the old one."""
    rename = Path.rename

    def stop(self: Path, target: Path) -> Path:
        if self.name == "state.new":
            raise PowerCut
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)


def test_a_crash_between_the_two_renames_is_survived(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it happens twice: `state.old` was once deleted while it was the only copy."""
    whole = start(tmp_path / "whole", steps=3)
    whole.fit()
    out = tmp_path / "cut"
    _cut(start(out, steps=3), monkeypatch, after=2)
    for _ in range(2):
        with monkeypatch.context() as stopped:
            _fail_to_rename(stopped)
            crashed = start(out, steps=3, seed=3)
            assert crashed.resume()
            assert crashed.progress.step == 2
            with pytest.raises(PowerCut):
                crashed.fit()
        assert not (out / "state").exists()
        assert (out / "state.old").is_dir()
    rest = start(out, steps=3, seed=4)
    assert rest.resume()
    rest.fit()
    assert_same(weights(rest), weights(whole))
    assert not (out / "state.old").exists()
    assert not (out / "state.new").exists()


def test_a_finished_state_has_its_checkpoint(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next stage starts from it: a crash before it is complete must not leave a run that looks done."""

    def stop(*_: Any, **__: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as stopped:
        stopped.setattr(trainer_module, "write_folder", stop)
        with pytest.raises(PowerCut):
            start(tmp_path, steps=2).fit()
    again = start(tmp_path, steps=2)
    again.resume()
    again.fit()
    assert load_checkpoint(tmp_path / "checkpoint")


def test_a_changed_learning_rate_holds_from_where_the_run_is_continued(start: Start, tmp_path: Path) -> None:
    """It used to be ignored: the optimizer state restored the old peak rate."""
    start(tmp_path, steps=2, learning_rate=1e-3).fit()
    rest = start(tmp_path, steps=4, learning_rate=2.5e-4)
    assert rest.resume()
    encoder = {"learning_rate": 2.5e-4 * rest.config.encoder_lr_factor, "rest": 2.5e-4}
    peaks = {group["peak_lr"] for optimizer in rest.optimizers for group in optimizer.param_groups}
    assert peaks <= {*encoder.values(), rest.config.muon_learning_rate}
    assert 2.5e-4 in peaks
