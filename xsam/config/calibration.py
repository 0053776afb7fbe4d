"""Calibration of a checkpoint: what it knows by name, and how far its scores can be trusted.

The section `xsam.calibration` of `config.json`, `x2sam.calibration` for X2SAM. `xsam.train.calibrate`
measures it on validation scenes; a checkpoint without it still answers, but none of its answers is doubted
for its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from xsam.config.fields import Choice, Field, Flag, Items, Name, Number, check_section

Kind = Literal[
    "category", "categories", "layout", "phrase", "object", "question", "description", "look_alike", "mark"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
COMPLETED_KINDS: tuple[Kind, ...] = ("description", "look_alike")
"""Kinds of queries that ask for all of something, and whose answers a census can complete."""

MAX_CATEGORIES = 1000
_CLIP = 0.01  # shares are clipped to [0.01, 0.99] before their logarithm
_CENSUS_CLIP = 0.05  # for the scores of a census, which lists nothing below

EVIDENCE = ("score", "named", "rival", "firmness", "runner_up", "alone", "kin")
"""Names of the evidence about a segment: each a share in [0, 1], with a weight."""

_INSTANCE_KINDS: tuple[Kind, ...] = ("category", "categories", "layout", "look_alike")
_THRESHOLDS: dict[str, Field] = dict.fromkeys(_INSTANCE_KINDS, Number(0.0, 1.0))
_WEIGHTS: dict[str, Field] = dict.fromkeys(("bias", *EVIDENCE), Number(-100.0, 100.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceWeights:
    """Logistic weights of the evidence about a segment.

    Attributes:
        bias: constant.
        score: weight of the segment's own score.
        named: weight of the score that the asked category has on this mask, among all known categories.
        rival: weight of the best score of any other category on this mask.
        firmness: weight of the share of the mask that stays when its threshold rises.
        runner_up: weight of the best score of another mask for the same words.
        alone: weight of one divided by the number of segments in the result.
        kin: weight of the share of the objects of its category, as the census names it, that are in the
            result; one half where there is only one.
    """

    bias: float = 0.0
    score: float = 0.0
    named: float = 0.0
    rival: float = 0.0
    firmness: float = 0.0
    runner_up: float = 0.0
    alone: float = 0.0
    kin: float = 0.0

    def chance(self, evidence: Mapping[str, float]) -> float:
        """Return the probability that a segment is right.

        Args:
            evidence: a share in [0, 1] for every name in `EVIDENCE`.
        """
        values = zip(EVIDENCE, evidence_row(evidence), strict=True)
        return 1 / (1 + math.exp(-(self.bias + sum(getattr(self, name) * value for name, value in values))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a checkpoint knows by name, and the chance that an answer with certain evidence is right.

    Attributes:
        known_categories: names of the objects that it was trained on, singular; rivals are among them.
        sure_from: chance from which a segment is believed.
        corrects_places: whether the answer to "the leftmost mug" is the mug that the outlines show to be it,
            even where the model points to another one; for models that find the mugs and not their places.
        completes: kinds of queries whose answers are completed by the census, for models that find the mugs
            and do not speak of them: `description` takes its names from it, too; `look_alike` means all of
            the marked object's category.
        weights: for each kind of query. `category`: one category; `categories`: a list of them; `layout`: a
            list of things and surfaces; `phrase`: a phrase with one of the categories in it; `object`: a
            phrase without; `question`: reasoning; `description`: a phrase of a grounded description;
            `look_alike`: what looks like a marked object; `mark`: the marked object itself. Kinds that are
            left out are never doubted for their score.
        thresholds: for kinds of queries with instances, the score from which they are in the result; the
            others take `instance_threshold`.
    """

    known_categories: tuple[str, ...]
    sure_from: float
    corrects_places: bool = False
    completes: tuple[Kind, ...] = ()
    weights: Mapping[Kind, EvidenceWeights]
    thresholds: Mapping[Kind, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        content: dict[str, Any] = {
            "known_categories": list(self.known_categories),
            "sure_from": self.sure_from,
            "corrects_places": self.corrects_places,
            "completes": list(self.completes),
        }
        for kind, values in self.weights.items():
            content[kind] = {name: getattr(values, name) for name in _WEIGHTS}
        if self.thresholds:
            content["thresholds"] = dict(self.thresholds)
        return content


def check_calibration(parent: Any, problems: list[str], *, owner: str = "xsam") -> Calibration | None:
    """Return the calibration in a section of `config.json`, None if it has none.

    Args:
        parent: content of the section that has it.
        problems: receives what is wrong.
        owner: name of that section.
    """
    section = parent.get("calibration") if isinstance(parent, Mapping) else None
    if section is None:
        return None
    name = f"{owner}.calibration"
    before = len(problems)
    shared: dict[str, Field] = {
        "known_categories": Items(Name(60), 0, MAX_CATEGORIES),
        "sure_from": Number(0.0, 1.0),
        "corrects_places": Flag(),
        "completes": Items(Choice(*COMPLETED_KINDS), 0, len(COMPLETED_KINDS)),
    }
    parts = section if isinstance(section, Mapping) else {}
    own = {key: value for key, value in parts.items() if key not in (*KINDS, "thresholds")}
    values = check_section(
        name,
        own if isinstance(section, Mapping) else section,
        shared,
        problems,
        required=("known_categories", "sure_from"),
    )
    weights = {
        kind: check_section(f"{name}.{kind}", parts[kind], _WEIGHTS, problems)
        for kind in KINDS
        if kind in parts
    }
    numbers = check_section(f"{name}.thresholds", parts.get("thresholds", {}), _THRESHOLDS, problems)
    if len(problems) > before:
        return None
    return Calibration(
        **values,
        thresholds={kind: numbers[kind] for kind in _INSTANCE_KINDS if kind in numbers},
        weights={kind: EvidenceWeights(**values) for kind, values in weights.items()},
    )


def evidence_row(evidence: Mapping[str, float]) -> list[float]:
    """Return what the weights are multiplied with: log(p / (1 − p)) of every share, clipped to [0.01, 0.99].

    Scores of the census are clipped at 0.05 below: what it does not list may have any score up to that.
    """
    row = []
    for name in EVIDENCE:
        least = _CENSUS_CLIP if name in ("named", "rival") else _CLIP
        clipped = min(max(evidence[name], least), 1 - _CLIP)
        row.append(math.log(clipped / (1 - clipped)))
    return row
