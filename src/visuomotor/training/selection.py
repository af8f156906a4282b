"""Which weights of a policy are trained."""

from __future__ import annotations

from torch import nn

from visuomotor.nn.patterns import choose
from visuomotor.policies.base import Policy
from visuomotor.training.config import TrainConfig

__all__ = ["choose_trained", "learning"]


def choose_trained(policy: Policy, config: TrainConfig) -> None:
    """Take the gradient from the weights of `policy` that `config` freezes.

    A frozen weight has no gradient, no moments and no average of its own: it keeps its bits. Weights that
    the family itself has frozen stay so.

    Raises:
        UnknownNameError: A pattern matches no weight; the message has the closest names.
        ValueError: Nothing is left to train.
    """
    weights = dict(policy.named_parameters())
    for name in choose(weights, config.freeze, "weights to freeze"):
        weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ValueError(f"training: all weights of {type(policy).__name__} are frozen. Freeze fewer.")


def learning(policy: Policy) -> None:
    """Training mode, but for batch norms whose weights are frozen: their running statistics stay, too."""
    policy.train()
    for part in policy.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            weights = list(part.parameters(recurse=False))
            if weights and not any(weight.requires_grad for weight in weights):
                part.eval()
