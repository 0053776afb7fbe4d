"""Containment and support: whether one object lies inside or on another, judged from one view."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsam.types.masks import BoolMask, box_of_mask

INSIDE_YES, INSIDE_NO = 0.85, 0.15  # share of the pixels within the other's outline
ON_YES, ON_NO = 0.6, 0.2  # share of the lower rim that borders on the other
DEPTH_SLACK_M = 0.015  # how far an object may stick out of the depth range of its container
CONTACT_STEP_M, CONTACT_STEP_SHARE = 0.03, 0.5  # depth step across a contact: meters + share of the size

_LOWER_SHARE = 0.25  # the share of an object's height that counts as its lower end
_MIN_PIXELS = 8

Depth = NDArray[np.float32]


def inside(inner: BoolMask, outer: BoolMask, depth_m: Depth | None) -> tuple[str, str]:
    """Decide whether the first object lies within the second, like fruit in a bowl.

    In the image it must lie within the outline of the second, and in depth between its near and its
    far parts: without depth, something in front of a bowl looks the same. An object on a plate or a tray
    counts as inside, too.

    Args:
        inner: bool (H, W).
        outer: bool (H, W).
        depth_m: (H, W) in meters, of the same image; None = not known.

    Returns:
        ("yes" | "no" | "unclear", reason).
    """
    hull = _convex_hull(outer)
    share = float(np.count_nonzero(inner & hull)) / np.count_nonzero(inner)
    reason = f"{100 * share:.0f} % within its outline"
    if share <= INSIDE_NO or np.count_nonzero(hull) <= np.count_nonzero(inner):
        return "no", reason
    inner_depths, outer_depths = _depths(inner, depth_m), _depths(outer, depth_m)
    if inner_depths is None or outer_depths is None:
        return "unclear", f"{reason}, inside or in front: no depth"
    z = float(np.median(inner_depths))
    near, far = (float(edge) for edge in np.percentile(outer_depths, (2, 98)))
    if z < near - DEPTH_SLACK_M or z > far + DEPTH_SLACK_M:
        return "no", f"{reason}, but at {z:.2f} m, and that is {near:.2f} to {far:.2f} m away"
    return ("yes" if share >= INSIDE_YES else "unclear"), reason


def resting_on(
    upper: BoolMask, lower: BoolMask, depth_m: Depth | None, size_m: float = 0.0
) -> tuple[str, str]:
    """Decide whether the first object stands on the second, like a cup on a tray.

    A support surrounds the lower end of its object in the image, left, right and below, and the depth
    does not jump there. Something behind an object borders on it, too, but at another depth.

    Args:
        upper: bool (H, W).
        lower: bool (H, W).
        depth_m: (H, W) in meters, of the same image; None = not known.
        size_m: size of the first object: a round one touches farther back than its visible edge.

    Returns:
        ("yes" | "no" | "unclear", reason).
    """
    rim = _lower_rim(upper)
    total = np.count_nonzero(rim)
    share = float(np.count_nonzero(rim & lower)) / total if total else 0.0
    reason = f"{100 * share:.0f} % of its lower rim borders on it"
    if share <= ON_NO:
        return "no", reason
    end_depths, support_depths = _depths(_lower_end(upper), depth_m), _depths(rim & lower, depth_m)
    if end_depths is None or support_depths is None:
        return "unclear", f"{reason}, on it or in front of it: no depth"
    step_m = float(np.median(support_depths) - np.median(end_depths))
    if abs(step_m) > CONTACT_STEP_M + CONTACT_STEP_SHARE * size_m:
        return "no", f"{reason}, but {100 * abs(step_m):.0f} cm {'behind' if step_m > 0 else 'before'} it"
    return ("yes" if share >= ON_YES else "unclear"), reason


def _depths(mask: BoolMask, depth_m: Depth | None) -> Depth | None:
    """Return the measured depths under a mask; None when there are too few."""
    if depth_m is None:
        return None
    from xsam.spatial.localize import valid_depth

    depths = depth_m[mask & valid_depth(depth_m)]
    return depths if len(depths) >= _MIN_PIXELS else None


def _convex_hull(mask: BoolMask) -> BoolMask:
    """Fill the convex hull of a mask, which includes the middle of a bowl that the fruit hides."""
    import cv2

    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(np.int32)
    canvas: Any = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(points), 1)
    filled: BoolMask = canvas.astype(np.bool_)
    return filled


def _lower_end(mask: BoolMask) -> BoolMask:
    end = mask.copy()
    end[: _lower_end_row(mask)] = False
    return end


def _lower_rim(mask: BoolMask) -> BoolMask:
    """Return the pixels just outside the lower end of a mask: left, right and below."""
    import cv2

    reach = max(2, round(0.004 * max(mask.shape)))
    grown: Any = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rim: BoolMask = grown.astype(np.bool_) & ~mask
    rim[: _lower_end_row(mask)] = False
    return rim


def _lower_end_row(mask: BoolMask) -> int:
    """Return the first row of the lower end."""
    _, y_min, _, y_max = box_of_mask(mask)
    return y_max - max(3, round(_LOWER_SHARE * (y_max - y_min)))
