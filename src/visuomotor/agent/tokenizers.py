"""The tokenizer inside a checkpoint, which thus acts without a hub and without the folder it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from visuomotor.agent.disk import PROVENANCE, check_hashes, read_json
from visuomotor.backbones.checkpoint import find_model
from visuomotor.text.tokenizer import FILES, copy_tokenizer

__all__ = ["TOKENIZER", "Reads", "put_tokenizer", "write_tokenizer"]

TOKENIZER = "tokenizer"
"""Its folder."""


@runtime_checkable
class Reads(Protocol):
    """A part of a policy whose pipeline makes ids of text."""

    tokenizer: str
    """A tokenizer.json, a folder with one, or a name on the hub."""


def _readers(policy: nn.Module) -> list[Reads]:
    return [part for part in policy.modules() if isinstance(part, Reads)]


def write_tokenizer(folder: Path, policy: nn.Module) -> None:
    """Copy the tokenizer that a policy reads with, if any, into the checkpoint `folder`.

    Raises:
        ValueError: Its parts read with several.
    """
    sources = {part.tokenizer for part in _readers(policy)}
    if len(sources) > 1:
        raise ValueError(f"checkpoint: a policy reads with one tokenizer, got {sorted(sources)}.")
    for source in sources:
        copy_tokenizer(find_model(source, FILES), folder / TOKENIZER)


def put_tokenizer(folder: Path, policy: nn.Module) -> None:
    """Let a policy read with the tokenizer in the checkpoint `folder`; older ones hold none.

    Raises:
        CheckpointError: Its files are not those that were saved.
    """
    sealed = read_json(folder / PROVENANCE).get("files", {})
    names = {name for name in sealed if name.startswith(f"{TOKENIZER}/")}
    names |= {f"{TOKENIZER}/{path.name}" for path in (folder / TOKENIZER).glob("*")}
    check_hashes(folder, sorted(names))
    if names:
        for part in _readers(policy):
            part.tokenizer = str(folder / TOKENIZER)
