"""Our schedules and samplers beside those of diffusers, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from visuomotor.generative import diffusion
from visuomotor.generative.diffusion import Schedule

diffusers = pytest.importorskip("diffusers", reason="pip install -c constraints.txt '.[parity]'")

SCHEDULES = {"squaredcos_cap_v2": Schedule.cosine(100), "linear": Schedule.linear(100)}


def theirs(kind: str, **config: Any) -> Any:
    return getattr(diffusers, kind)(num_train_timesteps=100, clip_sample=True, **config)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_equal(name: str) -> None:
    # Theirs is summed up in float32.
    peer = theirs("DDPMScheduler", beta_schedule=name)
    torch.testing.assert_close(SCHEDULES[name].signal().float(), peer.alphas_cumprod, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
@pytest.mark.parametrize(
    ("sampler", "steps", "spacing", "eta"),
    [
        ("ddpm", 100, "leading", 0.0),
        ("ddpm", 20, "leading", 0.0),
        ("ddim", 10, "leading", 0.0),
        ("ddim", 16, "leading", 0.0),
        ("ddim", 10, "trailing", 0.0),
        ("ddim", 10, "leading", 0.5),
        ("ddim", 16, "trailing", 1.0),
    ],
)
def test_samples_are_equal(sampler: str, steps: int, spacing: Any, eta: float, prediction: Any) -> None:
    said = "v_prediction" if prediction == "v" else prediction
    extra = {"variance_type": "fixed_small"} if sampler == "ddpm" else {}
    peer = theirs(
        "DDPMScheduler" if sampler == "ddpm" else "DDIMScheduler",
        beta_schedule="squaredcos_cap_v2",
        prediction_type=said,
        timestep_spacing=spacing,
        **extra,
    )
    peer.set_timesteps(steps)
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) / 3

    def predict(points: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return (points @ weight).tanh() + 0.01 * step[:, None, None]

    rungs = diffusion.ladder(
        SCHEDULES["squaredcos_cap_v2"],
        steps,
        sampler=sampler,
        prediction=prediction,
        spacing=spacing,  # type: ignore[arg-type]
        eta=eta,
    )
    assert rungs.step.tolist() == peer.timesteps.tolist()
    found = diffusion.sample(predict, rungs, noise, generator=torch.Generator().manual_seed(2))
    points = noise
    drawn: dict[str, Any] = {"generator": torch.Generator().manual_seed(2)}
    if sampler == "ddim":
        drawn["eta"] = eta
    for step in peer.timesteps:
        points = peer.step(predict(points, step.expand(2)), step, points, **drawn).prev_sample
    # float32 tables of theirs; a hundred steps of a contraction
    torch.testing.assert_close(found, points, atol=2e-4, rtol=1e-4)
