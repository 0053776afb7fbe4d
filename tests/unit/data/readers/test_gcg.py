"""GranD-f: captions with masks, in its three forms."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from xsam.data.readers.gcg import GroundedCaptions
from xsam.errors import InvalidOptionError, MissingDataError, RecordError

QUESTION = (
    "<|user|>\n<image>\nCan you provide a brief description of the this image? Please output interleaved "
    "segmentation masks for the corresponding phrases.<|end|>\n<|assistant|>\n"
)
END = " The segmentation mask is <SEG>.<|end|>"
GRAND = [
    {
        "file_name": "train2017/1.jpg",
        "image_id": "1",
        "caption": '"A man rides a red bike past a man"',
        "groundings": {
            "a red bike": {"token_positives": [12, 22], "rle_masks": [rle(box(4, 6, 9, 11))]},
            "A man": {
                "token_positives": [0, 5],
                "rle_masks": [rle(box(4, 0, 7, 6)), rle(box(5, 5, 8, 7))],
            },
            "red bike": {"token_positives": [14, 22], "rle_masks": [rle(box(0, 0, 2, 2))]},  # overlaps
            "man": {"token_positives": [31, 34], "rle_masks": [rle(box(13, 0, 15, 8))]},  # one too far
            "rides": {"token_positives": [6, 11], "rle_masks": []},  # no pixel
            "a dog": {"token_positives": [0, 5], "rle_masks": [rle(box(1, 1, 2, 2))]},  # not in the caption
        },
    },
    {
        "file_name": "train2017/2.jpg",
        "image_id": "2",
        "caption": "Two  <p>dogs</p> on the grass. <SEG>",
        "groundings": {"the grass": {"token_positives": [0, 3], "rle_masks": [rle(box(0, 8, 16, 12))]}},
    },
    {"file_name": "train2017/3.jpg", "image_id": "3", "caption": "An empty room.", "groundings": {}},
    {"file_name": "train2017/4.jpg", "image_id": "4", "caption": "A cat", "groundings": {}},
]
REFCOCOG = [
    {
        "4071": {
            "img_file_name": "COCO_1.jpg",
            "caption": "A Woman in Blue sits beside a dog.",
            "refs": [
                {"sentence": "a dog", "segmentation": [polygon(9, 6, 12, 10)], "bbox": [9, 6, 3, 4]},
                {
                    "sentence": "woman in blue",
                    "segmentation": [polygon(1, 1, 3, 8), polygon(2, 7, 4, 9)],
                    "bbox": [1, 1, 3, 8],
                },
                {"sentence": "the sky", "segmentation": [polygon(0, 0, 16, 1)], "bbox": [0, 0, 16, 1]},
            ],
        }
    }
]
FLICKR = {
    "images": [
        {**image_entry(5, "5.jpg"), "caption": "Two boys and a ball in a yard"},
        {**image_entry(6, "6.jpg"), "caption": "A dog"},
        {**image_entry(7, "7.jpg"), "caption": "nothing is said here"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 5,
            "tokens_positive": [[0, 8]],
            "sam_mask": rle(box(1, 1, 4, 9)),
            "bbox": [1, 1, 3, 8],
            "area": 24,
        },
        {"id": 2, "image_id": 5, "tokens_positive": [[13, 19]], "sam_mask": rle(box(8, 8, 10, 10))},
        {"id": 3, "image_id": 5, "tokens_positive": [[0, 8]], "sam_mask": rle(box(12, 1, 15, 9))},
        {
            "id": 4,
            "image_id": 5,
            "tokens_positive": [[23, 29]],
            "sam_mask": rle(box(0, 0, 1, 1)),
            "ignore": 1,
        },
        {"id": 5, "image_id": 6, "tokens_positive": [[0, 5]], "sam_mask": rle(box(0, 0, 1, 1))},
        {"id": 6, "image_id": 7, "tokens_positive": [[40, 44]], "sam_mask": rle(box(0, 0, 1, 1))},
    ],
    "categories": [{"id": 1, "name": "object"}],
}


def _source(tmp_path: Path, dataset: str, content: Any, names: list[str]) -> GroundedCaptions:
    for name in names:
        write_image(tmp_path / "images" / name, seed=int(name[-5]))
    path = write_json(tmp_path / "captions.json", content)
    return GroundedCaptions(dataset, annotations=path, images=tmp_path / "images")


@pytest.mark.parametrize("dataset", ["grandf", "openpsg"])
def test_the_form_of_grand(tmp_path: Path, dataset: str) -> None:
    source = _source(tmp_path, dataset, GRAND, ["train2017/1.jpg", "train2017/2.jpg"])
    assert (source.name, source.class_names, len(source)) == (f"gcg_{dataset}", (), 2)
    assert source.skipped == {"with too short a caption": 1, "without a phrase in the caption": 1}
    sample = source.sample(0, np.random.default_rng(0), prompts=4)
    (prompt,) = sample.prompts
    assert prompt.conversation.question == QUESTION
    assert prompt.conversation.answer == f"<p>a man</p> rides <p>a red bike</p> past a <p>man</p>.{END}"
    expected = [box(4, 0, 7, 6) | box(5, 5, 8, 7), box(4, 6, 9, 11), box(13, 0, 15, 8)]
    np.testing.assert_array_equal(sample.masks, expected)
    assert prompt.labels.tolist() == [0, 1, 2]
    assert prompt.kind == "grounded_conversation"
    np.testing.assert_array_equal(sample.rgb, write_image(tmp_path / "images/train2017/1.jpg", seed=1))


def test_a_wrong_span_is_found_again_and_tags_of_the_caption_go(tmp_path: Path) -> None:
    source = _source(tmp_path, "grandf", GRAND, ["train2017/1.jpg", "train2017/2.jpg"])
    sample = source.sample(1, np.random.default_rng(0))
    (prompt,) = sample.prompts
    assert prompt.conversation.answer == f"two dogs on <p>the grass</p>.{END}"
    np.testing.assert_array_equal(sample.masks, [box(0, 8, 16, 12)])


def test_the_form_of_refcocog(tmp_path: Path) -> None:
    source = _source(tmp_path, "refcocog", REFCOCOG, ["COCO_1.jpg"])
    sample = source.sample(0, np.random.default_rng(0))
    (prompt,) = sample.prompts
    answer = f"a <p>woman in blue</p> sits beside <p>a dog</p>.{END}"
    assert prompt.conversation.answer == answer
    np.testing.assert_array_equal(sample.masks, [box(1, 1, 3, 8) | box(2, 7, 4, 9), box(9, 6, 12, 10)])
    assert prompt.labels.tolist() == [0, 1]


def test_the_form_of_flickr(tmp_path: Path) -> None:
    source = _source(tmp_path, "flickr", FLICKR, ["5.jpg"])
    assert len(source) == 1
    assert source.skipped == {"with too short a caption": 1, "without a phrase in the caption": 1}
    sample = source.sample(0, np.random.default_rng(0))
    (prompt,) = sample.prompts
    assert prompt.conversation.answer == f"<p>two boys</p> and <p>a ball</p> in a yard.{END}"
    # Both boys are one phrase, hence one mask.
    np.testing.assert_array_equal(sample.masks, [box(1, 1, 4, 9) | box(12, 1, 15, 9), box(8, 8, 10, 10)])


@pytest.mark.parametrize(
    ("caption", "span", "answer"),
    [
        ("See the cat here!", [3, 12], "see <p>the cat</p> here!"),  # spaces stay outside
        ("İstanbul has the cat", [13, 20], "i̇stanbul has <p>the cat</p>."),  # lower case is longer
        ("the <|end|> cat here", [0, 15], "<p>the cat</p> here."),
        ("a <p>the cat</p> here", [5, 12], "a <p>the cat</p> here."),
        ("a \ue000cat\ue001 here", [3, 6], "a <p>cat</p> here."),
    ],
)
def test_tags_stand_where_the_span_says(tmp_path: Path, caption: str, span: list[int], answer: str) -> None:
    data = copy.deepcopy(FLICKR)
    data["images"] = [{**image_entry(5, "5.jpg"), "caption": caption}]
    data["annotations"] = [{**data["annotations"][0], "tokens_positive": [span]}]
    (prompt,) = _source(tmp_path, "flickr", data, ["5.jpg"]).sample(0, np.random.default_rng(0)).prompts
    assert " ".join(prompt.conversation.answer.split()) == f"{answer}{END}"
    assert len(phrases(prompt.conversation)) == 1


def test_a_caption_whose_masks_are_all_empty_is_named(tmp_path: Path) -> None:
    data = copy.deepcopy(GRAND[:1])
    data[0]["groundings"] = {"a red bike": {"token_positives": [12, 22], "rle_masks": []}}
    source = _source(tmp_path, "grandf", data, ["train2017/1.jpg"])
    with pytest.raises(RecordError, match=r"captions\.json, image 1: the masks of all phrases are empty"):
        source.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("dataset", "content", "message"),
    [
        ("grandf", [{**GRAND[0], "caption": 3}], r"record number 0 \(image 1\): 'caption' must be str"),
        (
            "grandf",
            [GRAND[0], {**GRAND[1], "groundings": {"dogs": {"token_positives": [0], "rle_masks": []}}}],
            r"record number 1 \(image 2\), phrase 'dogs': a span must be",
        ),
        ("grandf", [GRAND[0], {"a": 1, "b": 2}], "record number 1: expected 'groundings', or"),
        ("refcocog", [{"88": {"caption": "a dog is there"}}], r"record number 0 \(88\): the field 'refs'"),
        ("refcocog", [{"88": 5}], r"record number 0 \(88\): expected a mapping"),
        ("flickr", {**FLICKR, "annotations": [5]}, "annotation number 0: expected a mapping"),
        (
            "flickr",
            {**FLICKR, "annotations": [{"image_id": 5, "tokens_positive": []}]},
            "annotation number 0: 'tokens_positive' is empty",
        ),
        (
            "flickr",
            {**FLICKR, "annotations": [{**FLICKR["annotations"][0], "id": [5]}]},
            "annotation number 0: 'id' must be a whole number or text",
        ),
        ("flickr", {**FLICKR, "images": [image_entry(5, "5.jpg")]}, "image 5: the field 'caption'"),
    ],
)
def test_malformed_records_are_skipped_and_named(
    tmp_path: Path, dataset: str, content: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = skipped_text(lambda: _source(tmp_path, dataset, content, ["train2017/1.jpg", "5.jpg"]), caplog)
    assert re.search(rf"captions\.json, {message}", text)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="unknown part of GranD-f 'psg'"):
        GroundedCaptions("psg", annotations=tmp_path / "a.json", images=tmp_path)
    with pytest.raises(MissingDataError, match=r"a\.json does not exist") as caught:
        GroundedCaptions("openpsg", annotations=tmp_path / "a.json", images=tmp_path)
    assert "OpenPsgGCG_train.json" in caught.value.hint
    assert "huggingface.co/datasets/MBZUAI/GranD-f" in caught.value.hint
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingDataError, match=r"images/train2017/1\.jpg does not exist"):
        _source(tmp_path, "openpsg", GRAND, [])
