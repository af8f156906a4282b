"""One call of a policy, compiled: the same function, faster, and held against itself once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from visuomotor.errors import VisuomotorError
from visuomotor.policies.base import Acted, Context, Policy
from visuomotor.types import Batch

__all__ = ["CompiledAct"]

LIMIT = 1e-3
"""Largest difference in model space, where actions span about 2: fused arithmetic rounds elsewhere."""
COARSE = 5e-2
"""The same for weights in 16 bits."""
GRAPHS = 64
"""Most sizes of batches; more than a policy has prompts and sets of cameras."""


class CompiledAct:
    """`policy.act` through `torch.compile`, for calls without a prefix; compiled once for each size of batch.

    Random numbers are those of the plain call: torch's default generator is lent the state of the call's own,
    which no graph takes as an argument. What a policy has to think before it acts is thought outside, for how
    long that takes is no one graph. The first answer of each size is compared with the plain one.

    Args:
        policy: In evaluation mode.
        backend: Of `torch.compile`.
        graphs: Replay CUDA graphs, which saves launches where the network is small; needs a GPU.

    Raises:
        ValueError: Graphs are asked for, and the policy is not on a GPU; or the family does not compile.
    """

    def __init__(self, policy: Policy, *, backend: str = "inductor", graphs: bool = False) -> None:
        if not policy.compiles:
            raise ValueError(
                f"compile: what {type(policy).__name__} computes depends on its own answers, so it is no one "
                "graph. Load it without compile."
            )
        device = next(policy.parameters()).device
        if graphs and device.type != "cuda":
            raise ValueError(f"compile: CUDA graphs need a policy on a GPU, got one on {device}.")
        how: dict[str, Any] = {}
        if backend == "inductor":  # its own random numbers are others than torch's
            how["options"] = {"fallback_random": True, "triton.cudagraphs": graphs}
        self.policy = policy
        self._call = torch.compile(policy.act, backend=backend, fullgraph=True, dynamic=False, **how)
        self._held: set[tuple[Any, ...]] = set()

    def __call__(self, batch: Batch, generator: torch.Generator, context: Context | None = None) -> Acted:
        """The answer; see `Policy.act`.

        Raises:
            VisuomotorError: The compiled answer is not the plain one.
        """
        thought = self.policy.think(batch, generator=generator) if context is None else None
        context = thought if context is None else context
        packed = self.policy.packed(batch)
        with _lent(generator), torch._dynamo.config.patch(recompile_limit=GRAPHS):
            acted = self._call(packed, context=context)
        words = None if packed.tokens is None else packed.tokens.ids.shape
        form = (len(batch), *packed.images, words)
        if form not in self._held:
            plain = self.policy.act(batch, generator=generator, context=context)
            self._hold(acted.actions, plain.actions)
            self._held.add(form)
        return acted if thought is None else replace(acted, text=thought.text)

    def _hold(self, found: Tensor, expected: Tensor) -> None:
        """Raise `VisuomotorError` unless both are the same."""
        off = float((found - expected).abs().max())
        limit = LIMIT if next(self.policy.parameters()).dtype == torch.float32 else COARSE
        if not off <= limit:
            raise VisuomotorError(
                f"compile: {type(self.policy).__name__} compiled answers actions that differ by {off:.2g} in "
                f"model space, expected at most {limit:g}. Load the agent without compile=True."
            )


@contextmanager
def _lent(generator: torch.Generator) -> Iterator[None]:
    """Let torch's default generator go on where `generator` is; afterwards it is as it was."""
    device = generator.device
    home, where = (torch, ()) if device.type == "cpu" else (torch.get_device_module(device), (device,))
    before = home.get_rng_state(*where)
    home.set_rng_state(generator.get_state(), *where)
    try:
        yield
    finally:
        home.set_rng_state(before, *where)
