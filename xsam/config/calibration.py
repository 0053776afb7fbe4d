"""Calibration of a checkpoint: what it knows by name, and how far its scores can be trusted.

The section `xsam.calibration` of `config.json`. `xsam.train.calibrate` measures it on validation scenes; a
checkpoint without it still answers, but none of its answers is doubted for its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xsam.config.fields import Field, Items, Name, Number, check_section

Kind = Literal["category", "categories", "phrase", "object", "question", "description"]
KINDS: tuple[Kind, ...] = ("category", "categories", "phrase", "object", "question", "description")

MAX_CATEGORIES = 1000
_CLIP = 0.01  # scores are clipped to [0.01, 0.99] before their logarithm

_COEFFICIENT = Number(-100.0, 100.0)
_WEIGHTS: dict[str, Field] = {
    "bias": _COEFFICIENT,
    "score": _COEFFICIENT,
    "named": _COEFFICIENT,
    "rival": _COEFFICIENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceWeights:
    """Logistic weights of the evidence about a segment.

    Attributes:
        bias: constant.
        score: weight of the segment's own score.
        named: weight of the score that the asked category has on this mask, among all known categories.
        rival: weight of the best score of any other category on this mask.
    """

    bias: float = 0.0
    score: float = 0.0
    named: float = 0.0
    rival: float = 0.0

    def chance(self, score: float, named: float, rival: float) -> float:
        """Return the probability that the segment is right; the arguments are probabilities."""
        evidence = self.score * log_odds(score) + self.named * log_odds(named)
        return 1 / (1 + math.exp(-(self.bias + evidence + self.rival * log_odds(rival))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a checkpoint knows by name, and the chance that an answer with certain evidence is right.

    Attributes:
        known_categories: names of the objects that it was trained on, singular; rivals are among them.
        sure_from: chance from which a segment is believed.
        weights: for each kind of query. `category`: one category; `categories`: a list of them; `phrase`: a
            phrase with one of the categories in it; `object`: a phrase without; `question`: reasoning;
            `description`: a phrase of a grounded description. Kinds that are left out are never doubted for
            their score.
    """

    known_categories: tuple[str, ...]
    sure_from: float
    weights: Mapping[Kind, EvidenceWeights]

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `config.json`."""
        content: dict[str, Any] = {
            "known_categories": list(self.known_categories),
            "sure_from": self.sure_from,
        }
        for kind, values in self.weights.items():
            content[kind] = {name: getattr(values, name) for name in _WEIGHTS}
        return content


def check_calibration(xsam: Any, problems: list[str]) -> Calibration | None:
    """Return the calibration in the section `xsam`, None if it has none; add what is wrong to `problems`."""
    section = xsam.get("calibration") if isinstance(xsam, Mapping) else None
    if section is None:
        return None
    name = "xsam.calibration"
    before = len(problems)
    shared: dict[str, Field] = {
        "known_categories": Items(Name(60), 0, MAX_CATEGORIES),
        "sure_from": Number(0.0, 1.0),
    }
    parts = section if isinstance(section, Mapping) else {}
    own = {key: value for key, value in parts.items() if key not in KINDS}
    values = check_section(
        name, own if isinstance(section, Mapping) else section, shared, problems, required=tuple(shared)
    )
    weights = {
        kind: check_section(f"{name}.{kind}", parts[kind], _WEIGHTS, problems)
        for kind in KINDS
        if kind in parts
    }
    if len(problems) > before:
        return None
    return Calibration(
        **values, weights={kind: EvidenceWeights(**numbers) for kind, numbers in weights.items()}
    )


def log_odds(probability: float) -> float:
    """Return log(p / (1 − p)) of a probability, clipped to [0.01, 0.99]."""
    clipped = min(max(probability, _CLIP), 1 - _CLIP)
    return math.log(clipped / (1 - clipped))
