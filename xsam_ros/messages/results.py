"""Messages ↔ structures, in both directions. Images are in `image_conversion`.

What comes in is not trusted: counts and sizes are bounded, enums checked, and masks verified before
anything is decoded. What is wrong raises the typed error that the sender gets to read.

What goes out gets exactly the type of its field: a message with an integer or a NumPy number in a
float field looks fine in Python, and aborts the whole process when it is sent.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import xsam_ros.msg as messages
from xsam.errors import (
    REFUSAL_CODES,
    InvalidImageError,
    InvalidQueryError,
    ModelError,
    XSamError,
    error_for_code,
)
from xsam.types.masks import MaskRle
from xsam.types.requests import (
    MAX_CATEGORIES,
    MAX_IMAGE_SIDE_PX,
    MAX_PROMPTS,
    Frame,
    PromptKind,
    Query,
    SegmentationResult,
    Segments,
    Status,
    Task,
    Timing,
    VisualPrompt,
)
from xsam_ros.action import Segment as SegmentAction
from xsam_ros.messages.images import image_from_array, rgb_from_image
from xsam_ros.messages.locations import location_from_message, location_to_message
from xsam_ros.srv import Segment

Response = TypeVar("Response", Segment.Response, SegmentAction.Result)

MAX_POINTS = 10_000
"""Points of one visual prompt."""

_TASK_VALUES = {task: getattr(messages.SegmentQuery, f"TASK_{task.name}") for task in Task}
_TASKS = {value: task for task, value in _TASK_VALUES.items()}
_KIND_VALUES = {kind: getattr(messages.VisualPrompt, f"KIND_{kind.name}") for kind in PromptKind}
_KINDS = {value: kind for kind, value in _KIND_VALUES.items()}
_STATUS_VALUES = {status: getattr(messages.SegmentationResult, f"STATUS_{status.name}") for status in Status}
_STATUSES = {value: status for status, value in _STATUS_VALUES.items()}


# ------------------------------------------------------------------------------ stamps and frames


def stamp_ns(stamp: Time) -> int:
    """Nanoseconds of a stamp."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_from_ns(nanoseconds: int) -> Time:
    """The stamp of that many nanoseconds.

    Raises:
        InvalidImageError: it does not fit into the 32-bit seconds of a ROS stamp.
    """
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    if not -(2**31) <= seconds < 2**31:
        raise InvalidImageError(f"a stamp of {nanoseconds} ns does not fit into a ROS message")
    return Time(sec=seconds, nanosec=rest)


def frame_from_image(image: Image, *, camera: str = "", max_side_px: int = MAX_IMAGE_SIDE_PX) -> Frame:
    """A frame from an image message of any supported encoding."""
    return Frame(
        rgb=rgb_from_image(image, max_side_px=max_side_px),
        camera=camera,
        frame_id=image.header.frame_id,
        stamp_ns=stamp_ns(image.header.stamp),
    )


def image_from_frame(frame: Frame) -> Image:
    """The color image of a frame as an rgb8 message with its stamp and frame_id."""
    header = Header(stamp=stamp_from_ns(frame.stamp_ns), frame_id=sendable("frame_id", frame.frame_id))
    return image_from_array(frame.rgb, "rgb8", header)


# ---------------------------------------------------------------------------------------- masks


def mask_to_message(mask: MaskRle) -> messages.MaskRle:
    """A mask as a message, with the bytes that pycocotools reads."""
    return messages.MaskRle(height=mask.height, width=mask.width, counts=array.array("B", mask.counts))


def mask_from_message(message: messages.MaskRle) -> MaskRle:
    """The mask of a message; raises `InvalidImageError` when its code does not fit its size."""
    return MaskRle.from_counts(int(message.height), int(message.width), bytes(message.counts))


# -------------------------------------------------------------------------------------- prompts


