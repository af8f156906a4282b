"""Losses as named sums and counts: the training loop divides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Loss", "Term", "token_loss"]


@dataclass(frozen=True)
class Term:
    """One part of a loss, not yet divided, so that accumulation and data parallelism stay right.

    Attributes:
        sum: Scalar, summed over everything that counts.
        count: How many numbers were summed; 0 when no sample had this term.
        weight: Factor of the mean in the total.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Loss:
    """Named terms of a loss; the training loop divides."""

    terms: Mapping[str, Term]

    def total(self) -> Tensor:
        """Weighted sum of the means of all terms; a term that counts nothing adds 0."""
        parts = [term.weight * term.sum / term.count.clamp(min=1) for term in self.terms.values()]
        return torch.stack(parts).sum()

    def means(self) -> dict[str, float]:
        """Mean of each term, for logs; NaN for a term that counts nothing."""
        return {
            name: (float(term.sum.detach()) / float(term.count)) if float(term.count) > 0 else float("nan")
            for name, term in self.terms.items()
        }


def token_loss(
    scores: Float[Tensor, "row token word"],
    ids: Int[Tensor, "row token"],
    learned: Bool[Tensor, "row token"],
    weight: float = 1.0,
) -> Term:
    """Cross-entropy of words, where they are learned; ids elsewhere are not read."""
    wrong = F.cross_entropy(scores.float().transpose(1, 2), ids.masked_fill(~learned, 0), reduction="none")
    return Term(wrong.masked_fill(~learned, 0).sum(), learned.sum().to(wrong.dtype), weight)
