"""Hints for the language model that reads them: only what it can do itself, in words of its own tools.

The hints of `xsam.errors` speak to whoever runs the program ("allow a longer deadline"). A planner cannot do
that: it can call again, ask for less, use another camera, or tell the user.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from xsam.errors import XSamError, error_for_code

PLANNER_HINTS = {
    "ERROR": "tell the user what failed",
    "REFUSED": "ask in another way, or tell the user",
    "INVALID_QUERY": "reword the query",
    "INVALID_OPTION": "tell the user that a setting of the program is wrong",
    "INVALID_IMAGE": "this image cannot be used: use another camera, or tell the user",
    "SOURCE": "tell the user that the source of the pictures cannot be opened",
    "CAMERA_UNAVAILABLE": "use another camera, or tell the user",
    "UNKNOWN_CAMERA": "use one of the cameras that the tool lists",
    "NO_FRAME": "call again in a moment, use another camera, or tell the user that this one gives no image",
    "STALE_FRAME": "do not act on it; use another camera, or tell the user that this camera has stopped",
    "QUEUE_FULL": "call again in a moment, one call at a time",
    "DEADLINE": "call again and ask for less at a time; if that takes too long, too, tell the user",
    "CANCELLED": "call again if it is still needed",
    "NOT_ACTIVE": "tell the user that the segmenter is not active",
    "STREAM_TAKEN": "tell the user that another program uses this camera's stream",
    "STREAM_ENDED": "call again if it is still needed",
    "UNAVAILABLE": "call again in a moment; if there is still no response, tell the user",
    "LINK_DOWN": "call again in a moment; if there is still no response, tell the user",
    "REPLICA_LOST": "call again",
    "FRAME_NOT_KEPT": "look at a fresh image with segment_objects",
    "TOO_LARGE": "call again and ask for less at a time; if that fails, too, tell the user",
    "RATE_LIMITED": "call again in a moment, one call at a time",
    "UNAUTHORIZED": "tell the user that the program may not use the model",
    "WRONG_MODEL": "tell the user that a setting of the program is wrong",
    "MODEL_ERROR": "tell the user that the model failed",
    "OUT_OF_MEMORY": "call again and ask for less at a time; if that fails, too, tell the user",
    "CHECKPOINT": "tell the user that the model cannot be loaded",
    "DOWNLOAD": "tell the user that the model cannot be downloaded",
}
"""Code of an error of `xsam` → what a planner can do about it."""

_CLAUSE = re.compile(r"(; |,? or (?=another|use|ask|report|tell)|, )")
OTHER_CAMERAS = ("another camera", "other cameras")


def planner_hint(error: XSamError) -> str:
    """Return the error's hint, or a planner's own where that is only the default of its class."""
    if error.hint == type(error).default_hint or not error.hint:
        return PLANNER_HINTS.get(error.code, error.hint)
    return error.hint


def foreign_hint(code: str, hint: str) -> str:
    """Return a planner's hint for an error of a segmenter, whose own speaks to the program.

    What is wrong with a query, its reader can mend: that hint stays.
    """
    if code == "INVALID_QUERY" and hint:
        return hint
    return PLANNER_HINTS.get(code, PLANNER_HINTS["ERROR"])


def for_planner(error: XSamError) -> XSamError:
    """Return an error of a segmenter with a hint that a planner can follow; this package's own have one."""
    if type(error).__module__.startswith(f"{__package__}."):
        return error
    return error_for_code(error.code, error.message, hint=foreign_hint(error.code, error.hint))


def without_unavailable(hint: str, unavailable: Collection[str]) -> str:
    """Leave out the parts of a hint that need a tool, an argument or a camera that the planner does not have.

    Args:
        hint: parts are separated by commas, semicolons and "or".
        unavailable: words that stand for what is missing.
    """
    parts = _CLAUSE.split(hint)
    clauses = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    kept = [
        (separator, clause)
        for separator, clause in clauses
        if not any(re.search(rf"\b{re.escape(word)}\b", clause) for word in unavailable)
    ]
    if len(kept) == len(clauses):
        return hint
    if not kept:
        return "tell the user"
    text = kept[0][1] + "".join(separator + clause for separator, clause in kept[1:])
    return text.removeprefix("or ")
