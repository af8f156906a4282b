"""Configs as plain data and back, strictly: what a config class does not know is refused.

A config is a frozen dataclass of numbers, words, tuples, mappings and further dataclasses. Its type
annotations decide how JSON is read, so a list becomes a tuple again and a typing error does not pass.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from visuomotor.errors import unknown_name

__all__ = ["differences", "from_plain", "to_plain"]

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Plain data for `json.dump`: dataclasses become objects, tuples become lists.

    Raises:
        TypeError: Something that a config must not hold, such as a tensor.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"expected plain data in a config, got {type(value).__name__}: {value!r}.")


def from_plain(kind: type[T], data: Any, where: str) -> T:
    """An instance of the dataclass `kind` from what `to_plain` gave.

    A field with a default may be missing, so that an old file stays readable when a field is added.

    Args:
        kind: The config class.
        data: What was read from JSON.
        where: Start of error messages, such as "config.json: config".

    Raises:
        ValueError: A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object with the fields of {kind.__name__}, got {data!r}.")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise ValueError(f"{where}: {unknown_name('key', name, known)}")
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{where}: key {missing[0]!r} is missing.")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _read(hint: Any, data: Any, where: str) -> Any:
    """`data` as the annotation `hint` wants it."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return data
    if origin is Literal:
        if data not in parts:
            raise ValueError(f"{where}: {unknown_name('choice', str(data), [str(part) for part in parts])}")
        return data
    if origin in (Union, types.UnionType):
        return _read_union(parts, data, where)
    if origin in (tuple, list):
        return _read_sequence(origin, parts, data, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected an object, got {data!r}.")
        return {key: _read(parts[1], value, f"{where}.{key}") for key, value in data.items()}
    if is_dataclass(hint):
        return from_plain(hint, data, where)  # type: ignore[arg-type]
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(data, hint) and (hint is bool or not isinstance(data, bool)):
        return data
    raise ValueError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {data!r}.")


def _read_union(parts: tuple[Any, ...], data: Any, where: str) -> Any:
    """`data` as the first member of a union that takes it."""
    if data is None and type(None) in parts:
        return None
    problems = []
    for part in parts:
        if part is not type(None):
            try:
                return _read(part, data, where)
            except ValueError as problem:
                problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    raise ValueError(f"{where}: no type of the union takes {data!r}.")


def _read_sequence(origin: type, parts: tuple[Any, ...], data: Any, where: str) -> Any:
    """A list from JSON as a tuple or a list."""
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{where}: expected a list, got {data!r}.")
    if origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
        if len(parts) != len(data):
            raise ValueError(f"{where}: expected {len(parts)} values, got {len(data)}.")
        return tuple(_read(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(zip(parts, data)))
    return origin(_read(parts[0], item, f"{where}[{i}]") for i, item in enumerate(data))


def differences(there: Any, here: Any, where: str = "") -> list[str]:
    """Where two trees of plain data differ: "policy.config.width: 64 there, 128 here", one a place."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        found = []
        for key in [*there, *(key for key in here if key not in there)]:
            path = f"{where}.{key}" if where else str(key)
            if key not in there or key not in here:
                found.append(f"{path}: {_short(there.get(key))} there, {_short(here.get(key))} here")
            else:
                found += differences(there[key], here[key], path)
        return found
    return [] if there == here else [f"{where}: {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
