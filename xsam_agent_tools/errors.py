"""What can go wrong with ids, in addition to the segmenter's own errors.

::

    RequestRefusedError          (xsam.errors)
    ├── StaleIdError             STALE_ID        the image was dropped to make room
    ├── UnknownIdError           UNKNOWN_ID      never handed out: mistyped or invented
    ├── ImageNotKeptError        IMAGE_NOT_KEPT  the objects are known, the pixels are not
    └── ImageFullError           IMAGE_FULL      too many objects on one image
"""

from __future__ import annotations

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


STALE_CODES = frozenset({StaleIdError.code, StaleFrameError.code})
