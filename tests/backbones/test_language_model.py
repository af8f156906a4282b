from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from visuomotor.backbones import gemma, gemma2, gemma3, llama, qwen
from visuomotor.backbones.language import config_from_published, load_language_model
from visuomotor.backbones.language_model import LanguageModel, LanguageModelConfig, build, language_names
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import named_weights, unfilled

TINY = {
    "gemma": gemma.tiny(),
    "gemma2": gemma2.tiny(),
    "gemma3": gemma3.tiny(),
    "llama": llama.tiny(),
    "qwen2": qwen.tiny(generation="qwen2"),
    "qwen3": qwen.tiny(),
}
COUNTS = {
    llama.llama2_7b: 6_738_415_616,
    llama.llama2_13b: 13_015_864_320,
    llama.llama3_8b: 8_030_261_248,
    llama.llama3_1_8b: 8_030_261_248,
    llama.llama3_2_1b: 1_235_814_400,
    llama.llama3_2_3b: 3_212_749_824,
    llama.smollm2_135m: 134_515_008,
    llama.smollm2_360m: 361_821_120,
    llama.smollm2_1_7b: 1_711_376_384,
    gemma.gemma_2b: 2_506_172_416,
    gemma.gemma_7b: 8_537_680_896,
    gemma2.gemma2_2b: 2_614_341_888,
    gemma2.gemma2_9b: 9_241_705_984,
    gemma2.gemma2_27b: 27_227_128_320,
    gemma3.gemma3_270m: 268_098_176,
    gemma3.gemma3_1b: 999_885_952,
    gemma3.gemma3_4b: 3_880_263_168,
    gemma3.gemma3_12b: 11_766_034_176,
    gemma3.gemma3_27b: 27_009_346_304,
    qwen.qwen2_5_0_5b: 494_032_768,
    qwen.qwen2_5_1_5b: 1_543_714_304,
    qwen.qwen2_5_3b: 3_085_938_688,
    qwen.qwen2_5_7b: 7_615_616_512,
    qwen.qwen3_0_6b: 596_049_920,
    qwen.qwen3_1_7b: 1_720_574_976,
    qwen.qwen3_4b: 4_022_468_096,
    qwen.qwen3_8b: 8_190_735_360,
}
"""As published; without the copy that some files hold of a tied table."""


