"""Whole clips through the public interface: the reference's segments and scores, frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import xsam.inference.forward
import xsam.inference.prepare
from tests.golden.test_x2sam import CASES, X2SamCase
from xsam import Query, Task, VisualPrompt, XSam
from xsam.inference.prompts import Conversation, frame_question

SCORE = 3e-3  # a free-running video
NOTHING = 255
_TASKS = {"refseg": Task.REFERRING, "reaseg": Task.REASONING, "vgdseg": Task.VISUAL_GROUNDED}
CLIPS = [c for c in CASES if c.is_video and c.data["mode"] == "template" and c.data["name"] in _TASKS]


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS, reason="no video case in the repository's copy; set XSAM_GOLDEN_X2SAM_DIR")
@pytest.mark.parametrize("case", CLIPS or [None], ids=[case.id for case in CLIPS] or ["none"])
def test_segments_of_a_clip(case: X2SamCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws its wording and the points of regions at random; here both are the drawn ones."""
    data, tensors = case.data, case.tensors
    turn = data["conversations"][0]
    asked = turn["input"].split("<|vision_end|>", 1)[1].split("<|im_end|>", 1)[0]
    conversation = Conversation(
        question=frame_question(asked), answer=turn["output"].replace("<|im_end|>", "<|end|>")
    )
    monkeypatch.setattr(xsam.inference.prepare, "conversation_for", lambda *_, **__: conversation)
    points = iter(case.numbered("rand.points"))
    monkeypatch.setattr(xsam.inference.forward, "region_points", lambda *_, **__: next(points))
    frames = [case.variant.image(f"frame{index}") for index in range(data["n_frames"])]
    engine = XSam(case.variant.model, case.variant.tokenizer, model_id="clip")
    results = engine.segment_clip(frames, _query(case, frames[0].shape[:2]))
    assert len(results) == len(frames)
    for frame, (result, info) in enumerate(zip(results, data["segments_info"], strict=True)):
        segments = result.segments
        if data["name"] == "vgdseg":
            # Here, masks of the same object are given once: those with the highest scores.
            scores, classes = (tensors[f"post.{frame}.{name}"].numpy() for name in ("scores", "classes"))
            best = {f"region {k + 1}": scores[classes == k].max() for k in sorted(set(classes.tolist()))}
            found_best = {
                label: max(
                    s for s, name in zip(segments.scores, segments.labels, strict=True) if name == label
                )
                for label in sorted(set(segments.labels))
            }
            assert found_best == pytest.approx(best, abs=SCORE)
            continue
        assert segments.scores.tolist() == pytest.approx([info["score"]], abs=SCORE)
        expected_mask = (tensors["post.segmentation"][frame] != NOTHING).numpy()
        found = segments.masks[0].decode()
        union = np.logical_or(found, expected_mask).sum()
        assert np.logical_and(found, expected_mask).sum() >= 0.999 * union


def _query(case: X2SamCase, image_hw: tuple[int, ...]) -> Query:
    task = _TASKS[case.data["name"]]
    if task is not Task.VISUAL_GROUNDED:
        return Query(text=case.data["prompt"], task=task, score_threshold=0.0)
    masks: Any = case.tensors["in.vprompt_masks"].bool()
    count = len(case.numbered("rand.points"))
    whole = (
        torch.nn.functional.interpolate(masks.reshape(-1, 1, *masks.shape[-2:]).float(), image_hw)[:, 0] > 0
    )
    prompts = tuple(VisualPrompt.from_mask(mask.numpy()) for mask in whole[:count])
    return Query(prompts=prompts, task=task, score_threshold=case.data.get("threshold", 0.0))
