"""Spatial relations between objects, from masks and depth, each with a margin.

Within the margin the outcome is "unclear": a planner that knows this can look from another camera or ask the
user, while a planner that is given the toss of a coin cannot.

==================  ======================================================================  ==============
relation            holds when                                                              margin
==================  ======================================================================  ==============
left_of, right_of   centroids differ along x of the image                                   3 % of width
above, below        centroids differ along y of the image                                   3 % of height
nearer, farther     depths of the surfaces differ (median, along the optical axis)          2 cm or 2 %
larger, smaller     length × width in meters differ; without depth, areas in the image      factor 1.2
inside              85 % of the first one's pixels lie within the outline of the second     15 % … 85 %
on                  the second surrounds the lower end of the first, without a depth step   20 % … 60 %
between             the first projects onto the line between the other two, close to it     see `_between`
leftmost …          the extreme of all objects, clear of the runner-up                      as above
closest_to          the one closest to the first of all others, in space or in the image    factor 1.2
==================  ======================================================================  ==============
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from xsam.errors import ModelError
from xsam.types.location import Location3D
from xsam.types.masks import BoolMask, centroid_of_mask
from xsam_agent_tools.errors import ArgumentsError, NoDepthError
from xsam_agent_tools.spatial.contact import inside, resting_on

YES, NO, UNCLEAR = "yes", "no", "unclear"

MARGIN_SHARE = 0.03  # of the image's width or height
DEPTH_MARGIN_M, DEPTH_MARGIN_SHARE = 0.02, 0.02
SIZE_RATIO = 1.2
CLOSENESS_RATIO = 1.2

PAIRWISE = ("left_of", "right_of", "above", "below", "nearer", "farther", "larger", "smaller", "inside", "on")
# extreme → the pairwise relation that its object has to all others
EXTREMES = {
    "leftmost": "left_of",
    "rightmost": "right_of",
    "topmost": "above",
    "bottommost": "below",
    "nearest": "nearer",
    "farthest": "farther",
    "largest": "larger",
    "smallest": "smaller",
}
RELATIONS = (*PAIRWISE, "between", *EXTREMES, "closest_to")
# Other words for them. "behind", "under" and "closest" are not among them: they may mean two things.
RELATION_SYNONYMS = {
    **{"left": "left_of", "to the left of": "left_of", "right": "right_of", "to the right of": "right_of"},
    **{"closer": "nearer", "further": "farther", "bigger": "larger", "in": "inside", "on top of": "on"},
    **{"in between": "between", "furthest": "farthest", "biggest": "largest"},
}

_ABOUT_DEPTH = ("nearer", "farther")
_ABOUT_SIZE = ("larger", "smaller")
_DESCENDING = ("right_of", "below", "farther", "larger")  # the larger value fits the relation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpatialObject:
    """The geometry of one object that relations are computed from."""

    object_id: str
    mask: BoolMask  # (H, W), of its largest piece
    in_pieces: bool = False  # more of it is seen apart from that piece
    location: Location3D | None = None  # None = the image has no depth
    in_camera_frame: bool = True  # of the location; otherwise its distance stands in for the depth
    image_depth_m: NDArray[np.float32] | None = None  # (H, W), of the whole image
    centroid_xy: tuple[float, float] = field(init=False)
    area_px: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise ModelError(f"object {self.object_id} has no pixels")
        object.__setattr__(self, "centroid_xy", centroid_of_mask(self.mask))
        object.__setattr__(self, "area_px", int(np.count_nonzero(self.mask)))

    @property
    def depth_m(self) -> float | None:
        """Depth of the surface along the optical axis; None = not measured."""
        if self.location is None or not self.location.valid:
            return None
        return self.location.position_m[2] if self.in_camera_frame else self.location.distance_m

    @property
    def width_m(self) -> float | None:
        """Second longest side of the visible part; None = not measured."""
        sides_m = self._sides_m
        return sides_m[1] if sides_m is not None else None

    @property
    def face_area_m2(self) -> float | None:
        """Product of the two longest sides of the visible part; None = not measured."""
        sides_m = self._sides_m
        return sides_m[0] * sides_m[1] if sides_m is not None else None

    @property
    def _sides_m(self) -> list[float] | None:
        """Sides of the visible part, longest first; None = not measured."""
        if self.location is None or not self.location.valid:
            return None
        return sorted(self.location.size_m, reverse=True)

    @property
    def hidden_by(self) -> str:
        """Why a part of the object may be hidden, so that it looks smaller than it is; empty = no reason."""
        mask = self.mask
        if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
            return "cut off by the border"
        return "seen in several pieces" if self.in_pieces else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationResult:
    """Outcome of a comparison.

    Attributes:
        outcome: yes, no or unclear; for extremes and `closest_to` an object id or unclear.
        reason: the numbers behind it, as text.
        quantity: what was compared, with its unit.
        values: the compared number of each object, by id.
        ranking: all ids, from the best fit to the worst.
    """

    outcome: str
    reason: str
    quantity: str = ""
    values: dict[str, float] = field(default_factory=dict)
    ranking: tuple[str, ...] = ()


def compare(relation: str, objects: Sequence[SpatialObject]) -> RelationResult:
    """Return whether, or for which object, a relation holds.

    With more than two objects a pairwise relation must hold between the first and each of the others.

    Raises:
        ArgumentsError: unknown relation, or a number of objects that does not fit it.
        NoDepthError: the relation is about depth and an object has none.
    """
    if relation not in RELATIONS:
        raise ArgumentsError(
            f"unknown relation {relation[:40]!r}", hint=f"use one of: {', '.join(RELATIONS)}"
        )
    if relation == "between" and len(objects) != 3:
        raise ArgumentsError(
            f"between takes 3 objects, got {len(objects)}",
            hint="first the one in the middle, then the outer two",
        )
    if len(objects) < 2:
        raise ArgumentsError(f"{relation} takes at least 2 objects, got {len(objects)}")
    if EXTREMES.get(relation, relation) in _ABOUT_DEPTH:
        _check_depths(objects)
    if relation == "between":
        return _between(*objects)
    if relation == "closest_to":
        return _closest(objects[0], objects[1:])
    if relation in EXTREMES:
        return _extreme(EXTREMES[relation], objects)
    results = [_pair(relation, objects[0], other) for other in objects[1:]]
    outcomes = [result.outcome for result in results]
    overall = NO if NO in outcomes else UNCLEAR if UNCLEAR in outcomes else YES
    values: dict[str, float] = {}
    for result in results:
        values.update(result.values)
    return RelationResult(
        outcome=overall,
        reason=next(result.reason for result in results if result.outcome == overall),
        quantity=results[0].quantity,
        values=values,
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """A quantity that objects are ordered by, and the margin beyond which two values clearly differ."""

    quantity: str
    value: Callable[[SpatialObject], float]
    clearly_less: Callable[[float, float], bool]
    digits: int


def _pair(relation: str, first: SpatialObject, second: SpatialObject) -> RelationResult:
    if relation == "inside":
        outcome, reason = inside(first.mask, second.mask, first.image_depth_m)
        return RelationResult(outcome=outcome, reason=reason, quantity="masks and depth")
    if relation == "on":
        outcome, reason = resting_on(first.mask, second.mask, first.image_depth_m, first.width_m or 0.0)
        return RelationResult(outcome=outcome, reason=reason, quantity="masks and depth")
    scale = _scale(relation, (first, second))
    a, b = scale.value(first), scale.value(second)
    low, high = (b, a) if relation in _DESCENDING else (a, b)
    if scale.clearly_less(low, high):
        outcome = YES
    elif scale.clearly_less(high, low):
        outcome = NO
    else:
        outcome = UNCLEAR
    if relation in _ABOUT_SIZE and outcome != UNCLEAR:
        smaller = second if a > b else first
        if smaller.hidden_by:
            note = f"{smaller.object_id} is {smaller.hidden_by}"
            return _scale_result(scale, UNCLEAR, (first, second), note)
    return _scale_result(scale, outcome, (first, second))


def _extreme(relation: str, objects: Sequence[SpatialObject]) -> RelationResult:
    """Find the object that has a pairwise relation to all others."""
    scale = _scale(relation, objects)
    ranked = sorted(objects, key=scale.value, reverse=relation in _DESCENDING)
    best, second = scale.value(ranked[0]), scale.value(ranked[1])
    low, high = (second, best) if relation in _DESCENDING else (best, second)
    clear = scale.clearly_less(low, high)
    note = ""
    rivals = ranked[1:] if relation == "larger" else ranked[:1] if relation == "smaller" else []
    if hidden := [f"{item.object_id} is {item.hidden_by}" for item in rivals if item.hidden_by]:
        clear, note = False, ", ".join(hidden)
    result = _scale_result(scale, ranked[0].object_id if clear else UNCLEAR, ranked, note)
    return replace(result, ranking=tuple(item.object_id for item in ranked))


def _scale_result(
    scale: _Scale, outcome: str, objects: Sequence[SpatialObject], note: str = ""
) -> RelationResult:
    values = {item.object_id: _rounded(scale.value(item), scale.digits) for item in objects}
    shown = " and ".join(f"{value:g}" for value in list(values.values())[:2])
    tie = ", too close to tell" if outcome == UNCLEAR and not note else ""
    return RelationResult(
        outcome=outcome,
        reason=f"{scale.quantity}: {shown}{tie}" + (f"; {note}" if note else ""),
        quantity=scale.quantity,
        values=values,
    )


def _scale(relation: str, objects: Sequence[SpatialObject]) -> _Scale:
    """Return the scale of a pairwise relation."""
    height, width = objects[0].mask.shape
    if relation in ("left_of", "right_of"):
        return _Scale(
            "x in px",
            lambda item: item.centroid_xy[0],
            lambda low, high: high - low >= MARGIN_SHARE * width,
            0,
        )
    if relation in ("above", "below"):
        return _Scale(
            "y in px (down)",
            lambda item: item.centroid_xy[1],
            lambda low, high: high - low >= MARGIN_SHARE * height,
            0,
        )
    if relation in _ABOUT_DEPTH:
        return _Scale("depth in m", lambda item: item.depth_m or math.nan, _clearly_nearer, 2)
    if all(item.face_area_m2 is not None for item in objects):
        return _Scale(
            "length x width in cm2", lambda item: 1e4 * (item.face_area_m2 or 0.0), _clearly_smaller, 0
        )
    return _Scale("area in the image in px", lambda item: float(item.area_px), _clearly_smaller, 0)


def _clearly_nearer(low: float, high: float) -> bool:
    return high - low >= max(DEPTH_MARGIN_M, DEPTH_MARGIN_SHARE * min(low, high))


def _clearly_smaller(low: float, high: float) -> bool:
    return high >= SIZE_RATIO * low


def _check_depths(objects: Sequence[SpatialObject]) -> None:
    for item in objects:
        if item.location is None:
            raise NoDepthError("the image has no depth, so near and far are not known")
        if not item.location.valid:
            raise NoDepthError(
                f"no depth of {item.object_id}: {item.location.reason}",
                hint="compare the others, or look again",
            )


def _closest(anchor: SpatialObject, others: Sequence[SpatialObject]) -> RelationResult:
    locations = [item.location for item in (anchor, *others)]
    if all(location is not None and location.valid for location in locations):
        quantity, digits = "distance in m", 2
        points = [location.position_m for location in locations if location is not None]
    else:
        quantity, digits = "distance in the image in px", 0
        points = [(*item.centroid_xy, 0.0) for item in (anchor, *others)]
    distances = {
        item.object_id: math.dist(points[0], point) for item, point in zip(others, points[1:], strict=True)
    }
    ranking = tuple(sorted(distances, key=lambda object_id: distances[object_id]))
    clear = len(ranking) < 2 or distances[ranking[1]] >= CLOSENESS_RATIO * distances[ranking[0]]
    return RelationResult(
        outcome=ranking[0] if clear else UNCLEAR,
        reason=f"{quantity} to {anchor.object_id}" + ("" if clear else ", too close to tell"),
        quantity=quantity,
        values={object_id: _rounded(value, digits) for object_id, value in distances.items()},
        ranking=ranking,
    )


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) if digits else round(value)


def _between(middle: SpatialObject, first: SpatialObject, second: SpatialObject) -> RelationResult:
    """Decide in the image: 15–85 % along the line of centroids and at most 25 % of its length aside.

    Beyond the ends, or more than 45 % aside, it is not between; anything else is unclear.
    """
    start, end, point = (np.array(item.centroid_xy) for item in (first, second, middle))
    line = end - start
    length = float(np.hypot(*line))
    if length < MARGIN_SHARE * max(middle.mask.shape):
        reason = "the outer two are at the same place in the image"
        return RelationResult(outcome=UNCLEAR, reason=reason, quantity="image")
    offset = point - start
    along = float(offset @ line) / length**2
    aside = abs(float(line[0] * offset[1] - line[1] * offset[0])) / length**2
    reason = f"{100 * along:.0f} % along the line, {100 * aside:.0f} % of its length aside"
    if 0.15 <= along <= 0.85 and aside <= 0.25:
        return RelationResult(outcome=YES, reason=reason, quantity="image")
    beyond = along <= 0.0 or along >= 1.0 or aside >= 0.45
    return RelationResult(outcome=NO if beyond else UNCLEAR, reason=reason, quantity="image")
