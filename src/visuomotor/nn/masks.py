"""Masks of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["needed"]


def needed(real: Bool[Tensor, "row token"]) -> Bool[Tensor, "row token"] | None:
    """The mask, or None where all tokens are real, which attention does faster; never in compiled graphs."""
    return None if not torch.compiler.is_compiling() and bool(real.all()) else real
