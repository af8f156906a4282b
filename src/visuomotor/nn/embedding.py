"""Numbers as waves of many lengths."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["embed_time"]


def embed_time(
    time: Float[Tensor, "*batch"], width: int, *, shortest: float = 4e-3, longest: float = 4.0
) -> Float[Tensor, "*batch width"]:
    """Sines, then cosines, of `time` at `width / 2` periods, evenly spaced in the logarithm.

    Args:
        time: Any real number; the default periods suit flow time in [0, 1].
        width: Size of the embedding; even and at least 4.
        shortest: First period, in the unit of `time`.
        longest: Last period.

    Source: Vaswani et al. (2017), section 3.5; the periods as in Black et al. (2024), pi0, appendix B.
    """
    if width % 2 or width < 4:
        raise ValueError(f"time embedding: width must be even and at least 4, got {width}.")
    fraction = torch.linspace(0, 1, width // 2, device=time.device, dtype=torch.float32)
    rates = 2 * math.pi / shortest * (shortest / longest) ** fraction
    angles = time.float()[..., None] * rates  # *batch -> *batch wave
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
