"""Columns of parquet files as NumPy, of every dtype that LeRobot knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from visuomotor.data.features import Feature
from visuomotor.errors import DataError

__all__ = ["column_array", "column_values", "matrix", "numbers"]


def column_values(path: Path, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
    """The values of a column that holds no pictures, first axis tick.

    Args:
        path: The file, for messages.
        feature: What the column should hold.
        column: As read from the file.

    Returns:
        Of the dtype and shape of the feature; a shape of (1,) gives no second axis. Texts are objects:
        `str`, or None where a tick has none; annotations are lists of dicts.

    Raises:
        DataError: Other types or shapes than the feature says, or numbers that are missing.
    """
    where = f"{path}: column {feature.name!r}"
    if feature.dtype == "language":
        return _objects(column.to_pylist())
    if feature.dtype != "string" and feature.numeric is None:
        raise DataError(f"{where}: dtype {feature.dtype!r} is not known. Leave this column alone.")
    lists, flat = _flatten(where, feature, column)
    if feature.dtype == "string":
        if not (pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type)):
            raise DataError(f"{where}: expected texts, got {flat.type}.")
        values = _objects(flat.to_pylist())
    else:
        values = _cast(where, flat, feature.numeric)
    shape = feature.shape if lists and not feature.single else ()
    return values.reshape(len(column), *shape)


def _flatten(where: str, feature: Feature, column: pa.ChunkedArray) -> tuple[int, pa.ChunkedArray]:
    """How deep the lists are, and what lies in them; their lengths are those of the feature."""
    depth, flat = 0, column
    expected = feature.shape
    while _is_list(flat.type):
        if depth == len(expected):
            raise DataError(f"{where}: expected values of shape {list(expected)}, got deeper lists.")
        lengths = np.unique(pc.list_value_length(flat).drop_null().to_numpy())
        if flat.null_count or not np.array_equal(lengths, [expected[depth]][: len(flat)]):
            raise DataError(
                f"{where}: expected lists of {expected[depth]} on axis {depth}, got lengths "
                f"{lengths.tolist()[:5]} and {flat.null_count} nulls."
            )
        flat = pa.chunked_array([chunk.flatten() for chunk in flat.chunks], flat.type.value_type)
        depth += 1
    if depth != len(expected) and not (depth == 0 and feature.single):
        raise DataError(f"{where}: expected values of shape {list(expected)}, got {column.type}.")
    return depth, flat


def _cast(where: str, flat: pa.ChunkedArray, dtype: np.dtype[Any] | None) -> np.ndarray:
    """Numbers as `dtype`; whole numbers may become real ones, not the other way round."""
    if flat.null_count:
        raise DataError(f"{where}: expected numbers, got {flat.type} with {flat.null_count} nulls.")
    values = flat.to_numpy()
    if dtype is None or values.dtype.kind not in "fiub" or not np.can_cast(values.dtype, dtype, "same_kind"):
        raise DataError(f"{where}: expected {dtype}, got {flat.type}.")
    return values.astype(dtype, copy=False)


def numbers(
    path: Path, name: str, column: pa.ChunkedArray, place: Callable[[int], str] = "row {}".format
) -> np.ndarray:
    """(row,) from a column of plain numbers; `place` says in errors where a row of the file belongs."""
    kind = column.type
    if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        first = f", first at {place(_first(column.is_null()))}" if column.null_count else ""
        raise DataError(
            f"{path}: column {name!r}: expected numbers, got {kind} with {column.null_count} nulls{first}."
        )
    return column.to_numpy()


def matrix(
    path: Path, name: str, column: pa.ChunkedArray, width: int, place: Callable[[int], str] = "row {}".format
) -> np.ndarray:
    """float32 (row, width) from a column of lists (or of numbers, if width is 1); `place` as in `numbers`."""
    kind = column.type
    if width == 1 and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return numbers(path, name, column, place).astype(np.float32)[:, None]
    if not _is_list(kind):
        raise DataError(f"{path}: column {name!r}: expected lists of {width} numbers, got {kind}.")
    lengths = pc.list_value_length(column)
    wrong = pc.or_kleene(column.is_null(), pc.not_equal(lengths, width))
    if pc.any(wrong).as_py():
        found = np.unique(lengths.drop_null().to_numpy()).tolist()
        nulls = f" and {column.null_count} nulls" if column.null_count else ""
        raise DataError(
            f"{path}: column {name!r}: expected lists of {width} numbers, got lengths {found}{nulls}, "
            f"first at {place(_first(wrong))}."
        )
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], kind.value_type)
    return (
        numbers(path, name, flat, lambda entry: place(entry // width)).astype(np.float32).reshape(-1, width)
    )


def _first(wrong: pa.ChunkedArray) -> int:
    """Place of the first that is true."""
    return int(np.flatnonzero(wrong.to_numpy())[0])


def column_array(feature: Feature, values: np.ndarray) -> pa.Array:
    """The other way round: a column of the values of some ticks, first axis tick."""
    if feature.dtype == "string":
        flat = pa.array(values.ravel().tolist(), pa.string())
    else:
        flat = pa.array(np.ascontiguousarray(values, feature.numeric).ravel())
    if feature.single:
        return flat
    if len(feature.shape) == 1:
        kind = pa.list_(pa.field("element", flat.type), feature.shape[0])
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    for size in reversed(feature.shape):  # LeRobot keeps more than one axis as plain lists
        offsets = np.arange(0, len(flat) + 1, size, dtype=np.int32)
        flat = pa.ListArray.from_arrays(offsets, flat, type=_list(flat.type))
    return flat


def _list(kind: pa.DataType) -> pa.DataType:
    """A list type with the inner name that parquet gives it, so that a round trip changes nothing."""
    return pa.list_(pa.field("element", kind))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _objects(values: list[Any]) -> np.ndarray:
    """An array of Python objects, one axis, whatever they are."""
    found = np.empty(len(values), object)
    found[:] = values
    return found
