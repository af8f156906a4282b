"""How weights move: groups, learning rate, clipping, and the moving average that acts.

Everything that changes over a run is a pure function of the step, so a resumed run needs no history.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from visuomotor.agent.weights import named_weights
from visuomotor.errors import unknown_name
from visuomotor.training.moved import trained_weights

__all__ = [
    "AdamW",
    "Average",
    "AverageLaw",
    "Muon",
    "Optimizer",
    "average_decay",
    "clip_gradients",
    "learning_rate",
    "orthogonalized",
    "picture_kernels",
    "spared_from_decay",
]

AverageLaw = Literal["ratio", "power"]
_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,
)


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, final: float = 0.0) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then half a cosine.

    Args:
        step: From 0 to `steps - 1`.
        peak: Highest rate, reached at step `warmup`.
        warmup: Steps of the warm-up; its first step already has `peak / (warmup + 1)`.
        steps: Length of the run.
        final: Fraction of `peak` that the cosine ends with.

    Source: Loshchilov & Hutter (2017), SGDR, eq. 5, one period without restarts.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def average_decay(step: int, decay: float, law: AverageLaw = "ratio") -> float:
    """Decay of the moving average at step `step` (from 0): small at first, to forget the start soon.

    The average of a short run is then not an average with its random start.

    Args:
        step: Counted from 0.
        decay: Largest decay.
        law: "ratio", the usual warm-up `(1 + step) / (10 + step)`; or "power", `1 - (1 + n)^-0.75` with n
            counted from the second step on, which averages ever longer: of Diffusion Policy (Chi et al. 2023,
            released code), where `decay` is 0.9999.
    """
    if law == "power":
        return min(decay, 1 - max(step, 1) ** -0.75)
    return min(decay, (1 + step) / (10 + step))


def spared_from_decay(module: nn.Module) -> set[str]:
    """Names of trainable weights that must not decay.

    These are weights of norms and embeddings, and everything with fewer than two axes (biases, gains).
    A weight that several modules share is spared if one of them is among these.
    """
    spared: set[int] = set()
    for part in module.modules():
        if isinstance(part, (*_NORMS, nn.Embedding, nn.EmbeddingBag)):
            spared.update(id(weight) for weight in part.parameters(recurse=False))
    return {
        name
        for name, weight in module.named_parameters()
        if weight.requires_grad and (weight.ndim < 2 or id(weight) in spared)
    }


def picture_kernels(module: nn.Module) -> set[str]:
    """Names of the trainable kernels of a module that are convolved with pictures or films."""
    kernels = {id(part.weight) for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))}
    return {
        name for name, weight in module.named_parameters() if weight.requires_grad and id(weight) in kernels
    }


class Optimizer:
    """What moves the weights of a policy: `AdamW`, and `Muon` for its picture kernels if asked for.

    Args:
        module: What is trained.
        weight_decay: Of all weights but those in `spared_from_decay`.
        betas: Of `AdamW`.
        kernel_rate: Highest learning rate of `Muon`; 0 leaves the kernels to `AdamW`.
        weights: By name, what is moved in the place of each trained weight; the weights themselves if None.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weight_decay: float,
        betas: tuple[float, float],
        kernel_rate: float = 0.0,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        kernels = picture_kernels(module) if kernel_rate else set()
        self._kernel_rate = kernel_rate
        self._plain = AdamW(module, weight_decay=weight_decay, betas=betas, without=kernels, weights=weights)
        self._muon = Muon(module, kernels, weight_decay=weight_decay, weights=weights)

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        self._plain.clear_gradients()
        self._muon.clear_gradients()

    def step(self, rate: float, share: float) -> None:
        """Move every weight that has a gradient.

        Args:
            rate: Learning rate of `AdamW`.
            share: Of its highest rate with which `Muon` moves the kernels.
        """
        self._plain.step(rate)
        self._muon.step(share * self._kernel_rate)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything it remembers, as "<what>/<name of the weight>"."""
        return {**self._plain.state, **self._muon.state}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises `KeyError` if a weight is missing."""
        self._plain.restore(state)
        self._muon.restore(state)


