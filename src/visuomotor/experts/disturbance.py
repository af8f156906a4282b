"""What goes wrong while an expert demonstrates, so that the data shows how to recover.

The label stays what the expert would do in the state that was met; only what runs is disturbed, by
noise at each tick, by pushes, by slips of the gripper, and by hands that begin somewhere else
(Laskey et al. 2017, DART, with noise that is given and not learned).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from visuomotor.types import Spec

__all__ = ["Disturbance", "Noise"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How executed actions differ from the expert's."""

    meters: float = 0.004
    """Standard deviation at each tick of numbers in meters."""
    radians: float = 0.012
    """Standard deviation at each tick of numbers in radians."""
    push_chance: float = 0.06
    """Chance at each tick that a push begins."""
    push_ticks: tuple[int, int] = (2, 5)
    """Fewest and most ticks of a push."""
    push_factor: float = 7.0
    """Size of a push at each of its ticks, in standard deviations."""
    slip_chance: float = 0.015
    """Chance at each tick that the grippers begin to do the opposite, so that something is lost."""
    slip_ticks: tuple[int, int] = (2, 4)
    """Fewest and most ticks of a slip."""
    stray_chance: float = 0.25
    """Chance that an episode begins with the hand going astray, at full speed in one direction.

    Only moves in meters (`ee_delta`) that have limits do.
    """
    stray_ticks: tuple[int, int] = (2, 8)
    """Fewest and most ticks of that."""

    def __post_init__(self) -> None:
        chances = (self.push_chance, self.slip_chance, self.stray_chance)
        ticks = (self.push_ticks, self.slip_ticks, self.stray_ticks)
        if (
            min(self.meters, self.radians, self.push_factor) < 0
            or not all(0 <= chance <= 1 for chance in chances)
            or not all(1 <= low <= high for low, high in ticks)
        ):
            raise ValueError(
                f"noise: expected sizes >= 0, chances in [0, 1] and 1 <= ticks <= ticks, got {self}."
            )


class Disturbance:
    """What becomes of the expert's actions, tick after tick.

    Args:
        spec: Units and grippers of the action.
        noise: How much.
        generator: Every random number comes from it.
    """

    def __init__(self, spec: Spec, noise: Noise, generator: np.random.Generator) -> None:
        sizes = {"m": noise.meters, "rad": noise.radians}
        self._gripper = np.array([d.kind == "gripper" for d in spec.action])
        self._scale = np.array([sizes.get(d.unit, 0.0) for d in spec.action]) * ~self._gripper
        self._noise, self._generator = noise, generator
        self._push, self._pushes, self._slips = np.zeros_like(self._scale), 0, 0
        self._stray, self._strays = np.zeros_like(self._scale), 0
        if generator.random() < noise.stray_chance:
            self._stray = _full_speed(spec, generator)
            self._strays = int(generator.integers(noise.stray_ticks[0], noise.stray_ticks[1] + 1))

    def __call__(self, label: Float32[np.ndarray, " action"]) -> Float32[np.ndarray, " action"]:
        """The action that runs, not yet within its limits."""
        generator, noise = self._generator, self._noise
        if self._pushes == 0 and generator.random() < noise.push_chance:
            self._pushes = int(generator.integers(noise.push_ticks[0], noise.push_ticks[1] + 1))
            self._push = self._direction()
        if self._slips == 0 and generator.random() < noise.slip_chance:
            self._slips = int(generator.integers(noise.slip_ticks[0], noise.slip_ticks[1] + 1))
        added = generator.normal(size=len(label)) * self._scale + (self._push if self._pushes else 0.0)
        executed = np.where(self._gripper & (self._slips > 0), 1.0 - label, label + added)
        if self._strays:
            executed = np.where(self._stray != 0, self._stray, executed)
        self._pushes, self._slips = max(0, self._pushes - 1), max(0, self._slips - 1)
        self._strays = max(0, self._strays - 1)
        return executed.astype(np.float32)

    def _direction(self) -> np.ndarray:
        """A push in a random direction."""
        moving = self._scale > 0
        direction = self._generator.normal(size=len(moving)) * moving
        length = np.linalg.norm(direction) or 1.0
        return direction / length * self._scale * self._noise.push_factor * np.sqrt(moving.sum())


def _full_speed(spec: Spec, generator: np.random.Generator) -> np.ndarray:
    """A random direction of the moves in meters, as fast as they may be; 0 for all other numbers."""
    moves = np.array([d.high if d.unit == "m" and d.kind == "ee_delta" else 0.0 for d in spec.action])
    moves[~np.isfinite(moves)] = 0.0
    direction = generator.normal(size=len(moves)) * (moves > 0)
    return direction / (np.abs(direction).max() or 1.0) * moves
