"""Semantic images: class ids per pixel, and the table from id to label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
"""Default pixel value for no class, as in vision_msgs/LabelInfo; no label has this id."""

_MAX_CLASSES = 255


class ClassTable:
    """Permanent class ids for labels. Ids are only ever added, so a newer table still fits an older image."""

    def __init__(self, *, no_class: int = NO_CLASS) -> None:
        """Create an empty table; `no_class` is the pixel value for no class, 0 to 255."""
        self.no_class = no_class
        self._ids: dict[str, int] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of their ids."""
        return tuple(self._ids)

    @property
    def ids(self) -> Mapping[str, int]:
        """Id of each label: 0, 1, 2, ... without `no_class`."""
        return MappingProxyType(self._ids)

    def add(self, results: Sequence[Segments]) -> None:
        """Assign ids to the labels of all segments that have none yet."""
        for segments in results:
            for label in segments.labels:
                self.id_of(label)

    def id_of(self, label: str) -> int:
        """Return the id of a label, assigning one if it is new; `no_class` once all 255 are taken."""
        if label not in self._ids:
            count = len(self._ids)
            if count >= _MAX_CLASSES:
                return self.no_class
            self._ids[label] = count if count < self.no_class else count + 1
        return self._ids[label]

    def semantic_image(
        self, image_hw: tuple[int, int], results: Sequence[Segments]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Compute class and confidence of every pixel.

        Args:
            image_hw: (H, W) in pixels.
            results: segments of each result. Earlier results win overlaps; within one, the higher score.

        Returns:
            (H, W) uint8 class ids, `no_class` = none; (H, W) uint8 confidence, 255 = 1.0.
        """
        classes = np.full(image_hw, self.no_class, np.uint8)
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
        class_map=[VisionClass(class_id=class_id, class_name=label) for label, class_id in table.ids.items()],
        threshold=0.0,
    )


def label_json(table: ClassTable) -> str:
    """Convert the table to JSON, {"0": "mug", …}, for programs without vision_msgs."""
    return json.dumps({str(class_id): label for label, class_id in table.ids.items()})
