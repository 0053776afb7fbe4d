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

from tests.unit.eval import benchmark_files as files
from xsam.eval.processes import launched_processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
DEADLINE_S = 300
TIMES = ("ms_per_query_median",)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _eval(*arguments: object, processes: int) -> subprocess.CompletedProcess[str]:
    # `accelerate launch --cpu` starts several processes through MPI only.
    launcher = (
        *("torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(processes)),
        *("--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "-m"),
    )
    command = ("xsam", "eval", "tiny", "--device", "cpu", "--threads", "1", "--json", *map(str, arguments))
    return subprocess.run(
        [sys.executable, "-m", *(launcher if processes > 1 else ()), *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def _scores(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr[-4000:]
    (line,) = result.stdout.splitlines()  # only the first process prints
    return {name: value for name, value in json.loads(line).items() if name not in TIMES}


def test_two_processes_have_the_scores_of_one(tmp_path: Path) -> None:
    root = files.grefcoco(tmp_path / "data")
    benchmark = ("--benchmark", "grefcoco-val", "--data", root)
    two = _scores(_eval(*benchmark, "--out", tmp_path / "two", processes=2))
    assert (two["n"], two["questions"], two["failed"]) == (2, 5, 0)
    one = _scores(_eval(*benchmark, "--out", tmp_path / "one", processes=1))
    assert two == one
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["predictions.jsonl", "scores.json"]
    alone, shared = (
        sorted((tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
        for name in ("one", "two")
    )
    assert alone == shared


def test_several_processes_need_a_folder(tmp_path: Path) -> None:
    result = _eval("--scenes", "2000001:1", processes=2)
    assert result.returncode != 0
    assert "several processes need --out" in result.stdout


def test_a_process_without_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, rank, count in (("2", None, 1), ("many", "0", 1), ("", "0", 1), ("3", "1", 3)):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.delenv("RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        assert launched_processes() == count
