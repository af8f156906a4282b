"""Gaussian mixtures against closed forms, finite differences, and torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions

from visuomotor.generative import mixture
from visuomotor.generative.mixture import LOW_NOISE, Mixture

BATCH, MODES, HORIZON, ACTION = 3, 5, 4, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mixture(batch: int = BATCH, dtype: torch.dtype = torch.float32) -> Mixture:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    generator = seeded()
    shape = (batch, MODES, HORIZON, ACTION)
    return mixture.from_raw(draw(batch, MODES), draw(*shape), draw(*shape))


def chunks(batch: int = BATCH, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, HORIZON, ACTION, generator=seeded(1), dtype=dtype)


def theirs(mix: Mixture) -> distributions.MixtureSameFamily:
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=mix.logits),
        distributions.Independent(distributions.Normal(mix.mean, mix.std), 2),
    )


def test_the_density_is_that_of_torch() -> None:
    mix, actions = random_mixture(), chunks()
    torch.testing.assert_close(mixture.log_density(mix, actions), theirs(mix).log_prob(actions))
    total, count = mixture.loss(mix, actions, torch.ones_like(actions, dtype=torch.bool))
    torch.testing.assert_close(total, -theirs(mix).log_prob(actions).sum())
    assert float(count) == actions.numel()


def test_one_component_loses_the_entropy_of_a_gaussian() -> None:
    std = torch.full((20_000, 1, 1, 2), 0.3)
    mix = Mixture(torch.zeros(20_000, 1), torch.full_like(std, 0.7), std)
    actions = mixture.sample(mix, torch.randn(20_000, 1, 2, generator=seeded()))
    total, count = mixture.loss(mix, actions, torch.ones_like(actions, dtype=torch.bool))
    # 40,000 numbers of variance 1/2 around the entropy: a standard error of 0.0035.
    assert float(total / count) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.09), abs=0.015)


def test_gradients_are_those_of_finite_differences() -> None:
    mix, actions = random_mixture(2, torch.float64), chunks(2, torch.float64)
    mask = torch.ones(2, HORIZON, ACTION, dtype=torch.bool)
    mask[1, 2:] = False
    inputs = [part.detach().requires_grad_() for part in (*mix, actions)]
    assert torch.autograd.gradcheck(
        lambda logits, mean, std, actions: mixture.loss(Mixture(logits, mean, std), actions, mask)[0], inputs
    )


def test_masked_numbers_are_integrated_out() -> None:
    mix, actions = random_mixture(), chunks()
    mask = torch.ones(BATCH, HORIZON, ACTION, dtype=torch.bool)
    mask[:, 2:], mask[:, :, 1] = False, False
    part = Mixture(mix.logits, mix.mean[:, :, :2, :1], mix.std[:, :, :2, :1])
    expected = theirs(part).log_prob(actions[:, :2, :1])
    torch.testing.assert_close(mixture.log_density(mix, actions, mask), expected)
    absurd = torch.where(mask, actions, torch.full_like(actions, 1e30))
    assert torch.equal(mixture.log_density(mix, absurd, mask), mixture.log_density(mix, actions, mask))


def test_a_chunk_without_real_numbers_loses_nothing() -> None:
    mix, actions = random_mixture(), chunks()
    nothing = torch.zeros_like(actions, dtype=torch.bool)
    assert [float(part) for part in mixture.loss(mix, actions, nothing)] == [0, 0]


def test_raw_outputs_are_bounded_and_spread_like_robomimics() -> None:
    raw = torch.linspace(-9, 9, MODES * HORIZON * ACTION).reshape(1, MODES, HORIZON, ACTION)
    logits = torch.zeros(1, MODES)
    mix = mixture.from_raw(logits, raw, raw, min_std=0.01)
    torch.testing.assert_close(mix.std, F.softplus(raw) + 0.01)
    torch.testing.assert_close(mix.mean, raw.tanh())
    assert torch.equal(mixture.from_raw(logits, raw, raw, bounded=False).mean, raw)
    assert mixture.from_raw(logits.half(), raw.half(), raw.half()).std.dtype == torch.float32


def test_samples_have_the_moments_of_torchs_mixture() -> None:
    count = 100_000
    mix = Mixture(*(part[:1].expand(count, *part.shape[1:]) for part in random_mixture()))
    actions = mixture.sample(mix, torch.randn(count, HORIZON, ACTION, generator=seeded(2)))
    one = theirs(random_mixture())
    # Standard deviations are at most 1.5, so 5 standard errors of the mean are below 0.025.
    torch.testing.assert_close(actions.mean(0), one.mean[0], atol=0.025, rtol=0)
    torch.testing.assert_close(actions.var(0), one.variance[0], atol=0.05, rtol=0)


def test_components_come_as_often_as_they_weigh_and_the_rest_of_the_draw_is_normal() -> None:
    count = 200_000
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draw = torch.randn(count, generator=seeded(3))
    chosen, rest = mixture.choose(weights.log().expand(count, -1), draw)
    shares = torch.bincount(chosen, minlength=4) / count
    torch.testing.assert_close(shares, weights, atol=0.006, rtol=0)  # 5 standard errors
    for component in range(4):
        found = rest[chosen == component]
        error = len(found) ** -0.5
        assert float(found.mean()) == pytest.approx(0, abs=5 * error)
        assert float(found.var()) == pytest.approx(1, abs=5 * 2**0.5 * error)
        assert float((found < -1).float().mean()) == pytest.approx(0.1587, abs=5 * 0.37 * error)


@pytest.mark.parametrize("draw", [-40.0, -6.0, 6.0, 40.0])
def test_extreme_noise_gives_finite_chunks(draw: float) -> None:
    logits = torch.tensor([[0.0, -200.0, 3.0, -200.0]])
    chosen, rest = mixture.choose(logits, torch.tensor([draw]))
    assert 0 <= int(chosen) < 4
    assert bool(rest.isfinite().all())


def test_equal_noise_gives_equal_chunks_and_one_component_a_chunk() -> None:
    mix = mixture.quiet(random_mixture())
    noise = torch.randn(BATCH, HORIZON, ACTION, generator=seeded(4))
    before = noise.clone()
    actions = mixture.sample(mix, noise)
    assert torch.equal(actions, mixture.sample(mix, noise))
    assert torch.equal(noise, before)
    away = (actions[:, None] - mix.mean).abs().amax((-1, -2))  # of the whole chunk from each component
    assert bool((away.amin(-1) < 6 * LOW_NOISE).all())


def test_the_mode_is_the_mean_of_the_heaviest_component() -> None:
    mix = random_mixture()
    found = mixture.mode(mix)
    for row, component in enumerate(mix.logits.argmax(-1).tolist()):
        assert torch.equal(found[row], mix.mean[row, component])


def test_a_prefix_chooses_the_plan_that_begins_with_it() -> None:
    # Two ways round: +1 or -1 at every tick, which a squared error would average to 0.
    mean = torch.tensor([1.0, -1.0])[None, :, None, None].expand(1, 2, HORIZON, ACTION)
    mix = Mixture(torch.zeros(1, 2), mean, torch.full_like(mean, 0.2))
    for side in (1.0, -1.0):
        given = mixture.condition(mix, torch.full((1, 1, ACTION), side))
        for seed in range(5):
            noise = torch.randn(1, HORIZON, ACTION, generator=seeded(seed))
            assert bool((mixture.sample(mixture.quiet(given), noise) * side > 0.9).all())


def test_conditioning_is_bayes_rule() -> None:
    mix, actions = random_mixture(), chunks()
    given = mixture.condition(mix, actions[:, :2])
    whole = mixture.log_density(mix, actions)
    begin = theirs(Mixture(mix.logits, mix.mean[:, :, :2], mix.std[:, :, :2])).log_prob(actions[:, :2])
    rest = Mixture(given.logits, mix.mean[:, :, 2:], mix.std[:, :, 2:])
    torch.testing.assert_close(begin + mixture.log_density(rest, actions[:, 2:]), whole)


def test_the_nearest_component_takes_its_error_and_the_others_share_a_little() -> None:
    mean = torch.tensor([1.0, -1.0, 0.5])[None, :, None, None].expand(1, 3, HORIZON, ACTION)
    mix = Mixture(torch.zeros(1, 3), mean, torch.ones_like(mean))
    actions, mask = torch.full((1, HORIZON, ACTION), 0.9), torch.ones(1, HORIZON, ACTION, dtype=torch.bool)
    mask[:, 2:] = False
    actions[:, 2:] = 1e30  # masked
    expected = 2 * ACTION * (0.9 * 0.1**2 + 0.05 * 1.9**2 + 0.05 * 0.4**2)
    found = mixture.winner_error(mix, actions, mask, relaxed=0.1)
    assert float(found) == pytest.approx(expected)
    alone = Mixture(mix.logits[:, :1], mean[:, :1], mix.std[:, :1])
    assert float(mixture.winner_error(alone, actions, mask)) == pytest.approx(2 * ACTION * 0.1**2)
    both = mixture.loss(mix, actions, mask, apart=2.0)[0] - mixture.loss(mix, actions, mask)[0]
    assert float(both) == pytest.approx(2 * float(mixture.winner_error(mix, actions, mask)), rel=1e-4)
    assert float(mixture.winner_error(mix, actions, mask & False)) == 0


def test_a_component_that_likelihood_has_left_is_taught_again() -> None:
    """One is as wide as two ways together, and has all the weight; the other is far from both."""
    ways = torch.tensor([0.3, -0.3])[:, None, None].expand(2, HORIZON, ACTION)
    mask = torch.ones(2, HORIZON, ACTION, dtype=torch.bool)

    def settled(apart: float) -> Mixture:
        """What 400 steps make of it."""
        logits = torch.tensor([6.0, 0.0], requires_grad=True)
        mean = torch.tensor([0.0, 2.0]).repeat_interleave(HORIZON * ACTION).requires_grad_()
        raw = torch.tensor([-1.2, -9.0]).repeat_interleave(HORIZON * ACTION).requires_grad_()
        optimizer = torch.optim.Adam([logits, mean, raw], 0.03)

        def now() -> Mixture:
            shape = (1, 2, HORIZON, ACTION)
            mix = mixture.from_raw(logits[None], mean.view(shape), raw.view(shape), min_std=0.05)
            return Mixture(*(part.expand(2, *part.shape[1:]) for part in mix))

        for _ in range(400):
            optimizer.zero_grad()
            mixture.loss(now(), ways, mask, apart=apart)[0].backward()
            optimizer.step()
        return Mixture(*(part.detach() for part in now()))

    left, taught = settled(0.0), settled(1.0)
    assert float(left.logits[0].softmax(-1).max()) > 0.99
    torch.testing.assert_close(taught.logits[0].softmax(-1), torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)
    ends = taught.mean[0].mean((1, 2)).sort().values
    torch.testing.assert_close(ends, torch.tensor([-0.3, 0.3]), atol=0.05, rtol=0)
