"""Gaussian mixtures over chunks, as functions over their parameters.

A component is a whole plan: it has a mean and a spread for every number of the chunk, and the chunk as a
whole comes from one component. So two ways round an obstacle are two components, and no sample begins
with the one and goes on with the other; a mixture for each tick would draw anew at every tick. With a
horizon of 1 the two are the same, and are what was published.

All randomness is in the noise, standard normal numbers in the shape of the chunk, as for flow and
diffusion: equal noise gives equal actions.

Likelihood alone may leave all weight to one component as wide as everything that was done: the others,
far from all chunks, are taught by none. `loss(..., apart=1)` teaches them all.

Sources: Bishop (1994), "Mixture density networks"; Mandlekar et al. (2021), "What matters in learning
from offline human demonstrations for robot manipulation", whose code (robomimic 0.3.0) has the bounds,
the least spread, and the low noise while acting; Rupprecht et al. (2017), "Learning in an uncertain
world", for what keeps components apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "LOW_NOISE",
    "Mixture",
    "choose",
    "condition",
    "from_raw",
    "log_density",
    "loss",
    "mode",
    "quiet",
    "sample",
    "winner_error",
]

LOW_NOISE = 1e-4
"""Spread of every component under low noise, in model space."""
RELAXED = 0.05
"""Share of an error that is left to components that are not the nearest."""
EDGE = 1e-6  # no quantile is asked for closer to 0 or 1: float32 knows none
BELOW = 1 - 2**-23  # of float32


class Mixture(NamedTuple):
    """A Gaussian mixture over chunks: logits of the components, and mean and spread of each."""

    logits: Float[Tensor, "batch mode"]
    mean: Float[Tensor, "batch mode horizon action"]
    std: Float[Tensor, "batch mode horizon action"]


def from_raw(
    logits: Float[Tensor, "batch mode"],
    mean: Float[Tensor, "batch mode horizon action"],
    std: Float[Tensor, "batch mode horizon action"],
    *,
    min_std: float = 1e-4,
    bounded: bool = True,
) -> Mixture:
    """The mixture that three outputs of a network stand for, in float32 or better.

    Args:
        logits: Unnormalized.
        mean: Becomes `tanh(mean)` if `bounded`.
        std: Becomes `softplus(std) + min_std`.
        min_std: Least spread of a component.
        bounded: Whether all means lie in [-1, 1].

    Source: robomimic 0.3.0, of Mandlekar et al. (2021).
    """
    logits, mean, std = (
        part.to(torch.promote_types(part.dtype, torch.float32)) for part in (logits, mean, std)
    )
    return Mixture(logits, mean.tanh() if bounded else mean, F.softplus(std) + min_std)


def log_density(
    mixture: Mixture,
    actions: Float[Tensor, "batch horizon action"],
    mask: Bool[Tensor, "#batch #horizon #action"] | None = None,
) -> Float[Tensor, " batch"]:
    """Logarithm of the density of each chunk; masked numbers are integrated out, so they do not matter.

    Source: Bishop (1994), eqs. 22 and 23, with a spread for each number.
    """
    return _joint(mixture, actions, mask).logsumexp(-1)


def loss(
    mixture: Mixture,
    actions: Float[Tensor, "batch horizon action"],
    mask: Bool[Tensor, "batch horizon action"],
    *,
    apart: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Negative log-likelihood of the chunks: its sum, and how many numbers are real.

    Their quotient is in nats a number. The published one is divided by samples instead; with complete
    chunks that is a constant factor, to which Adam is blind.

    Args:
        mixture: Parameters, for each chunk.
        actions: What was done.
        mask: Which of their numbers are real; the others do not matter.
        apart: Weight of `winner_error`, which is added to the sum; 0 as published.
    """
    surprise = -log_density(mixture, actions, mask).masked_fill(~mask.flatten(1).any(-1), 0)
    total = surprise.sum()
    if apart:
        total = total + apart * winner_error(mixture, actions, mask).sum()
    return total, mask.sum().to(surprise.dtype)


