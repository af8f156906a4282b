"""Folders that are either whole or not there, and files whose hashes are known. No torch here.

A new folder is written beside its place under the name "<name>.new", brought to the disk, and renamed.
The one before it is called "<name>.old" for the moment between two renames: whatever dies when, one
whole folder is left, and `locate` finds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visuomotor.errors import CheckpointError

__all__ = [
    "CHECKPOINT",
    "PROVENANCE",
    "check_hashes",
    "locate",
    "new_folder",
    "read_json",
    "seal",
    "sync",
    "training_seeds",
    "write_json",
]

CHECKPOINT = "checkpoint"
"""Name of the checkpoint inside the folder of a training run."""
PROVENANCE = "provenance.json"


def _sibling(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `target` when the block ends well and vanishes when it does not.

    Raises:
        CheckpointError: `target` exists and is no checkpoint; nothing is overwritten.
    """
    if (
        target.exists()
        and not (target / PROVENANCE).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise CheckpointError(
            f"{target}: expected a checkpoint or nothing, found something else. Nothing was overwritten; "
            "choose another folder."
        )
    part, old = _sibling(target, "new"), _sibling(target, "old")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for path in part.rglob("*"):
            sync(path)
        sync(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    part.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or the entries of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def locate(folder: str | os.PathLike[str]) -> Path:
    """The checkpoint in `folder`: the folder itself, or the one in the folder of a training run.

    Raises:
        CheckpointError: There is none.
    """
    folder = Path(folder)
    for place in (folder, folder / CHECKPOINT):
        for candidate in (place, _sibling(place, "old")):
            if (candidate / PROVENANCE).is_file():
                return candidate
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such folder. Pass the folder that `visuomotor train` wrote.")
    raise CheckpointError(
        f"{folder}: no checkpoint here (expected {PROVENANCE} or {CHECKPOINT}/{PROVENANCE}). "
        "Pass the folder that `visuomotor train` wrote; checkpoints of other projects are not read."
    )


def write_json(path: Path, data: Any) -> None:
    """Write plain data, indented, so that a person can read it."""
    path.write_text(json.dumps(data, indent=1) + "\n")


def read_json(path: Path, keys: Iterable[str] | None = None, optional: Iterable[str] = ()) -> Any:
    """The object in a JSON file of a checkpoint.

    Args:
        path: The file.
        keys: Exactly these must be there, if given.
        optional: These may be there as well.

    Raises:
        CheckpointError: The file is missing, is no JSON object, or has other keys.
    """
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing. Copy the whole checkpoint folder.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON, got a problem with it: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(data).__name__}.")
    if keys is not None and set(data) - set(optional) != set(keys):
        wrong = sorted((set(data) - set(optional)) ^ set(keys))
        raise CheckpointError(
            f"{path}: expected the keys {sorted(keys)}; missing or unknown: {', '.join(wrong)}. "
            "Was the checkpoint written by another version of visuomotor?"
        )
    return data


def training_seeds(provenance: Mapping[str, Any]) -> frozenset[int]:
    """Seeds that training data were collected with, also those behind the weights that it began with."""
    data = provenance.get("data", {})
    own = frozenset(int(seed) for known in data.values() for seed in known.get("seeds", ()))
    before = provenance.get("from")
    return own | training_seeds(before) if before else own


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write provenance.json: `provenance` and the sha256 of every file in `folder`."""
    files = {
        str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    write_json(folder / PROVENANCE, {**provenance, "files": files})


def check_hashes(folder: Path, names: Iterable[str]) -> None:
    """Raise `CheckpointError` unless each file of `folder` in `names` is the one that was sealed."""
    sealed = read_json(folder / PROVENANCE).get("files", {})
    for name in names:
        path = folder / name
        if name not in sealed or not path.is_file():
            where = "is missing" if name in sealed else f"is not listed in {PROVENANCE}"
            raise CheckpointError(f"{path}: the file {where}. Copy the whole checkpoint folder again.")
        found = _digest(path)
        if found != sealed[name]:
            raise CheckpointError(
                f"{path}: the file is damaged or was changed: expected sha256 {sealed[name][:16]}..., "
                f"got {found[:16]}.... Copy the checkpoint again, or resume training from a whole one."
            )
