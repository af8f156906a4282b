"""Formats that can be converted, and what reading one of them has to offer.

A new format is a class with the attributes of `Source`, and a line in `FORMATS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from visuomotor.data.convert.mapping import Mapping
from visuomotor.errors import DataError, unknown_name

__all__ = ["FORMATS", "Episode", "Source", "find_files", "missing_extra", "natural", "open_source", "unused"]

FORMATS = {
    "libero": "visuomotor.data.convert.robosuite:Libero",
    "robomimic": "visuomotor.data.convert.robosuite:Robomimic",
    "act": "visuomotor.data.convert.act:Act",
    "replay": "visuomotor.data.convert.replay:Replay",
}
"""Name to class; the first one that accepts a path is taken."""


@runtime_checkable
class Episode(Protocol):
    """One foreign demonstration.

    Attributes:
        where: File and name, for messages.
        instruction: Its own words, if the file has any.
    """

    where: str
    instruction: str | None

    def keys(self) -> dict[str, tuple[int, ...]]:
        """Every array of it with its shape."""
        ...

    def read(self, key: str) -> np.ndarray:
        """A whole array, for numbers."""
        ...

    def pictures(self, key: str) -> Iterator[np.ndarray]:
        """Pictures of a camera one by one, (height, width, 3) as stored."""
        ...


@runtime_checkable
class Source(Protocol):
    """Foreign demonstrations.

    Attributes:
        files: Everything that is read.
    """

    files: Sequence[Path]

    def names(self) -> Sequence[str]:
        """Names of the episodes, in the order in which they are converted."""
        ...

    def open(self, name: str) -> Episode:
        """One episode."""
        ...

    def preset(self) -> Mapping | str:
        """What its numbers mean as published, or why nobody can know."""
        ...


def open_source(path: Path, kind: str | None = None) -> tuple[str, Source]:
    """Name of the format and the demonstrations at `path`.

    Args:
        path: A file, or a folder of files.
        kind: A key of `FORMATS`; found out from the files if None.

    Raises:
        DataError: Nothing there, or no format that is known.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    if kind is not None and kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    for name in FORMATS if kind is None else (kind,):
        module, _, attribute = FORMATS[name].partition(":")
        home: Any = getattr(import_module(module), attribute)
        if home.accepts(path):
            return name, home(path)
    expected = f"format {kind!r}" if kind else f"one of the formats {', '.join(FORMATS)}"
    raise DataError(
        f"{path}: expected {expected}, found neither their files nor their keys. What is there: {_look(path)}"
    )


def find_files(path: Path, *suffixes: str) -> list[Path]:
    """The file, or the files with these suffixes in a folder, numbers in their names in numeric order."""
    if path.is_file():
        return [path] if path.suffix in suffixes else []
    found = [inner for inner in path.rglob("*") if inner.suffix in suffixes and inner.is_file()]
    return sorted(found, key=lambda inner: natural(str(inner.relative_to(path))))


def natural(name: str) -> list[Any]:
    """Sorts `demo_10` behind `demo_9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def missing_extra(package: str, extra: str, path: Path) -> DataError:
    """Error for a file that needs an optional package."""
    return DataError(f"{path}: reading it needs {package}. Install it: pip install 'visuomotor[{extra}]'")


def _look(path: Path) -> str:
    """The first names at a place."""
    if path.is_file():
        return f"a file {path.suffix or 'without suffix'}"
    names = sorted(inner.name for inner in path.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def unused(episode: Episode, mapping: Mapping) -> dict[str, tuple[int, ...]]:
    """Arrays of an episode that a mapping leaves behind, with their shapes."""
    return {key: shape for key, shape in episode.keys().items() if key not in mapping.keys}
