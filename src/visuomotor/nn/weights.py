"""Strict loading of weights by name: every name on either side is accounted for.

A table says for each of our names where its values stand in the file. Files on disk do not agree about
names (a library renames its modules, another stores three projections as one), so an entry of the table
is one spelling or several, and a spelling is a name or a rule that makes our weight of theirs (`Made`).
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visuomotor.errors import CheckpointError

__all__ = ["Made", "Names", "Spelling", "load_named", "named_weights", "nested", "part_of", "unfilled"]


@dataclass(frozen=True)
class Made:
    """A weight that is made of foreign ones: turned, split, joined.

    Attributes:
        of: Foreign names.
        by: Their tensors, in this order, to ours. It is also called with tensors without values
            (on the device "meta") to find out the shape, so it must not look at values.
    """

    of: tuple[str, ...]
    by: Callable[..., Tensor]


Spelling: TypeAlias = str | Made
"""Where a weight of ours stands in a file: its name there, or what it is made of."""
Names: TypeAlias = Mapping[str, Spelling | Sequence[Spelling]]
"""Our name to its spelling, or to several, of which the first that a file has counts."""


def nested(names: Names, ours: str, theirs: str | Sequence[str]) -> dict[str, tuple[Spelling, ...]]:
    """The table of a part, for the whole that it is a part of.

    Args:
        names: The table of the part.
        ours: What stands before its names in our network: "vision.".
        theirs: What may stand before its names in a file; every spelling is tried with each.
    """
    fronts = (theirs,) if isinstance(theirs, str) else theirs
    return {
        ours + name: tuple(_behind(front, each) for front in fronts for each in _spellings(entry))
        for name, entry in names.items()
    }


def part_of(name: str, part: int, parts: int) -> Made:
    """One of several equal parts of a foreign weight along its first axis, as of fused projections.

    Args:
        name: Foreign name.
        part: Which, from 0.
        parts: How many there are.
    """

    def cut(whole: Tensor) -> Tensor:
        if len(whole) % parts:
            raise ValueError(f"{len(whole)} rows are not {parts} equal parts")
        return whole.chunk(parts)[part]

    return Made((name,), cut)


def _behind(front: str, spelling: Spelling) -> Spelling:
    if isinstance(spelling, str):
        return front + spelling
    return Made(tuple(front + name for name in spelling.of), spelling.by)


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, detached; a tied one under its first name only."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks made inside have shapes and no values, and cost neither memory nor time.

    They are on the device "meta"; `load_named` gives them values.
    """
    with torch.device("meta"), _WithoutFirstValues():
        yield


