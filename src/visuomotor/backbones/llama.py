"""Llama 2 and 3, and SmolLM2, which is a small Llama.

Touvron et al. (2023), "Llama 2"; Grattafiori et al. (2024), "The Llama 3 Herd of Models"; Ben Allal et al.
(2025), "SmolLM2". Norms before each branch, rotary positions, grouped queries, SiLU gates, no biases.
Llama 3.1 and later slow down the rotary angles for long texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visuomotor.backbones.language_model import LanguageModelConfig, Stated
from visuomotor.nn.decoder import DecoderConfig, RopeStretch

__all__ = [
    "DEFAULTS",
    "from_published",
    "llama2_7b",
    "llama2_13b",
    "llama3_1_8b",
    "llama3_2_1b",
    "llama3_2_3b",
    "llama3_8b",
    "smollm2_1_7b",
    "smollm2_135m",
    "smollm2_360m",
    "tiny",
]

DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11_008,
}
"""Sizes that a Llama within another model has where its `text_config` leaves them out: transformers' own."""


def llama2_7b(vocabulary: int = 32_000) -> LanguageModelConfig:
    """Llama 2 7B; OpenVLA's has a vocabulary of 32,064."""
    return _sizes(4096, 32, 32, 32, 11_008, vocabulary, tied=False)


def llama2_13b() -> LanguageModelConfig:
    """Llama 2 13B."""
    return _sizes(5120, 40, 40, 40, 13_824, 32_000, tied=False)


def llama3_8b() -> LanguageModelConfig:
    """Llama 3 8B."""
    return _sizes(4096, 32, 32, 8, 14_336, 128_256, tied=False, rope_base=500_000.0)


def llama3_1_8b() -> LanguageModelConfig:
    """Llama 3.1 8B."""
    stretch = RopeStretch(factor=8.0, context=8192)
    return _sizes(4096, 32, 32, 8, 14_336, 128_256, tied=False, rope_base=500_000.0, rope_stretch=stretch)


def llama3_2_1b() -> LanguageModelConfig:
    """Llama 3.2 1B."""
    stretch = RopeStretch(factor=32.0, context=8192)
    return _sizes(2048, 16, 32, 8, 8192, 128_256, rope_base=500_000.0, rope_stretch=stretch)


def llama3_2_3b() -> LanguageModelConfig:
    """Llama 3.2 3B."""
    stretch = RopeStretch(factor=32.0, context=8192)
    return _sizes(3072, 28, 24, 8, 8192, 128_256, rope_base=500_000.0, rope_stretch=stretch)


def smollm2_135m(vocabulary: int = 49_152) -> LanguageModelConfig:
    """SmolLM2 135M; its weights ship in the extra `[smollm2]`."""
    return _sizes(576, 30, 9, 3, 1536, vocabulary, rope_base=100_000.0)


def smollm2_360m(vocabulary: int = 49_152) -> LanguageModelConfig:
    """SmolLM2 360M; the one in SmolVLM2-500M has a vocabulary of 49,280."""
    return _sizes(960, 32, 15, 5, 2560, vocabulary, rope_base=100_000.0)


def smollm2_1_7b(vocabulary: int = 49_152) -> LanguageModelConfig:
    """SmolLM2 1.7B."""
    return _sizes(2048, 24, 32, 32, 8192, vocabulary, rope_base=130_000.0)


def tiny(vocabulary: int = 64) -> LanguageModelConfig:
    """A model for tests."""
    return _sizes(24, 3, 6, 2, 40, vocabulary)


def _sizes(
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    vocabulary: int,
    *,
    tied: bool = True,
    rope_base: float = 10_000.0,
    rope_stretch: RopeStretch | None = None,
) -> LanguageModelConfig:
    decoder = DecoderConfig(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        norm_eps=1e-5,
        rope_base=rope_base,
        rope_stretch=rope_stretch,
    )
    return LanguageModelConfig(decoder=decoder, vocabulary=vocabulary, tied=tied)


def from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """From the keys of a published `config.json`.

    Raises:
        CheckpointError: It is another architecture, or a key is missing.
    """
    stated = Stated(data, where)
    stated.expect(model_type="llama", hidden_act="silu", attention_bias=False, mlp_bias=False)
    rope = stated.rope()
    heads = stated["num_attention_heads"]
    decoder = DecoderConfig(
        width=stated["hidden_size"],
        layers=stated["num_hidden_layers"],
        heads=heads,
        kv_heads=stated.get("num_key_value_heads", heads),
        head_width=stated.get("head_dim", stated["hidden_size"] // heads),
        mlp_width=stated["intermediate_size"],
        norm_eps=stated.get("rms_norm_eps", 1e-6),
        rope_base=rope["rope_theta"],
        rope_stretch=stated.stretch(rope, "linear", "llama3"),
    )
    tied = stated.get("tie_word_embeddings", False)
    return LanguageModelConfig(decoder=decoder, vocabulary=stated["vocab_size"], tied=tied)
