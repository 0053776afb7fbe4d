"""Whether one object lies inside or on another, as far as one view can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.spatial.localize import valid_depth
from xsam.types.masks import BoolMask, box_of_mask

INSIDE_YES, INSIDE_NO = 0.85, 0.15  # share of the pixels within the other's outline
ON_YES, ON_NO = 0.6, 0.2  # share of the lower rim that borders on the other
DEPTH_SLACK_M = 0.015  # an object may stick out so far of the depths of what holds it
CONTACT_STEP_M, CONTACT_STEP_SHARE = 0.03, 0.5  # depth step over a contact: meters + share of the size

_LOWER_SHARE = 0.25  # of an object's height counts as its lower end
_MIN_PIXELS = 8

Depth = NDArray[np.float32]


def inside(inner: BoolMask, outer: BoolMask, depth_m: Depth | None) -> tuple[str, str]:
    """("yes" | "no" | "unclear", why): whether the first object lies within the second: fruit in a bowl.

    In the picture it must lie within the outline of the second, and in depth between its near and its
    far parts: what stands in front of a bowl looks the same without depth. An object on a plate or a tray
    counts as inside, too.

    Args:
        inner: bool (H, W).
        outer: bool (H, W).
        depth_m: (H, W) meters of the same image; None = not known.
    """
    hull = _convex(outer)
    share = float(np.count_nonzero(inner & hull)) / np.count_nonzero(inner)
    why = f"{100 * share:.0f} % within its outline"
    if share <= INSIDE_NO or np.count_nonzero(hull) <= np.count_nonzero(inner):
        return "no", why
    own, around = _depths(inner, depth_m), _depths(outer, depth_m)
    if own is None or around is None:
        return "unclear", f"{why}, inside or in front: no depth"
    z = float(np.median(own))
    near, far = (float(edge) for edge in np.percentile(around, (2, 98)))
    if z < near - DEPTH_SLACK_M or z > far + DEPTH_SLACK_M:
        return "no", f"{why}, but at {z:.2f} m, and that is {near:.2f} to {far:.2f} m away"
    return ("yes" if share >= INSIDE_YES else "unclear"), why


def resting_on(
    upper: BoolMask, lower: BoolMask, depth_m: Depth | None, size_m: float = 0.0
) -> tuple[str, str]:
    """("yes" | "no" | "unclear", why): whether the first object stands on the second: a cup on a tray.

    What carries an object surrounds its lower end in the picture, left, right and below, and the depth
    does not jump there. Something behind an object borders on it, too, but at another depth.

    Args:
        upper: bool (H, W).
        lower: bool (H, W).
        depth_m: (H, W) meters of the same image; None = not known.
        size_m: of the first object: a round one touches farther back than where it is seen to end.
    """
    rim = _lower_rim(upper)
    total = np.count_nonzero(rim)
    share = float(np.count_nonzero(rim & lower)) / total if total else 0.0
    why = f"{100 * share:.0f} % of its lower rim borders on it"
    if share <= ON_NO:
        return "no", why
    own, beneath = _depths(_lower_end(upper), depth_m), _depths(rim & lower, depth_m)
    if own is None or beneath is None:
        return "unclear", f"{why}, on it or in front of it: no depth"
    step_m = float(np.median(beneath) - np.median(own))
    if abs(step_m) > CONTACT_STEP_M + CONTACT_STEP_SHARE * size_m:
        return "no", f"{why}, but {100 * abs(step_m):.0f} cm {'behind' if step_m > 0 else 'before'} it"
    return ("yes" if share >= ON_YES else "unclear"), why


def _depths(mask: BoolMask, depth_m: Depth | None) -> Depth | None:
    """The measured depths under a mask; None when there are too few."""
    if depth_m is None:
        return None
    depths = depth_m[mask & valid_depth(depth_m)]
    return depths if len(depths) >= _MIN_PIXELS else None


def _convex(mask: BoolMask) -> BoolMask:
    """The convex outline, filled: of a bowl also the middle that the fruit hides."""
    import cv2

    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(np.int32)
    canvas: Any = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(points), 1)
    filled: BoolMask = canvas.astype(np.bool_)
    return filled


def _lower_end(mask: BoolMask) -> BoolMask:
    end = mask.copy()
    end[: _lower_start(mask)] = False
    return end


def _lower_rim(mask: BoolMask) -> BoolMask:
    """The pixels just outside the lower end of a mask: left, right and below."""
    import cv2

    reach = max(2, round(0.004 * max(mask.shape)))
    grown: Any = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rim: BoolMask = grown.astype(np.bool_) & ~mask
    rim[: _lower_start(mask)] = False
    return rim


def _lower_start(mask: BoolMask) -> int:
    """First row of the lower end."""
    _, y_min, _, y_max = box_of_mask(mask)
    return y_max - max(3, round(_LOWER_SHARE * (y_max - y_min)))
