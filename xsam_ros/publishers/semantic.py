"""Semantic images: class ids per pixel, and the table from id to label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.segments import Segments

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # the Python wheels of ROS lack it
    LabelInfo = VisionClass = None

LABEL_INFO: type[Any] | None = LabelInfo
"""Type of the `label_info` message; None without vision_msgs."""

NO_CLASS = 255
"""Pixel value for no class, as in vision_msgs/LabelInfo; Nav2's semantic_segmentation_layer skips it."""


class ClassTable:
    """Permanent class ids for labels. Ids are only ever added, so a newer table still fits an older image."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of their ids, which start at 0."""
        return tuple(self._ids)

    def id_of(self, label: str) -> int:
        """Return the id of a label, assigning one if it is new; `NO_CLASS` once all 255 are taken."""
        if label not in self._ids:
            if len(self._ids) >= NO_CLASS:
                return NO_CLASS
            self._ids[label] = len(self._ids)
        return self._ids[label]

    def semantic_image(
        self, image_hw: tuple[int, int], results: Sequence[Segments]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Compute class and confidence of every pixel.

        Args:
            image_hw: (H, W) in pixels.
            results: segments of each result. Earlier results win overlaps; within one, the higher score.

        Returns:
            (H, W) uint8 class ids, `NO_CLASS` = none; (H, W) uint8 confidence, 255 = 1.0.
        """
        classes = np.full(image_hw, NO_CLASS, np.uint8)
        confidence = np.zeros(image_hw, np.uint8)
        for segments in reversed(results):
            for index in np.argsort(segments.scores, kind="stable"):
                crop = segments.masks[index].crop()
                classes[crop.window][crop.pixels] = self.id_of(segments.labels[index])
                confidence[crop.window][crop.pixels] = round(255 * float(segments.scores[index]))
        return classes, confidence


def label_info(table: ClassTable, header: Any) -> Any:
    """Convert the table to a vision_msgs/LabelInfo; requires vision_msgs."""
    return LabelInfo(
        header=header,
        class_map=[
            VisionClass(class_id=class_id, class_name=label) for class_id, label in enumerate(table.labels)
        ],
        threshold=0.0,
    )


def label_json(table: ClassTable) -> str:
    """Convert the table to JSON, {"0": "mug", …}, for programs without vision_msgs."""
    return json.dumps({str(class_id): label for class_id, label in enumerate(table.labels)})
