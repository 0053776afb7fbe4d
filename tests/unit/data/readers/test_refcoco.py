"""RefCOCO in REFER layout: phrases, splits, negatives, and malicious pickles."""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.readers.disk import (
    box,
    image_entry,
    meant,
    phrases,
    polygon,
    rle,
    write_image,
    write_json,
)
from xsam.data.readers.refcoco import RefCoco
from xsam.errors import DatasetError, InvalidOptionError, MissingDataError, RecordError

INSTANCES = {
    "images": [image_entry(1, "COCO_1.jpg"), image_entry(2, "COCO_2.jpg"), image_entry(3, "COCO_3.jpg")],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 1, "segmentation": [polygon(0, 0, 4, 9)], "iscrowd": 0},
        {"id": 12, "image_id": 1, "category_id": 1, "segmentation": rle(box(8, 2, 12, 12)), "iscrowd": 0},
        {"id": 13, "image_id": 1, "category_id": 67, "segmentation": [polygon(0, 10, 16, 12)], "iscrowd": 0},
        {"id": 21, "image_id": 2, "category_id": 67, "segmentation": [polygon(1, 6, 9, 12)], "iscrowd": 0},
        {"id": 22, "image_id": 2, "category_id": 17, "segmentation": [polygon(3, 1, 5, 4)], "iscrowd": 0},
        {"id": 31, "image_id": 3, "category_id": 17, "segmentation": [polygon(2, 2, 6, 6)], "iscrowd": 0},
    ],
    "categories": [
        {"id": 1, "name": "person"},
        {"id": 17, "name": "cat"},
        {"id": 67, "name": "dining table"},
    ],
}


def _ref(ref_id: int, ann_id: int, category_id: int, split: str, *sentences: str) -> dict[str, Any]:
    image_id = ann_id // 10
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": category_id,
        "split": split,
        "file_name": f"COCO_{image_id}_{ref_id}.jpg",  # as in the real files: not the image's name
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent": text, "raw": f"raw {text}", "sent_id": number, "tokens": text.split()}
            for number, text in enumerate(sentences)
        ],
    }


REFS = [
    _ref(50, 12, 1, "train", "Lady on the right", "right one"),
    _ref(51, 21, 67, "train", "wooden table", "brown thing"),
    _ref(52, 11, 1, "train", "man", "left  <p>guy</p>"),
    _ref(53, 22, 17, "train", "far left", "cat"),
    _ref(54, 31, 17, "val", "the cat asleep"),
    _ref(55, 12, 1, "train", "woman"),
    _ref(56, 11, 1, "train", "<SEG>", " "),
]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    for image in INSTANCES["images"]:
        write_image(tmp_path / "train2014" / image["file_name"], seed=image["id"])
    write_json(tmp_path / "refcoco" / "instances.json", INSTANCES)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=0))
    return {"root": tmp_path, "images": tmp_path / "train2014"}


def test_phrases_mean_their_objects(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, negative_share=0.0)
    assert (source.name, source.class_names, len(source)) == ("refcoco", (), 2)
    assert source.skipped == {"refs without text": 1}
    masks = [box(8, 2, 12, 12), box(0, 0, 4, 9)]  # two refs refer to the first, one to the second
    allowed = {"lady on the right": 0, "right one": 0, "woman": 0, "man": 1, "left guy": 1}
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    for _ in range(60):
        sample = source.sample(0, rng, prompts=2)
        np.testing.assert_array_equal(sample.masks, masks)
        assert len(sample.prompts) == 2
        for prompt in sample.prompts:
            (text,) = phrases(prompt.conversation)
            assert prompt.kind == "referring"
            assert prompt.labels.tolist() == [0 if index == allowed[text] else -1 for index in (0, 1)]
            seen[text] += 1
    assert seen.keys() == allowed.keys()
    np.testing.assert_array_equal(sample.rgb, write_image(options["images"] / "COCO_1.jpg", seed=1))


