"""What the optimizer moves: the weights of a network themselves, or tensors that stand behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from visuomotor.training.optim import Average, Optimizer

__all__ = ["Masters", "Moved", "Own", "WeightType", "Whole", "trained_weights"]

WeightType = Literal["float32", "bfloat16"]
Whole = tuple[Any, Mapping[str, Tensor], Mapping[str, Tensor]]
"""A policy with float32 weights, the average of all of them, and the state of the optimizer."""


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights that ask for a gradient, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


@runtime_checkable
class Moved(Protocol):
    """The tensors that optimizer and moving average work on, and the way to the network and back.

    Attributes:
        weights: Of every trained weight by name, in the order of the network, what is moved in its place.
    """

    weights: dict[str, Tensor]

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        ...

    def collect(self) -> None:
        """Add the gradients of a backward pass to those of `weights`."""
        ...

    def publish(self) -> None:
        """Let the network have what `weights` are now."""
        ...

    def whole(self, average: Average, optimizer: Optimizer) -> AbstractContextManager[Whole]:
        """Everything that a checkpoint holds, valid inside the block."""
        ...

    def share(self, name: str, whole: Tensor) -> Tensor:
        """What this process keeps of a tensor that is laid out like the weight called `name`."""
        ...


class Own:
    """The weights of the policy themselves."""

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy
        self.weights = trained_weights(policy)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for weight in self.weights.values():
            weight.grad = None

    def collect(self) -> None:
        """They are there already."""

    def publish(self) -> None:
        """It has them already."""

    @contextmanager
    def whole(self, average: Average, optimizer: Optimizer) -> Iterator[Whole]:
        """Everything that a checkpoint holds."""
        yield self._policy, average.weights, optimizer.state

    def share(self, name: str, whole: Tensor) -> Tensor:
        """All of it."""
        return whole


class Masters:
    """Matrices and kernels of the network in bfloat16, and a float32 master behind each that is trained.

    bfloat16 has 8 bits: next to 0.02 its numbers are 1.2e-4 apart, so that a step of 2.5e-5 would be
    rounded away, at every step anew. The optimizer moves the masters, which remember it. Vectors (gains,
    biases) stay in float32. What is frozen has no master and is rounded once.

    Args:
        policy: With float32 weights; afterwards its matrices are bfloat16.

    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.1.
    """

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy
        self.weights = trained_weights(policy)
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []
        self._frozen: list[nn.Parameter] = []
        for name, weight in policy.named_parameters():
            if weight.ndim < 2 or weight.dtype != torch.float32:
                continue
            full = weight.detach()
            weight.data = full.to(torch.bfloat16)
            if weight.requires_grad:
                self.weights[name] = full
                self._pairs.append((weight, full))
            else:
                self._frozen.append(weight)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for weight in [*self.weights.values(), *(weight for weight, _ in self._pairs)]:
            weight.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """Add up gradients in float32, also those of the parts of an accumulated batch."""
        for weight, full in self._pairs:
            if weight.grad is not None:
                given = weight.grad.float()
                full.grad = given if full.grad is None else full.grad.add_(given)
                weight.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the network."""
        for weight, full in self._pairs:
            weight.copy_(full)

    @contextmanager
    def whole(self, average: Average, optimizer: Optimizer) -> Iterator[Whole]:
        """The policy stands on its masters inside the block, so that nothing is rounded on disk."""
        rounded = [weight.data for weight, _ in self._pairs]
        frozen = [weight.data for weight in self._frozen]
        for weight, full in self._pairs:
            weight.data = full
        for weight in self._frozen:
            weight.data = weight.data.float()
        try:
            yield self._policy, average.weights, optimizer.state
        finally:
            for (weight, _), before in zip(self._pairs, rounded, strict=True):
                weight.data = before
            for weight, before in zip(self._frozen, frozen, strict=True):
                weight.data = before

    def share(self, name: str, whole: Tensor) -> Tensor:
        """All of it."""
        return whole
