"""Evaluation of a folder in COCO format, on two small images made here."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.unit.eval.answers import rectangle, result, right_answer
from xsam.errors import XSamError
from xsam.eval import asking
from xsam.eval.coco import COCO_TASKS, CocoFolder, evaluate_coco
from xsam.eval.questions import InstanceTruth, PanopticTruth, Question, SemanticTruth
from xsam.segmenter import FakeSegmenter
from xsam.types.masks import MaskRle
from xsam.types.requests import SegmentationResult

HW = (40, 60)
# Category ids have gaps and stuff stands between things, as in COCO.
CATEGORIES = [
    {"id": 1, "name": "mug", "isthing": 1},
    {"id": 5, "name": "wall-other-merged", "isthing": 0},
    {"id": 9, "name": "teddy bear", "isthing": 1},
]
MUG, OTHER_MUG, BEAR = (rectangle(x, 5, x + 12, 25, HW) for x in (0, 20, 40))
CROWD = rectangle(0, 30, 60, 40, HW)
BIG_ID = 70_000  # needs all three bytes of a pixel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Picture 3: two mugs, a bear and a crowd of bears before a wall, and some void. Picture 8: a wall."""
    ids = np.full(HW, 300, np.int64)
    for mask, segment in ((MUG, 1), (OTHER_MUG, BIG_ID), (BEAR, 4), (CROWD, 6)):
        ids[mask] = segment
    ids[0] = 0
    info = [(1, 1, 0), (BIG_ID, 1, 0), (4, 9, 0), (6, 9, 1), (300, 5, 0)]
    notes = tmp_path / "annotations"
    masks = notes / "panoptic_tiny"
    masks.mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    for image_id, segments in ((3, ids), (8, np.full(HW, 300, np.int64))):
        channels = [segments // 65536, segments // 256 % 256, segments % 256]  # OpenCV writes blue first
        cv2.imwrite(str(masks / f"{image_id}.png"), np.stack(channels, axis=2).astype(np.uint8))
        picture = np.zeros((*HW, 3), np.uint8)
        picture[..., 2] = 200  # red
        cv2.imwrite(str(tmp_path / "tiny" / f"{image_id}.png"), picture)
    images = [{"id": i, "file_name": f"{i}.png", "height": HW[0], "width": HW[1]} for i in (8, 3)]
    panoptic = [
        {
            "image_id": 3,
            "file_name": "3.png",
            "segments_info": [{"id": s, "category_id": c, "iscrowd": crowd} for s, c, crowd in info],
        },
        {"image_id": 8, "file_name": "8.png", "segments_info": [{"id": 300, "category_id": 5}]},
    ]
    objects = [
        _annotation(1, 1, MUG, polygon=True),
        _annotation(2, 1, OTHER_MUG),
        _annotation(3, 9, BEAR),
        {**_annotation(4, 9, CROWD), "iscrowd": 1},
    ]
    things = [category for category in CATEGORIES if category["isthing"]]
    for name, content in (
        ("panoptic", {"images": images, "annotations": panoptic, "categories": CATEGORIES}),
        ("instances", {"images": images, "annotations": objects, "categories": things}),
    ):
        (notes / f"{name}_tiny.json").write_text(json.dumps(content))
    return tmp_path


def _annotation(
    identity: int, category: int, mask: NDArray[np.bool_], *, polygon: bool = False
) -> dict[str, Any]:
    code = MaskRle.encode(mask)
    rows, columns = np.nonzero(mask)
    x_min, y_min, x_max, y_max = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    corners = [x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max]
    rle = {"size": list(HW), "counts": code.counts.decode()}
    return {
        "id": identity,
        "image_id": 3,
        "category_id": category,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [float(v) for v in (x_min, y_min, x_max - x_min, y_max - y_min)],
        "segmentation": [[float(v) for v in corners]] if polygon else rle,
    }


def _questions(folder: Path, image_id: int = 3) -> dict[str, Question]:
    data = CocoFolder.open(folder, "tiny")
    return {q.group: q for q in data.questions(image_id, HW, np.random.default_rng(0))}


def _answering(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Question], SegmentationResult]
) -> list[NDArray[np.uint8]]:
    """Answer every question this way; the list collects the images."""
    seen = []

    def ask(model: object, rgb: NDArray[np.uint8], questions: Sequence[Question]) -> list[SegmentationResult]:
        seen.append(rgb)
        return [answer(question) for question in questions]

    monkeypatch.setattr(asking, "ask", ask)
    return seen


