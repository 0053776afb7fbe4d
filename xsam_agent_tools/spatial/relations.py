"""Spatial relations between objects, from masks and depth, each with a margin.

Within the margin the answer is "unclear": a planner that knows this can look from elsewhere or ask, one
that is given a coin's answer cannot.

==================  ======================================================================  ==============
relation            holds when                                                              margin
==================  ======================================================================  ==============
left_of, right_of   centroids differ along x of the image                                   3 % of width
above, below        centroids differ along y of the image                                   3 % of height
nearer, farther     depths of the surfaces differ (median, along the optical axis)          2 cm or 2 %
larger, smaller     length × width in meters differ; without depth, areas in the image      factor 1.2
inside              of the first one's pixels 85 % lie within the outline of the second     15 % … 85 %
on                  the second surrounds the lower end of the first, without a depth step   20 % … 60 %
between             the first projects onto the line between the other two, close to it     see `_between`
leftmost …          the extreme of all objects, clear of the runner-up                      as above
closest_to          of all others the one closest to the first, in space or in the image    factor 1.2
==================  ======================================================================  ==============
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost", "nearest", "farthest", "largest", "smallest")
RELATIONS = (*PAIRWISE, "between", *EXTREMES, "closest_to")

_NEEDS_DEPTH = frozenset({"nearer", "farther", "nearest", "farthest"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """An object as the relations see it."""

    object_id: str
    mask: BoolMask  # (H, W)
    location: Location3D | None = None  # None = the image has no depth
    in_camera_frame: bool = True  # the location is; otherwise its distance stands for the depth
    image_depth_m: NDArray[np.float32] | None = None  # (H, W) of the image
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
        """The second longest side of what is seen of it; None = not measured."""
        return self._sides_m()[1] if self.location is not None and self.location.valid else None

    @property
    def face_m2(self) -> float | None:
        """The two longest sides of what is seen of it, multiplied; None = not measured."""
        if self.location is None or not self.location.valid:
            return None
        longest, second, _ = self._sides_m()
        return longest * second

    def _sides_m(self) -> list[float]:
        """The sides of what is seen of it, longest first."""
        return sorted(self.location.size_m if self.location is not None else (), reverse=True)

    @property
    def cut_off(self) -> bool:
        """Whether the border of the image cuts through it."""
        mask = self.mask
        return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to a comparison.

    Attributes:
        answer: yes, no or unclear; for extremes and `closest_to` an object id or unclear.
        why: the numbers behind it, in words.
        by: what was compared, with its unit.
        values: the compared number of each object.
        order: all ids, from the one that fits best to the one that fits least.
    """

    answer: str
    why: str
    by: str = ""
    values: dict[str, float] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def compare(relation: str, bodies: Sequence[Body]) -> Verdict:
    """Whether, or for which object, a relation holds.

    With more than two objects a pairwise relation must hold between the first and each of the others.

    Raises:
        ArgumentsError: unknown relation, or a number of objects that does not fit it.
        NoDepthError: the relation is about depth and an object has none.
    """
    if relation not in RELATIONS:
        raise ArgumentsError(
            f"unknown relation {relation[:40]!r}", hint=f"use one of: {', '.join(RELATIONS)}"
        )
    if relation == "between" and len(bodies) != 3:
        raise ArgumentsError(
            f"between takes 3 objects, got {len(bodies)}",
            hint="first the one in the middle, then the outer two",
        )
    if len(bodies) < 2:
        raise ArgumentsError(f"{relation} takes at least 2 objects, got {len(bodies)}")
    if relation in _NEEDS_DEPTH:
        _check_depths(bodies)
    if relation == "between":
        return _between(*bodies)
    if relation == "closest_to":
        return _closest(bodies[0], bodies[1:])
    if relation in EXTREMES:
        return _extreme(relation, bodies)
    verdicts = [_pair(relation, bodies[0], other) for other in bodies[1:]]
    answers = [verdict.answer for verdict in verdicts]
    deciding = NO if NO in answers else UNCLEAR if UNCLEAR in answers else YES
    values: dict[str, float] = {}
    for verdict in verdicts:
        values.update(verdict.values)
    return Verdict(
        answer=deciding,
        why=next(v.why for v in verdicts if v.answer == deciding),
        by=verdicts[0].by,
        values=values,
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """A number by which objects are ordered, and when two of them clearly differ."""

    by: str
    value: Callable[[Body], float]
    clearly_less: Callable[[float, float], bool]
    digits: int


def _pair(relation: str, first: Body, second: Body) -> Verdict:
    if relation == "inside":
        answer, why = inside(first.mask, second.mask, first.image_depth_m)
        return Verdict(answer=answer, why=why, by="masks and depth")
    if relation == "on":
        answer, why = resting_on(first.mask, second.mask, first.image_depth_m, first.width_m or 0.0)
        return Verdict(answer=answer, why=why, by="masks and depth")
    upwards = relation in ("right_of", "below", "farther", "larger")
    scale = _scale(relation, (first, second))
    a, b = scale.value(first), scale.value(second)
    low, high = (b, a) if upwards else (a, b)
    if scale.clearly_less(low, high):
        answer = YES
    elif scale.clearly_less(high, low):
        answer = NO
    else:
        answer = UNCLEAR
    if relation in ("larger", "smaller") and answer != UNCLEAR:
        loser = second if a > b else first
        if loser.cut_off:
            return _verdict(scale, UNCLEAR, (first, second), f"{loser.object_id} is cut off by the border")
    return _verdict(scale, answer, (first, second))


def _extreme(relation: str, bodies: Sequence[Body]) -> Verdict:
    upwards = relation in ("rightmost", "bottommost", "farthest", "largest")
    scale = _scale(relation, bodies)
    ranked = sorted(bodies, key=scale.value, reverse=upwards)
    best, second = scale.value(ranked[0]), scale.value(ranked[1])
    low, high = (second, best) if upwards else (best, second)
    clear = scale.clearly_less(low, high)
    note = ""
    rivals = ranked[1:] if relation == "largest" else ranked[:1] if relation == "smallest" else []
    if hidden := [body.object_id for body in rivals if body.cut_off]:
        clear, note = False, f"{', '.join(hidden)} is cut off by the border"
    verdict = _verdict(scale, ranked[0].object_id if clear else UNCLEAR, ranked, note)
    return Verdict(
        answer=verdict.answer,
        why=verdict.why,
        by=verdict.by,
        values=verdict.values,
        order=tuple(body.object_id for body in ranked),
    )


def _verdict(scale: _Scale, answer: str, bodies: Sequence[Body], note: str = "") -> Verdict:
    values = {body.object_id: _rounded(scale.value(body), scale.digits) for body in bodies}
    shown = " and ".join(f"{value:g}" for value in list(values.values())[:2])
    tie = ", too close to tell" if answer == UNCLEAR and not note else ""
    return Verdict(
        answer=answer,
        why=f"{scale.by}: {shown}{tie}" + (f"; {note}" if note else ""),
        by=scale.by,
        values=values,
    )


def _scale(relation: str, bodies: Sequence[Body]) -> _Scale:
    height, width = bodies[0].mask.shape
    if relation in ("left_of", "right_of", "leftmost", "rightmost"):
        return _Scale(
            "x in px",
            lambda body: body.centroid_xy[0],
            lambda low, high: high - low >= MARGIN_SHARE * width,
            0,
        )
    if relation in ("above", "below", "topmost", "bottommost"):
        return _Scale(
            "y in px (down)",
            lambda body: body.centroid_xy[1],
            lambda low, high: high - low >= MARGIN_SHARE * height,
            0,
        )
    if relation in _NEEDS_DEPTH:
        return _Scale("depth in m", lambda body: body.depth_m or math.nan, _clearly_nearer, 2)
    if all(body.face_m2 is not None for body in bodies):
        return _Scale("length x width in cm2", lambda body: 1e4 * (body.face_m2 or 0.0), _clearly_smaller, 0)
    return _Scale("area in the image in px", lambda body: float(body.area_px), _clearly_smaller, 0)


def _clearly_nearer(low: float, high: float) -> bool:
    return high - low >= max(DEPTH_MARGIN_M, DEPTH_MARGIN_SHARE * min(low, high))


def _clearly_smaller(low: float, high: float) -> bool:
    return high >= SIZE_RATIO * low


def _check_depths(bodies: Sequence[Body]) -> None:
    for body in bodies:
        if body.location is None:
            raise NoDepthError("the image has no depth, so near and far are not known")
        if not body.location.valid:
            raise NoDepthError(
                f"no depth of {body.object_id}: {body.location.reason}",
                hint="compare the others, or look again",
            )


def _closest(anchor: Body, others: Sequence[Body]) -> Verdict:
    places = [body.location for body in (anchor, *others)]
    if all(place is not None and place.valid for place in places):
        by, digits = "distance in m", 2
        spots = [place.position_m for place in places if place is not None]
    else:
        by, digits = "distance in the image in px", 0
        spots = [(*body.centroid_xy, 0.0) for body in (anchor, *others)]
    distances = {
        body.object_id: math.dist(spots[0], spot) for body, spot in zip(others, spots[1:], strict=True)
    }
    order = tuple(sorted(distances, key=lambda object_id: distances[object_id]))
    clear = len(order) < 2 or distances[order[1]] >= CLOSENESS_RATIO * distances[order[0]]
    return Verdict(
        answer=order[0] if clear else UNCLEAR,
        why=f"{by} to {anchor.object_id}" + ("" if clear else ", too close to tell"),
        by=by,
        values={object_id: _rounded(value, digits) for object_id, value in distances.items()},
        order=order,
    )


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) if digits else round(value)


def _between(middle: Body, first: Body, second: Body) -> Verdict:
    """In the image: 15–85 % along the line of centroids and at most 25 % of its length aside.

    Beyond the ends, or more than 45 % aside, it is not between; anything else is unclear.
    """
    start, end, point = (np.array(body.centroid_xy) for body in (first, second, middle))
    line = end - start
    length = float(np.hypot(*line))
    if length < MARGIN_SHARE * max(middle.mask.shape):
        return Verdict(answer=UNCLEAR, why="the outer two are at the same place in the image", by="image")
    offset = point - start
    along = float(offset @ line) / length**2
    aside = abs(float(line[0] * offset[1] - line[1] * offset[0])) / length**2
    why = f"{100 * along:.0f} % along the line, {100 * aside:.0f} % of its length aside"
    if 0.15 <= along <= 0.85 and aside <= 0.25:
        return Verdict(answer=YES, why=why, by="image")
    beyond = along <= 0.0 or along >= 1.0 or aside >= 0.45
    return Verdict(answer=NO if beyond else UNCLEAR, why=why, by="image")
