"""Chunks with numbers that one can follow by eye."""

from __future__ import annotations

import numpy as np

from visuomotor.types import Chunk

RATE = 5.0


def chunk(start: int, values: list[float], mask: list[bool] | None = None) -> Chunk:
    """A chunk observed at tick `start`, whose second dimension is the negative of the first."""
    actions = np.array([[value, -value] for value in values], np.float32)
    return Chunk(
        actions=actions, rate=RATE, time=start / RATE, mask=None if mask is None else np.array(mask, bool)
    )