def test_right_answers_have_full_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _answering(monkeypatch, lambda question: right_answer(question, HW))
    scores = evaluate_coco(FakeSegmenter({}), CocoFolder.open(folder, "tiny"))
    assert [tuple(rgb[0, 0]) for rgb in seen] == [(200, 0, 0)] * 2  # red is the first channel
    assert scores["n"] == 2
    assert scores["counts"] == {"instance": 2, "interactive": 4, "panoptic": 2, "semantic": 2, "vgd": 1}
    for key in ("panoptic_pq", "panoptic_pq_things", "panoptic_pq_stuff", "semantic_miou"):
        assert scores[key] == 1.0, key
    for key in ("instance_ap", "vgd_ap", "interactive_box_iou", "interactive_mask_iou"):
        assert scores[key] == 1.0, key
    json.dumps(scores, allow_nan=False)


def test_the_questions_and_their_truth(folder: Path) -> None:
    questions = _questions(folder)
    panoptic, semantic, instance = (questions[group] for group in ("panoptic", "semantic", "instance"))
    assert panoptic.query.thing_classes == ("mug", "teddy bear")
    assert panoptic.query.stuff_classes == ("wall-other-merged",)
    assert semantic.query.stuff_classes == ("mug", "teddy bear", "wall-other-merged")
    assert isinstance(panoptic.truth, PanopticTruth)
    assert panoptic.truth.classes == {1: 0, BIG_ID: 0, 4: 1, 6: 1, 300: 2}
    assert panoptic.truth.crowd == {6}
    assert np.array_equal(panoptic.truth.segment_ids == BIG_ID, OTHER_MUG)
    assert isinstance(semantic.truth, SemanticTruth)
    assert np.array_equal(semantic.truth.class_map == 1, BEAR | CROWD)
    assert (semantic.truth.class_map[0] == -1).all()
    assert isinstance(instance.truth, InstanceTruth)
    assert instance.truth.classes == ("mug", "teddy bear")
    assert [len(masks) for masks in instance.truth.masks] == [2, 1]
    assert np.array_equal(instance.truth.masks[0][0], MUG)  # a polygon
    assert np.array_equal(instance.truth.crowd[1][0], CROWD)
    assert instance.query.score_threshold == 0.0


