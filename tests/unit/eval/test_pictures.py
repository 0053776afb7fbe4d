"""Pictures of results: which are kept, in what order, and what they show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.eval.answers import rectangle, result, right_answer
from xsam.eval.pictures import TRUTH_COLOR, PictureSample, draw_result
from xsam.eval.questions import (
    CaptionTruth,
    InstanceTruth,
    PanopticTruth,
    Question,
    RegionTruth,
    SemanticTruth,
    interactive_question,
)
from xsam.eval.scoreboard import Scoreboard
from xsam.types.masks import BoolMask
from xsam.types.requests import Query, Task, VisualPrompt

HW = (240, 320)
RGB = np.full((*HW, 3), 120, np.uint8)
TRUTH = rectangle(40, 40, 160, 160, HW)


def _question(text: str = "the mug") -> Question:
    return Question(group="referring", kind="category", query=Query(text=text), truth=RegionTruth(mask=TRUTH))


def _outlined(picture: NDArray[np.uint8], mask: BoolMask) -> bool:
    """Return True if most of the lower edge of a box-shaped mask has the ground-truth color."""
    rows, columns = np.nonzero(mask)
    edge = picture[rows.max(), columns.min() + 5 : columns.max() - 5]
    return bool((edge == TRUTH_COLOR).all(axis=1).mean() > 0.5)


def _offer(sample: PictureSample, ious: list[float]) -> None:
    question = _question()
    for number, iou in enumerate(ious):
        sample.offer(RGB, question, result(question.query, HW), iou, name=f"scene {number}")


def test_the_worst_comes_first(tmp_path: Path) -> None:
    sample = PictureSample(20)
    _offer(sample, [0.5, 1.0, 0.004, 0.75])
    paths = sample.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [
        "00_iou0.00_scene_2_referring_the_mug.png",
        "01_iou0.50_scene_0_referring_the_mug.png",
        "02_iou0.75_scene_3_referring_the_mug.png",
        "03_iou1.00_scene_1_referring_the_mug.png",
    ]
    assert sorted(paths) == paths
    assert all(cv2.imread(str(path)).shape == (*HW, 3) for path in paths)


@pytest.mark.slow
def test_every_answer_has_the_same_chance(tmp_path: Path) -> None:
    kept: Counter[str] = Counter()
    for seed in range(60):
        sample = PictureSample(2, seed=seed)
        _offer(sample, [0.1, 0.2, 0.3, 0.4])
        paths = sample.write(tmp_path / str(seed))
        assert len(paths) == 2
        kept.update(path.name.split("_")[1] for path in paths)
    # 30 of 60 expected for each; 15 is four standard deviations.
    assert sorted(kept) == ["iou0.10", "iou0.20", "iou0.30", "iou0.40"]
    assert all(15 < count < 45 for count in kept.values())


def test_the_same_seed_keeps_the_same(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "b"):
        sample = PictureSample(3, seed=7)
        _offer(sample, [k / 10 for k in range(10)])
        names.append([path.name for path in sample.write(tmp_path / folder)])
    assert names[0] == names[1]
    assert len(names[0]) == 3


def test_names_are_safe(tmp_path: Path) -> None:
    sample = PictureSample(1)
    question = _question("../mug left of: the “book” " + "x" * 300)
    sample.offer(RGB, question, result(question.query, HW), 0.25, name="a/b")
    (path,) = sample.write(tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith("0_iou0.25_a_b_referring_mug_left_of_the_book_x")
    assert len(path.name) < 100


def test_count_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        PictureSample(0)


def test_truth_is_outlined_and_the_answer_filled() -> None:
    question = _question()
    original = RGB.copy()
    right = rectangle(200, 120, 280, 220, HW)
    picture = draw_result(RGB, question, result(question.query, HW, [(0, right, 0.9)]))
    assert (original == RGB).all()
    assert _outlined(picture, TRUTH)
    assert not _outlined(picture, right)
    assert (picture[50:110, 50:150] == 120).all()  # inside of it
    assert (picture[210, 210] != 120).any()  # the answer
    nothing = draw_result(RGB, question, result(question.query, HW))
    assert (nothing[210, 210] == 120).all()


def test_all_kinds_of_truth_are_drawn() -> None:
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug", "book"))
    right = rectangle(200, 120, 280, 220, HW)
    for question in (
        Question(
            group="category",
            query=query,
            truth=InstanceTruth(classes=("mug", "book"), masks=((TRUTH,), (right,))),
        ),
        Question(
            group="gcg",
            query=Query(task=Task.GROUNDED_CONVERSATION),
            truth=CaptionTruth(text="a mug", phrases=("a mug", "a book"), masks=(TRUTH, right)),
        ),
    ):
        picture = draw_result(RGB, question, right_answer(question, HW))
        assert _outlined(picture, TRUTH)
        assert _outlined(picture, right)


def test_guesses_are_left_out_and_prompts_drawn() -> None:
    truth = InstanceTruth(classes=("mug",), masks=((TRUTH,),))
    query = Query(task=Task.OPEN_VOCABULARY, thing_classes=("mug",))
    question = Question(group="category", query=query, truth=truth)
    guess = rectangle(200, 120, 280, 220, HW)
    picture = draw_result(RGB, question, result(query, HW, [(0, TRUTH, 0.9), (0, guess, 0.1)]))
    assert (picture[210, 210] == 120).all()
    pointed = interactive_question(VisualPrompt.point(240, 180), TRUTH)
    assert (draw_result(RGB, pointed, result(pointed.query, HW))[180, 240] != 120).any()


def test_whole_images_are_drawn_too(tmp_path: Path) -> None:
    """Panoptic and semantic results have an IoU of their own, so that they are offered and outlined."""
    query = Query(task=Task.GENERIC, thing_classes=("mug",), stuff_classes=("table",))
    ids = np.where(TRUTH, 7, 0)
    questions = (
        Question(group="panoptic", query=query, truth=PanopticTruth(segment_ids=ids, classes={7: 0})),
        Question(group="semantic", query=query, truth=SemanticTruth(class_map=np.where(TRUTH, 0, -1))),
    )
    board, sample = Scoreboard(), PictureSample(20)
    for question in questions:
        answer = result(query, HW, [(0, TRUTH, 0.9)])
        iou = board.add(question, answer)
        assert iou == 1.0
        sample.offer(RGB, question, answer, iou, name="scene")
        assert _outlined(draw_result(RGB, question, answer), TRUTH)
    assert [path.name for path in sample.write(tmp_path)] == [
        "00_iou1.00_scene_panoptic.png",
        "01_iou1.00_scene_semantic.png",
    ]
