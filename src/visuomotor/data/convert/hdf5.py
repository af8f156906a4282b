"""What all HDF5 layouts share: opening files, walking through them, pictures plain or as JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data.convert.sources import find_files, missing_extra
from visuomotor.errors import DataError

__all__ = ["Group", "open_file", "open_files", "text"]

_BLOCK = 32  # pictures that are read at once


def open_files(path: Path) -> list[Path]:
    """HDF5 files at a place."""
    return find_files(path, ".hdf5", ".h5")


def open_file(path: Path) -> Any:
    """An HDF5 file, to be used in a `with`; `DataError` if it is damaged or h5py is missing."""
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "hdf5", path) from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as HDF5 ({error}). Fetch the file again.") from error


def text(value: Any) -> str:
    """An attribute that is text, which old files keep as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


class Group:
    """One episode: the arrays below a group of a file. See `Episode`.

    Args:
        path: The file.
        name: The group.
        instruction: The words of the episode, if the file has any.
        skip: Keys that are no data of an episode.
    """

    def __init__(self, path: Path, name: str, instruction: str | None, skip: tuple[str, ...] = ()) -> None:
        self.path, self.name, self.instruction, self._skip = path, name, instruction, skip
        self.where = f"{path}: episode {name.strip('/').rpartition('/')[2] or path.stem!r}"

    def keys(self) -> dict[str, tuple[int, ...]]:
        """Every array of the episode with its shape."""
        found: dict[str, tuple[int, ...]] = {}

        def visit(key: str, item: Any) -> None:
            if hasattr(item, "shape") and not key.startswith(self._skip):
                found[key] = tuple(item.shape)

        with open_file(self.path) as file:
            file[self.name].visititems(visit)
        return found

    def read(self, key: str) -> np.ndarray:
        """A whole array."""
        with open_file(self.path) as file:
            return np.asarray(self._array(file, key)[()])

    def pictures(self, key: str) -> Iterator[np.ndarray]:
        """Pictures one by one; those kept as JPEG are decoded."""
        with open_file(self.path) as file:
            array = self._array(file, key)
            for start in range(0, len(array), _BLOCK):
                try:
                    block = array[start : start + _BLOCK]
                except OSError as error:
                    raise DataError(f"{self.where}, key {key!r}: cannot be read ({error}).") from error
                for number, row in enumerate(block, start=start):
                    yield (
                        row if array.ndim == 4 else _decode(row, f"{self.where}, key {key!r}, tick {number}")
                    )

    def _array(self, file: Any, key: str) -> Any:
        try:
            return file[self.name][key]
        except KeyError:
            raise DataError(
                f"{self.where}: no key {key!r}. It has: {', '.join(self.keys()) or 'nothing'}."
            ) from None


def _decode(data: Any, where: str) -> np.ndarray:
    """A picture from the bytes of an image file, zeros behind its end."""
    import av

    packed = np.asarray(data, np.uint8).tobytes() if not isinstance(data, bytes) else data
    try:
        context: Any = av.CodecContext.create("png" if packed.startswith(b"\x89PNG") else "mjpeg", "r")
        frames = [*context.decode(av.Packet(packed)), *context.decode(None)]
        picture: np.ndarray = frames[0].to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DataError(
            f"{where}: expected a picture as JPEG or PNG, but it cannot be decoded ({error})."
        ) from error
    return picture
