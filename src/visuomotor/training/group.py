"""The processes that train one policy together: what they ask of each other. Most often there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from visuomotor.policies.base import Loss, Policy
from visuomotor.training.moved import Masters, Moved, Own, WeightType
from visuomotor.training.optim import clip_gradients
from visuomotor.types import Batch

__all__ = ["Alone", "Group", "Learner", "Parallel", "is_first", "open_group"]

Parallel = Literal["ddp", "fsdp"]


def is_first() -> bool:
    """Whether this process is the one that writes, by what torchrun tells it; the only one is."""
    return int(os.environ.get("RANK", "0")) == 0


@runtime_checkable
class Learner(Protocol):
    """What gives a loss: a policy, or a policy whose gradients are exchanged."""

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """As `Policy.loss`."""
        ...


@runtime_checkable
class Group(Protocol):
    """Processes that compute the parts of each batch, so that each step is that of one process.

    Attributes:
        rank: Number of this process; the first, 0, writes logs and checkpoints.
        ranks: Number of processes.
        device: Where this process computes.
    """

    rank: int
    ranks: int
    device: torch.device

    def parts(self, count: int) -> range:
        """Which of `count` parts of a batch are this process's."""
        ...

    def prepare(self, policy: Policy, weights: WeightType) -> tuple[Learner, Moved]:
        """Spread a policy over the processes; it computes with weights of type `weights`."""
        ...

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a part; gradients need be summed over processes after the last."""
        ...

    def summed(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars, each summed over all processes."""
        ...

    def any(self, wish: bool) -> bool:
        """Whether any process has this wish."""
        ...

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """Scale all gradients down so that their common norm is at most `limit`; gives the norm before."""
        ...

    def in_turn(self) -> AbstractContextManager[None]:
        """A block that the first process goes through before the others."""
        ...


class Alone:
    """One process.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.rank, self.ranks, self.device = 0, 1, torch.device(device)

    def parts(self, count: int) -> range:
        """All of them."""
        return range(count)

    def prepare(self, policy: Policy, weights: WeightType) -> tuple[Learner, Moved]:
        """The policy itself."""
        return policy, Own(policy) if weights == "float32" else Masters(policy)

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """With nobody."""
        return nullcontext()

    def summed(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The numbers themselves."""
        return dict(numbers)

    def any(self, wish: bool) -> bool:
        """Its own wish."""
        return wish

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """As `clip_gradients`."""
        return clip_gradients(weights, limit)

    def in_turn(self) -> AbstractContextManager[None]:
        """At once."""
        return nullcontext()


@contextmanager
def open_group(
    device: str | torch.device = "cpu", parallel: Parallel | None = None, shard: Sequence[str] = ()
) -> Iterator[Group]:
    """The processes that torchrun started, or this one alone.

    Args:
        device: "cpu", or "cuda" for the GPU of this process's local rank.
        parallel: "ddp", each process has all weights; "fsdp", each has a share of them; "ddp" if None.
        shard: With "fsdp": modules whose weights are gathered and freed one after the other, by name.

    Raises:
        ValueError: `parallel` is given, but there is one process only.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from visuomotor.training.distributed import join

        with join(device, parallel or "ddp", shard) as group:
            yield group
    elif parallel is not None:
        raise ValueError(
            f'training: parallel="{parallel}" needs several processes. Start it with torchrun: '
            "torchrun --nproc-per-node 2 -m visuomotor.cli train ..."
        )
    else:
        yield Alone(device)
