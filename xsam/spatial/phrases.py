"""Phrases that compare objects by place or size: parsed, and checked against masks and depth.

"the leftmost mug" is right if the mug that is meant lies farther left than every other mug. That follows from
the outlines alone, so it can be checked without asking the model that found them.

====================================  =======================================================  ==============
words                                 holds for                                                margin
====================================  =======================================================  ==============
leftmost, rightmost, second … from    order of the centroids along x of the image              3 % of width
topmost, highest, bottommost, lowest  order of the centroids along y of the image              3 % of height
largest, biggest, smallest            order of the visible areas                               factor 1.15
nearest, closest, farthest, furthest  order of the mean depths, if there is depth              2 cm
left of, right of, above, below       the centroid lies on that side of the other object's     3 %
between                               the centroid projects between those of two others        20 % … 80 %
====================================  =======================================================  ==============
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import MaskRle

MARGIN_SHARE = 0.03  # of the image's width or height
SIZE_RATIO = 1.15
DEPTH_MARGIN_M = 0.02
_MAX_ASIDE_SHARE = 0.3  # of the distance between the outer two

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
# word → (axis, whether the largest value comes first)
_SUPERLATIVES: Mapping[str, tuple[str, bool]] = {
    "leftmost": ("x", False),
    "rightmost": ("x", True),
    "topmost": ("y", False),
    "highest": ("y", False),
    "bottommost": ("y", True),
    "lowest": ("y", True),
    "smallest": ("area", False),
    "largest": ("area", True),
    "biggest": ("area", True),
    "nearest": ("depth", False),
    "closest": ("depth", False),
    "farthest": ("depth", True),
    "furthest": ("depth", True),
}
# word → (axis, whether the object has the larger value)
_SIDES: Mapping[str, tuple[str, bool]] = {
    "left of": ("x", False),
    "right of": ("x", True),
    "above": ("y", False),
    "below": ("y", True),
}
_ARTICLE = r"(?:the |a |an )?"
_SUPERLATIVE = re.compile(rf"{_ARTICLE}(?P<word>{'|'.join(_SUPERLATIVES)}) (?P<noun>[^,.?]+)")
_ORDINAL = re.compile(
    rf"{_ARTICLE}(?P<rank>{'|'.join(_ORDINALS)}) (?P<noun>[^,.?]+?) from (?:the )?(?P<side>left|right)"
)
_SIDE = re.compile(
    rf"{_ARTICLE}(?P<noun>[^,.?]+?) (?:to the |on the )?(?P<word>{'|'.join(_SIDES)}) "
    rf"{_ARTICLE}(?P<anchor>[^,.?]+)"
)
_BETWEEN = re.compile(
    rf"{_ARTICLE}(?P<noun>[^,.?]+?) between {_ARTICLE}(?P<first>[^,.?]+?) and {_ARTICLE}(?P<second>[^,.?]+)"
)
_TO_THE_CAMERA = re.compile(r" (?:to|from) (?:the )?(?:camera|robot|viewer|you|me|us)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialPhrase:
    """A phrase that compares objects.

    Attributes:
        noun: what is compared, without article: "mug", "red mug", "object".
        axis: "x", "y", "area" or "depth"; "between" for that relation.
        descending: the largest value comes first; with an anchor: the object has the larger value.
        rank: place in that order, from 1; 0 for phrases with anchors.
        anchors: the nouns that it is compared with; none = the others of its own kind.
    """

    noun: str
    axis: str
    descending: bool = False
    rank: int = 1
    anchors: tuple[str, ...] = ()


def parse_spatial_phrase(text: str) -> SpatialPhrase | None:
    """Parse a phrase; None if it does not compare objects in a way that is known here."""
    text = " ".join(text.lower().rstrip("?!. ").split())
    if match := _ORDINAL.fullmatch(text):
        rank = _ORDINALS.index(match["rank"]) + 1
        return SpatialPhrase(noun=match["noun"], axis="x", descending=match["side"] == "right", rank=rank)
    if match := _BETWEEN.fullmatch(text):
        return SpatialPhrase(
            noun=match["noun"], axis="between", rank=0, anchors=(match["first"], match["second"])
        )
    if match := _SIDE.fullmatch(text):
        axis, descending = _SIDES[match["word"]]
        return SpatialPhrase(
            noun=match["noun"], axis=axis, descending=descending, rank=0, anchors=(match["anchor"],)
        )
    if match := _SUPERLATIVE.fullmatch(_TO_THE_CAMERA.sub("", text)):
        axis, descending = _SUPERLATIVES[match["word"]]
        return SpatialPhrase(noun=match["noun"], axis=axis, descending=descending)
    return None


def means_one(text: str) -> bool:
    """Return whether a phrase compares objects and means one of them: "the leftmost mug", not "the mugs"."""
    phrase = parse_spatial_phrase(text)
    return phrase is not None and not phrase.noun.endswith("s")  # "scissors" may be several


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredObject:
    """What a comparison needs of one object.

    Attributes:
        centroid_xy: mean of the mask's pixels.
        area_px: number of its pixels.
        depth_m: mean depth of its surface along the optical axis; None = not measured.
    """

    centroid_xy: tuple[float, float]
    area_px: int
    depth_m: float | None

    @classmethod
    def of(cls, mask: MaskRle, depth_m: NDArray[np.float32] | None) -> MeasuredObject:
        """Measure a mask that has pixels, with a depth image (H, W) in meters if there is one."""
        area_px, centroid_xy = mask.area_and_centroid()
        depth = None
        if depth_m is not None:
            crop = mask.crop()
            surface = depth_m[crop.window][crop.pixels]
            measured = surface[np.isfinite(surface) & (surface > 0)]
            depth = float(measured.mean()) if measured.size else None
        return cls(centroid_xy=centroid_xy, area_px=area_px, depth_m=depth)


def contradiction(
    phrase: SpatialPhrase,
    chosen: int,
    candidates: Sequence[MeasuredObject],
    anchors: Sequence[Sequence[MeasuredObject]],
    image_hw: tuple[int, int],
) -> str:
    """Return why the chosen candidate may not be the one that the phrase means; "" if it is.

    Args:
        phrase: the phrase.
        chosen: index of the candidate that the model chose.
        candidates: everything that the phrase's noun fits.
        anchors: for each anchor of the phrase, everything that its noun fits.
        image_hw: (H, W) in pixels.
    """
    for noun, found in zip(phrase.anchors, anchors, strict=True):
        if len(found) != 1:
            return f"{len(found) or 'no'} {noun} found to compare it with"
    if not phrase.anchors:
        return _order_contradiction(phrase, chosen, candidates, image_hw)
    anchored = [found[0] for found in anchors]
    fits = [_fits(phrase, item, anchored, image_hw) for item in candidates]
    if fits[chosen] is None:
        return "too close to tell on which side it is"
    if not fits[chosen]:
        return "its outline is not there"
    if any(fit is not False for index, fit in enumerate(fits) if index != chosen):
        return "another one is there, too"
    return ""


def _order_contradiction(
    phrase: SpatialPhrase, chosen: int, candidates: Sequence[MeasuredObject], image_hw: tuple[int, int]
) -> str:
    order = _order(phrase, candidates)
    if order is None:
        return "there is no depth to check near and far"
    if len(order) < max(2, phrase.rank):  # who says "the leftmost" sees several
        return f"only {len(order)} found to compare"
    if order.index(chosen) != phrase.rank - 1:
        return f"another one is at that place by {_QUANTITIES[phrase.axis]}"
    neighbors = order[max(0, phrase.rank - 2) : phrase.rank + 1]
    own = _value(phrase.axis, candidates[chosen])
    others = [_value(phrase.axis, candidates[index]) for index in neighbors if index != chosen]
    clear = all(
        _clearly_less(phrase.axis, min(own, other), max(own, other), image_hw)
        for other in others
        if own is not None and other is not None
    )
    return "" if clear else f"another one is too close to tell by {_QUANTITIES[phrase.axis]}"


def at_place(phrase: SpatialPhrase, candidates: Sequence[MeasuredObject]) -> int | None:
    """Return the index of the candidate at the place that a phrase without anchors names, however narrowly.

    None if the place of one is not known, or there are not enough of them.
    """
    order = None if phrase.anchors else _order(phrase, candidates)
    return order[phrase.rank - 1] if order is not None and len(order) >= max(2, phrase.rank) else None


def _order(phrase: SpatialPhrase, candidates: Sequence[MeasuredObject]) -> list[int] | None:
    """Return the indices of candidates, the first place first; None if the place of one is not known."""
    values = [_value(phrase.axis, item) for item in candidates]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sorted(range(len(known)), key=lambda index: known[index], reverse=phrase.descending)


_QUANTITIES: Mapping[str, str] = {"x": "position", "y": "position", "area": "visible size", "depth": "depth"}


def _value(axis: str, item: MeasuredObject) -> float | None:
    if axis in ("x", "y"):
        return item.centroid_xy["xy".index(axis)]
    return float(item.area_px) if axis == "area" else item.depth_m


def _clearly_less(axis: str, low: float, high: float, image_hw: tuple[int, int]) -> bool:
    if axis == "area":
        return high >= SIZE_RATIO * low
    if axis == "depth":
        return high - low >= DEPTH_MARGIN_M
    return high - low >= MARGIN_SHARE * image_hw[1 if axis == "x" else 0]


def _fits(
    phrase: SpatialPhrase, item: MeasuredObject, anchors: Sequence[MeasuredObject], image_hw: tuple[int, int]
) -> bool | None:
    """Return whether an object is where the phrase says; None = too close to tell."""
    if phrase.axis == "between":
        return _is_between(item, *anchors)
    own, other = (item.centroid_xy["xy".index(phrase.axis)], anchors[0].centroid_xy["xy".index(phrase.axis)])
    low, high = (other, own) if phrase.descending else (own, other)
    if _clearly_less(phrase.axis, low, high, image_hw):
        return True
    return False if _clearly_less(phrase.axis, high, low, image_hw) else None


def _is_between(item: MeasuredObject, first: MeasuredObject, second: MeasuredObject) -> bool | None:
    start, end, point = (np.asarray(entry.centroid_xy) for entry in (first, second, item))
    line, offset = end - start, point - start
    length = float(np.hypot(*line))
    if length < 1.0:
        return None
    along = float(offset @ line) / length**2
    aside = abs(float(line[0] * offset[1] - line[1] * offset[0])) / length**2
    if 0.2 <= along <= 0.8 and aside <= _MAX_ASIDE_SHARE:
        return True
    return False if along <= 0.0 or along >= 1.0 or aside >= 0.5 else None
