"""How to train: every number that decides what is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from visuomotor.errors import unknown_name
from visuomotor.nn.lora import LoRAConfig
from visuomotor.training.moved import WeightType
from visuomotor.training.optim import AverageLaw
from visuomotor.training.step import Precision

__all__ = ["TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; what is trained stands in the policy's config."""

    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 64
    """Samples that one optimizer step learns from."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    learning_rate: float = 1e-3
    """Highest learning rate, after the warm-up; it falls to 0 along a cosine."""
    kernel_rate: float = 0.0
    """Highest learning rate of picture kernels, if `Muon` moves them; 0 leaves them to AdamW."""
    warmup: int = 100
    """Optimizer steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices and kernels; norms, biases and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's averages of gradients and of their squares."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """How much of the moving average of the weights is kept at each step."""
    ema_law: AverageLaw = "ratio"
    """How that share grows: "ratio" soon; "power" as `1 - step^-0.75`, of Diffusion Policy with 0.9999."""
    precision: Precision = "fp32"
    """Arithmetic of the network: "fp32", "bf16" (weights stay in float32), or "auto", the faster one here."""
    weight_type: WeightType = "float32"
    """What the network holds its matrices in: "bfloat16", with float32 masters behind them, asks for
    precision "bf16"; vectors, and everything on disk, are float32."""
    seed: int = 0
    """Of the first weights, the order of the data and all noise."""
    save_every: int = 500
    """Optimizer steps between checkpoints."""
    log_every: int = 20
    """Optimizer steps between lines of the log."""
    validate_every: int = 500
    """Optimizer steps between losses on held-out episodes, if there are any."""
    hold_out: int = 0
    """Episodes at the end of each data set that are not trained on, but used for validation."""
    weights: Mapping[str, float] | None = None
    """Data set to how often a sample of it is seen, relative to one of weight 1; 1 for those left out."""
    freeze: tuple[str, ...] = ()
    """Weights that stay as they are, by name: "sight" and all below it, "*.norm", "trunk.layers.?.mlp"."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters of low rank, trained in place of the weights if their rank is above 0."""
    recompute: tuple[str, ...] = ()
    """Modules whose inside is computed again in the backward pass, to save memory, by name: "*.blocks"."""
    threads: int = 0
    """Threads of torch; 0 leaves their number alone. Equal bits need equal threads."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))
        if self.ema_law not in get_args(AverageLaw):
            raise unknown_name("ema_law", self.ema_law, get_args(AverageLaw))
        if self.weight_type not in get_args(WeightType):
            raise unknown_name("weight_type", self.weight_type, get_args(WeightType))
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training: {name} must be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training: {name} must be positive, got {getattr(self, name)}.")
        for name in ("warmup", "weight_decay", "kernel_rate", "threads", "seed", "hold_out"):
            if getattr(self, name) < 0:
                raise ValueError(f"training: {name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"training: ema_decay and betas lie in [0, 1), got {self.ema_decay}, {self.betas}."
            )
        for key, weight in (self.weights or {}).items():
            if not 0 < weight < math.inf:
                raise ValueError(f"training: expected positive weights, got {weight} for {key!r}.")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"training: batch_size {self.batch_size} cannot be computed in accumulate={self.accumulate} "
                "equal parts; choose a divisor."
            )
