"""What every expert speaks: a function of the state of the world, without memory."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Expert"]


@runtime_checkable
class Expert(Protocol):
    """Knows what to do next in any state of its environment, so it can relabel any state later."""

    def __call__(self, env: Any) -> np.ndarray:
        """The action (action,) for the current state of `env`, in raw units; does not change `env`."""
        ...
