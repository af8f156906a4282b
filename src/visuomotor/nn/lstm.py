"""Long short-term memory over a short, masked history."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """Ticks in their order to a memory of them, which begins empty at each call.

    A tick that is not real leaves the memory as it is: padding before the start of an episode is as if it
    had never been. Torch's own module cannot do this for padding in front, and does not compile in one
    graph; the arithmetic and the names of the weights are its own.

    Args:
        inputs: Numbers of a tick.
        width: Of the memory.
        layers: Each reads the one before it.

    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        for layer in range(layers):
            for name, shape in (
                ("weight_ih", (4 * width, width if layer else inputs)),
                ("weight_hh", (4 * width, width)),
                ("bias_ih", (4 * width,)),
                ("bias_hh", (4 * width,)),
            ):
                weight = nn.Parameter(torch.empty(shape).uniform_(-(width**-0.5), width**-0.5))
                self.register_parameter(f"{name}_l{layer}", weight)

    def forward(
        self, ticks: Float[Tensor, "batch history input"], mask: Bool[Tensor, "batch history"]
    ) -> Float[Tensor, "batch history width"]:
        """What the last layer knows after each tick; 0 before the first real one."""
        for layer in range(self.layers):
            ticks = self._read(ticks, mask, layer)
        return ticks

    def _read(self, ticks: Tensor, mask: Tensor, layer: int) -> Tensor:
        weight, back, bias, bias_back = (
            self.get_parameter(f"{name}_l{layer}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        driven = F.linear(ticks, weight, bias + bias_back)  # of all ticks at once
        told = cell = driven.new_zeros(len(driven), self.width)
        after = []
        for tick in range(driven.shape[1]):
            enter, keep, new, leave = F.linear(told, back).add(driven[:, tick]).chunk(4, dim=-1)
            found = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            real = mask[:, tick, None]
            told = torch.where(real, leave.sigmoid() * found.tanh(), told)
            cell = torch.where(real, found, cell)
            after.append(told)
        return torch.stack(after, dim=1)
