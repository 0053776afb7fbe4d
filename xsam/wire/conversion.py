"""Types of `xsam` ↔ the JSON of `xsam.wire.models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from pydantic import ValidationError

from xsam.errors import (
    REFUSAL_CODES,
    InvalidImageError,
    InvalidQueryError,
    ModelError,
    RequestTooLargeError,
    XSamError,
    error_for_code,
)
from xsam.types.carried import Carried
from xsam.types.location import Location3D
from xsam.types.masks import MaskRle
from xsam.types.requests import (
    Frame,
    Query,
    SegmentationResult,
    Segments,
    Status,
    Timing,
    VisualPrompt,
)
from xsam.wire.models import (
    MAX_QUERIES,
    CarriedBody,
    ErrorBody,
    InstanceBody,
    LocationBody,
    MaskBody,
    PromptBody,
    QueryBody,
    RequestBody,
    ResponseBody,
    ResultBody,
    SizeBody,
)

MAX_MASK_PX = 1 << 26
"""Pixels of all mask prompts of a request together: a code of a few bytes may stand for 268 million."""


def query_to_body(query: Query) -> QueryBody:
    """Convert a query that `Query.validate` accepts.

    Raises:
        InvalidQueryError: it cannot be written as JSON: a number is not finite.
    """
    try:
        return QueryBody(
            text=query.text,
            task=query.task,
            thing_classes=list(query.thing_classes),
            stuff_classes=list(query.stuff_classes),
            prompts=[_prompt_to_body(prompt) for prompt in query.prompts],
            score_threshold=query.score_threshold,
            max_instances=query.max_instances,
            explain=query.explain,
        )
    except ValidationError as error:
        raise InvalidQueryError(validation_message(error)) from None


def query_from_body(body: QueryBody) -> Query:
    """Convert a query.

    Raises:
        InvalidQueryError: a prompt has the wrong fields or no extent, a mask does not fill its size.
    """
    return Query(
        text=body.text,
        task=body.task,
        thing_classes=tuple(body.thing_classes),
        stuff_classes=tuple(body.stuff_classes),
        prompts=tuple(_prompt_from_body(prompt) for prompt in body.prompts),
        score_threshold=body.score_threshold,
        max_instances=body.max_instances,
        explain=body.explain,
    )


def request_from_json(content: bytes) -> tuple[RequestBody, list[Query]]:
    """Parse a request.

    Raises:
        InvalidQueryError: it is not the JSON of a request; the message names the field.
        RequestTooLargeError: it has too many queries, or its mask prompts too many pixels.
    """
    try:
        body = RequestBody.model_validate_json(content)
    except ValidationError as error:
        raise InvalidQueryError(
            f"the request is not understood: {validation_message(error)}", hint="see /v1/schema"
        ) from None
    if len(body.queries) > MAX_QUERIES:
        raise RequestTooLargeError(f"{len(body.queries)} queries, at most {MAX_QUERIES} are allowed")
    masks = [prompt.mask for query in body.queries for prompt in query.prompts if prompt.mask is not None]
    if (pixels := sum(abs(mask.size[0] * mask.size[1]) for mask in masks)) > MAX_MASK_PX:
        raise RequestTooLargeError(
            f"the mask prompts have {pixels} px together, at most {MAX_MASK_PX} are allowed"
        )
    queries = []
    for index, query in enumerate(body.queries):
        try:
            queries.append(query_from_body(query))
        except InvalidQueryError as error:
            raise InvalidQueryError(f"queries.{index}: {error.message}", hint=error.hint) from None
    return body, queries


def result_to_body(result: SegmentationResult) -> ResultBody:
    """Convert a result; scores and chances keep the digits that make up a float32."""
    segments = result.segments
    height, width = segments.image_hw
    columns = (
        segments.labels,
        segments.label_indices,
        segments.scores,
        segments.doubts,
        segments.chances,
        segments.track_ids,
        segments.boxes_xyxy,
        segments.locations,
        segments.masks,
    )
    return ResultBody(
        status=result.status,
        message=result.message,
        code=result.code,
        hint=result.hint,
        notes=list(result.notes),
        model=result.model_id,
        task=result.query.resolved_task(),
        text=result.text,
        phrases=list(result.phrases),
        image=SizeBody(width=width, height=height),
        segments=[
            InstanceBody(
                label=label,
                label_index=int(index),
                score=float(str(np.float32(score))),
                doubt=doubt,
                chance=None if np.isnan(chance) else float(str(np.float32(chance))),
                track_id=int(track_id),
                box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                area_px=mask.area,
                location=None if location is None else _location_to_body(location),
                mask=_mask_to_body(mask),
            )
            for label, index, score, doubt, chance, track_id, box, location, mask in zip(
                *columns, strict=True
            )
        ],
        timing_s={name: round(seconds, 6) for name, seconds in result.timing.stages_s.items()},
        carried=None if result.carried is None else CarriedBody(**asdict(result.carried)),
    )


def result_from_body(body: ResultBody, *, query: Query, frame: Frame | None = None) -> SegmentationResult:
    """Convert a result.

    Args:
        body: the result.
        query: what was asked.
        frame: what it was asked about; None = take the size of the image from the result.

    Raises:
        InvalidImageError: a mask does not fill its size, or the result is about an image of another size.
    """
    image_hw = (body.image.height, body.image.width)
    if frame is not None and image_hw != frame.image_hw:
        raise InvalidImageError(
            f"the result is about an image of {image_hw[1]}×{image_hw[0]} px, the frame has"
            f" {frame.image_hw[1]}×{frame.image_hw[0]}"
        )
    found = body.segments
    count = len(found)
    return SegmentationResult(
        status=body.status,
        query=query,
        segments=Segments(
            image_hw=image_hw,
            masks=tuple(_mask_from_body(instance.mask) for instance in found),
            labels=tuple(instance.label for instance in found),
            label_indices=np.array([instance.label_index for instance in found], np.int32),
            scores=np.array([instance.score for instance in found], np.float32),
            boxes_xyxy=np.array([instance.box_xyxy for instance in found], np.float32).reshape(count, 4),
            doubts=tuple(instance.doubt for instance in found),
            chances=np.array([instance.chance for instance in found], np.float32),
            track_ids=np.array([instance.track_id for instance in found], np.uint32),
            locations=tuple(
                None if instance.location is None else _location_from_body(instance.location)
                for instance in found
            ),
        ),
        text=body.text,
        phrases=tuple(body.phrases),
        message=body.message,
        code=body.code,
        hint=body.hint,
        notes=tuple(body.notes),
        model_id=body.model,
        camera="" if frame is None else frame.camera,
        frame_id="" if frame is None else frame.frame_id,
        stamp_ns=0 if frame is None else frame.stamp_ns,
        timing=Timing(stages_s=dict(body.timing_s)),
        carried=None if body.carried is None else Carried(**body.carried.model_dump()),
    )


def results_from_response(
    response: ResponseBody, *, queries: Sequence[Query], frame: Frame
) -> list[SegmentationResult]:
    """Convert the results of a whole response.

    Raises:
        ModelError: the response does not fit the request.
    """
    if len(response.results) != len(queries):
        raise ModelError(f"the server sent {len(response.results)} results for {len(queries)} queries")
    try:
        return [
            result_from_body(body, query=query, frame=frame)
            for body, query in zip(response.results, queries, strict=True)
        ]
    except (InvalidImageError, ValueError) as error:
        raise ModelError(f"the server sent a result that does not fit the request: {error}") from error


def error_to_body(error: XSamError) -> ErrorBody:
    """Convert an error that affects a whole request."""
    return ErrorBody(
        status=Status.REFUSED if error.code in REFUSAL_CODES else Status.FAILED,
        code=error.code,
        message=error.message,
        hint=error.hint,
    )


def error_from_body(body: ErrorBody) -> XSamError:
    """Convert an error back to the exception of its code."""
    return error_for_code(body.code, body.message, hint=body.hint)


def validation_message(error: ValidationError) -> str:
    """Return pydantic's first complaint as one line: the field, what is wrong, and the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    value = first["input"]
    shown = f", got {value!r:.80}" if isinstance(value, (str, int, float, bool, type(None))) else ""
    return f"{f'{field}: ' if field else ''}{first['msg'][0].lower()}{first['msg'][1:]}{shown}"


