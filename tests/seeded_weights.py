"""Weights that two programs can make alike without a file: uniform numbers, seeded by name.

Needs NumPy only, so a script in another environment can import it. `Generator.random` is the part of
NumPy's random numbers that stays the same over versions.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

__all__ = ["seeded", "seeded_weights"]


def seeded(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """float32 of `shape`, uniform between `low` and `high`, the same for the same name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return (low + (high - low) * generator.random(shape, dtype=np.float32)).astype(np.float32)


def seeded_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Name to numbers of the size that keeps features about as large as they are.

    Matrices and kernels are spread by He's rule, norms are close to the identity, biases are small.
    """
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = (3 / np.prod(shape[1:])) ** 0.5
            found[name] = seeded(name, shape, -bound, bound)
        elif name.endswith(("weight", "running_var")):
            found[name] = seeded(name, shape, 0.8, 1.2)
        else:
            found[name] = seeded(name, shape, -0.1, 0.1)
    return found
