from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visuomotor.backbones.ggml_blocks import BLOCKS, from_blocks
from visuomotor.backbones.gguf import read_gguf, tokenizer_of
from visuomotor.errors import CheckpointError

WEIGHTS = np.arange(12, dtype="<f4").reshape(3, 4)


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, value: object) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        kind, items = (8, map(text, value)) if isinstance(value[0], str) else (4, map(u32, value))
        return text(key) + struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    return text(key) + struct.pack("<I", 4) + u32(value)


def u32(value: object) -> bytes:
    return struct.pack("<I", value)


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def write(path: Path, *, version=3, metadata=None, tensors=None, data=None) -> Path:
    """A small file; `tensors` are name, shape, type and offset as they are to stand there."""
    metadata = {"general.architecture": "llama", "words": ["a", "b"]} if metadata is None else metadata
    tensors = [("w", (3, 4), 0, 0), ("b", (4,), 1, 64)] if tensors is None else tensors
    if data is None:
        data = WEIGHTS.tobytes().ljust(64, b"\0") + np.arange(4, dtype="<f2").tobytes()
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(entry(*pair) for pair in metadata.items()) + b"".join(tensor(*row) for row in tensors)
    alignment = metadata.get("general.alignment", 32) or 32
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + data)
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.gguf"


def test_what_was_written_is_read(path) -> None:
    gguf = read_gguf(write(path))
    assert gguf.metadata == {"general.architecture": "llama", "words": ["a", "b"]}
    np.testing.assert_array_equal(gguf.read("w"), WEIGHTS)
    np.testing.assert_array_equal(gguf.read("b"), np.arange(4))
    assert gguf.read("b").dtype == np.float32
    assert (gguf.tensors["w"].shape, gguf.tensors["w"].kind.name) == ((3, 4), "F32")


def test_an_alignment_of_its_own_is_obeyed(path) -> None:
    rows = [("w", (3, 4), 0, 0), ("b", (4,), 1, 128)]
    data = WEIGHTS.tobytes().ljust(128, b"\0") + np.arange(4, dtype="<f2").tobytes()
    gguf = read_gguf(write(path, metadata={"general.alignment": 128}, tensors=rows, data=data))
    np.testing.assert_array_equal(gguf.read("w"), WEIGHTS)
    np.testing.assert_array_equal(gguf.read("b"), np.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "expected GGUF version 2 or 3, got 1"),
        ({"tensors": [("w", (3, 4), 0, 4)]}, "not at a multiple of 32"),
        ({"tensors": [("w", (30, 4), 0, 0)]}, "480 bytes .* does not lie in the file"),
        ({"tensors": [("w", (1 << 40, 1 << 40), 0, 0)]}, "does not lie in the file"),
        ({"tensors": [("w", (3, 4), 99, 0)]}, "type 99; known are F32, F16, Q4_0"),
        ({"tensors": [("w", (3, 4), 2, 0)]}, "not made of whole blocks of 32"),
        ({"tensors": [("w", (0, 4), 0, 0)]}, "not made of whole blocks"),
        ({"tensors": [("w", (1, 1, 1, 1, 1), 0, 0)]}, "has 5 axes"),
        ({"tensors": [("w", (3, 4), 0, 0), ("w", (4,), 0, 0)]}, "two tensors have the same name"),
        ({"metadata": {"general.alignment": 12}}, "a multiple of 8, got 12"),
        ({"metadata": {"general.alignment": 0}}, "a multiple of 8, got 0"),
    ],
)
def test_a_damaged_table_is_refused(path, change, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_gguf(write(path, **change))


def test_what_is_no_gguf_is_refused(path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_gguf(path)
    path.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="got 4 bytes"):
        read_gguf(path)
    path.write_bytes(b"PK" * 20)
    with pytest.raises(CheckpointError, match="begins with b'GGUF', got b'PKPK'"):
        read_gguf(path)


def test_counts_that_the_file_cannot_hold_are_refused_before_anything_is_allocated(path) -> None:
    head = b"GGUF" + struct.pack("<I", 3)
    path.write_bytes(head + struct.pack("<QQ", 1 << 60, 0))
    with pytest.raises(CheckpointError, match="tensors do not fit"):
        read_gguf(path)
    path.write_bytes(head + struct.pack("<QQ", 0, 1) + text("words") + struct.pack("<IIQ", 9, 4, 1 << 60))
    with pytest.raises(CheckpointError, match="numbers of a list do not fit"):
        read_gguf(path)
    path.write_bytes(head + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1 << 60) + b"key")
    with pytest.raises(CheckpointError, match=r"do not fit|damaged"):
        read_gguf(path)
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(64)
    path.write_bytes(head + struct.pack("<QQ", 0, 1) + text("words") + nested)
    with pytest.raises(CheckpointError, match="unknown metadata type 9"):
        read_gguf(path)


