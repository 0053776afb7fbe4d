"""Training losses of the reference, evaluated on every pixel instead of sampled points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden.golden_case import GoldenCase, check_equal
from xsam.config import IMAGE_ID
from xsam.model.language import packed_hidden_states
from xsam.model.xsam import pad_conditions, span_means
from xsam.train.losses import LossWeights, MaskSampling, PromptTarget, segmentation_loss
from xsam.train.step import language_loss


@torch.no_grad()
def test_losses(golden_loss: GoldenCase) -> None:
    case, tensors, model = golden_loss, golden_loss.tensors, golden_loss.variant.model
    tokens = case.tokenized
    labels = np.full_like(tokens.input_ids, -100)
    labels[tokens.answer_start : tokens.answer_end] = tokens.input_ids[
        tokens.answer_start : tokens.answer_end
    ]
    for name, actual in (
        ("input_ids", tokens.input_ids),
        ("cond_ids", tokens.cond_ids),
        ("seg_ids", tokens.seg_ids),
        ("labels", labels),
    ):
        check_equal(name, actual[None], tensors[f"in.{name}"])

    expanded = tokens.expand(model.config.num_image_tokens, model.config.sampler.tokens_per_region)
    features = model.encode_image(tensors["in.pixel_values"][None], tensors["in.extra_pixel_values"][None])
    points = case.numbered("rand.points")
    regions = None
    if points:
        regions = model.region_tokens(
            features.region_map.expand(len(points), -1, -1, -1), torch.stack(points)
        )
    ids = torch.from_numpy(expanded.input_ids)
    embeds = model.embed(ids, features.image_tokens[0], regions)
    split = int((ids == IMAGE_ID).nonzero().max()) + 1
    _, (hidden,) = packed_hidden_states(model.llm, embeds[None, :split], [embeds[None, split:]])
    wanted = torch.full((1, len(ids)), -100)
    wanted[0, expanded.answer_start : expanded.answer_end] = ids[expanded.answer_start : expanded.answer_end]
    losses = {"loss_llm": language_loss(model.llm.lm_head, hidden, wanted[:, split:])}

    projected = model.llm_projector(hidden)
    conditions, valid = pad_conditions(span_means(projected, [torch.from_numpy(expanded.cond_ids[split:])]))
    seg = projected[:, torch.from_numpy(expanded.seg_ids[split:]) == 0]
    stages = model.decode(features, seg, conditions[None], valid[None])
    found, _ = segmentation_loss(
        [(stage.class_logits, stage.mask_logits) for stage in stages],
        [tensors["in.mask_labels"]],
        [[PromptTarget(labels=tensors["in.class_labels"])]],
        weights=LossWeights(),
        sampling=MaskSampling(mode="label"),
    )
    losses.update(found)
    losses["loss_seg"] = sum(found.values())
    losses["loss"] = losses["loss_seg"] + losses["loss_llm"]
    expected = case.data["losses"]
    assert {name: float(losses[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
