"""LoRA: a linear layer whose weight is frozen learns a correction of low rank.

    weight + alpha / rank * up @ down        down: rank x input, up: output x rank, up = 0 at the start

The weight of the layer keeps its name, so that weights are found by the names they had; "lora_down" and
"lora_up" stand beside it. Whoever reads `layer.weight`, as code does that multiplies with a part of it,
reads it with the correction.

Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models", section 4.1, eq. 3. `down` is
Gaussian and `up` 0 as there; the source does not say how wide, here the variance is 1 / input. Every
linear layer may be adapted, not those of the attention alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.nn.patterns import choose

__all__ = [
    "LoRAConfig",
    "LoRALinear",
    "adapt",
    "adapted_layers",
    "describe_adapters",
    "merge",
    "merged_tensors",
    "restore_adapters",
]

_DOWN, _UP = "lora_down", "lora_up"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters of low rank for linear layers, trained in place of the weights."""

    rank: int = 0
    """Rank of the corrections; 0 for no adapters."""
    alpha: float = 16.0
    """Corrections are scaled by alpha / rank."""
    targets: tuple[str, ...] = ("*",)
    """Linear layers to adapt, by name: "trunk" is all below it, "*.query" every layer of that name."""
    full: tuple[str, ...] = ()
    """Weights that are trained as they are beside the adapters, by name; all others are frozen."""

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 < self.alpha < math.inf:
            raise ValueError(f"LoRA: expected rank >= 0 and a positive alpha, got {self}.")
        if self.rank and not self.targets:
            raise ValueError("LoRA: expected at least one pattern in targets.")


class LoRALinear(nn.Linear):
    """A linear layer with a correction of low rank; takes over the weights of `plain`.

    Args:
        plain: The layer.
        rank: Of the correction.
        alpha: The correction is scaled by alpha / rank.
        generator: Draws `lora_down`, on the CPU.
    """

    def __init__(
        self, plain: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.rank, self.alpha = rank, alpha
        # Assigning the weight would meet the property of that name.
        self._parameters["weight"] = cast(nn.Parameter, plain.weight)
        self.bias = plain.bias
        kind, place = plain.weight.dtype, plain.weight.device
        down = torch.randn((rank, plain.in_features), generator=generator) / math.sqrt(plain.in_features)
        self.lora_down = nn.Parameter(down.to(place, kind))
        self.lora_up = nn.Parameter(torch.zeros((plain.out_features, rank), device=place, dtype=kind))
        self.train(plain.training)

    @property
    def base(self) -> Tensor:
        """The weight without the correction."""
        return self._parameters["weight"]  # type: ignore[return-value]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight with the correction."""
        return self.base + self.alpha / self.rank * (self.lora_up @ self.lora_down)

    def forward(self, input: Float[Tensor, "*batch input"]) -> Float[Tensor, "*batch output"]:
        """The layer's output; the correction is never multiplied out."""
        low = F.linear(input, self.lora_down)
        return F.linear(input, self.base, self.bias) + self.alpha / self.rank * F.linear(low, self.lora_up)

    def merged(self) -> nn.Linear:
        """A plain layer that does the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        with torch.no_grad():
            weight = _corrected(self.base, self.lora_down, self.lora_up, self.alpha)
        plain.weight = nn.Parameter(weight, requires_grad=self.base.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


def _corrected(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """The weight with its correction, computed in float32, in the weight's own type."""
    return (weight.float() + alpha / down.shape[0] * (up.float() @ down.float())).to(weight.dtype)


def adapted_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """The layers of a network that have a correction, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LoRALinear)}


def adapt(module: nn.Module, config: LoRAConfig, *, generator: torch.Generator | None = None) -> list[str]:
    """Give the chosen linear layers of a network a correction of 0; gives their names.

    Args:
        module: Changed in place; answers with the same bits as before.
        config: Rank and targets; which weights are trained is the caller's affair.
        generator: Draws the first numbers, on the CPU.

    Raises:
        UnknownNameError: A target matches no linear layer; the message has the closest names.
        ValueError: It is adapted already, or a chosen weight is shared with another part of it.
    """
    if adapted_layers(module):
        raise ValueError(f"LoRA: {type(module).__name__} has adapters already. Merge them first.")
    linear = {name: part for name, part in module.named_modules() if type(part) is nn.Linear}
    names = sorted(choose(linear, config.targets, "linear layers to adapt"))
    _put(module, names, config.rank, config.alpha, generator)
    return names


def _put(
    module: nn.Module, names: Sequence[str], rank: int, alpha: float, generator: torch.Generator | None = None
) -> None:
    """Adapt the layers called `names`."""
    owners: dict[int, list[str]] = {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), []).append(name)
    for name in names:
        plain = module.get_submodule(name)
        if type(plain) is not nn.Linear:
            raise ValueError(f"LoRA: {name!r} is a {type(plain).__name__}, not a linear layer.")
        if len(shared := owners[id(plain.weight)]) > 1:
            raise ValueError(
                f"LoRA: the weight of {name!r} is shared ({', '.join(shared)}), so that a correction of it "
                "cannot be merged. Leave it out of targets."
            )
        _replace(module, name, LoRALinear(plain, rank=rank, alpha=alpha, generator=generator))


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    setattr(module.get_submodule(above), last, part)


def merge(module: nn.Module) -> list[str]:
    """Put every correction into the weight that it corrects; gives the names of the layers, now plain."""
    layers = adapted_layers(module)
    for name, layer in layers.items():
        _replace(module, name, layer.merged())
    return list(layers)


def describe_adapters(module: nn.Module) -> dict[str, Any] | None:
    """What `restore_adapters` needs, as plain data; None for a network without adapters."""
    layers = adapted_layers(module)
    if not layers:
        return None
    sizes = {(layer.rank, layer.alpha) for layer in layers.values()}
    if len(sizes) > 1:
        raise ValueError(f"LoRA: expected one rank and alpha for all adapters, got {sorted(sizes)}.")
    ((rank, alpha),) = sizes
    return {"rank": rank, "alpha": alpha, "layers": sorted(layers)}


def restore_adapters(module: nn.Module, described: Mapping[str, Any]) -> None:
    """Give a network the adapters that `describe_adapters` told of, with numbers yet to come."""
    for name in described["layers"]:
        if name not in dict(module.named_modules()):
            raise ValueError(f"LoRA: {type(module).__name__} has no layer {name!r}.")
    _put(module, described["layers"], described["rank"], described["alpha"])


def merged_tensors(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of an adapted network as those of a plain one.

    Args:
        tensors: By name, as saved.
        described: What `describe_adapters` told of the network.
    """
    found = dict(tensors)
    for name in described["layers"]:
        down, up = found.pop(f"{name}.{_DOWN}"), found.pop(f"{name}.{_UP}")
        found[f"{name}.weight"] = _corrected(found[f"{name}.weight"], down, up, described["alpha"])
    return found
