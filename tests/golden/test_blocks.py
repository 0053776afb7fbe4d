"""Every golden case, block by block in network order, so that a failure names the first bad block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.golden.golden_case import GoldenCase, check_close, check_equal
from xsam.config import IMAGE_ID
from xsam.inference.preprocess import segmentation_pixels, vision_pixels
from xsam.inference.prompts import mark_positions
from xsam.model.language import generate, packed_hidden_states
from xsam.model.xsam import ImageFeatures, pad_conditions, span_means


def _check_image_blocks(case: GoldenCase) -> ImageFeatures:
    model, tensors = case.variant.model, case.tensors
    check_close(
        "vision pixels", vision_pixels(case.variant.rgb, model.config)[None], tensors["in.pixel_values"]
    )
    check_close(
        "segmentation pixels",
        segmentation_pixels(case.variant.rgb, model.config.square)[None],
        tensors["in.extra_pixel_values"],
    )
    features = model.encode_image(tensors["in.pixel_values"], tensors["in.extra_pixel_values"])
    check_close("visual_projector", features.visual_tokens, tensors["mid.visual_projector.0"])
    check_close("seg_projector", features.seg_tokens, tensors["mid.seg_projector.0"])
    for level, expected in enumerate(case.numbered("mid.seg_connector")):
        check_close(f"seg_connector level {level}", features.pyramid[level], expected)
    for level, expected in enumerate(case.numbered("mid.pixel_decoder.multi_scale")):
        check_close(f"pixel decoder scale {level}", features.multi_scale[level], expected)
    if "mid.pixel_decoder.mask_features" in tensors:
        check_close("mask features", features.mask_features, tensors["mid.pixel_decoder.mask_features"])
    return features


def _check_tokens(case: GoldenCase) -> None:
    tokens, tensors = case.tokenized, case.tensors
    config = case.variant.model.config
    expanded = tokens.expand(config.num_image_tokens, config.sampler.tokens_per_region)
    for name in ("input_ids", "cond_ids", "seg_ids"):
        for key, source in ((f"in.{name}", tokens), (f"mid.prep.{name}", expanded)):
            if key in tensors:
                check_equal(key, getattr(source, name)[None], tensors[key])


def _check_embeds(case: GoldenCase, features: ImageFeatures) -> Tensor:
    model, tensors = case.variant.model, case.tensors
    regions = None
    if points := case.numbered("rand.points"):
        regions = model.region_tokens(
            features.region_map.expand(len(points), -1, -1, -1), torch.stack(points)
        )
        check_close("region sampler", regions, tensors["mid.vision_sampler.0"])
    embeds = model.embed(tensors["mid.prep.input_ids"][0], features.image_tokens[0], regions)
    check_close("merged LLM input", embeds[None], tensors["mid.prep.inputs_embeds"])
    return embeds


def _check_decoder(
    case: GoldenCase, features: ImageFeatures, projected: Tensor, cond_ids: Tensor, seg_ids: Tensor
) -> None:
    model, tensors = case.variant.model, case.tensors
    conditions, valid = pad_conditions(span_means(projected[None], [cond_ids]))
    seg = projected[seg_ids == 0]
    answer = model.decode(features, seg[None], conditions[None], valid[None])[-1]
    check_close("class logits", answer.class_logits[0], tensors["out.class_queries_logits"])
    expected = tensors["out.masks_queries_logits"]
    masks = F.interpolate(
        answer.mask_logits[0], size=expected.shape[-2:], mode="bilinear", align_corners=False
    )
    check_close("mask logits", masks, expected)


@torch.no_grad()
def test_blocks(golden_case: GoldenCase) -> None:
    case, model = golden_case, golden_case.variant.model
    features = _check_image_blocks(case)
    _check_tokens(case)
    embeds = _check_embeds(case, features)
    ids = case.tensors["mid.prep.input_ids"][0]
    split = int((ids == IMAGE_ID).nonzero().max()) + 1
    prefix, (text,) = packed_hidden_states(model.llm, embeds[None, :split], [embeds[None, split:]])
    projected = model.llm_projector(torch.cat([prefix[0], text[0]]))
    check_close("llm_projector", projected[None], case.tensors["mid.llm_projector.0"])
    if case.data["mode"] == "template":
        cond_ids, seg_ids = (case.tensors[f"mid.prep.{name}"][0] for name in ("cond_ids", "seg_ids"))
        _check_decoder(case, features, projected, cond_ids, seg_ids)
    else:
        _check_generation(case, features, embeds)


def _check_generation(case: GoldenCase, features: ImageFeatures, embeds: Tensor) -> None:
    model, tokenizer = case.variant.model, case.variant.tokenizer
    expected = case.tensors["mid.llm_projector.1"][0]
    forced = None
    if case.data["mode"] == "forced":
        forced = tokenizer.encode(case.data["generation"], add_special_tokens=False)
    answer = generate(
        model.llm, embeds, max_new_tokens=len(expected) - len(embeds) + 1, stop_ids=(), forced_ids=forced
    )
    if forced is None:
        text = tokenizer.decode(answer.token_ids, skip_special_tokens=False)
        assert text.strip() == case.data["generation"].strip(), "greedy generation differs"
    projected = model.llm_projector(answer.hidden_states)
    check_close("llm_projector of the generated tokens", projected, expected[: len(projected)])
    if "out.class_queries_logits" in case.tensors:
        ids = torch.cat([case.tensors["mid.prep.input_ids"][0], torch.tensor(answer.token_ids)])
        cond_ids, seg_ids = mark_positions(tokenizer, ids[: len(projected)].numpy())
        _check_decoder(case, features, projected, torch.from_numpy(cond_ids), torch.from_numpy(seg_ids))
