"""What can go wrong, by whose fault, and the closest name to a mistyped one.

A message says where, what was expected, what came, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "RemoteError",
    "UnknownNameError",
    "VisuomotorError",
    "portable",
    "unknown_name",
]


class VisuomotorError(Exception):
    """Base of every error that a user can mend; bugs raise something else."""


class DataError(VisuomotorError):
    """A data set is damaged, foreign, incomplete or does not fit the policy."""


class CheckpointError(VisuomotorError):
    """A checkpoint is damaged, belongs to other data, or fails its golden vector."""


class RemoteError(VisuomotorError):
    """A server or client broke the protocol or went away."""


class UnknownNameError(ValueError):
    """A name was looked up and is not there; the message has the closest one."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Error for a name that was looked up and not found; it names the closest known one.

    Args:
        kind: What was looked up, in field words: "task", "camera", "recipe".
        name: What came.
        known: All names that would have worked.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def portable(error: Exception) -> Exception:
    """The error, if it survives the way to another process of ours; else its text."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
