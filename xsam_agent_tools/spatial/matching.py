"""Matching of a known object to the objects of a new image, by color, size and position together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xsam.types.masks import MaskRle
from xsam.types.requests import Frame
from xsam_agent_tools.memory.scene_store import SceneObject

MIN_MATCH = 0.65  # below, it is another object; on simulated tables 95 % of true matches reach 0.78
MIN_LEAD = 0.08  # a runner-up closer than this makes the match ambiguous

_REACH_SHARE = 0.2  # of the image's diagonal: the distance at which the position score has fallen to 1/e
_WEIGHTS = {"color": 0.45, "size": 0.25, "position": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighting:
    """One object as seen on one frame; without pixels its colors are unknown."""

    mask: MaskRle
    center_xy: tuple[int, int]
    frame: Frame | None
    camera: str

    @classmethod
    def of(cls, item: SceneObject, frame: Frame | None, camera: str) -> Sighting:
        return cls(mask=item.mask, center_xy=item.center_xy, frame=frame, camera=camera)


def similarity(before: Sighting, after: Sighting) -> float:
    """Return how well two sightings fit one object, 0 to 1.

    Colors count when the pixels of both images are known, size and position when both are from one camera.
    """
    scores: dict[str, float] = {}
    if before.frame is not None and after.frame is not None:
        from xsam_agent_tools.spatial.appearance import color_similarity

        scores["color"] = color_similarity(
            before.frame.rgb, before.mask.decode(), after.frame.rgb, after.mask.decode()
        )
    if before.camera == after.camera:
        areas = sorted((_area_share(before.mask), _area_share(after.mask)))
        scores["size"] = math.sqrt(areas[0] / areas[1]) if areas[1] else 0.0
        scores["position"] = math.exp(-_distance(before, after) / _REACH_SHARE)
    if not scores:
        return 0.5  # nothing to compare: it matches by its phrase alone
    total = sum(_WEIGHTS[name] for name in scores)
    return sum(_WEIGHTS[name] * score for name, score in scores.items()) / total


def best_matches(before: Sighting, candidates: Sequence[Sighting]) -> list[tuple[int, float]]:
    """Rank the candidates that may be the object: none = gone, one = found, several = ambiguous.

    Returns:
        (index of the candidate, similarity), best first.
    """
    ranked = sorted(
        ((index, similarity(before, candidate)) for index, candidate in enumerate(candidates)),
        key=lambda pair: -pair[1],
    )
    fitting = [pair for pair in ranked if pair[1] >= MIN_MATCH]
    return [pair for pair in fitting if pair[1] > fitting[0][1] - MIN_LEAD]


def _area_share(mask: MaskRle) -> float:
    return mask.area / (mask.height * mask.width)


def _distance(one: Sighting, two: Sighting) -> float:
    """Return the distance of the centers as a share of the image's diagonal; images may differ in size."""
    centers = [(s.center_xy[0] / s.mask.width, s.center_xy[1] / s.mask.height) for s in (one, two)]
    width, height = one.mask.width, one.mask.height
    dx_px, dy_px = (centers[0][0] - centers[1][0]) * width, (centers[0][1] - centers[1][1]) * height
    return math.hypot(dx_px, dy_px) / math.hypot(width, height)
