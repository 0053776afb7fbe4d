"""What may make a GPU faster: backends of attention, CUDA graphs, batches of frames, and the compiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import PHRASES, Frames, MeasuredModel, Steps, moved, repeats, subject_of

BATCHES = (1, 2, 4, 8)


def run_attention(settings: Settings, record: Record) -> None:
    """Ask with each backend of attention preferred; the plain one steps in where a mask rules it out."""
    subject = subject_of(settings)
    steps, repeat = Steps.of(subject), repeats(settings, 5)
    with torch.inference_mode():
        expected = _whole(steps)
        record("default", _attention_ms(steps, repeat))
        for backend in (
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.MATH,
        ):
            name = backend.name.lower()
            try:
                with sdpa_kernel([backend, SDPBackend.MATH], set_priority=True):
                    record(name, {**_attention_ms(steps, repeat), **_moved(_whole(steps), expected)})
            except RuntimeError as error:
                record(name, {"error": str(error).splitlines()[0][:200]})


def _attention_ms(steps: Steps, repeat: int) -> dict[str, float]:
    subject = steps.subject
    features, memory = steps.encode()
    prefix = steps.prefix(features)
    return {
        "encode_ms": _ms(subject, steps.encode, repeat),
        "prefix_ms": _ms(subject, lambda: steps.prefix(features), repeat),
        "next_ms": _ms(subject, lambda: steps.decode(memory, steps.read(prefix)), repeat),
    }


def _whole(steps: Steps) -> tuple[Tensor, Tensor]:
    features, memory = steps.encode()
    return steps.decode(memory, steps.read(steps.prefix(features)))


def _moved(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, float]:
    return {"classes_moved": moved(actual[0], expected[0]), "masks_moved": moved(actual[1], expected[1])}


def _ms(subject: MeasuredModel, work: Callable[[], object], repeat: int) -> float:
    return round(subject.seconds(work, repeat=repeat) * 1e3, 3)


def run_graphs(settings: Settings, record: Record) -> None:
    """Replay captured stages instead of calling their kernels one by one; a text has a fixed length."""
    subject = subject_of(settings)
    steps, repeat = Steps.of(subject), repeats(settings, 15)
    with torch.inference_mode():
        features, memory = steps.encode()
        prefix = steps.prefix(features)
        states = steps.read(prefix)
        record("captured", subject.device.type == "cuda")
        stages: dict[str, Callable[[], Sequence[Tensor]]] = {
            "language": lambda: steps.read(prefix),
            "decode": lambda: steps.decode(memory, states),
            "language and decode": lambda: steps.decode(memory, steps.read(prefix)),
            "encode": lambda: (steps.encode()[0].mask_features,),
        }
        for name, stage in stages.items():
            try:
                replay, outputs = _captured(stage, subject)
                eager = _ms(subject, stage, repeat)
                figures = {"called_ms": eager, "replayed_ms": _ms(subject, replay, repeat)}
                replay()
                figures["moved"] = max(map(moved, outputs(), stage()))
                record(name, figures)
            except RuntimeError as error:
                record(name, {"error": str(error).splitlines()[0][:200]})


def _captured(
    stage: Callable[[], Sequence[Tensor]], subject: MeasuredModel
) -> tuple[Callable[[], object], Callable[[], Sequence[Tensor]]]:
    """Return what replays a stage, and its outputs; without a GPU, the stage itself."""
    if subject.device.type != "cuda":
        return stage, stage
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            stage()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = stage()
    return graph.replay, lambda: outputs


def run_batch(settings: Settings, record: Record) -> None:
    """First prompts of several frames at once, against one after the other."""
    subject = subject_of(settings)
    repeat = repeats(settings, 5)
    with torch.inference_mode():
        alone = 0.0
        for count in BATCHES if settings.on_gpu else BATCHES[:2]:
            steps = Steps.of(subject, batch=count)
            if subject.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                took = _ms(subject, lambda steps=steps: _whole(steps), repeat)  # type: ignore[misc]
            except torch.OutOfMemoryError as error:
                record(str(count), {"error": str(error).splitlines()[0][:200]})
                return
            alone = alone or took
            figures: dict[str, Any] = {"ms": took, "ms_a_frame": round(took / count, 3)}
            figures["of_one_by_one"] = round(took / count / alone, 3)
            if subject.device.type == "cuda":
                figures["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
            record(str(count), figures)


def run_compile(settings: Settings, record: Record) -> None:
    """Compile the encoders and the decoder; the compiler runs on the first call."""
    subject = subject_of(settings)
    steps, repeat = Steps.of(subject), repeats(settings, 7)
    backend = "inductor" if settings.on_gpu else "aot_eager"  # without a compiler of C++
    record("backend", backend)
    model: Any = subject.model
    with torch.inference_mode():
        features, memory = steps.encode()
        states = steps.read(steps.prefix(features))
        decode, encode = (lambda: steps.decode(memory, states)), steps.encode
        expected = decode()
        masks = features.mask_features
        before = {"decode": _ms(subject, decode, repeat), "encode": _ms(subject, encode, repeat)}
        record("called_ms", before)
        model.predict = torch.compile(model.predict, dynamic=False, backend=backend)
        record("decode", {**_compiled(subject, decode, repeat), **_moved(decode(), expected)})
        model.encode_image = torch.compile(model.encode_image, dynamic=False, backend=backend)
        again = _compiled(subject, encode, repeat)
        record("encode", {**again, "moved": moved(encode()[0].mask_features, masks)})
        engine = subject.engine()
        engine.segment(Frames().next(), PHRASES[0])
    record("engine_answers", True)


def _compiled(subject: MeasuredModel, work: Callable[[], object], repeat: int) -> dict[str, float]:
    began = time.perf_counter()
    work()
    subject.sync()
    first = time.perf_counter() - began
    return {"compile_s": round(first, 1), "compiled_ms": _ms(subject, work, repeat)}
