"""Golden logits of X2SAM → segments: images, and videos frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.test_x2sam import CASES, X2SamCase
from xsam.inference.pointing import MAX_REFERENCES, Reference, followed, most_overlapping
from xsam.inference.postprocess import (
    UnlabeledSegments,
    best_query,
    instances,
    panoptic,
)
from xsam.inference.regions import semantic_bands
from xsam.inference.upsample import MaskGeometry
from xsam.types.masks import MaskRle

NOTHING = 255
SCORE = 1e-3
SEGMENTED = [case for case in CASES if case.data["ok"]]


def _iou(first: Tensor, second: Tensor) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _decoded(found: UnlabeledSegments) -> Tensor:
    masks = [mask.decode() for mask in found.masks]
    return torch.from_numpy(np.array(masks, np.bool_).reshape(-1, *found.image_hw))


@pytest.mark.parametrize("case", SEGMENTED, ids=[case.id for case in SEGMENTED])
def test_segments(case: X2SamCase) -> None:
    data, tensors = case.data, case.tensors
    if "post.segmentation" not in tensors and "post.0.masks" not in tensors:
        pytest.skip("a case without segments")
    hw = case.variant.image("frame0" if case.is_video else "image").shape[:2]
    geometry = MaskGeometry.for_image(hw, case.variant.model.config.square)
    infos = data["segments_info"]
    if not case.is_video:
        infos = [infos]
    previous: list[Reference] = [(MaskRle.encode(np.zeros(hw, np.bool_)), 1.0)]  # a fault: always empty
    for frame, info in enumerate(infos):
        logits = tensors["out.class_logits"][frame], tensors["out.mask_logits_low"][frame]
        expected = tensors["post.segmentation"][frame] if "post.segmentation" in tensors else None
        _check_frame(case, frame, info, logits, geometry, expected, previous)


def _check_frame(
    case: X2SamCase,
    frame: int,
    info: object,
    logits: tuple[Tensor, Tensor],
    geometry: MaskGeometry,
    expected: Tensor | None,
    previous: list[Reference],
) -> None:
    name, threshold = case.data["name"], case.data.get("threshold", 0.0)
    if name in ("refseg", "reaseg"):
        found = best_query(*logits, geometry)
        _same_mask(found, expected, info)
    elif name == "objseg":
        references = [previous[0], *previous[1:][-MAX_REFERENCES:]]
        found = followed(*logits, geometry, references, threshold=threshold)
        _same_mask(found, expected, info)
        if float(found.scores[0]) > threshold:
            previous.append((found.masks[0], float(found.scores[0])))
    elif name == "intseg":
        region = case.tensors["in.vprompt_masks"][0].bool()
        resized = torch.nn.functional.interpolate(
            region[None, None].float(), geometry.image_hw, mode="nearest"
        )
        candidates = instances(*logits, geometry, threshold=threshold)
        if not candidates.masks:
            candidates = best_query(*logits, geometry)
        found = most_overlapping(candidates, resized[0, 0].numpy() > 0)
        _same_mask(found, expected, info)
    elif name == "gcgseg":
        found = best_query(*logits, geometry)
        assert isinstance(info, list)
        assert found.scores.tolist() == pytest.approx([s["score"] for s in info], abs=SCORE)
        painted = torch.full(geometry.image_hw, NOTHING, dtype=torch.int32)
        for segment, mask in zip(info, _decoded(found), strict=True):
            painted[mask] = segment["id"]
        assert expected is not None
        for value in expected.unique():
            assert _iou(painted == value, expected == value) >= 0.999
    elif name == "genseg_sem":
        classes = torch.cat([band for _, _, band in semantic_bands(*logits, geometry)])
        assert expected is not None
        assert float((classes == expected).float().mean()) >= 0.999
    elif name == "genseg_pan":
        names = case.data["sampled_cats"]
        stuff = {names.index(n) for n in case.data["stuff_classes"]}
        found = panoptic(*logits, geometry, stuff=stuff, threshold=threshold, every_pixel=True)
        assert isinstance(info, list)
        # Ids are kept over frames and reused inside one by the reference; here each segment is its own.
        assert sorted(found.scores.tolist()) == pytest.approx(sorted(s["score"] for s in info), abs=SCORE)
        areas = sorted(int(mask.sum()) for mask in _decoded(found))
        assert areas == pytest.approx(sorted(s["area"] for s in info), rel=1e-3, abs=2)
    else:
        _same_instances(instances(*logits, geometry, threshold=threshold), case, frame)


def _same_mask(found: UnlabeledSegments, expected: Tensor | None, info: object) -> None:
    assert expected is not None
    assert isinstance(info, dict)
    assert _iou(_decoded(found)[0], expected != NOTHING) >= 0.999
    assert float(found.scores[0]) == pytest.approx(info["score"], abs=SCORE)


def _same_instances(found: UnlabeledSegments, case: X2SamCase, frame: int) -> None:
    """Pair instances by class and score; the order of ties does not matter. Not every frame has its masks."""
    tensors = case.tensors
    classes, scores = tensors[f"post.{frame}.classes"], tensors[f"post.{frame}.scores"]
    expected = sorted(zip(classes.tolist(), scores.tolist(), strict=True))
    actual = sorted(zip(found.label_indices.tolist(), found.scores.tolist(), strict=True))
    assert [label for label, _ in actual] == [label for label, _ in expected]
    assert [score for _, score in actual] == pytest.approx([score for _, score in expected], abs=SCORE)
    for mask, label, score in zip(_decoded(found), found.label_indices, found.scores, strict=True):
        if f"post.{frame}.masks" not in tensors:
            break
        others = zip(tensors[f"post.{frame}.masks"], classes, scores, strict=True)
        ious = [_iou(mask, m.bool()) for m, c, s in others if c == label and abs(float(s - score)) <= SCORE]
        assert max(ious) >= 0.999
