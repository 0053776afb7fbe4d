"""Errors as HTTP answers: every code has a status, and every answer is the JSON of `ErrorBody`."""

from __future__ import annotations

import math

from fastapi import Response

from xsam.errors import (
    CameraUnavailableError,
    DeadlineExceededError,
    FrameNotKeptError,
    InvalidImageError,
    InvalidOptionError,
    InvalidQueryError,
    LinkDownError,
    ModelError,
    NoFrameError,
    NotActiveError,
    OutOfMemoryError,
    QueueFullError,
    RateLimitError,
    ReplicaLostError,
    RequestCancelledError,
    RequestTooLargeError,
    SegmenterUnavailableError,
    StaleFrameError,
    UnauthorizedError,
    UnknownCameraError,
    WrongModelError,
    XSamError,
)
from xsam.wire.conversion import error_to_body

STATUS_OF = {
    InvalidQueryError.code: 400,
    InvalidOptionError.code: 400,
    InvalidImageError.code: 400,
    UnauthorizedError.code: 401,
    FrameNotKeptError.code: 404,
    UnknownCameraError.code: 404,
    CameraUnavailableError.code: 503,
    NoFrameError.code: 503,
    StaleFrameError.code: 503,
    SegmenterUnavailableError.code: 503,
    LinkDownError.code: 503,
    WrongModelError.code: 409,
    RequestTooLargeError.code: 413,
    QueueFullError.code: 429,
    RateLimitError.code: 429,
    RequestCancelledError.code: 499,
    ModelError.code: 500,
    NotActiveError.code: 503,
    OutOfMemoryError.code: 503,
    ReplicaLostError.code: 503,
    DeadlineExceededError.code: 504,
}
_RETRY_LATER = (429, 503)


def http_status(error: XSamError) -> int:
    """Return the status of an error; 500 for one that no client has caused."""
    return STATUS_OF.get(error.code, 500)


def error_response(error: XSamError, *, retry_after_s: float = 1.0) -> Response:
    """Return an error as JSON.

    Args:
        error: affects the whole request.
        retry_after_s: when trying again makes sense, for statuses that invite to; whole seconds are told.
    """
    status = http_status(error)
    headers = {"retry-after": str(max(1, math.ceil(retry_after_s)))} if status in _RETRY_LATER else None
    return Response(
        error_to_body(error).model_dump_json(),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )
