"""Opening a data set by kind."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.unit.data.readers.disk import write_image, write_json
from xsam.data.readers import READERS, DatasetError, MissingDataError, RecordError, open_source
from xsam.data.samples import SampleSource
from xsam.errors import XSamError

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
    with pytest.raises(DatasetError, match="unknown dataset kind 'coco'") as caught:
        open_source("coco")
    assert set(caught.value.hint.removeprefix("known: ").split(", ")) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_forgotten_options_are_named(kind: str) -> None:
    with pytest.raises(DatasetError, match=f"{kind.replace('+', '.')}: missing a required argument"):
        open_source(kind)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_unknown_options_are_named(kind: str) -> None:
    wanted = inspect.signature(READERS[kind]).parameters.values()
    options = {option.name: "nowhere" for option in wanted if option.default is option.empty}
    with pytest.raises(DatasetError, match="got an unexpected keyword argument 'color'"):
        open_source(kind, **options, color="red")


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="llava: got an unexpected keyword argument 'folder'") as caught:
        open_source("llava", annotations="a", images="b", folder="c")
    assert caught.value.hint == "options: annotations, images, turn, max_chars, name"


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
