"""Reads GGUF files: sizes and words of a model, its weights, quantized or not, and its tokenizer.

A file is a header, metadata (key, type, value), a table of tensors (name, sizes, type, place) and the
tensors themselves, each at a multiple of the alignment. It is mapped into memory and read where it is
asked for. Nothing in it is trusted: every count, length, size and place is checked against the file
before anything is read or allocated.

Source: the specification of GGUF, versions 2 and 3 (ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from visuomotor.backbones.ggml_blocks import BLOCKS, BlockType, from_blocks
from visuomotor.errors import CheckpointError
from visuomotor.text.tokenizer import Tokenizer, byte_level_tokenizer

__all__ = ["GGUF", "GGUFTensor", "read_gguf", "tokenizer_of"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEEPEST = 4  # arrays within arrays
MOST_AXES = 4

_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_TEXT, _ARRAY = 8, 9

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens


@dataclass(frozen=True, kw_only=True)
class GGUFTensor:
    """Where a tensor lies and how it is stored."""

    name: str
    """Name in the file."""
    shape: tuple[int, ...]
    """Sizes, the axis of neighbors in memory last (the file states them the other way round)."""
    kind: BlockType
    """How it is stored."""
    start: int
    """First byte in the file."""
    size: int
    """Bytes in the file."""


class GGUF:
    """An open file; made by `read_gguf`.

    Args:
        where: Named in errors.
        data: The whole file.
        metadata: What the file says of the model.
        tensors: The table of tensors.
    """

    def __init__(
        self, where: str, data: mmap.mmap, metadata: Mapping[str, Any], tensors: Mapping[str, GGUFTensor]
    ) -> None:
        self.where = where
        self.metadata = metadata
        self.tensors = tensors
        self._data = data

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The metadata value `key`.

        Args:
            key: Name, such as "llama.block_count".
            kind: What it must be.
            default: If it is absent; None if it must not be.

        Raises:
            CheckpointError: It is absent or something else.
        """
        found = self.metadata.get(key, default)
        if found is None:
            raise CheckpointError(f"{self.where}: expected the metadata key {key!r}. Is it another model?")
        if not isinstance(found, kind):
            raise CheckpointError(f"{self.where}: metadata {key!r}: unexpected {type(found).__name__}.")
        return found

    def read(self, name: str) -> Float32[np.ndarray, "*axes"]:
        """The weights of the tensor `name` as float32.

        Raises:
            CheckpointError: The file has no such tensor.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.where}: expected a tensor {name!r}, got {sorted(self.tensors)[:3]}... "
                "Is it another model?"
            )
        tensor = self.tensors[name]
        data = np.frombuffer(self._data, np.uint8, tensor.size, tensor.start)
        return from_blocks(tensor.kind, data).reshape(tensor.shape)


def read_gguf(path: str | Path) -> GGUF:
    """Open a file and read everything but the weights.

    Raises:
        CheckpointError: It is damaged, cut off, or of a version or type that is not known here.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Expected a GGUF file.")
    if path.stat().st_size < 24:
        raise CheckpointError(f"{path}: expected a GGUF file, got {path.stat().st_size} bytes.")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(str(path), data)
    if (magic := cursor.take(4)) != MAGIC:
        raise CheckpointError(f"{path}: expected a GGUF file, which begins with {MAGIC!r}, got {magic!r}.")
    if (version := cursor.number(4)) not in VERSIONS:
        raise CheckpointError(f"{path}: expected GGUF version 2 or 3, got {version}. Convert it again.")
    tensors, entries = cursor.number(10), cursor.number(10)
    cursor.fits(tensors, 24, "tensors")
    cursor.fits(entries, 13, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:
            raise CheckpointError(f"{path}: the metadata key {key!r} stands there twice. It is damaged.")
        metadata[key] = cursor.value(cursor.number(4))
    gguf = GGUF(str(path), data, metadata, {})
    alignment = gguf.value("general.alignment", int, 32)
    if alignment < 8 or alignment % 8:
        raise CheckpointError(f"{path}: expected an alignment that is a multiple of 8, got {alignment}.")
    gguf.tensors = {tensor.name: tensor for tensor in cursor.table(tensors, alignment)}
    if len(gguf.tensors) != tensors:
        raise CheckpointError(f"{path}: two tensors have the same name. It is damaged.")
    return gguf


class _Cursor:
    """Reads a file from front to back and never past its end.

    Args:
        where: Named in errors.
        data: The whole file.
    """

    def __init__(self, where: str, data: mmap.mmap) -> None:
        self.where = where
        self.data = data
        self.place = 0

    def fits(self, count: int, least: int, what: str) -> None:
        """Refuse a count of things, each of `least` bytes or more, that the rest of the file cannot hold."""
        if count * least > len(self.data) - self.place:
            raise CheckpointError(
                f"{self.where}: at byte {self.place}: {count} {what} do not fit into the "
                f"{len(self.data)} bytes of the file. It is damaged or cut off: fetch it again."
            )

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        self.fits(size, 1, "bytes")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, kind: int) -> Any:
        """The next number, of a type of the specification."""
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def text(self) -> str:
        """The next text."""
        data = self.take(int.from_bytes(self.take(8), "little"))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.where}: at byte {self.place}: a text is not UTF-8. It is damaged."
            ) from error

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next metadata value: a number, a text, or a list."""
        if kind in _NUMBERS:
            return self.number(kind)
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY or depth == DEEPEST:
            raise CheckpointError(
                f"{self.where}: at byte {self.place}: unknown metadata type {kind}. It is damaged, or of a "
                "newer version."
            )
        inner, count = self.number(4), self.number(10)
        if inner in _NUMBERS:
            dtype = np.dtype(_NUMBERS[inner])
            self.fits(count, dtype.itemsize, "numbers of a list")
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        self.fits(count, 8, "entries of a list")
        return [self.value(inner, depth + 1) for _ in range(count)]

    def table(self, count: int, alignment: int) -> Iterator[GGUFTensor]:
        """The table of tensors, which stands behind the metadata; the tensors begin behind it."""
        entries = []
        for _ in range(count):
            name, axes = self.text(), self.number(4)
            if not 1 <= axes <= MOST_AXES:
                raise CheckpointError(f"{self.where}: tensor {name!r} has {axes} axes. It is damaged.")
            sizes = tuple(self.number(10) for _ in range(axes))
            entries.append((name, sizes[::-1], self.number(4), self.number(10)))
        begin = -(-self.place // alignment) * alignment
        for name, shape, kind, offset in entries:
            yield self._tensor(name, shape, kind, offset, begin, alignment)

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, begin: int, alignment: int
    ) -> GGUFTensor:
        if kind not in BLOCKS:
            known = ", ".join(block.name for block in BLOCKS.values())
            raise CheckpointError(
                f"{self.where}: tensor {name!r} is of type {kind}; known are {known}. "
                "Choose a file in one of these."
            )
        block = BLOCKS[kind]
        if min(shape) < 1 or shape[-1] % block.numbers:
            raise CheckpointError(
                f"{self.where}: tensor {name!r}: {shape} is not made of whole blocks of {block.numbers}."
            )
        size = math.prod(shape) // block.numbers * block.size
        if offset % alignment or begin + offset + size > len(self.data):
            raise CheckpointError(
                f"{self.where}: tensor {name!r} of {size} bytes at {begin + offset} does not lie in the file "
                f"of {len(self.data)} bytes, or not at a multiple of {alignment}. It is damaged or cut off."
            )
        return GGUFTensor(name=name, shape=shape, kind=block, start=begin + offset, size=size)


def tokenizer_of(gguf: GGUF) -> Tokenizer:
    """The tokenizer inside a file, if it is one of byte-level pairs (GPT-2, SmolLM2, Llama 3, Qwen).

    Raises:
        CheckpointError: It is of another kind.
    """
    kind = gguf.value("tokenizer.ggml.model", str)
    if kind != "gpt2":
        raise CheckpointError(
            f"{gguf.where}: its tokenizer is of the kind {kind!r}; only 'gpt2' (byte-level pairs) is read "
            "from GGUF. Pass the model's tokenizer.json or tokenizer.model instead."
        )
    tokens = gguf.value("tokenizer.ggml.tokens", list)
    kinds = gguf.value("tokenizer.ggml.token_type", list, [1] * len(tokens))
    if len(kinds) != len(tokens):
        raise CheckpointError(f"{gguf.where}: {len(tokens)} tokens, but {len(kinds)} kinds. It is damaged.")

    def named(role: str) -> str | None:
        place = gguf.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return tokens[place] if isinstance(place, int) and 0 <= place < len(tokens) else None

    return byte_level_tokenizer(
        tokens,
        gguf.value("tokenizer.ggml.merges", list),
        split=gguf.value("tokenizer.ggml.pre", str, "gpt-2"),
        control=[token for token, what in zip(tokens, kinds) if what == CONTROL],
        marks=[token for token, what in zip(tokens, kinds) if what == USER_DEFINED],
        bos=named("bos"),
        eos=named("eos"),
        pad=named("padding"),
        where=gguf.where,
    )
