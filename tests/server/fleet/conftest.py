"""Fixtures: a cluster of Ray on this machine, and a fleet of two replicas on it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
if find_spec("ray") is None:  # not imported: it reads its security from the environment when it is
    pytest.skip("ray is not installed", allow_module_level=True)

from support.fleet import EngineFolder, FolderEngine, RunningFleet, running_fleet, running_ray
from tests.server.conftest import RED

PATIENCE_S = 120.0  # on a machine that others keep busy
LIMITS = {
    "max_ongoing_requests": 2,
    "max_queued_requests": 4,
    "max_deadline_s": PATIENCE_S,
    "drain_s": PATIENCE_S,
}


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[None]:
    with running_ray():
        yield


@pytest.fixture(scope="package")
def engines(tmp_path_factory: pytest.TempPathFactory) -> EngineFolder:
    return EngineFolder(folder=tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="package")
def load_engine(engines: EngineFolder) -> partial[FolderEngine]:
    return partial(FolderEngine, {"red": [RED], "floor": [~RED]}, Path(engines.folder))


@pytest.fixture(scope="package")
def fleet(ray_cluster: None, load_engine: partial[FolderEngine]) -> Iterator[RunningFleet]:
    with running_fleet(load_engine, min_replicas=2, **LIMITS) as running:
        yield running


@pytest.fixture
def http(fleet: RunningFleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _fresh_engines(engines: EngineFolder) -> Iterator[None]:
    """Leave the engines as they were."""
    yield
    engines.free()
    engines.clear()
