"""Phrases that name what is visible, and yet nothing fits: what a model must not believe itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.household import COLORS, SECONDARY_COLORS
from xsam.sim.language import MIN_GAP_X_SHARE, Expression

NEAR_MISS_KINDS: tuple[str, ...] = ("miss_color", "miss_side", "miss_order", "miss_part", "miss_negated")
"""Kinds of `near_misses`."""

_PARTS = ("sticker", "crack", "zipper", "feather")  # that no mesh has


def near_misses(
    annotations: Sequence[ObjectAnnotation], width_px: int, rng: np.random.Generator
) -> tuple[Expression, ...]:
    """Draw one phrase of each of `NEAR_MISS_KINDS` that the view supports.

    All name a category that is visible, and yet nothing fits: another color, the other side of a second
    object, a place that has no object ("the second mug from the left" of one), a part that nothing has
    ("with a sticker"), and what it is not ("that is not red" where all are red).

    Args:
        annotations: all visible objects in the view, including unlabeled ones.
        width_px: width of the image.
        rng: chooses among the possible phrases.
    """
    gap_px = MIN_GAP_X_SHARE * width_px
    shown: dict[str, list[ObjectAnnotation]] = {}
    for item in annotations:
        shown.setdefault(item.category, []).append(item)
    unique = [same[0] for same in shown.values() if len(same) == 1 and same[0].labeled]
    choices: dict[str, list[str]] = {kind: [] for kind in NEAR_MISS_KINDS}
    for category, same in sorted(shown.items()):
        colors = {color for item in same for color in (item.color, *SECONDARY_COLORS.get(category, ()))}
        choices["miss_color"] += [f"{color} {category}" for color in COLORS if color not in colors]
        choices["miss_part"] += [f"{category} with a {part}" for part in _PARTS]
        if len({item.color for item in same}) == 1:
            choices["miss_negated"].append(f"{category} that is not {same[0].color}")
    for item in unique:
        choices["miss_order"] += [f"second {item.category} from the {side}" for side in ("left", "right")]
        for anchor in unique:
            if abs(item.centroid_xy[0] - anchor.centroid_xy[0]) >= gap_px:
                side = "right" if item.centroid_xy[0] < anchor.centroid_xy[0] else "left"
                choices["miss_side"].append(f"{item.category} {side} of the {anchor.category}")
    return tuple(
        Expression(text=f"the {rng.choice(texts)}", instance_ids=(), kind=kind)
        for kind, texts in choices.items()
        if texts
    )
