"""What info.json says about each column: its dtype, shape and, for pictures, how they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.errors import DataError, unknown_name

__all__ = ["Feature", "parse_features", "unknown_feature"]

_LARGEST = 1 << 28
"""Numbers in one tick of one feature; a picture of 8K has 1e8. More is damage and not data."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a data set.

    Attributes:
        name: As in info.json.
        dtype: "float32", "bool", "string", ... or "image" (in the table), "video" (in mp4 files), or
            "language" (lists of annotations).
        shape: Of one tick; (1,) is a single value. Pictures are (height, width, channel).
        names: What the entries are called, as info.json has it.
        info: More about pictures: codec, pixel format, depth.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> bool:
        """Whether it holds pictures and not values."""
        return self.dtype in ("image", "video")

    @property
    def depth(self) -> bool:
        """Whether its pictures are distances."""
        return bool(self.info.get("is_depth_map") or self.info.get("video.is_depth_map"))

    @property
    def single(self) -> bool:
        """Whether a tick has one value and no list of them."""
        return self.shape in ((), (1,))

    @property
    def numeric(self) -> np.dtype[Any] | None:
        """The NumPy type of its numbers; None if it holds none."""
        if self.pictures or self.dtype in ("string", "language"):
            return None
        try:
            found = np.dtype(self.dtype)
        except TypeError:
            return None
        return found if found.kind in "fiub" else None

    def to_json(self) -> dict[str, Any]:
        """The entry of info.json."""
        told = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return {**told, "info": dict(self.info)} if self.info else told


def parse_features(path: Path, info: Mapping[str, Any]) -> dict[str, Feature]:
    """Feature name to `Feature`; `DataError` with `path` (info.json) where an entry makes no sense."""
    return {str(name): _parse(path, str(name), entry) for name, entry in info["features"].items()}


def _parse(path: Path, name: str, entry: Any) -> Feature:
    where = f"{path}: feature {name!r}"
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise DataError(f"{where}: expected a name without '/' that stays in its folder. Rename it.")
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dtype"), str):
        raise DataError(f"{where}: expected an object with a 'dtype', got {entry!r:.80}.")
    shape = entry.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(shape) > 8
    ):
        raise DataError(f"{where}: expected a 'shape' of whole numbers, got {shape!r:.80}.")
    if np.prod([float(size) for size in shape]) > _LARGEST:
        raise DataError(f"{where}: shape {shape} is too large for one tick. info.json is damaged.")
    info = entry.get("info") or entry.get("video_info") or {}
    if not isinstance(info, Mapping):
        raise DataError(f"{where}: expected 'info' to be an object, got {info!r:.80}.")
    names, dtype = entry.get("names"), entry["dtype"]
    if dtype in ("image", "video"):
        shape = _height_width_channel(where, shape, names)
    return Feature(name=name, dtype=dtype, shape=tuple(shape), names=names, info=info)


def _height_width_channel(where: str, shape: list[int], names: Any) -> list[int]:
    """The shape of a picture with channels last; older data sets name them first."""
    if len(shape) == 2:
        return [*shape, 1]
    if len(shape) != 3:
        raise DataError(f"{where}: expected a picture of height, width and channels, got shape {shape}.")
    named = isinstance(names, list) and [str(name).rstrip("s") for name in names]
    first = named[0] == "channel" if named else shape[0] in (1, 3) and shape[2] not in (1, 3)
    return [shape[1], shape[2], shape[0]] if first else shape


def unknown_feature(path: Path, name: str, known: Mapping[str, Any]) -> DataError:
    """Error for a feature that is wanted and that the data set lacks, with the closest one it has."""
    return DataError(
        f"{path}: {unknown_name('feature', name, known)} Rename the camera in the spec, pass `keys`, "
        "or pick other data."
    )
