"""The script for a CUDA device, at the size that a CPU takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "gpu" / "train_tiny.sh"

pytestmark = pytest.mark.slow


def test_the_script_ends_in_a_scored_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "SMOKE": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "gpu")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    published = tmp_path / "gpu" / "published"
    config = json.loads((published / "config.json").read_text())
    assert config["xsam"]["mask_places"] is True
    assert json.loads((published / "scores.json").read_text())["n"] == 2


def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("SMOKE", None)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "gpu")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no CUDA device; SMOKE=1 runs on a CPU" in done.stderr
    assert not (tmp_path / "gpu").exists()
