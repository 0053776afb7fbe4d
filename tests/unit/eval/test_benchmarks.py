"""Published benchmarks: what is asked, and scores computed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.eval import benchmark_files as files
from tests.unit.eval.answers import Found, rectangle, result, right_answer
from tests.unit.eval.benchmark_files import HW, LEFT, MIDDLE, RIGHT
from xsam.errors import InvalidOptionError, MissingDataError
from xsam.eval import asking
from xsam.eval.benchmarks.evaluation import evaluate_benchmark, open_benchmark
from xsam.eval.benchmarks.table import BENCHMARKS
from xsam.eval.questions import Question, RegionTruth
from xsam.inference.prompts import conversation_for
from xsam.segmenter import FakeSegmenter
from xsam.types.requests import Query, SegmentationResult

MODEL = FakeSegmenter({})
HALF = rectangle(0, 0, 5, 20, HW)  # of LEFT
Answer = Callable[[Question], SegmentationResult]
WRITERS: dict[str, Callable[[Path], Path]] = {
    **{f"refcoco-{split}": files.refcoco for split in ("val",)},
    "refcoco+-val": lambda root: files.refcoco(root, "refcoco+"),
    "refcocog-val": lambda root: files.refcoco(root, "refcocog", "umd"),
    "grefcoco-val": files.grefcoco,
    "reasonseg-val": lambda root: files.reason_seg(root, "val"),
    "reasonseg-test": files.reason_seg,
    "reasonseg-test-short": files.reason_seg,
    "reasonseg-test-long": files.reason_seg,
    "gcg-val": files.gcg,
    "gcg-test": lambda root: files.gcg(root, "test"),
    "coco-interactive": files.interactive,
    "coco-vgd": files.vgd,
    **{f"ade20k{suffix}": files.ade20k for suffix in ("", "-panoptic", "-semantic", "-instance")},
    **{f"coco{suffix}": files.coco for suffix in ("", "-panoptic", "-semantic", "-instance")},
}


def _run(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer | None = None, **options: Any
) -> tuple[dict[str, Any], list[Question]]:
    asked: list[Question] = []

    def ask(_: object, rgb: NDArray[np.uint8], questions: Sequence[Question]) -> list[SegmentationResult]:
        assert rgb.shape == (*HW, 3)
        asked.extend(questions)
        return [(answer or (lambda q: right_answer(q, HW)))(question) for question in questions]

    monkeypatch.setattr(asking, "ask", ask)
    source = open_benchmark(name, root)
    return evaluate_benchmark(MODEL, name, source, **options), asked


def _found(query: Query, *found: Found) -> SegmentationResult:
    return result(query, HW, found)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_perfect_model_has_perfect_scores(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, _ = _run(name, WRITERS[name](tmp_path), monkeypatch)
    published = {key: scores.get(key) for key in BENCHMARKS[name].scores}
    perfect = {key: 10.0 if key.endswith("cider") else 1.0 for key in published}
    if name == "coco-vgd":  # no object has a scribble or a box
        perfect = {key: value for key, value in perfect.items() if re.search("point|mask", key)}
        published = {key: value for key, value in published.items() if key in perfect}
    assert published == perfect
    assert (scores["benchmark"], scores["published"]) == (name, list(BENCHMARKS[name].scores))
    assert scores["protocol"].startswith(BENCHMARKS[name].protocol[:20])
    assert "not comparable with published scores" not in scores["protocol"]
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_every_sentence_of_refcoco_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> SegmentationResult:
        if question.query.text == "the left man":
            return _found(question.query, (0, HALF, 0.01))  # 100 of 200
        if question.query.text == "the man":
            return _found(question.query)  # 0 of 120
        return right_answer(question, HW)

    scores, asked = _run("refcoco-val", files.refcoco(tmp_path), monkeypatch, answer)
    texts = [question.query.text for question in asked]
    assert texts == ["the left man", "left man", "left man", "the right man", "the man"]
    assert {question.query.score_threshold for question in asked} == {0.0}  # the best mask always counts
    assert scores["referring_ciou"] == round((100 + 3 * 200) / (4 * 200 + 120), 4)
    assert scores["referring_giou"] == round((0.5 + 3) / 5, 4)
    assert (scores["n"], scores["questions"]) == (2, 5)


def test_grefcoco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ReLA's rules: a wrong mask for nothing adds to the union, and counts 0 in gIoU."""
    speck = rectangle(0, 0, 7, 7, HW)  # 49 px: no target

    def answer(question: Question) -> SegmentationResult:
        found = {
            "both men": [(0, LEFT, 0.9)],  # 200 of 400
            "the dog": [(0, speck, 0.9)],  # right
            "the man": [],  # missed: 0 of 120
            "the cat": [],  # right
            "a cat": [(0, RIGHT, 0.9)],  # wrong: 0 of 200
        }[question.query.text]
        return _found(question.query, *found)

    scores, asked = _run("grefcoco-val", files.grefcoco(tmp_path), monkeypatch, answer)
    assert [question.absent for question in asked] == [False, True, False, True, True]
    assert {question.query.score_threshold for question in asked} == {None}
    assert scores["grefcoco_giou"] == round((0.5 + 1 + 0 + 1 + 0) / 5, 4)
    assert scores["grefcoco_ciou"] == round(200 / (400 + 0 + 120 + 0 + 200), 4)
    assert (scores["grefcoco_n_acc"], scores["grefcoco_t_acc"]) == (round(2 / 3, 4), 0.5)


