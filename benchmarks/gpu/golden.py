"""Parity with the reference implementation on the device: the golden models, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.runner import Record, Settings, SkippedPart
from benchmarks.gpu.subject import device_of
from support.golden import GOLDEN, GOLDEN_QWEN3
from tests.golden.golden_case import GoldenCase, GoldenVariant
from xsam.config import IMAGE_ID
from xsam.model.language import packed_hidden_states
from xsam.model.xsam import XSamModel, pad_conditions, span_means
from xsam.weights.checkpoint import load_checkpoint

# Largest difference of a block, as a share of its largest magnitude. In bfloat16, the norm of the difference
# as a share of the norm, and only before the mask decoder: that one decides by the sign of masks what it
# attends to, so that a rounded mask becomes another answer in networks that were not trained.
FLOAT32_LIMIT = 1e-3
BFLOAT16_LIMIT = 0.1


def run(settings: Settings, record: Record) -> None:
    device = device_of(settings)
    variants = [GoldenVariant(path.parent) for root in _roots() for path in sorted(root.glob("*/cases.json"))]
    if not variants:
        raise SkippedPart("there are no golden models")
    record("cases", sum(len(variant.cases()) for variant in variants))
    failures = []
    for dtype, limit in ((torch.float32, FLOAT32_LIMIT), (torch.bfloat16, BFLOAT16_LIMIT)):
        worst: dict[str, float] = {}
        for variant in variants:
            model = _model(variant, device, dtype)
            for case in variant.cases():
                for block, actual, expected in _blocks(case, model):
                    apart = (_largest if dtype is torch.float32 else _overall)(actual, expected)
                    worst[block] = max(worst.get(block, 0.0), apart)
        name = str(dtype).removeprefix("torch.")
        record(name, {block: round(value, 7) for block, value in worst.items()})
        checked = {b: v for b, v in worst.items() if dtype is torch.float32 or not b.startswith("decoder")}
        over = {block: value for block, value in checked.items() if not value <= limit}
        failures += [f"{name}: {block} {value:.2g} > {limit}" for block, value in over.items()]
    record("limits", {"float32": FLOAT32_LIMIT, "bfloat16": BFLOAT16_LIMIT})
    if failures:
        raise AssertionError("; ".join(failures))


def _roots() -> list[Path]:
    beside = Path(__file__).resolve().parents[3] / "shared"
    whole = os.environ.get("XSAM_GOLDEN_DIR") or beside / "golden"
    return [Path(whole) if Path(whole).is_dir() else GOLDEN, GOLDEN_QWEN3]


def _model(variant: GoldenVariant, device: torch.device, dtype: torch.dtype) -> XSamModel:
    """Return the network in a type, also where the engine would widen it (a CPU without bfloat16)."""
    model, _ = load_checkpoint(variant.folder, device=device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.requires_grad_(False)


@torch.inference_mode()
def _blocks(case: GoldenCase, model: XSamModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each block's name, its output on the device, and the reference's."""
    device, dtype = model.device, model.dtype
    given = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in case.tensors.items()}
    features = model.encode_image(given["in.pixel_values"], given["in.extra_pixel_values"])
    yield "visual projector", features.visual_tokens, given["mid.visual_projector.0"]
    yield "segmentation projector", features.seg_tokens, given["mid.seg_projector.0"]
    for level, expected in enumerate(case.numbered("mid.pixel_decoder.multi_scale")):
        yield "pixel decoder", features.multi_scale[level], expected
    regions = None
    if points := case.numbered("rand.points"):
        places = torch.stack(points).to(device)
        regions = model.region_tokens(features.region_map.expand(len(points), -1, -1, -1), places)
        yield "region sampler", regions, given["mid.vision_sampler.0"]
    ids = given["mid.prep.input_ids"][0]
    embeds = model.embed(ids, features.image_tokens[0], regions)
    split = int((ids == IMAGE_ID).nonzero().max()) + 1
    prefix, (text,) = packed_hidden_states(model.llm, embeds[None, :split], [embeds[None, split:]])
    projected = model.llm_projector(torch.cat([prefix[0], text[0]]))
    yield "language model", projected[None], given["mid.llm_projector.0"]
    if case.data["mode"] == "template":
        yield from _decoded(model, features, projected, given)


def _decoded(
    model: XSamModel, features: Any, projected: Tensor, given: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    cond_ids, seg_ids = (given[f"mid.prep.{name}"][0] for name in ("cond_ids", "seg_ids"))
    conditions, valid = pad_conditions(span_means(projected[None], [cond_ids]))
    answer = model.decode(features, projected[seg_ids == 0][None], conditions[None], valid[None])[-1]
    yield "decoder, classes", answer.class_logits[0], given["out.class_queries_logits"]
    expected = given["out.masks_queries_logits"]
    masks = F.interpolate(
        answer.mask_logits[0], size=expected.shape[-2:], mode="bilinear", align_corners=False
    )
    yield "decoder, masks", masks, expected


def _largest(actual: Tensor, expected: Tensor) -> float:
    wanted = expected.to(actual.device).float()
    rounding = 2**-11 if expected.dtype is torch.float16 else 0.0
    apart = (actual.float() - wanted).abs() - rounding * wanted.abs()
    return float(apart.max().clamp_min(0.0) / wanted.abs().max())


def _overall(actual: Tensor, expected: Tensor) -> float:
    wanted = expected.to(actual.device).float()
    return float((actual.float() - wanted).norm() / wanted.norm())
