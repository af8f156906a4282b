"""Mixtures of Gaussians over whole chunks, as functions over their parameters.

A component is a whole plan: all ticks and dimensions of a chunk share it, so that a chunk never starts
along one way and ends along another. With a horizon of 1 this is the usual mixture over one action.

Source: Bishop (1994), "Mixture density networks", eqs. 22-25; Mandlekar et al. (2021) for behavior cloning.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["draw", "surprise"]


def surprise(
    logits: Float[Tensor, "row mode"],
    means: Float[Tensor, "row mode horizon action"],
    stds: Float[Tensor, "row mode horizon action"],
    actions: Float[Tensor, "row horizon action"],
    mask: Bool[Tensor, "row horizon action"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Negative log-likelihood of chunks under their mixtures: its sum, and how many numbers it is of.

    A masked number is left out of every component, which is the likelihood of what is known; a row without
    a real number adds nothing.

    Source: Bishop (1994), eq. 29.
    """
    error = (actions.masked_fill(~mask, 0)[:, None] - means) / stds
    each = -0.5 * error.square() - stds.log() - 0.5 * math.log(2 * math.pi)
    plan = each.masked_fill(~mask[:, None], 0).sum((-2, -1))  # row mode
    likely = torch.logsumexp(logits.log_softmax(-1) + plan, dim=-1)
    likely = likely.masked_fill(~mask.flatten(1).any(-1), 0)
    return -likely.sum(), mask.sum().to(likely.dtype)


def draw(
    logits: Float[Tensor, "row mode"],
    means: Float[Tensor, "row mode horizon action"],
    stds: Float[Tensor, "row mode horizon action"],
    noise: Float[Tensor, "row horizon action"],
) -> Float[Tensor, "row horizon action"]:
    """A chunk of each mixture, decided by standard normal `noise` alone.

    The component is found by inverting the distribution of the components at a uniform number: that of the
    noise's sum, over its length a standard normal number. The chunk is the component's mean plus its spread
    times the noise. So component and offset of the mean are not independent; with the nearly vanishing
    spread that policies act with, nobody can tell.
    """
    normal = noise.flatten(1).sum(-1) / math.sqrt(noise[0].numel())
    uniform = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
    passed = logits.softmax(-1).cumsum(-1) < uniform[:, None]
    mode = passed.sum(-1).clamp(max=logits.shape[-1] - 1)
    row = torch.arange(len(mode), device=mode.device)
    return means[row, mode] + stds[row, mode] * noise
