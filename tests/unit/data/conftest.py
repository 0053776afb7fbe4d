"""A few rendered scenes shared by the data source tests."""

from __future__ import annotations

import pytest

from xsam.sim.scene import TRAIN_SEEDS
from xsam.sim.shards import SceneShards, load_shards, render_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> SceneShards:
    folder = tmp_path_factory.mktemp("scenes")
    render_shards(folder, start=TRAIN_SEEDS.start, count=8, size=96)
    return load_shards(folder)
