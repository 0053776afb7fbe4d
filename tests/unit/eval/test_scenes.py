"""Evaluation on simulated scenes: questions, ground truth and scores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray

from tests.unit.eval.answers import right_answer
from xsam.engine import XSam
from xsam.errors import OutOfMemoryError
from xsam.eval import asking, scenes
from xsam.eval.questions import (
    CaptionTruth,
    InstanceTruth,
    PanopticTruth,
    Question,
    RegionTruth,
    SemanticTruth,
)
from xsam.eval.scene_questions import scene_questions
from xsam.eval.scenes import SCORE_KEYS, evaluate, parse_seeds
from xsam.segmenter import FakeSegmenter
from xsam.sim import CATEGORIES, annotate, render, sample_scene
from xsam.types.masks import mask_iou
from xsam.types.requests import Frame, Query, SegmentationResult, Task

pytestmark = pytest.mark.slow  # the file takes several seconds

ROOT = Path(__file__).parents[3]
PUBLISHED = [  # questions of scene 2000001 since version 0.1
    "the brown spoon",
    "the carrot",
    "the plate",
    "the farthest object",
    "what can i eat soup with?",
    "the knife",
    "the blue object",
]
PUBLISHED_POINT, PUBLISHED_BOX = [406.0, 140.0], (392.0, 38.0, 437.0, 155.0)
SEEDS = range(2_000_000, 2_000_003)  # the first scene has an object that is not labeled


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def questions_by_seed() -> dict[int, list[Question]]:
    return {seed: list(scene_questions(seed, render(sample_scene(seed)), per_scene=4)) for seed in SEEDS}


def _true_results(
    model: object, rgb: NDArray[np.uint8], questions: Sequence[Question]
) -> list[SegmentationResult]:
    """Stands in for `ask`: every result is the truth."""
    return [right_answer(question, (rgb.shape[0], rgb.shape[1])) for question in questions]


# -- questions


def test_every_task_is_asked(questions_by_seed: dict[int, list[Question]]) -> None:
    for questions in questions_by_seed.values():
        counts = Counter(
            q.group if q.group == "near_miss" else "absent" if q.absent else q.group for q in questions
        )
        assert 2 <= counts.pop("near_miss") <= 5
        assert counts == {
            "referring": 4,
            "reasoning": 1,
            "absent": 2,
            "interactive": 4,
            "category": 1,
            "vgd": 1,
            "panoptic": 1,
            "semantic": 1,
            "gcg": 1,
            "presence": 4,
            "count": 1,
        }
        for question in questions:
            question.query.validate((480, 640))
        assert {q.kind for q in questions if q.group == "interactive"} == {"point", "box", "scribble", "mask"}


def test_published_questions_stay_the_same(questions_by_seed: dict[int, list[Question]]) -> None:
    """The scores in the model card refer to these questions; other ones would not be comparable."""
    texts = [
        q.query.text
        for q in questions_by_seed[2_000_001]
        if isinstance(q.truth, RegionTruth) and q.query.text and q.group != "near_miss"
    ]
    assert texts == PUBLISHED
    prompts = {q.kind: q.query.prompts[0] for q in questions_by_seed[2_000_001] if q.group == "interactive"}
    assert prompts["point"].points_xy is not None
    assert prompts["point"].points_xy.tolist() == [PUBLISHED_POINT]
    assert prompts["box"].box_xyxy == PUBLISHED_BOX


def test_questions_depend_on_the_seed_alone(questions_by_seed: dict[int, list[Question]]) -> None:
    again = list(scene_questions(2_000_002, render(sample_scene(2_000_002)), per_scene=4))
    assert len(again) == len(questions_by_seed[2_000_002])
    for first, second in zip(again, questions_by_seed[2_000_002], strict=True):
        assert (first.group, first.kind, first.query.text) == (second.group, second.kind, second.query.text)
        assert first.query.thing_classes == second.query.thing_classes
        for prompt, other in zip(first.query.prompts, second.query.prompts, strict=True):
            assert prompt.box_xyxy == other.box_xyxy
            assert np.array_equal(prompt.points_xy, other.points_xy)  # type: ignore[arg-type]


def test_the_truth_is_what_was_rendered(questions_by_seed: dict[int, list[Question]]) -> None:
    seed = SEEDS[0]
    view = render(sample_scene(seed))
    items = annotate(sample_scene(seed), view)
    hidden = np.isin(view.instance_ids, [item.instance_id for item in items if not item.labeled])
    assert hidden.any()
    labeled = [item for item in items if item.labeled]
    by_group = {question.group: question for question in questions_by_seed[seed]}

    category = by_group["category"].truth
    assert isinstance(category, InstanceTruth)
    names = by_group["category"].query.thing_classes
    assert category.classes == names
    absent = [name for name, masks in zip(names, category.masks, strict=True) if not masks]
    assert len(absent) == 4
    assert not set(absent) & {item.category for item in items}
    found = {
        name: sum(int(mask.sum()) for mask in masks)
        for name, masks in zip(names, category.masks, strict=True)
    }
    expected = dict.fromkeys(names, 0)
    for item in labeled:
        expected[item.category] += item.area_px
    assert found == expected
    assert all(np.array_equal(region, hidden) for (region,) in category.crowd)

    panoptic, semantic = by_group["panoptic"].truth, by_group["semantic"].truth
    assert isinstance(panoptic, PanopticTruth)
    assert isinstance(semantic, SemanticTruth)
    everything = (*by_group["panoptic"].query.thing_classes, *by_group["panoptic"].query.stuff_classes)
    assert everything == (*CATEGORIES, "table", "wall", "floor")
    assert by_group["semantic"].query.stuff_classes == everything
    nothing = (view.instance_ids == 0) & (view.stuff_ids == 0)
    assert np.array_equal(panoptic.segment_ids == 0, hidden | nothing)
    for item in labeled:
        is_object = view.instance_ids == item.instance_id
        (segment,) = np.unique(panoptic.segment_ids[is_object]).tolist()
        assert everything[panoptic.classes[segment]] == item.category
        assert set(np.unique(semantic.class_map[is_object])) == {everything.index(item.category)}
    assert np.array_equal(semantic.class_map == everything.index("wall"), view.stuff_ids == 2)
    assert (semantic.class_map[hidden] == -1).all()

    caption = by_group["gcg"].truth
    assert isinstance(caption, CaptionTruth)
    assert "<" not in caption.text
    assert all(phrase in caption.text for phrase in caption.phrases)
    for phrase, mask in zip(caption.phrases, caption.masks, strict=True):
        meant = [i for i in labeled if f"{i.color} {i.category}" in phrase]  # also in "two red mugs"
        assert np.array_equal(mask, np.isin(view.instance_ids, [item.instance_id for item in meant]))
        assert mask.any()

    vgd = by_group["vgd"].truth
    assert isinstance(vgd, InstanceTruth)
    for name, masks in zip(vgd.classes, vgd.masks, strict=True):
        assert len(masks) == sum(item.category == name for item in labeled)


def test_a_phrase_means_its_object(questions_by_seed: dict[int, list[Question]]) -> None:
    """Checked against the image's annotations, without the code that makes phrases."""
    checked = 0
    for seed, questions in questions_by_seed.items():
        view = render(sample_scene(seed))
        items = annotate(sample_scene(seed), view)
        for question in questions:
            if question.kind == "color_category":
                terms = question.query.text.removeprefix("the ").split(" ", 1)
                (item,) = [i for i in items if [i.color, i.category] == terms]
                assert isinstance(question.truth, RegionTruth)
                assert np.array_equal(question.truth.mask, view.instance_ids == item.instance_id)
                checked += 1
    assert checked