def test_a_crowd_is_neither_missed_nor_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to find the whole crowd of bears, and a bear found in it is not a mistake."""
    in_crowd = rectangle(10, 31, 20, 39, HW)

    def answer(question: Question) -> SegmentationResult:
        right = right_answer(question, HW)
        found = [
            (int(label), mask.decode(), float(score))
            for label, mask, score in zip(
                right.segments.label_indices, right.segments.masks, right.segments.scores, strict=True
            )
            if question.group != "panoptic" or not np.array_equal(mask.decode(), CROWD)
        ]
        bears = question.group in ("panoptic", "instance") and len(found) > 1
        return result(question.query, HW, [*found, *([(1, in_crowd, 0.95)] if bears else [])])

    _answering(monkeypatch, answer)
    data = CocoFolder.open(folder, "tiny", ("panoptic", "instance"))
    scores = evaluate_coco(FakeSegmenter({}), data)
    assert scores["panoptic_pq"] == 1.0
    assert scores["instance_ap"] == 1.0
    assert "semantic_miou" not in scores


def test_instance_ap_is_that_of_cocoeval_on_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = np.roll(BEAR, 3, axis=1)
    found = [(0, MUG, 0.6), (0, np.roll(OTHER_MUG, 4, axis=0), 0.9), (1, moved, 0.7), (1, MUG, 0.8)]
    _answering(monkeypatch, lambda question: result(question.query, HW, found))
    data = CocoFolder.open(folder, "tiny", ("instance",))
    scores = evaluate_coco(FakeSegmenter({}), data)

    detections = [
        {
            "image_id": image_id,
            "category_id": (1, 9)[label],
            "score": score,
            "segmentation": {"size": list(HW), "counts": MaskRle.encode(mask).counts.decode()},
        }
        for image_id in (3, 8)
        for label, mask, score in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "instances_tiny.json"))
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.05 < evaluation.stats[0] < 0.9
    measured = [scores[key] for key in ("instance_ap", "instance_ap50", "instance_ap75")]
    assert measured == pytest.approx(evaluation.stats[:3], abs=1e-4)


def test_a_model_is_asked(folder: Path) -> None:
    """No stub here: the fake segmenter finds the objects it knows by name."""
    model = FakeSegmenter({"mug": [MUG, OTHER_MUG]})
    scores = evaluate_coco(model, CocoFolder.open(folder, "tiny", ("instance", "semantic")))
    # Mugs are found in both images, with ties ranked in favor of the first; bears are not found.
    assert scores["instance_ap"] == pytest.approx(0.5, abs=1e-4)
    assert scores["failed"] == 0
    # mug: 480 px of 480 and as many in the other picture; wall and bears are not found.
    assert scores["semantic_miou"] == pytest.approx(480 / 960 / 3, abs=1e-4)


def test_one_file_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, lambda question: right_answer(question, HW))
    (folder / "annotations" / "instances_tiny.json").unlink()
    scores = evaluate_coco(FakeSegmenter({}), CocoFolder.open(folder, "tiny"))
    assert set(scores["counts"]) == {"panoptic", "semantic"}
    (folder / "annotations" / "panoptic_tiny").rename(folder / "panoptic_tiny")  # where COCO's zip puts it
    (folder / "tiny").rename(folder / "images")
    assert evaluate_coco(FakeSegmenter({}), CocoFolder.open(folder, "tiny"))["panoptic_pq"] == 1.0


def test_limit_and_seed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Question] = []

    def answer(question: Question) -> SegmentationResult:
        seen.append(question)
        return right_answer(question, HW)

    _answering(monkeypatch, answer)
    data = CocoFolder.open(folder, "tiny", ("vgd", "interactive"))
    points = []
    for seed in (0, 0, 1):
        seen.clear()
        assert evaluate_coco(FakeSegmenter({}), data, limit=1, seed=seed)["n"] == 1
        point = next(q for q in seen if q.kind == "point").query.prompts[0].points_xy
        points.append(tuple(point[0]))  # type: ignore[index]
    assert points[0] == points[1] != points[2]


# -- what is wrong with a folder


def test_nothing_to_evaluate(folder: Path) -> None:
    with pytest.raises(XSamError, match="has no annotations of val2017") as caught:
        CocoFolder.open(folder)
    assert "panoptic_val2017.json" in caught.value.hint
    with pytest.raises(XSamError, match=r"unknown tasks \['detection'\]") as caught:
        CocoFolder.open(folder, "tiny", ["detection"])
    assert all(task in caught.value.hint for task in COCO_TASKS)


@pytest.mark.parametrize("missing", ["tiny", "annotations/panoptic_tiny"])
def test_a_folder_that_is_missing(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(XSamError, match="no folder"):
        CocoFolder.open(folder, "tiny")


@pytest.mark.parametrize("name", ["panoptic_tiny.json", "instances_tiny.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "expected a mapping, got list"),
        ('{"images": [], "annotations": [{}], "categories": [1]}', "category number 0: expected a mapping"),
    ],
)
def test_files_in_another_format(folder: Path, name: str, content: str, message: str) -> None:
    (folder / "annotations" / name).write_text(content)
    with pytest.raises(XSamError, match=rf"{name}.*{message}"):
        CocoFolder.open(folder, "tiny")


def _change(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    path = folder / "annotations" / f"{name}_tiny.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_name_for_a_thing_and_for_stuff_is_refused(folder: Path) -> None:
    _change(folder, "panoptic", lambda d: d["categories"][1].update(name="mug"))
    with pytest.raises(XSamError, match="'mug' is the name of a thing and of stuff"):
        CocoFolder.open(folder, "tiny")


def test_categories_of_one_name_are_one_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters list the data set itself as a category."""
    _change(folder, "instances", lambda d: d["categories"].append({"id": 0, "name": "teddy bear"}))
    _answering(monkeypatch, lambda question: right_answer(question, HW))
    data = CocoFolder.open(folder, "tiny", ("instance",))
    assert data.instances is not None
    assert data.instances.names == ("teddy bear", "mug")
    assert evaluate_coco(FakeSegmenter({}), data)["instance_ap"] == 1.0


