"""Feature-wise linear modulation: a condition scales and shifts each channel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FiLM"]


class FiLM(nn.Module):
    """`(1 + gamma) * features + beta`, gamma and beta linear in the condition and 0 at the start.

    A fresh layer is the identity, so it can be put into a trained network without harm. Released
    policies use two other forms (without `1 +`, or not starting at 0); those stay in their families.

    Args:
        channels: Number of channels that are modulated.
        condition: Size of the condition.

    Source: Perez et al. (2018), eq. 2; the identity start as in Brohan et al. (2022), RT-1, section 5.1.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.project = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self,
        features: Float[Tensor, "batch channel *space"],
        condition: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel *space"]:
        """The features, modulated; `space` may be any number of axes."""
        trailing = (1,) * (features.ndim - 2)
        gamma, beta = (
            part.unflatten(-1, (-1, *trailing)) if trailing else part
            for part in self.project(condition).chunk(2, dim=-1)
        )
        return (1 + gamma) * features + beta
