"""TensorBoard event files, written by hand: scalars only.

A file is a row of TFRecords (length, masked CRC-32C of the length, payload, masked CRC-32C of the
payload), each payload an `Event` message in protobuf encoding. Formats: tensorflow/core/lib/io/
record_writer.cc and tensorflow/core/util/event.proto.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

__all__ = ["EventWriter", "crc32c"]

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


@cache
def _table() -> tuple[int, ...]:
    """Remainder of each byte."""

    def remainder(byte: int) -> int:
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        return byte

    return tuple(remainder(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`; 0xE3069283 for b"123456789"."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    """The checksum as TFRecords store it, rotated and shifted: a checksum of checksums stays useful."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _masked(length) + payload + _masked(payload)


def _varint(value: int) -> bytes:
    """Protobuf's integer: seven bits a byte, the lowest first."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _event(time: float, content: bytes, step: int = 0) -> bytes:
    """An `Event`: wall_time = 1 (double), step = 2 (int64), then file_version = 3 or summary = 5."""
    return _varint(1 << 3 | 1) + struct.pack("<d", time) + _varint(2 << 3) + _varint(step) + content


def _scalar(tag: str, value: float) -> bytes:
    """A `Summary.Value` inside a `Summary`: tag = 1, simple_value = 2 (float)."""
    content = _bytes_field(1, tag.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", value)
    return _bytes_field(1, content)


def flatten(values: Mapping[str, object], start: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of nested mappings by path: {"validation": {"flow": 1}} gives ("validation/flow", 1)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{start}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{start}{name}", float(value)


class EventWriter:
    """Writes one event file in `folder`, replacing the one it wrote there before.

    Args:
        folder: What `tensorboard --logdir` is given.
        time: Seconds since 1970 of the first entry.
    """

    NAME = "events.out.tfevents.0000000000.visuomotor"
    """TensorBoard looks for "tfevents" in names; the number in others is the time they were begun."""

    def __init__(self, folder: str | os.PathLike[str], *, time: float) -> None:
        self._file = (Path(folder) / self.NAME).open("wb")
        self._file.write(_record(_event(time, _bytes_field(3, b"brain.Event:2"))))

    def write(self, step: int, values: Mapping[str, object], *, time: float) -> None:
        """Add the numbers in `values`, nested or not, at `step`."""
        summary = b"".join(_scalar(tag, value) for tag, value in flatten(values))
        self._file.write(_record(_event(time, _bytes_field(5, summary), step)))
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
