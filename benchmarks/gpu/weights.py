"""The language model with weights of eight and four bits: time, memory, and how far answers move."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu.runner import Record, Settings
from benchmarks.gpu.subject import MeasuredModel, Steps, moved, repeats, subject_of
from xsam.model.xsam import XSamModel
from xsam.sim import annotate, render, sample_scene
from xsam.types.requests import Query

GROUP = 32  # columns that share a scale, of four bits
SCENES = range(3_000_000, 3_000_006)


class Int8Linear(nn.Module):
    """Eight bits with one scale a row, widened at each call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        wide = linear.weight.detach().float()
        scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        self.weight = nn.Parameter((wide / scale).round().to(torch.int8), requires_grad=False)
        self.scale = nn.Parameter(scale[:, 0].to(linear.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class Int8Packed(Int8Linear):
    """The same numbers, multiplied by PyTorch's kernel for them."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        return torch._weight_int8pack_mm(flat, self.weight, self.scale).unflatten(0, x.shape[:-1])


class Int4Packed(nn.Module):
    """Four bits with a scale and a zero for each group of columns, by PyTorch's kernel; bfloat16 only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        if columns % GROUP or rows % 8:
            raise ValueError(f"a matrix of {rows}×{columns} cannot be packed in groups of {GROUP}")
        groups = linear.weight.detach().float().unflatten(1, (-1, GROUP))
        low, high = groups.amin(dim=2), groups.amax(dim=2)
        scale = ((high - low) / 15).clamp_min(1e-6)
        codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32).flatten(1)
        self.on_cpu = linear.weight.device.type == "cpu"
        if self.on_cpu:
            packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        else:
            packed = torch._convert_weight_to_int4pack(
                (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8), 8
            )
        self.weight = nn.Parameter(packed, requires_grad=False)
        # The kernel computes (code − 8) · scale + zero.
        both = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous()
        self.scale = nn.Parameter(both.to(linear.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        multiply = torch._weight_int4pack_mm_for_cpu if self.on_cpu else torch._weight_int4pack_mm
        flat = x.flatten(0, -2).contiguous()
        return multiply(flat, self.weight, GROUP, self.scale).unflatten(0, x.shape[:-1])


KINDS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "int8": Int8Linear,
    "int8 packed": Int8Packed,
    "int4 packed": Int4Packed,
}


def run(settings: Settings, record: Record) -> None:
    subject = subject_of(settings)
    steps = Steps.of(subject)
    tiny = subject if settings.size == "tiny" else subject_of(Settings(device=settings.device, size="tiny"))
    with torch.inference_mode():
        features, _ = steps.encode()
        prefix = steps.prefix(features)
        (expected,) = steps.read(prefix)
        read = functools.partial(steps.read, prefix)
        repeat = repeats(settings, 15)
        record("as loaded", {"read_ms": _ms(subject, read, repeat), "weights_gb": _gigabytes(subject.model)})
        for name, kind in KINDS.items():
            try:
                with narrow(subject.model, kind):
                    figures: dict[str, Any] = {
                        "read_ms": _ms(subject, read, repeat),
                        "weights_gb": _gigabytes(subject.model),
                        "states_moved": moved(steps.read(prefix)[0], expected),
                    }
                record(name, figures)
                record(name, {**figures, "answers": answers_moved(tiny, kind)})
            except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
                record(name, {"error": str(error).splitlines()[0][:200]})


def _ms(subject: MeasuredModel, work: Callable[[], object], repeat: int) -> float:
    return round(subject.seconds(work, repeat=repeat, warm_up=2) * 1e3, 3)


def _gigabytes(model: XSamModel) -> float:
    layers = model.llm.model.layers
    return round(sum(p.numel() * p.element_size() for p in layers.parameters()) / 1e9, 4)


@contextmanager
def narrow(model: XSamModel, kind: Callable[[nn.Linear], nn.Module]) -> Iterator[None]:
    """Replace the matrices of the language model's layers within a block of code."""
    replaced: list[tuple[nn.Module, str, nn.Linear]] = []
    try:
        for layer in model.llm.model.layers:
            for module in list(layer.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, nn.Linear):
                        replaced.append((module, name, child))
                        setattr(module, name, kind(child))
        yield
    finally:
        for module, name, linear in replaced:
            setattr(module, name, linear)


def answers_moved(tiny: MeasuredModel, kind: Callable[[nn.Linear], nn.Module]) -> dict[str, float]:
    """Compare answers of the trained tiny model with and without the change, on rendered scenes."""
    asked = [scene_queries(seed) for seed in (SCENES if tiny.device.type == "cuda" else SCENES[:2])]
    exact = [tiny.engine().segment(rgb, queries) for rgb, queries in asked]
    with narrow(tiny.model, kind):
        rough = [tiny.engine().segment(rgb, queries) for rgb, queries in asked]
    scores, overlaps, changed = [], [], 0
    for one, two in zip(
        (r for of_scene in exact for r in of_scene), (r for of_scene in rough for r in of_scene), strict=True
    ):
        changed += one.status is not two.status
        if len(one) and len(two):
            scores.append(abs(float(one.segments.scores[0]) - float(two.segments.scores[0])))
            overlaps.append(one.segments.masks[0].iou(two.segments.masks[0]))
    return {
        "asked": sum(len(queries) for _, queries in asked),
        "status_changed": changed,
        "score_moved_mean": round(float(np.mean(scores)), 4),
        "score_moved_max": round(float(np.max(scores)), 4),
        "mask_iou_mean": round(float(np.mean(overlaps)), 4),
    }


def scene_queries(seed: int) -> tuple[Any, list[Query]]:
    """Return a rendered scene and a query for each of its first three kinds of objects."""
    scene = sample_scene(seed)
    view = render(scene, image_hw=(240, 320))
    kinds = sorted({annotation.category for annotation in annotate(scene, view)})
    return view.rgb, [Query(text=f"the {kind}") for kind in kinds[:3]]
