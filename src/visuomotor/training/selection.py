"""Which weights of a policy are trained: all, those that are not frozen, or adapters in their place."""

from __future__ import annotations

import torch
from torch import nn

from visuomotor.nn.lora import LoRAConfig, adapt, adapted_layers, describe_adapters
from visuomotor.nn.patterns import choose
from visuomotor.policies.base import Policy
from visuomotor.training.config import TrainConfig

__all__ = ["choose_trained", "learning"]


def choose_trained(policy: Policy, config: TrainConfig) -> None:
    """Add the adapters that `config` asks for, and leave a gradient to what it wants trained.

    A frozen weight has no gradient, no moments and no average of its own: it keeps its bits. Weights that
    the family itself has frozen stay so. A policy that was prepared by an equal config stays as it is.

    Raises:
        UnknownNameError: A pattern matches nothing; the message has the closest names.
        ValueError: Nothing is left to train, or the policy has other adapters.
    """
    if config.lora.rank:
        _adapt(policy, config.lora, config.seed)
    elif adapted_layers(policy):
        raise ValueError(
            f"training: {type(policy).__name__} has adapters, but lora.rank is 0. Merge them first, or "
            "train them with the config that they were made with."
        )
    weights = dict(policy.named_parameters())
    for name in choose(weights, config.freeze, "weights to freeze"):
        weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ValueError(f"training: all weights of {type(policy).__name__} are frozen. Freeze fewer.")


def _adapt(policy: Policy, config: LoRAConfig, seed: int) -> None:
    """Add adapters, drawn from `seed`, and freeze everything but them and what stays trained in full."""
    weights = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    if adapted_layers(policy):
        there = describe_adapters(policy)
        layers = {name for name, part in policy.named_modules() if isinstance(part, nn.Linear)}
        wanted = sorted(choose(layers, config.targets, "linear layers to adapt"))
        if there != {"rank": config.rank, "alpha": config.alpha, "layers": wanted}:
            raise ValueError(f"training: the policy has other adapters, {there}. Merge them first.")
        return
    full = choose(weights, config.full, "weights to train in full")
    adapt(policy, config, generator=torch.Generator().manual_seed(seed))
    for name, weight in weights.items():
        weight.requires_grad_(name in full)


def learning(policy: Policy) -> None:
    """Training mode, but for batch norms whose weights are frozen: their running statistics stay, too."""
    policy.train()
    for part in policy.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            weights = list(part.parameters(recurse=False))
            if weights and not any(weight.requires_grad for weight in weights):
                part.eval()
