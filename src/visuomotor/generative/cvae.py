"""Variational autoencoders with Gaussian latents, as functions of their mean and log-variance.

Source: Kingma & Welling (2014), "Auto-encoding variational Bayes"; conditional: Sohn et al. (2015).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["divergence", "draw"]


def draw(
    mean: Float[Tensor, "*batch latent"],
    log_variance: Float[Tensor, "*batch latent"],
    *,
    generator: torch.Generator | None,
    noise: Float[Tensor, "*batch latent"] | None = None,
) -> Float[Tensor, "*batch latent"]:
    """A latent drawn from its posterior, differentiable in both arguments.

    Args:
        mean: Of the posterior.
        log_variance: Logarithm of the variance of each number.
        generator: Source of the noise if that is not given; a generator of the CPU gives the same
            numbers whatever the device, and None means torch's default generator.
        noise: Standard normal sample.

    Source: Kingma & Welling (2014), section 2.4.
    """
    if noise is None:
        home = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, device=home).to(mean.device)
    return mean + torch.exp(log_variance / 2) * noise


def divergence(
    mean: Float[Tensor, "*batch latent"], log_variance: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch"]:
    """Kullback-Leibler divergence of each posterior from the standard normal prior, in nats.

    Source: Kingma & Welling (2014), appendix B.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)
