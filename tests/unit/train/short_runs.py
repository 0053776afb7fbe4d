"""Runs of a few steps with the small model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.unit.train.small import small_model
from xsam.data.samples import SampleSource
from xsam.data.scene_source import DIALOGUE, SceneSource
from xsam.sim.shards import SceneShards
from xsam.train.losses import MaskSampling
from xsam.train.stages import Stage, StageConfig
from xsam.train.trainer import Trainer

Start = Callable[..., Trainer]
SHARES = {"referring": 0.5, "interactive": 0.3, DIALOGUE: 0.2}


class PowerCut(BaseException):
    """Interruption of a run from outside."""


def short_config(**fields: Any) -> StageConfig:
    usual: dict[str, Any] = {
        "stage": Stage.MIXED,
        "steps": 4,
        "batch_size": 2,
        "prompts_per_image": 2,
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "encoder_lr_factor": 1.0,
        "sampling": MaskSampling(mode="mask", match_stride=2),
        "log_every": 2,
        "validate_every": 2,
        "validate_pictures": 2,
    }
    return StageConfig(**{**usual, **fields})


def starter(tokenizer: Any, shards: SceneShards) -> Start:
    """Return a function that makes a trainer of the small model; `seed` sets its initial weights."""

    def make(
        out: Path,
        *,
        seed: int = 0,
        sources: Sequence[SampleSource] = (SceneSource(shards, shares=SHARES),),
        validation: bool = False,
        **fields: Any,
    ) -> Trainer:
        return Trainer(
            small_model(len(tokenizer), seed=seed),
            tokenizer,
            short_config(**fields),
            sources,
            out,
            validation=SceneSource(shards, shares=SHARES, augment=False) if validation else None,
            cpu=True,
        )

    return make


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """Return all weights, including the averaged ones and the heads."""
    module = trainer.accelerator.unwrap_model(trainer.module)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    if trainer.ema is not None:
        state.update({f"ema.{name}": value.clone() for name, value in trainer.ema.state_dict().items()})
    return state


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not different


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
