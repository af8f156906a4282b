from __future__ import annotations

import math

import pytest
import torch

from visuomotor.generative import flow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_field(mean: float, std: float):
    """The exact velocity when data is N(mean, std^2) and noise N(0, 1), coupled independently.

    Points at time t are N(t m, (1-t)^2 + t^2 s^2); E[clean - noise | point] is linear in the point.
    """

    def velocity(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = time[:, None, None]
        slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2)
        return mean + slope * (points - t * mean)

    return velocity


def test_both_ends_of_a_path_are_noise_and_clean() -> None:
    noise, clean = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    assert torch.equal(flow.interpolate(noise, clean, torch.zeros(3)), noise)
    assert torch.equal(flow.interpolate(noise, clean, torch.ones(3)), clean)


def test_the_target_is_the_derivative_of_the_path() -> None:
    noise, clean = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double()
    time = torch.full((3,), 0.3).double()
    slope = (flow.interpolate(noise, clean, time + 1e-6) - flow.interpolate(noise, clean, time)) / 1e-6
    torch.testing.assert_close(slope, flow.velocity_target(noise, clean), rtol=0, atol=1e-8)


def test_a_time_for_each_tick_mixes_each_tick() -> None:
    noise, clean, time = torch.randn(2, 3, 2), torch.randn(2, 3, 2), torch.rand(2, 3)
    found = flow.interpolate(noise, clean, time)
    for b in range(2):
        for tick in range(3):
            expected = (1 - time[b, tick]) * noise[b, tick] + time[b, tick] * clean[b, tick]
            torch.testing.assert_close(found[b, tick], expected)


def test_uniform_times_have_the_moments_of_the_uniform_law() -> None:
    time = flow.sample_time((100_000,), generator=generator())
    assert time.min() >= 0
    assert time.max() <= 1
    assert time.mean().item() == pytest.approx(0.5, abs=0.004)  # 4 standard errors
    assert time.var().item() == pytest.approx(1 / 12, abs=0.001)


def test_beta_times_follow_the_law_of_pi0() -> None:
    time = flow.sample_time((100_000,), generator=generator(), law="beta")
    assert time.min() >= 0
    assert time.max() <= 0.999
    assert time.mean().item() == pytest.approx(0.999 * 0.4, abs=0.004)  # Beta(1.5, 1) has mean 0.6
    # P(u <= x) = x^1.5 for u = (0.999 - time) / 0.999
    for x in (0.25, 0.5, 0.75):
        assert ((0.999 - time) / 0.999 <= x).float().mean().item() == pytest.approx(x**1.5, abs=0.007)


def test_draws_are_decided_by_the_generator() -> None:
    for law in ("uniform", "beta"):
        first, second = (flow.sample_time((5,), generator=generator(3), law=law) for _ in range(2))
        assert torch.equal(first, second)
    assert torch.equal(
        flow.sample_noise((2, 3), generator=generator(3)), flow.sample_noise((2, 3), generator=generator(3))
    )


def test_without_generator_the_default_one_is_used() -> None:
    torch.manual_seed(4)
    first = flow.sample_noise((3,), generator=None), flow.sample_time((3,), generator=None)
    torch.manual_seed(4)
    second = flow.sample_noise((3,), generator=None), flow.sample_time((3,), generator=None)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_an_unknown_law_or_method_answers_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'beta'"):
        flow.sample_time((1,), generator=None, law="betta")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'midpoint'"):
        flow.integrate(lambda points, time: points, torch.zeros(1, 1, 1), 1, method="midpont")  # type: ignore[arg-type]


