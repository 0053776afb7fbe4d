"""A few rendered scenes and the tiny tokenizer, shared by the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from xsam.sim.scene import TRAIN_SEEDS, VALIDATION_SEEDS
from xsam.sim.shards import SceneShards, load_shards, render_shards
from xsam.train.tokenizer import build_tiny_tokenizer

SHARD_SIDE_PX = 96


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a data folder as the tiny recipes expect it: scenes in `train` and `val`."""
    folder = tmp_path_factory.mktemp("data")
    render_shards(folder / "train", start=TRAIN_SEEDS.start, count=8, size=SHARD_SIDE_PX)
    render_shards(folder / "val", start=VALIDATION_SEEDS.start, count=3, size=SHARD_SIDE_PX)
    return folder


@pytest.fixture(scope="session")
def shards(data: Path) -> SceneShards:
    return load_shards(data / "train")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tiny_tokenizer()


@pytest.fixture
def single_process() -> Iterator[None]:
    """Reset the process-wide state of an `Accelerator` after a test that makes one."""
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def start(tokenizer: Any, shards: SceneShards) -> Any:
    """See `short_runs.starter`."""
    from tests.unit.train.short_runs import starter

    return starter(tokenizer, shards)
