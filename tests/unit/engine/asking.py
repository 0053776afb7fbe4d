"""A tiny random model, an image, and one query of each kind for it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from support.golden import GOLDEN
from xsam import Query, SegmentationResult, Task, VisualPrompt
from xsam.model.xsam import XSamModel
from xsam.weights.checkpoint import load_checkpoint

STAGES = ["preprocess", "encode", "language", "decode", "postprocess"]


@functools.cache
def parts(variant: str) -> tuple[XSamModel, Any]:
    """Load network and tokenizer of a golden variant, once."""
    torch.set_num_threads(1)
    return load_checkpoint(GOLDEN / variant)


@functools.cache
def picture(height: int = 97, width: int = 151) -> NDArray[np.uint8]:
    with Image.open(GOLDEN / "a" / "image.png") as image:
        rgb = np.array(image.convert("RGB").resize((width, height)))
    rgb.flags.writeable = False
    return rgb


def one_of_each(height: int, width: int) -> dict[str, Query]:
    """Return a query for each task and kind of prompt, for an image of this size."""
    point = VisualPrompt.point(width * 0.7, height * 0.4)
    box = VisualPrompt.box(width * 0.1, 0, width * 0.6 + 1, height * 0.8)
    scribble = VisualPrompt.scribble([(0, 0), (width * 0.5, height * 0.5), (width - 1, 0)])
    mask = np.zeros((height, width), np.bool_)
    mask[: height // 2 + 1, width // 3 :] = True
    return {
        "things": Query(thing_classes=("mug", "red cube"), score_threshold=0.0),
        "stuff": Query(stuff_classes=("water", "sky"), score_threshold=0.0),
        "things and stuff": Query(
            task=Task.GENERIC, thing_classes=("mug",), stuff_classes=("sky",), score_threshold=0.0
        ),
        "open vocabulary": Query(task=Task.OPEN_VOCABULARY, thing_classes=("boat",)),
        "referring": Query(text="the red cube left of the mug"),
        "reasoning": Query(text="What can be used to warm clothes?"),
        "explained": Query(text="What can be used to warm clothes?", explain=True),
        "caption": Query(task=Task.GROUNDED_CONVERSATION),
        "point": Query(prompts=(point,)),
        "box": Query(prompts=(box,)),
        "scribble": Query(prompts=(scribble,)),
        "mask": Query(prompts=(VisualPrompt.from_mask(mask),)),
        "point and not": Query(
            task=Task.INTERACTIVE, prompts=(box, VisualPrompt.point(0, 0, positive=False))
        ),
        "regions": Query(prompts=(point, box, scribble), score_threshold=0.0),
        "chat": Query(task=Task.CHAT, text="What is unusual about this image?"),
    }


def assert_same(first: SegmentationResult, second: SegmentationResult, tolerance: float = 0.0) -> None:
    assert first.status is second.status
    assert first.segments.labels == second.segments.labels
    assert (first.text, first.phrases) == (second.text, second.phrases)
    np.testing.assert_allclose(first.segments.scores, second.segments.scores, atol=tolerance, rtol=0)
    assert first.masks.shape == second.masks.shape
    if tolerance == 0.0:
        assert first.segments.masks == second.segments.masks
    for mask, other in zip(first.masks, second.masks, strict=True):
        assert (mask != other).mean() <= 1e-3  # a logit of ±1e-6 may fall on either side
