"""Kinds of queries and of outcomes. Without NumPy, for the command line."""

from __future__ import annotations

from enum import Enum


class Task(str, Enum):
    """Kind of segmentation. `AUTO` chooses from the fields that are filled in."""

    AUTO = "auto"
    GENERIC = "generic"
    OPEN_VOCABULARY = "open_vocabulary"
    REFERRING = "referring"
    REASONING = "reasoning"
    GROUNDED_CONVERSATION = "grounded_conversation"
    INTERACTIVE = "interactive"
    VISUAL_GROUNDED = "visual_grounded"
    CHAT = "chat"


class Status(str, Enum):
    """Outcome of a query. An empty list of segments never stands for an error.

    FOUND can be acted on; UNSURE has segments, and `Segments.doubts` says which of them may be something
    else, and why.
    """

    FOUND = "found"
    UNSURE = "unsure"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    FAILED = "failed"
