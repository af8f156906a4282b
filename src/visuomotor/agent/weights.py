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

__all__ = ["borrow", "named_weights", "put_weights", "read_tensors", "write_tensors"]


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, detached; a tied one under its first name only."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


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


@torch.no_grad()
def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; each of its weights must be there with its shape and type.

    Raises:
        CheckpointError: A weight is missing, left over, or of another shape or type.
    """
    own = named_weights(module)
    kind = type(module).__name__
    for what, names in (
        (f"that {kind} has is missing", set(own) - set(tensors)),
        (f"is unknown to {kind}", set(tensors) - set(own)),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CheckpointError(
                f"{where}: weight {min(names)!r}{more} {what}. "
                "Was the checkpoint written by another version of the policy?"
            )
    for name, tensor in own.items():
        given = tensors[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise CheckpointError(
                f"{where}: weight {name!r}: expected {tensor.dtype} {tuple(tensor.shape)}, "
                f"got {given.dtype} {tuple(given.shape)}."
            )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


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
