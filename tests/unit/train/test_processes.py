"""Two processes on this machine train one model together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xsam.weights.checkpoint import read_tensors

ROOT = Path(__file__).parents[3]
DEADLINE_S = 400


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _launch(data: Path, out: Path, *, steps: int) -> None:
    # `accelerate launch --cpu` starts several processes through MPI only.
    launcher = "torch.distributed.run --nnodes 1 --nproc_per_node 2"
    network = f"--master_addr 127.0.0.1 --master_port {_free_port()}"
    fields = {
        "minutes": 0,
        "steps": steps,
        "batch_size": 1,
        "prompts_per_image": 2,
        "accumulation": 2,
        "log_every": 1,
        "validate_every": 1,
        "validate_pictures": 1,
    }
    result = subprocess.run(
        [
            *(sys.executable, "-m", *launcher.split(), *network.split()),
            *(str(Path(__file__).with_name("two_processes.py")), "tiny/stage3", "--cpu"),
            *("--data", str(data), "--out", str(out)),
            *(f"--set={name}={value}" for name, value in fields.items()),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE_S)
def test_two_processes_end_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    """Also after a restart; each process sees its own images."""
    for steps in (1, 2):
        _launch(data, tmp_path, steps=steps)
        first, second = (read_tensors(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.isfinite(value).all(), name
            assert torch.equal(value, second[name]), name
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [record for record in records if "train" in record]
    assert [record["step"] for record in trained] == [1, 2]  # one process writes
    assert all(np.isfinite(value) for record in trained for value in record["train"].values())
    assert (tmp_path / "state" / "random_states_1.pkl").is_file()
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()
