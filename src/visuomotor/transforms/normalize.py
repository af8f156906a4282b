"""Robot units to numbers around zero, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Dimension, Observation, Sample, Stats, Summary

__all__ = ["Mode", "Normalize", "within_limits"]

Mode = Literal["mean_std", "quantile", "min_max", "openpi_mean_std", "openpi_quantile"]
OPENPI = 1e-6
"""What the released code of the pi family adds to each spread, in raw units."""


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """`(raw - center) / scale` for states and actions, and `model * scale + center` for the way back.

    Nothing is clipped. A dimension whose spread is below `floor` is constant in the data: a state is
    then divided by 1, so that a deviation is not blown up; an action by `floor`, so that it comes back
    as the constant whatever the model says about it.

    Weights that were released with pi0, pi0-FAST and pi0.5 learned otherwise, and need what they learned
    with: "openpi_mean_std" is `(raw - mean) / (std + 1e-6)`, and "openpi_quantile"
    `2 (raw - q01) / (q99 - q01 + 1e-6) - 1`. They know no floor and no minimum: a dimension that is nearly
    constant in their data is blown up, by as much as a million.

    Attributes:
        state: Statistics of the state.
        action: Statistics of the action.
        mode: "mean_std": mean 0, standard deviation 1. "quantile": 1 % and 99 % become -1 and 1; a
            dimension of which these two are equal, though it moves, uses minimum and maximum (a
            gripper that is nearly always open). "min_max": smallest and largest become -1 and 1.
            "openpi_mean_std", "openpi_quantile": as above.
        action_mode: Mode of the actions, if it is not that of the states.
        floor: Spread below which a dimension is constant, in its raw unit; not for openpi's modes.
        skip_state: Indices of state dimensions that stay in raw units.
        skip_action: Indices of action dimensions that stay in raw units (a gripper in [0, 1], say).
    """

    state: Summary
    action: Summary
    mode: Mode = "mean_std"
    action_mode: Mode | None = None
    floor: float = 1e-4
    skip_state: Sequence[int] = ()
    skip_action: Sequence[int] = ()
    _state: tuple[np.ndarray, np.ndarray] = field(init=False, repr=False, compare=False)
    _action: tuple[np.ndarray, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modes = {"state": self.mode, "action": self.action_mode or self.mode}
        for mode in modes.values():
            if mode not in get_args(Mode):
                raise unknown_name("mode of normalization", mode, get_args(Mode))
        if not self.floor > 0:
            raise ValueError(f"normalization: floor must be positive, got {self.floor}.")
        for feature, constant in (("state", 1.0), ("action", self.floor)):
            summary, skip = getattr(self, feature), getattr(self, f"skip_{feature}")
            center, spread = _center_and_spread(summary, modes[feature], self.floor)
            scale = spread
            if not modes[feature].startswith("openpi"):
                scale = np.where(spread < self.floor, constant, spread)
            wrong = [index for index in skip if not 0 <= index < len(center)]
            if wrong:
                raise ValueError(
                    f"normalization: skip_{feature} names {wrong}, but there are {len(center)} dimensions."
                )
            center[list(skip)], scale[list(skip)] = 0.0, 1.0
            if not (np.isfinite(center).all() and np.isfinite(scale).all()):
                raise DataError(
                    f"normalization {modes[feature]!r}: the statistics of {feature!r} that it needs hold NaN "
                    "or infinity. Recompute them, or choose a mode that released statistics tell."
                )
            object.__setattr__(self, f"_{feature}", (center, scale))

    @classmethod
    def from_stats(
        cls,
        stats: Stats,
        *,
        mode: Mode = "mean_std",
        skip_state: Sequence[int] = (),
        skip_action: Sequence[int] = (),
    ) -> Normalize:
        """The transform of a data set; `DataError` if it has no statistics of "state" or "action"."""
        return cls(
            state=stats["state"],
            action=stats["action"],
            mode=mode,
            skip_state=skip_state,
            skip_action=skip_action,
        )

    def apply(self, sample: Sample) -> Sample:
        """State and, if there are any, actions in model space."""
        center, scale = self._state
        _check_width("state", sample.state, center)
        state = ((sample.state - center) / scale).astype(np.float32)
        if sample.actions is None:
            return replace(sample, state=state)
        executed = None if sample.executed is None else self.normalized(sample.executed)
        return replace(sample, state=state, actions=self.normalized(sample.actions), executed=executed)

    def normalized(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., action) in model space, float32."""
        center, scale = self._action
        _check_width("action", actions, center)
        return ((actions - center) / scale).astype(np.float32)

    def invert(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """Actions (horizon, action) in robot units."""
        center, scale = self._action
        _check_width("action", actions, center)
        return (actions * scale + center).astype(np.float32)


def within_limits(summary: Summary, dimensions: Sequence[Dimension]) -> Summary:
    """`summary` whose minimum and maximum are the body's limits, where it has any.

    With mode "min_max" a dimension that hardly moves in the data then stays small in model space,
    instead of its noise being blown up to the size of real motion.
    """
    low, high = (np.array([getattr(dimension, side) for dimension in dimensions]) for side in ("low", "high"))
    bounded = np.isfinite(low) & np.isfinite(high)
    return replace(summary, min=np.where(bounded, low, summary.min), max=np.where(bounded, high, summary.max))


def _center_and_spread(summary: Summary, mode: Mode, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """What becomes 0, and how far from it 1 is; float64, one a dimension."""
    if mode == "openpi_mean_std":
        return np.array(summary.mean, np.float64), np.array(summary.std, np.float64) + OPENPI
    if mode == "openpi_quantile":
        low, high = np.asarray(summary.q01, np.float64), np.asarray(summary.q99, np.float64)
        half = (high - low + OPENPI) / 2
        return low + half, half
    if mode == "mean_std":
        return np.array(summary.mean, np.float64), np.array(summary.std, np.float64)
    low, high = np.asarray(summary.min, np.float64), np.asarray(summary.max, np.float64)
    if mode == "quantile":
        inner_low, inner_high = np.asarray(summary.q01, np.float64), np.asarray(summary.q99, np.float64)
        moves = inner_high - inner_low >= 2 * floor
        low, high = np.where(moves, inner_low, low), np.where(moves, inner_high, high)
    return (low + high) / 2, (high - low) / 2


def _check_width(feature: str, values: np.ndarray, center: np.ndarray) -> None:
    if values.shape[-1] != len(center):
        raise DataError(
            f"normalization of {feature!r}: statistics of {len(center)} values, got {values.shape[-1]}. "
            "Use the statistics of this data set."
        )
