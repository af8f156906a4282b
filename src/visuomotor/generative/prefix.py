"""How strongly a new chunk is held to actions promised before it. Nothing here imports torch."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32

__all__ = ["prefix_weights"]


def prefix_weights(horizon: int, *, delay: int, end: int) -> Float32[np.ndarray, " horizon"]:
    """How strongly each tick of a new chunk is held to the previous one; for `flow.guide`.

    1 for the first `delay` ticks, which will have run before the new chunk is ready; then falling
    exponentially; 0 from tick `end`, which the previous chunk does not reach.

    Args:
        horizon: Ticks of a chunk.
        delay: Ticks between the observation and the new chunk.
        end: Ticks the previous chunk still has; the paper's `H - s`.

    Source: Black et al. (2025), "Real-time execution of action chunking flow policies", eq. 5.
    """
    if not 0 <= delay <= end <= horizon:
        raise ValueError(
            f"prefix weights: expected 0 <= delay <= end <= horizon, got {delay}, {end}, {horizon}."
        )
    tick = np.arange(horizon)
    fall = (end - tick) / (end - delay + 1)
    soft = fall * np.expm1(fall) / (math.e - 1)
    return np.where(tick < delay, 1.0, np.where(tick < end, soft, 0.0)).astype(np.float32)
