"""From feature maps to the place where each of them is bright."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SpatialSoftArgmax"]


class SpatialSoftArgmax(nn.Module):
    """Expected image coordinates under a softmax over each feature map.

    Coordinates are (x, y), x to the right and y down, -1 and 1 at the centers of the outermost cells.
    The arithmetic is float32 even under autocast: bfloat16 would round a place to 1/256 of the image.

    Args:
        channels: Number of maps; each learns a temperature of its own (the papers learn one for all).
        temperature: Where the temperatures start.

    Source: Levine et al. (2016), section 5.1; the learned temperature as in Finn et al. (2016).
    """

    def __init__(self, channels: int, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"spatial soft-argmax: temperature must be positive, got {temperature}.")
        self.log_temperature = nn.Parameter(torch.full((channels,), float(temperature)).log())

    def forward(self, maps: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel 2"]:
        """One (x, y) a map, in [-1, 1]."""
        height, width = maps.shape[-2:]
        logits = maps.float() * torch.exp(-self.log_temperature.float())[:, None, None]
        # softmax over all cells; batch channel (height width) -> batch channel height width
        heat = logits.flatten(2).softmax(-1).unflatten(-1, (height, width))
        xs = torch.linspace(-1, 1, width, device=maps.device) if width > 1 else maps.new_zeros(1).float()
        ys = torch.linspace(-1, 1, height, device=maps.device) if height > 1 else maps.new_zeros(1).float()
        return torch.stack([(heat.sum(-2) * xs).sum(-1), (heat.sum(-1) * ys).sum(-1)], dim=-1)
