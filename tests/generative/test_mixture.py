"""Mixtures of Gaussians: likelihoods against torch.distributions, and draws that noise alone decides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from visuomotor.generative import mixture


def random_mixture(
    rows: int, modes: int = 3, horizon: int = 4, action: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, modes, horizon, action)
    stds = 0.2 + torch.rand(shape, generator=generator)
    return torch.randn(rows, modes, generator=generator), torch.randn(shape, generator=generator), stds


def test_surprise_is_that_of_torchs_mixture() -> None:
    logits, means, stds = random_mixture(5)
    actions = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
    total, count = mixture.surprise(logits, means, stds, actions, torch.ones_like(actions, dtype=torch.bool))
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, stds), 2))
    torch.testing.assert_close(total, -theirs.log_prob(actions).sum())
    assert count == 40


def test_masked_numbers_are_left_out_of_the_likelihood() -> None:
    logits, means, stds = random_mixture(3)
    actions = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(actions, dtype=torch.bool)
    mask[:, 2:] = False
    mask[2] = False
    total, count = mixture.surprise(logits, means, stds, actions, mask)
    short, number = mixture.surprise(
        logits[:2], means[:2, :, :2], stds[:2, :, :2], actions[:2, :2], mask[:2, :2]
    )
    torch.testing.assert_close(total, short)
    assert count == number == 8
    again, _ = mixture.surprise(logits, means, stds, actions.masked_fill(~mask, torch.nan), mask)
    assert torch.equal(total, again)


def test_gradients_are_those_of_finite_differences() -> None:
    logits, means, stds = (part.double().requires_grad_() for part in random_mixture(2, 2, 2, 1))
    actions = torch.randn(2, 2, 1, dtype=torch.float64)
    mask = torch.ones_like(actions, dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda *parts: mixture.surprise(*parts, actions, mask)[0], (logits, means, stds)
    )


def test_draws_have_the_weights_and_the_places_of_the_components() -> None:
    rows = 20_000
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(rows, -1)
    places = torch.tensor([-5.0, 0.0, 5.0])[None, :, None, None].expand(rows, -1, 2, 1)
    noise = torch.randn(rows, 2, 1, generator=torch.Generator().manual_seed(0))
    found = mixture.draw(logits, places, torch.full_like(places, 1e-4), noise)
    assert torch.equal(found, mixture.draw(logits, places, torch.full_like(places, 1e-4), noise))
    torch.testing.assert_close(found[:, 0], found[:, 1], atol=1e-2, rtol=0)  # one plan for the whole chunk
    shares = torch.stack(
        [(found[:, 0, 0] - place).abs().lt(0.1).float().mean() for place in (-5.0, 0.0, 5.0)]
    )
    # A share of 20,000 draws is uncertain by 0.0035 (one standard deviation).
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.014, rtol=0)
