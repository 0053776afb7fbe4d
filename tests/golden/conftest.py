"""Collect golden variants and cases; new folders and files are picked up automatically."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import torch

from tests.golden.golden_case import GoldenCase, GoldenVariant

HERE = Path(__file__).parent


# Environment variable with another folder → the folder in the repository.
FOLDERS = {"XSAM_GOLDEN_DIR": HERE / "data", "XSAM_GOLDEN_QWEN3_DIR": HERE / "data_qwen3"}


@functools.cache
def variants() -> tuple[GoldenVariant, ...]:
    roots = [Path(os.environ.get(variable) or default) for variable, default in FOLDERS.items()]
    return tuple(GoldenVariant(p.parent) for root in roots for p in sorted(root.glob("*/cases.json")))


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
