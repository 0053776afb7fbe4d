"""The training loop: gradients, averaged weights, and the files of a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import xsam.train.trainer as trainer_module
from tests.unit.train.short_runs import Start, assert_same, records, weights
from tests.unit.train.small import SIDE, HandMade, rectangle, referring, small_model
from xsam.data.samples import PromptedImage
from xsam.data.scene_source import SceneSource
from xsam.errors import TrainingConfigError
from xsam.sim.shards import SceneShards
from xsam.train.mixture import PlannedBatch
from xsam.train.stages import Stage
from xsam.train.trainer import Trainer
from xsam.weights.checkpoint import load_checkpoint, read_tensors

pytestmark = [pytest.mark.usefixtures("single_process"), pytest.mark.slow]


# ------------------------------------------------------------------------------- gradient, weights


def _equal_halves() -> HandMade:
    """Return four images with equally many masks and answer tokens, so that means of halves are the mean."""
    pictures = []
    words = ("the mug", "the red mug", "the book", "the leftmost bowl")
    for seed, phrase in enumerate(words):
        rgb = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        first = rectangle((SIDE, SIDE), (8 * seed, 8 * seed + 20), (10, 40))
        masks = np.stack([first, rectangle((SIDE, SIDE), (60, 90), (50, 90))])
        prompts = (referring(phrase, [0, -1]),)
        pictures.append(PromptedImage(rgb=rgb, masks=masks, prompts=prompts))
    return HandMade(pictures)


class Recorder:
    """Optimizer stand-in that records the gradient of the step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.param_groups = module, []
        self.gradients: dict[str, Tensor] = {}

    def step(self) -> None:
        self.gradients = {n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None}

    def zero_grad(self, *, set_to_none: bool) -> None:
        self.module.zero_grad(set_to_none=set_to_none)


