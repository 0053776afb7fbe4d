"""Options of the engine: threads, eight-bit weights, two devices."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from support.golden import GOLDEN
from xsam import InvalidOptionError, ModelError, XSam
from xsam.inference.acceleration import cpu_threads, multiply_in_bfloat16
from xsam.model.precision import computes_natively
from xsam.weights.checkpoint import load_checkpoint

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_threads_are_put_back() -> None:
    with cpu_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), cpu_threads(3):
        _ = 1 / 0
    assert torch.get_num_threads() == 1
    with cpu_threads(None):
        assert torch.get_num_threads() == 1


def test_threads_are_used_within_a_call_only() -> None:
    engine = XSam.load(GOLDEN / "a", device="cpu", threads=2)
    seen: list[int] = []
    engine.segment(PICTURE, "mug", on_stage=lambda _: seen.append(torch.get_num_threads()))
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_the_language_model_may_have_a_device_of_its_own() -> None:
    """Only one device is available here; "cpu:0" is at least another name for it."""
    engine = XSam.load(GOLDEN / "a", device="cpu", llm_device="cpu:0")
    expected = XSam.load(GOLDEN / "a", device="cpu").segment(PICTURE, "mug")
    assert engine.segment(PICTURE, "mug").segments.masks == expected.segments.masks


def test_without_torchao_there_are_no_eight_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error comes before anything is loaded: here there is nothing to load."""
    monkeypatch.setitem(sys.modules, "torchao", None)  # importing it fails, whether it is installed or not
    monkeypatch.delitem(sys.modules, "torchao.quantization", raising=False)
    with pytest.raises(ModelError, match="torchao") as caught:
        XSam.load(tmp_path, device="cpu", llm_weights="int8")
    assert "pip install" in caught.value.hint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_bits_answer_alike(dtype: str) -> None:
    pytest.importorskip("torchao")
    exact = XSam.load(GOLDEN / "a", device="cpu").segment(PICTURE, "mug")
    engine = XSam.load(GOLDEN / "a", device="cpu", dtype=dtype, llm_weights="int8")  # type: ignore[arg-type]
    rough = engine.segment(PICTURE, "mug")
    assert rough.segments.scores.tolist() == pytest.approx(exact.segments.scores.tolist(), abs=0.05)


@pytest.mark.skipif(
    not computes_natively(torch.device("cpu"), torch.bfloat16),
    reason="this processor has no bfloat16 instructions",
)
def test_a_language_model_in_bfloat16_answers_alike() -> None:
    model, tokenizer = load_checkpoint(GOLDEN / "a")
    exact = XSam(model, tokenizer, model_id="a").segment(PICTURE, "mug")
    engine = XSam.load(GOLDEN / "a", device="cpu", llm_weights="bfloat16")
    rough = engine.segment(PICTURE, "mug")
    assert rough.segments.scores.tolist() != exact.segments.scores.tolist()
    assert rough.segments.scores.tolist() == pytest.approx(exact.segments.scores.tolist(), abs=0.05)


@pytest.mark.parametrize("variant", ["a", "c"])
def test_only_matrices_of_the_language_model_become_bfloat16(variant: str) -> None:
    model, _ = load_checkpoint(GOLDEN / variant)
    multiply_in_bfloat16(model)
    narrow = {name for name, p in model.named_parameters() if p.dtype is torch.bfloat16}
    assert narrow == {
        name for name, p in model.named_parameters() if name.startswith("llm.model.layers") and p.ndim == 2
    }


def test_bfloat16_is_refused_where_it_would_be_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Checked before anything is loaded: here there is nothing to load."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(InvalidOptionError, match="no instructions for it"):
        XSam.load(tmp_path, device="cpu", llm_weights="bfloat16")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="torch.compile needs a C++ compiler and Python's headers",
)
def test_a_compiled_engine_answers_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also when frames alternate in the cache: one must not overwrite what another left there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    exact = XSam.load(GOLDEN / "a", device="cpu")
    compiled = XSam.load(GOLDEN / "a", device="cpu", compiled=True)
    compiled.segment(PICTURE, "mug")
    with torch.compiler.set_stance("fail_on_recompile"):
        for picture in (PICTURE, PICTURE[::-1, :50], PICTURE):
            for text in ("mug", "a red cube"):
                expected = exact.segment(picture, text)
                actual = compiled.segment(picture, text)
                assert actual.segments.labels == expected.segments.labels
                assert actual.segments.scores == pytest.approx(expected.segments.scores, abs=1e-4)
                for mask, other in zip(actual.segments.masks, expected.segments.masks, strict=True):
                    assert mask.iou(other) > 0.99