# -- evaluation


def test_a_perfect_model_has_full_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", _true_results)
    scores = evaluate(FakeSegmenter({}), SEEDS)
    assert set(scores) >= {*SCORE_KEYS, "counts", "questions", "failed", "ms_per_query_median", "n"}
    assert (scores["n"], scores["failed"], scores["questions"]) == (3, 0, 78)
    assert scores["present_rejected"] == 0.0
    assert 0 < scores["gcg_cider"] <= 10
    for key in SCORE_KEYS:
        if key == "count_mae" or key.endswith("_believed"):
            assert scores[key] in (0.0, None), key
        elif key not in ("present_rejected", "gcg_cider"):
            assert scores[key] in (1.0, None), key
    unmeasured = [key for key in SCORE_KEYS if scores[key] is None]
    assert all(key.startswith("iou_") or key.endswith("_believed") for key in unmeasured)
    json.dumps(scores, allow_nan=False)


def test_a_model_that_finds_nothing() -> None:
    """The fake knows no object, so every question is NOT_FOUND."""
    scores = evaluate(FakeSegmenter({}), SEEDS[:2])
    for key in ("referring_miou", "reasoning_miou", "category_ap50", "panoptic_pq", "gcg_miou", "vgd_ap"):
        assert scores[key] == 0.0, key
    assert (scores["absent_rejected"], scores["present_rejected"]) == (1.0, 1.0)
    assert scores["failed"] == 0


