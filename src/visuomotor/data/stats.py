"""How numbers are spread: exact statistics of vectors, sampled ones of pictures.

`summarize` gives what normalization needs; `spread` gives the ten figures that a LeRobot data set
keeps for each feature. Quantiles interpolate linearly (NumPy's default, Hyndman-Fan type 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from visuomotor.errors import DataError
from visuomotor.types import Summary

__all__ = ["QUANTILES", "PictureSpread", "merge", "spread", "summarize"]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_PICTURE_STRIDE = 4
"""Every how many ticks a picture is counted; LeRobot samples as well."""

Spread = dict[str, np.ndarray]
"""LeRobot's name of a figure (min, max, mean, std, count, q01, ...) to its values."""


def summarize(values: np.ndarray) -> Summary:
    """Spread of `values` (tick, dimension) with every tick counted once; std is that of the population."""
    if values.ndim != 2 or not len(values):
        raise DataError(
            f"statistics: expected at least one tick of (tick, dimension), got shape {values.shape}."
        )
    found = spread(values)
    return Summary(
        **{name: found[name] for name in ("mean", "std", "min", "max", "q01", "q99")}, count=len(values)
    )


def spread(values: np.ndarray) -> Spread:
    """All figures of `values` (tick, dimension), float64 (dimension,), count int64 (1,)."""
    exact = np.asarray(values, np.float64)
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0)
    return {
        "min": exact.min(axis=0),
        "max": exact.max(axis=0),
        "mean": exact.mean(axis=0),
        "std": exact.std(axis=0),
        "count": np.array([len(exact)], np.int64),
        **dict(zip(QUANTILES, quantiles)),
    }


class PictureSpread:
    """Counts the levels of one camera's pictures in one episode, every fourth tick."""

    def __init__(self) -> None:
        self._levels: Int[np.ndarray, "3 256"] = np.zeros((3, 256), np.int64)
        self._ticks = 0

    def add(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Count one picture, or pass over it."""
        if self._ticks % _PICTURE_STRIDE == 0:
            for channel, levels in enumerate(self._levels):
                levels += np.bincount(picture[..., channel].ravel(), minlength=256)
        self._ticks += 1

    def finish(self) -> Spread:
        """All figures in [0, 1], shape (3, 1, 1); count is the number of ticks, as LeRobot has it."""
        levels, total = np.arange(256) / 255, self._levels.sum(axis=1)
        share = self._levels / total[:, None]
        mean = share @ levels
        present = [np.flatnonzero(channel) / 255 for channel in self._levels]
        below = np.cumsum(share, axis=1)
        figures: Spread = {
            "min": np.array([channel[0] for channel in present]),
            "max": np.array([channel[-1] for channel in present]),
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0)),
        }
        for name, quantile in QUANTILES.items():
            figures[name] = np.array(
                [levels[np.searchsorted(channel, quantile - 1e-12)] for channel in below]
            )
        return {
            **{name: value[:, None, None] for name, value in figures.items()},
            "count": np.array([self._ticks]),
        }


def merge(parts: Sequence[Spread]) -> Spread:
    """Figures of several episodes together; exact but for quantiles, which are averaged by count.

    This is LeRobot's own rule; it is used for pictures, of which only the figures are kept.
    """
    count: Float[np.ndarray, " episode"] = np.array([float(part["count"][0]) for part in parts])
    weight = count / count.sum()

    def average(name: str, power: int = 1) -> np.ndarray:
        return sum((w * part[name] ** power for w, part in zip(weight, parts)), np.zeros(()))

    mean = average("mean")
    square = average("std", 2) + average("mean", 2)
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
        "count": np.array([int(count.sum())]),
        **{name: average(name) for name in QUANTILES if all(name in part for part in parts)},
    }


def plain(figures: Spread) -> dict[str, Any]:
    """The same as nested lists, for JSON and parquet."""
    return {name: value.tolist() for name, value in figures.items()}
