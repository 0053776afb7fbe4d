"""Masks, which travel as COCO run-length codes."""

from __future__ import annotations

import array

import xsam_ros.msg as messages
from xsam.types.masks import MaskRle


def mask_to_message(mask: MaskRle) -> messages.MaskRle:
    """Convert a mask to a message; its bytes are what pycocotools reads."""
    return messages.MaskRle(height=mask.height, width=mask.width, counts=array.array("B", mask.counts))


def mask_from_message(message: messages.MaskRle) -> MaskRle:
    """Convert a message to a mask, without decoding it.

    Raises:
        InvalidImageError: the size is out of bounds, or the run lengths do not fill it exactly.
    """
    return MaskRle.from_counts(int(message.height), int(message.width), bytes(message.counts))
