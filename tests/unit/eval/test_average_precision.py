"""Mask AP: hand-computed cases, and COCOeval on files with the same masks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.unit.eval.answers import rectangle
from xsam.eval.average_precision import AveragePrecision, MaskAP
from xsam.types.masks import MaskRle

HW = (20, 50)
NONE = AveragePrecision(ap=None, ap50=None, ap75=None)


def _about(ap: float, ap50: float, ap75: float) -> AveragePrecision:
    return AveragePrecision(ap=pytest.approx(ap), ap50=pytest.approx(ap50), ap75=pytest.approx(ap75))


def _box(x_min: int, x_max: int) -> MaskRle:
    return MaskRle.encode(rectangle(x_min, 0, x_max, 10, HW))


def test_one_object_found_at_a_middling_iou() -> None:
    scores = MaskAP()
    scores.add(truth=[("mug", _box(0, 25))], found=[("mug", _box(0, 16), 0.3)])
    assert scores.scores() == _about(0.3, 1.0, 0.0)  # 16/25 passes 0.50, 0.55 and 0.60


def test_a_better_scored_mistake_halves_precision() -> None:
    scores = MaskAP()
    found = [("mug", _box(0, 10), 0.5), ("mug", _box(30, 40), 0.6)]
    scores.add(truth=[("mug", _box(0, 10))], found=found)
    assert scores.scores().ap == pytest.approx(0.5)


def test_categories_are_averaged_and_absent_ones_left_out() -> None:
    scores = MaskAP()
    scores.add(
        truth=[("mug", _box(0, 10)), ("book", _box(20, 30))],
        found=[("mug", _box(0, 10), 0.9), ("lamp", _box(0, 10), 0.9)],
    )
    assert scores.scores() == _about(0.5, 0.5, 0.5)
    # In another image, predicting a category that exists elsewhere is a mistake, though a low-scoring one.
    scores.add(truth=[("book", _box(0, 9))], found=[("mug", _box(40, 50), 0.95), ("book", _box(0, 9), 0.5)])
    # mug: a mistake first, then the object: precision 0.5. book: one of two objects found; of the 101 recall
    # steps, 0 to 0.5 have precision 1.
    assert scores.scores().ap50 == pytest.approx((0.5 + 51 / 101) / 2)


def test_detections_on_a_crowd_do_not_count() -> None:
    truth, found = [("mug", _box(0, 10))], [("mug", _box(0, 10), 0.5), ("mug", _box(32, 38), 0.9)]
    alone, crowded = MaskAP(), MaskAP()
    alone.add(truth=truth, found=found)
    crowded.add(truth=truth, found=found, crowd=[("mug", _box(30, 45))])
    assert alone.scores().ap == pytest.approx(0.5)
    assert crowded.scores().ap == pytest.approx(1.0)
    only = MaskAP()
    only.add(truth=[], found=found, crowd=[("mug", _box(0, 50))])
    assert only.scores() == NONE


def test_missed_objects_and_no_objects() -> None:
    scores = MaskAP()
    assert scores.scores() == NONE
    scores.add(truth=[], found=[])
    scores.add(truth=[], found=[("mug", _box(0, 10), 0.9)])
    assert scores.scores() == NONE
    scores.add(truth=[("book", _box(0, 10))], found=[])
    assert scores.scores() == _about(0.0, 0.0, 0.0)


def test_agrees_with_cocoeval_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    names = ("mug", "book", "lamp")
    scores = MaskAP()
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []

    def mask_of(box: list[int]) -> MaskRle:
        return MaskRle.encode(rectangle(box[0], box[1], box[0] + box[2], box[1] + box[3], (50, 60)))

    for image in range(1, 9):
        mine: dict[str, list[Any]] = {"truth": [], "crowd": [], "found": []}
        for _ in range(int(rng.integers(0, 6))):
            category, crowd = int(rng.integers(3)), rng.random() < 0.2
            box = [*rng.integers(4, 30, 2).tolist(), 16, 12]
            mask = mask_of(box)
            record = {"image_id": image, "category_id": category + 1, "iscrowd": int(crowd), "bbox": box}
            truth.append({**record, "id": len(truth) + 1, "area": mask.area, "segmentation": _json(mask)})
            mine["crowd" if crowd else "truth"].append((names[category], mask))
            for _ in range(int(rng.integers(0, 3))):
                spot = mask_of(
                    [side + int(shift) for side, shift in zip(box, rng.integers(-2, 3, 4), strict=True)]
                )
                score, label = float(rng.random()), category if rng.random() < 0.8 else int(rng.integers(3))
                mine["found"].append((names[label], spot, score))
                found.append(
                    {
                        "image_id": image,
                        "category_id": label + 1,
                        "score": score,
                        "segmentation": _json(spot),
                    }
                )
        scores.add(truth=mine["truth"], crowd=mine["crowd"], found=mine["found"])

    content = {
        "images": [{"id": image, "height": 50, "width": 60} for image in range(1, 9)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": truth,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(data, data.loadRes(str(tmp_path / "found.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    mine_scores = scores.scores()
    assert 0.1 < evaluation.stats[0] < 0.9
    assert [mine_scores.ap, mine_scores.ap50, mine_scores.ap75] == pytest.approx(evaluation.stats[:3])
    assert scores.scores() == mine_scores  # calling it twice changes nothing
    assert capsys.readouterr().out == ""


def _json(mask: MaskRle) -> dict[str, Any]:
    return {"size": [mask.height, mask.width], "counts": mask.counts.decode()}
