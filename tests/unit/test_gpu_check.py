"""The check of a GPU: parts that fail alone, what follows from the figures, the page; all parts on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.report import judge, page_name, render
from benchmarks.gpu.runner import CheckPart, Settings, run_part
from benchmarks.random_weights import random_model
from support.golden import GOLDEN
from tests.docs.documents import ROOT
from tests.unit import gpu_parts
from xsam import Query, XSam
from xsam.config import XSamConfig
from xsam.train.tokenizer import build_tiny_tokenizer

CPU = Settings(device="cpu", size="tiny")


@pytest.mark.parametrize(
    ("function", "status", "error", "figures"),
    [
        (gpu_parts.goes_well, "passed", "", {"device": "cpu"}),
        (gpu_parts.breaks, "failed", "ValueError: no kernel image", {"first": 1}),
        (gpu_parts.hangs, "timed out", "not done after 5 s", {"first": 1}),
        (gpu_parts.crashes, "failed", "the process was ended by SIGSEGV", {"first": 1}),
        (gpu_parts.is_not_for_here, "skipped", "there is no ROS", {"first": 1}),
    ],
)
def test_a_part_ends_alone_and_keeps_its_figures(
    function: Any, status: str, error: str, figures: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    part = CheckPart(name="part", target=f"{gpu_parts.__name__}:{function.__name__}", budget_s=5, about="")
    outcome = run_part(part, CPU, limit_s=5 if function is gpu_parts.hangs else 60)
    assert (outcome["status"], outcome["error"], outcome["figures"]) == (status, error, figures)
    assert capfd.readouterr().out == ""


def test_a_part_that_is_not_there_fails() -> None:
    outcome = run_part(
        CheckPart(name="part", target="benchmarks.gpu.nothing:run", budget_s=3, about=""), CPU, limit_s=60
    )
    assert outcome["status"] == "failed"
    assert "benchmarks.gpu.nothing" in outcome["error"]


def _part(figures: dict[str, Any], status: str = "passed", error: str = "") -> dict[str, Any]:
    return {"status": status, "seconds": 2.0, "error": error, "figures": figures}


def _report(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a run as the parts write it, before it is judged."""
    parts = {
        "machine": _part(
            {
                "name": "NVIDIA Test 9000",
                "torch": "9.9",
                "bfloat16_tflop_per_s": 800.0,
                "copy_gb_per_s": 4000.0,
            }
        ),
        "speed": _part(
            {
                "dtype": "bfloat16",
                "480p": {"first_ms": 80.0, "next_ms": 16.0, "eight_ms": 150.0},
                "480p_stages_ms": {"next": {"language": 6.0, "decode": 4.0}},
                "weights_gb": {"language": 8.0, "decode": 0.04},
                "gflop": {"next": {"encode": 0.0, "language": 160.0, "decode": 16.0, "total": 176.0}},
                "memory_gb": {"reserved": 13.5},
            }
        ),
        "plain": _part({"prompt_ms": 480.0}),
        "compile": _part({"backend": "inductor"}, status="timed out", error="not done after 120 s"),
    }
    return {"device": "cuda", "size": "full", "seconds": 99.0, "parts": parts, **changes}


def _met(judged: dict[str, Any]) -> dict[str, Any]:
    return {goal["name"]: goal["met"] for goal in judged["goals"]}


def test_goals_ratios_and_floors() -> None:
    judged = judge(_report())
    assert judged["derived"]["next_ratio"] == 30.0
    # 8 GB read at 4 TB/s take longer than 160 GFLOP at 800 TFLOP/s; 16 GFLOP longer than 0.04 GB.
    assert judged["derived"]["floors_ms"] == {"next": {"encode": 0.0, "language": 2.0, "decode": 0.02}}
    assert _met(judged) == {
        "first prompt, 640×480": True,
        "next prompt, 640×480": False,
        "eight prompts, 640×480": True,
        "memory": True,
        "next prompt against the plain way": True,
        "node: overhead, median": None,
    }


@pytest.mark.parametrize("changes", [{"size": "tiny"}, {"device": "cpu"}])
def test_goals_are_for_the_full_size_on_a_gpu(changes: dict[str, Any]) -> None:
    assert set(_met(judge(_report(**changes))).values()) == {None}


@pytest.mark.parametrize(
    ("statuses", "changes", "passed"),
    [
        (["passed", "skipped"], {}, True),
        (["passed", "failed"], {}, False),
        (["passed", "timed out"], {}, False),
        (["passed"], {"stopped": "SIGTERM"}, False),
        ([], {}, False),
    ],
)
def test_what_passes(statuses: list[str], changes: dict[str, Any], passed: bool) -> None:
    parts = {str(index): _part({}, status) for index, status in enumerate(statuses)}
    assert judge(_report(parts=parts, **changes))["passed"] is passed


def test_the_page_says_what_was_missed_and_what_failed() -> None:
    report = _report()
    page = render(report | judge(report))
    assert page.startswith("# NVIDIA Test 9000\n")
    assert "| compile | timed out | 2.0 | not done after 120 s |" in page
    assert "| next prompt, 640×480 | 16 ms | 12 ms | **no** |" in page
    assert "| first prompt, 640×480 | 80 ms | 90 ms | yes |" in page
    assert "| next: language | 6 | 2 | 33% |  |" in page
    assert "do not decide" not in page
    assert page_name(report) == "nvidia-test-9000.md"


def test_a_page_without_any_figures() -> None:
    report = _report(parts={"machine": _part({}, "failed", "no | GPU")}, device="cuda:1", stopped="SIGTERM")
    page = render(report | judge(report))
    assert page.startswith("# cuda:1\n")
    assert "| machine | failed | 2.0 | no \\| GPU |" in page
    assert "ended by SIGTERM" in page
    assert page_name(report) == "cuda-1.md"


def _run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    """Without the compiler, which takes a minute even here, and the node, which has tests of its own."""
    code, report, log = _run(
        "--device",
        "cpu",
        "--size",
        "tiny",
        "--without",
        "compile",
        "--without",
        "node",
        "--pages",
        str(tmp_path),
    )
    outcomes = {name: (part["status"], part["error"]) for name, part in report["parts"].items()}
    assert {status for status, _ in outcomes.values()} <= {"passed", "skipped"}, (outcomes, log)
    assert code == 0
    assert report["parts"]["speed"]["figures"]["same_twice"] is True
    assert report["parts"]["waits"]["figures"]["next"].get("language", 0) == 0
    (page,) = tmp_path.iterdir()
    assert page.read_text(encoding="utf-8") == render(report)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_missing_gpu_and_a_short_deadline_are_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, report, _ = _run("--part", "machine", "--part", "golden")
    assert code == 1
    assert not (ROOT / "docs" / "gpu" / page_name(report)).exists()
    assert "InvalidOptionError" in report["parts"]["machine"]["error"]
    code, report, _ = _run("--device", "cpu", "--part", "golden", "--deadline-s", "1")
    assert code == 1
    assert report["parts"]["golden"]["error"] == "the deadline came first"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_of_random_weights_answers(dtype: torch.dtype) -> None:
    """The full size is made on the device itself: nothing is written to a disk or to the host's memory."""
    config = XSamConfig.read(GOLDEN / "a" / "config.json")
    model = random_model(config, dtype, torch.device("cpu"))
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    engine = XSam(model, build_tiny_tokenizer(), model_id="random")
    result = engine.segment(np.full((40, 60, 3), 90, np.uint8), Query(text="mug", score_threshold=0.0))
    assert np.isfinite(result.segments.scores).all()