def test_more_categories_than_a_query_can_have(folder: Path) -> None:
    """This is found before the model is loaded, not after hours of refused queries."""
    more = [{"id": 100 + index, "name": f"object {index}"} for index in range(300)]
    _change(folder, "instances", lambda d: d["categories"].extend(more))
    with pytest.raises(XSamError, match="302 categories, at most 256"):
        CocoFolder.open(folder, "tiny", ("instance",))


def test_images_may_be_named_with_their_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _change(
        folder, "instances", lambda d: [i.update(file_name=f"tiny/{i['file_name']}") for i in d["images"]]
    )
    _answering(monkeypatch, lambda question: right_answer(question, HW))
    scores = evaluate_coco(FakeSegmenter({}), CocoFolder.open(folder, "tiny"))
    assert (scores["n"], scores["skipped"]) == (2, {})


def test_a_folder_with_other_images(folder: Path) -> None:
    for path in (folder / "tiny").iterdir():
        path.rename(path.with_suffix(".old"))
    with pytest.raises(XSamError, match=r"3\.png does not exist|8\.png does not exist"):
        CocoFolder.open(folder, "tiny")


@pytest.mark.parametrize(
    ("path", "picture", "reason", "message"),
    [
        ("tiny/3.png", None, "with a missing file", "does not exist"),
        ("tiny/3.png", b"", "with a damaged file or annotation", "cannot read the image"),
        (
            "annotations/panoptic_tiny/3.png",
            b"text",
            "with a damaged file or annotation",
            "cannot read the image",
        ),
        (
            "tiny/3.png",
            np.zeros((30, 60, 3), np.uint8),
            "with a damaged file or annotation",
            r"for an image of \(40, 60\) pixels",
        ),
        (
            "annotations/panoptic_tiny/3.png",
            np.full((*HW, 3), 7, np.uint8),
            "with a damaged file or annotation",
            "do not match segments_info",
        ),
    ],
)
def test_one_bad_image_does_not_cost_the_others(
    folder: Path,
    path: str,
    picture: NDArray[np.uint8] | bytes | None,
    reason: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if picture is None:
        (folder / path).unlink()
    elif isinstance(picture, bytes):
        (folder / path).write_bytes(picture)
    else:
        cv2.imwrite(str(folder / path), picture)
    _answering(monkeypatch, lambda question: right_answer(question, HW))
    data = CocoFolder.open(folder, "tiny")
    scores = evaluate_coco(FakeSegmenter({}), data)
    assert (scores["n"], scores["skipped"], scores["panoptic_pq"]) == (1, {reason: 1}, 1.0)
    assert re.search(message, caplog.text)
    (folder / "tiny" / "8.png").write_bytes(b"")
    with pytest.raises(XSamError, match="none of 2 images could be evaluated"):
        evaluate_coco(FakeSegmenter({}), data)
