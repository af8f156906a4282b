"""The type checker that tests switch on for the whole package: beartype, but for `Literal`.

A value outside a `Literal` is bad input that the library itself must answer with a helpful
`ValueError`; a checker that speaks first would hide that answer from the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from beartype import BeartypeConf, beartype

__all__ = ["check"]

Function = TypeVar("Function", bound=Callable[..., Any])
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as people write 0 for 0.0


def check(function: Function) -> Function:
    """`function` with its arguments and result checked at every call."""
    function.__annotations__ = {name: _soften(hint) for name, hint in function.__annotations__.items()}
    return _checked(function)


def _soften(hint: Any) -> Any:
    """The same hint with `Literal["a", "b"]` as `str`."""
    if get_origin(hint) is Literal:
        return reduce(or_, {type(value) for value in get_args(hint)})
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_soften(part) for part in get_args(hint))]  # noqa: UP007
    return hint