def test_the_words_are_those_of_the_project(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, split="val", negative_share=0.0)
    (prompt,) = source.sample(0, np.random.default_rng(0)).prompts
    assert prompt.conversation.question == (
        "<|user|>\n<image>\nPlease segment <p>the cat asleep</p> in this image.<|end|>\n<|assistant|>\n"
    )
    assert prompt.conversation.answer == "Sure, it is <SEG>.<|end|>"


def test_no_ref_is_asked_twice(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, negative_share=0.0)
    for seed in range(20):
        prompts = source.sample(1, np.random.default_rng(seed), prompts=9).prompts
        texts = [phrases(prompt.conversation)[0] for prompt in prompts]
        assert len(texts) == 2
        assert len({"table" in t or "thing" in t for t in texts}) == 2


def test_absent_phrases_name_a_category_that_is_not_there(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, negative_share=1.0)
    rng = np.random.default_rng(0)
    absent = {0: set(), 1: set()}
    for _ in range(60):
        for index, texts in absent.items():
            sample = source.sample(index, rng)
            (prompt,) = sample.prompts
            texts.add(phrases(prompt.conversation)[0])
            assert prompt.kind == "absent_referring"
            assert prompt.labels.tolist() == [-1] * len(sample.masks) == [-1, -1]
            assert prompt.conversation.answer == "Sure, it is <SEG>.<|end|>"
    # A table is in the first image although no phrase refers to it; "far left" may be true anywhere.
    assert absent == {0: {"cat"}, 1: {"lady on the right", "man", "left guy", "woman"}}


def test_the_share_of_absent_phrases(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, negative_share=0.3)
    rng = np.random.default_rng(0)
    kinds = Counter(source.sample(0, rng).prompts[0].kind for _ in range(300))
    assert 0.2 < kinds["absent_referring"] / 300 < 0.4


def test_without_a_foreign_phrase_the_prompt_is_a_present_one(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, split="val", negative_share=1.0)
    sample = source.sample(0, np.random.default_rng(0))
    assert [p.kind for p in sample.prompts] == ["referring"]
    assert meant(sample.prompts[0].labels, phrases(sample.prompts[0].conversation)) == ["the cat asleep"]


def test_splits_are_kept_apart(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, split="val")
    assert len(source) == 1
    np.testing.assert_array_equal(source.sample(0, np.random.default_rng(0)).masks, [box(2, 2, 6, 6)])
    with pytest.raises(InvalidOptionError, match="has no split 'testA'") as caught:
        RefCoco("refcoco", **options, split="testA")
    assert caught.value.hint == "it has train, val"


@pytest.mark.parametrize(
    ("dataset", "partition", "file"),
    [
        ("refcocog", None, "refcocog/refs(umd).p"),
        ("refcocog", "google", "refcocog/refs(google).p"),
        ("refcoco+", None, "refcoco+/refs(unc).p"),
    ],
)
def test_each_data_set_has_its_own_files(
    options: dict[str, Any], dataset: str, partition: str | None, file: str
) -> None:
    folder = options["root"] / dataset
    with pytest.raises(MissingDataError, match=f"{dataset.replace('+', '.')} does not exist"):
        RefCoco(dataset, **options, partition=partition)
    write_json(folder / "other.json", [])
    with pytest.raises(MissingDataError) as caught:
        RefCoco(dataset, **options, partition=partition)
    assert file in caught.value.message
    assert file in caught.value.hint
    assert "https://github.com/lichengunc/refer" in caught.value.hint
    (options["root"] / file).write_bytes(pickle.dumps(REFS))
    with pytest.raises(MissingDataError, match=r"instances\.json does not exist"):
        RefCoco(dataset, **options, partition=partition)
    write_json(folder / "instances.json", INSTANCES)
    assert len(RefCoco(dataset, **options, partition=partition)) == 2


