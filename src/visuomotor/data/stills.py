"""Pictures that are kept one by one: PNG, JPEG and TIFF in the tables or in files of their own.

PNG and JPEG go through PyAV, uncompressed TIFF (depth as LeRobot writes it) is read here. The size
that a file claims is compared with the one that is wanted before anything is decoded, so that a
damaged or hostile header costs no memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from visuomotor.data.features import Feature
from visuomotor.errors import DataError

__all__ = ["StillFile", "decode_still", "encode_png", "encode_tiff", "read_stills", "still_bytes"]

_TO_RGB = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_RESTORE = "Restore the file from a copy or collect the data again."


def encode_png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as the bytes of a PNG file; nothing is lost."""
    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = *picture.shape[:2], "rgb24"
    context.time_base, context.thread_count = Fraction(1, 10), 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def encode_tiff(picture: np.ndarray) -> bytes:
    """The picture, float32 or uint16 (height, width), as an uncompressed TIFF file; nothing is lost."""
    height, width = picture.shape
    kind, bits = (3, 32) if picture.dtype == np.float32 else (1, 16)
    pixels = np.ascontiguousarray(picture, f"<{'f4' if kind == 3 else 'u2'}").tobytes()
    entries = (
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),  # not compressed
        (262, 3, 1),  # 0 is black
        (273, 4, 8),  # pixels begin behind the header
        (277, 3, 1),  # channels
        (278, 4, height),
        (279, 4, len(pixels)),
        (339, 3, kind),  # 1 whole numbers, 3 real ones
    )
    tags = b"".join(struct.pack("<HHII", tag, type_, 1, value) for tag, type_, value in entries)
    directory = struct.pack("<H", len(entries)) + tags + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory


def read_stills(folder: Path, path: Path, feature: Feature, first: int, count: int) -> Iterator[np.ndarray]:
    """Pictures of rows `first` to `first + count` of a parquet file, one after the other.

    Args:
        folder: The data set, within which pictures that are files must lie.
        path: The parquet file.
        feature: An image feature.
        first: Row of the first picture in the file.
        count: How many are wanted.

    Returns:
        uint8 (height, width, 3); depth as float32 (height, width) in the unit of the file.

    Raises:
        DataError: Missing, damaged, or of another size.
    """
    row = first
    for value in _values(path, feature.name, first, count):
        where = f"{path}: row {row}: {feature.name!r}"
        yield decode_still(where, still_bytes(where, folder, value), feature)
        row += 1
    if row != first + count:
        raise DataError(
            f"{path}: {feature.name!r}: expected rows up to {first + count}, found {row}. {_RESTORE}"
        )


