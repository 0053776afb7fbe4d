"""Short questions about a view with their true answers, from which a small language model learns to see.

Every statement is true and unambiguous by the margins of `language`. Objects that are visible but not
labeled are never referred to, and no statement is made that one of them could render false or ambiguous.

For every kind of yes/no question, both answers are equally likely, so the wording alone does not give the
answer away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from xsam.sim.annotate import ObjectAnnotation
from xsam.sim.question_pools import GRID_SIZE, POOLS, VOCABULARY, Pair, Stratum, grid_cell, prepare_view

__all__ = ["GRID_SIZE", "KIND_SHARES", "VOCABULARY", "QuestionAnswer", "grid_cell", "scene_dialogue"]

KIND_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "locate": 5.0,
        "describe_cell": 2.0,
        "describe_phrase": 1.0,
        "describe_neighbor": 2.0,
        "color": 2.0,
        "category": 1.0,
        "presence": 2.0,
        "count": 2.0,
        "compare": 3.0,
        "reasoning": 1.5,
        "caption": 1.0,
    }
)
"""Kinds of `QuestionAnswer` and their relative frequencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """A question or request about an image, and its true answer.

    Attributes:
        question: lowercase, words and punctuation separated by spaces, ends in " ?" or " .".
        answer: in the same format, ends in " .".
        kind: a key of `KIND_SHARES`.
    """

    question: str
    answer: str
    kind: str


def scene_dialogue(
    annotations: Sequence[ObjectAnnotation],
    image_hw: tuple[int, int],
    rng: np.random.Generator,
    *,
    count: int,
) -> tuple[QuestionAnswer, ...]:
    """Draw questions about one view, with kinds in the proportions of `KIND_SHARES`.

    Questions are repeated, from the first one on, only if the view yields fewer than `count` different
    questions that keep "yes" and "no" balanced.

    Args:
        annotations: all visible objects in the view, including unlabeled ones.
        image_hw: (H, W) of the image without padding.
        rng: source of randomness; the same state gives the same questions.
        count: number of question-answer pairs.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if count == 0:
        return ()
    view = prepare_view(annotations, image_hw, rng, count)
    pools: dict[str, list[Stratum]] = {}
    shares = dict(KIND_SHARES)
    found: list[QuestionAnswer] = []
    while shares and len(found) < count:
        kind = _pick(shares, rng)
        if kind not in pools:
            pools[kind] = POOLS[kind](view)
        pair = _draw(pools[kind], rng)
        if pair is None:
            del shares[kind]
        else:
            found.append(QuestionAnswer(question=pair[0], answer=pair[1], kind=kind))
    return tuple(found[k % len(found)] for k in range(count))


def _pick(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    rest = rng.random() * sum(shares.values())
    for key, share in shares.items():
        rest -= share
        if rest < 0:
            return key
    return key  # rounding left a remainder


def _draw(strata: Sequence[Stratum], rng: np.random.Generator) -> Pair | None:
    """Remove and return one pair, or None if none are left."""
    shares = {str(k): s.weight for k, s in enumerate(strata) if all(s.sides)}
    if not shares:
        return None
    sides = strata[int(_pick(shares, rng))].sides
    side = sides[int(rng.random() * len(sides))]
    return side.pop(int(rng.random() * len(side)))
