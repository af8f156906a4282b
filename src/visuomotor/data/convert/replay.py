"""Replay buffers of Diffusion Policy: zarr (version 2), a folder or a zip.

    data/<key>          (tick, ...): all episodes one after the other
    meta/episode_ends   (episode,): the row behind the last one of each

What the arrays mean stands nowhere in the file. PushT's are published: agent and block in pixels of a
picture of 512 x 512, targets for the agent, ten ticks a second. Others need a mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data.convert.mapping import Mapping, Part, View
from visuomotor.data.convert.sources import missing_extra
from visuomotor.errors import DataError
from visuomotor.types import Dimension

__all__ = ["Replay"]

_BLOCK = 32


class Replay:
    """Episodes of a replay buffer. See `Source`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = _open(path)
        inside = [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
        self.files: Sequence[Path] = inside

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether it looks like one."""
        if path.is_file():
            return path.suffix == ".zip" and ".zarr" in path.name
        return (path / "meta" / "episode_ends").is_dir() and (path / "data").is_dir()

    def names(self) -> Sequence[str]:
        """Numbers of the episodes."""
        return [str(number) for number in range(len(self._ends))]

    def open(self, name: str) -> _Part:
        """One episode."""
        number = int(name)
        first = int(self._ends[number - 1]) if number else 0
        return _Part(self._path, number, self._arrays, first, int(self._ends[number]))

    def preset(self) -> Mapping | str:
        """That of PushT, if the arrays are its own."""
        shapes = {key: array.shape[1:] for key, array in self._arrays.items()}
        pusht = {"img": (96, 96, 3), "state": (5,), "action": (2,), "keypoint": (9, 2), "n_contacts": (1,)}
        if shapes != pusht:
            listed = ", ".join(f"{key} {array.shape}" for key, array in self._arrays.items())
            return f"{self._path}: a replay buffer does not say what its arrays mean: {listed}."
        agent = tuple(Dimension(name=name, unit="px", kind="ee", low=0.0, high=512.0) for name in ("x", "y"))
        return Mapping(
            embodiment="pusht",
            rate=10.0,
            state=(Part(key="state", dimensions=agent, columns=(0, 1)),),
            action=(Part(key="action", dimensions=agent),),
            views=(View(camera="top", key="img"),),
        )

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return dict(sorted(self._root["data"].arrays()))

    @cached_property
    def _ends(self) -> np.ndarray:
        ends = np.asarray(self._root["meta"]["episode_ends"][:], np.int64)
        where = f"{self._path}: key 'meta/episode_ends'"
        if not len(ends) or (np.diff(ends, prepend=0) <= 0).any():
            raise DataError(f"{where}: expected ends that rise from above 0, got {ends[:8].tolist()}.")
        for key, array in self._arrays.items():
            if array.shape[0] != ends[-1]:
                raise DataError(
                    f"{where}: the last episode ends at {ends[-1]}, but key {key!r} has "
                    f"{array.shape[0]} rows."
                )
        return ends


class _Part:
    """Rows of one episode. See `Episode`."""

    def __init__(self, path: Path, number: int, arrays: dict[str, Any], first: int, end: int) -> None:
        self.where = f"{path}: episode {number}"
        self.instruction: str | None = None
        self._arrays, self._first, self._end = arrays, first, end

    def keys(self) -> dict[str, tuple[int, ...]]:
        """Every array with the shape of these rows."""
        return {key: (self._end - self._first, *array.shape[1:]) for key, array in self._arrays.items()}

    def read(self, key: str) -> np.ndarray:
        """These rows of an array."""
        return self._rows(key, self._first, self._end)

    def pictures(self, key: str) -> Iterator[np.ndarray]:
        """Pictures one by one; PushT keeps whole levels as floats."""
        for start in range(self._first, self._end, _BLOCK):
            for row in self._rows(key, start, min(start + _BLOCK, self._end)):
                if row.dtype == np.uint8:
                    yield row
                    continue
                levels = row.astype(np.uint8)
                if not np.array_equal(levels, row):
                    raise DataError(
                        f"{self.where}, key {key!r}: expected levels 0 to 255, got {row.dtype} "
                        f"from {row.min()} to {row.max()}."
                    )
                yield levels

    def _rows(self, key: str, start: int, end: int) -> np.ndarray:
        if key not in self._arrays:
            raise DataError(f"{self.where}: no key {key!r}. It has: {', '.join(self._arrays)}.")
        try:
            return np.asarray(self._arrays[key][start:end])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.where}, key {key!r}: cannot be read ({error}).") from error


def _open(path: Path) -> Any:
    try:
        import zarr
        from zarr.storage import ZipStore
    except ImportError:
        raise missing_extra("zarr", "zarr", path) from None
    try:
        root = zarr.open_group(ZipStore(path, mode="r") if path.is_file() else str(path), mode="r")
        if "data" not in root or "meta/episode_ends" not in root:
            raise DataError(f"{path}: expected the groups 'data' and 'meta/episode_ends' of a replay buffer.")
    except DataError:
        raise
    except Exception as error:  # zarr raises whatever its stores and codecs raise
        raise DataError(f"{path}: cannot be read as zarr ({error}). Fetch it again.") from error
    return root