class StillFile:
    """A parquet file of which single pictures are wanted, in any order.

    Args:
        folder: The data set, within which pictures that are files must lie.
        path: The parquet file.
        feature: An image feature.

    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, folder: Path, path: Path, feature: Feature) -> None:
        self._folder, self._path, self._feature = folder, path, feature
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read as parquet ({error}). {_RESTORE}") from error
        groups = range(self._file.num_row_groups)
        self._ends = np.cumsum([self._file.metadata.row_group(group).num_rows for group in groups])
        self._group, self._values = -1, pa.chunked_array([], pa.null())

    def picture(self, row: int) -> np.ndarray:
        """The picture of a row; see `read_stills`. The row group that it lies in is kept until `forget`."""
        where = f"{self._path}: row {row}: {self._feature.name!r}"
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group == len(self._ends):
            raise DataError(f"{where}: the file has {self._ends[-1] if group else 0} rows. {_RESTORE}")
        if group != self._group:
            try:
                table = self._file.read_row_group(group, columns=[self._feature.name])
                self._group, self._values = group, table[self._feature.name]
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DataError(f"{where}: cannot be read as parquet ({error}). {_RESTORE}") from error
        value = self._values[row - int(self._ends[group]) + len(self._values)].as_py()
        return decode_still(where, still_bytes(where, self._folder, value), self._feature)

    def forget(self) -> None:
        """Let go of the row group."""
        self._group, self._values = -1, pa.chunked_array([], pa.null())

    def close(self) -> None:
        """Close the file."""
        self.forget()
        self._file.close()


def decode_still(where: str, data: bytes, feature: Feature) -> np.ndarray:
    """One picture from the bytes of its file; see `read_stills`."""
    height, width, channels = feature.shape
    claimed = _claimed_size(where, data)
    if claimed != (height, width):
        raise DataError(
            f"{where}: expected a picture of {height} x {width}, got {claimed[0]} x {claimed[1]}. {_RESTORE}"
        )
    if data[:2] in (b"II", b"MM"):
        return _tiff(where, data, height, width)
    context: Any = av.CodecContext.create("png" if data[:4] == b"\x89PNG" else "mjpeg", "r")
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{where}: cannot be decoded as a picture ({error}). {_RESTORE}") from error
    if not frames:
        raise DataError(f"{where}: holds no picture. {_RESTORE}")
    if channels == 1:
        wide = frames[0].format.name.startswith("gray16")
        return frames[0].to_ndarray(format="gray16le" if wide else "gray").astype(np.float32)
    rgb = VideoReformatter().reformat(frames[0], format="rgb24", interpolation=_TO_RGB, threads=1)
    return rgb.to_ndarray()


def _values(path: Path, key: str, first: int, count: int) -> Iterator[Any]:
    """What the column holds in the wanted rows; only row groups with such rows are read."""
    try:
        with pq.ParquetFile(path) as file:
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(first - start, 0), min(first + count - start, rows)
                at, start = 0, start + rows
                if low >= high:
                    continue
                for batch in file.iter_batches(64, row_groups=[group], columns=[key]):
                    column = batch.column(batch.schema.get_field_index(key))
                    part = column.slice(
                        max(low - at, 0), max(min(high - at, len(column)) - max(low - at, 0), 0)
                    )
                    yield from part.to_pylist()
                    at += len(column)
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        raise DataError(f"{path}: column {key!r} cannot be read as parquet ({error}). {_RESTORE}") from error


def still_bytes(where: str, folder: Path, value: Any) -> bytes:
    """The bytes of a picture: in the table, or in a file of the data set that it names."""
    if isinstance(value, Mapping) and value.get("bytes"):
        return bytes(value["bytes"])
    if isinstance(value, bytes):
        return value
    name = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: holds no picture. {_RESTORE}")
    path = (folder / name).absolute()
    if ".." in Path(name).parts or not path.is_relative_to(folder.absolute()):
        raise DataError(
            f"{where}: picture {name!r} lies outside the data set. Nothing outside of it is read."
        )
    if not path.is_file():
        raise DataError(f"{where}: picture {path} is missing. {_RESTORE}")
    return path.read_bytes()


def _claimed_size(where: str, data: bytes) -> tuple[int, int]:
    """(height, width) as the header has it."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            tags = _tags(data)
            return tags[257][0], tags[256][0]
    except (struct.error, KeyError, IndexError) as error:
        raise DataError(f"{where}: the header of the picture is cut off ({error!r}). {_RESTORE}") from error
    raise DataError(f"{where}: expected a PNG, JPEG or TIFF picture, got bytes {data[:4]!r}. {_RESTORE}")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # start of a frame
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + length


def _tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Whole-number tags of the first picture of a TIFF file."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, at)
    tags = {}
    for entry in range(entries):
        place = at + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, place)
        code = {3: "H", 4: "I"}.get(kind)
        if code is None or count * struct.calcsize(code) > len(data):
            continue
        if count * struct.calcsize(code) > 4:
            (place,) = struct.unpack_from(f"{order}I", data, place + 8)
        else:
            place += 8
        tags[tag] = struct.unpack_from(f"{order}{count}{code}", data, place)
    return tags


def _tiff(where: str, data: bytes, height: int, width: int) -> np.ndarray:
    """float32 (height, width) from an uncompressed TIFF of one channel."""
    order = "<" if data[:2] == b"II" else ">"
    tags = _tags(data)
    kind = {(16, 1): "u2", (32, 3): "f4", (8, 1): "u1"}.get((tags.get(258, (1,))[0], tags.get(339, (1,))[0]))
    if kind is None or tags.get(259, (1,))[0] != 1 or tags.get(277, (1,))[0] != 1:
        raise DataError(
            f"{where}: expected an uncompressed TIFF of one channel of 8, 16 or 32 bits. Convert it."
        )
    strips = zip(tags.get(273, ()), tags.get(279, ()))
    pixels = b"".join(data[start : start + size] for start, size in strips)
    values = np.frombuffer(pixels[: len(pixels) // int(kind[1]) * int(kind[1])], f"{order}{kind}")
    if len(values) != height * width:
        raise DataError(f"{where}: expected {height * width} pixels, found {len(values)}. {_RESTORE}")
    return values.reshape(height, width).astype(np.float32)