def test_loss_equals_the_slow_definition() -> None:
    torch.manual_seed(0)
    clean, noise, time = torch.randn(2, 3, 2), torch.randn(2, 3, 2), torch.rand(2)
    mask = torch.rand(2, 3, 2) > 0.4
    total, count = flow.loss(
        lambda points, t: points * t[:, None, None], clean, generator=None, mask=mask, noise=noise, time=time
    )
    expected, numbers = 0.0, 0
    for b in range(2):
        for tick in range(3):
            for d in range(2):
                if mask[b, tick, d]:
                    x = (1 - time[b]) * noise[b, tick, d] + time[b] * clean[b, tick, d]
                    expected += float((x * time[b] - (clean[b, tick, d] - noise[b, tick, d])) ** 2)
                    numbers += 1
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count.item() == numbers


def test_masked_numbers_change_neither_the_loss_nor_what_the_velocity_sees() -> None:
    clean = torch.randn(2, 3, 2, generator=generator())
    mask = torch.tensor([[True, True, False], [True, False, False]])[..., None]
    seen = []

    def velocity(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append(points)
        return points.sum((1, 2), keepdim=True) + torch.zeros_like(points)  # mixes all ticks

    first = flow.loss(velocity, clean, generator=generator(1), mask=mask)
    second = flow.loss(velocity, clean.masked_fill(~mask, float("nan")), generator=generator(1), mask=mask)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] == 3 * 2
    assert torch.equal(seen[0], seen[1])


def test_nothing_real_counts_nothing() -> None:
    total, count = flow.loss(
        lambda points, time: points,
        torch.randn(2, 3, 2),
        generator=generator(),
        mask=torch.zeros(2, 1, 1, dtype=torch.bool),
    )
    assert total == 0
    assert count == 0


def test_the_exact_field_has_the_least_loss() -> None:
    clean = 0.7 + 0.4 * torch.randn(20_000, 1, 1, generator=generator())
    exact = gaussian_field(0.7, 0.4)

    def mean_loss(velocity) -> float:
        total, count = flow.loss(velocity, clean, generator=generator(1))
        return (total / count).item()

    best = mean_loss(exact)
    for wrong in (
        lambda x, t: exact(x, t) + 0.2,
        lambda x, t: 1.1 * exact(x, t),
        lambda x, t: exact(x, 0.9 * t),
    ):
        assert mean_loss(wrong) > best


def test_euler_is_exact_for_a_point_mass() -> None:
    target = torch.tensor([0.3, -1.2])
    velocity = lambda points, time: (target - points) / (1 - time[:, None, None])  # noqa: E731
    for steps in (1, 3, 10):
        found = flow.integrate(velocity, torch.randn(5, 4, 2, generator=generator()), steps)
        torch.testing.assert_close(found, target.expand(5, 4, 2), rtol=0, atol=1e-5)


def test_a_constant_velocity_is_exact_for_both_methods() -> None:
    noise = torch.randn(2, 3, 2)
    for method in ("euler", "midpoint"):
        torch.testing.assert_close(
            flow.integrate(lambda x, t: torch.full_like(x, 0.5), noise, 7, method), noise + 0.5
        )


def order(velocity, exact: torch.Tensor, noise: torch.Tensor, method: str) -> float:
    errors = [(flow.integrate(velocity, noise, steps, method) - exact).abs().max() for steps in (32, 64)]
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("method", "expected"), [("euler", 1), ("midpoint", 2)])
def test_integration_converges_at_the_order_of_its_method(method: str, expected: int) -> None:
    noise = torch.randn(64, 2, 1, generator=generator()).double()
    growth = lambda points, time: points  # noqa: E731
    assert order(growth, math.e * noise, noise, method) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("method", "at_least"), [("euler", 1), ("midpoint", 2)])
def test_integration_of_the_exact_field_converges_to_the_data(method: str, at_least: int) -> None:
    noise = torch.randn(64, 2, 1, generator=generator()).double()
    exact = 0.7 + 0.4 * noise  # the flow of a Gaussian field maps quantiles to quantiles
    assert order(gaussian_field(0.7, 0.4), exact, noise, method) > at_least - 0.05


