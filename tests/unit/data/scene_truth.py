"""Ground truth of a rendered scene, read from its pixels and annotations."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.inference.prompts import Conversation
from xsam.sim.annotate import ObjectAnnotation, mirror


@dataclass(frozen=True)
class SceneTruth:
    """A rendered scene, possibly mirrored."""

    rgb: NDArray[np.uint8]
    instance_ids: NDArray[np.uint8]
    stuff_ids: NDArray[np.uint8]
    annotations: tuple[ObjectAnnotation, ...]

    def mirrored(self) -> SceneTruth:
        flipped = (array[:, ::-1] for array in (self.rgb, self.instance_ids, self.stuff_ids))
        return SceneTruth(*flipped, mirror(self.annotations, self.rgb.shape[1]))

    def labeled(self) -> dict[int, ObjectAnnotation]:
        return {item.instance_id: item for item in self.annotations if item.labeled}

    def column(self, instance: int) -> float:
        """Return the mean column of an object, from its pixels rather than its annotation."""
        return float(np.nonzero(self.instance_ids == instance)[1].mean())


def phrases(conversation: Conversation) -> list[str]:
    """Return the texts of the conditions, in order."""
    text = conversation.question + conversation.answer
    return re.findall(r"<p>(.*?)</p>", text)


def named(sample: SceneTruth, noun: str) -> list[int]:
    """List the visible objects that a noun such as "mug", "red mug" or "object" may refer to."""
    return [
        item.instance_id
        for item in sample.annotations
        if noun in ("object", item.category, f"{item.color} {item.category}")
    ]


def meant(sample: SceneTruth, text: str) -> list[int] | None:
    """Resolve a left/right phrase from the pixels; None if it is about something else."""
    if match := re.fullmatch(r"(leftmost|rightmost) (.+)", text):
        order = sorted(named(sample, match[2]), key=sample.column)
        return [order[0] if match[1] == "leftmost" else order[-1]]
    if match := re.fullmatch(r"(second|third|fourth|fifth) (.+) from the (left|right)", text):
        order = sorted(named(sample, match[2]), key=sample.column, reverse=match[3] == "right")
        return [order[("second", "third", "fourth", "fifth").index(match[1]) + 1]]
    if match := re.fullmatch(r"(.+) (left|right) of the (.+)", text):
        (anchor,) = named(sample, match[3])
        side = -1 if match[2] == "left" else 1
        return [
            number
            for number in named(sample, match[1])
            if side * (sample.column(number) - sample.column(anchor)) > 0
        ]
    return None