class _WithoutFirstValues(TorchFunctionMode):
    """Leaves new weights as they are: normal numbers on the meta device import torch's compiler (1.5 s)."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.constant_):
            return (kwargs or {}).get("tensor", *args[:1])
        return function(*args, **(kwargs or {}))


def load_named(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    where: str,
    names: Names | None = None,
    unused: Sequence[str] = (),
    same_types: bool = False,
    device: torch.device | str = "cpu",
) -> None:
    """Copy foreign weights into a network; a name that is missing, unknown or of another shape is an error.

    Args:
        network: Keeps its device and its types. One without values (`unfilled`) gets them.
        weights: Foreign name to tensor. Tensors of files that are mapped into memory are read one by one.
        where: What the weights are, for messages: a path, or the name of a layout.
        names: The table of names, for every weight of the network (a tied one under its first name);
            None if the names are the same.
        unused: Patterns (`fc.*`) of foreign names that are known and that this network has no use for.
        same_types: Whether the types must be equal, too; else numbers are converted.
        device: Where the weights of a network without values go.

    A foreign tensor that stands in the file under two spellings of one weight is accepted if both are
    equal to the last bit (tied weights that were saved twice), and otherwise unknown.

    Raises:
        CheckpointError: With the closest name on the other side of each name that does not fit. The
            network is then as it was.
    """
    own = named_weights(network)
    names = {name: name for name in own} if names is None else names
    if set(own) - set(names) or set(names) - set(network.state_dict()):
        differing = sorted(set(own) - set(names)) + sorted(set(names) - set(network.state_dict()))
        raise ValueError(f"{where}: the table of names and the network differ in {differing}.")
    chosen = _choose(own, weights, names, unused, where)
    for name, tensor in own.items():
        _check(name, tensor, chosen[name], weights, same_types, where)
    with torch.no_grad():
        for name, tensor in own.items():
            if not tensor.is_meta:
                tensor.copy_(_value(chosen[name], weights))
    if any(tensor.is_meta for tensor in own.values()):
        _fill(network, {name: (chosen[name], own[name]) for name in own}, weights, device)


def _choose(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], names: Names, unused: Sequence[str], where: str
) -> dict[str, Spelling]:
    """The spelling that the file has, for each of our names; nothing may be missing or left over."""
    there = set(weights)
    table = {name: _spellings(names[name]) for name in own}
    chosen: dict[str, Spelling] = {}
    for name, spellings in table.items():
        found = [spelling for spelling in spellings if there.issuperset(_of(spelling))]
        if found:
            chosen[name] = found[0]
    ordered = sorted(there)
    missing = sorted(
        {
            foreign
            for name in table.keys() - chosen.keys()
            for foreign in _of(max(table[name], key=lambda spelling: _likeness(spelling, ordered)))
            if foreign not in there
        }
    )
    used = {foreign for spelling in chosen.values() for foreign in _of(spelling)}
    left = {name for name in there - used if not any(fnmatchcase(name, pattern) for pattern in unused)}
    twins = {
        other
        for name, spelling in chosen.items()
        for other in table[name]
        if isinstance(other, str) and other in left and _equal(weights, spelling, other)
    }
    unknown = sorted(left - twins)
    if missing or unknown:
        known = [foreign for spellings in table.values() for each in spellings for foreign in _of(each)]
        raise CheckpointError(
            f"{where}: {len(missing)} weights are missing{_closest(missing, unknown or there)}; "
            f"{len(unknown)} are unknown{_closest(unknown, missing or known)}. "
            "Were they saved from a network of this architecture and this configuration?"
        )
    return chosen


def _check(
    name: str,
    own: Tensor,
    spelling: Spelling,
    weights: Mapping[str, Tensor],
    same_types: bool,
    where: str,
) -> None:
    """Whether a foreign weight has the shape and the kind of number of ours; values are not touched."""
    foreign = _of(spelling)
    said = " and ".join(repr(name) for name in foreign)
    given = [torch.empty_like(weights[each], device="meta") for each in foreign]
    came = " and ".join(str(tuple(each.shape)) for each in given)
    try:
        made = given[0] if isinstance(spelling, str) else spelling.by(*given)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where}: {said}: shape {came} cannot become {name!r}, which is {tuple(own.shape)}: {error}. "
            "Does the configuration belong to these weights?"
        ) from error
    if made.shape != own.shape:
        raise CheckpointError(
            f"{where}: {said}: expected shape {tuple(own.shape)}, got {tuple(made.shape)}. "
            "Does the configuration belong to these weights?"
        )
    if (made.dtype != own.dtype) if same_types else (made.is_floating_point() != own.is_floating_point()):
        raise CheckpointError(f"{where}: {said}: expected {own.dtype}, got {made.dtype}.")


def _fill(
    network: nn.Module,
    chosen: Mapping[str, tuple[Spelling, Tensor]],
    weights: Mapping[str, Tensor],
    device: torch.device | str,
) -> None:
    """Give weights to a network that has none; tied ones stay tied."""
    filled: dict[int, Tensor] = {}
    entries = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if tensor.is_meta and id(tensor) not in filled:
            value = _value(chosen[name][0], weights).to(device, tensor.dtype, copy=True).contiguous()
            is_parameter = isinstance(tensor, nn.Parameter)
            filled[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        entries[name] = filled.get(id(tensor), tensor)
    network.load_state_dict(entries, assign=True)
    left = [name for name, tensor in network.named_buffers() if tensor.is_meta]
    if left:
        raise ValueError(
            f"{type(network).__name__}: buffers {left} are not saved, so compute them when used."
        )


def _spellings(entry: Spelling | Sequence[Spelling]) -> tuple[Spelling, ...]:
    return (entry,) if isinstance(entry, str | Made) else tuple(entry)


def _of(spelling: Spelling) -> tuple[str, ...]:
    return (spelling,) if isinstance(spelling, str) else spelling.of


def _value(spelling: Spelling, weights: Mapping[str, Tensor]) -> Tensor:
    given = [weights[name] for name in _of(spelling)]
    return given[0] if isinstance(spelling, str) else spelling.by(*given)


def _likeness(spelling: Spelling, ordered: Sequence[str]) -> int:
    """How many letters a spelling begins with that a name of the file also begins with."""
    longest = 0
    for name in _of(spelling):
        place = bisect_left(ordered, name)
        for neighbor in ordered[max(place - 1, 0) : place + 1]:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(name, neighbor))
            longest = max(longest, len(list(same)))
    return longest


def _equal(weights: Mapping[str, Tensor], spelling: Spelling, other: str) -> bool:
    value, twin = _value(spelling, weights), weights[other]
    return value.dtype == twin.dtype and torch.equal(value, twin)


def _closest(names: Sequence[str], others: Iterable[str], shown: int = 3) -> str:
    """The first few names, each with the one on the other side that is most like it."""
    others = list(others)
    lines = []
    for name in names[:shown]:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.4)
        lines.append(f"{name!r}" + (f" (closest: {close[0]!r})" if close else ""))
    return " (" + ", ".join(lines) + (", ..." if len(names) > shown else "") + ")" if lines else ""
