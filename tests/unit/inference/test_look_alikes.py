"""Answers to a marked object, completed by the census; without a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.unit.inference.test_doubts import box, census_with, result_of
from xsam import Query, Status, Task, VisualPrompt
from xsam.inference.census import Census
from xsam.inference.look_alikes import with_look_alikes
from xsam.inference.mask_support import MaskSupport

MUG, OTHER, THIRD, VASE = box(10), box(60), box(110), box(160)
ONE_MARK = Query(task=Task.VISUAL_GROUNDED, prompts=(VisualPrompt.box(8, 8, 32, 32),))
SUPPORT = MaskSupport(firmness=(0.9,), runners_up=(0.0,))


def census(*found) -> Census:
    count = len(found)
    support = MaskSupport(firmness=(0.5,) * count, runners_up=(0.1,) * count)
    return replace(census_with(*found), support=support)


MUGS = census(("mug", 0.9, MUG), ("mug", 0.8, OTHER), ("vase", 0.95, VASE), ("mug", 0.3, VASE))


def test_one_of_several_mugs_is_answered_with_all_of_them() -> None:
    """Shown one of three mugs, the tiny model answered with that one, without a doubt."""
    result, support = with_look_alikes(
        result_of(ONE_MARK, ("region 1", 0.6, MUG)), SUPPORT, Task.VISUAL_GROUNDED, MUGS
    )
    assert result.segments.masks == (OTHER, MUG), "best score first; the vase looks more like a vase"
    assert result.segments.labels == ("region 1", "region 1")
    assert result.segments.label_indices.tolist() == [0, 0]
    assert support.firmness == (0.5, 0.9)
    assert result.hint == "completed by a look for all mugs"


def test_each_mark_gets_its_own() -> None:
    marks = (VisualPrompt.box(158, 8, 182, 32), VisualPrompt.box(8, 8, 32, 32))
    query = Query(task=Task.VISUAL_GROUNDED, prompts=marks)
    answer = result_of(query, ("region 1", 0.9, VASE), ("region 2", 0.6, MUG))
    segments = replace(answer.segments, label_indices=np.array([0, 1], np.int32))
    both = MaskSupport(firmness=(0.9, 0.9), runners_up=(0.0, 0.0))
    result, _ = with_look_alikes(replace(answer, segments=segments), both, Task.VISUAL_GROUNDED, MUGS)
    assert result.segments.labels == ("region 1", "region 2", "region 2")
    assert result.segments.label_indices.tolist() == [0, 1, 1]


def test_a_complete_answer_stays_as_it_is() -> None:
    complete = result_of(ONE_MARK, ("region 1", 0.9, MUG), ("region 1", 0.8, OTHER))
    wanted = replace(complete, query=replace(ONE_MARK, score_threshold=0.1))
    nothing = result_of(ONE_MARK)
    for answer in (complete, wanted, nothing):
        assert with_look_alikes(answer, SUPPORT, Task.VISUAL_GROUNDED, MUGS)[0] is answer
    assert nothing.status is Status.NOT_FOUND


def test_no_more_than_the_query_wants() -> None:
    query = replace(ONE_MARK, max_instances=1)
    answer = result_of(query, ("region 1", 0.85, MUG))
    result, support = with_look_alikes(answer, SUPPORT, Task.VISUAL_GROUNDED, MUGS)
    assert (result.segments.masks, support.firmness) == ((MUG,), (0.9,))
