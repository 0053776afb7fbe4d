"""Segments, results and errors ↔ messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from std_msgs.msg import Header

import xsam_ros.msg as messages
from xsam.errors import REFUSAL_CODES, InvalidImageError, ModelError, XSamError, error_for_code
from xsam.types.carried import Carried
from xsam.types.requests import Query, SegmentationResult, Segments, Status, Timing
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.messages.frames import copied_header, stamp_from_ns, stamp_ns
from xsam_ros.messages.locations import location_from_message, location_to_message
from xsam_ros.messages.masks import mask_from_message, mask_to_message
from xsam_ros.messages.queries import query_from_message, query_to_message
from xsam_ros.messages.text import replace_unsendable
from xsam_ros.srv import Segment

Response = TypeVar("Response", Segment.Response, SegmentAction.Result)

_STATUS_VALUES = {status: getattr(messages.SegmentationResult, f"STATUS_{status.name}") for status in Status}
_STATUSES = {value: status for status, value in _STATUS_VALUES.items()}


def instances_from_segments(segments: Segments, *, first_id: int = 1) -> list[messages.Instance]:
    """Convert each segment to a message; ids count up from `first_id`."""
    instances = []
    for index, mask in enumerate(segments.masks):
        area, (x_px, y_px) = mask.area_and_centroid()
        x_min, y_min, x_max, y_max = (float(value) for value in segments.boxes_xyxy[index])
        instances.append(
            messages.Instance(
                id=first_id + index,
                track_id=int(segments.track_ids[index]),
                label=replace_unsendable(segments.labels[index]),
                label_index=int(segments.label_indices[index]),
                score=float(segments.scores[index]),
                doubt=replace_unsendable(segments.doubts[index]),
                box=messages.PixelBox(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
                mask=mask_to_message(mask),
                area=area,
                centroid=messages.PixelPoint(x=x_px, y=y_px),
                location=location_to_message(segments.locations[index]),
            )
        )
    return instances


def segments_from_instances(instances: Sequence[messages.Instance], image_hw: tuple[int, int]) -> Segments:
    """Convert messages to segments.

    Ids, areas and centroids are left out: they follow from the order and the masks.

    Raises:
        InvalidImageError: a mask is malformed.
        ModelError: a location claims to be valid and has numbers that are not finite.
        ValueError: the columns do not form valid `Segments`.
    """
    boxes = [(item.box.x_min, item.box.y_min, item.box.x_max, item.box.y_max) for item in instances]
    return Segments(
        image_hw=image_hw,
        masks=tuple(mask_from_message(item.mask) for item in instances),
        labels=tuple(item.label for item in instances),
        label_indices=np.array([item.label_index for item in instances], np.int32),
        scores=np.array([item.score for item in instances], np.float32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        doubts=tuple(item.doubt for item in instances),
        track_ids=np.array([item.track_id for item in instances], np.uint32),
        locations=tuple(location_from_message(item.location) for item in instances),
    )


def result_to_message(
    result: SegmentationResult,
    *,
    header: Header | None = None,
    query: messages.SegmentQuery | None = None,
    first_id: int = 1,
) -> messages.SegmentationResult:
    """Convert a result to a message.

    Args:
        result: for one query.
        header: of the source image; copied, because the frame that it belongs to is kept for further
            requests, and messages may be changed. By default it is built from the result.
        query: the sender's query message, which saves converting `result.query`.
        first_id: id of the first instance.
    """
    if header is None:
        header = Header(stamp=stamp_from_ns(result.stamp_ns), frame_id=replace_unsendable(result.frame_id))
    else:
        header = copied_header(header)
    height, width = (int(side) for side in result.segments.image_hw)
    return messages.SegmentationResult(
        header=header,
        camera=replace_unsendable(result.camera),
        model_id=replace_unsendable(result.model_id),
        query=query_to_message(result.query) if query is None else query,
        status=_STATUS_VALUES[result.status],
        code=replace_unsendable(result.code),
        message=replace_unsendable(result.message),
        hint=replace_unsendable(result.hint),
        image_height=height,
        image_width=width,
        instances=instances_from_segments(result.segments, first_id=first_id),
        text=replace_unsendable(result.text),
        phrases=[replace_unsendable(phrase) for phrase in result.phrases],
        notes=[replace_unsendable(note) for note in result.notes],
        keyframe=result.carried is None,
        keyframe_age_s=0.0 if result.carried is None else result.carried.age_s,
        confidence=1.0 if result.carried is None else result.carried.confidence,
        timing=[
            messages.StageTiming(stage=stage, seconds=float(seconds))
            for stage, seconds in result.timing.stages_s.items()
        ],
    )


def result_from_message(
    message: messages.SegmentationResult, *, query: Query | None = None
) -> SegmentationResult:
    """Convert a message to a result.

    Args:
        message: from a segmenter node.
        query: the query that it answers, which saves converting the one in the message.

    Raises:
        ModelError: the message contradicts itself (unknown status, masks that do not fit the image).
    """
    status = _STATUSES.get(message.status)
    if status is None:
        raise ModelError(f"the result has the unknown status {message.status}")
    image_hw = (int(message.image_height), int(message.image_width))
    try:
        segments = segments_from_instances(message.instances, image_hw)
    except (InvalidImageError, ValueError) as error:
        raise ModelError(f"the result contradicts itself: {error}") from error
    return SegmentationResult(
        status=status,
        query=query_from_message(message.query) if query is None else query,
        segments=segments,
        text=message.text,
        phrases=tuple(message.phrases),
        message=message.message,
        code=message.code,
        hint=message.hint,
        notes=tuple(message.notes),
        model_id=message.model_id,
        camera=message.camera,
        frame_id=message.header.frame_id,
        stamp_ns=stamp_ns(message.header.stamp),
        timing=Timing(stages_s={item.stage: item.seconds for item in message.timing}),
        carried=None if message.keyframe else _carried(message),
    )


def _carried(message: messages.SegmentationResult) -> Carried:
    age_s, confidence = message.keyframe_age_s, message.confidence
    if not (math.isfinite(age_s) and 0.0 <= confidence <= 1.0):
        raise ModelError(f"the result is {age_s} s after its keyframe with confidence {confidence}")
    keyframe_ns = stamp_ns(message.header.stamp) - round(age_s * 1e9)
    return Carried(keyframe_ns=keyframe_ns, age_s=age_s, frames=0, confidence=confidence)


def error_to_response(error: XSamError, response: Response) -> Response:
    """Fill a service response or action result with the error that ended the whole request."""
    refused = error.code in REFUSAL_CODES
    response.status = Segment.Response.STATUS_REFUSED if refused else Segment.Response.STATUS_FAILED
    response.code = error.code
    response.message = replace_unsendable(error.message)
    response.hint = replace_unsendable(error.hint)
    response.results = []
    return response


def raise_for_response(response: Segment.Response | SegmentAction.Result) -> None:
    """Raise the error in a response; return if the request was answered."""
    if response.status != Segment.Response.STATUS_ANSWERED:
        raise error_for_code(
            response.code,
            response.message or f"the node responded with status {response.status}",
            hint=response.hint,
        )