def test_reasonseg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> SegmentationResult:
        if question.query.text.endswith("?"):  # RIGHT is ignored
            return _found(question.query, (0, HALF | RIGHT, 0.9))
        return _found(question.query, (0, MIDDLE | LEFT, 0.9))

    root = files.reason_seg(tmp_path)
    scores, asked = _run("reasonseg-test", root, monkeypatch, answer)
    assert [question.query.text for question in asked] == ["What is on the left?", "the thing", "something"]
    assert scores["reasoning_giou"] == round((0.5 + 2 * 120 / 320) / 3, 4)
    assert scores["reasoning_ciou"] == round((100 + 2 * 120) / (200 + 2 * 320), 4)
    assert {question.group for question in asked} == {"reasoning"}
    for split, texts in (("short", ["the thing", "something"]), ("long", ["What is on the left?"])):
        _, asked = _run(f"reasonseg-test-{split}", root, monkeypatch)
        assert [question.query.text for question in asked] == texts


def test_gcg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> SegmentationResult:
        if question.truth.phrases == ("A man", "a dog"):
            found = [(0, LEFT, 0.1), (1, rectangle(22, 0, 30, 20, HW), 0.9)]
            return result(question.query, HW, found, text="A man and a dog.", phrases=("A man", "a dog"))
        return result(question.query, HW, text="A cat on a red mat.")

    scores, asked = _run("gcg-val", files.gcg(tmp_path), monkeypatch, answer)
    assert scores["gcg_miou"] == round(((1 + 160 / 200) / 2 + 0) / 2, 4)
    assert scores["gcg_recall"] == round(2 / 3, 4)
    assert scores["gcg_cider"] == 10.0
    assert "METEOR is not computed" in scores["protocol"]
    # Two of three objects found, no false one: precision 1 up to a recall of 2/3, at 101 points.
    assert scores["gcg_ap50"] == round(67 / 101, 4)
    assert [question.truth.phrases for question in asked] == [("A man", "a dog"), ("A cat",)]


