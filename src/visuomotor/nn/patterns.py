"""Weights and modules of a network by name, with `*` as in file names.

A pattern stands for a name that it matches and for everything below that name: "trunk.layers" and
"trunk.layers.*" are all layers, "*.norm" is every part called `norm`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from visuomotor.errors import UnknownNameError

__all__ = ["choose", "matches"]


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` matches `name`, or something that `name` is a part of."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(len(parts), 0, -1))


def choose(names: Iterable[str], patterns: Sequence[str], what: str) -> set[str]:
    """Those of `names` that one of `patterns` stands for.

    Args:
        names: Dotted names of weights or modules.
        patterns: Each must stand for something.
        what: What is chosen, for messages, such as "weights to freeze".

    Raises:
        UnknownNameError: A pattern stands for nothing; the message has the closest names.
    """
    known, found = list(names), set()
    for pattern in patterns:
        chosen = {name for name in known if matches(name, pattern)}
        if not chosen:
            raise _nothing(pattern, known, what)
        found |= chosen
    return found


def _nothing(pattern: str, names: Sequence[str], what: str) -> UnknownNameError:
    """The error for a pattern without a match."""
    parts = {".".join(words[:end]) for words in (n.split(".") for n in names) for end in range(1, len(words))}
    close = difflib.get_close_matches(pattern, sorted({*names, *parts}), n=3, cutoff=0.4)
    hint = f"The closest names are {', '.join(map(repr, close))}." if close else ""
    some = hint or f"Names begin with {', '.join(sorted({name.partition('.')[0] for name in names}))}."
    return UnknownNameError(f"{what}: the pattern {pattern!r} matches none of {len(names)} names. {some}")
