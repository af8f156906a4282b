"""Numbers out of the blocks in which ggml stores quantized weights.

A block holds the codes of 32 or 256 neighbors of a row and the scale they share, in some types also
their least value; the formats of 256 have a scale for every 16 or 32 of them. All numbers are little-endian.

Source: ggml, `ggml-common.h` (the layouts of blocks) and `ggml-quants.c` (`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["BLOCKS", "BlockType", "from_blocks"]

Bytes = UInt8[np.ndarray, "block byte"]
Numbers = Float32[np.ndarray, "block number"]

_AT_ONCE = 1 << 16  # blocks turned into numbers together, so that what lies between stays small


@dataclass(frozen=True, kw_only=True)
class BlockType:
    """How one type of tensor is stored."""

    name: str
    """As ggml calls it."""
    numbers: int
    """Weights in a block."""
    size: int
    """Bytes of a block."""
    read: Callable[[Bytes], Numbers]
    """Blocks to weights."""


def from_blocks(kind: BlockType, data: UInt8[np.ndarray, " byte"]) -> Float32[np.ndarray, " number"]:
    """All weights of a tensor in order, from its bytes (a whole number of blocks)."""
    blocks = data.reshape(-1, kind.size)
    numbers = np.empty((len(blocks), kind.numbers), dtype=np.float32)
    for start in range(0, len(blocks), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        numbers[part] = kind.read(blocks[part])
    return numbers.reshape(-1)


def _half(blocks: Bytes, start: int) -> Float32[np.ndarray, "block 1"]:
    """The float16 that stands at byte `start` of every block."""
    return blocks[:, start : start + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> UInt8[np.ndarray, "block number"]:
    """Codes of 4 bits: first the lower halves of all bytes, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(packed: Bytes) -> UInt8[np.ndarray, "block 32"]:
    """The bit of each code that does not fit into its nibble, at its place in the code."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _f32(blocks: Bytes) -> Numbers:
    return blocks.copy().view("<f4")


def _f16(blocks: Bytes) -> Numbers:
    return _half(blocks, 0)


def _bf16(blocks: Bytes) -> Numbers:
    upper = blocks.copy().view("<u2").astype(np.uint32) << np.uint32(16)  # the upper half of a float32
    return upper.view(np.float32)


def _q4_0(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Numbers:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (codes.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Numbers:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Numbers:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q4_k(blocks: Bytes) -> Numbers:
    """Eight groups of 32 codes, each with a scale and a least value of 6 bits, in units of the block."""
    packed = blocks[:, 4:16].reshape(-1, 3, 4)  # block part byte
    lower, upper, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate([lower & 63, (rest & 15) | (lower >> 6 << 4)], axis=1)  # block group
    least = np.concatenate([upper & 63, (rest >> 4) | (upper >> 6 << 4)], axis=1)  # block group
    codes = blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, None] & 15
    scale = _half(blocks, 0) * scales.astype(np.float32)
    shift = _half(blocks, 2) * least.astype(np.float32)
    numbers = scale[:, :, None] * codes.reshape(-1, 8, 32).astype(np.float32) - shift[:, :, None]
    return numbers.reshape(-1, 256)  # block group number -> block number


def _q6_k(blocks: Bytes) -> Numbers:
    """Two halves of 128 codes, lower bits and upper bits in different places; a scale for every 16."""
    nibbles = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    pairs = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = nibbles.reshape(-1, 16, 16) | (pairs.reshape(-1, 16, 16) << 4)  # block group number
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)  # block group
    return (scales[:, :, None] * (codes.astype(np.float32) - 32)).reshape(-1, 256)


def _type(name: str, numbers: int, size: int, read: Callable[[Bytes], Numbers]) -> BlockType:
    return BlockType(name=name, numbers=numbers, size=size, read=read)


BLOCKS = {
    0: _type("F32", 1, 4, _f32),
    1: _type("F16", 1, 2, _f16),
    2: _type("Q4_0", 32, 18, _q4_0),
    3: _type("Q4_1", 32, 20, _q4_1),
    6: _type("Q5_0", 32, 22, _q5_0),
    7: _type("Q5_1", 32, 24, _q5_1),
    8: _type("Q8_0", 32, 34, _q8_0),
    12: _type("Q4_K", 256, 144, _q4_k),
    14: _type("Q6_K", 256, 210, _q6_k),
    30: _type("BF16", 1, 2, _bf16),
}
"""Number of a type in a file -> how it is stored."""
