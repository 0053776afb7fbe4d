"""Damaged images in a data set."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.unit.train.small import DamagedImages, rectangle, referring, small_config
from xsam.data.samples import PromptedImage
from xsam.errors import DatasetError, RecordError
from xsam.train.batches import PlannedBatches
from xsam.train.collate import Collator
from xsam.train.mixture import BatchPlan
from xsam.train.stages import Stage, StageConfig
from xsam.train.tokenizer import build_tiny_tokenizer


def _picture(brightness: int) -> PromptedImage:
    return PromptedImage(
        rgb=np.full((48, 64, 3), brightness, np.uint8),
        masks=rectangle((48, 64), (8, 24), (8, 24))[None],
        prompts=(referring("the red mug", [0]),),
    )


def _batches(broken: set[int], max_unreadable: int) -> PlannedBatches:
    source = DamagedImages([_picture(40 * i) for i in range(4)], broken)
    config = StageConfig(stage=Stage.MIXED, steps=1, batch_size=4, seed=3, max_unreadable=max_unreadable)
    tokenizer = build_tiny_tokenizer()
    collate = Collator(small_config(len(tokenizer)), tokenizer)
    return PlannedBatches([source], BatchPlan([4], batch_size=4, balance=0.1, seed=3), collate, config)


def test_a_damaged_picture_is_replaced_and_named(caplog: pytest.LogCaptureFixture) -> None:
    batches = _batches({2}, max_unreadable=1)
    with caplog.at_level(logging.WARNING):
        batch = batches.make(0)
    assert batch.seg_pixels.shape[0] == 4
    brightness = sorted(round(float(picture[0, 10, 10]), 3) for picture in batch.seg_pixels)
    assert len(set(brightness)) == 3  # image 3 replaces image 2
    assert "picture 2" in caplog.text
    assert batches.unreadable == {("hand-made", 2)}


def test_a_damaged_picture_counts_once_however_often_it_comes_up() -> None:
    batches = _batches({2}, max_unreadable=1)
    for number in range(5):
        batches.make(number)
    assert len(batches.unreadable) == 1


def test_a_data_set_that_is_not_there_ends_the_run() -> None:
    with pytest.raises(RecordError, match="cannot read"):
        _batches({0, 1, 2, 3}, max_unreadable=2).make(0)


def test_a_data_set_without_a_readable_picture_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """It has fewer images than may be unreadable, so the limit alone would never be reached."""
    batches = _batches({0, 1, 2, 3}, max_unreadable=20)
    for _ in range(2):
        with pytest.raises(DatasetError, match="none of the 4 images of hand-made can be read"):
            batches.make(0)
    assert caplog.text.count("skipped an image") == 4
