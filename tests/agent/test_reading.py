"""Arguments of every shape: read, or refused with a reason, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from xsam_agent_tools import schemas
from xsam_agent_tools.errors import ArgumentsError
from xsam_agent_tools.prompt_arguments import PromptArguments, place_marks
from xsam_agent_tools.reading import Reading, model_words, read_choice, read_count, visible_text

_WORDS = st.sampled_from(
    [
        "mug",
        "mugs",
        "the",
        "and",
        ",",
        "/",
        "two",
        "all",
        "?",
        "f1/m1",
        "null",
        "[",
        "]",
        "{",
        '"',
        "'",
        "\n",
        "-",
    ]
)
_TEXTS = (
    st.text(max_size=40)
    | st.lists(_WORDS, max_size=8).map(" ".join)
    | st.lists(_WORDS, max_size=8).map("".join)
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=12,
)
MODELS = (
    schemas.segment_objects_args(("front", "wrist"), with_image_id=True),
    schemas.ask_scene_args(("front",), with_image_id=True),
    schemas.segment_everything_args(("front",)),
    schemas.segment_with_prompt_args(("front",), with_image_id=True),
    schemas.refine_object_args(),
    schemas.locate_objects_3d_args(with_frame=True),
    schemas.compare_objects_args(),
    schemas.filter_objects_args(),
    schemas.report_not_found_args(),
    schemas.show_camera_args(("front",)),
)


@given(model=st.sampled_from(MODELS), data=st.data())
@pytest.mark.slow
def test_any_value_is_read_or_refused(model: Any, data: st.DataObject) -> None:
    arguments = {name: data.draw(_VALUES | _VALUES.map(repr)) for name in model.model_fields}
    try:
        read = model.model_validate(arguments)
    except ValidationError:
        return
    for name in model.model_fields:
        value = getattr(read, name)
        if isinstance(value, Reading):
            json.dumps([value.value, dict(value.read_as), dict(value.left_out)])


@given(
    phrases=st.lists(
        st.sampled_from(["mug", "red mug", "the plate", "Which is hot?"]), min_size=1, unique=True
    )
)
def test_a_list_of_clear_phrases_is_taken_as_it_is_however_it_is_sent(phrases: list[str]) -> None:
    model = MODELS[0]
    for sent in (
        phrases,
        json.dumps(phrases),
        json.dumps(json.dumps(phrases)),
        {"queries": phrases},
        repr(phrases),
    ):
        assert list(model.model_validate({"queries": sent}).queries.value) == phrases


@given(text=st.text())
def test_cleaned_text_is_cleaned_once_and_for_all(text: str) -> None:
    assert visible_text(visible_text(text)) == visible_text(text)
    words = model_words(text)
    assert model_words(words) == words
    assert words.isprintable()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("Front", "front"),
        (" WRIST ", "wrist"),
        ("front camera", "front"),
        ("front_cam", "front"),
        (None, "front"),
    ],
)
def test_names_of_cameras(sent: Any, read: str) -> None:
    assert read_choice(sent, ("front", "wrist"), own_name="camera", default="front").value == read


@pytest.mark.parametrize("sent", ["/front/image_raw", "fronts", "front wrist", "camera"])
def test_what_is_no_camera_stays_as_it_is_for_the_tool_to_refuse(sent: str) -> None:
    assert read_choice(sent, ("front", "wrist"), own_name="camera", default="front").value == sent


@pytest.mark.parametrize(
    ("sent", "read"), [(None, 10), ("null", 10), ("", 10), ("7", 7), (7.0, 7), (99, 50), (10**30, 50)]
)
def test_counts(sent: Any, read: int) -> None:
    assert read_count(sent, own_name="max_objects", default=10, largest=50).value == read


@pytest.mark.parametrize("sent", [0, -3, 2.5, "many", True, [1, 2], float("nan"), float("inf"), {}])
def test_what_is_no_count(sent: Any) -> None:
    with pytest.raises(ValueError, match=r"whole number|object"):
        read_count(sent, own_name="max_objects", default=10, largest=50)


_NUMBERS = st.integers(-5, 1100) | st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    marks=st.lists(st.tuples(_NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS), min_size=1, max_size=3),
    kind=st.sampled_from(["point", "box", "scribble"]),
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
)
def test_marks_are_inside_the_image_or_refused(marks: Any, kind: str, height: int, width: int) -> None:
    sent = []
    for x, y, x2, y2 in marks:
        mark: dict[str, Any] = {"type": kind, "x": x, "y": y}
        if kind == "box":
            mark |= {"x2": x2, "y2": y2}
        if kind == "scribble":
            mark["path"] = [{"x": x2, "y": y2}]
        sent.append(mark)
    try:
        read = [PromptArguments.model_validate(mark) for mark in sent]
        placed = place_marks([(mark, mark.positive) for mark in read], (height, width))
    except (ValidationError, ArgumentsError):
        return
    for prompt, echo in zip(placed.prompts, placed.payload()["marks_px"], strict=True):
        prompt.check_inside((height, width))
        numbers = [n for part in echo[kind] for n in (part if isinstance(part, list) else [part])]
        assert all(type(n) is int for n in numbers)
        assert all(0 <= n <= max(height, width) for n in numbers)