def test_equal_scores_rank_the_masks_of_gcg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GLaMM gives every mask the score 1: a wrong one comes first if it is named first."""

    def answer(question: Question) -> SegmentationResult:
        found = [(0, rectangle(0, 0, 1, 1, HW), 0.1), (1, question.truth.masks[0], 0.9)]
        return result(question.query, HW, found, text="x", phrases=("a", "b"))

    scores, _ = _run("gcg-val", files.gcg(tmp_path), monkeypatch, answer)
    assert scores["gcg_ap50"] < 0.5


def test_every_region_of_every_object_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> SegmentationResult:
        wrong = np.array_equal(question.truth.mask, LEFT) and question.kind == "mask"
        return _found(question.query, (0, HALF if wrong else question.truth.mask, 0.9))

    scores, asked = _run("coco-interactive", files.interactive(tmp_path), monkeypatch, answer)
    kinds = [question.kind for question in asked]
    assert kinds == ["point", "scribble", "box", "box", "mask", "mask", "mask"]
    assert scores["interactive_mask_iou"] == round((0.5 + 1 + 1) / 3, 4)
    assert scores["interactive_mask_ciou"] == round((100 + 200 + 120) / (200 + 200 + 120), 4)
    assert scores["interactive_point_ciou"] == 1.0
    points = [question for question in asked if question.kind == "point"]
    (prompt,) = points[0].query.prompts
    assert prompt.mask is not None
    assert prompt.mask[4, 4]
    assert prompt.mask.sum() == 5  # widened like a click


def test_one_region_for_each_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, asked = _run("coco-vgd", files.vgd(tmp_path), monkeypatch)
    assert [question.group for question in asked] == ["vgd_point", "vgd_mask"]
    by_points, by_masks = asked
    assert by_points.truth.classes == by_masks.truth.classes == ("category 2", "category 7")
    np.testing.assert_array_equal(by_masks.query.prompts[0].mask, MIDDLE)
    np.testing.assert_array_equal(by_masks.query.prompts[1].mask, LEFT)
    assert [len(masks) for masks in by_masks.truth.masks] == [1, 2]
    assert [len(masks) for masks in by_points.truth.masks] == [1, 1]  # without a point: no object
    assert "vgd_box_ap" not in scores


def test_ade20k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> SegmentationResult:
        if question.group != "semantic":
            return right_answer(question, HW)
        door = question.query.stuff_classes.index("door")
        wall = question.query.stuff_classes.index("wall")
        return _found(question.query, (door, LEFT, 0.9), (wall, ~LEFT, 0.8))

    root = files.ade20k(tmp_path)
    scores, asked = _run("ade20k", root, monkeypatch, answer)
    assert [question.group for question in asked] == ["panoptic", "semantic", "instance"]
    assert scores["n"] == 1  # the ids of the two files differ, the image is the same
    assert {question.query.score_threshold for question in asked} == {0.0}
    door, wall = 180 / (180 + 200), 200 / 400  # a column of 20 door pixels is void
    assert scores["semantic_miou"] == round((door + wall) / 2, 4)
    (root / "annotations_detectron2").rename(root / "elsewhere")
    assert _run("ade20k-panoptic", root, monkeypatch)[0]["panoptic_pq"] == 1.0
    with pytest.raises(MissingDataError, match="has no annotations_detectron2/validation"):
        open_benchmark("ade20k", root)


def test_categories_have_the_names_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADE20K names categories like "road, route": one category, asked as it is written."""
    root = files.ade20k(tmp_path)
    path = root / "ade20k_panoptic_val.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["categories"][0]["name"] = "Road, Route "
    files.write_json(path, data)
    _, (question,) = _run("ade20k-panoptic", root, monkeypatch)
    assert "<p>door</p>, <p>road, route</p>?" in conversation_for(question.query).question


def test_values_that_are_no_category_skip_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.ade20k(tmp_path)
    (path,) = (root / "annotations_detectron2" / "validation").iterdir()
    files.write_map(path, np.full(HW, 77, np.uint8))
    with pytest.raises(Exception, match="none of 1 images could be evaluated"):
        _run("ade20k-semantic", root, monkeypatch)


