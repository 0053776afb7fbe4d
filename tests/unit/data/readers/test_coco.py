"""COCO's panoptic and instance files."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.readers.disk import (
    HEIGHT,
    WIDTH,
    box,
    image_entry,
    meant,
    phrases,
    polygon,
    rle,
    skipped_text,
    write_image,
    write_json,
)
from xsam.data.readers.coco import CocoInstances, CocoPanoptic
from xsam.errors import MissingDataError, RecordError

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "person", "color": [220, 20, 60]},
    {"id": 17, "name": "cat", "isthing": 1, "supercategory": "animal", "color": [0, 0, 70]},
    {"id": 187, "name": "sky-other-merged", "isthing": 0, "supercategory": "sky", "color": [70, 130, 180]},
]
SKY, PERSON, CAT, CROWD = 5, 300, 70_000, 16_777_215  # one, two and three bytes
IMAGES = [image_entry(9, "000000000009.jpg"), image_entry(25, "000000000025.jpg")]
PANOPTIC = {
    "images": [*IMAGES, image_entry(30, "000000000030.jpg"), image_entry(31, "000000000031.jpg")],
    "annotations": [  # not in the order of the pictures
        {
            "image_id": 25,
            "file_name": "000000000025.png",
            "segments_info": [
                {"id": SKY, "category_id": 187, "iscrowd": 0, "area": 32, "bbox": [0, 0, 16, 2]}
            ],
        },
        {
            "image_id": 9,
            "file_name": "000000000009.png",
            "segments_info": [
                {"id": SKY, "category_id": 187, "iscrowd": 0, "area": 48, "bbox": [0, 0, 16, 3]},
                {"id": PERSON, "category_id": 1, "iscrowd": 0, "area": 16, "bbox": [2, 4, 4, 4]},
                {"id": CAT, "category_id": 17, "iscrowd": 0, "area": 9, "bbox": [8, 4, 3, 3]},
                {"id": CROWD, "category_id": 1, "iscrowd": 1, "area": 4, "bbox": [12, 10, 2, 2]},
            ],
        },
        {"image_id": 30, "file_name": "000000000030.png", "segments_info": []},
    ],
    "categories": CATEGORIES,
}
REGIONS = {SKY: box(0, 0, 16, 3), PERSON: box(2, 4, 6, 8), CAT: box(8, 4, 11, 7), CROWD: box(12, 10, 14, 12)}


def _write_png(path: Path, regions: dict[int, Any]) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for identity, mask in regions.items():
        pixels[mask] = (identity % 256, identity // 256 % 256, identity // 65536)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def panoptic(tmp_path: Path) -> dict[str, Any]:
    for image in PANOPTIC["images"]:
        write_image(tmp_path / "train2017" / image["file_name"], seed=image["id"])
    _write_png(tmp_path / "panoptic_train2017" / "000000000009.png", REGIONS)
    _write_png(tmp_path / "panoptic_train2017" / "000000000025.png", {SKY: box(0, 0, 16, 2)})
    return {
        "annotations": write_json(tmp_path / "panoptic_train2017.json", PANOPTIC),
        "masks": tmp_path / "panoptic_train2017",
        "images": tmp_path / "train2017",
    }


def test_panoptic_masks_pixel_by_pixel(panoptic: dict[str, Any]) -> None:
    source = CocoPanoptic(**panoptic)
    assert (source.name, len(source)) == ("coco_panoptic", 2)
    assert source.class_names == ("person", "cat", "sky-other-merged")
    assert source.skipped == {"without an annotation": 1, "without a segment": 1}
    sample = source.sample(0, np.random.default_rng(0), prompts=3)
    expected = write_image(panoptic["images"] / "000000000009.jpg", seed=9)
    np.testing.assert_array_equal(sample.rgb, expected)
    np.testing.assert_array_equal(sample.masks, [REGIONS[SKY], REGIONS[PERSON], REGIONS[CAT]])
    assert sample.classes.tolist() == [2, 0, 1]
    covered = REGIONS[SKY] | REGIONS[PERSON] | REGIONS[CAT]
    np.testing.assert_array_equal(sample.ignored, ~covered)  # the crowd, and what has no segment
    assert len(sample.prompts) == 3
    for prompt in sample.prompts:
        assert meant(prompt.labels, phrases(prompt.conversation)) == ["sky", "person", "cat"]
    other = source.sample(1, np.random.default_rng(0))
    np.testing.assert_array_equal(other.masks, [box(0, 0, 16, 2)])
    assert other.classes.tolist() == [2]


def test_one_seed_gives_one_sample(panoptic: dict[str, Any]) -> None:
    source = CocoPanoptic(**panoptic)
    first, again = (source.sample(1, np.random.default_rng(4), prompts=5) for _ in range(2))
    assert [p.conversation for p in first.prompts] == [p.conversation for p in again.prompts]
    assert len({p.conversation for p in first.prompts}) > 1


def test_options_reach_the_prompts(panoptic: dict[str, Any]) -> None:
    source = CocoPanoptic(**panoptic, absent_categories=0, name="mine")
    assert source.name == "mine"
    (prompt,) = source.sample(1, np.random.default_rng(0)).prompts
    assert phrases(prompt.conversation) == ["sky"]


@pytest.mark.parametrize("regions", [{**REGIONS, 77: box(14, 8, 15, 9)}, {SKY: REGIONS[SKY]}])
def test_other_segments_than_listed_are_an_error(panoptic: dict[str, Any], regions: dict[int, Any]) -> None:
    _write_png(panoptic["masks"] / "000000000009.png", regions)
    with pytest.raises(RecordError, match=r"panoptic_train2017\.json, image 9: .*000000000009\.png"):
        CocoPanoptic(**panoptic).sample(0, np.random.default_rng(0))


def test_sizes_must_agree(panoptic: dict[str, Any]) -> None:
    source = CocoPanoptic(**panoptic)
    write_image(panoptic["masks"] / "000000000009.png", seed=0, image_hw=(12, 15))
    with pytest.raises(RecordError, match=r"image 9: .*differs from the image in size"):
        source.sample(0, np.random.default_rng(0))
    write_image(panoptic["images"] / "000000000025.jpg", seed=0, image_hw=(16, 12))
    with pytest.raises(RecordError, match=r"image 25: .*has 16×12 pixels .* are for 12×16"):
        source.sample(1, np.random.default_rng(0))


def test_missing_files_are_named(panoptic: dict[str, Any]) -> None:
    for option in panoptic:
        with pytest.raises(MissingDataError, match=r"COCO panoptic: nowhere.* does not exist") as caught:
            CocoPanoptic(**{**panoptic, option: "nowhere"})
        assert "panoptic_train2017/" in caught.value.hint
        assert "https://cocodataset.org" in caught.value.hint
    source = CocoPanoptic(**panoptic)
    (panoptic["images"] / "000000000025.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"train2017/000000000025\.jpg does not exist"):
        source.sample(1, np.random.default_rng(0))
    (panoptic["masks"] / "000000000009.png").unlink()
    with pytest.raises(MissingDataError, match=r"panoptic_train2017/000000000009\.png does not exist"):
        source.sample(0, np.random.default_rng(0))
    (panoptic["images"] / "000000000009.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"000000000009\.jpg"):  # a wrong folder: at once
        CocoPanoptic(**panoptic)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][0].pop("file_name"), "image 9: the field 'file_name' is missing"),
        (lambda d: d["images"][0].update(height="x"), "image 9: 'height' must be a whole number, not 'x'"),
        (
            lambda d: d["annotations"][1].pop("segments_info"),
            "annotation number 1: the field 'segments_info'",
        ),
        (lambda d: d["annotations"][1]["segments_info"][0].pop("id"), "annotation number 1, segment: .*'id'"),
        (
            lambda d: d["annotations"][1]["segments_info"][0].update(category_id=4),
            "annotation number 1, segment 5: category 4 is not in 'categories'",
        ),
        (lambda d: d["annotations"][1].update(image_id=99), "annotation number 1, image 99"),
        (lambda d: d["annotations"].__setitem__(0, 5), "annotation number 0: expected a mapping"),
    ],
)
def test_malformed_panoptic_records_are_skipped_and_named(
    panoptic: dict[str, Any], change: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = copy.deepcopy(PANOPTIC)
    change(data)
    write_json(panoptic["annotations"], data)
    text = skipped_text(lambda: CocoPanoptic(**panoptic), caplog)
    assert re.search(rf"panoptic_train2017\.json.*{message}", text)


@pytest.mark.parametrize("field", ["images", "annotations", "categories"])
def test_a_file_without_a_field_is_refused(panoptic: dict[str, Any], field: str) -> None:
    write_json(panoptic["annotations"], {key: value for key, value in PANOPTIC.items() if key != field})
    with pytest.raises(RecordError, match=f"panoptic_train2017.json: the field '{field}' is missing"):
        CocoPanoptic(**panoptic)


INSTANCES = {
    "images": [*IMAGES, image_entry(30, "000000000030.jpg")],
    "annotations": [
        {"id": 71, "image_id": 25, "category_id": 1, "iscrowd": 0, "segmentation": [polygon(10, 6, 99, 99)]},
        {
            "id": 70,
            "image_id": 9,
            "category_id": 17,
            "iscrowd": 0,
            "segmentation": [polygon(1, 1, 4, 3), polygon(6, 1, 8, 3)],
        },
        {"id": 72, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": rle(box(3, 2, 9, 9))},
        {
            "id": 73,
            "image_id": 9,
            "category_id": 1,
            "iscrowd": 1,
            "segmentation": {"size": [12, 16], "counts": [168, 24]},
        },
        {"id": 74, "image_id": 9, "category_id": 17, "iscrowd": 1, "segmentation": [polygon(0, 10, 2, 12)]},
        {"id": 75, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": [[3, 3, 3.2, 3, 3.2, 3.2]]},
    ],
    "categories": CATEGORIES[:2],
}


@pytest.fixture
def instances(tmp_path: Path) -> dict[str, Any]:
    for image in IMAGES:
        write_image(tmp_path / "train2017" / image["file_name"], seed=image["id"])
    return {
        "annotations": write_json(tmp_path / "instances_train2017.json", INSTANCES),
        "images": tmp_path / "train2017",
    }


def test_instance_masks_pixel_by_pixel(instances: dict[str, Any]) -> None:
    source = CocoInstances(**instances)
    assert (source.name, source.class_names, len(source)) == ("coco_instance", ("person", "cat"), 2)
    assert source.skipped == {"without an object": 1}
    sample = source.sample(0, np.random.default_rng(0))
    cat = box(1, 1, 4, 3) | box(6, 1, 8, 3)
    np.testing.assert_array_equal(sample.masks, [cat, box(3, 2, 9, 9)])  # the sliver holds no pixel
    assert sample.classes.tolist() == [1, 0]
    np.testing.assert_array_equal(sample.ignored, box(14, 0, 16, 12) | box(0, 10, 2, 12))
    (prompt,) = sample.prompts
    assert meant(prompt.labels, phrases(prompt.conversation)) == ["cat", "person"]
    outside = source.sample(1, np.random.default_rng(0))
    np.testing.assert_array_equal(outside.masks, [box(10, 6, 16, 12)])
    assert outside.ignored is None


def test_absent_categories_are_in_the_mix(instances: dict[str, Any]) -> None:
    source = CocoInstances(**instances, all_absent_share=1.0)
    (prompt,) = source.sample(1, np.random.default_rng(0)).prompts
    listed = phrases(prompt.conversation)
    assert sorted(listed) == ["cat", "person"]
    assert prompt.labels.tolist() == [listed.index("person")]


def test_there_is_no_picture_beyond_the_last(instances: dict[str, Any]) -> None:
    with pytest.raises(IndexError):
        CocoInstances(**instances).sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="prompts must be positive"):
        CocoInstances(**instances).sample(0, np.random.default_rng(0), prompts=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("segmentation"),
            r"annotation number 1 \(id 70\): the field 'segmentation' is missing",
        ),
        (lambda a: a.update(image_id=4), "annotation number 1, image 4"),
        (lambda a: a.update(category_id=187), r"annotation number 1 \(id 70\): category 187"),
        (lambda a: a.update(id=None), "annotation number 1: 'id' must be a whole number or text"),
        (lambda a: a.update(iscrowd="no"), "'iscrowd' must be 0 or 1, not 'no'"),
    ],
)
def test_malformed_annotations_are_skipped_and_named(
    instances: dict[str, Any], change: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = copy.deepcopy(INSTANCES)
    change(data["annotations"][1])
    write_json(instances["annotations"], data)
    text = skipped_text(lambda: CocoInstances(**instances), caplog)
    assert re.search(rf"instances_train2017\.json.*{message}", text)


def test_a_malformed_polygon_is_named_when_it_is_read(instances: dict[str, Any]) -> None:
    data = copy.deepcopy(INSTANCES)
    data["annotations"][1]["segmentation"] = [[1, 2, 3]]
    write_json(instances["annotations"], data)
    source = CocoInstances(**instances)
    with pytest.raises(RecordError, match=r"instances_train2017\.json, image 9, annotation 70: a polygon"):
        source.sample(0, np.random.default_rng(0))
