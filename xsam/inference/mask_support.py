"""What the network itself says for a mask besides its score: how firm its outline is, and its runner-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRM_LOGIT = math.log(3.0)
"""Of a mask probability of 3/4; see `firmness_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSupport:
    """What the network says for the masks of one result, apart from their scores; () = not measured.

    Attributes:
        firmness: (N,) in [0, 1], see `firmness_of`.
        runners_up: (N,) in [0, 1], the best score of another mask for the same label.
    """

    firmness: tuple[float, ...] = ()
    runners_up: tuple[float, ...] = ()

    def pick(self, indices: Sequence[int]) -> MaskSupport:
        """Select masks by their indices."""
        columns = (self.firmness, self.runners_up)
        firmness, runners_up = (tuple(column[i] for i in indices) if column else () for column in columns)
        return MaskSupport(firmness=firmness, runners_up=runners_up)

    @classmethod
    def joined(cls, parts: Sequence[MaskSupport]) -> MaskSupport:
        """Return what is said for the masks of several results together; all must be measured, or empty."""
        return cls(
            firmness=tuple(value for part in parts for value in part.firmness),
            runners_up=tuple(value for part in parts for value in part.runners_up),
        )


NO_SUPPORT = MaskSupport()


def runners_up(p: Tensor, queries: Tensor, labels: Tensor) -> Tensor:
    """Return the best probability (N,) that any other query has for the same label; 0 if there is no other.

    Args:
        p: (Q, K).
        queries, labels: (N,) indices.
    """
    if len(p) < 2:
        return p.new_zeros(len(queries))
    best, second = p.topk(2, dim=0).values[:, labels]
    return torch.where(p[queries, labels] >= best, second, best)


def firmness_of(logits: Tensor) -> float:
    """Return how little a mask changes with its threshold: area at p > 3/4, as a share of that at p > 1/4.

    Thin parts and outlines that the model guesses are soft. SAM calls this the stability score.
    """
    firm, loose = torch.stack([(logits > FIRM_LOGIT).sum(), (logits > -FIRM_LOGIT).sum()]).tolist()
    return float(firm / max(1, loose))