def test_a_part_of_a_benchmark_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.refcoco(tmp_path)
    scores, _ = _run("refcoco-val", root, monkeypatch, limit=1)
    assert scores["protocol"].endswith("sampled: 1 of 2 images, not comparable with published scores")
    (root / "train2014" / "COCO_2.jpg").write_bytes(b"no image")
    scores, _ = _run("refcoco-val", root, monkeypatch)
    assert scores["skipped"] == {"with a damaged file or annotation": 1}
    assert scores["protocol"].endswith("; 1 images or records were skipped")


@pytest.mark.parametrize("name", ["refcoco-val", "gcg-val"])
def test_one_missing_image_is_skipped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was the first one, nothing could be opened."""
    root = WRITERS[name](tmp_path)
    min(root.rglob("*1.jpg")).unlink()
    scores, _ = _run(name, root, monkeypatch)
    assert (scores["n"], scores["skipped"]) == (1, {"with a missing file": 1})


def test_an_image_has_one_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.gcg(tmp_path)
    path = root / "annotations" / "val_test" / "val_gcg_coco_caption_gt.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["annotations"].append({**data["annotations"][0], "caption": "Another one."})
    files.write_json(path, data)
    scores, asked = _run("gcg-val", root, monkeypatch)
    assert (len(asked), scores["skipped"]) == (2, {"repeated captions": 1})
    assert asked[0].truth.text == "A man and a dog."


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_file_is_named_with_what_is_expected(name: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError, match=re.escape(f"{name}: ")) as caught:
            open_benchmark(name, folder)
        assert BENCHMARKS[name].expected in caught.value.hint


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("refcoco-val", "refcoco/refs(unc).json"),
        ("refcoco-val", "refcoco/instances.json"),
        ("refcoco-val", "train2014"),
        ("grefcoco-val", "grefcoco/grefs(unc).json"),
        ("gcg-val", "annotations/val_test/val_gcg_coco_mask_gt.json"),
        ("gcg-val", "GranDf_HA_images/val_test"),
        ("coco-interactive", "val2017"),
        ("ade20k-panoptic", "ade20k_panoptic_val.json"),
        ("ade20k-instance", "ade20k_instance_val.json"),
        ("coco-panoptic", "annotations/panoptic_val2017"),
    ],
)
def test_each_missing_file_is_named(name: str, lost: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path)
    (root / lost).rename(root / "lost")
    wanted = lost.removesuffix(".json").split("/")[-1]
    with pytest.raises(MissingDataError) as caught:
        open_benchmark(name, root)
    assert wanted in caught.value.message
    assert caught.value.hint


def test_images_may_be_elsewhere(tmp_path: Path) -> None:
    root = files.refcoco(tmp_path / "notes")
    (root / "train2014").rename(tmp_path / "pictures")
    assert len(open_benchmark("refcoco-val", root, images=tmp_path / "pictures")) == 2
    with pytest.raises(MissingDataError, match="there is no folder"):
        open_benchmark("refcoco-val", root, images=tmp_path / "nothing")


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="unknown benchmark 'refcoco'") as caught:
        open_benchmark("refcoco", tmp_path)
    assert "refcoco-testA" in caught.value.hint


def test_the_table_is_complete() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.protocol.endswith(".")
        assert re.search(r"\(.*\d{4}.*\)", benchmark.protocol), name  # the paper
        assert benchmark.scores


def test_the_truth_is_the_union_of_all_objects(tmp_path: Path) -> None:
    source = open_benchmark("grefcoco-val", files.grefcoco(tmp_path))
    (asked,) = source.image(0).rounds
    truths = [question.truth for question in asked.questions]
    assert all(isinstance(truth, RegionTruth) for truth in truths)
    np.testing.assert_array_equal(truths[0].mask, LEFT | RIGHT)
    assert not truths[1].mask.any()


def test_the_document_lists_every_benchmark() -> None:
    document = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"`{name}`" not in document] == []
