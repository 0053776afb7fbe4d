"""Golden logits → segments: maps, instance masks, boxes and scores of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.golden_case import GoldenCase
from xsam.inference.pointing import most_overlapping
from xsam.inference.postprocess import (
    UnlabeledSegments,
    best_query,
    instances,
    panoptic,
)
from xsam.inference.regions import semantic_bands
from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import box_of_mask

NOTHING = 255
SCORE = 1e-3


def _iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _prompt_region(case: GoldenCase, geometry: MaskGeometry) -> Tensor:
    """Resize the prompt mask, which is stored only at encoder size, to the image."""
    height, width = geometry.scaled_hw
    mask = case.tensors["in.vprompt_masks"][:1, :height, :width].float()[None]
    return torch.nn.functional.interpolate(mask, size=geometry.image_hw, mode="nearest")[0, 0] > 0


def test_segments(golden_case: GoldenCase) -> None:
    case, tensors = golden_case, golden_case.tensors
    if "out.class_queries_logits" not in tensors:
        pytest.skip("a case without masks")
    class_logits, mask_logits = (
        tensors["out.class_queries_logits"][0],
        tensors["out.masks_queries_logits"][0].float(),
    )
    geometry = MaskGeometry(
        side=mask_logits.shape[-1],
        scaled_hw=tuple(case.data["scaled_size"]),
        image_hw=case.variant.rgb.shape[:2],
    )
    task, threshold, info = case.data["task"], case.data["threshold"], case.data["segments_info"]
    if task in ("img_refseg", "img_reaseg"):
        found = best_query(class_logits, mask_logits, geometry)
        _same_map(_decoded(found)[0], tensors["post.segmentation"])
        assert float(found.scores[0]) == pytest.approx(info["score"], abs=SCORE)
    elif task == "img_gcgseg":
        found = best_query(class_logits, mask_logits, geometry)
        assert found.scores.tolist() == pytest.approx([s["score"] for s in info], abs=SCORE)
        painted = torch.full(geometry.image_hw, NOTHING, dtype=torch.int32)
        for segment, mask in zip(info, _decoded(found), strict=True):
            painted[mask] = segment["id"]
        for value in tensors["post.segmentation"].unique():
            assert _iou(painted == value, tensors["post.segmentation"] == value) >= 0.999
    elif task == "img_intseg":
        candidates = instances(class_logits, mask_logits, geometry, threshold=threshold)
        found = most_overlapping(candidates, _prompt_region(case, geometry).numpy())
        _same_map(_decoded(found)[0], tensors["post.segmentation"])
        assert float(found.scores[0]) == pytest.approx(info["score"], abs=SCORE)
    elif "post.instances.masks" in tensors:
        _same_instances(instances(class_logits, mask_logits, geometry, threshold=threshold), case)
    elif info is None:
        bands = semantic_bands(class_logits, mask_logits, geometry)
        classes = torch.cat([band for _, _, band in bands])
        assert float((classes == tensors["post.segmentation"]).float().mean()) >= 0.999
    else:
        names = case.data["sampled_cats"]
        stuff_names = case.data["prompt"].partition("sem:")[2].split(",")
        stuff = {names.index(name.strip()) for name in stuff_names if name.strip() in names}
        found = panoptic(
            class_logits, mask_logits, geometry, stuff=stuff, threshold=threshold, every_pixel=True
        )
        labels = [s["label_id"] if "label_id" in s else s["category_id"] for s in info]
        assert sorted(found.label_indices.tolist()) == sorted(labels)
        assert sorted(found.scores.tolist()) == pytest.approx(sorted(s["score"] for s in info), abs=SCORE)
        areas = sorted(int(mask.sum()) for mask in _decoded(found))
        assert areas == pytest.approx(sorted(s["area"] for s in info if "area" in s), rel=1e-3, abs=2)


def _same_map(mask: Tensor, segmentation: Tensor) -> None:
    assert _iou(mask, segmentation != NOTHING) >= 0.999


def _decoded(found: UnlabeledSegments) -> torch.Tensor:
    masks = [mask.decode() for mask in found.masks]
    return torch.from_numpy(np.array(masks, np.bool_).reshape(-1, *found.image_hw))


def _same_instances(found: UnlabeledSegments, case: GoldenCase) -> None:
    """Pair instances by class and score; the order of ties does not matter."""
    expected = {
        name: case.tensors[f"post.instances.{name}"] for name in ("masks", "scores", "classes", "boxes")
    }
    assert len(found.scores) == len(expected["scores"])
    assert sorted(found.label_indices.tolist()) == sorted(expected["classes"].tolist())
    for mask, label, score in zip(_decoded(found), found.label_indices, found.scores, strict=True):
        ious = [
            _iou(mask, other.bool())
            if int(c) == int(label) and abs(float(s) - float(score)) <= SCORE
            else 0.0
            for other, c, s in zip(expected["masks"], expected["classes"], expected["scores"], strict=True)
        ]
        best = int(np.argmax(ious))
        assert ious[best] >= 0.999
        assert list(box_of_mask(mask.numpy())) == expected["boxes"][best].tolist()
