"""Files that are either old or new, never half: temporary name, flush, rename.

A process that is killed between any two instructions leaves every file as it was before or as it
should become. What a crash can leave besides is a temporary file, named so that no reader takes
it for data.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visuomotor.errors import DataError

__all__ = ["disk_full", "is_temporary", "replace_file", "replace_json", "sync_folder", "temporary_name"]


def temporary_name(path: Path) -> Path:
    """Where the new content of `path` is written before it takes its place."""
    return path.with_name(f".{path.name}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether `path` is what an interrupted `replace_file` left."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` by what `write(temporary)` writes, atomically.

    The content is durable before the rename; the rename itself becomes so with `sync_folder`. A
    journaling file system keeps the order of renames, so one `sync_folder` after several is enough.

    Args:
        path: The file; its folder is made if missing.
        write: Writes the whole new content to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_json(path: Path, data: Any) -> None:
    """Replace `path` by `data` as readable JSON, atomically."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def disk_full(what: str) -> Iterator[None]:
    """Turn "no space left" inside the block into a `DataError` that says `what` is safe and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"the disk is full: {what}") from error