class Muon:
    """Momentum whose step is made orthogonal, for kernels: all directions of a layer learn equally fast.

    A kernel is the matrix of its output channels; the step of a tall one is larger, as in the source,
    which leaves the first and the last layer to AdamW; here they are kernels like all others. What it
    is worth stands in docs/results.md.

    Args:
        module: What is trained.
        names: Its weights to move.
        weight_decay: Decoupled, times the rate.
        momentum: How much of the averaged gradient is kept; the step looks ahead (Nesterov).
        weights: By name, what is moved in their place; the weights themselves if None.

    Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        module: nn.Module,
        names: Iterable[str],
        *,
        weight_decay: float,
        momentum: float = 0.95,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        chosen, moved = set(names), trained_weights(module) if weights is None else weights
        self._weights = {name: weight for name, weight in moved.items() if name in chosen}
        for name, weight in module.named_parameters():
            if name in chosen and self._weights[name].shape != weight.shape:
                raise ValueError(
                    f"Muon: expected whole kernels, got a share of {name!r}. Set kernel_rate to 0, or train "
                    'with parallel="ddp".'
                )
        self._momentum = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._decay, self._keep = weight_decay, momentum

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        for weight in self._weights.values():
            weight.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight that has a gradient."""
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            average = self._momentum[name].lerp_(weight.grad, 1 - self._keep)
            way = orthogonalized(weight.grad.lerp(average, self._keep).flatten(1))
            tall = max(1.0, way.shape[0] / way.shape[1]) ** 0.5
            weight.mul_(1 - rate * self._decay).add_(way.view_as(weight), alpha=-rate * tall)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything it remembers, as "<what>/<name of the weight>"."""
        return {f"momentum/{name}": tensor for name, tensor in self._momentum.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises `KeyError` if a weight is missing."""
        for path, tensor in self.state.items():
            tensor.copy_(state[path])


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix with the same singular vectors, whose singular values are near 1 (0.7 to 1.2).

    Values below about 1/300 of the largest stay smaller. The odd polynomial of degree 5 is iterated; its
    coefficients, the source's, trade exactness for growth of small values.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.mT if tall else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found.mT if tall else found


class AdamW:
    """AdamW over the trainable weights of a module, in torch's fused form.

    For 4.2 M parameters on one CPU thread, fused took 2.5 ms a step, a plain loop 9.7, foreach 20. The
    function is called directly: building `torch.optim.AdamW` imports torch's compiler, 1.6 s.

    Args:
        module: What is trained.
        weight_decay: Of all weights but those in `spared_from_decay`.
        betas: Decay of the averages of gradients and of their squares.
        without: Names of weights that something else moves.
        weights: By name, what is moved in the place of each trained weight; the weights themselves if None.

    Source: Loshchilov & Hutter (2019), algorithm 2.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weight_decay: float,
        betas: tuple[float, float],
        without: Collection[str] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        trained = trained_weights(module) if weights is None else weights
        self._weights = {name: weight for name, weight in trained.items() if name not in without}
        if not trained:
            raise ValueError(f"{type(module).__name__}: no trainable weight; nothing to optimize.")
        spared = spared_from_decay(module)
        self._groups = [
            ([name for name in self._weights if name not in spared], weight_decay),
            ([name for name in self._weights if name in spared], 0.0),
        ]
        self._betas = betas
        self._mean = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._square = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._steps = {
            name: torch.zeros((), dtype=torch.float32, device=weight.device)
            for name, weight in self._weights.items()
        }

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        for weight in self._weights.values():
            weight.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight that has a gradient."""
        for names, decay in self._groups:
            gradients = {name: self._weights[name].grad for name in names}
            given = {name: gradient for name, gradient in gradients.items() if gradient is not None}
            if not given:
                continue
            adamw(
                [self._weights[name] for name in given],
                list(given.values()),
                [self._mean[name] for name in given],
                [self._square[name] for name in given],
                [],
                [self._steps[name] for name in given],
                fused=True,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything it remembers, as "<what>/<name of the weight>"."""
        kinds = {"mean": self._mean, "square": self._square, "steps": self._steps}
        return {
            f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises `KeyError` if a weight is missing."""
        for path, tensor in self.state.items():
            tensor.copy_(state[path])


def clip_gradients(weights: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients down so that their common norm is at most `limit`; gives the norm before."""
    return nn.utils.clip_grad_norm_(weights, limit)


class Average:
    """Exponential moving average of the trainable weights; frozen ones and buffers are the module's own.

    Args:
        module: Its weights are the first average.
        decay: How much of the average is kept at each step, once the warm-up is over; 0 follows the weights.
        weights: By name, what is averaged in the place of each trained weight; these themselves if None.
        law: How the decay grows; see `average_decay`.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float,
        weights: Mapping[str, Tensor] | None = None,
        *,
        law: AverageLaw = "ratio",
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"moving average: expected a decay in [0, 1), got {decay}.")
        if law not in get_args(AverageLaw):
            raise unknown_name("law of the moving average", law, get_args(AverageLaw))
        self.decay, self.law = decay, law
        trained = trained_weights(module) if weights is None else weights
        self._names = list(trained)
        self._weights = [weight.detach() for weight in trained.values()]
        self._average = [weight.clone() for weight in self._weights]
        self._module = module

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        share = 1 - average_decay(step, self.decay, self.law)
        torch._foreach_lerp_(self._average, self._weights, share)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Every weight of the module by name: averages, and its own where nothing is trained."""
        return {**named_weights(self._module), **self.shares}

    @property
    def shares(self) -> dict[str, Tensor]:
        """The averages alone, by name."""
        return dict(zip(self._names, self._average, strict=True))

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The weights are their averages for the length of a block, then themselves again."""
        kept = [weight.clone() for weight in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, kept)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from what `weights` gave."""
        for name, average in zip(self._names, self._average):
            average.copy_(weights[name])
