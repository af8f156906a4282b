"""Flow matching as functions over a velocity callable.

Flow time 0 is noise and 1 is data, everywhere. A velocity takes a chunk (batch horizon action) and
its flow time (batch) and says where to go. `guide` and `clamp` turn one velocity into another, so
real-time chunking needs no sampler of its own.

Sources: Lipman et al. (2023), Liu et al. (2023): straight paths. Black et al. (2024), pi0: the beta
law of times. Black et al. (2025), "Real-time execution of action chunking flow policies": guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visuomotor.errors import unknown_name
from visuomotor.generative import prefix as promises

__all__ = [
    "DelayLaw",
    "Law",
    "Method",
    "Velocity",
    "clamp",
    "guide",
    "integrate",
    "interpolate",
    "loss",
    "prefix_weights",
    "pull",
    "sample_delay",
    "sample_noise",
    "sample_time",
    "train_prefix",
    "velocity_target",
]

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(points (batch horizon action), time (batch)) -> velocity (batch horizon action). One that is trained
with clean prefixes takes a time for each tick, (batch horizon), too."""
Law = Literal["uniform", "beta"]
DelayLaw = Literal["uniform", "falling"]
Method = Literal["euler", "midpoint"]


def _spread(time: Tensor, like: Tensor) -> Tensor:
    """`time` with axes of length 1 behind it until it broadcasts against `like`."""
    return time.reshape(time.shape + (1,) * (like.ndim - time.ndim))


def interpolate(
    noise: Float[Tensor, "*batch horizon action"],
    clean: Float[Tensor, "*batch horizon action"],
    time: Float[Tensor, "*batch"] | Float[Tensor, "*batch horizon"],
) -> Float[Tensor, "*batch horizon action"]:
    """Point at flow time `time` on the straight path from noise to a clean chunk.

    Args:
        noise: Standard normal sample.
        clean: Normalized actions (no unit).
        time: In [0, 1], for a chunk or for each of its ticks; 0 gives `noise`, 1 gives `clean`.

    Source: Lipman et al. (2023), eq. 22 with sigma_min = 0.
    """
    time = _spread(time, clean)
    return (1 - time) * noise + time * clean


def velocity_target(
    noise: Float[Tensor, "*batch horizon action"], clean: Float[Tensor, "*batch horizon action"]
) -> Float[Tensor, "*batch horizon action"]:
    """Velocity of the straight path from `noise` to `clean`, the same at every flow time.

    Source: Lipman et al. (2023), eq. 23 with sigma_min = 0.
    """
    return clean - noise


def sample_noise(
    shape: Sequence[int], *, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Float[Tensor, "*shape"]:
    """Standard normal numbers, drawn where the generator lives and moved to `device`.

    A generator of the CPU gives the same numbers whatever the device. None means torch's default
    generator: `torch.compile` takes no generator as an argument.
    """
    home = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=home).to(device)


def sample_time(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None,
    law: Law = "uniform",
    device: torch.device | str = "cpu",
    alpha: float = 1.5,
    cutoff: float = 0.999,
) -> Float[Tensor, "*shape"]:
    """Flow times to train at.

    Args:
        shape: Usually (batch,).
        generator: Source of randomness; see `sample_noise` about None.
        law: "uniform" on [0, 1]; or "beta": `(cutoff - time) / cutoff` follows Beta(alpha, 1), which
            favors times close to the noise, where an action chunk is decided.
        device: Where the answer lives.
        alpha: Shape of the beta law; 1.5 in pi0 (mean time 0.4).
        cutoff: No time beyond this is drawn by the beta law.

    Source: Black et al. (2024), pi0, appendix B; their tau is this flow time.
    """
    if law not in get_args(Law):
        raise unknown_name("law of flow times", law, get_args(Law))
    home = device if generator is None else generator.device
    uniform = torch.rand(tuple(shape), generator=generator, device=home).to(device)
    if law == "uniform":
        return uniform
    return cutoff * (1 - uniform ** (1 / alpha))  # the inverse of the distribution of Beta(alpha, 1)


