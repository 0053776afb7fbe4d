"""Queries and visual prompts ↔ messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import xsam_ros.msg as messages
from xsam.errors import InvalidImageError, InvalidQueryError
from xsam.types.masks import MaskRle
from xsam.types.requests import MAX_CATEGORIES, MAX_PROMPTS, PromptKind, Query, Task, VisualPrompt
from xsam_ros.messages.masks import mask_from_message, mask_to_message
from xsam_ros.messages.text import require_sendable

MAX_POINTS = 10_000
"""Most points that one visual prompt may have."""

MAX_ELEMENTS = 30_000
"""Most elements of all lists of a request together. Longer lists are cut before they are converted, which
would take seconds: see `xsam_ros.runtime.bounded_requests`."""

_TASK_VALUES = {task: getattr(messages.SegmentQuery, f"TASK_{task.name}") for task in Task}
_TASKS = {value: task for task, value in _TASK_VALUES.items()}
_KIND_VALUES = {kind: getattr(messages.VisualPrompt, f"KIND_{kind.name}") for kind in PromptKind}
_KINDS = {value: kind for kind, value in _KIND_VALUES.items()}


def prompt_to_message(prompt: VisualPrompt) -> messages.VisualPrompt:
    """Convert a prompt to a message; a mask becomes a run-length code."""
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
    message: messages.VisualPrompt, *, image_hw: tuple[int, int] | None = None, decode: bool = True
) -> VisualPrompt:
    """Convert a message to a prompt.

    Args:
        message: from an untrusted sender.
        image_hw: (H, W) of the image; a mask of another size is refused before it is decoded.
        decode: False puts a mask of one pixel in the place of a valid one, which costs next to nothing.

    Raises:
        InvalidQueryError: unknown kind, or the fields do not belong to the kind.
    """
    kind = _KINDS.get(message.kind)
    if kind is None:
        known = ", ".join(f"{value} {name.name}" for value, name in _KINDS.items())
        raise InvalidQueryError(f"unknown prompt kind {message.kind}; known: {known}")
    if len(message.points) > MAX_POINTS:
        raise InvalidQueryError(f"a prompt has more than {MAX_POINTS} points")
    if kind is PromptKind.POINT and len(message.points) != 1:
        raise InvalidQueryError(f"a point prompt needs exactly one point, got {len(message.points)}")
    box = (message.box.x_min, message.box.y_min, message.box.x_max, message.box.y_max)
    mask = None
    if message.mask.height or message.mask.width or len(message.mask.counts):
        mask_hw = (int(message.mask.height), int(message.mask.width))
        if image_hw is not None and mask_hw != image_hw:
            raise InvalidQueryError(f"mask prompt is {mask_hw}, the image is {image_hw}")
        try:
            code = mask_from_message(message.mask)
            mask = code.decode() if decode else np.ones((1, 1), np.bool_)
        except InvalidImageError as error:
            raise InvalidQueryError(f"mask prompt: {error.message}") from error
    with np.errstate(over="ignore"):  # coordinates beyond float32 become inf, which VisualPrompt refuses
        points = np.array([(point.x, point.y) for point in message.points], np.float32)
    return VisualPrompt(
        kind=kind,
        points_xy=points if len(points) else None,
        box_xyxy=box if any(value != 0.0 for value in box) else None,
        mask=mask,
        positive=not message.negative,
    )


def query_to_message(query: Query) -> messages.SegmentQuery:
    """Convert a query to a message.

    Raises:
        InvalidQueryError: a text cannot be sent (NUL character, lone surrogate).
    """
    unset = messages.SegmentQuery.SCORE_THRESHOLD_UNSET
    return messages.SegmentQuery(
        task=_TASK_VALUES[query.task],
        text=require_sendable("text", query.text),
        thing_classes=[require_sendable("thing_classes", name) for name in query.thing_classes],
        stuff_classes=[require_sendable("stuff_classes", name) for name in query.stuff_classes],
        prompts=[prompt_to_message(prompt) for prompt in query.prompts],
        score_threshold=unset if query.score_threshold is None else float(query.score_threshold),
        max_instances=min(max(int(query.max_instances), 0), 2**32 - 1),
        explain=bool(query.explain),
    )


def check_elements(queries: Sequence[messages.SegmentQuery]) -> None:
    """Check that the lists of untrusted queries are not too long, all of them together.

    Raises:
        InvalidQueryError: more than `MAX_ELEMENTS` queries, names, prompts and points.
    """
    prompts = [prompt for query in queries for prompt in query.prompts]
    names = sum(len(query.thing_classes) + len(query.stuff_classes) for query in queries)
    if len(queries) + names + len(prompts) + sum(len(prompt.points) for prompt in prompts) > MAX_ELEMENTS:
        raise InvalidQueryError(
            f"the request has more than {MAX_ELEMENTS:,} queries, names, prompts and points together",
            hint="send fewer at a time, and thin out scribbles: a few hundred points are plenty",
        )


def check_query_message(message: messages.SegmentQuery) -> Query:
    """Check a query as far as possible without its image, and without decoding its masks.

    Returns:
        The query, with masks of one pixel.

    Raises:
        InvalidQueryError: as for `query_from_message` and `Query.validate`.
    """
    query = query_from_message(message, decode=False)
    query.validate()
    return query


def query_from_message(
    message: messages.SegmentQuery, *, image_hw: tuple[int, int] | None = None, decode: bool = True
) -> Query:
    """Convert a message to a query, which the caller still has to `validate`.

    Args:
        message: from an untrusted sender.
        image_hw: (H, W) of the image; a mask prompt of another size is refused before it is decoded.
        decode: False puts masks of one pixel in the place of valid ones.

    Raises:
        InvalidQueryError: unknown task, too many categories or prompts, or a malformed prompt.
    """
    task = _TASKS.get(message.task)
    if task is None:
        known = ", ".join(f"{value} {name.name}" for value, name in _TASKS.items())
        raise InvalidQueryError(f"unknown task {message.task}; known: {known}")
    categories = len(message.thing_classes) + len(message.stuff_classes)
    if categories > MAX_CATEGORIES:
        raise InvalidQueryError(f"more than {MAX_CATEGORIES} categories")
    if len(message.prompts) > MAX_PROMPTS:
        raise InvalidQueryError(f"more than {MAX_PROMPTS} prompts")
    threshold = float(message.score_threshold)
    unset = math.isnan(threshold) or threshold == messages.SegmentQuery.SCORE_THRESHOLD_UNSET
    defaults = Query()
    return Query(
        text=message.text,
        task=task,
        thing_classes=tuple(message.thing_classes),
        stuff_classes=tuple(message.stuff_classes),
        prompts=tuple(
            prompt_from_message(prompt, image_hw=image_hw, decode=decode) for prompt in message.prompts
        ),
        score_threshold=None if unset else threshold,
        max_instances=int(message.max_instances) or defaults.max_instances,
        explain=message.explain,
    )
