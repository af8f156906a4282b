"""Our GGUF reader against the package gguf: the same bytes give the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from visuomotor.backbones.ggml_blocks import BLOCKS, from_blocks
from visuomotor.backbones.gguf import read_gguf

oracle = pytest.importorskip("gguf", reason="needs the extra [test]")


@pytest.mark.parametrize("number", BLOCKS)
def test_every_type_of_block_gives_the_same_bits(number) -> None:
    kind = BLOCKS[number]
    rows = np.random.default_rng(0).integers(0, 256, (40, 3 * kind.size), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bytes hold scales that are infinite or no number
        expected = oracle.quants.dequantize(rows, oracle.GGMLQuantizationType(number)).astype(np.float32)
        found = from_blocks(kind, rows.reshape(-1)).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).mean() > 0.5


def test_a_file_that_the_package_wrote_is_read(tmp_path) -> None:
    writer = oracle.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    generator = np.random.default_rng(0)
    wide = generator.standard_normal((6, 64), dtype=np.float32)
    stored = {
        "plain": wide,
        "half": wide.astype(np.float16),
        "three": generator.standard_normal((2, 3, 4), dtype=np.float32),
    }
    for name, weights in stored.items():
        writer.add_tensor(name, weights)
    for kind in ("Q8_0", "Q4_1", "Q4_0", "Q5_0", "Q5_1"):
        quantized = oracle.quants.quantize(wide, oracle.GGMLQuantizationType[kind])
        writer.add_tensor(kind, quantized, raw_dtype=oracle.GGMLQuantizationType[kind])
    writer.add_block_count(2)
    writer.add_rope_freq_base(1e5)
    writer.add_bool("yes", True)
    writer.add_array("words", ["a", "ö"])
    writer.add_array("scores", [0.5, -1.0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    gguf = read_gguf(tmp_path / "model.gguf")
    assert gguf.metadata["llama.block_count"] == 2
    assert gguf.metadata["llama.rope.freq_base"] == 1e5
    assert gguf.metadata["yes"] is True
    assert (gguf.metadata["words"], gguf.metadata["scores"]) == (["a", "ö"], [0.5, -1.0])
    for name, weights in stored.items():
        np.testing.assert_array_equal(gguf.read(name), weights.astype(np.float32))
    scale = np.abs(wide).max()
    for kind, steps in (("Q8_0", 127), ("Q4_1", 15), ("Q4_0", 8), ("Q5_0", 16), ("Q5_1", 31)):
        # Half a step of the range of a block; twice the magnitude for types without a least value.
        np.testing.assert_allclose(gguf.read(kind), wide, atol=2 * scale / steps)
