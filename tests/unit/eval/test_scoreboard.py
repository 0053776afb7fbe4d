"""From results to scores: correct, wrong, missing and failed ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.eval.answers import rectangle, refused, result, right_answer
from xsam.eval.questions import (
    CaptionTruth,
    InstanceTruth,
    PanopticTruth,
    Question,
    RegionTruth,
    SemanticTruth,
    interactive_question,
)
from xsam.eval.scoreboard import Scoreboard, confident
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Status, Task, VisualPrompt

HW = (20, 40)
EMPTY = np.zeros(HW, np.bool_)
LEFT, RIGHT = rectangle(0, 0, 10, 20, HW), rectangle(30, 0, 40, 20, HW)


def _phrase(mask: BoolMask, kind: str = "", task: Task = Task.REFERRING) -> Question:
    query = Query(task=task, text="the mug")
    return Question(group=task.value, kind=kind, query=query, truth=RegionTruth(mask=mask))


def _category(*names: str, masks: tuple[tuple[BoolMask, ...], ...], group: str = "category") -> Question:
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=names)
    return Question(group=group, query=query, truth=InstanceTruth(classes=names, masks=masks))


def test_referring_expressions() -> None:
    board = Scoreboard()
    half = rectangle(0, 0, 5, 20, HW)
    assert board.add(_phrase(LEFT, "size"), result(Query(text="x"), HW, [(0, half, 0.9)])) == 0.5
    # Two masks that together form one region.
    both = [(0, half, 0.9), (0, rectangle(5, 0, 10, 20, HW), 0.8)]
    assert board.add(_phrase(LEFT, "size"), result(Query(text="x"), HW, both)) == 1.0
    assert board.add(_phrase(LEFT, "color"), result(Query(text="x"), HW)) == 0.0
    scores = board.scores()
    assert scores["referring_miou"] == 0.5
    assert scores["referring_ciou"] == 0.5  # (100 + 200 + 0) / (3 · 200)
    assert scores["referring_p50"] == pytest.approx(2 / 3, abs=1e-4)
    assert (scores["iou_size"], scores["iou_color"]) == (0.75, 0.0)
    assert board.mean_iou(["size", "color", "relation"]) == 0.5
    assert board.mean_iou(["relation"]) is None
    assert scores["counts"] == {"referring": 3}


def test_rejection() -> None:
    board = Scoreboard()
    found, nothing = [(0, LEFT, 0.9)], []
    for truth, answer, task in (
        (EMPTY, nothing, Task.REFERRING),
        (EMPTY, found, Task.REFERRING),
        (EMPTY, nothing, Task.REASONING),
        (LEFT, found, Task.REFERRING),
        (LEFT, nothing, Task.REASONING),
    ):
        board.add(_phrase(truth, "absent_color", task), result(Query(text="x"), HW, answer))
    # Prompts that point at a region do not ask whether something is there.
    board.add(interactive_question(VisualPrompt.point(1, 1), LEFT), result(Query(text="x"), HW))
    scores = board.scores()
    assert scores["absent_rejected"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["present_rejected"] == 0.5
    assert scores["referring_miou"] == 1.0  # absent phrases are not in it
    assert scores["referring_giou"] == pytest.approx((1 + 0 + 1) / 3, abs=1e-4)
    assert scores["reasoning_giou"] == 0.5
    assert scores["counts"] == {"absent": 3, "interactive": 1, "reasoning": 1, "referring": 1}


def test_interactive_scores_are_by_kind_of_prompt() -> None:
    board = Scoreboard()
    box = interactive_question(VisualPrompt.box(0, 0, 10, 20), LEFT)
    board.add(interactive_question(VisualPrompt.point(1, 1), LEFT), result(Query(text="x"), HW))
    board.add(box, right_answer(box, HW))
    scores = board.scores()
    assert (scores["interactive_point_iou"], scores["interactive_box_iou"]) == (0.0, 1.0)
    assert "absent_rejected" not in scores
    assert "interactive_iou" not in scores
    board.add(replace(box, kind=""), right_answer(box, HW))
    assert board.scores()["interactive_iou"] == 1.0


def test_categories() -> None:
    board = Scoreboard()
    question = _category("mug", "book", "lamp", masks=((LEFT, RIGHT), (RIGHT,), ()))
    # The mug on the left is found, and the book is called a mug.
    found = [(0, LEFT, 0.9), (0, rectangle(14, 0, 20, 20, HW), 0.8), (2, EMPTY | RIGHT, 0.2)]
    iou = board.add(question, result(question.query, HW, found))
    scores = board.scores()
    assert scores["category_ap50"] == pytest.approx(51 / 101 / 2, abs=1e-4)
    # Only the two mugs are confident: 200 px correct of 200 + 120 + 200; the book is not found at all.
    assert iou == pytest.approx((200 / 520 + 0) / 2)


def test_crowds_excuse_detections() -> None:
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug",))
    truth = InstanceTruth(classes=("mug",), masks=((LEFT,),), crowd=((RIGHT, EMPTY),))
    board = Scoreboard()
    board.add(
        Question(group="category", query=query, truth=truth),
        result(query, HW, [(0, RIGHT, 0.9), (0, LEFT, 0.8)]),
    )
    assert board.scores()["category_ap"] == 1.0


def test_two_regions_of_one_class_are_told_apart() -> None:
    """Both prompts have class "region", but a result for the first is not one for the second."""
    prompts = (VisualPrompt.point(1, 1), VisualPrompt.point(35, 1))
    query = Query(task=Task.VISUAL_GROUNDED, prompts=prompts)
    truth = InstanceTruth(classes=("region", "region"), masks=((LEFT,), (RIGHT,)))
    question = Question(group="vgd", query=query, truth=truth)
    right, swapped = Scoreboard(), Scoreboard()
    right.add(question, result(query, HW, [(0, LEFT, 0.9), (1, RIGHT, 0.8)]))
    swapped.add(question, result(query, HW, [(1, LEFT, 0.9), (0, RIGHT, 0.8)]))
    assert right.scores()["vgd_ap50"] == 1.0
    assert swapped.scores()["vgd_ap50"] == 0.0


def _layout() -> tuple[Question, Question]:
    ids = np.where(LEFT, 1, 2)
    query = Query(task=Task.GENERIC, thing_classes=("mug",), stuff_classes=("table",))
    panoptic = Question(
        group="panoptic", query=query, truth=PanopticTruth(segment_ids=ids, classes={1: 0, 2: 1})
    )
    flat = Query(task=Task.GENERIC, stuff_classes=("mug", "table"))
    semantic = Question(group="semantic", query=flat, truth=SemanticTruth(class_map=ids - 1))
    return panoptic, semantic


def test_layouts() -> None:
    panoptic, semantic = _layout()
    board = Scoreboard()
    # Half of the mug is found; the rest is assigned to the table.
    small = rectangle(0, 0, 5, 20, HW)
    answer = [(0, small, 0.7), (1, ~small, 0.9)]
    assert board.add(panoptic, result(panoptic.query, HW, answer)) == pytest.approx((0.5 + 600 / 700) / 2)
    assert board.add(semantic, result(semantic.query, HW, answer)) == pytest.approx((0.5 + 600 / 700) / 2)
    scores = board.scores()
    table = 600 / 700
    assert scores["panoptic_pq"] == pytest.approx(table / 2, abs=1e-4)  # an IoU of 0.5 is no match
    assert (scores["panoptic_pq_things"], scores["panoptic_pq_stuff"]) == (0.0, round(table, 4))
    assert scores["semantic_miou"] == pytest.approx((0.5 + table) / 2, abs=1e-4)
    board.add(panoptic, result(panoptic.query, HW))
    board.add(semantic, result(semantic.query, HW))
    assert board.scores()["semantic_miou"] == pytest.approx((100 / 400 + 600 / 1300) / 2, abs=1e-4)
    assert board.scores()["panoptic_rq"] == pytest.approx((0 + 1 / 1.5) / 2, abs=1e-4)


def test_layouts_of_other_classes_do_not_mix() -> None:
    board = Scoreboard()
    for question in _layout():
        board.add(question, right_answer(question, HW))
        other = replace(question.query, stuff_classes=("mug", "floor"))
        with pytest.raises(ValueError, match="must ask for the same classes"):
            board.add(replace(question, query=other), right_answer(question, HW))


def test_captions() -> None:
    truth = CaptionTruth(text="a mug and a book", phrases=("a mug", "a book"), masks=(LEFT, RIGHT))
    query = Query(task=Task.GROUNDED_CONVERSATION)
    question = Question(group="gcg", query=query, truth=truth)
    board = Scoreboard()
    # The second phrase of the result has two masks, which together are the book; the first has none.
    found = [(1, rectangle(30, 0, 35, 20, HW), 0.9), (1, rectangle(35, 0, 40, 20, HW), 0.8)]
    answer = result(query, HW, found, text="a lamp and a book", phrases=("a lamp", "a book"))
    assert board.add(question, answer) == 1.0
    scores = board.scores()
    assert (scores["gcg_miou"], scores["gcg_recall"], scores["gcg_caption_f1"]) == (1.0, 0.5, 0.5)
    assert scores["gcg_ap50"] == pytest.approx(51 / 101, abs=1e-4)
    assert scores["gcg_cider"] is None
    # A caption without masks is a result, too.
    silent = result(query, HW, text="a mug and a book")
    assert board.add(question, silent) == 0.0
    assert board.scores()["gcg_caption_f1"] == 0.75


def test_right_answers_have_full_scores() -> None:
    board = Scoreboard()
    questions = [
        _phrase(LEFT, "size"),
        _phrase(EMPTY, "absent_color"),
        _phrase(LEFT | RIGHT, task=Task.REASONING),
        interactive_question(VisualPrompt.point(1, 1), LEFT),
        _category("mug", "book", "lamp", masks=((LEFT,), (RIGHT,), ())),
        *_layout(),
    ]
    for question in questions:
        assert board.add(question, right_answer(question, HW)) in (1.0, None)
    scores = board.scores()
    kept = {name: value for name, value in scores.items() if isinstance(value, float)}
    assert kept.pop("present_rejected") == 0.0
    assert len(kept) > 15
    assert set(kept.values()) == {1.0}


def test_no_answer_is_no_score() -> None:
    """Refusals and failures are counted separately, not as "not found"."""
    board = Scoreboard()
    questions = [_phrase(LEFT), _phrase(EMPTY), _category("mug", masks=((LEFT,),)), *_layout()]
    for question in questions:
        assert board.add(question, refused(question.query, HW)) is None
    failed = replace(
        refused(Query(text="x"), HW), status=Status.FAILED, code="MODEL_ERROR", message="it broke"
    )
    board.add(_phrase(LEFT), failed)
    scores = board.scores()
    assert (scores["failed"], scores["questions"]) == (6, 6)
    assert scores["failures"] == {
        "referring: INVALID_QUERY: too long": 2,
        "category: INVALID_QUERY: too long": 1,
        "panoptic: INVALID_QUERY: too long": 1,
        "semantic: INVALID_QUERY: too long": 1,
        "referring: MODEL_ERROR: it broke": 1,
    }
    assert set(scores) == {"counts", "questions", "failed", "failures"}
    board.add(_phrase(LEFT), right_answer(_phrase(LEFT), HW))
    assert board.scores()["referring_miou"] == 1.0
    assert board.scores()["present_rejected"] == 0.0
    assert board.scores()["absent_rejected"] is None


def test_many_reasons_are_cut_short() -> None:
    board = Scoreboard()
    for number in range(50):
        board.add(_phrase(LEFT), replace(refused(Query(text="x"), HW), message=f"number {number}"))
    scores = board.scores()
    assert len(scores["failures"]) == 21
    assert scores["failures"]["other reasons"] == 30
    assert scores["failed"] == 50


def test_scores_are_strict_json() -> None:
    board = Scoreboard()
    json.dumps(board.scores(), allow_nan=False)
    board.add(_category("mug", masks=((),)), result(Query(text="x"), HW))
    scores = board.scores()
    assert scores["category_ap"] is None
    json.dumps(scores, allow_nan=False)


def test_confident_segments() -> None:
    answer = result(Query(text="x"), HW, [(0, LEFT, 0.8), (1, RIGHT, 0.4), (1, LEFT, 0.39)])
    assert len(confident(answer.segments)) == 2
    assert len(confident(result(Query(text="x"), HW).segments)) == 0
