"""Short questions about a view with their true answers: what a small language model learns to see from.

Every statement is true and unambiguous by the margins of `language`. Objects that are visible but not
labeled are never meant, and nothing is said that one of them could make false or ambiguous.

Questions with the answers "yes" and "no" have both equally often for every kind of thing asked, so the words
alone do not give the answer away.
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
"""Kinds of `QuestionAnswer`, and how often each is asked, in proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """A question or request about a picture, and what is true.

    Attributes:
        question: lower case, words and punctuation separated by spaces, ends in " ?" or " .".
        answer: the same, ends in " .".
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
    """Draw questions about one view, kinds in the proportions of `KIND_SHARES`.

    No question is repeated unless the view gives fewer than `count` different ones that keep "yes" and "no"
    balanced; then the first ones are.

    Args:
        annotations: all visible objects of the view, also those not labeled.
        image_hw: (H, W) of the picture without padding.
        rng: the same state gives the same questions.
        count: number of pairs.

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
    return key  # rounding left something over


def _draw(strata: Sequence[Stratum], rng: np.random.Generator) -> Pair | None:
    """Take out one pair; None = nothing is left."""
    shares = {str(k): s.weight for k, s in enumerate(strata) if all(s.sides)}
    if not shares:
        return None
    sides = strata[int(_pick(shares, rng))].sides
    side = sides[int(rng.random() * len(sides))]
    return side.pop(int(rng.random() * len(side)))
