"""Two processes on this machine evaluate together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.unit.eval import benchmark_files as files
from xsam import cli
from xsam.eval.processes import launched_processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
DEADLINE_S = 300
TIMES = ("ms_per_query_median",)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the number changes the order of sums


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _arguments(*arguments: object) -> list[str]:
    return ["eval", "tiny", "--device", "cpu", "--threads", "1", "--json", *map(str, arguments)]


def _alone(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(cli.app, _arguments(*arguments))
    assert result.exit_code == 0, result.output
    return _scores(result.stdout)


def _two(*arguments: object) -> dict[str, Any]:
    # `accelerate launch --cpu` starts several processes through MPI only.
    launcher = (
        *("torch.distributed.run", "--nnodes", "1", "--nproc_per_node", "2"),
        *("--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "-m", "xsam"),
    )
    result = subprocess.run(
        [sys.executable, "-m", *launcher, *_arguments(*arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return _scores(result.stdout)


def _scores(stdout: str) -> dict[str, Any]:
    (line,) = stdout.splitlines()  # only the first process prints
    return {name: value for name, value in json.loads(line).items() if name not in TIMES}


def test_two_processes_have_the_scores_of_one(tmp_path: Path) -> None:
    root = files.grefcoco(tmp_path / "data")
    benchmark = ("--benchmark", "grefcoco-val", "--data", root)
    two = _two(*benchmark, "--out", tmp_path / "two")
    assert (two["n"], two["questions"], two["failed"]) == (2, 5, 0)
    assert two == _alone(*benchmark, "--out", tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["predictions.jsonl", "scores.json"]
    alone, shared = (
        sorted((tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
        for name in ("one", "two")
    )
    assert alone == shared


def test_several_processes_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(cli.app, _arguments("--scenes", "2000001:1"))
    assert result.exit_code == 2
    assert "several processes need --out" in result.stdout


def test_a_process_without_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, rank, count in (("2", None, 1), ("many", "0", 1), ("", "0", 1), ("3", "1", 3)):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.delenv("RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        assert launched_processes() == count
