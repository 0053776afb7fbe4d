"""Kinds of queries, by which a calibration tells them apart."""

from __future__ import annotations

from xsam.config import ModelConfig
from xsam.config.calibration import Kind
from xsam.types.requests import Query, Task

CATEGORY_TASKS = (Task.GENERIC, Task.OPEN_VOCABULARY)


def kind_of(query: Query, task: Task, *, is_named: bool = False) -> Kind:
    """Return the kind of a query.

    Args:
        query: what is asked.
        task: its resolved task.
        is_named: a known category is named in the phrase.
    """
    if task in CATEGORY_TASKS:
        if query.thing_classes and query.stuff_classes:
            return "layout"
        return "category" if len(query.thing_classes + query.stuff_classes) == 1 else "categories"
    if task is Task.VISUAL_GROUNDED:
        return "look_alike"
    if task is Task.INTERACTIVE:
        return "mark"
    if task is Task.GROUNDED_CONVERSATION:
        return "description"
    if task is Task.REASONING:
        return "question"
    return "phrase" if is_named else "object"


def least_score(query: Query, task: Task, config: ModelConfig) -> float:
    """Return the score from which instances are in the result."""
    if query.score_threshold is not None:
        return query.score_threshold
    own = config.calibration.thresholds if config.calibration is not None else {}
    return own.get(kind_of(query, task), config.instance_threshold)