def test_a_key_that_stands_there_twice_is_refused(path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + entry("sizes", 1) * 2
    path.write_bytes(head)
    with pytest.raises(CheckpointError, match="'sizes' stands there twice"):
        read_gguf(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_any_damage_is_a_checkpoint_error_or_read(path, place, byte, cut) -> None:
    data = bytearray(write(path).read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data[: len(data) - cut])
    try:
        gguf = read_gguf(path)
        for name in gguf.tensors:
            gguf.read(name)
    except CheckpointError:
        return
    assert cut == 0


def test_a_value_or_tensor_that_is_not_there_is_named(path) -> None:
    gguf = read_gguf(write(path))
    assert gguf.value("words", list) == ["a", "b"]
    assert gguf.value("more", int, 7) == 7
    with pytest.raises(CheckpointError, match=r"expected the metadata key 'llama\.block_count'"):
        gguf.value("llama.block_count", int)
    with pytest.raises(CheckpointError, match="'words': unexpected list"):
        gguf.value("words", str)
    with pytest.raises(CheckpointError, match=r"expected a tensor 'v', got \['b', 'w'\]"):
        gguf.read("v")


def test_blocks_by_hand() -> None:
    """One block of each of the simplest types, worked out on paper."""
    scale, least = np.float16(0.5).tobytes(), np.float16(-1).tobytes()
    packed = bytes([0x21]) + bytes(15)  # code 1 first, code 2 seventeenth, the rest 0
    q4_1 = from_blocks(BLOCKS[3], np.frombuffer(scale + least + packed, np.uint8))
    assert q4_1[[0, 1, 16, 17]].tolist() == [-0.5, -1.0, 0.0, -1.0]
    q4_0 = from_blocks(BLOCKS[2], np.frombuffer(scale + packed, np.uint8))
    assert q4_0[[0, 1, 16, 17]].tolist() == [-3.5, -4.0, -3.0, -4.0]
    codes = np.arange(-16, 16, dtype=np.int8).tobytes()
    q8_0 = from_blocks(BLOCKS[8], np.frombuffer(scale + codes, np.uint8))
    assert q8_0.tolist() == [code / 2 for code in range(-16, 16)]
    bf16 = from_blocks(BLOCKS[30], np.frombuffer(bytes([0x80, 0x3F, 0x00, 0xC0]), np.uint8))
    assert bf16.tolist() == [1.0, -2.0]


def tokens(path: Path, **change) -> Path:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<s>", "l", "i", "li", "1", "<|end|>", "mark"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 3, 4],
        "tokenizer.ggml.merges": ["l i"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 5,
    }
    metadata = {name: value for name, value in (metadata | change).items() if value is not None}
    return write(path, metadata=metadata)


def test_the_tokenizer_inside_is_read(path) -> None:
    tokenizer = tokenizer_of(read_gguf(tokens(path, **{"tokenizer.ggml.bos_token_id": 0})))
    assert tokenizer.encode("lil11mark", bos=True, eos=True) == [0, 3, 1, 4, 4, 6, 5]
    assert tokenizer.encode("li<|end|>", specials=True) == [3, 5]


def test_a_tokenizer_of_another_kind_or_damaged_is_refused(path) -> None:
    with pytest.raises(CheckpointError, match="kind 'llama'; only 'gpt2'"):
        tokenizer_of(read_gguf(tokens(path, **{"tokenizer.ggml.model": "llama"})))
    with pytest.raises(CheckpointError, match="7 tokens, but 2 kinds"):
        tokenizer_of(read_gguf(tokens(path, **{"tokenizer.ggml.token_type": [3, 1]})))
    with pytest.raises(CheckpointError, match="unknown rule for words 'other'"):
        tokenizer_of(read_gguf(tokens(path, **{"tokenizer.ggml.pre": "other"})))
    with pytest.raises(CheckpointError, match=r"expected the metadata key 'tokenizer\.ggml\.merges'"):
        tokenizer_of(read_gguf(tokens(path, **{"tokenizer.ggml.merges": None})))
