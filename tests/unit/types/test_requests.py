"""Requests and results: validation, read-only arrays, and columns that stay aligned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.unit.types.four_segments import four_segments
from xsam import (
    CameraRef,
    Frame,
    InvalidImageError,
    InvalidQueryError,
    ModelError,
    PromptKind,
    Query,
    SegmentationResult,
    StaleFrameError,
    Status,
    Task,
    Timing,
    VisualPrompt,
)
from xsam.types.requests import MAX_CATEGORIES, MAX_IMAGE_SIDE_PX, MAX_PROMPTS, MAX_TEXT_CHARS

RGB = np.zeros((4, 7, 3), np.uint8)
INSIDE = VisualPrompt.point(1, 1)


# --------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("rgb", "said"),
    [
        ([[[0, 0, 0]]], "NumPy"),
        (np.zeros((4, 7), np.uint8), "uint8"),
        (np.zeros((4, 7, 4), np.uint8), r"\(4, 7, 4\)"),
        (np.zeros((3, 4, 7), np.uint8), r"\(3, 4, 7\)"),
        (np.zeros((1, 4, 7, 3), np.uint8), r"\(1, 4, 7, 3\)"),
        (np.zeros((4, 7, 3), np.float32), "float32"),
        (np.zeros((4, 7, 3), np.int8), "int8"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "no pixels"),
        (np.zeros((1, MAX_IMAGE_SIDE_PX + 1, 3), np.uint8), str(MAX_IMAGE_SIDE_PX)),
        (np.zeros((MAX_IMAGE_SIDE_PX + 1, 1, 3), np.uint8), str(MAX_IMAGE_SIDE_PX)),
    ],
)
def test_unusable_images_are_refused(rgb: Any, said: str) -> None:
    with pytest.raises(InvalidImageError, match=said):
        Frame(rgb=rgb)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, MAX_IMAGE_SIDE_PX, 3), (3, 200, 3)])
def test_extreme_images_are_accepted(shape: tuple[int, int, int]) -> None:
    assert Frame(rgb=np.zeros(shape, np.uint8)).image_hw == shape[:2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth_m": np.zeros((7, 4), np.float32)},
        {"depth_m": np.zeros((4, 7), np.float64)},
        {"depth_m": np.zeros((4, 7), np.uint16)},
        {"depth_m": np.zeros((4, 7, 1), np.float32)},
        {"intrinsics": np.zeros((3, 4))},
        {"intrinsics": np.zeros(9)},
    ],
)
def test_depth_and_intrinsics_must_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidImageError):
        Frame(rgb=RGB, **wrong)


def test_arrays_of_a_frame_cannot_be_written_through_it() -> None:
    rgb, depth, camera_matrix = RGB.copy(), np.ones((4, 7), np.float32), np.eye(3, dtype=np.float32)
    frame = Frame(rgb=rgb, depth_m=depth, intrinsics=camera_matrix)
    assert frame.depth_m is not None
    assert frame.intrinsics is not None
    assert frame.intrinsics.dtype == np.float64
    for array in (frame.rgb, frame.depth_m, frame.intrinsics):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    rgb[0], depth[0], camera_matrix[0] = 1, 2, 3  # the caller's own arrays stay usable


# -------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": PromptKind.POINT},
        {"kind": PromptKind.POINT, "box_xyxy": (0, 0, 1, 1)},
        {"kind": PromptKind.POINT, "points_xy": np.zeros((1, 2)), "mask": np.ones((2, 2), np.bool_)},
        {"kind": PromptKind.BOX},
        {"kind": PromptKind.BOX, "box_xyxy": (0, 0, 1, 1), "points_xy": np.zeros((1, 2))},
        {"kind": PromptKind.SCRIBBLE, "mask": np.ones((2, 2), np.bool_)},
        {"kind": PromptKind.MASK},
        {"kind": PromptKind.MASK, "points_xy": np.zeros((1, 2))},
    ],
)
def test_a_prompt_has_its_own_field_and_no_other(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError, match="own field"):
        VisualPrompt(**fields)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (PromptKind.POINT, np.zeros((0, 2))),
        (PromptKind.POINT, np.zeros((1, 3))),
        (PromptKind.POINT, np.zeros(2)),
        (PromptKind.POINT, np.array([[np.nan, 1.0]])),
        (PromptKind.POINT, np.array([[1.0, np.inf]])),
        (PromptKind.SCRIBBLE, np.zeros((1, 2))),
        (PromptKind.SCRIBBLE, np.zeros((2, 1))),
        (PromptKind.SCRIBBLE, np.array([[1.0, 1.0], [-np.inf, 1.0]])),
    ],
)
def test_bad_points_are_refused(kind: PromptKind, points: Any) -> None:
    with pytest.raises(InvalidQueryError):
        VisualPrompt(kind=kind, points_xy=points)


@pytest.mark.parametrize(
    "box", [(5, 0, 5, 9), (5, 0, 4, 9), (0, 9, 5, 9), (0, 9, 5, 3), (0, 0, np.nan, 5), (0, -np.inf, 5, 5)]
)
def test_bad_boxes_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidQueryError):
        VisualPrompt.box(*box)


@pytest.mark.parametrize(
    "mask", [np.ones((4, 7), np.uint8), np.zeros((4, 7), np.bool_), np.ones((1, 4, 7), np.bool_)]
)
def test_bad_masks_are_refused(mask: Any) -> None:
    with pytest.raises(InvalidQueryError):
        VisualPrompt.from_mask(mask)


def test_a_prompt_keeps_its_points_when_the_caller_changes_his() -> None:
    points = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    prompt = VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy=points)
    points[:] = 99
    assert prompt.points_xy is not None
    assert prompt.points_xy.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        prompt.points_xy[0] = 0


def test_a_kind_may_be_given_as_text() -> None:
    """`kind="scribble"` was once accepted as a separate kind for which a single point was enough."""
    with pytest.raises(InvalidQueryError):
        VisualPrompt(kind="scribble", points_xy=np.zeros((1, 2)))  # type: ignore[arg-type]
    prompt = VisualPrompt(kind="point", points_xy=np.zeros((1, 2)))  # type: ignore[arg-type]
    assert prompt.kind is PromptKind.POINT


@pytest.mark.parametrize(
    ("prompt", "fits"),
    [
        (VisualPrompt.point(0, 0), True),
        (VisualPrompt.point(59.9, 39.9), True),
        (VisualPrompt.point(45, 10), True),  # would be outside if x and y were swapped
        (VisualPrompt.point(10, 45), False),
        (VisualPrompt.point(60, 10), False),
        (VisualPrompt.point(10, 40), False),
        (VisualPrompt.point(-0.1, 10), False),
        (VisualPrompt.point(10, -0.1), False),
        (VisualPrompt.scribble([(1, 1), (50, 30)]), True),
        (VisualPrompt.scribble([(1, 1), (30, 50)]), False),
        (VisualPrompt.box(-9, -9, 1, 1), True),
        (VisualPrompt.box(59, 39, 99, 99), True),
        (VisualPrompt.box(60, 0, 70, 10), False),
        (VisualPrompt.box(0, 40, 10, 50), False),
        (VisualPrompt.box(45, 10, 50, 20), True),
        (VisualPrompt.box(-5, 0, 0, 10), False),
        (VisualPrompt.box(0, -5, 10, 0), False),
        (VisualPrompt.from_mask(np.ones((40, 60), np.bool_)), True),
        (VisualPrompt.from_mask(np.ones((60, 40), np.bool_)), False),
    ],
)
def test_prompts_must_touch_the_image(prompt: VisualPrompt, fits: bool) -> None:
    query = Query(prompts=(prompt,))
    query.validate()  # cannot check an image it does not know
    if fits:
        query.validate((40, 60))
    else:
        with pytest.raises(InvalidQueryError):
            query.validate((40, 60))


# -------------------------------------------------------------------------------------- queries


@pytest.mark.parametrize(
    ("query", "task"),
    [
        (Query(text="the red mug"), Task.REFERRING),
        (Query(text="what can I drink from? "), Task.REASONING),
        (Query(text="? is a question mark"), Task.REFERRING),
        (Query(thing_classes=("mug",)), Task.OPEN_VOCABULARY),
        (Query(stuff_classes=("floor",)), Task.OPEN_VOCABULARY),
        (Query(prompts=(INSIDE,)), Task.INTERACTIVE),
        (Query(prompts=(INSIDE, INSIDE)), Task.VISUAL_GROUNDED),
        (Query(text="what is it?", task=Task.CHAT), Task.CHAT),
        (Query(text="the red mug", task=Task.REASONING), Task.REASONING),
        (Query(task=Task.GROUNDED_CONVERSATION), Task.GROUNDED_CONVERSATION),
        (Query(task="generic", thing_classes=["mug"]), Task.GENERIC),  # type: ignore[arg-type]
    ],
)
def test_auto_picks_the_task_from_the_fields(query: Query, task: Task) -> None:
    assert query.validate((4, 7)) is task


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "empty"),
        ({"text": "  \n"}, "empty"),
        ({"text": "x" * (MAX_TEXT_CHARS + 1)}, "characters"),
        ({"task": Task.REFERRING}, "need text"),
        ({"task": Task.REASONING, "text": "\t"}, "need text"),
        ({"task": Task.CHAT}, "need text"),
        ({"task": Task.GENERIC, "text": "mug"}, "thing_classes"),
        ({"task": Task.OPEN_VOCABULARY, "prompts": (INSIDE,)}, "thing_classes"),
        ({"thing_classes": ("mug", " ")}, "category"),
        ({"stuff_classes": ("",)}, "category"),
        ({"thing_classes": ("mug",) * MAX_CATEGORIES, "stuff_classes": ("floor",)}, "categories"),
        ({"thing_classes": ("m" * (MAX_TEXT_CHARS + 1),)}, "category"),
        ({"task": Task.INTERACTIVE, "text": "mug"}, "positive"),
        ({"prompts": (VisualPrompt.point(1, 1, positive=False),)}, "positive"),
        ({"task": Task.VISUAL_GROUNDED}, "positive"),
        ({"prompts": (INSIDE,) * (MAX_PROMPTS + 1)}, "prompts"),
        ({"text": "mug", "score_threshold": -0.01}, "score_threshold"),
        ({"text": "mug", "score_threshold": 1.01}, "score_threshold"),
        ({"text": "mug", "score_threshold": float("nan")}, "score_threshold"),
        ({"text": "mug", "max_instances": 0}, "max_instances"),
        ({"text": "the left one", "prompts": (INSIDE,)}, "interactive queries do not use text"),
        ({"text": "red", "thing_classes": ("mug",)}, "do not use text"),
        ({"thing_classes": ("mug",), "prompts": (INSIDE,)}, "open_vocabulary queries do not use prompts"),
        (
            {"task": Task.REFERRING, "text": "mug", "prompts": (INSIDE,)},
            "referring queries do not use prompts",
        ),
        ({"task": Task.CHAT, "text": "hi", "stuff_classes": ("wall",)}, "chat queries do not use categories"),
        ({"text": "the red mug", "explain": True}, "referring queries cannot be explained"),
    ],
)
def test_impossible_queries_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidQueryError, match=said):
        Query(**fields).validate()


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * MAX_TEXT_CHARS},
        {"thing_classes": ("mug",) * MAX_CATEGORIES},
        {"prompts": (INSIDE,) * MAX_PROMPTS},
        {"text": "mug", "score_threshold": 0.0, "max_instances": 1},
        {"text": "mug", "score_threshold": 1.0},
    ],
)
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    Query(**fields).validate((4, 7))


@pytest.mark.parametrize("field", ["thing_classes", "stuff_classes"])
def test_one_word_is_no_list_of_categories(field: str) -> None:
    """`Query(thing_classes="mug")` once asked for the categories "m", "u" and "g"."""
    with pytest.raises(InvalidQueryError, match=field):
        Query(**{field: "mug"})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["no", 0, None, np.array([1, 0])])
def test_flags_are_true_or_false(value: Any) -> None:
    """`explain="no"` explained, and `positive="no"` was a positive prompt."""
    with pytest.raises(InvalidQueryError, match="explain must be true or false"):
        Query(text="what is hot?", explain=value)
    with pytest.raises(InvalidQueryError, match="positive must be true or false"):
        VisualPrompt.point(1, 1, positive=value)


def test_texts_of_numpy_are_plain_text() -> None:
    """Messages said `np.str_('mug')`."""
    query = Query(text=np.str_("mug"), thing_classes=np.array(["cup"]))  # type: ignore[arg-type]
    assert [type(text) for text in (query.text, *query.thing_classes)] == [str, str]


@pytest.mark.parametrize("count", [0, 2])
def test_a_point_prompt_has_one_point(count: int) -> None:
    with pytest.raises(InvalidQueryError, match="N = 1"):
        VisualPrompt(kind=PromptKind.POINT, points_xy=np.ones((count, 2), np.float32))


def test_scribbles_are_bounded() -> None:
    with pytest.raises(InvalidQueryError, match="2 ≤ N ≤ 10000"):
        VisualPrompt.scribble([(1.0, 1.0)] * 10_001)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("camera", 5), ("frame_id", None), ("stamp_ns", "now"), ("stamp_ns", 1.5), ("stamp_ns", True)),
        *(("lens", 5), ("intrinsics", np.eye(3) * 1j), ("intrinsics", np.full((3, 3), None))),
        ("intrinsics", np.full((3, 3), "x")),
    ],
)
def test_fields_of_a_frame_have_types(field: str, value: Any) -> None:
    """Some of these raised a bare ValueError, and the others passed."""
    with pytest.raises(InvalidImageError, match=field):
        Frame(rgb=np.zeros((4, 4, 3), np.uint8), **{field: value})


@pytest.mark.parametrize(
    ("name", "age_s"), [(5, None), ("front", "old"), ("front", -1.0), ("front", math.nan)]
)
def test_a_camera_has_a_name_and_an_age_of_zero_or_more(name: Any, age_s: Any) -> None:
    with pytest.raises(InvalidQueryError):
        CameraRef(name=name, max_age_s=age_s)


@pytest.mark.parametrize("fields", [{"text": "a \ud83d cup"}, {"thing_classes": ("cup", "\udc00")}])
def test_half_a_character_is_refused(fields: dict[str, Any]) -> None:
    """Broken JSON leaves lone surrogates, which once made the tokenizer raise `ModelError`."""
    with pytest.raises(InvalidQueryError, match="lone surrogate"):
        Query(**fields).validate()


# -------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidQueryError("no text"), Status.REFUSED),
        (StaleFrameError("too old"), Status.REFUSED),
        (ModelError("out of order", hint="restart"), Status.FAILED),
    ],
)
def test_an_error_becomes_a_typed_answer(error: Any, status: Status) -> None:
    frame = Frame(rgb=RGB, camera="wrist", frame_id="lens", stamp_ns=5)
    query = Query(text="mug")
    result = SegmentationResult.from_error(error, query, frame)
    assert result.status is status
    assert result.query is query
    assert not result.found
    assert (result.code, result.message, result.hint) == (error.code, error.message, error.hint)
    assert (result.camera, result.frame_id, result.stamp_ns) == ("wrist", "lens", 5)
    assert result.masks.shape == (0, 4, 7)


def test_a_result_can_be_looped_over() -> None:
    result = SegmentationResult(status=Status.FOUND, query=Query(text="x"), segments=four_segments())
    assert len(result) == 4
    rows = [(label, round(score, 1), int(mask.sum())) for label, score, mask in result]
    assert rows == [("a", 0.9, 1), ("b", 0.8, 2), ("c", 0.7, 3), ("d", 0.6, 4)]
    assert result.masks.shape == (4, 4, 7)


def test_times_of_the_stages_add_up() -> None:
    result = SegmentationResult(status=Status.FOUND, query=Query(text="x"), segments=four_segments())
    timed = result.with_timing({"encode": 0.25, "decode": 0.5})
    assert timed.timing.total_s == 0.75
    assert timed.segments is result.segments
    assert Timing().total_s == 0.0