def test_refs_may_be_json(options: dict[str, Any]) -> None:
    (options["root"] / "refcoco" / "refs(unc).p").unlink()
    write_json(options["root"] / "refcoco" / "refs(unc).json", REFS)
    assert len(RefCoco("refcoco", **options)) == 2


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [("refclef", {}), ("refcoco", {"partition": "umd"}), ("refcoco", {"negative_share": -0.1})],
)
def test_options_are_checked(options: dict[str, Any], dataset: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        RefCoco(dataset, **options, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ref: ref.pop("ref_id"), "ref number 0: the field 'ref_id' is missing"),
        (lambda ref: ref.pop("split"), "ref 50: the field 'split' is missing"),
        (lambda ref: ref.update(sentences="man"), "ref 50: 'sentences' must be list"),
        (lambda ref: ref["sentences"][0].pop("sent"), "ref 50: the field 'sent' is missing"),
        (lambda ref: ref.update(ann_id=99), r"ref 50: instances\.json has no annotation 99"),
        (lambda ref: ref.update(image_id=2), r"ref 50: instances\.json has no annotation 12 in its image"),
    ],
)
def test_malformed_refs_are_named_and_skipped(
    options: dict[str, Any], change: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    refs = copy.deepcopy(REFS)
    change(refs[0])
    (options["root"] / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    source = RefCoco("refcoco", **options)
    assert source.skipped == {"malformed refs": 1, "refs without text": 1}
    assert re.search(rf"refs\(unc\)\.p, {message}", caplog.text)
    assert len(source) == 2  # only one of the refs is lost
    assert sum(len(prompt.labels) for prompt in source.whole(0).prompts) > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data["annotations"][0].pop("category_id"), "malformed annotations"),
        (lambda data: data["annotations"][0].update(category_id=5), "malformed annotations"),
        (
            lambda data: data["annotations"].append({**data["annotations"][0], "image_id": 2}),
            "annotations with the id of another",
        ),
    ],
)
def test_malformed_objects_are_skipped(options: dict[str, Any], change: Any, reason: str) -> None:
    data = copy.deepcopy(INSTANCES)
    change(data)
    write_json(options["root"] / "refcoco" / "instances.json", data)
    source = RefCoco("refcoco", **options)
    assert source.skipped[reason] == 1
    assert source.skipped["malformed refs"] == 2  # those of the object
    assert [phrases(p.conversation)[0] for p in source.whole(0).prompts] == [
        "lady on the right",
        "right one",
        "woman",
    ]


def test_refs_of_an_image_that_is_not_listed_are_skipped(options: dict[str, Any]) -> None:
    data = copy.deepcopy(INSTANCES)
    del data["images"][1]
    write_json(options["root"] / "refcoco" / "instances.json", data)
    source = RefCoco("refcoco", **options)
    assert (len(source), source.skipped["refs of unlisted images"]) == (1, 2)


def test_a_benchmark_asks_every_sentence_in_order(options: dict[str, Any]) -> None:
    source = RefCoco("refcoco", **options, negative_share=1.0)
    sample = source.whole(0)
    np.testing.assert_array_equal(sample.masks, [box(8, 2, 12, 12), box(0, 0, 4, 9)])
    asked = [(phrases(p.conversation)[0], p.labels.tolist()) for p in sample.prompts]
    assert asked == [
        ("lady on the right", [0, -1]),
        ("right one", [0, -1]),
        ("man", [-1, 0]),
        ("left guy", [-1, 0]),
        ("woman", [0, -1]),
    ]


def test_an_object_without_pixels_is_named(options: dict[str, Any]) -> None:
    data = copy.deepcopy(INSTANCES)
    data["annotations"][0]["segmentation"] = [polygon(-9, -9, -2, -2)]
    write_json(options["root"] / "refcoco" / "instances.json", data)
    source = RefCoco("refcoco", **options)
    with pytest.raises(RecordError, match=r"image 1, annotation 11: the object covers no pixels"):
        source.sample(0, np.random.default_rng(0))


class _Touch:
    """Object that creates a file when an ordinary reader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused(options: dict[str, Any], tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    content = pickle.dumps([*REFS, _Touch(trap)], protocol=protocol)
    (options["root"] / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p cannot be read safely: it has the opcode"):
        RefCoco("refcoco", **options)
    assert not trap.exists()
    pickle.loads(content)  # the trap works
    assert trap.exists()


def test_refs_must_be_a_list(options: dict[str, Any]) -> None:
    (options["root"] / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps({"refs": REFS}))
    with pytest.raises(DatasetError, match="must hold a list of refs"):
        RefCoco("refcoco", **options)
