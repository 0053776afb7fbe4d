"""What can go wrong with ids and arguments, in addition to the segmenter's own errors.

::

    RequestRefusedError          (xsam.errors)
    ├── StaleIdError             STALE_ID           the image was dropped to make room
    ├── UnknownIdError           UNKNOWN_ID         never handed out: mistyped or invented
    ├── ImageNotKeptError        IMAGE_NOT_KEPT     the objects are known, the pixels are not
    ├── ImageFullError           IMAGE_FULL         too many objects on one image
    ├── ArgumentsError           INVALID_ARGUMENTS  well-formed arguments that make no sense together
    ├── RepeatedQueryError       REPEATED_QUERY     asked before about the same picture
    ├── NotLookedError           NOT_LOOKED         absence is reported before anything was looked for
    ├── NoDepthError             NO_DEPTH           the image has no depth or no camera matrix
    └── NoTransformError         NO_TRANSFORM       nothing takes points to the frame that was asked for
"""

from __future__ import annotations

from collections.abc import Sequence

from xsam.errors import RequestRefusedError, StaleFrameError


class StaleIdError(RequestRefusedError):
    """The id was valid once; its image was dropped to make room for newer ones."""

    code = "STALE_ID"
    default_hint = "call segment_objects without image_id to look again, and use the new ids"


class UnknownIdError(RequestRefusedError):
    """The id was never handed out."""

    code = "UNKNOWN_ID"
    default_hint = "copy the id from an earlier answer, or leave image_id out to look again"


class ImageNotKeptError(RequestRefusedError):
    """The pixels of the image were not kept, so it cannot be segmented again."""

    code = "IMAGE_NOT_KEPT"
    default_hint = "leave image_id out to look at a fresh image"


class ImageFullError(RequestRefusedError):
    """The image carries as many objects as one image may."""

    code = "IMAGE_FULL"
    default_hint = "leave image_id out to look at a fresh image"


class ArgumentsError(RequestRefusedError):
    """Each argument is well-formed, but together they make no sense."""

    code = "INVALID_ARGUMENTS"
    default_hint = "correct the arguments and call again"


class RepeatedQueryError(RequestRefusedError):
    """The same was asked before about the same picture, so the answer would be the same.

    Attributes:
        tried: every query that was tried on this view, oldest first.
    """

    code = "REPEATED_QUERY"
    default_hint = "ask something else, use another camera, or report_not_found"

    def __init__(self, message: str, *, tried: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tried = tuple(tried)


class NotLookedError(RequestRefusedError):
    """Something is reported absent that nobody has looked for."""

    code = "NOT_LOOKED"
    default_hint = "look for it with segment_objects first"


class NoDepthError(RequestRefusedError):
    """The image came without a depth image or without intrinsics, so nothing is known in meters."""

    code = "NO_DEPTH"
    default_hint = "this camera gives no depth: use positions in the image, or another camera"


class NoTransformError(RequestRefusedError):
    """Nothing takes points of the camera to the frame that was asked for."""

    code = "NO_TRANSFORM"
    default_hint = "leave frame out to get positions in the camera's own frame"


STALE_CODES = frozenset({StaleIdError.code, StaleFrameError.code})
