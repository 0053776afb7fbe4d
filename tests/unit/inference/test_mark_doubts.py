"""A mask that does not obey the marks it was asked for with is never told as found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.inference.test_doubts import box, result_of
from xsam import Frame, MaskRle, Query, Status, Task, VisualPrompt, XSam
from xsam.inference.doubts import doubted, with_mark_doubts

OBJECT = box(40, top=20, size=20)  # x and y from (40, 20) to (60, 40)
INSIDE = VisualPrompt.point(50, 30)


def asked(*marks: VisualPrompt, found: MaskRle = OBJECT, task: Task = Task.INTERACTIVE):
    result = result_of(Query(task=task, prompts=marks), ("region", 0.9, found))
    return with_mark_doubts(result, task)


@pytest.mark.parametrize(
    ("marks", "doubt"),
    [
        ([INSIDE], ""),
        ([VisualPrompt.point(40, 20)], ""),
        ([VisualPrompt.point(60, 30)], "the point is not on it"),  # the first column beside it
        ([INSIDE, VisualPrompt.point(150, 80)], "the point is not on it"),
        ([INSIDE, VisualPrompt.point(55, 35, positive=False)], "the mask contains the negative point"),
        ([INSIDE, VisualPrompt.point(150, 80, positive=False)], ""),
        ([VisualPrompt.box(38, 18, 62, 42)], ""),
        ([VisualPrompt.box(100, 50, 140, 90)], "the mask misses the box or goes far beyond it"),
        ([VisualPrompt.box(40, 20, 46, 26)], "the mask misses the box or goes far beyond it"),
        ([VisualPrompt.box(40, 20, 46, 26), INSIDE], ""),  # with a second mark, a box is a part
        ([VisualPrompt.scribble([(42, 22), (50, 30), (58, 38)])], ""),
        ([VisualPrompt.scribble([(52, 22), (70, 30), (90, 38)])], "the scribble is not on it"),
        (
            [VisualPrompt.scribble([(42, 22), (50, 30)], positive=False), INSIDE],
            "the mask contains the negative scribble",
        ),
        ([VisualPrompt.point(0, 0), VisualPrompt.point(199, 99)], "the mask does not obey 2 of 2 marks"),
        ([VisualPrompt.from_mask(box(150).decode())], ""),  # the object may have moved since
    ],
)  # fmt: skip
def test_one_object(marks: list[VisualPrompt], doubt: str) -> None:
    result = asked(*marks)
    assert result.segments.doubts == (doubt,)
    assert result.status is (Status.UNSURE if doubt else Status.FOUND)


def test_similar_objects_belong_to_their_mark() -> None:
    """Of two marked regions, the one that no mask covers is in doubt."""
    marks = (INSIDE, VisualPrompt.point(150, 80))
    query = Query(task=Task.VISUAL_GROUNDED, prompts=marks)
    found = ("region", 0.9, OBJECT), ("region", 0.8, box(80)), ("region", 0.7, box(100))
    result = result_of(query, *found)
    labeled = replace(result, segments=replace(result.segments, label_indices=np.array([0, 0, 1], np.int32)))
    checked = with_mark_doubts(labeled, Task.VISUAL_GROUNDED)
    assert checked.segments.doubts == ("", "", "nothing was found at the point itself")
    assert checked.status is Status.UNSURE


def test_the_doubt_of_a_mark_comes_before_others() -> None:
    query = Query(task=Task.INTERACTIVE, prompts=(INSIDE, VisualPrompt.point(55, 35, positive=False)))
    result = result_of(query, ("region", 0.9, OBJECT), ("region", 0.8, box(46, top=26, size=8)))
    weak = doubted(replace(result, segments=replace(result.segments, doubts=("weak", "weak"))))
    checked = with_mark_doubts(weak, Task.INTERACTIVE)
    assert checked.segments.doubts == ("the mask contains the negative point", "weak")


def test_nothing_found_stays_so() -> None:
    nothing = result_of(Query(prompts=(INSIDE,)))
    assert with_mark_doubts(nothing, Task.INTERACTIVE) is nothing


def test_the_engine_checks_marks() -> None:
    """On a picture with one object, a click far from it must not be answered with that object as found."""
    tiny = XSam.load("tiny", threads=1)
    rgb = np.full((240, 320, 3), 200, np.uint8)
    rgb[60:120, 40:100] = (200, 30, 30)
    frame = Frame(rgb=rgb)
    for x, y in ((300, 220), (70, 90)):
        result = tiny.segment(frame, Query(prompts=(VisualPrompt.point(x, y),)))
        covers = [bool(mask.decode()[y, x]) for mask in result.segments.masks]
        assert (result.status is Status.FOUND) == (covers == [True]), (x, y, result)
