"""Faults of annotation files as people have them: training and evaluation read each one alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unit.data.readers.disk import (
    HEIGHT,
    WIDTH,
    box,
    image_entry,
    polygon,
    rle,
    write_json,
)
from xsam.data.readers.coco import CocoInstances
from xsam.errors import DatasetError
from xsam.eval.coco import CocoFolder
from xsam.eval.questions import InstanceTruth

Objects = list[tuple[str, NDArray[np.bool_]]]
CUP, BOOK = box(1, 1, 4, 3), box(6, 1, 8, 3)
SHORT = {"size": [HEIGHT, WIDTH], "counts": [10, 20]}
OVERFLOW = {"size": [HEIGHT, WIDTH], "counts": [2**63, 2**63, HEIGHT * WIDTH]}


def _content() -> dict[str, Any]:
    return {
        "images": [image_entry(1, "1.png"), image_entry(2, "2.png")],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [polygon(1, 1, 4, 3)]},
            {"id": 11, "image_id": 1, "category_id": 2, "iscrowd": 0, "segmentation": rle(BOOK)},
            {"id": 12, "image_id": 2, "category_id": 2, "iscrowd": 0, "segmentation": rle(BOOK)},
        ],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "book"}],
    }


def _trained(folder: Path) -> dict[str, Objects]:
    """Return the objects by image that training reads."""
    source = CocoInstances(annotations=folder / "annotations" / "instances_v.json", images=folder / "v")
    found = {}
    for index in range(len(source)):
        try:
            sample = source.sample(index, np.random.default_rng(0))
        except DatasetError:
            continue
        names = [source.class_names[class_] for class_ in sample.classes]
        found[str(int(sample.rgb[0, 0, 0]))] = list(zip(names, sample.masks, strict=True))
    return found


def _evaluated(folder: Path) -> dict[str, Objects]:
    """Return the objects by image that evaluation reads."""
    data = CocoFolder.open(folder, "v", ("instance",))
    found = {}
    for identity in data.images:
        try:
            rgb = data.read_image(identity)
            (question,) = data.questions(identity, rgb.shape[:2], np.random.default_rng(0))
        except DatasetError:
            continue
        truth = question.truth
        assert isinstance(truth, InstanceTruth)
        objects = [
            (name, mask) for name, masks in zip(truth.classes, truth.masks, strict=True) for mask in masks
        ]
        if objects:
            found[str(int(rgb[0, 0, 0]))] = objects
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (1, 2):
        rgb = np.full((HEIGHT, WIDTH, 3), name, np.uint8)
        (tmp_path / "v").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / "v" / f"{name}.png")
    return tmp_path


def _read(folder: Path, content: Any) -> dict[str, Objects]:
    write_json(folder / "annotations" / "instances_v.json", content)
    trained, evaluated = _trained(folder), _evaluated(folder)
    assert trained.keys() == evaluated.keys()
    for key, objects in trained.items():
        assert [name for name, _ in objects] == [name for name, _ in evaluated[key]]
        for (_, mask), (_, other) in zip(objects, evaluated[key], strict=True):
            np.testing.assert_array_equal(mask, other)
    return trained


def _change(index: int, **fields: Any) -> Callable[[Any], None]:
    return lambda content: content["annotations"][index].update(fields)


BOTH = {"1": ["cup", "book"], "2": ["book"]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: None, BOTH),
        # read
        (_change(1, id=10), BOTH),  # one id for two objects: evaluation counted the book twice, no cup
        (_change(0, image_id="1", category_id="1", iscrowd="0"), BOTH),
        (_change(0, image_id=1.0, category_id=1.0, iscrowd=False), BOTH),
        (_change(0, iscrowd=None), BOTH),
        (lambda d: [image.update(id=str(image["id"])) for image in d["images"]], BOTH),
        (lambda d: [image.update(id=float(image["id"])) for image in d["images"]], BOTH),
        (lambda d: [image.update(file_name=f"v/{image['file_name']}") for image in d["images"]], BOTH),
        (lambda d: [image.update(file_name=f"v\\{image['file_name']}") for image in d["images"]], BOTH),
        (lambda d: [(image.pop("height"), image.pop("width")) for image in d["images"]], BOTH),
        (lambda d: d["annotations"][0].pop("id"), BOTH),
        # copies and strangers
        (lambda d: d["annotations"].append(d["annotations"][0]), BOTH),
        (lambda d: d["annotations"].append({**d["annotations"][0], "image_id": 77}), BOTH),
        (lambda d: d["annotations"].append(5), BOTH),
        (lambda d: d["images"].append(d["images"][0]), BOTH),
        (lambda d: d["images"].append({"id": 3}), BOTH),
        # an image whose truth is incomplete
        (_change(0, category_id=9), {"2": ["book"]}),
        (_change(0, category_id=1.5), {"2": ["book"]}),
        (_change(0, category_id=2**63), {"2": ["book"]}),
        (_change(0, id=[1]), {"2": ["book"]}),
        (_change(0, iscrowd="maybe"), {"2": ["book"]}),
        (_change(0, segmentation=SHORT), {"2": ["book"]}),
        (_change(0, segmentation=OVERFLOW), {"2": ["book"]}),
        (_change(0, segmentation=[[1, 1, 4, 1, 4, 3, 1]]), {"2": ["book"]}),
        (_change(0, segmentation=[[1, 1, 1e9, 1, 4, 3]]), {"2": ["book"]}),
        (_change(0, segmentation=[[1, 1, float("nan"), 1, 4, 3]]), {"2": ["book"]}),
        (_change(0, segmentation=[[1, 1, float("inf"), 1, 4, 3]]), {"2": ["book"]}),
        (_change(0, segmentation=[[0, 0, 200, 200] * 50_000]), {"2": ["book"]}),
        (_change(0, segmentation="cup"), {"2": ["book"]}),
        (lambda d: d["images"][0].update(height=10**9, width=10**9), {"2": ["book"]}),
        (lambda d: d["images"][0].update(height=-1), {"2": ["book"]}),
        (lambda d: d["images"][0].update(file_name="gone.png"), {"2": ["book"]}),
        (lambda d: d["images"][0].update(file_name=f"gone{'x' * 5000}.png"), {"2": ["book"]}),
    ],
)
def test_training_and_evaluation_read_alike(
    folder: Path, change: Callable[[Any], object], expected: dict[str, list[str]]
) -> None:
    content = _content()
    change(content)
    if content["images"][0]["file_name"].startswith("gone"):
        content["images"].reverse()  # training looks for the first image when it starts
    started_s = time.monotonic()
    found = _read(folder, content)
    assert time.monotonic() - started_s < 5.0
    assert {key: [name for name, _ in objects] for key, objects in found.items()} == expected
    if "1" in found:
        np.testing.assert_array_equal([mask for _, mask in found["1"]], [CUP, BOOK])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["categories"][1].update(id=1), "'book' is a duplicate of 'cup': both have the id 1"),
        (lambda d: d["categories"][1].update(id="1"), "both have the id 1"),
        (lambda d: d["categories"][1].update(name=" "), "is not a valid name"),
        (lambda d: d["images"][1].update(id=1), "two images have this id"),
        (
            lambda d: [i.update(id=f"a{i['id']}") for i in d["images"]],
            "none of its 3 annotations can be used",
        ),
        (lambda d: d.pop("annotations"), "the field 'annotations' is missing"),
    ],
)
@pytest.mark.parametrize("read", [_trained, _evaluated])
def test_both_refuse_by_name(
    folder: Path, read: Callable[[Path], object], change: Callable[[Any], object], message: str
) -> None:
    content = _content()
    change(content)
    write_json(folder / "annotations" / "instances_v.json", content)
    with pytest.raises(DatasetError, match=message):
        read(folder)
