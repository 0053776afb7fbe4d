"""Collect golden variants and cases; new folders and files are picked up automatically."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import torch

from tests.golden.golden_case import GoldenCase, GoldenVariant

HERE = Path(__file__).parent


def golden_dir() -> Path:
    if configured := os.environ.get("XSAM_GOLDEN_DIR"):
        return Path(configured)
    beside = HERE.parents[2] / "shared" / "golden"
    return HERE / "data" if (HERE / "data").is_dir() else beside


@functools.cache
def variants() -> tuple[GoldenVariant, ...]:
    folders = sorted(p.parent for p in golden_dir().glob("*/cases.json"))
    return tuple(GoldenVariant(folder) for folder in folders)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        cases = [case for variant in variants() for case in variant.cases()]
        metafunc.parametrize("golden_case", cases, ids=[case.id for case in cases])
    if "golden_loss" in metafunc.fixturenames:
        cases = [case for variant in variants() for case in variant.losses()]
        metafunc.parametrize("golden_loss", cases, ids=[case.id for case in cases])
    if "golden_variant" in metafunc.fixturenames:
        metafunc.parametrize("golden_variant", variants(), ids=[v.folder.name for v in variants()])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


__all__ = ["GoldenCase"]
