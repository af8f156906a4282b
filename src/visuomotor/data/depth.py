"""Depth: what a column of it is, and meters to 12-bit codes of video and back, as LeRobot does it.

Near distances get finer steps: a code counts evenly in log(meters + shift). With the default range
of 1 cm to 10 m a step is 1.2 mm near the camera and 4.4 mm at its far end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt16

from visuomotor.data.features import Feature
from visuomotor.errors import DataError, unknown_name

__all__ = ["DepthScale", "depth_feature", "meters_in"]

_TOP = 4095  # the largest 12-bit code


@dataclass(frozen=True, kw_only=True)
class DepthScale:
    """How codes and meters belong together."""

    low: float = 0.01
    """Meters at code 0."""
    high: float = 10.0
    """Meters at code 4095."""
    shift: float = 3.5
    """Meters added before the logarithm."""
    logarithmic: bool = True
    """Whether codes count evenly in the logarithm, or in meters."""

    @classmethod
    def from_info(cls, where: str, info: Mapping[str, Any]) -> DepthScale:
        """The scale that a feature's `info` tells; what it does not tell has LeRobot's default.

        Raises:
            DataError: With `where`, if the numbers make no scale.
        """
        told = {
            field: info[f"video.{name}"]
            for field, name in (("low", "depth_min"), ("high", "depth_max"), ("shift", "shift"))
            if info.get(f"video.{name}") is not None
        }
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in told.values()):
            raise DataError(f"{where}: expected depth_min, depth_max and shift to be numbers, got {told}.")
        logarithmic = info.get("video.use_log")
        scale = cls(**told, logarithmic=logarithmic is None or bool(logarithmic))
        if scale.high <= scale.low or (scale.logarithmic and scale.low + scale.shift <= 0):
            raise DataError(f"{where}: depth range {scale} is empty, or has no logarithm.")
        return scale

    def to_info(self) -> dict[str, Any]:
        """The entries of a feature's `info`."""
        return {
            "video.depth_min": self.low,
            "video.depth_max": self.high,
            "video.shift": self.shift,
            "video.use_log": self.logarithmic,
        }

    def decode(self, codes: UInt16[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
        """Meters."""
        begin, step = self._line()
        found = codes.astype(np.float32) * np.float32(step) + np.float32(begin)
        if self.logarithmic:
            found = np.exp(found) - np.float32(self.shift)
        return np.clip(found, np.float32(self.low), np.float32(self.high))

    def encode(self, meters: Float32[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
        """The nearest codes; outside the range its nearer end, for NaN that of 0."""
        begin, step = self._line()
        inside = np.clip(np.nan_to_num(meters.astype(np.float64)), self.low, self.high)
        place = np.log(inside + self.shift) if self.logarithmic else inside
        return np.rint((place - begin) / step).clip(0, _TOP).astype(np.uint16)

    def _line(self) -> tuple[float, float]:
        """Where codes begin, and how far apart they are."""
        if not self.logarithmic:
            return self.low, (self.high - self.low) / _TOP
        begin = math.log(self.low + self.shift)
        return begin, (math.log(self.high + self.shift) - begin) / _TOP


Kept = Literal["video", "image"]
Unit = Literal["m", "mm"]


def depth_feature(
    name: str,
    height: int,
    width: int,
    *,
    scale: DepthScale | None = None,
    kept: Kept = "video",
    unit: Unit = "m",
) -> Feature:
    """A column of depth for `Recorder(columns=...)`; every tick gives it meters, float (height, width).

    Args:
        name: Of the column; LeRobot's own are called `observation.images.<something>`.
        height: Pixels.
        width: Pixels.
        scale: How meters become the 12-bit codes of "video"; the default is LeRobot's, 1 cm to 10 m. What
            lies outside of the range becomes its nearer end.
        kept: As "video" in mp4 files (small, half a step of the scale is lost), or as "image": TIFF in
            the tables.
        unit: Of "image": float32 meters, of which nothing is lost, or whole millimeters in 16 bits.

    Raises:
        ValueError: Of `kept` or `unit` there is no such thing, or a size that is none.
    """
    for what, value, known in (("way to keep depth", kept, Kept), ("unit of depth", unit, Unit)):
        if value not in get_args(known):
            raise unknown_name(what, value, get_args(known))
    if height < 1 or width < 1:
        raise ValueError(
            f"column {name!r}: expected a height and a width of 1 or more, got {height} x {width}."
        )
    told: dict[str, Any] = {"is_depth_map": True, "depth_unit": unit if kept == "image" else "m"}
    if kept == "video":
        told |= DepthScale.from_info(f"column {name!r}", (scale or DepthScale()).to_info()).to_info()
    return Feature(name=name, dtype=kept, shape=(height, width, 1), info=told)


def meters_in(where: str, info: Mapping[str, Any]) -> float:
    """Meters in one unit of raw depth pictures; millimeters unless their info says "m"."""
    unit = info.get("depth_unit") or "mm"
    if unit not in ("m", "mm"):
        raise DataError(f"{where}: expected depth_unit 'm' or 'mm', got {unit!r}.")
    return 1.0 if unit == "m" else 0.001
