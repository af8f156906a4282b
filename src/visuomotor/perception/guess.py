"""A first guess of the chunk, by regression, and how far off it is: what a generative head may start from.

The squared error of noisy chunks says little about an observation, and it says it late: what teaches seeing
within minutes is a regression. A head that models what is left of it, in units of its doubt, has little to
learn, and its gradients need not reach the observation (as in Driess et al. 2025).
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.losses import Term

__all__ = ["FARTHEST", "Guess"]

DOUBT = 0.1  # about a guess before all learning, in model space, where limits are -1 and 1
SURE = 0.01  # least doubt
FARTHEST = 6.0  # units of doubt; farther outliers count as this far


class Guess(nn.Module):
    """A first guess of the chunk, and for each of its numbers how far off it is on average.

    Args:
        width: Of the observation.
        horizon: Ticks of a chunk.
        action: Numbers of an action.
    """

    def __init__(self, width: int, horizon: int, action: int) -> None:
        super().__init__()
        self.shape = (horizon, action)
        chunk = horizon * action
        self.mean = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, chunk)
        )
        self.doubt = nn.Linear(width, chunk)
        nn.init.zeros_(self.doubt.weight)
        nn.init.constant_(self.doubt.bias, math.log(DOUBT))

    def forward(
        self, observation: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch horizon action"], Float[Tensor, "batch horizon action"]]:
        """Guess and doubt, both in model space."""
        doubt = self.doubt(observation.detach()).clamp(math.log(SURE), 0.0).exp()
        return self.mean(observation).unflatten(1, self.shape), doubt.unflatten(1, self.shape)

    def learn(
        self,
        observation: Float[Tensor, "row width"],
        actions: Float[Tensor, "row horizon action"],
        mask: Bool[Tensor, "row horizon action"],
        weight: float,
    ) -> tuple[Float[Tensor, "row horizon action"], dict[str, Term]]:
        """What is left of the actions in units of doubt, without gradient, and the losses of both.

        The guess has the absolute error, with `weight`; the doubt the log-likelihood of a Laplace
        distribution. Neither reads what is masked.
        """
        guess, doubt = self(observation)
        off = (actions.masked_fill(~mask, 0) - guess.float()).masked_fill(~mask, 0)
        count = mask.sum().to(off.dtype)
        likely = (off.detach().abs() / doubt + doubt.log()).masked_fill(~mask, 0)
        left = (off / doubt).detach().clamp(-FARTHEST, FARTHEST)
        terms = {"guess": Term(off.abs().sum(), count, weight), "doubt": Term(likely.sum(), count, 0.1)}
        return left, terms

    def around(
        self, observation: Float[Tensor, "row width"], actions: Float[Tensor, "row horizon action"]
    ) -> Float[Tensor, "row horizon action"]:
        """Actions as a head sees them: how far from the guess, in units of doubt; without gradient."""
        guess, doubt = self(observation.detach())
        return ((actions - guess) / doubt).detach().clamp(-FARTHEST, FARTHEST)
