"""Denoising diffusion as functions over a noise-prediction callable.

A step counts from 0 (almost data) to `Schedule.steps - 1` (almost noise), as in the papers; only flow
matching has a flow time. A prediction takes noisy chunks (batch horizon action) and their step (batch).

Every sampler here is one line of arithmetic a step, with numbers that are known beforehand:

    clean = clip(keep x + predicted out)
    x     = to_clean clean + to_noisy x + to_out out + spread noise

where `out` is what the network said. DDPM and DDIM differ in the table of these numbers alone.

Sources: Ho et al. (2020), "Denoising diffusion probabilistic models" (DDPM); Song et al. (2021), "Denoising
diffusion implicit models" (DDIM); Nichol & Dhariwal (2021): the cosine schedule; Salimans & Ho (2022): v;
Song et al. (2023), "Pseudoinverse-guided diffusion models": guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visuomotor.errors import unknown_name

__all__ = [
    "Ladder",
    "Predict",
    "Prediction",
    "Sampler",
    "Schedule",
    "Spacing",
    "add_noise",
    "guide",
    "ladder",
    "loss",
    "sample",
    "spaced",
    "target",
]

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy (batch horizon action), step (batch)) -> what is predicted (batch horizon action)."""
Prediction = Literal["epsilon", "sample", "v"]
"""What the network says: the noise, the clean chunk, or sqrt(a) noise - sqrt(1 - a) clean."""
Sampler = Literal["ddpm", "ddim"]
Spacing = Literal["leading", "trailing"]
"""Which of the training steps are sampled, counted from the data's end or from the noise's end."""


