"""Qwen 2.5 and Qwen 3: Llama's layers, with biases before the heads (2.5) or normed heads (3).

Qwen Team (2024), "Qwen2.5 Technical Report", section 2; Qwen Team (2025), "Qwen3 Technical Report",
section 2. Local layers, which their code has and their published configs switch off, are not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from visuomotor.backbones.language_model import LanguageModelConfig, Stated
from visuomotor.nn.decoder import DecoderConfig

__all__ = [
    "from_published",
    "qwen2_5_0_5b",
    "qwen2_5_1_5b",
    "qwen2_5_3b",
    "qwen2_5_7b",
    "qwen3_0_6b",
    "qwen3_1_7b",
    "qwen3_4b",
    "qwen3_8b",
    "tiny",
]

Generation = Literal["qwen2", "qwen3"]


def qwen2_5_0_5b() -> LanguageModelConfig:
    """Qwen2.5 0.5B."""
    return _sizes("qwen2", 896, 24, 14, 2, 64, 4864)


def qwen2_5_1_5b() -> LanguageModelConfig:
    """Qwen2.5 1.5B."""
    return _sizes("qwen2", 1536, 28, 12, 2, 128, 8960)


def qwen2_5_3b() -> LanguageModelConfig:
    """Qwen2.5 3B."""
    return _sizes("qwen2", 2048, 36, 16, 2, 128, 11_008)


def qwen2_5_7b() -> LanguageModelConfig:
    """Qwen2.5 7B."""
    return _sizes("qwen2", 3584, 28, 28, 4, 128, 18_944, 152_064, tied=False)


def qwen3_0_6b() -> LanguageModelConfig:
    """Qwen3 0.6B."""
    return _sizes("qwen3", 1024, 28, 16, 8, 128, 3072)


def qwen3_1_7b() -> LanguageModelConfig:
    """Qwen3 1.7B."""
    return _sizes("qwen3", 2048, 28, 16, 8, 128, 6144)


def qwen3_4b() -> LanguageModelConfig:
    """Qwen3 4B."""
    return _sizes("qwen3", 2560, 36, 32, 8, 128, 9728)


def qwen3_8b() -> LanguageModelConfig:
    """Qwen3 8B."""
    return _sizes("qwen3", 4096, 36, 32, 8, 128, 12_288, tied=False)


def tiny(vocabulary: int = 64, generation: Generation = "qwen3") -> LanguageModelConfig:
    """A model for tests."""
    return _sizes(generation, 24, 3, 4, 2, 8, 40, vocabulary)


def _sizes(
    generation: Generation,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    vocabulary: int = 151_936,
    *,
    tied: bool = True,
    norm_eps: float = 1e-6,
    rope_base: float = 1_000_000.0,
) -> LanguageModelConfig:
    decoder = DecoderConfig(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        mlp_width=mlp_width,
        norm_eps=norm_eps,
        rope_base=rope_base,
        qkv_bias=generation == "qwen2",
        head_norm=generation == "qwen3",
    )
    return LanguageModelConfig(decoder=decoder, vocabulary=vocabulary, tied=tied)


def from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """From the keys of a published `config.json`.

    Raises:
        CheckpointError: It is another architecture, or a key is missing.
    """
    stated = Stated(data, where)
    generation = stated.get("model_type", "qwen2")
    if generation not in ("qwen2", "qwen3"):
        stated.expect(model_type="qwen3")
    stated.expect(hidden_act="silu", attention_bias=False, use_sliding_window=False)
    stated.expect_layers(1)
    rope = stated.rope()
    stated.stretch(rope)
    heads = stated["num_attention_heads"]
    return _sizes(
        generation,
        stated["hidden_size"],
        stated["num_hidden_layers"],
        heads,
        stated.get("num_key_value_heads", heads),
        stated.get("head_dim", stated["hidden_size"] // heads),
        stated["intermediate_size"],
        stated["vocab_size"],
        tied=stated.get("tie_word_embeddings", False),
        norm_eps=stated.get("rms_norm_eps", 1e-6),
        rope_base=rope["rope_theta"],
    )
