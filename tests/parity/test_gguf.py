"""Our GGUF reader against the package gguf: the same bytes give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visuomotor.backbones.ggml_blocks import BLOCKS, from_blocks
from visuomotor.backbones.gguf import read_gguf
from visuomotor.backbones.language import load_language_model

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


def test_a_llama_in_a_file_gives_the_scores_of_transformers(tmp_path) -> None:
    """Rows of queries and keys are interleaved by the converter of llama.cpp; ours must put them back."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [test]")
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(config).eval()
    writer = oracle.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    names = oracle.get_tensor_name_map(oracle.MODEL_ARCH.LLAMA, 2)
    for name, weights in network.state_dict().items():
        values = weights.numpy()
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
        if heads is not None:  # as convert_hf_to_gguf.py does
            rows, columns = values.shape
            values = (
                values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
            )
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = network(input_ids=ids).logits, load_language_model(tmp_path / "model.gguf")(ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))  # float32
    part = load_language_model(tmp_path / "model.gguf", layers=1)
    with torch.no_grad():
        states, _ = part.read(part.embed(ids))
        network.model.layers = network.model.layers[:1]
        network.config.num_hidden_layers = 1
        cut = network.model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(states, cut, rtol=0, atol=1e-5 * float(cut.abs().max()))
