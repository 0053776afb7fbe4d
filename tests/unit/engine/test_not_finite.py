"""NaN and infinity in the network are failures that name the first block, never "not found"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.unit.engine.asking import parts, picture
from xsam import ModelError, OutOfMemoryError, Query, Status, Task, VisualPrompt, XSam
from xsam.model.xsam import XSamModel

_QUERIES = (
    Query(text="mug"),
    Query(thing_classes=("mug",), stuff_classes=("table",)),
    Query(prompts=(VisualPrompt.point(5, 5),)),
    Query(task=Task.CHAT, text="what is it"),
)


@contextmanager
def _broken(model: XSamModel, name: str, value: float) -> Iterator[None]:
    """Set one weight to a value."""
    weight = model.get_parameter(name)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] = value
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        "segmentor.encoder.layers.1.mlp.lin1.weight",
        "segmentor.pixel_decoder.mask_projection.weight",
        "vision_encoder.encoder.layers.0.mlp.fc1.weight",
        "visual_projector.model.0.weight",
    ],
)
def test_a_broken_weight_before_any_query(one_engine: XSam, name: str, value: float) -> None:
    """Every query once was NOT_FOUND with "best score nan"."""
    module = name.rpartition(".")[0]
    with _broken(parts("a")[0], name, value), pytest.raises(ModelError) as caught:
        one_engine.segment(picture(), list(_QUERIES))
    assert f"the weights of {module} are not finite" in caught.value.message
    assert one_engine.cached_frames == 0
    assert one_engine.segment(picture(), "mug").found  # nothing of it is left in the cache


@pytest.mark.parametrize(
    "name",
    [
        "llm.model.layers.0.self_attn.qkv_proj.weight",
        "llm.model.layers.2.mlp.down_proj.weight",
        "llm_projector.model.2.weight",
        "segmentor.decoder.decoder.layers.1.fc1.weight",
    ],
)
def test_a_broken_weight_after_the_image(one_engine: XSam, name: str) -> None:
    module = name.rpartition(".")[0]
    with _broken(parts("a")[0], name, float("nan")):
        results = one_engine.segment(picture(), list(_QUERIES[:3]))
        with pytest.raises(ModelError, match="not finite"):
            one_engine.segment(picture(), _QUERIES[0])
    for result in results:
        assert (result.status, result.code) == (Status.FAILED, "MODEL_ERROR")
        assert module in result.message
        assert result.model_id == one_engine.model_id
    assert one_engine.segment(picture(), "mug").found


def test_generated_text_from_a_broken_language_model_is_a_failure(one_engine: XSam) -> None:
    with (
        _broken(parts("a")[0], "llm.model.layers.1.mlp.down_proj.weight", float("nan")),
        pytest.raises(ModelError, match=r"llm\.model\.layers\.1\.mlp\.down_proj are not finite"),
    ):
        one_engine.segment(picture(), _QUERIES[3])


def test_an_overflow_names_the_first_block_that_overflows(one_engine: XSam) -> None:
    model = parts("a")[0]
    bias = model.visual_projector.model[0].bias
    with torch.no_grad():
        before = bias.clone()
        bias.fill_(3e38)
    try:
        with pytest.raises(ModelError, match=r"the output of visual_projector\S* is not finite") as caught:
            one_engine.segment(picture(), "mug")
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert caught.value.hint


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried "
            "to allocate 800000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("CUDA error: out of memory\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_frees_the_cache(
    one_engine: XSam, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """PyTorch's CPU allocator raises a plain RuntimeError: it was a MODEL_ERROR, and the cache was kept."""
    one_engine.segment(picture(), "mug")
    assert one_engine.cached_frames == 1

    def fail(*_: object) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(XSamModel, "predict", fail)
        with pytest.raises(OutOfMemoryError) as caught:
            one_engine.segment(picture(), "mug")
    assert caught.value.__cause__ is raised
    assert one_engine.cached_frames == 0


def test_a_real_failed_allocation_is_recognized(one_engine: XSam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XSamModel, "predict", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(OutOfMemoryError):
        one_engine.segment(picture(), "mug")