def loss(
    velocity: Velocity,
    clean: Float[Tensor, "*batch horizon action"],
    *,
    generator: torch.Generator | None,
    mask: Bool[Tensor, "*#batch #horizon #action"] | None = None,
    learn: Bool[Tensor, "*#batch horizon"] | None = None,
    noise: Float[Tensor, "*batch horizon action"] | None = None,
    time: Float[Tensor, "*batch"] | Float[Tensor, "*batch horizon"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared error of a velocity at random points of the paths to `clean`: its sum and its count.

    Args:
        velocity: What is trained.
        clean: Normalized actions. Masked numbers are read as 0: what stands there never matters.
        generator: Source of whatever of `noise` and `time` is not given; see `sample_noise` about None.
        mask: `True` where a number is real; broadcasts against `clean`.
        learn: `True` for ticks that count; the velocity sees the others too (see `train_prefix`).
        noise: Standard normal sample.
        time: Flow times; uniform if not given.

    Source: Lipman et al. (2023), eq. 23.
    """
    if mask is not None:
        clean = clean.masked_fill(~mask, 0)
    if noise is None:
        noise = sample_noise(clean.shape, generator=generator, device=clean.device)
    if time is None:
        time = sample_time(clean.shape[:-2], generator=generator, device=clean.device)
    found = velocity(interpolate(noise, clean, time), time)
    error = (found.float() - velocity_target(noise, clean)).square()
    if learn is not None:
        mask = learn[..., None] if mask is None else mask & learn[..., None]
    if mask is None:
        return error.sum(), error.new_full((), error.numel())
    mask = mask.expand_as(error)
    return error.masked_fill(~mask, 0).sum(), mask.sum().to(error.dtype)


def integrate(
    velocity: Velocity,
    noise: Float[Tensor, "*batch horizon action"],
    steps: int,
    method: Method = "euler",
) -> Float[Tensor, "*batch horizon action"]:
    """Follow a velocity from noise at flow time 0 to actions at flow time 1.

    Args:
        velocity: Is asked `steps` times ("euler") or twice as often ("midpoint").
        noise: Where to start.
        steps: Number of equal steps.
        method: "euler" has a global error of order 1 in the step, "midpoint" of order 2. A velocity
            that is constant along its path (one possible answer) is integrated exactly by both.
    """
    if steps < 1:
        raise ValueError(f"flow: expected at least 1 step, got {steps}.")
    if method not in get_args(Method):
        raise unknown_name("method of integration", method, get_args(Method))
    points, size = noise, 1 / steps
    for step in range(steps):
        time = points.new_full(points.shape[:-2], step * size)
        direction = velocity(points, time)
        if method == "midpoint":
            direction = velocity(points + size / 2 * direction, time + size / 2)
        points = points + size * direction
    return points


def prefix_weights(horizon: int, *, delay: int, end: int) -> Float[Tensor, " horizon"]:
    """`visuomotor.generative.prefix.prefix_weights` as a tensor: weights of a prefix for `guide`."""
    return torch.from_numpy(promises.prefix_weights(horizon, delay=delay, end=end))


def pull(
    points: Float[Tensor, "*batch horizon action"],
    answer: Float[Tensor, "*batch horizon action"],
    prefix: Float[Tensor, "*batch prefix action"],
    weights: Float[Tensor, "*#batch prefix"] | Float[Tensor, " prefix"],
) -> Float[Tensor, "*batch horizon action"]:
    """`J^T (weights * (prefix - answer))`, where J is the derivative of `answer` by `points`.

    Args:
        points: What the network was given; requires gradient.
        answer: The clean chunk that the network expects from there, still connected to `points`.
        prefix: Promised actions, first tick now.
        weights: In [0, 1], one a tick.
    """
    reach = prefix.shape[-2]
    error = torch.zeros_like(answer)
    error[..., :reach, :] = weights[..., None] * (prefix - answer[..., :reach, :]).detach()
    (found,) = torch.autograd.grad(answer, points, grad_outputs=error)
    return found


def guide(
    velocity: Velocity,
    prefix: Float[Tensor, "*batch prefix action"],
    weights: Float[Tensor, "*#batch prefix"] | Float[Tensor, " prefix"],
    *,
    maximum: float = 5.0,
) -> Velocity:
    """A velocity that ends close to actions already promised (real-time chunking).

    With `answer = points + (1 - time) * velocity`, the end that the velocity is heading for, the
    guided velocity adds `min(maximum, strength(time)) * J^T (weights * (prefix - answer))`, where J
    is the derivative of `answer` by `points`, network included: each call costs one backward pass.

    Args:
        velocity: Differentiable in its points.
        prefix: Promised actions in model space, first tick now; may be shorter than the horizon.
        weights: In [0, 1], one a tick: `prefix_weights`, or 1 for actions that will be executed.
        maximum: Bound of the strength, which the formula lets grow without limit at both ends.

    Source: Black et al. (2025), eqs. 2-4, after Pokle et al. (2024); 5 is their `beta`.
    """

    def guided(points: Tensor, time: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "flow.guide needs gradients: call it under torch.no_grad(), not torch.inference_mode()."
            )
        rest = _spread(1 - time, points)
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            direction = velocity(points, time)
            towards = pull(points, points + rest * direction, prefix, weights)
        # (1 - time) / (time * r^2) with r^2 = (1 - time)^2 / (time^2 + (1 - time)^2); infinite at both ends
        strength = ((time.square() + (1 - time).square()) / (time * (1 - time))).clamp(max=maximum)
        return (direction + _spread(strength, points) * towards).detach()

    return guided


def sample_delay(
    count: int,
    *,
    maximum: int,
    generator: torch.Generator | None,
    law: DelayLaw = "uniform",
    device: torch.device | str = "cpu",
) -> Int[Tensor, " batch"]:
    """How many first ticks of each chunk are clean in training; see `train_prefix`.

    Args:
        count: Chunks.
        maximum: Largest delay in ticks.
        generator: Source of randomness; see `sample_noise` about None.
        law: "uniform" on 0 ... maximum, or "falling": proportional to exp(-delay).
        device: Where the answer lives.

    Source: Black et al. (2025), "Training-time action conditioning for efficient real-time chunking".
    """
    if law not in get_args(DelayLaw):
        raise unknown_name("law of delays", law, get_args(DelayLaw))
    home = device if generator is None else generator.device
    uniform = torch.rand((count,), generator=generator, device=home).to(device)
    steps = torch.arange(maximum + 1, device=device)
    odds = torch.ones_like(steps, dtype=torch.float32) if law == "uniform" else torch.exp(-steps.float())
    return torch.searchsorted(odds.cumsum(0) / odds.sum(), uniform, right=True).clamp(max=maximum)


def train_prefix(
    time: Float[Tensor, " batch"],
    horizon: int,
    *,
    maximum: int,
    generator: torch.Generator | None,
    law: DelayLaw = "uniform",
) -> tuple[Float[Tensor, "batch horizon"], Bool[Tensor, "batch horizon"]]:
    """Flow times that leave the first ticks clean, and which ticks are left to learn.

    In training a delay is drawn for each sample; its first `delay` actions have flow time 1, so the
    velocity sees them as they are, and only the ticks behind them count. Give both to `loss`, as `time`
    and `learn` (not as its `mask`: what is masked is not even seen). `clamp` is the other half.

    Args:
        time: Flow time of each sample's other ticks, as `sample_time` draws it.
        horizon: Ticks of a chunk.
        maximum: Largest delay in ticks; below the horizon.
        generator: Source of randomness; see `sample_noise` about None.
        law: Of the delays; see `sample_delay`.

    Source: Black et al. (2025), "Training-time action conditioning for efficient real-time chunking".
    """
    if not 0 <= maximum < horizon:
        raise ValueError(f"train prefix: expected 0 <= maximum < horizon, got {maximum} and {horizon}.")
    delay = sample_delay(len(time), maximum=maximum, generator=generator, law=law, device=time.device)
    learn = torch.arange(horizon, device=time.device) >= delay[:, None]
    return torch.where(learn, time[:, None], 1.0), learn


def clamp(velocity: Velocity, prefix: Float[Tensor, "*batch prefix action"]) -> Velocity:
    """A velocity that ends exactly at actions already promised, for networks trained to continue them.

    Before every evaluation the first ticks are set to `prefix` with flow time 1; their own velocity is
    the straight way to it, so that the sampler needs to know of nothing.

    Args:
        velocity: Takes a flow time for each tick, (batch horizon), and was trained with `train_prefix`.
        prefix: Promised actions in model space, first tick now; shorter than the horizon.

    Source: Black et al. (2025), "Training-time action conditioning for efficient real-time chunking".
    """
    reach = prefix.shape[-2]

    def clamped(points: Tensor, time: Tensor) -> Tensor:
        clean = torch.arange(points.shape[-2], device=points.device) < reach
        seen = torch.cat([prefix, points[..., reach:, :]], dim=-2)
        direction = velocity(seen, torch.where(clean, 1.0, time[..., None]))
        way = (prefix - points[..., :reach, :]) / _spread(1 - time, points).clamp(min=1e-6)
        return torch.cat([way, direction[..., reach:, :]], dim=-2)

    return clamped
