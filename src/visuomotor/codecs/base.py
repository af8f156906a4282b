"""What every codec speaks: actions to tokens and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Codec", "DecodeFailure"]


@dataclass(frozen=True, kw_only=True)
class DecodeFailure:
    """Tokens that stand for no actions, and why. Never silently turned into zeros."""

    reason: str
    tokens: tuple[int, ...]


@runtime_checkable
class Codec(Protocol):
    """Actions in [-1, 1] to token ids and back, with a stated error bound."""

    vocabulary: int

    @property
    def error_bound(self) -> float | None:
        """Largest absolute error of decode(encode(actions)) a number, normalized; None if it depends."""
        ...

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids int64 (token,) of normalized `actions` (horizon, action)."""
        ...

    def decode(self, tokens: np.ndarray) -> np.ndarray | DecodeFailure:
        """Actions float32 (horizon, action), or why these tokens are none."""
        ...