def _location_to_body(location: Location3D) -> LocationBody:
    if not location.valid:
        known: dict[str, object] = {"depth_valid_ratio": location.depth_valid_ratio}
        return LocationBody.model_validate({**known, "reason": location.reason})
    return LocationBody.model_validate(asdict(location))


def _location_from_body(body: LocationBody) -> Location3D:
    if body.reason:
        return Location3D.unknown(body.reason, depth_valid_ratio=body.depth_valid_ratio)
    return Location3D(**body.model_dump())


def _prompt_to_body(prompt: VisualPrompt) -> PromptBody:
    points = None if prompt.points_xy is None else [(float(x), float(y)) for x, y in prompt.points_xy]
    mask = None if prompt.mask is None else _mask_to_body(MaskRle.encode(prompt.mask))
    return PromptBody(
        kind=prompt.kind, points_xy=points, box_xyxy=prompt.box_xyxy, mask=mask, positive=prompt.positive
    )


def _prompt_from_body(body: PromptBody) -> VisualPrompt:
    points = None if body.points_xy is None else np.array(body.points_xy, np.float32).reshape(-1, 2)
    mask = None
    if body.mask is not None:
        try:
            mask = _mask_from_body(body.mask).decode()
        except InvalidImageError as error:
            raise InvalidQueryError(f"the mask of a prompt cannot be used: {error.message}") from None
    return VisualPrompt(
        kind=body.kind, points_xy=points, box_xyxy=body.box_xyxy, mask=mask, positive=body.positive
    )


def _mask_to_body(mask: MaskRle) -> MaskBody:
    return MaskBody(size=(mask.height, mask.width), counts=mask.counts.decode("ascii"))


def _mask_from_body(body: MaskBody) -> MaskRle:
    try:
        counts = body.counts.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidImageError("the code of a mask has characters that are not ASCII") from None
    return MaskRle.from_counts(*body.size, counts)
