"""SIGKILL at any moment, in whatever output: the run goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.media.clips import scene, write_video
from tests.unit.media.test_run import assert_same, run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def kill_after(source: Path, folder: Path, lines: int, *, resume: bool, delay_s: float) -> None:
    """Start or continue a run, and kill it a little after its journal has so many lines."""
    arguments = [str(source), str(folder), "0.01", *(["resume"] if resume else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.media.killed_run", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    journal = folder / "results.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay_s)
    process.kill()
    assert process.wait(20) == -9


def test_a_run_that_is_killed_again_and_again(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [scene(step % 20, blue=step % 3 > 0) for step in range(60)])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(clip, whole)
    for number, lines in enumerate((5, 17, 31, 44)):
        kill_after(clip, killed, lines, resume=number > 0, delay_s=0.004 * number)
    assert (killed / ".overlay.mp4.part").exists()
    assert not (killed / "overlay.mp4").exists()
    (killed / "images" / ".clip_000007.jpg.a1b2c3d4").write_bytes(b"half a picture")
    summary, asked = run(clip, killed, resume=True)
    assert summary.frames == 60
    assert asked <= 60 - 43
    assert_same(killed, whole)
    assert not [path for path in killed.rglob(".*") if path.is_file()]
