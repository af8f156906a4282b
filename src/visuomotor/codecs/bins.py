"""One token a number: equal cells of [-1, 1]."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64

from visuomotor.codecs.base import DecodeFailure

__all__ = ["UniformBins"]


class UniformBins:
    """Each number becomes the cell it lies in, and comes back as the center of that cell.

    Tokens are ordered tick by tick, within a tick dimension by dimension. Numbers outside [-1, 1] go
    to the outermost cell, and only for those the error bound does not hold. Released models use three
    other rules with 256 bins (no centers, 255 centers, cells of their own); those stay in their families.

    Args:
        bins: Number of cells; also the size of the vocabulary.
        horizon: Ticks of a chunk.
        action: Numbers of one action.
    """

    def __init__(self, bins: int = 256, *, horizon: int, action: int) -> None:
        if bins < 1 or horizon < 1 or action < 1:
            raise ValueError(
                f"uniform bins: expected positive sizes, got bins {bins}, horizon {horizon}, action {action}."
            )
        self.bins = bins
        self.horizon = horizon
        self.action = action
        self.vocabulary = bins
        # half a cell, and the rounding of a number below 1 to float32
        self.error_bound: float | None = 1 / bins + 2.0**-25

    def encode(self, actions: Float[np.ndarray, "horizon action"]) -> Int64[np.ndarray, " token"]:
        """Cell numbers of normalized actions. Raises `ValueError` on a wrong shape or NaN."""
        if actions.shape != (self.horizon, self.action):
            raise ValueError(
                f"uniform bins: expected actions {(self.horizon, self.action)}, got {actions.shape}."
            )
        if np.isnan(actions).any():
            raise ValueError(
                "uniform bins: expected numbers, got NaN. Check the statistics that normalize the actions."
            )
        cells = np.floor((actions.astype(np.float64) + 1) / 2 * self.bins)
        return np.clip(cells, 0, self.bins - 1).astype(np.int64).reshape(-1)

    def decode(self, tokens: np.ndarray) -> Float32[np.ndarray, "horizon action"] | DecodeFailure:
        """Centers of the cells, or why these tokens are no chunk."""
        tokens = np.asarray(tokens)
        if tokens.size and not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"uniform bins: expected integer tokens, got {tokens.dtype}.")
        tokens = tokens.reshape(-1).astype(np.int64)
        expected = self.horizon * self.action
        if len(tokens) != expected:
            return self._fail(f"expected {expected} tokens, got {len(tokens)}", tokens)
        outside = tokens[(tokens < 0) | (tokens >= self.bins)]
        if len(outside):
            return self._fail(f"expected tokens in [0, {self.bins}), got {int(outside[0])}", tokens)
        centers = (2 * tokens + 1) / self.bins - 1
        return centers.astype(np.float32).reshape(self.horizon, self.action)

    @staticmethod
    def _fail(reason: str, tokens: np.ndarray) -> DecodeFailure:
        return DecodeFailure(reason=reason, tokens=tuple(tokens.tolist()))
