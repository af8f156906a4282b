"""Diffusion: exact predictions of Gaussian data, and the schedulers of diffusers where they are installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from visuomotor.generative import diffusion, flow
from visuomotor.generative.diffusion import Schedule

MEAN, STD = 0.4, 0.3


def exact(schedule: Schedule) -> diffusion.Predict:
    """The noise that chunks of independent N(MEAN, STD^2) numbers hold, in expectation."""
    signal = schedule.signal().float()

    def predict(points: Tensor, step: Tensor) -> Tensor:
        share = signal[step][:, None, None]
        variance = share * STD**2 + 1 - share
        return (1 - share).sqrt() * (points - share.sqrt() * MEAN) / variance

    return predict


@pytest.mark.parametrize(
    ("sampler", "eta", "steps"), [("ddpm", 0.0, 1000), ("ddim", 1.0, 1000), ("ddim", 0.0, 200)]
)
def test_exact_predictions_lead_to_the_distribution_of_the_data(sampler: Any, eta: float, steps: int) -> None:
    schedule = Schedule.cosine(1000)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 2, 2, generator=generator)
    rungs = diffusion.ladder(schedule, steps, sampler=sampler, eta=eta, spacing="trailing")
    found = diffusion.sample(exact(schedule), rungs, noise, clip=None, generator=generator)
    # 16,000 numbers: one standard error of the mean is 0.0024, the rest is the error of so many steps (with
    # 100 steps the smaller variance of DDPM already makes the spread 10 % too small).
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.012)
    assert float(found.std()) == pytest.approx(STD, abs=0.012)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_what_is_predicted_makes_no_difference_to_the_sample(prediction: Any) -> None:
    schedule = Schedule.linear(50)
    clean = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    signal = schedule.signal()

    def predict(points: Tensor, step: Tensor) -> Tensor:  # knows the one chunk of the data
        share = signal[step].float()[:, None, None]
        noise = (points - share.sqrt() * clean) / (1 - share).sqrt()
        return diffusion.target(schedule, clean, noise, step, prediction)

    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    for sampler in ("ddpm", "ddim"):
        rungs = diffusion.ladder(schedule, 10, sampler=sampler, prediction=prediction)  # type: ignore[arg-type]
        found = diffusion.sample(predict, rungs, noise, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


def test_the_loss_of_a_perfect_prediction_is_zero_and_padding_never_matters() -> None:
    schedule = Schedule.cosine(20)
    clean = torch.rand(4, 3, 2)
    noise, step = torch.randn(4, 3, 2), torch.tensor([0, 5, 10, 19])
    mask = torch.ones(4, 3, 1, dtype=torch.bool)
    mask[:, 2:] = False

    def loss(predict: diffusion.Predict, clean: Tensor) -> tuple[Tensor, Tensor]:
        return diffusion.loss(predict, schedule, clean, generator=None, mask=mask, noise=noise, step=step)

    total, count = loss(lambda points, step: noise, clean)
    assert (float(total), float(count)) == (0, 16)
    spoiled = clean.masked_fill(~mask, torch.nan)
    assert torch.equal(
        loss(lambda points, step: points, clean)[0], loss(lambda points, step: points, spoiled)[0]
    )


def test_promised_actions_stay_clean_and_are_not_learned() -> None:
    schedule, heard = Schedule.cosine(20), []
    clean = torch.rand(2, 4, 1)

    def predict(points: Tensor, step: Tensor) -> Tensor:
        heard.append(points)
        return torch.zeros_like(points)

    _, count = diffusion.loss(
        predict, schedule, clean, generator=torch.Generator().manual_seed(0), promised=torch.tensor([0, 3])
    )
    assert float(count) == 4 + 1
    assert torch.equal(heard[0][1, :3], clean[1, :3])
    assert not torch.equal(heard[0][0, :3], clean[0, :3])
    rungs = diffusion.ladder(schedule, 5)
    found = diffusion.sample(predict, rungs, torch.randn(2, 4, 1), promised=clean[:, :2])
    assert torch.equal(found[:, :2], clean[:, :2])


def test_guidance_pulls_with_the_derivative_of_the_network() -> None:
    schedule = Schedule.cosine(50)
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3).double()

    def predict(points: Tensor, step: Tensor) -> Tensor:
        return layer(points).tanh()

    points, step = torch.randn(1, 2, 3, dtype=torch.float64), torch.tensor([20])
    prefix, weights = torch.randn(1, 1, 3, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    share = schedule.signal()[20]

    def agreement(points: Tensor) -> Tensor:
        answer = (points - (1 - share).sqrt() * predict(points, step)) / share.sqrt()
        return -0.5 * (weights[:, None] * (prefix - answer[:, :1]).square()).sum()

    slope, small = torch.zeros_like(points), 1e-6
    for place in range(points.numel()):
        moved = torch.zeros_like(points).flatten()
        moved[place] = small
        moved = moved.view_as(points)
        slope.view(-1)[place] = (agreement(points + moved) - agreement(points - moved)) / (2 * small)
    pull = predict(points, step) - diffusion.guide(predict, schedule, prefix, weights)(points, step)
    strength = (1 - share).rsqrt().clamp(max=5.0)
    torch.testing.assert_close(pull.detach(), strength * slope, atol=1e-6, rtol=1e-5)


def test_guided_samples_continue_what_was_promised() -> None:
    schedule = Schedule.cosine(100)
    noise = torch.randn(500, 4, 1, generator=torch.Generator().manual_seed(0))
    prefix = torch.full((500, 2, 1), 0.9)
    rungs = diffusion.ladder(schedule, 50, spacing="trailing")
    held = flow.prefix_weights(4, delay=2, end=2)[:2]
    guided = diffusion.guide(exact(schedule), schedule, prefix, held)
    free, found = (diffusion.sample(each, rungs, noise, clip=None) for each in (exact(schedule), guided))
    torch.testing.assert_close(found[:, 2:], free[:, 2:], atol=1e-5, rtol=0)  # independent of the prefix
    assert (found[:, :2] - 0.9).abs().mean() < 0.35 * (free[:, :2] - 0.9).abs().mean()  # the pull is bounded


@pytest.mark.parametrize("prediction", ["sample", "v"])
def test_guidance_is_the_same_whatever_is_predicted(prediction: Any) -> None:
    schedule = Schedule.cosine(50)
    points, step = torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 30])
    prefix, weights = torch.full((2, 2, 1), 0.9), torch.tensor([1.0, 0.5])
    share = schedule.signal().float()[step][:, None, None]

    def told(points: Tensor, step: Tensor) -> Tensor:
        noise = exact(schedule)(points, step)
        clean = (points - (1 - share).sqrt() * noise) / share.sqrt()
        return diffusion.target(schedule, clean, noise, step, prediction)

    noise = diffusion.guide(exact(schedule), schedule, prefix, weights)(points, step)
    clean = (points - (1 - share).sqrt() * noise) / share.sqrt()
    found = diffusion.guide(told, schedule, prefix, weights, prediction=prediction)(points, step)
    expected = diffusion.target(schedule, clean, noise, step, prediction)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_unknown_choices_and_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'ddim'"):
        diffusion.ladder(Schedule.cosine(10), 5, sampler="ddin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 10 steps, got 11"):
        diffusion.spaced(Schedule.cosine(10), 11)