def winner_error(
    mixture: Mixture,
    actions: Float[Tensor, "batch horizon action"],
    mask: Bool[Tensor, "batch horizon action"],
    *,
    relaxed: float = RELAXED,
) -> Float[Tensor, " batch"]:
    """Squared error of the mean nearest to each chunk, and a small share of those of all others.

    The nearest takes `1 - relaxed` of its error and so stays with the chunks that it is nearest to; the
    others divide the rest, so that none is left where no chunk ever is. Spreads and weights do not matter.

    Source: Rupprecht et al. (2017), section 3, whose relaxed assignment this is, with the squared error.
    """
    off = (actions[:, None] - mixture.mean).masked_fill(~mask[:, None], 0)
    errors = off.square().flatten(2).sum(-1)  # batch mode
    others = errors.shape[1] - 1
    if not others:
        return errors[:, 0]
    nearest = errors.amin(-1)
    return (1 - relaxed) * nearest + relaxed / others * (errors.sum(-1) - nearest)


def condition(
    mixture: Mixture,
    prefix: Float[Tensor, "batch prefix action"],
    mask: Bool[Tensor, "#batch #prefix #action"] | None = None,
) -> Mixture:
    """The mixture given the first actions of the chunk: plans that do not begin like this lose weight.

    Exact: within a component the numbers are independent, so only the weights know of the prefix. The
    ticks of the prefix stay in the mixture as they are.
    """
    length = prefix.shape[1]
    begin = Mixture(mixture.logits, mixture.mean[:, :, :length], mixture.std[:, :, :length])
    return mixture._replace(logits=_joint(begin, prefix, mask))


def quiet(mixture: Mixture) -> Mixture:
    """The mixture under low noise: a sample is the mean of a component, which is still drawn.

    Source: robomimic 0.3.0, `low_noise_eval`.
    """
    return mixture._replace(std=torch.full_like(mixture.std, LOW_NOISE))


def choose(
    logits: Float[Tensor, "batch mode"], draw: Float[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """A component, drawn by one standard normal number, and a standard normal number independent of it.

    `u = Phi(draw)` is uniform in [0, 1], which the components divide in proportion to their weights: it
    chooses the one in whose part it lies (inversion of the distribution function). How far along that
    part it lies is uniform whatever was chosen, and its quantile is the number that is given back; so
    one number of noise serves both, and nothing is drawn that was not in the noise.
    """
    weights = logits.softmax(-1)
    ends = weights.cumsum(-1)
    # Below the end of the last part: float32 rounds to 1 from 5.5 on, and weights do not sum to 1 exactly.
    level = torch.minimum(torch.special.ndtr(draw), ends[:, -1] * BELOW)
    chosen = (level[:, None] >= ends).sum(-1)
    end, weight = (part.gather(1, chosen[:, None])[:, 0] for part in (ends, weights))
    along = (level - (end - weight)) / weight
    return chosen, torch.special.ndtri(along.clamp(EDGE, 1 - EDGE))


def sample(
    mixture: Mixture, noise: Float[Tensor, "batch horizon action"]
) -> Float[Tensor, "batch horizon action"]:
    """A chunk, from a component that the first number of the noise chooses; see `choose`.

    Args:
        mixture: `quiet(mixture)` for low noise.
        noise: Standard normal.
    """
    chosen, first = choose(mixture.logits, noise[:, 0, 0])
    noise = noise.clone()
    noise[:, 0, 0] = first
    mean, std = (_taken(part, chosen) for part in (mixture.mean, mixture.std))
    return mean + std * noise


def mode(mixture: Mixture) -> Float[Tensor, "batch horizon action"]:
    """Mean of the component of the largest weight; of two of equal weight the first."""
    return _taken(mixture.mean, mixture.logits.argmax(-1))


def _joint(mixture: Mixture, actions: Tensor, mask: Tensor | None) -> Float[Tensor, "batch mode"]:
    """Logarithm of weight times density for each component; its exponentials sum to the density."""
    if mask is not None:
        actions = actions.masked_fill(~mask, 0)
    off = (actions[:, None] - mixture.mean) / mixture.std  # batch mode horizon action
    each = -0.5 * off.square() - mixture.std.log() - 0.5 * math.log(2 * math.pi)
    if mask is not None:
        each = each.masked_fill(~mask[:, None], 0)
    return mixture.logits.log_softmax(-1) + each.flatten(2).sum(-1)


def _taken(
    parts: Float[Tensor, "batch mode horizon action"], chosen: Int[Tensor, " batch"]
) -> Float[Tensor, "batch horizon action"]:
    return parts[torch.arange(len(parts), device=parts.device), chosen]
