"""Which object of a new image is the one that was seen before: colors, size and place together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xsam.types.masks import MaskRle
from xsam.types.requests import Frame
from xsam_agent_tools.memory.scene_store import SceneObject

MIN_MATCH = 0.65  # below, it is another object; on simulated tables 95 % of true matches reach 0.78
MIN_LEAD = 0.08  # a runner-up closer than this makes the match ambiguous

_REACH_SHARE = 0.2  # of the image's diagonal: the distance at which closeness has fallen to 1/e
_WEIGHTS = {"color": 0.45, "size": 0.25, "place": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighting:
    """An object with the pixels it was seen in; no pixels, no colors."""

    mask: MaskRle
    center_xy: tuple[int, int]
    frame: Frame | None
    camera: str

    @classmethod
    def of(cls, item: SceneObject, frame: Frame | None, camera: str) -> Sighting:
        return cls(mask=item.mask, center_xy=item.center_xy, frame=frame, camera=camera)


def likeness(before: Sighting, after: Sighting) -> float:
    """How well two sightings fit one object, 0 to 1.

    Colors count when both images' pixels are known, size and place when both are of one camera.
    """
    scores: dict[str, float] = {}
    if before.frame is not None and after.frame is not None:
        from xsam_agent_tools.spatial.appearance import color_similarity

        scores["color"] = color_similarity(
            before.frame.rgb, before.mask.decode(), after.frame.rgb, after.mask.decode()
        )
    if before.camera == after.camera:
        areas = sorted((_share(before.mask), _share(after.mask)))
        scores["size"] = math.sqrt(areas[0] / areas[1]) if areas[1] else 0.0
        scores["place"] = math.exp(-_distance(before, after) / _REACH_SHARE)
    if not scores:
        return 0.5  # nothing to compare: the words alone found it
    total = sum(_WEIGHTS[name] for name in scores)
    return sum(_WEIGHTS[name] * score for name, score in scores.items()) / total


def best_matches(before: Sighting, candidates: Sequence[Sighting]) -> list[tuple[int, float]]:
    """(index, likeness) of the candidates that may be it, best first: one = found, several = ambiguous."""
    ranked = sorted(
        ((index, likeness(before, candidate)) for index, candidate in enumerate(candidates)),
        key=lambda pair: -pair[1],
    )
    fitting = [pair for pair in ranked if pair[1] >= MIN_MATCH]
    return [pair for pair in fitting if pair[1] > fitting[0][1] - MIN_LEAD]


def _share(mask: MaskRle) -> float:
    return mask.area / (mask.height * mask.width)


def _distance(one: Sighting, two: Sighting) -> float:
    """Between the centers, as a share of the image's diagonal; images may differ in size."""
    spots = [(s.center_xy[0] / s.mask.width, s.center_xy[1] / s.mask.height) for s in (one, two)]
    width, height = one.mask.width, one.mask.height
    return math.hypot((spots[0][0] - spots[1][0]) * width, (spots[0][1] - spots[1][1]) * height) / math.hypot(
        width, height
    )