def made(config: LanguageModelConfig, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    network = LanguageModel(config).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def published(network: LanguageModel, front: str = "model.") -> dict[str, torch.Tensor]:
    """The weights of a network under the names of one spelling."""
    own = named_weights(network)
    names = language_names(network.config, [front])
    return {
        spelling if isinstance(spelling, str) else spelling[0]: own[name] for name, spelling in names.items()
    }


@pytest.mark.parametrize("maker", COUNTS, ids=lambda maker: maker.__name__)
def test_published_sizes_have_published_counts(maker) -> None:
    with unfilled():
        network = LanguageModel(maker())
    assert sum(weight.numel() for weight in network.parameters()) == COUNTS[maker]


@pytest.mark.parametrize("front", ["model.", "", "language_model.model.", "model.language_model."])
@pytest.mark.parametrize("family", TINY)
def test_every_spelling_gives_the_same_weights(family, front) -> None:
    network = made(TINY[family])
    loaded = build(network.config, published(network, front), where="test")
    for name, weight in named_weights(network).items():
        assert torch.equal(named_weights(loaded)[name], weight), name
    half = build(network.config, published(network, front), where="test", dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_a_table_of_scores_that_is_tied_may_be_stored_twice_or_alone() -> None:
    network = made(llama.tiny())
    weights = published(network)
    words = weights["model.embed_tokens.weight"]
    build(network.config, weights | {"lm_head.weight": words.clone()}, where="test")
    alone = {name: weight for name, weight in weights.items() if "embed_tokens" not in name}
    loaded = build(network.config, alone | {"lm_head.weight": words}, where="test")
    assert torch.equal(loaded.words.weight, words)
    with pytest.raises(CheckpointError, match=r"1 are unknown.*lm_head\.weight"):
        build(network.config, weights | {"lm_head.weight": words + 1}, where="test")


def test_angles_saved_by_old_versions_are_not_needed_and_nothing_else_is_left_over() -> None:
    network = made(llama.tiny())
    weights = published(network) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    build(network.config, weights, where="test")
    with pytest.raises(CheckpointError, match=r"1 are unknown.*model\.layers\.3\.mlp\.up_proj\.weight"):
        build(network.config, weights | {"model.layers.3.mlp.up_proj.weight": torch.ones(2)}, where="test")
    weights.pop("model.layers.1.mlp.down_proj.weight")
    with pytest.raises(CheckpointError, match=r"1 weights are missing.*layers\.1\.mlp\.down_proj"):
        build(network.config, weights, where="test")


@pytest.mark.parametrize("family", TINY)
@torch.no_grad()
def test_the_first_layers_of_a_model_are_a_model(family) -> None:
    config = TINY[family]
    whole, part = made(config), made(config.first(2), seed=1)
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    ids = torch.arange(6)[None]
    states, _ = part.read(part.embed(ids))
    end = whole.decoder.norm(_behind(whole, ids, 2))
    torch.testing.assert_close(states, end, rtol=0, atol=1e-5)  # float32
    with pytest.raises(ValueError, match="expected 1 to"):
        config.first(config.decoder.layers + 1)


def _behind(network: LanguageModel, ids: torch.Tensor, layers: int) -> torch.Tensor:
    """The stream behind the first layers, from a decoder whose others add nothing."""
    kept = network.decoder.layers
    try:
        for layer in kept[layers:]:
            layer.out.weight.data.zero_()
            layer.down.weight.data.zero_()
        captured = []
        handle = network.decoder.norm.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
        network.read(network.embed(ids))
        handle.remove()
    finally:
        network.decoder.layers = kept
    return captured[0]


@torch.no_grad()
def test_words_are_scaled_and_pictures_are_not() -> None:
    network = made(gemma.tiny())
    words = network.embed(torch.tensor([[3]]))
    torch.testing.assert_close(words[0, 0], network.words.weight[3] * 24**0.5)
    assert network.bfloat16().embed(torch.tensor([[3]])).dtype == torch.bfloat16


@torch.no_grad()
def test_scores_stay_within_their_bound() -> None:
    network = made(gemma2.tiny())
    scores = network.score(1000 * torch.randn(4, 24))
    assert scores.abs().max() <= 30
    assert scores.abs().max() > 29


@pytest.mark.parametrize("family", TINY)
def test_every_weight_gets_a_gradient(family) -> None:
    network = made(TINY[family])
    ids = torch.arange(12)[None]
    torch.nn.functional.cross_entropy(network(ids)[0, :-1], ids[0, 1:]).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def write(folder: Path, network: LanguageModel, **config) -> Path:
    save_file(
        {name: weight.contiguous() for name, weight in published(network).items()},
        folder / "model.safetensors",
    )
    sizes = network.config.decoder
    stated = {
        "model_type": "llama",
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.mlp_width,
        "rms_norm_eps": sizes.norm_eps,
        "vocab_size": network.config.vocabulary,
        "tie_word_embeddings": True,
    }
    stated = {key: value for key, value in (stated | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


@torch.no_grad()
def test_a_folder_is_loaded(tmp_path) -> None:
    network = made(llama.tiny())
    loaded = load_language_model(write(tmp_path, network))
    assert loaded.config == network.config
    assert not loaded.training
    ids = torch.arange(5)[None]
    assert torch.equal(loaded(ids), network(ids))


@torch.no_grad()
def test_the_first_layers_of_a_folder_are_loaded(tmp_path) -> None:
    network = made(llama.tiny())
    folder = write(tmp_path, network)
    part = load_language_model(folder, layers=2)
    assert part.config == network.config.first(2)
    states, _ = part.read(part.embed(torch.arange(6)[None]))
    end = network.decoder.norm(_behind(network, torch.arange(6)[None], 2))
    torch.testing.assert_close(states, end, rtol=0, atol=1e-5)  # float32
    with pytest.raises(ValueError, match="expected 1 to 3 layers, got 4"):
        load_language_model(folder, layers=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "unknown family of language models 'mamba'.*Did you mean 'llama'"),
        ({"hidden_act": "relu"}, "expected hidden_act 'silu', got 'relu'"),
        ({"attention_bias": True}, "expected attention_bias False, got True"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2}},
            "kind 'yarn' are not supported; default, linear",
        ),
        ({"hidden_size": None}, "expected the key 'hidden_size'"),
        ({"intermediate_size": 44}, r"expected shape \(44, 24\), got \(40, 24\)"),
        ({"num_hidden_layers": 2}, r"9 are unknown \('model\.layers\.2\."),
        ({"num_hidden_layers": 4}, r"9 weights are missing \('model\.layers\.3\."),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, change, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_language_model(write(tmp_path, made(llama.tiny()), **change))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model_type": "gemma", "hidden_activation": "relu"}, "expected hidden_activation"),
        (
            {"model_type": "gemma2", "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
            "layer_types",
        ),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "expected use_sliding_window False"),
        ({"model_type": "qwen3", "hidden_act": "gelu"}, "expected hidden_act"),
        ({"text_config": {"model_type": "mamba"}}, "text_config: unknown family"),
        ({}, "unknown family of language models 'none'"),
    ],
)
def test_what_the_families_do_not_have_is_refused(data, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_from_published(data)


def test_published_configs_that_leave_keys_out_are_read() -> None:
    """The text configs of the released PaliGemma 3B (224) and Gemma 3 4B, as they stand on the hub."""
    paligemma = {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_image_tokens": 256,
        "num_key_value_heads": 1,
        "torch_dtype": "float32",
        "vocab_size": 257216,
    }
    assert config_from_published({"model_type": "paligemma", "text_config": paligemma}) == gemma.gemma_2b(
        257_216
    )
    four = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    assert config_from_published({"model_type": "gemma3", "text_config": four}) == gemma3.gemma3_4b()
