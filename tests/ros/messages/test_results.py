from __future__ import annotations

import array
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from pycocotools import mask as coco_mask
from std_msgs.msg import Header

from tests.ros.messages.strategies import IMAGE_HW, assert_same_query, over_the_wire, results
from xsam import (
    MaskRle,
    ModelError,
    Query,
    QueueFullError,
    SegmentationResult,
    Segments,
    Status,
    XSamError,
    errors,
)
from xsam.errors import SegmenterUnavailableError
from xsam.types.masks import centroid_of_mask
from xsam_ros.messages.results import (
    error_to_response,
    raise_for_response,
    result_from_message,
    result_to_message,
)
from xsam_ros.srv import Segment

_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, XSamError)]


@given(results())
def test_results(result: SegmentationResult) -> None:
    got = result_from_message(over_the_wire(result_to_message(result)))
    for field in dataclasses.fields(SegmentationResult):
        if field.name not in ("query", "segments"):
            assert getattr(got, field.name) == getattr(result, field.name), field.name
    assert (got.segments.image_hw, got.segments.labels) == (IMAGE_HW, result.segments.labels)
    np.testing.assert_array_equal(got.masks, result.masks)
    for column in ("label_indices", "scores", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(got.segments, column), getattr(result.segments, column))
    assert_same_query(got.query, result.query)


@given(results())
def test_pycocotools_reads_the_mask_as_it_is(result: SegmentationResult) -> None:
    message = over_the_wire(result_to_message(result))
    for index, instance in enumerate(message.instances):
        size = [instance.mask.height, instance.mask.width]
        decoded = coco_mask.decode({"size": size, "counts": bytes(instance.mask.counts)})
        mask = result.segments.masks[index].decode()
        np.testing.assert_array_equal(decoded.astype(bool), mask)
        assert instance.area == mask.sum()
        np.testing.assert_allclose((instance.centroid.x, instance.centroid.y), centroid_of_mask(mask))


def test_the_header_is_passed_on_untouched() -> None:
    """Copying field by field would lose what the Python types cannot hold, such as odd nanoseconds."""
    header = Header(frame_id="camera/optical frame")
    header.stamp.sec, header.stamp.nanosec = -5, 2_000_000_000
    result = SegmentationResult(
        status=Status.NOT_FOUND,
        query=Query(text="mug"),
        segments=Segments(image_hw=IMAGE_HW),
        frame_id="other",
    )
    assert over_the_wire(result_to_message(result, header=header)).header == header


def test_ids_count_from_first_id() -> None:
    segments = Segments(
        image_hw=(1, 2),
        masks=(MaskRle.encode(np.array([[True, False]])), MaskRle.encode(np.array([[False, True]]))),
        labels=("a", "b"),
        label_indices=np.zeros(2, np.int32),
        scores=np.ones(2, np.float32),
        boxes_xyxy=np.zeros((2, 4), np.float32),
    )
    result = SegmentationResult(status=Status.FOUND, query=Query(text="x"), segments=segments)
    assert [item.id for item in result_to_message(result, first_id=4).instances] == [4, 5]


def test_unsendable_text_does_not_break_a_result() -> None:
    result = SegmentationResult(
        status=Status.FAILED,
        query=Query(text="mug"),
        segments=Segments(image_hw=IMAGE_HW),
        message="bad\0 byte \ud800",
    )
    assert "bad" in over_the_wire(result_to_message(result)).message


@pytest.mark.parametrize(
    "change",
    [
        lambda message: setattr(message, "status", 99),
        lambda message: setattr(message, "status", 0),
        lambda message: setattr(message, "image_height", 7),
        lambda message: setattr(message.instances[0].mask, "counts", array.array("B", b"")),
        lambda message: setattr(message.instances[0].mask, "width", 2**32 - 1),
    ],
)
def test_a_result_that_contradicts_itself(change: Any) -> None:
    segments = Segments(
        image_hw=IMAGE_HW,
        masks=(MaskRle.encode(np.ones(IMAGE_HW, np.bool_)),),
        labels=("a",),
        label_indices=np.zeros(1, np.int32),
        scores=np.ones(1, np.float32),
        boxes_xyxy=np.zeros((1, 4), np.float32),
    )
    message = result_to_message(
        SegmentationResult(status=Status.FOUND, query=Query(text="x"), segments=segments)
    )
    change(message)
    with pytest.raises(ModelError, match="the result"):
        result_from_message(message)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", _ERRORS, ids=lambda kind: kind.__name__)
def test_errors_survive_the_service(kind: type[XSamError]) -> None:
    error = kind("what happened", hint="what to do")
    with pytest.raises(XSamError) as caught:
        raise_for_response(over_the_wire(error_to_response(error, Segment.Response())))
    assert type(caught.value) is type(error)
    assert (caught.value.message, caught.value.hint) == ("what happened", "what to do")


def test_refusals_are_not_failures() -> None:
    response = Segment.Response()
    assert error_to_response(QueueFullError("full"), response).status == Segment.Response.STATUS_REFUSED
    assert error_to_response(ModelError("broken"), response).status == Segment.Response.STATUS_FAILED
    assert error_to_response(SegmenterUnavailableError("gone"), response).code == "UNAVAILABLE"


def test_a_response_that_nobody_filled_in_is_an_error() -> None:
    """An empty response must never read as "nothing found"."""
    with pytest.raises(XSamError, match="status 0"):
        raise_for_response(Segment.Response())