def test_the_score_is_that_of_the_right_question() -> None:
    """With a model that knows one object, only that object's IoU is not zero."""
    seed = 2_000_001
    view = render(sample_scene(seed))
    question = next(
        q for q in scene_questions(seed, view, per_scene=4) if q.group == "referring" and not q.absent
    )
    assert isinstance(question.truth, RegionTruth)
    shifted = np.roll(question.truth.mask, 6, axis=1)
    scores = evaluate(FakeSegmenter({question.query.text: [shifted]}), range(seed, seed + 1))
    expected = mask_iou(shifted, question.truth.mask)
    assert 0.1 < expected < 0.95
    assert scores[f"iou_{question.kind}"] > 0
    assert scores["referring_miou"] == pytest.approx(expected / 4, abs=1e-4)
    assert scores["reasoning_miou"] == 0.0


class ErrorRaisingSegmenter:
    """Segmenter that fails on every image, or refuses every query."""

    def __init__(self, *, refuse: bool) -> None:
        self.refuse = refuse

    def segment(
        self, source: Frame, queries: Sequence[Query], *, deadline_s: float
    ) -> list[SegmentationResult]:
        if not self.refuse:
            raise OutOfMemoryError("no room")
        return FakeSegmenter({}).segment(
            source, [Query(text="x", task=Task.GENERIC) for _ in queries], deadline_s=deadline_s
        )


@pytest.mark.parametrize(("refuse", "code"), [(True, "INVALID_QUERY"), (False, "OUT_OF_MEMORY")])
def test_failures_are_not_answers(refuse: bool, code: str) -> None:
    scores = evaluate(ErrorRaisingSegmenter(refuse=refuse), SEEDS[:1])
    assert scores["failed"] == scores["questions"] == 26
    assert all(code in reason for reason in scores["failures"])
    assert sum(scores["failures"].values()) == 26
    assert [scores[key] for key in SCORE_KEYS] == [None] * len(SCORE_KEYS)


@pytest.mark.slow
def test_tiny_model() -> None:
    model = XSam.load("tiny", device="cpu")
    first, second = (evaluate(model, SEEDS[1:2]) for _ in range(2))
    assert first["failed"] == 0
    for key in SCORE_KEYS:
        value = first[key]
        assert value is None or 0 <= value <= (10 if key == "gcg_cider" else 1), key
    del first["ms_per_query_median"], second["ms_per_query_median"]
    assert first == second
    assert first["semantic_miou"] > 0
    assert first["referring_miou"] > 0


def test_scenes_outside_the_published_ranges() -> None:
    scores = evaluate(FakeSegmenter({}), range(9_876_543_210, 9_876_543_211), per_scene=1)
    assert scores["n"] == 1
    assert scores["counts"]["referring"] == 1
    json.dumps(scores, allow_nan=False)


def test_a_task_that_is_never_asked_is_null() -> None:
    scores = evaluate(FakeSegmenter({}), SEEDS[1:2], per_scene=0)
    assert scores["referring_miou"] is None
    assert scores["relation_miou"] is None
    assert scores["iou_category"] is None
    assert scores["reasoning_miou"] == 0.0


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "-1:5", "5:0", "a:b", "1:2:3", "²:1"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected START:COUNT"):
        parse_seeds(text)


def test_seeds() -> None:
    assert parse_seeds("2000000:3") == range(2_000_000, 2_000_003)


def test_the_last_line_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(XSam, "load", lambda *_, **__: FakeSegmenter({}))
    scenes.app(["tiny", "--scenes", "2000001:1", "--per-scene", "2"], standalone_mode=False)
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["counts"]["referring"] == 2
    assert scores["n"] == 1


def test_scoring_needs_no_pytorch() -> None:
    modules = "scenes, coco, sources, scoreboard, pictures, panoptic_quality, captions"
    code = f"import sys; from xsam.eval import {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"
