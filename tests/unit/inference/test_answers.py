"""Results of one model, from predictions made by hand; without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import xsam
from tests.unit.inference.logits import class_logits
from xsam import Frame, Query, Status
from xsam.config import XSamConfig
from xsam.config.calibration import Calibration
from xsam.inference.answers import Composer
from xsam.inference.prepare import Prompt
from xsam.inference.results import Prediction
from xsam.inference.stages import StageClock
from xsam.types.deadline import Deadline
from xsam.weights.tokenizer_files import load_tokenizer

TINY = Path(xsam.__file__).parent / "assets" / "tiny"
FRAME = Frame(rgb=np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("thresholds", [{}, {"categories": 0.6}], ids=["of instances", "its own"])
def test_an_undecided_object_is_in_doubt_whichever_threshold_the_list_has(thresholds) -> None:
    """A checkpoint without a threshold for lists took the one for instances, and doubted none of them."""
    read = XSamConfig.read(TINY / "config.json")
    calibration = Calibration(known_categories=(), sure_from=0.1, weights={}, thresholds=thresholds)
    composer = Composer(
        config=dataclasses.replace(read, instance_threshold=0.6, calibration=calibration),
        tokenizer=load_tokenizer(TINY / "tokenizer"),
        model_id="m",
    )
    query = Query(thing_classes=("mug", "bowl"))
    nothing = cast(Any, None)  # of what the network reads
    prompt = Prompt(
        index=0,
        query=query,
        distinct=query,
        task=query.resolved_task(),
        conversation=nothing,
        tokens=nothing,
        text_start=0,
        regions=None,
        prompt_region=None,
    )
    masks = torch.full((2, 16, 16), -8.0)
    masks[0, 2:8, 2:8] = masks[1, 9:14, 9:14] = 8.0
    prediction = Prediction(class_logits=class_logits((0.5, 0.45), (0.02, 0.9)), mask_logits=masks)
    result = composer.answer(prediction, prompt, FRAME, StageClock(Deadline(None)))
    assert result.segments.labels == ("bowl", "mug")
    assert [bool(doubt) for doubt in result.segments.doubts] == [False, True]
    assert result.status is Status.UNSURE
