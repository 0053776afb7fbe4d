"""Class ids of a camera's semantic image, and the table that says what they mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.segments import Segments

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not everywhere: the Python wheels of ROS lack it
    LabelInfo = VisionClass = None

LABEL_INFO: type[Any] | None = LabelInfo
"""The message of `label_info`; None without vision_msgs."""

NO_CLASS = 255
"""Pixel of no class, as in vision_msgs/LabelInfo; Nav2's semantic_segmentation_layer skips it."""


class ClassTable:
    """Gives every label an id, once. Ids are only added, so an image may be read with a newer table."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of their ids, which begin with 0."""
        return tuple(self._ids)

    def id_of(self, label: str) -> int:
        """The id of a label; `NO_CLASS` when all 255 are given."""
        if label not in self._ids:
            if len(self._ids) >= NO_CLASS:
                return NO_CLASS
            self._ids[label] = len(self._ids)
        return self._ids[label]

    def semantic_image(
        self, image_hw: tuple[int, int], answers: Sequence[Segments]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Class and confidence of every pixel.

        Args:
            image_hw: (H, W) in pixels.
            answers: segments of each answer; the first answer wins an overlap, within one the better score.

        Returns:
            (H, W) uint8 class ids, `NO_CLASS` = none; (H, W) uint8 confidence, 255 = 1.0.
        """
        classes = np.full(image_hw, NO_CLASS, np.uint8)
        confidence = np.zeros(image_hw, np.uint8)
        for segments in reversed(answers):
            for index in np.argsort(segments.scores, kind="stable"):
                crop = segments.masks[index].crop()
                classes[crop.window][crop.pixels] = self.id_of(segments.labels[index])
                confidence[crop.window][crop.pixels] = round(255 * float(segments.scores[index]))
        return classes, confidence


def label_info(table: ClassTable, header: Any) -> Any:
    """vision_msgs/LabelInfo of a table; the package must be installed."""
    return LabelInfo(
        header=header,
        class_map=[
            VisionClass(class_id=number, class_name=label) for number, label in enumerate(table.labels)
        ],
        threshold=0.0,
    )


def label_json(table: ClassTable) -> str:
    """The same as JSON text, {"0": "mug", …}, for programs without vision_msgs."""
    return json.dumps({str(number): label for number, label in enumerate(table.labels)})
