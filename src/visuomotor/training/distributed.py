"""Several processes that train one policy, started by torchrun, through PyTorch's own engines.

Each computes its parts of every batch; sums and counts of losses are added up over all processes before
anything is divided, and gradients are summed, not averaged. So a step is that of one process which
computes all parts, but for the order of additions, and the number of processes is no part of what a run
is: it may change when the run is resumed.

    ddp    every process has all weights; gradients are summed while the backward pass goes on
           (Li et al. 2020, "PyTorch distributed")
    fsdp   every process has a share of each weight, of its moments and its average, and gathers what it
           needs when it needs it (Zhao et al. 2023, "PyTorch FSDP"); `fully_shard`
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from visuomotor.agent.weights import named_weights
from visuomotor.nn.patterns import choose
from visuomotor.policies.base import Loss, Policy, Term
from visuomotor.training.group import Learner, Parallel
from visuomotor.training.moved import Masters, Moved, Own, WeightType, Whole
from visuomotor.training.optim import clip_gradients
from visuomotor.types import Batch

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from visuomotor.training.optim import Average, Optimizer

__all__ = ["Replicas", "Shards", "Sharers", "join"]

_PATIENCE = timedelta(hours=2)  # decoding pictures may take the first process that long


@contextmanager
def join(
    device: str | torch.device, parallel: Parallel, shard: Sequence[str]
) -> Iterator[Replicas | Sharers]:
    """The group of this process, as torchrun's environment describes it; it is left after the block."""
    device = torch.device(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Replicas(device) if parallel == "ddp" else Sharers(device, shard)
        dist.barrier()  # nobody leaves while the first still writes
    finally:
        dist.destroy_process_group()


class _Company:
    """What both kinds of groups have in common.

    Args:
        device: Where this process computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.ranks, self.device = dist.get_rank(), dist.get_world_size(), device

    def parts(self, count: int) -> range:
        """Every `ranks`-th part."""
        if count % self.ranks:
            raise ValueError(
                f"training: {count} parts of a batch cannot be shared by {self.ranks} processes; make "
                f"accumulate a multiple of them (--training.accumulate {self.ranks})."
            )
        return range(self.rank, count, self.ranks)

    def summed(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars, each summed over all processes, in float64."""
        names = sorted(numbers)
        stack = torch.stack([numbers[name].detach().double() for name in names]).to(self.device)
        dist.all_reduce(stack)
        return {name: total.to(numbers[name].dtype) for name, total in zip(names, stack, strict=True)}

    def any(self, wish: bool) -> bool:
        """Whether any process has this wish."""
        asked = torch.tensor(float(wish), device=self.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block that the first process goes through before the others."""
        if self.rank:
            dist.barrier()
        yield
        if not self.rank:
            dist.barrier()


class _Spoken(nn.Module):
    """`Policy.loss` as a forward pass with plain data as its output, in which the engines find tensors."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """Terms as tuples."""
        terms = self.policy.loss(batch, generator=generator).terms
        return {name: (term.sum, term.count, term.weight) for name, term in terms.items()}


class _Engaged:
    """A policy in an engine that sums its gradients over all processes.

    Args:
        engine: Around `_Spoken`.
    """

    def __init__(self, engine: nn.Module) -> None:
        self.engine = engine

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """As `Policy.loss`."""
        return Loss({name: Term(*term) for name, term in self.engine(batch, generator).items()})


def _sum_gradients(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's exchange without its division: whoever divides knows all counts."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


class Replicas(_Company):
    """Processes that have all weights each."""

    def prepare(self, policy: Policy, weights: WeightType) -> tuple[Learner, Moved]:
        """The policy in DDP."""
        from torch.nn.parallel import DistributedDataParallel

        moved: Moved = Own(policy) if weights == "float32" else Masters(policy)
        self._alike = weights == "float32"
        self._engine = DistributedDataParallel(
            _Spoken(policy),
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,
            find_unused_parameters=True,  # which weights a batch reaches depends on its masks
        )
        # A hook of its own name would be refused: its annotations are words, and DDP compares classes.
        self._engine.register_comm_hook(None, lambda _, bucket: _sum_gradients(bucket))
        return _Engaged(self._engine), moved

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Exchange after the last part; after each where they are added up in float32 masters."""
        return nullcontext() if last or not self._alike else self._engine.no_sync()

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """All processes have the same gradients, and the same norm."""
        return clip_gradients(weights, limit)


class Sharers(_Company):
    """Processes that have a share of each weight.

    Args:
        device: Where this process computes.
        units: Modules whose weights are gathered and freed one after the other, by name.
    """

    def __init__(self, device: torch.device, units: Sequence[str] = ()) -> None:
        super().__init__(device)
        self._units = tuple(units)

    def prepare(self, policy: Policy, weights: WeightType) -> tuple[Learner, Moved]:
        """The policy with sharded weights, which are float32 masters also where it computes in bfloat16."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        twin = copy.deepcopy(policy).cpu() if self.rank == 0 else None
        how: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.ranks,)),
            "reshard_after_forward": True,  # or else the next forward pass would miss what has moved since
        }
        if weights == "bfloat16":
            how["mp_policy"] = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        modules = {name: part for name, part in policy.named_modules() if name}
        chosen = choose(modules, self._units, "modules to shard")
        units = [name for name in chosen if not any(name.startswith(f"{other}.") for other in chosen)]
        for name in sorted(units):
            part = modules[name]
            for member in part.children() if isinstance(part, nn.ModuleList) else [part]:
                fully_shard(member, **how)
                for method in getattr(member, "entrances", ()):
                    register_fsdp_forward_method(member, method)
        # Keys and values are views, which nobody writes to.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        engine = _Spoken(policy)
        fully_shard(engine, **how)
        for part in engine.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)  # summed, not averaged
                part.set_force_sum_reduction_for_comms(True)
        return _Engaged(engine), Shards(policy, twin)

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """After every part: only shares of gradients are kept."""
        return nullcontext()

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """The norm of the whole gradient, of which each process has a share."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in gradients:
            square += gradient.double().square().sum()
        dist.all_reduce(square)
        norm = square.sqrt().float()
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm


class Shards:
    """This process's share of each weight, as plain tensors.

    Args:
        policy: After `fully_shard`.
        twin: A whole copy of it, in the first process, which fills it to write a checkpoint.
    """

    def __init__(self, policy: Policy, twin: Policy | None) -> None:
        self._policy, self._twin = policy, twin
        self._sharded: dict[str, Any] = {
            name: weight for name, weight in policy.named_parameters() if weight.requires_grad
        }
        with torch.no_grad():
            self.weights = {name: weight.to_local() for name, weight in self._sharded.items()}

    @torch.no_grad()
    def collect(self) -> None:
        """The share of each gradient, which the parts of a batch have been added to."""
        for name, weight in self._sharded.items():
            self.weights[name].grad = None if weight.grad is None else weight.grad.to_local()

    def publish(self) -> None:
        """The shares are those of the network."""

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for weight in [*self._sharded.values(), *self.weights.values()]:
            weight.grad = None

    @contextmanager
    def whole(self, average: Average, optimizer: Optimizer) -> Iterator[Whole]:
        """Everything gathered in the first process; all take part, the others get it empty."""
        with torch.no_grad():
            own = {name: self._full(weight) for name, weight in named_weights(self._policy).items()}
            smooth = {**own, **{n: self._gather(n, share) for n, share in average.shares.items()}}
            moments = {
                path: self._gather(path.partition("/")[2], share) for path, share in optimizer.state.items()
            }
            if self._twin is not None:
                for name, weight in named_weights(self._twin).items():
                    weight.copy_(own[name])
        yield self._policy if self._twin is None else self._twin, smooth, moments

    def _full(self, weight: Tensor) -> Tensor:
        """The whole of a tensor of the network, on the CPU; empty in all processes but the first."""
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        return whole.cpu() if self._twin is not None else whole.new_empty(0)

    def _gather(self, name: str, share: Tensor) -> Tensor:
        """The whole of what has a share beside each share of the weight called `name`."""
        from torch.distributed.tensor import DTensor

        like = self._sharded[name]
        if share.shape != self.weights[name].shape:  # a count of steps
            return share.cpu()
        whole = DTensor.from_local(
            share, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return self._full(whole)

    def share(self, name: str, whole: Tensor) -> Tensor:
        """This process's share of a tensor that is laid out like the weight called `name`."""
        from torch.distributed.tensor import distribute_tensor

        like = self._sharded[name]
        if whole.shape != like.shape:
            return whole
        placed: DTensor = distribute_tensor(
            whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )
        return placed.to_local()
