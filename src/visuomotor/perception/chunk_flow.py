"""A flow over chunks beside a trunk: how it is learned, and how a chunk is drawn.

Families say what the velocity is; that it models what is left of a guess, in units of its doubt, that several
noise draws share an observation, and how promises are kept is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.generative import flow
from visuomotor.nn.mixture import Past, repeat
from visuomotor.perception.trunk import Seen

__all__ = ["Padding", "VelocityOf", "draw_chunk", "flow_error"]

Padding = Literal["ignored", "learned"]
"""Padded dimensions are not read, or are noised, seen and learned as zeros, as released."""
VelocityOf = Callable[[Sequence[Past], Tensor], flow.Velocity]
"""(past of what was observed, real dimensions (row action)) -> velocity."""


def flow_error(
    seen: Seen,
    past: Sequence[Past],
    velocity: VelocityOf,
    *,
    draws: int,
    law: flow.Law,
    padding: Padding,
    max_delay: int,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared error of a velocity at random points of the paths to each chunk: its sum and its count.

    Args:
        seen: What was observed, with what is to be modeled.
        past: Of what was observed.
        velocity: What is trained.
        draws: Noise draws for each observation.
        law: Of the flow times.
        padding: What becomes of padded dimensions; a tick that is not there is no lesson either way.
        max_delay: Longest clean prefix in ticks; 0 for none.
        generator: Source of randomness; see `flow.sample_noise` about None.
    """
    if seen.left is None or seen.mask is None:
        raise ValueError("flow: nothing to learn was observed; use what `trunk.learn` gives.")
    mask, clean = seen.mask.repeat(draws, 1, 1), seen.left.repeat(draws, 1, 1)
    if padding == "learned":
        clean, mask = clean.masked_fill(~mask, 0), mask.any(-1, keepdim=True).expand_as(mask)
    time = flow.sample_time(clean.shape[:1], generator=generator, law=law, device=clean.device)
    learn = None
    if max_delay:
        time, learn = flow.train_prefix(time, clean.shape[1], maximum=max_delay, generator=generator)
        if seen.ran is not None:  # what was promised is what ran, and not what should have
            clean = torch.where(learn[:, :, None], clean, seen.ran.repeat(draws, 1, 1).masked_fill(~mask, 0))
    moved = velocity([repeat(part, draws) for part in past], mask.any(1))
    return flow.loss(moved, clean, generator=generator, mask=mask, learn=learn, time=time)


def draw_chunk(
    seen: Seen,
    velocity: flow.Velocity,
    noise: Float[Tensor, "row horizon action"],
    *,
    steps: int,
    max_delay: int,
    prefix: Float[Tensor, "row prefix action"] | None,
    held: Float[Tensor, "row prefix"] | None,
) -> Float[Tensor, "row horizon action"]:
    """The chunk that a flow leads to in so many Euler steps.

    Args:
        seen: What was observed.
        velocity: Of what is left of the guess.
        noise: Where to start.
        steps: Equal steps.
        max_delay: Longest prefix that the velocity was trained to continue: such a one is kept clean.
        prefix: Promised actions; others than those are steered towards (`flow.guide`).
        held: How strongly each tick of it is held; None for all of it.
    """
    if prefix is not None:
        reach = prefix.shape[1]
        promised = (prefix - seen.guess[:, :reach]) / seen.doubt[:, :reach]
        if held is None and max_delay >= reach:
            velocity = flow.clamp(velocity, promised.clamp(-seen.farthest, seen.farthest))
        else:
            weights = prefix.new_ones(prefix.shape[:2]) if held is None else held
            velocity = flow.guide(velocity, promised, weights)
    left = flow.integrate(velocity, noise, steps=steps)
    return (seen.guess + seen.doubt * left).float()
