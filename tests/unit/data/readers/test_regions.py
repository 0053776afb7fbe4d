"""COCO-VGD and COCO-Interactive: regions from files, and randomly drawn ones."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.unit.data.readers.disk import (
    box,
    image_entry,
    phrases,
    polygon,
    rle,
    skipped_text,
    write_image,
    write_json,
)
from xsam.data.readers.regions import REGION_KINDS, CocoRegions, draw_region
from xsam.errors import InvalidOptionError, MissingDataError, RecordError

CATS = {31: box(1, 1, 4, 5), 32: box(10, 6, 14, 11)}  # annotation → mask
DOG = {33: box(5, 6, 9, 10)}
CROWD = {34: box(0, 11, 16, 12)}
SPECK = {35: box(15, 0, 16, 2)}  # a cat of two pixels
GIVEN = {  # annotation → kind → region
    31: {"point": box(2, 2, 3, 3), "scribble": box(1, 3, 4, 4), "box": box(0, 0, 5, 6), "mask": CATS[31]},
    32: {"point": box(11, 8, 12, 9), "scribble": box(0, 0, 0, 0), "box": box(10, 6, 15, 12)},
    33: {"point": box(6, 7, 7, 8), "scribble": box(5, 8, 9, 9), "box": box(5, 6, 9, 10), "mask": DOG[33]},
    35: {"point": box(0, 0, 0, 0), "box": box(0, 0, 0, 0)},
}
MASKS = [CATS[31], CATS[32], DOG[33], SPECK[35]]
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)  # a disc of radius 1, for 1 % of 16 pixels


def _annotations() -> list[dict[str, Any]]:
    categories = {31: 17, 32: 17, 33: 18, 34: 17, 35: 17}
    return [
        {
            "id": identity,
            "category_id": categories[identity],
            "iscrowd": int(identity in CROWD),
            "segmentation": rle(mask),
            "bbox": [0, 0, 1, 1],
            "area": int(mask.sum()),
        }
        for identity, mask in {**CATS, **DOG, **CROWD, **SPECK}.items()
    ]


def _vgd() -> list[dict[str, Any]]:
    record = {
        "image_file": "000000000009.jpg",
        "image_id": 9,
        "image_size": [12, 16],
        "image_info": {"file_name": "000000000009.jpg", "image_id": 9, "height": 12, "width": 16},
        "annotations": [
            {
                **annotation,
                "visual_prompts": {
                    f"{kind}_visual_prompt": rle(region)
                    for kind, region in GIVEN.get(annotation["id"], {}).items()
                },
            }
            for annotation in _annotations()
        ],
    }
    return [record, {**record, "image_id": 10, "annotations": []}]


def _psalm() -> list[dict[str, Any]]:
    annotations = [
        annotation
        | {
            f"{kind}_visual_prompt_mask": rle(region)
            for kind, region in GIVEN.get(annotation["id"], {}).items()
        }
        for annotation in _annotations()
    ]
    info = image_entry(9, "000000000009.jpg")
    return [{"image": "000000000009.jpg", "image_info": info, "new_img_id": 0, "anns": annotations}]


def _coco() -> dict[str, Any]:
    return {
        "images": [image_entry(9, "000000000009.jpg")],
        "annotations": [{**annotation, "image_id": 9} for annotation in _annotations()],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }


def _source(tmp_path: Path, task: str, content: Any, **options: Any) -> CocoRegions:
    write_image(tmp_path / "train2017" / "000000000009.jpg", seed=9)
    path = write_json(tmp_path / "regions.json", content)
    return CocoRegions(task, annotations=path, images=tmp_path / "train2017", **options)


def _index(region: NDArray[np.bool_], regions: list[NDArray[np.bool_]]) -> int:
    (found,) = [number for number, other in enumerate(regions) if np.array_equal(region, other)]
    return found


@pytest.mark.parametrize("content", [_vgd(), _psalm(), _coco()])
@pytest.mark.parametrize("task", ["interactive", "visual_grounded"])
def test_masks_pixel_by_pixel(tmp_path: Path, content: Any, task: str) -> None:
    source = _source(tmp_path, task, content)
    assert len(source) == 1
    assert len(source.class_names) == 2
    sample = source.sample(0, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.masks, MASKS)
    np.testing.assert_array_equal(sample.ignored, CROWD[34])
    np.testing.assert_array_equal(sample.rgb, write_image(tmp_path / "train2017/000000000009.jpg", seed=9))
    (prompt,) = sample.prompts
    assert sample.classes.tolist() == [0, 0, 1, 0]
    assert prompt.kind in ([f"{task}_{kind}" for kind in REGION_KINDS] if task == "interactive" else [task])
    assert len(prompt.regions) == len(phrases(prompt.conversation)) >= 1
    assert set(phrases(prompt.conversation)) == {"<region>"}


def test_a_region_of_the_file_means_its_object(tmp_path: Path) -> None:
    source = _source(tmp_path, "interactive", _vgd(), min_area_px=3)
    assert source.name == "coco_interactive"
    assert source.skipped == {"without an object": 1}
    regions = [
        (region, mask)
        for identity, mask in {**CATS, **DOG}.items()
        for region in GIVEN[identity].values()
        if region.any()
    ]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        sample = source.sample(0, rng)
        (prompt,) = sample.prompts
        (region,) = prompt.regions
        matching = [n for n, (given_, _) in enumerate(regions) if np.array_equal(given_, region)]
        target = sample.masks[prompt.labels == 0]
        assert len(target) == 1
        assert any(np.array_equal(target[0], regions[n][1]) for n in matching)
        assert sorted(prompt.labels.tolist()) == [-1, -1, -1, 0]
        seen |= set(matching)
    assert seen == set(range(len(regions)))


def test_the_words_are_those_of_the_project(tmp_path: Path) -> None:
    (prompt,) = _source(tmp_path, "interactive", _vgd()).sample(0, np.random.default_rng(0)).prompts
    assert prompt.conversation.question == (
        "<|user|>\n<image>\nCan you segment the image based on the following regions: <p><region></p>? "
        "Please output the corresponding segmentation mask.<|end|>\n<|assistant|>\n"
    )
    assert prompt.conversation.answer == "Sure, <SEG>.<|end|>"


def test_several_interactive_prompts_ask_for_several_objects(tmp_path: Path) -> None:
    source = _source(tmp_path, "interactive", _vgd(), min_area_px=10)
    for seed in range(10):
        prompts = source.sample(0, np.random.default_rng(seed), prompts=9).prompts
        assert sorted(int(np.flatnonzero(p.labels == 0)[0]) for p in prompts) == [0, 1, 2]
    small = _source(tmp_path, "interactive", _vgd(), min_area_px=1)
    assert len(small.sample(0, np.random.default_rng(0), prompts=9).prompts) == 4
    only_small = _source(tmp_path, "interactive", _vgd(), min_area_px=10_000)
    assert len(only_small.sample(0, np.random.default_rng(0), prompts=9).prompts) == 4


def test_a_visual_grounded_region_means_all_of_its_category(tmp_path: Path) -> None:
    source = _source(tmp_path, "visual_grounded", _vgd(), region_kinds=["box"], min_area_px=3)
    assert source.name == "coco_vgd"
    boxes = [GIVEN[31]["box"], GIVEN[32]["box"], GIVEN[33]["box"]]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        for prompt in source.sample(0, rng, prompts=2).prompts:
            picked = [_index(region, boxes) for region in prompt.regions]
            seen.add(tuple(picked))
            expected = [-1, -1, -1, -1]
            for number, pick in enumerate(picked):
                for row in (2,) if pick == 2 else (0, 1, 3):  # the speck is a cat too
                    expected[row] = number
            assert prompt.labels.tolist() == expected
    assert seen == {(0,), (1,), (2,), (0, 2), (1, 2), (2, 0), (2, 1)}


def test_a_benchmark_draws_the_object_that_shows_its_region(tmp_path: Path) -> None:
    """The first of the file is often the largest, which is easier. Two runs draw alike."""
    records = []
    for number in range(40):
        record = copy.deepcopy(_vgd()[0])
        record["image_id"] = record["image_info"]["image_id"] = number
        record["annotations"] = record["annotations"][:2]  # two cats, both with a point and a box
        records.append(record)
    write_image(tmp_path / "000000000009.jpg", seed=9)
    path = write_json(tmp_path / "vgd.json", records)
    drawn = []
    for _ in range(2):
        source = CocoRegions(
            "visual_grounded", annotations=path, images=tmp_path, region_kinds=["point", "box"]
        )
        by_point, by_box = zip(*(source.whole(index).prompts for index in range(40)), strict=True)
        drawn.append([bool(prompt.regions[0][2, 2]) for prompt in by_point])
        assert [bool(prompt.regions[0][2, 2]) for prompt in by_box] == drawn[-1]
        assert all(prompt.labels.tolist() == [0, 0] for prompt in by_point), "all cats are meant"
    assert drawn[0] == drawn[1]
    assert 10 < sum(drawn[0]) < 30


def test_the_number_of_regions_can_be_limited(tmp_path: Path) -> None:
    source = _source(tmp_path, "visual_grounded", _vgd(), max_regions=1)
    rng = np.random.default_rng(0)
    assert {len(source.sample(0, rng).prompts[0].regions) for _ in range(20)} == {1}


@pytest.mark.parametrize("kind", ["point", "scribble", "box", "mask"])
def test_thin_points_and_scribbles_are_widened(tmp_path: Path, kind: str) -> None:
    source = _source(tmp_path, "interactive", _psalm(), region_kinds=[kind])
    expected = GIVEN[33][kind].copy()
    if kind in ("point", "scribble"):
        for y_px, x_px in np.argwhere(GIVEN[33][kind]):
            expected[y_px - 1 : y_px + 2, x_px - 1 : x_px + 2] |= CROSS
    rng = np.random.default_rng(0)
    dogs = [p for _ in range(30) for p in source.sample(0, rng).prompts if p.labels[2] == 0]
    assert dogs
    for prompt in dogs:
        np.testing.assert_array_equal(prompt.regions[0], expected)


def test_regions_of_x_sam_are_wide_already(tmp_path: Path) -> None:
    source = _source(tmp_path, "interactive", _vgd(), region_kinds=["point"])
    rng = np.random.default_rng(0)
    dogs = [p for _ in range(30) for p in source.sample(0, rng).prompts if p.labels[2] == 0]
    assert dogs
    for prompt in dogs:
        np.testing.assert_array_equal(prompt.regions[0], GIVEN[33]["point"])


@pytest.mark.parametrize("without", ["none", "empty", "coco"])
def test_where_the_file_has_no_region_one_is_drawn(tmp_path: Path, without: str) -> None:
    content: Any = _coco()
    if without != "coco":
        content = _vgd()
        for annotation in content[0]["annotations"]:
            if without == "none":
                annotation.pop("visual_prompts")
            else:
                empty = rle(box(0, 0, 0, 0))
                annotation["visual_prompts"] = {f"{kind}_visual_prompt": empty for kind in REGION_KINDS}
    source = _source(tmp_path, "interactive", content, region_kinds=["mask"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        sample = source.sample(0, rng)
        (prompt,) = sample.prompts
        np.testing.assert_array_equal(prompt.regions, sample.masks[prompt.labels == 0])


@given(
    mask=arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))).filter(np.any),
    kind=st.sampled_from(REGION_KINDS),
    seed=st.integers(0, 5),
)
def test_drawn_regions_touch_their_object(mask: NDArray[np.bool_], kind: str, seed: int) -> None:
    region = draw_region(mask, kind, np.random.default_rng(seed))
    assert (region.shape, region.dtype) == (mask.shape, np.bool_)
    if kind == "mask":
        np.testing.assert_array_equal(region, mask)
    elif kind != "box":
        assert (region & mask).any()
    assert region.any()


def test_a_drawn_box_is_close_to_the_object() -> None:
    mask = np.zeros((100, 200), np.bool_)
    mask[20:60, 40:140] = True
    rng = np.random.default_rng(0)
    sides = set()
    for _ in range(100):
        region = draw_region(mask, "box", rng)
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        assert region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        for value, true, reach in (
            (rows[0], 20, 2),
            (rows[-1] + 1, 60, 2),
            (columns[0], 40, 5),
            (columns[-1] + 1, 140, 5),
        ):
            assert abs(int(value) - true) <= reach
        sides.add((int(rows[0]), int(columns[0])))
    assert len(sides) > 10


def test_a_drawn_point_is_small_and_inside() -> None:
    mask = box(3, 3, 9, 9)
    for seed in range(30):
        region = draw_region(mask, "point", np.random.default_rng(seed))
        (y_px, x_px) = np.argwhere(region).mean(axis=0)
        assert region.sum() == 5
        assert mask[int(y_px), int(x_px)]


@pytest.mark.parametrize(
    "options",
    [
        {"task": "referring"},
        {"region_kinds": "point"},
        {"region_kinds": ["circle"]},
        {"region_kinds": []},
        {"max_regions": 0},
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        _source(tmp_path, **{"task": "interactive", "content": _vgd(), **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("annotations"), "record number 0: expected 'annotations' or 'anns'"),
        (lambda r: r.pop("image_id"), "record number 0: the field 'image_id' is missing"),
        (lambda r: r.update(image_size=[12]), "record number 0: 'image_size' must be"),
        (
            lambda r: r["annotations"][0].update(category_id=10**20),
            r"record number 0 \(image 9\), annotation 31: 'category_id' must be a whole number",
        ),
        (lambda r: r["annotations"][0].pop("id"), r"record number 0 \(image 9\): the field 'id'"),
        (
            lambda r: r["annotations"][0].pop("segmentation"),
            r"record number 0 \(image 9\), annotation 31: the field 'segmentation'",
        ),
        (
            lambda r: r["annotations"][0].update(visual_prompts={"box_visual_prompt": 4}),
            r"record number 0 \(image 9\), annotation 31: 'box_visual_prompt' must be dict",
        ),
    ],
)
def test_malformed_records_are_skipped_and_named(
    tmp_path: Path, change: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = copy.deepcopy(_vgd())
    change(content[0])
    text = skipped_text(lambda: _source(tmp_path, "interactive", content), caplog)
    assert re.search(rf"regions\.json, {message}", text)


def test_a_malformed_region_is_named_when_it_is_read(tmp_path: Path) -> None:
    content = _vgd()
    for annotation in content[0]["annotations"]:
        annotation["visual_prompts"] = {"box_visual_prompt": {"size": [12, 16], "counts": "Z"}}
    with pytest.raises(RecordError, match=r"regions\.json, image 9, annotation 3\d: "):
        _source(tmp_path, "interactive", content).sample(0, np.random.default_rng(0))


def test_a_picture_whose_objects_hold_no_pixel_is_named(tmp_path: Path) -> None:
    content = _coco()
    content["annotations"] = [{**content["annotations"][0], "segmentation": [polygon(-5, -5, -2, -2)]}]
    with pytest.raises(RecordError, match=r"regions\.json, image 9: no object covers any pixels"):
        _source(tmp_path, "visual_grounded", content).sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("task", "expected"),
    [("interactive", "coco_interactive_train_psalm.json"), ("visual_grounded", "coco_vgdseg_train.json")],
)
def test_missing_files_are_named(tmp_path: Path, task: str, expected: str) -> None:
    with pytest.raises(MissingDataError, match=r"none\.json does not exist") as caught:
        CocoRegions(task, annotations=tmp_path / "none.json", images=tmp_path)
    assert expected in caught.value.hint