@dataclass(frozen=True)
class Schedule:
    """How noise grows with the steps.

    Attributes:
        betas: Variance that each step adds, as a share; the product of 1 - beta up to a step is how much of
            the variance there is still the data's.
    """

    betas: tuple[float, ...]

    @classmethod
    def cosine(cls, steps: int, *, most: float = 0.999) -> Schedule:
        """Nichol & Dhariwal (2021), eq. 17, with s = 0.008; no step adds more than `most`."""

        def kept(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        return cls(tuple(min(1 - kept((i + 1) / steps) / kept(i / steps), most) for i in range(steps)))

    @classmethod
    def linear(cls, steps: int, *, first: float = 1e-4, last: float = 0.02) -> Schedule:
        """Ho et al. (2020), section 4."""
        return cls(tuple(torch.linspace(first, last, steps, dtype=torch.float64).tolist()))

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return len(self.betas)

    def signal(self) -> Float[Tensor, " step"]:
        """Share of the variance that is the data's, for each step; the papers' alpha bar (float64)."""
        return (1 - torch.tensor(self.betas, dtype=torch.float64)).cumprod(0)


def _spread(numbers: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    return numbers.to(like.dtype).reshape(numbers.shape + (1,) * (like.ndim - numbers.ndim))


def add_noise(
    schedule: Schedule,
    clean: Float[Tensor, "batch horizon action"],
    noise: Float[Tensor, "batch horizon action"],
    step: Int[Tensor, " batch"],
) -> Float[Tensor, "batch horizon action"]:
    """A clean chunk as noisy as step `step` makes it.

    Source: Ho et al. (2020), eq. 4.
    """
    share = schedule.signal().to(clean.device)[step]
    return _spread(share.sqrt(), clean) * clean + _spread((1 - share).sqrt(), clean) * noise


def target(
    schedule: Schedule,
    clean: Float[Tensor, "batch horizon action"],
    noise: Float[Tensor, "batch horizon action"],
    step: Int[Tensor, " batch"],
    prediction: Prediction = "epsilon",
) -> Float[Tensor, "batch horizon action"]:
    """What a network should say.

    Source: Ho et al. (2020), eq. 14, for the noise; Salimans & Ho (2022), appendix D, for v.
    """
    if prediction not in get_args(Prediction):
        raise unknown_name("prediction", prediction, get_args(Prediction))
    if prediction != "v":
        return noise if prediction == "epsilon" else clean
    share = schedule.signal().to(clean.device)[step]
    return _spread(share.sqrt(), clean) * noise - _spread((1 - share).sqrt(), clean) * clean


def loss(
    predict: Predict,
    schedule: Schedule,
    clean: Float[Tensor, "batch horizon action"],
    *,
    generator: torch.Generator | None,
    mask: Bool[Tensor, "#batch #horizon #action"] | None = None,
    noise: Float[Tensor, "batch horizon action"] | None = None,
    step: Int[Tensor, " batch"] | None = None,
    prediction: Prediction = "epsilon",
    promised: Int[Tensor, " batch"] | None = None,
    ran: Float[Tensor, "batch horizon action"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared error of a prediction at random steps: its sum and its count.

    Args:
        predict: What is trained.
        schedule: How noise grows.
        clean: Normalized actions; masked numbers are read as 0.
        generator: Source of whatever of `noise` and `step` is not given; None for torch's default.
        mask: `True` where a number is real.
        noise: Standard normal sample.
        step: Steps; uniform if not given.
        prediction: What `predict` says.
        promised: How many first actions of each chunk are already promised: they stay clean and are not
            learned (training-time real-time chunking; Black et al. 2025 do so for flows).
        ran: What is seen there instead of `clean`: what was executed, if that is not what should have been.

    Source: Ho et al. (2020), eq. 14.
    """
    if mask is not None:
        clean = clean.masked_fill(~mask, 0)
    home = clean.device if generator is None else generator.device
    if noise is None:
        noise = torch.randn(clean.shape, generator=generator, device=home).to(clean)
    if step is None:
        step = torch.randint(schedule.steps, (len(clean),), generator=generator, device=home).to(clean.device)
    noisy = add_noise(schedule, clean, noise, step)
    real = torch.ones_like(clean, dtype=torch.bool) if mask is None else mask.expand_as(clean)
    if promised is not None:
        early = torch.arange(clean.shape[1], device=clean.device)[None, :, None] < promised[:, None, None]
        seen = clean if ran is None else ran if mask is None else ran.masked_fill(~mask, 0)
        noisy, real = torch.where(early, seen, noisy), real & ~early
    error = predict(noisy, step).float() - target(schedule, clean, noise, step, prediction)
    return error.square().masked_fill(~real, 0).sum(), real.sum().to(error.dtype)


def spaced(schedule: Schedule, steps: int, spacing: Spacing = "leading") -> list[int]:
    """The training steps that a sampler of `steps` steps visits, the noisiest first.

    "leading" takes every n-th step from 0 on, so the noisiest may be left out; "trailing" from the last.
    """
    if spacing not in get_args(Spacing):
        raise unknown_name("spacing of steps", spacing, get_args(Spacing))
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"diffusion: expected 1 to {schedule.steps} steps, got {steps}.")
    if spacing == "leading":
        return [i * (schedule.steps // steps) for i in reversed(range(steps))]
    return [round(schedule.steps * (1 - i / steps)) - 1 for i in range(steps)]


@dataclass(frozen=True)
class Ladder:
    """The numbers of a sampler, one row a step (see the top of this file); float32.

    Attributes:
        step: int64 (row,), training step of each row.
        signal: (row,), the data's share of the variance before the row's step.
        rows: Six numbers each: keep, predicted, to_clean, to_noisy, to_out, spread.
    """

    step: Int[Tensor, " row"]
    signal: Float[Tensor, " row"]
    rows: tuple[tuple[float, ...], ...]


def ladder(
    schedule: Schedule,
    steps: int,
    *,
    sampler: Sampler = "ddim",
    prediction: Prediction = "epsilon",
    spacing: Spacing = "leading",
    eta: float = 0.0,
) -> Ladder:
    """The table of a sampler.

    Args:
        schedule: How noise grew in training.
        steps: Calls of the network.
        sampler: "ddpm" draws noise at every step, with the smaller of the paper's two variances; "ddim"
            draws `eta` times as much, none by default.
        prediction: What the network says.
        spacing: Which training steps are visited.
        eta: Of "ddim", in [0, 1].

    Source: Ho et al. (2020), eqs. 6-7; Song et al. (2021), eqs. 12 and 16.
    """
    for what, value, choices in (("sampler", sampler, Sampler), ("prediction", prediction, Prediction)):
        if value not in get_args(choices):
            raise unknown_name(what, value, get_args(choices))
    signal, visited, rows = schedule.signal().tolist(), spaced(schedule, steps, spacing), []
    stride = schedule.steps // steps
    for step in visited:
        now = signal[step]
        after = signal[step - stride] if step >= stride else 1.0
        root, rest = math.sqrt(now), math.sqrt(1 - now)
        # clean = keep x + said out, noise = heard x + meant out
        keep, said, heard, meant = {
            "epsilon": (1 / root, -rest / root, 0.0, 1.0),
            "sample": (0.0, 1.0, 1 / rest, -root / rest),
            "v": (root, -rest, rest, root),
        }[prediction]
        if sampler == "ddpm":
            beta = 1 - now / after
            to_clean, to_noisy = (
                math.sqrt(after) * beta / (1 - now),
                math.sqrt(now / after) * (1 - after) / (1 - now),
            )
            variance = max((1 - after) / (1 - now) * beta, 1e-20) if step > 0 else 0.0
            rows.append((keep, said, to_clean, to_noisy, 0.0, math.sqrt(variance)))
        else:
            variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
            pointing = math.sqrt(max(1 - after - variance, 0.0))
            rows.append(
                (keep, said, math.sqrt(after), pointing * heard, pointing * meant, math.sqrt(variance))
            )
    shares = torch.tensor([signal[step] for step in visited], dtype=torch.float32)
    return Ladder(torch.tensor(visited), shares, tuple(rows))


def sample(
    predict: Predict,
    rungs: Ladder,
    noise: Float[Tensor, "batch horizon action"],
    *,
    clip: float | None = 1.0,
    generator: torch.Generator | None = None,
    promised: Float[Tensor, "batch prefix action"] | None = None,
) -> Float[Tensor, "batch horizon action"]:
    """From noise to a chunk.

    Args:
        predict: Is asked once for each row of `rungs`.
        rungs: From `ladder`.
        noise: Where to start.
        clip: Largest size of a clean number at every step; None for no bound.
        generator: Source of noise on the way; None for torch's default.
        promised: First actions that stay clean at every step, for a network that learned so.
    """
    points = noise
    visited = rungs.step.to(noise.device)[:, None].expand(-1, len(noise)).unbind()
    for step, (keep, said, to_clean, to_noisy, to_out, spread) in zip(visited, rungs.rows, strict=True):
        if promised is not None:
            points = torch.cat([promised, points[:, promised.shape[1] :]], dim=1)
        out = predict(points, step)
        # Everything is divided by `keep`, and multiplied by it afterwards: a product less. It is 0, and
        # `said` is 1, where the clean chunk is predicted.
        clean = torch.add(points, out, alpha=said / keep) if keep else out
        if clip is not None:
            clean = clean.clamp(-clip / (keep or 1), clip / (keep or 1))
        following = clean * (to_clean * (keep or 1))
        if to_noisy:
            following.add_(points, alpha=to_noisy)
        if to_out:
            following.add_(out, alpha=to_out)
        if spread:
            home = noise.device if generator is None else generator.device
            fresh = torch.randn(noise.shape, generator=generator, device=home).to(noise)
            following.add_(fresh, alpha=spread)
        points = following
    if promised is not None:
        points = torch.cat([promised, points[:, promised.shape[1] :]], dim=1)
    return points


def guide(
    predict: Predict,
    schedule: Schedule,
    prefix: Float[Tensor, "batch prefix action"],
    weights: Float[Tensor, "#batch prefix"] | Float[Tensor, " prefix"],
    *,
    prediction: Prediction = "epsilon",
    maximum: float = 5.0,
) -> Predict:
    """A prediction that ends close to actions already promised (real-time chunking).

    With `answer = (x - sqrt(1 - a) noise) / sqrt(a)`, the clean chunk that the prediction stands for, it
    subtracts `min(maximum, 1 / sqrt(1 - a)) J^T (weights (prefix - answer))` from the noise, where J is the
    derivative of `answer` by x, network included: each call costs one backward pass. What is predicted
    instead of the noise is changed so that it stands for that noise.

    Args:
        predict: Differentiable in its points.
        schedule: How noise grew in training.
        prefix: Promised actions in model space; may be shorter than the horizon.
        weights: In [0, 1], one a tick: `flow.prefix_weights`, or 1 and 0.
        prediction: What `predict` says.
        maximum: Bound of the strength, which grows without limit near the data.

    Source: Song et al. (2023), eq. 7 with r^2 = 1 - a, their choice for data of unit variance; weights and
    bound as in Black et al. (2025), eqs. 2-5, for flows.
    """
    signal = schedule.signal()

    def guided(points: Tensor, step: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "diffusion.guide needs gradients: call it under torch.no_grad(), not torch.inference_mode()."
            )
        share = signal.to(points.device)[step]
        root, rest = _spread(share.sqrt(), points), _spread((1 - share).sqrt(), points)
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            out = predict(points, step)
            answer = out
            if prediction != "sample":
                answer = (
                    (points - rest * out) / root if prediction == "epsilon" else root * points - rest * out
                )
            reach = prefix.shape[-2]
            error = torch.zeros_like(answer)
            error[..., :reach, :] = weights[..., None] * (prefix - answer[..., :reach, :]).detach()
            (pull,) = torch.autograd.grad(answer, points, grad_outputs=error)
        pull = _spread((1 - share).rsqrt().clamp(max=maximum), points) * pull
        change = {"epsilon": -pull, "sample": rest / root * pull, "v": -pull / root}[prediction]
        return (out + change).detach()

    return guided
