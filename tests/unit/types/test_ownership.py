"""Arrays in requests and results belong to them: nobody else can change them, also after pickling."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xsam import (
    Frame,
    InvalidImageError,
    InvalidQueryError,
    MaskRle,
    Query,
    SegmentationResult,
    Segments,
    Status,
    Task,
    VisualPrompt,
)
from xsam.types.arrays import owned


def _frame() -> Frame:
    rgb = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    return Frame(rgb=rgb, camera="front", depth_m=np.ones((4, 5), np.float32), intrinsics=np.eye(3))


def _result() -> SegmentationResult:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 2:4] = True
    rle = MaskRle.encode(mask)
    rle.crop()
    segments = Segments(
        image_hw=(4, 5),
        masks=(rle,),
        labels=("mug",),
        label_indices=np.zeros(1, np.int32),
        scores=np.full(1, 0.5, np.float32),
        boxes_xyxy=np.array([[2, 1, 4, 3]], np.float32),
    )
    prompts = (VisualPrompt.point(1, 2), VisualPrompt.from_mask(mask))
    return SegmentationResult(
        status=Status.FOUND, query=Query(prompts=prompts), segments=segments, text="a mug", stamp_ns=7
    )


def _arrays(value: Any) -> dict[str, np.ndarray]:
    """All arrays below an object, by path."""
    if isinstance(value, np.ndarray):
        return {"": value}
    if isinstance(value, tuple):
        children: dict[str, Any] = {str(i): item for i, item in enumerate(value)}
    else:
        names = getattr(type(value), "__dataclass_fields__", {})
        children = {name: getattr(value, name) for name in names}
    return {f"{name}.{path}": a for name, child in children.items() for path, a in _arrays(child).items()}


@pytest.mark.parametrize("make", [_frame, _result])
@pytest.mark.parametrize(
    "copied",
    [lambda v: v, lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy, copy.copy],
    ids=["itself", "pickle", "deepcopy", "copy"],
)
def test_every_array_is_read_only(make: Callable[[], Any], copied: Callable[[Any], Any]) -> None:
    """Arrays of unpickled results could be written to."""
    original = make()
    arrays, expected = _arrays(copied(original)), _arrays(original)
    assert len(arrays) >= 3
    for path, array in arrays.items():
        assert not array.flags.writeable, path
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for path, array in arrays.items():  # NaN: a chance that is not known
        assert np.array_equal(array, expected[path], equal_nan=array.dtype.kind == "f"), path


def test_pickles_keep_the_rest() -> None:
    result = _result()
    again = pickle.loads(pickle.dumps(result))
    assert (again.status, again.text, again.stamp_ns) == (result.status, "a mug", 7)
    assert again.query.resolved_task() is Task.VISUAL_GROUNDED
    assert again.segments.masks == result.segments.masks
    assert np.array_equal(again.masks, result.masks)
    assert pickle.loads(pickle.dumps(_frame())).camera == "front"


@pytest.mark.parametrize("name", ["rgb", "depth_m", "intrinsics"])
def test_a_caller_may_use_its_buffers_again(name: str) -> None:
    fields = {
        "rgb": np.full((4, 5, 3), 9, np.uint8),
        "depth_m": np.ones((4, 5), np.float32),
        "intrinsics": np.eye(3),
    }
    frame = Frame(**fields)  # type: ignore[arg-type]
    before = getattr(frame, name).copy()
    fields[name][...] = 0
    assert np.array_equal(getattr(frame, name), before)


def test_masks_of_prompts_are_copied() -> None:
    mask = np.ones((4, 5), np.bool_)
    prompt = VisualPrompt.from_mask(mask)
    mask[:] = False
    assert prompt.mask is not None
    assert prompt.mask.all()


def test_what_nobody_can_write_to_is_not_copied() -> None:
    rgb = np.zeros((4, 5, 3), np.uint8)
    rgb.flags.writeable = False
    frame = Frame(rgb=rgb)
    assert frame.rgb is rgb
    assert Frame(rgb=frame.rgb).rgb is rgb
    assert owned(rgb[1:]).base is rgb
    from_bytes = np.frombuffer(bytes(60), np.uint8).reshape(4, 5, 3)
    assert Frame(rgb=from_bytes).rgb is from_bytes


@pytest.mark.parametrize("source", [bytearray(60), memoryview(bytearray(60)), np.zeros(60, np.uint8)])
def test_a_read_only_view_of_a_buffer_is_copied(source: Any) -> None:
    """The flag of a view says nothing about its buffer."""
    view = np.frombuffer(source, np.uint8).reshape(4, 5, 3)
    view.flags.writeable = False
    frame = Frame(rgb=view)
    np.frombuffer(source, np.uint8)[:] = 7
    assert not frame.rgb.any()


@pytest.mark.parametrize(
    "fields",
    [
        {"text": 5},
        {"text": None},
        {"text": b"mug"},
        {"task": "nonsense"},
        {"thing_classes": 5},
        {"thing_classes": ("mug", 7)},
        {"stuff_classes": [None]},
        {"prompts": [(1, 2)]},
        {"prompts": 5},
        {"score_threshold": "0.5"},
        {"score_threshold": True},
        {"score_threshold": [0.5]},
        {"max_instances": 2.5},
        {"max_instances": "9"},
        {"max_instances": True},
        {"max_instances": float("nan")},
    ],
)
def test_queries_of_other_types_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        Query(**fields)
    assert next(iter(fields)) in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"max_instances": -1},
        {"max_instances": 0},
        {"score_threshold": float("nan")},
        {"score_threshold": float("inf")},
        {"score_threshold": -1e-9},
        {"thing_classes": ("a table",), "stuff_classes": ("A  Table",)},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    query = Query(**{"text": "mug", **fields})
    with pytest.raises(InvalidQueryError):
        query.validate((4, 5))


def test_numbers_of_numpy_are_numbers() -> None:
    query = Query(text="mug", score_threshold=np.float32(0.5), max_instances=np.int64(3))  # type: ignore[arg-type]
    assert (query.score_threshold, query.max_instances) == (0.5, 3)
    assert type(query.max_instances) is int


@pytest.mark.parametrize(
    "make",
    [
        lambda: VisualPrompt.point("a", 2),  # type: ignore[arg-type]
        lambda: VisualPrompt.point(1e400, 2),
        lambda: VisualPrompt.scribble([(1, 2), (3,)]),  # type: ignore[list-item]
        lambda: VisualPrompt.box(1, 2, "3", 4),  # type: ignore[arg-type]
        lambda: VisualPrompt.from_mask([[True]]),  # type: ignore[arg-type]
        lambda: VisualPrompt(kind="circle"),  # type: ignore[arg-type]
        lambda: VisualPrompt(kind="box", box_xyxy=(1, 2, 3)),  # type: ignore[arg-type]
    ],
)
def test_prompts_of_other_types_are_refused(make: Callable[[], VisualPrompt]) -> None:
    with pytest.raises(InvalidQueryError):
        make()


def test_depth_that_is_no_array() -> None:
    with pytest.raises(InvalidImageError, match="depth_m must be a NumPy array, got list"):
        Frame(rgb=np.zeros((1, 1, 3), np.uint8), depth_m=[[1.0]])  # type: ignore[arg-type]
