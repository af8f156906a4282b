"""One optimizer step: forward, gradients over a whole accumulated batch, clipping, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from visuomotor.policies.base import Loss, Term
from visuomotor.training.group import Alone, Group, Learner
from visuomotor.training.moved import Moved
from visuomotor.training.optim import Optimizer
from visuomotor.types import Batch

if TYPE_CHECKING:
    from visuomotor.training.config import TrainConfig

__all__ = ["Losses", "Precision", "accumulate", "choose_precision", "fast_bf16", "forward", "optimizer_step"]


Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What one optimizer step found.

    Attributes:
        terms: Detached, summed over the whole accumulated batch.
        norm: Of the gradient before clipping.
        finite: `False` if the step was checked and not taken.
    """

    terms: Mapping[str, Term]
    norm: Tensor
    finite: bool


def fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; emulated, a layer takes 3 to 20 times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & _capabilities())


def _capabilities() -> set[str]:
    """What this processor has, in PyTorch's words."""
    return {name for name, there in torch.cpu.get_capabilities().items() if there is True}


def choose_precision(asked: Precision, device: torch.device) -> Precision:
    """What to compute in, "fp32" or "bf16"; for "auto" the one that is faster on `device`.

    On a processor that takes matrix units (AMX). With AVX512-BF16 alone, rounding weights and activations
    costs a small network more than its products gain: a step of the demo took 1.5 to 1.7 times as long.

    Raises:
        ValueError: "bf16" was asked for by name, and `device` would only emulate it.
    """
    if asked == "bf16" and not fast_bf16(device):
        raise ValueError(
            f'training: precision="bf16", but this {device.type} multiplies bfloat16 only by emulation, many '
            'times slower than float32. Use precision="fp32", or "auto", which takes the faster one.'
        )
    if asked == "auto":
        matrices = device.type != "cpu" or "amx_bf16" in _capabilities()
        return "bf16" if matrices and fast_bf16(device) else "fp32"
    return asked


def forward(policy: Learner, batch: Batch, numbers: tuple[int, ...], precision: str) -> Loss:
    """Loss of a batch; every random number in it is drawn from `numbers`, also those of dropout."""
    device = batch.state.device
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return policy.loss(batch, generator=generator)


def optimizer_step(
    policy: Learner,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    moved: Moved,
    group: Group,
    rate: float,
    numbers: tuple[int, ...],
    config: TrainConfig,
    check: bool,
) -> Losses:
    """Move the weights once.

    Args:
        policy: In training mode.
        batches: The parts of one accumulated batch that this process computes.
        optimizer: Over the weights in `moved`.
        moved: What stands for the policy's weights.
        group: The processes that share the batch.
        rate: Learning rate.
        numbers: What every random number of this step is drawn from.
        config: Clipping and precision.
        check: Wait for the numbers, and leave the weights alone if they are not finite.
    """
    moved.clear()
    terms = accumulate(policy, list(batches), numbers, config.precision, moved=moved, group=group)
    norm = group.clip([weight for weight in moved.weights.values() if weight.grad is not None], config.clip)
    if check:
        found = [float(norm), *(float(term.sum) for term in terms.values())]
        if not all(math.isfinite(number) for number in found):
            return Losses(terms=terms, norm=norm, finite=False)
    optimizer.step(rate, share=rate / config.learning_rate)
    moved.publish()
    return Losses(terms=terms, norm=norm, finite=True)


def accumulate(
    policy: Learner,
    batches: list[Batch],
    numbers: tuple[int, ...],
    precision: str,
    *,
    moved: Moved,
    group: Group | None = None,
) -> dict[str, Term]:
    """Gradients of the loss of all batches of all processes taken together; gives its terms, detached.

    The mean of a term goes over all batches, so its divisor is known only at the end. With one term
    the gradient is divided then. With several, whose divisors differ, the counts are found first by
    forward passes without gradient: cheaper in memory than one gradient for each term.
    """
    group = group or Alone()
    many, last = len(batches) * group.ranks, len(batches) - 1
    parts = group.parts(many)  # their noise depends on their place in the whole batch
    with group.exchanging(last == 0):
        first = forward(policy, batches[0], (*numbers, parts[0]), precision)
    names = set(first.terms)

    def losses(part: int) -> Loss:
        loss = first if part == 0 else forward(policy, batches[part], (*numbers, parts[part]), precision)
        if set(loss.terms) != names:
            raise ValueError(
                f"{type(policy).__name__}: expected equal loss terms for every batch, got {sorted(names)} "
                f"and {sorted(loss.terms)}. A term that no sample has is returned with count 0."
            )
        return loss

    divided_later = len(names) == 1 and many > 1
    counts = {name: term.count for name, term in first.terms.items()}
    if not divided_later:
        for part in range(1, len(batches)):
            with torch.no_grad():
                terms = losses(part).terms
            counts = {name: counts[name] + terms[name].count for name in names}
        counts = group.summed(counts)
    found: dict[str, Term] = {}
    for part in range(len(batches)):
        with group.exchanging(part == last):
            terms = losses(part).terms
            means = [
                term.weight * term.sum / (1 if divided_later else counts[name].clamp(min=1))
                for name, term in terms.items()
            ]
            torch.stack(means).sum().backward()
        moved.collect()
        for name, term in terms.items():
            total, count = term.sum.detach(), term.count.detach()
            if name in found:
                total, count = found[name].sum + total, found[name].count + count
            found[name] = Term(total, count, term.weight)
    found = _summed(found, group)
    if divided_later:
        (term,) = found.values()
        gradients = [weight.grad for weight in moved.weights.values() if weight.grad is not None]
        torch._foreach_mul_(gradients, 1 / term.count.clamp(min=1).float())
    return found


def _summed(terms: dict[str, Term], group: Group) -> dict[str, Term]:
    """Terms of a part of the samples as those of all: sums and counts of all processes."""
    sums = group.summed({name: term.sum for name, term in terms.items()})
    counts = group.summed({name: term.count for name, term in terms.items()})
    return {name: Term(sums[name], counts[name], term.weight) for name, term in terms.items()}
