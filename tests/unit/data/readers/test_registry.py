"""Opening a data set by kind."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.readers.disk import write_image, write_json
from xsam.data.readers import READERS, DatasetError, MissingDataError, RecordError, open_source
from xsam.data.samples import SampleSource
from xsam.errors import InvalidOptionError, XSamError

KINDS = {
    "coco_panoptic",
    "coco_instance",
    "refcoco",
    "refcoco+",
    "refcocog",
    "grefcoco",
    "reason_seg",
    "gcg_grandf",
    "gcg_openpsg",
    "gcg_refcocog",
    "gcg_flickr",
    "coco_vgd",
    "coco_interactive",
    "llava",
}


def test_an_unknown_kind_lists_the_known_ones() -> None:
    assert READERS.keys() == KINDS
    with pytest.raises(InvalidOptionError, match="unknown dataset kind 'coco'") as caught:
        open_source("coco")
    assert set(caught.value.hint.removeprefix("known: ").split(", ")) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_forgotten_options_are_named(kind: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"{kind.replace('+', '.')}: missing a required argument"):
        open_source(kind)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_unknown_options_are_named(kind: str) -> None:
    wanted = inspect.signature(READERS[kind]).parameters.values()
    options = {option.name: "nowhere" for option in wanted if option.default is option.empty}
    with pytest.raises(InvalidOptionError, match="got an unexpected keyword argument 'color'"):
        open_source(kind, **options, color="red")


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        InvalidOptionError, match="llava: got an unexpected keyword argument 'folder'"
    ) as caught:
        open_source("llava", annotations="a", images="b", folder="c")
    assert caught.value.hint == "options: annotations, images, turn, max_chars, name"


@pytest.mark.parametrize(
    ("kind", "option", "value", "expected"),
    [
        ("coco_vgd", "max_regions", "many", "a whole number"),
        ("coco_vgd", "max_regions", 2.5, "a whole number"),
        ("coco_vgd", "max_regions", True, "a whole number"),
        ("coco_vgd", "region_kinds", "box", "a list"),
        ("coco_vgd", "region_kinds", [1], "a list"),
        ("refcoco", "negative_share", "0.1", "a number"),
        ("refcoco", "partition", 3, "text or null"),
        ("llava", "annotations", None, "text"),
        ("coco_panoptic", "absent_categories", [], "a whole number or null"),
        ("reason_seg", "explanations", 5, "text or true or false"),
    ],
)
def test_options_of_another_type_are_named(kind: str, option: str, value: Any, expected: str) -> None:
    """Some were a TypeError, reported as a bug."""
    paths = {"root": "r"} if kind in ("refcoco", "reason_seg") else {"annotations": "a"}
    paths |= {} if kind == "reason_seg" else {"images": "b"}
    paths |= {"masks": "m"} if kind == "coco_panoptic" else {}
    with pytest.raises(InvalidOptionError, match=f"^{kind}: {option} must be {expected}, got "):
        open_source(kind, **{**paths, option: value})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_missing_files_say_what_is_expected_and_where_it_is_published(kind: str) -> None:
    wanted = inspect.signature(READERS[kind]).parameters
    options = {name: "nowhere" for name in ("annotations", "images", "masks", "root") if name in wanted}
    with pytest.raises(MissingDataError, match=r"nowhere.* does not exist") as caught:
        open_source(kind, **options)
    assert "expected: " in caught.value.hint
    assert "published at https://" in caught.value.hint


def test_an_opened_source_is_a_source(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", seed=0)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
    path = write_json(tmp_path / "chat.json", [{"id": "a", "image": "a.jpg", "conversations": talk}])
    source: SampleSource = open_source("llava", annotations=str(path), images=str(tmp_path), name="chat")
    assert (source.name, source.class_names, len(source)) == ("chat", (), 1)
    copied = pickle.loads(pickle.dumps(source))  # data loaders send sources to other processes
    sample = copied.sample(0, np.random.default_rng(0))
    assert sample.prompts[0].conversation.answer == "Noise.<|end|>"


@pytest.mark.parametrize("cls", [DatasetError, MissingDataError, RecordError])
def test_errors_cross_process_borders(cls: type[XSamError]) -> None:
    copied = pickle.loads(pickle.dumps(cls("what happened", hint="what to do")))
    assert type(copied) is cls
    assert (copied.message, copied.hint) == ("what happened", "what to do")
    assert len({DatasetError.code, MissingDataError.code, RecordError.code, XSamError.code}) == 4
