"""Weights of a policy by name, in safetensors files, with nothing missing and nothing left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import load_named, named_weights

__all__ = ["borrow", "named_weights", "put_weights", "read_tensors", "write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file. Raises `OSError` if the disk does not take them."""
    path.touch()
    mode = path.stat().st_mode  # what the user's umask says; the library would leave the file private
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises `CheckpointError` if it is none."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, got a problem with it: {error}."
        ) from error


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; each of its weights must be there with its shape and type.

    Raises:
        CheckpointError: A weight is missing, left over, or of another shape or type.
    """
    load_named(module, tensors, where=where, same_types=True)


@contextmanager
def borrow(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """`module` with the weights in `tensors` for the length of a block, then with its own again."""
    own = {name: tensor for name, tensor in named_weights(module).items() if name in tensors}
    kept = {name: tensor.clone() for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(kept[name])
