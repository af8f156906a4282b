"""Gradient checkpointing: what a layer computed is computed again in the backward pass, not stored.

Memory for the depth of a network then is that of its tokens between layers, and a step costs one more
forward pass. Losses and gradients are the same numbers.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost", section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from visuomotor.nn.patterns import choose

__all__ = ["Recomputed", "recomputing"]

_SEQUENCES = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Recomputed:
    """Which modules of a network are computed again, and whether they were ever called.

    Args:
        module: The network; its modules are as they were after `undo`.
        patterns: Names of modules. Of a list of modules each member is one; of nested modules the outer
            one counts. A module that has the attribute `recomputes` is not called as a whole and does it by
            itself: the attribute is set.

    Raises:
        UnknownNameError: A pattern matches no module; the message has the closest names.
    """

    def __init__(self, module: nn.Module, patterns: Sequence[str]) -> None:
        modules = {name: part for name, part in module.named_modules() if name}
        found = choose(modules, patterns, "modules to recompute")
        self.silent: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        for name in sorted(found):
            if not any(name.startswith(f"{other}.") for other in found):
                self._take(name, modules[name])

    def _take(self, name: str, part: nn.Module) -> None:
        if hasattr(part, "recomputes"):
            self._undo.append(partial(setattr, part, "recomputes", part.recomputes))
            setattr(part, "recomputes", True)  # noqa: B010  (a module's attributes have no type)
        elif isinstance(part, _SEQUENCES):
            for last, member in part.named_children():
                self._take(f"{name}.{last}", member)
        else:
            self._wrap(name, part)

    def _wrap(self, name: str, part: nn.Module) -> None:
        from torch.utils.checkpoint import checkpoint

        forward = part.forward
        self.silent.add(name)

        def again(*inputs: Any, **named: Any) -> Any:
            self.silent.discard(name)
            if torch.is_grad_enabled():
                return checkpoint(forward, *inputs, use_reentrant=False, **named)
            return forward(*inputs, **named)

        part.forward = again
        self._undo.append(partial(delattr, part, "forward"))

    def check(self) -> None:
        """Raise `ValueError` if a module was not called, so that nothing of it is computed again."""
        if self.silent:
            raise ValueError(
                f"training: modules to recompute: {', '.join(sorted(self.silent)[:3])} were not called in a "
                "training step; the network uses their parts. Name those parts instead."
            )

    def undo(self) -> None:
        """Leave every module as it was."""
        while self._undo:
            self._undo.pop()()


@contextmanager
def recomputing(module: nn.Module, patterns: Sequence[str]) -> Iterator[Recomputed]:
    """`module` with the modules that `patterns` name computed again, for the length of a block."""
    watch = Recomputed(module, patterns)
    try:
        yield watch
    finally:
        watch.undo()