def test_integrated_noise_has_the_distribution_of_the_data() -> None:
    noise = torch.randn(20_000, 1, 1, generator=generator())
    found = flow.integrate(gaussian_field(0.7, 0.4), noise, 20, "midpoint")
    assert found.mean().item() == pytest.approx(0.7, abs=0.012)  # 4 standard errors
    assert found.std().item() == pytest.approx(0.4, abs=0.009)


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        flow.integrate(lambda points, time: points, torch.zeros(1, 1, 1), 0)


def test_loss_and_integrate_compile_without_a_break(unchecked: None) -> None:
    noise, clean = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    velocity = lambda points, time: points * time[:, None, None]  # noqa: E731

    def both(noise: torch.Tensor, clean: torch.Tensor):
        return flow.loss(velocity, clean, generator=None, noise=noise), flow.integrate(
            velocity, noise, 3, "midpoint"
        )

    torch.manual_seed(0)
    (total, _), points = torch.compile(both, fullgraph=True, backend="aot_eager")(noise, clean)
    torch.manual_seed(0)
    (expected, _), path = both(noise, clean)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(points, path)


# Real-time chunking


def test_guidance_equals_the_formula_with_a_numeric_jacobian() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(6, 6).double()

    def velocity(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.tanh(points.flatten(1) @ mixing.T).unflatten(1, (3, 2)) * (1 + time[:, None, None])

    points, prefix = torch.randn(1, 3, 2).double(), torch.randn(1, 3, 2).double()
    weights = torch.tensor([1.0, 0.5, 0.0]).double()
    for t in (0.1, 0.5, 0.9):
        time = torch.tensor([t]).double()

        def answer(x: torch.Tensor, time: torch.Tensor = time) -> torch.Tensor:
            return x + (1 - time[:, None, None]) * velocity(x, time)

        jacobian = torch.zeros(6, 6).double()
        for i in range(6):
            step = torch.zeros(6).double()
            step[i] = 1e-6
            step = step.view(1, 3, 2)
            jacobian[:, i] = ((answer(points + step) - answer(points - step)) / 2e-6).flatten()
        error = (weights[:, None] * (prefix - answer(points))).flatten()
        r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        strength = min(5.0, (1 - t) / (t * r2))
        expected = velocity(points, time).flatten() + strength * (jacobian.T @ error)
        found = flow.guide(velocity, prefix, weights)(points, time).flatten()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)  # error of the central difference


def test_guidance_without_weight_is_the_velocity_itself() -> None:
    points, prefix, time = torch.randn(2, 3, 2), torch.randn(2, 3, 2), torch.tensor([0.2, 0.8])
    guided = flow.guide(gaussian_field(0.1, 0.5), prefix, torch.zeros(3))
    torch.testing.assert_close(guided(points, time), gaussian_field(0.1, 0.5)(points, time))


def test_guided_noise_arrives_at_the_promised_actions() -> None:
    prefix = torch.full((4, 2, 1), 1.5)
    noise = torch.randn(4, 6, 1, generator=generator())
    field = gaussian_field(0.0, 1.0)
    free = flow.integrate(field, noise, 20)
    found = flow.integrate(flow.guide(field, prefix, torch.ones(2)), noise, 20)
    # the strength is bounded, so a small part of the way remains
    assert (found[:, :2] - prefix).abs().mean() < 0.1 * (free[:, :2] - prefix).abs().mean()
    # ticks of this field do not know each other, so the rest of the chunk stays as it was
    torch.testing.assert_close(found[:, 2:], free[:, 2:])


def test_guidance_works_without_grad_and_for_the_first_step() -> None:
    guided = flow.guide(gaussian_field(0.0, 1.0), torch.ones(1, 2, 1), torch.ones(2))
    with torch.no_grad():
        found = guided(torch.zeros(1, 2, 1), torch.zeros(1))
    assert found.isfinite().all()
    assert not found.requires_grad


def test_guidance_in_inference_mode_says_what_to_do() -> None:
    guided = flow.guide(gaussian_field(0.0, 1.0), torch.ones(1, 2, 1), torch.ones(2))
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        guided(torch.zeros(1, 2, 1), torch.zeros(1))