def _gradients(
    trainer: Trainer, batches: Sequence[tuple[int, ...]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return losses and gradient of the first step, which sees these images."""
    plan = [PlannedBatch(source=0, indices=indices, seed=(0,)) for indices in batches]
    trainer.batches.plan = plan
    recorder = Recorder(trainer.module)
    trainer.optimizers = [recorder]
    losses = trainer.train_step(iter(trainer.batches), 0.5)
    return losses, recorder.gradients


def _assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        scale = float(gradient.abs().max()) + 5e-4  # what is zero but for rounding
        torch.testing.assert_close(second[name], gradient, atol=2e-3 * scale, rtol=0)


def test_two_small_batches_are_one_large(start: Start, tmp_path: Path) -> None:
    """Holds if the halves have equally many answer tokens and masks; otherwise a mean of means differs."""
    usual: dict[str, Any] = {"sources": [_equal_halves()], "clip_norm": 1e9, "optimizer": "adamw"}
    large = start(tmp_path / "a", batch_size=4, **usual)
    whole, expected = _gradients(large, [(0, 1, 2, 3)])
    small = start(tmp_path / "b", batch_size=2, accumulation=2, **usual)
    halves, found = _gradients(small, [(0, 1), (2, 3)])
    assert halves == pytest.approx(whole, rel=1e-3)
    _assert_close(expected, found)
    one = start(tmp_path / "c", batch_size=2, **usual)
    _, different = _gradients(one, [(0, 1)])
    with pytest.raises(AssertionError):
        _assert_close(expected, different)


def test_gradient_checkpointing_changes_no_gradient(start: Start, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"sources": [_equal_halves()], "optimizer": "adamw"}
    expected, found = (
        _gradients(start(tmp_path / str(on), gradient_checkpointing=on, **usual), [(0, 1)])[1]
        for on in (False, True)
    )
    _assert_close(expected, found)


def test_gradients_are_clipped(start: Start, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"sources": [_equal_halves()], "optimizer": "adamw"}
    losses, gradients = _gradients(start(tmp_path, clip_norm=0.01, **usual), [(0, 1)])
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    assert losses["grad_norm"] > 1
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_processes_share_a_batch(start: Start, tmp_path: Path) -> None:
    """Two processes together see what one with the same number of images would see."""
    trainer = start(tmp_path, batch_size=4, stage=Stage.MIXED)
    batches = trainer.batches
    whole = batches.make(3)
    batches.processes = 2
    parts = []
    for rank in (0, 1):
        batches.rank = rank
        parts.append(batches.make(3))
    for rank, part in enumerate(parts):
        assert torch.equal(part.seg_pixels, whole.seg_pixels[rank::2])
        assert part.text_kinds == whole.text_kinds[rank::2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_loader_processes_change_nothing(start: Start, tmp_path: Path) -> None:
    here, there = start(tmp_path / "a", steps=4), start(tmp_path / "b", steps=4, workers=2)
    here.fit()
    there.fit()
    assert_same(weights(here), weights(there))


def test_averaged_weights_by_hand(start: Start, tmp_path: Path) -> None:
    """Decay 1/20, 2/21 and then the 0.09 of the recipe, which is less than 3/22."""
    trainer = start(tmp_path, steps=3, ema_decay=0.09, validate_every=9)
    assert trainer.ema is not None
    name = "llm.lm_head.weight"
    expected = trainer.model.state_dict()[name].clone()
    batches = iter(trainer.batches)
    for decay in (1 / 20, 2 / 21, 0.09):
        trainer.train_step(batches, 0.5)
        trainer.progress.step += 1
        expected = decay * expected + (1 - decay) * trainer.model.state_dict()[name]
    torch.testing.assert_close(trainer.ema.state_dict()[name], expected)
    trainer.save()
    saved = read_tensors(tmp_path / "checkpoint")[name]
    assert torch.equal(saved, trainer.ema.state_dict()[name])
    assert not torch.equal(saved, trainer.model.state_dict()[name])


def test_some_parameters_may_rest_at_first(start: Start, tmp_path: Path) -> None:
    """The decoder rests for half of four steps."""
    trainer = start(tmp_path, steps=4, frozen=("segmentor.decoder.",), frozen_until=0.5, validate_every=9)
    name, other = "segmentor.decoder.queries_features.weight", "llm.lm_head.weight"
    values = [trainer.model.state_dict()[name].clone()]
    previous = trainer.model.state_dict()[other].clone()
    batches = iter(trainer.batches)
    for step in range(4):
        trainer.train_step(batches, step / 4)
        values.append(trainer.model.state_dict()[name].clone())
        assert not torch.equal(trainer.model.state_dict()[other], previous)
    assert [torch.equal(a, b) for a, b in itertools.pairwise(values)] == [True, True, False, False]


@pytest.mark.slow
def test_two_scenes_are_learned_by_heart(
    start: Start, tmp_path: Path, tokenizer: Any, shards: SceneShards
) -> None:
    scenes = SceneSource(shards, shares={"referring": 1.0}, augment=False)
    pictures = [scenes.sample(i, np.random.default_rng(i), prompts=2) for i in range(2)]
    length = {"steps": 30, "log_every": 1, "validate_every": 99}
    trainer = start(tmp_path, sources=[HandMade(pictures)], muon_learning_rate=1e-2, **length)
    trainer.fit()
    losses = [record["train"] for record in records(tmp_path) if "train" in record]
    assert len(losses) == 30
    first, last = losses[0], losses[-1]
    assert last["loss_llm"] < 0.7 * first["loss_llm"]
    assert last["loss_mask"] < 0.6 * first["loss_mask"]
    assert last["loss"] < 0.6 * first["loss"]
    before = small_model(len(tokenizer)).state_dict()
    frozen = ("segmentor.encoder.neck.", "vision_encoder.post_layernorm.")
    for name, value in trainer.model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name


# ------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_logs_pictures_and_a_checkpoint(start: Start, tmp_path: Path) -> None:
    trainer = start(tmp_path, validation=True, steps=5, log_every=2, validate_every=3)
    trainer.fit()
    found = records(tmp_path)
    assert [(r["step"], group) for r in found for group in ("train", "val") if group in r] == [
        (2, "train"),
        (3, "val"),
        (4, "train"),
        (5, "train"),  # what is left over
        (5, "val"),
    ]
    for record in found:
        values = record.get("train", record.get("val"))
        assert all(np.isfinite(value) for value in values.values())
    assert {"loss", "loss_llm", "loss_mask", "grad_norm"} <= found[0]["train"].keys()
    assert not any(name[-1].isdigit() for name in found[0]["train"])
    assert {"loss_llm", "iou_interactive"} <= found[1]["val"].keys()
    assert sorted(path.name for path in tmp_path.glob("validation_*.png")) == [
        "validation_000003.png",
        "validation_000005.png",
    ]
    (events,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    board = EventAccumulator(str(events))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [2, 4, 5]
    assert board.Scalars("train/loss")[0].value == pytest.approx(found[0]["train"]["loss"], abs=1e-3)
    assert [event.step for event in board.Scalars("val/loss_llm")] == [3, 5]
    saved = read_tensors(tmp_path / "checkpoint")
    state = trainer.model.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    assert all(value.dtype == torch.float32 for value in saved.values())
    model, _ = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(model.bg_embeds.weight, trainer.model.bg_embeds.weight)


def test_losses_in_the_log_are_means_of_their_steps(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after resuming in the middle of a logging interval, where they once looked half as large."""
    for out, steps in ((tmp_path / "a", 3), (tmp_path / "a", 6)):
        trainer = start(out, steps=steps, log_every=4, validate_every=3)
        trainer.resume()
        values = iter([2.0, 4.0, 9.0] if steps == 3 else [10.0, 20.0, 30.0])
        monkeypatch.setattr(trainer, "train_step", lambda *_, values=values: {"loss": next(values)})
        trainer.fit()
    logged = [(r["step"], r["train"]["loss"]) for r in records(tmp_path / "a")]
    assert logged == [(3, 5.0), (4, 10.0), (6, 25.0)]


def test_a_run_by_the_clock_ends(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes half a minute, so four fit into two minutes."""
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: float(next(clock)))
    trainer = start(tmp_path, steps=0, minutes=2.0, validate_every=9)
    shares: list[float] = []
    monkeypatch.setattr(trainer, "train_step", lambda _, share: shares.append(share) or {"loss": 1.0})
    trainer.fit()
    assert shares == [0.0, 0.25, 0.5, 0.75]
    assert records(tmp_path)[-1]["minutes"] == 2.0
    again = start(tmp_path, steps=0, minutes=2.0, validate_every=9)
    assert again.resume()
    assert again.progress.elapsed_s == pytest.approx(120.0)


def test_epochs_are_counted_in_steps(start: Start, tmp_path: Path) -> None:
    """Eight scenes in batches of two are four batches per epoch."""
    assert start(tmp_path, steps=0, epochs=1.5).total_steps == 6
    assert start(tmp_path, steps=0, epochs=1.5, accumulation=4).total_steps == 2


def test_attributes_need_one_set_of_classes(start: Start, tmp_path: Path, shards: SceneShards) -> None:
    sources = [SceneSource(shards), HandMade(_equal_halves().pictures)]
    with pytest.raises(TrainingConfigError, match="common closed set") as caught:
        start(tmp_path, sources=sources, attributes={"color": 11})
    assert "scenes, hand-made" in caught.value.hint
    with pytest.raises(TrainingConfigError, match="segmentor"):
        start(tmp_path, sources=[_equal_halves()], stage=Stage.SEGMENTOR)
    start(tmp_path, sources=sources)
