"""LLaVA's chat: turns, tags, and records without an image."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.readers.disk import skipped_text, write_image, write_json
from xsam.data.readers.llava import LlavaChat
from xsam.errors import DatasetError, InvalidOptionError, MissingDataError


def _talk(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


BUS = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": _talk(
        "<image>\nWhat are the colors of the bus?\nAnswer with one word.",
        "White and red.",
        "What is at the back?",
        "An advertisement:\n\n- big\n- <SEG> blue",
        "Where <p>is</p> it?",
        "Parked.",
    ),
}
SIGN = {
    "id": 7,
    "image": "gqa/7.jpg",
    "conversations": [{"from": "gpt", "value": "Hello."}, *_talk("Read it.\n<image>", "Stop")],
}
RECORDS = [
    BUS,
    {"id": "text", "conversations": _talk("What is 2 + 2?", "4")},
    SIGN,
    {"id": "null", "image": None, "conversations": _talk("Hi", "Hello")},
    {"id": "open", "image": "gqa/8.jpg", "conversations": _talk("<image>")},
    {"id": "tags", "image": "gqa/8.jpg", "conversations": _talk("<image>", "No question")},
    {"id": "silent", "image": "gqa/8.jpg", "conversations": _talk("Well?", " <SEG>\n")},
]
FIRST = (
    "<|user|>\n<image>\nWhat are the colors of the bus? Answer with one word.<|end|>\n<|assistant|>\n",
    "White and red.<|end|>",
)
SECOND = (
    f"{FIRST[0]}{FIRST[1]}\n<|user|>\nWhat is at the back?<|end|>\n<|assistant|>\n",
    "An advertisement:\n\n- big\n- blue<|end|>",
)
THIRD = (f"{SECOND[0]}{SECOND[1]}\n<|user|>\nWhere is it?<|end|>\n<|assistant|>\n", "Parked.<|end|>")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    write_image(tmp_path / "images" / BUS["image"], seed=3)
    write_image(tmp_path / "images" / "gqa/7.jpg", seed=4)
    return {"annotations": write_json(tmp_path / "llava.json", RECORDS), "images": tmp_path / "images"}


def _texts(source: LlavaChat, index: int, seed: int, prompts: int = 1) -> list[tuple[str, str]]:
    sample = source.sample(index, np.random.default_rng(seed), prompts=prompts)
    return [(p.conversation.question, p.conversation.answer) for p in sample.prompts]


def test_the_first_turn_without_masks(options: dict[str, Any]) -> None:
    source = LlavaChat(**options)
    assert (source.name, source.class_names, len(source)) == ("llava", (), 2)
    sample = source.sample(0, np.random.default_rng(0), prompts=3)
    np.testing.assert_array_equal(sample.rgb, write_image(options["images"] / BUS["image"], seed=3))
    assert sample.masks.shape == (0, 12, 16)
    (prompt,) = sample.prompts
    assert (prompt.kind, prompt.has_mask, prompt.labels.shape) == ("chat", False, (0,))
    assert _texts(source, 0, seed=1) == [FIRST]
    assert _texts(source, 1, seed=1) == [
        ("<|user|>\n<image>\nRead it.<|end|>\n<|assistant|>\n", "Stop<|end|>")
    ]


def test_what_is_left_out_is_counted(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = LlavaChat(**options)
    assert source.skipped == {
        "without an image": 2,
        "without an answered question": 3,
    }
    assert "llava: 2 images, skipped: 2 without an image, 3 without an answered question" in caplog.text


def test_any_turn_stands_behind_those_before_it(options: dict[str, Any]) -> None:
    source = LlavaChat(**options, turn="random")
    assert {_texts(source, 0, seed)[0] for seed in range(30)} == {FIRST, SECOND, THIRD}
    assert sorted(_texts(source, 0, seed=0, prompts=9)) == sorted([FIRST, SECOND, THIRD])
    assert len(_texts(source, 0, seed=0, prompts=2)) == 2
    for question, answer in (SECOND, THIRD):
        assert question.count("<image>") == 1
        assert "<SEG>" not in question + answer


def test_long_turns_are_not_asked(options: dict[str, Any]) -> None:
    source = LlavaChat(**options, turn="random", max_chars=len(THIRD[0]) - 1)
    assert sorted(_texts(source, 0, seed=0, prompts=9)) == sorted([FIRST, SECOND])
    source = LlavaChat(**options, max_chars=20)
    assert len(source) == 1
    assert source.skipped["with too long a question"] == 1


def test_questions_in_a_row_are_one(options: dict[str, Any]) -> None:
    talk = [*_talk("<image>"), *_talk("What is it?", "A sign.", "And this?"), *_talk("Well?", "")]
    write_json(options["annotations"], [{**SIGN, "conversations": talk}])
    source = LlavaChat(**options, turn="random")
    assert _texts(source, 0, seed=0, prompts=9) == [
        ("<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\n", "A sign.<|end|>")
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "a", "image": "gqa/7.jpg"}, r"record number 1 \(a\): the field 'conversations'"),
        ({"image": "gqa/7.jpg", "conversations": []}, "record number 1: the field 'id' is missing"),
        ({**SIGN, "image": 5}, r"record number 1 \(7\): 'image' must be str"),
        ({**SIGN, "conversations": [{"from": "human"}]}, r"record number 1 \(7\): the field 'value'"),
        (
            {**SIGN, "conversations": [{"from": "system", "value": "x"}]},
            r"record number 1 \(7\): 'from' must be human or gpt, not 'system'",
        ),
        ("text", "record number 1: expected a mapping"),
    ],
)
def test_malformed_records_are_skipped_and_named(
    options: dict[str, Any], record: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(options["annotations"], [BUS, record])
    assert re.search(rf"llava\.json, {message}", skipped_text(lambda: LlavaChat(**options), caplog))


def test_missing_files_are_named(options: dict[str, Any]) -> None:
    source = LlavaChat(**options)
    (options["images"] / "gqa/7.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"LLaVA: .*images/gqa/7\.jpg does not exist") as caught:
        source.sample(1, np.random.default_rng(0))
    assert "textvqa/train_images/" in caught.value.hint


def test_a_file_without_pictures_is_an_error(options: dict[str, Any]) -> None:
    write_json(options["annotations"], [RECORDS[1]])
    with pytest.raises(DatasetError, match=r"llava\.json holds no usable images") as caught:
        LlavaChat(**options)
    assert caught.value.hint == "skipped: 1 without an image"


@pytest.mark.parametrize("changes", [{"turn": "last"}, {"max_chars": 0}])
def test_options_are_checked(options: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        LlavaChat(**options, **changes)


CODE = """Like this:

```python
def double(x):
\tif x:
        return  [x,   x]
```

  - one
    - two  of <SEG> three
Done."""


def test_code_and_lists_keep_their_indentation(options: dict[str, Any]) -> None:
    write_json(options["annotations"], [{**SIGN, "conversations": _talk("<image>\nHow?", CODE)}])
    ((_, answer),) = _texts(LlavaChat(**options), 0, seed=0, prompts=1)
    assert answer.removesuffix("<|end|>").splitlines() == [
        "Like this:",
        "",
        "```python",
        "def double(x):",
        "    if x:",
        "        return  [x,   x]",
        "```",
        "",
        "  - one",
        "    - two of three",
        "Done.",
    ]
