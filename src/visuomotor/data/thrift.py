"""Thrift's compact protocol, as far as parquet's footers and page headers need it.

A structure is a dict from field number to (kind, value), in order; a list is (kind of its entries,
entries). What is read can be written again without knowing what it means.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BINARY", "I32", "I64", "LIST", "STRUCT", "Struct", "read_struct", "write_struct"]

Struct = dict[int, tuple[int, Any]]
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_DEEPEST = 32


def read_struct(data: bytes, at: int, depth: int = 0) -> tuple[Struct, int]:
    """The structure at a place, and the place behind it.

    Raises:
        ValueError: It is none, or is cut off.
    """
    if depth > _DEEPEST:
        raise ValueError("structures are nested too deep")
    found: Struct = {}
    number = 0
    while True:
        head, at = _byte(data, at)
        if head == 0:
            return found, at
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        value, at = _read(data, at, kind, depth)
        found[number] = (kind, value)


def write_struct(struct: Struct) -> bytes:
    """The bytes of a structure."""
    parts, last = [], 0
    for number, (kind, value) in sorted(struct.items()):
        step = number - last
        parts.append(
            bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _unsigned(_zigzag(number))
        )
        parts.append(_write(kind, value))
        last = number
    return b"".join(parts) + b"\0"


def _read(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return _byte(data, at)
    if kind in (I16, I32, I64):
        return _signed(data, at)
    if kind == DOUBLE:
        return _take(data, at, 8)
    if kind == BINARY:
        length, at = _varint(data, at)
        return _take(data, at, length)
    if kind == STRUCT:
        return read_struct(data, at, depth + 1)
    if kind in (LIST, SET):
        head, at = _byte(data, at)
        count, inner = head >> 4, head & 15
        if count == 15:
            count, at = _varint(data, at)
        if count > len(data):
            raise ValueError("a list is longer than the file")
        values = []
        for _ in range(count):
            # booleans take a byte each in lists
            value, at = _byte(data, at) if inner in (TRUE, FALSE) else _read(data, at, inner, depth + 1)
            values.append(value)
        return (inner, values), at
    raise ValueError(f"no kind {kind}")


def _write(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return bytes([value])
    if kind in (I16, I32, I64):
        return _unsigned(_zigzag(value))
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return _unsigned(len(value)) + value
    if kind == STRUCT:
        return write_struct(value)
    inner, values = value
    head = (
        bytes([len(values) << 4 | inner])
        if len(values) < 15
        else bytes([0xF0 | inner]) + _unsigned(len(values))
    )
    return head + b"".join(bytes([v]) if inner in (TRUE, FALSE) else _write(inner, v) for v in values)


def _byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("cut off")
    return data[at], at + 1


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(data):
        raise ValueError("cut off")
    return data[at : at + length], at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte, at = _byte(data, at)
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)


def _unsigned(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