def prompt_to_message(prompt: VisualPrompt) -> messages.VisualPrompt:
    """A prompt as a message; a mask becomes a run-length code."""
    message = messages.VisualPrompt(kind=_KIND_VALUES[prompt.kind], negative=not prompt.positive)
    if prompt.points_xy is not None:
        message.points = [messages.PixelPoint(x=float(x), y=float(y)) for x, y in prompt.points_xy]
    if prompt.box_xyxy is not None:
        x_min, y_min, x_max, y_max = prompt.box_xyxy
        message.box = messages.PixelBox(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    if prompt.mask is not None:
        message.mask = mask_to_message(MaskRle.encode(prompt.mask))
    return message


def prompt_from_message(
    message: messages.VisualPrompt, *, image_hw: tuple[int, int] | None = None
) -> VisualPrompt:
    """A prompt from its message.

    Args:
        message: anything that came.
        image_hw: (H, W) of the image; a mask of another size is refused before it is decoded.

    Raises:
        InvalidQueryError: unknown kind, or the fields do not belong to the kind.
    """
    kind = _KINDS.get(message.kind)
    if kind is None:
        known = ", ".join(f"{value} {name.name}" for value, name in _KINDS.items())
        raise InvalidQueryError(f"unknown prompt kind {message.kind}; known: {known}")
    if len(message.points) > MAX_POINTS:
        raise InvalidQueryError(
            f"a prompt has {len(message.points)} points, at most {MAX_POINTS} are allowed"
        )
    if kind is PromptKind.POINT and len(message.points) != 1:
        raise InvalidQueryError(f"a point prompt needs exactly one point, got {len(message.points)}")
    box = (message.box.x_min, message.box.y_min, message.box.x_max, message.box.y_max)
    mask = None
    if message.mask.height or message.mask.width or len(message.mask.counts):
        mask_hw = (int(message.mask.height), int(message.mask.width))
        if image_hw is not None and mask_hw != image_hw:
            raise InvalidQueryError(f"mask prompt is {mask_hw}, the image is {image_hw}")
        try:
            mask = mask_from_message(message.mask).decode()
        except InvalidImageError as error:
            raise InvalidQueryError(f"mask prompt: {error.message}") from error
    with np.errstate(over="ignore"):  # coordinates beyond float32 become inf, which the structure refuses
        points = np.array([(point.x, point.y) for point in message.points], np.float32)
    return VisualPrompt(
        kind=kind,
        points_xy=points if len(points) else None,
        box_xyxy=box if any(value != 0.0 for value in box) else None,
        mask=mask,
        positive=not message.negative,
    )


# -------------------------------------------------------------------------------------- queries


def query_to_message(query: Query) -> messages.SegmentQuery:
    """A query as a message.

    Raises:
        InvalidQueryError: a text cannot be sent (NUL character, lone surrogate).
    """
    unset = messages.SegmentQuery.SCORE_THRESHOLD_UNSET
    return messages.SegmentQuery(
        task=_TASK_VALUES[query.task],
        text=sendable("text", query.text),
        thing_classes=[sendable("thing_classes", name) for name in query.thing_classes],
        stuff_classes=[sendable("stuff_classes", name) for name in query.stuff_classes],
        prompts=[prompt_to_message(prompt) for prompt in query.prompts],
        score_threshold=unset if query.score_threshold is None else float(query.score_threshold),
        max_instances=min(max(int(query.max_instances), 0), 2**32 - 1),
        explain=bool(query.explain),
    )


def query_from_message(message: messages.SegmentQuery, *, image_hw: tuple[int, int] | None = None) -> Query:
    """A query from its message; `Query.validate` is still to be called.

    Raises:
        InvalidQueryError: unknown task, too many categories or prompts, or a prompt that is wrong.
    """
    task = _TASKS.get(message.task)
    if task is None:
        known = ", ".join(f"{value} {name.name}" for value, name in _TASKS.items())
        raise InvalidQueryError(f"unknown task {message.task}; known: {known}")
    categories = len(message.thing_classes) + len(message.stuff_classes)
    if categories > MAX_CATEGORIES:
        raise InvalidQueryError(f"{categories} categories, at most {MAX_CATEGORIES} are allowed")
    if len(message.prompts) > MAX_PROMPTS:
        raise InvalidQueryError(f"{len(message.prompts)} prompts, at most {MAX_PROMPTS} are allowed")
    threshold = float(message.score_threshold)
    unset = math.isnan(threshold) or threshold == messages.SegmentQuery.SCORE_THRESHOLD_UNSET
    defaults = Query()
    return Query(
        text=message.text,
        task=task,
        thing_classes=tuple(message.thing_classes),
        stuff_classes=tuple(message.stuff_classes),
        prompts=tuple(prompt_from_message(prompt, image_hw=image_hw) for prompt in message.prompts),
        score_threshold=None if unset else threshold,
        max_instances=int(message.max_instances) or defaults.max_instances,
        explain=message.explain,
    )


# -------------------------------------------------------------------------------------- results


def instances_from_segments(segments: Segments, *, first_id: int = 1) -> list[messages.Instance]:
    """One message a segment, with ids counted from `first_id`."""
    instances = []
    for index, mask in enumerate(segments.masks):
        area, (x_px, y_px) = mask.area_and_centroid()
        x_min, y_min, x_max, y_max = (float(value) for value in segments.boxes_xyxy[index])
        instances.append(
            messages.Instance(
                id=first_id + index,
                track_id=int(segments.track_ids[index]),
                label=_printable(segments.labels[index]),
                label_index=int(segments.label_indices[index]),
                score=float(segments.scores[index]),
                box=messages.PixelBox(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
                mask=mask_to_message(mask),
                area=area,
                centroid=messages.PixelPoint(x=x_px, y=y_px),
                location=location_to_message(segments.locations[index]),
            )
        )
    return instances


def segments_from_instances(instances: Sequence[messages.Instance], image_hw: tuple[int, int]) -> Segments:
    """Segments from messages; the ids, areas and centroids follow from the order and the masks."""
    boxes = [(item.box.x_min, item.box.y_min, item.box.x_max, item.box.y_max) for item in instances]
    return Segments(
        image_hw=image_hw,
        masks=tuple(mask_from_message(item.mask) for item in instances),
        labels=tuple(item.label for item in instances),
        label_indices=np.array([item.label_index for item in instances], np.int32),
        scores=np.array([item.score for item in instances], np.float32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
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
    """A result as a message.

    Args:
        result: the answer to one query.
        header: of the source image; it is passed on as it is. Without one it is made from the result.
        query: what the sender asked, if it is at hand as a message.
        first_id: id of the first instance.
    """
    if header is None:
        header = Header(stamp=stamp_from_ns(result.stamp_ns), frame_id=_printable(result.frame_id))
    height, width = (int(side) for side in result.segments.image_hw)
    return messages.SegmentationResult(
        header=header,
        camera=_printable(result.camera),
        model_id=_printable(result.model_id),
        query=query_to_message(result.query) if query is None else query,
        status=_STATUS_VALUES[result.status],
        code=_printable(result.code),
        message=_printable(result.message),
        hint=_printable(result.hint),
        image_height=height,
        image_width=width,
        instances=instances_from_segments(result.segments, first_id=first_id),
        text=_printable(result.text),
        phrases=[_printable(phrase) for phrase in result.phrases],
        timing=[
            messages.StageTiming(stage=stage, seconds=float(seconds))
            for stage, seconds in result.timing.stages_s.items()
        ],
    )


def result_from_message(
    message: messages.SegmentationResult, *, query: Query | None = None
) -> SegmentationResult:
    """A result from its message.

    Args:
        message: as a node sent it.
        query: the query that was asked, to save converting it back.

    Raises:
        ModelError: the message contradicts itself (unknown status, masks that do not fit the image).
    """
    status = _STATUSES.get(message.status)
    if status is None:
        raise ModelError(f"the answer has the unknown status {message.status}")
    image_hw = (int(message.image_height), int(message.image_width))
    try:
        segments = segments_from_instances(message.instances, image_hw)
    except (InvalidImageError, ValueError) as error:
        raise ModelError(f"the answer contradicts itself: {error}") from error
    return SegmentationResult(
        status=status,
        query=query_from_message(message.query) if query is None else query,
        segments=segments,
        text=message.text,
        phrases=tuple(message.phrases),
        message=message.message,
        code=message.code,
        hint=message.hint,
        model_id=message.model_id,
        camera=message.camera,
        frame_id=message.header.frame_id,
        stamp_ns=stamp_ns(message.header.stamp),
        timing=Timing(stages_s={item.stage: item.seconds for item in message.timing}),
    )


# --------------------------------------------------------------------------------------- errors


def error_to_response(error: XSamError, response: Response) -> Response:
    """Write a refusal or failure of the whole request into a response, or into the result of an action."""
    refused = error.code in REFUSAL_CODES
    response.status = Segment.Response.STATUS_REFUSED if refused else Segment.Response.STATUS_FAILED
    response.code = error.code
    response.message = _printable(error.message)
    response.hint = _printable(error.hint)
    response.results = []
    return response


def raise_for_response(response: Segment.Response | SegmentAction.Result) -> None:
    """Raise the error in a response; do nothing when the request was answered."""
    if response.status != Segment.Response.STATUS_ANSWERED:
        raise error_for_code(
            response.code,
            response.message or f"the node answered with status {response.status}",
            hint=response.hint,
        )


def sendable(field: str, text: str) -> str:
    """`text` itself; ROS would cut it at a NUL and cannot encode a lone surrogate."""
    if not isinstance(text, str):
        raise InvalidQueryError(f"{field} must be text, got {type(text).__name__}")
    if "\0" in text or not _encodes(text):
        raise InvalidQueryError(f"{field} has a character that cannot be sent: {text[:40]!r}")
    return text


def _printable(text: str) -> str:
    """`text` with what cannot be sent replaced, for words that the node itself made."""
    return str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
