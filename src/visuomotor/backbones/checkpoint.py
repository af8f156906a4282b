"""Published models on disk: where they are, what their config says, and their weights, read when used.

A model is a safetensors file; a folder with `model.safetensors`; or one with several such files and
`model.safetensors.index.json`, which says what stands where. It may lie anywhere on disk or on the
Hugging Face hub. Pickled weights are never read. How names become ours: `visuomotor.nn.weights`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from visuomotor.errors import CheckpointError, RemoteError

__all__ = ["TensorFiles", "find_model", "open_tensors", "read_config"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


class TensorFiles(Mapping[str, Tensor]):
    """Tensors of safetensors files by name. They are mapped into memory, and read where they are used.

    Args:
        files: Each with tensors of its own.
        where: What they are together, for messages.

    Raises:
        CheckpointError: A file is damaged, or a name stands in two of them.
    """

    def __init__(self, files: Sequence[Path], where: str) -> None:
        self.where = where
        self.files: dict[str, Path] = {}
        self._open = {path: _open(path) for path in files}
        for path, handle in self._open.items():
            for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
                if name in self.files:
                    raise CheckpointError(
                        f"{where}: {name!r} stands in {self.files[name].name} and in {path.name}. "
                        "Are these files of two models?"
                    )
                self.files[name] = path

    def __getitem__(self, name: str) -> Tensor:
        return self._open[self.files[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, got a problem with it: {error}. Copy it again."
        ) from error


def open_tensors(path: str | Path) -> TensorFiles:
    """The weights in a folder, a safetensors file, or the files that an index names.

    Raises:
        CheckpointError: There are none, there are two sets of them, one is damaged, or the index and
            its files do not agree.
    """
    path = Path(path)
    if path.is_dir():
        found = [name for name in (SINGLE, INDEX) if (path / name).is_file()]
        if len(found) != 1:
            got = "both" if found else sorted(each.name for each in path.iterdir())[:8]
            raise CheckpointError(
                f"{path}: expected {SINGLE} or {INDEX}, got {got}. "
                f"{'Pass the file that is meant.' if found else _PICKLED}"
            )
        path = path / found[0]
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a folder or a safetensors file; it is not there.")
    if path.name.endswith(".json"):
        return _open_index(path)
    return TensorFiles([path], str(path))


_PICKLED = "Pickled weights are never read: convert them to safetensors first."


def _open_index(path: Path) -> TensorFiles:
    """The files of an index, if every tensor stands where the index says, and no other anywhere."""
    table = _read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f'{path}: expected "weight_map", tensor to file, got {table!r:.80}.')
    for name, file in table.items():
        plain = isinstance(file, str) and file == Path(file).name and file.endswith(".safetensors")
        if not plain or "\\" in file:
            raise CheckpointError(
                f"{path}: {name!r}: expected the name of a safetensors file beside the index, got {file!r}."
            )
    gone = sorted({file for file in table.values() if not (path.parent / file).is_file()})
    if gone:
        raise CheckpointError(
            f"{path}: {len(gone)} of {len(set(table.values()))} files are missing: {', '.join(gone[:3])}. "
            "Was the download stopped? Copy them beside the index."
        )
    files = TensorFiles([path.parent / file for file in sorted(set(table.values()))], str(path))
    for name, file in table.items():
        found = files.files.get(name)
        if found is None or found.name != file:
            stands = "is in no file" if found is None else f"is in {found.name}"
            raise CheckpointError(f"{path}: {name!r} should be in {file} and {stands}. {_MIXED}")
    more = sorted(set(files) - set(table))
    if more:
        raise CheckpointError(
            f"{path}: {len(more)} tensors in the files are not in the index: {', '.join(more[:3])}. {_MIXED}"
        )
    return files


_MIXED = "Are index and files of two versions? Copy the whole model again."


def find_model(
    source: str | Path, files: Sequence[str] = ("config.json", "model*.safetensors", INDEX)
) -> Path:
    """A file or folder on disk; what is only on the Hugging Face hub is downloaded.

    Args:
        source: A path, or "organization/model" or "organization/model@revision" on the hub. A path
            that is there goes first.
        files: Patterns of what is needed from the hub.

    Raises:
        CheckpointError: Neither a path nor like a name on the hub.
        RemoteError: The hub did not answer or has no such model.
    """
    if Path(source).exists():
        return Path(source)
    name = str(source)
    if not HUB_NAME.fullmatch(name) or ".." in name:
        raise CheckpointError(
            f"{name}: expected a file, a folder or a hub name like 'organization/model', "
            "and no such file or folder is there."
        )
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        raise RemoteError(
            f"hub model {name!r}: could not be downloaded: {error}. "
            "Check name and connection, or pass a folder with its files."
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` in the folder of a published model, or beside a file of its weights.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file}: the file is missing. Copy it beside the weights, or pass a config.")
    return _read_json(file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got a problem with it: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(found).__name__}.")
    return found
