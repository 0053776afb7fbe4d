"""Prompts drawn for objects, and questions made from them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.eval.answers import rectangle
from xsam.data.region_prompts import draw_region_prompt
from xsam.eval.questions import (
    INTERACTIVE_KINDS,
    CaptionTruth,
    InstanceTruth,
    PanopticTruth,
    Question,
    RegionTruth,
    SemanticTruth,
    interactive_question,
    layout_questions,
    visual_grounded_question,
)
from xsam.types.requests import PromptKind, Query, Task, VisualPrompt

HW = (30, 60)


def _ring() -> NDArray[np.bool_]:
    return rectangle(5, 8, 45, 20, HW) & ~rectangle(10, 10, 40, 18, HW)


def test_prompts_lie_on_the_object() -> None:
    mask, rng = _ring(), np.random.default_rng(0)
    for _ in range(50):
        for kind in (PromptKind.POINT, PromptKind.SCRIBBLE):
            points = draw_region_prompt(kind, mask, rng).points_xy
            assert points is not None
            columns, rows = points.astype(int).T
            assert mask[rows, columns].all()
            assert (np.diff(columns) >= 0).all()  # the object is wide
    box = draw_region_prompt(PromptKind.BOX, mask, rng)
    assert box.box_xyxy == (5.0, 8.0, 45.0, 20.0)
    whole = draw_region_prompt(PromptKind.MASK, mask, rng)
    assert whole.mask is not None
    assert (whole.mask == mask).all()


def test_a_scribble_follows_the_longer_side() -> None:
    prompt = draw_region_prompt(PromptKind.SCRIBBLE, _ring().T, np.random.default_rng(5))
    assert prompt.points_xy is not None
    assert len(prompt.points_xy) == 3
    assert (np.diff(prompt.points_xy[:, 1]) >= 0).all()


def test_points_are_not_all_the_same() -> None:
    rng = np.random.default_rng(0)
    drawn = {tuple(draw_region_prompt(PromptKind.POINT, _ring(), rng).points_xy[0]) for _ in range(40)}  # type: ignore[index]
    assert len(drawn) > 20


def test_an_object_of_one_pixel_can_be_pointed_at() -> None:
    mask = rectangle(59, 29, 60, 30, HW)
    for kind in INTERACTIVE_KINDS:
        prompt = draw_region_prompt(kind, mask, np.random.default_rng(0))
        Query(task=Task.INTERACTIVE, prompts=(prompt,)).validate(HW)


def test_absence() -> None:
    query = Query(text="the mug")
    empty, full = np.zeros(HW, np.bool_), np.ones(HW, np.bool_)
    assert Question(group="referring", query=query, truth=RegionTruth(mask=empty)).absent
    assert not Question(group="referring", query=query, truth=RegionTruth(mask=full)).absent
    caption = CaptionTruth(text="nothing", phrases=(), masks=())
    assert not Question(group="gcg", query=query, truth=caption).absent


def test_visual_grounding_means_all_objects_of_a_kind() -> None:
    mugs = [rectangle(0, 0, 5, 5, HW), rectangle(20, 0, 25, 5, HW)]
    books = [rectangle(40, 10, 50, 20, HW)]
    crowd = [rectangle(0, 25, 60, 30, HW)]
    seen = set()
    for seed in range(40):
        question = visual_grounded_question(
            {"mug": mugs, "book": books}, {"mug": crowd}, np.random.default_rng(seed)
        )
        truth = question.truth
        assert isinstance(truth, InstanceTruth)
        assert len(truth.classes) == len(question.query.prompts) == len(set(truth.classes))
        question.query.validate(HW)
        for name, masks, ignored, prompt in zip(
            truth.classes, truth.masks, truth.crowd, question.query.prompts, strict=True
        ):
            assert masks == tuple(mugs if name == "mug" else books)
            assert ignored == (tuple(crowd) if name == "mug" else ())
            assert prompt.kind.value == question.kind
            touched = [_touched(prompt, mask) for mask in (mugs + books)]
            assert touched == [name == "mug" and touched[0], name == "mug" and touched[1], name == "book"]
            assert sum(touched) == 1  # one example object
        seen.add((question.kind, truth.classes))
    assert {kind for kind, _ in seen} == {"point", "scribble", "box", "mask"}
    assert {classes for _, classes in seen} == {("mug",), ("book",), ("mug", "book"), ("book", "mug")}


def _touched(prompt: VisualPrompt, mask: NDArray[np.bool_]) -> bool:
    if prompt.points_xy is not None:
        columns, rows = prompt.points_xy.astype(int).T
        return bool(mask[rows, columns].any())
    if prompt.box_xyxy is not None:
        x_min, y_min, x_max, y_max = map(int, prompt.box_xyxy)
        return bool(mask[y_min:y_max, x_min:x_max].any())
    assert prompt.mask is not None
    return bool((mask & prompt.mask).any())


def test_the_kind_of_an_interactive_question_is_its_prompt() -> None:
    question = interactive_question(VisualPrompt.point(3, 4), rectangle(0, 0, 9, 9, HW))
    assert (question.group, question.kind) == ("interactive", "point")
    assert question.query.resolved_task() is Task.INTERACTIVE


def test_one_map_gives_a_panoptic_and_a_semantic_question() -> None:
    ids = np.array([[0, 7, 7], [9, 4, 0]])
    panoptic, semantic = layout_questions(
        ids, {7: 2, 9: 0, 4: 2}, things=["mug", "book"], stuff=["table"], crowd=frozenset({4})
    )
    assert isinstance(panoptic.truth, PanopticTruth)
    assert isinstance(semantic.truth, SemanticTruth)
    assert panoptic.truth.crowd == {4}
    assert semantic.truth.class_map.tolist() == [[-1, 2, 2], [0, 2, -1]]
    # The engine tells the two apart by the order of the names.
    assert (panoptic.query.thing_classes, panoptic.query.stuff_classes) == (("mug", "book"), ("table",))
    assert (semantic.query.thing_classes, semantic.query.stuff_classes) == ((), ("mug", "book", "table"))


@pytest.mark.parametrize("crowd", [(), ((),), ((), (), ())])
def test_truths_of_instances_fit_together(crowd: tuple[tuple[()], ...]) -> None:
    masks = ((), ())
    if len(crowd) == 0:
        InstanceTruth(classes=("mug", "book"), masks=masks, crowd=crowd)
        return
    with pytest.raises(ValueError, match="every label index"):
        InstanceTruth(classes=("mug", "book"), masks=masks, crowd=crowd)
