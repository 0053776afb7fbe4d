"""Errors about ids and arguments, in addition to the segmenter's own errors.

::

    RequestRefusedError          (xsam.errors)
    ├── StaleIdError             STALE_ID           the image was dropped to make room
    ├── UnknownIdError           UNKNOWN_ID         never handed out: mistyped or invented
    ├── ImageNotKeptError        IMAGE_NOT_KEPT     the objects are known, the pixels are not
    ├── ImageFullError           IMAGE_FULL         too many objects on one image
    ├── ArgumentsError           INVALID_ARGUMENTS  well-formed arguments that make no sense together
    ├── RepeatedQueryError       REPEATED_QUERY     same query about the same image
    ├── CallLimitError           CALL_LIMIT         too many calls for one request
    ├── NotLookedError           NOT_LOOKED         absence reported before any search
    ├── NoDepthError             NO_DEPTH           the image has no depth or no camera matrix
    └── NoTransformError         NO_TRANSFORM       no transform to the requested frame
"""

from __future__ import annotations

from collections.abc import Sequence

from xsam.errors import RequestRefusedError, StaleFrameError


class StaleIdError(RequestRefusedError):
    """An id that was valid once, but whose image was dropped to make room for newer ones."""

    code = "STALE_ID"
    default_hint = "look again with segment_objects, and use the new ids"


class UnknownIdError(RequestRefusedError):
    """An id that was never handed out."""

    code = "UNKNOWN_ID"
    default_hint = "copy the id from an earlier answer; if there is none, look again with segment_objects"


class ImageNotKeptError(RequestRefusedError):
    """An image that cannot be segmented again, because its pixels were not kept."""

    code = "IMAGE_NOT_KEPT"
    default_hint = "look at a fresh image with segment_objects"


class ImageFullError(RequestRefusedError):
    """An image that already carries the maximum number of objects."""

    code = "IMAGE_FULL"
    default_hint = "look at a fresh image with segment_objects"


class ArgumentsError(RequestRefusedError):
    """Arguments that are well-formed one by one, but make no sense together."""

    code = "INVALID_ARGUMENTS"
    default_hint = "correct the arguments and call again"


class RepeatedQueryError(RequestRefusedError):
    """A query that was already made about the same image, so its result would be the same.

    Attributes:
        tried: every query made on this view so far, oldest first.
    """

    code = "REPEATED_QUERY"
    default_hint = "ask something else, use another camera, or report_not_found"

    def __init__(self, message: str, *, tried: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tried = tuple(tried)


class CallLimitError(RequestRefusedError):
    """More calls than the program allows for one request of the user."""

    code = "CALL_LIMIT"
    default_hint = "stop looking, and tell the user what is known"


class NotLookedError(RequestRefusedError):
    """A report that something is absent, although nobody has looked for it."""

    code = "NOT_LOOKED"
    default_hint = "look for it with segment_objects first"


class NoDepthError(RequestRefusedError):
    """An image without a depth image or intrinsics, so no position in meters can be computed."""

    code = "NO_DEPTH"
    default_hint = "this camera gives no depth: use positions in the image, or another camera"


class NoTransformError(RequestRefusedError):
    """A requested frame that no transform from the camera's frame leads to."""

    code = "NO_TRANSFORM"
    default_hint = "leave frame out to get positions in the camera's own frame"


STALE_CODES = frozenset({StaleIdError.code, StaleFrameError.code})
