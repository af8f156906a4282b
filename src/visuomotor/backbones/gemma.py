"""Gemma: few wide heads, GELU gates, norms that store the difference to 1, words scaled up.

Gemma Team (2024), "Gemma: Open Models Based on Gemini Research and Technology". The language model of
PaliGemma, and so of pi0 and pi0.5. Words are multiplied by the square root of the width; pictures are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visuomotor.backbones.language_model import LanguageModelConfig, Stated
from visuomotor.nn.decoder import DecoderConfig

__all__ = ["from_published", "gemma_2b", "gemma_7b", "tiny"]


def gemma_2b(vocabulary: int = 256_000) -> LanguageModelConfig:
    """Gemma 2B; PaliGemma's has a vocabulary of 257,152, padded to 257,216 in some files."""
    return _sizes(2048, 18, 8, 1, 256, 16_384, vocabulary)


def gemma_7b() -> LanguageModelConfig:
    """Gemma 7B."""
    return _sizes(3072, 28, 16, 16, 256, 24_576, 256_000)


def tiny(vocabulary: int = 64) -> LanguageModelConfig:
    """A model for tests."""
    return _sizes(24, 3, 4, 1, 8, 40, vocabulary)


def _sizes(
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    vocabulary: int,
    *,
    norm_eps: float = 1e-6,
    rope_base: float = 10_000.0,
) -> LanguageModelConfig:
    decoder = DecoderConfig(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        mlp_width=mlp_width,
        activation="gelu_tanh",
        norm_eps=norm_eps,
        norm_offset=1.0,
        rope_base=rope_base,
    )
    return LanguageModelConfig(decoder=decoder, vocabulary=vocabulary, word_scale=width**0.5)


def from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """From the keys of a published `config.json`, or its `text_config`.

    The activation of old files, "gelu", means the approximation by tanh there, too.

    Raises:
        CheckpointError: It is another architecture, or a key is missing.
    """
    stated = Stated(data, where)
    stated.expect(model_type="gemma", attention_bias=False, tie_word_embeddings=True)
    if stated.get("hidden_activation", stated.get("hidden_act", "gelu")) != "gelu":
        key = "hidden_activation" if stated.get("hidden_activation", None) else "hidden_act"
        stated.expect(**{key: "gelu_pytorch_tanh"})
    rope = stated.rope()
    stated.stretch(rope)
    return _sizes(
        stated["hidden_size"],
        stated["num_hidden_layers"],
        stated["num_attention_heads"],
        stated["num_key_value_heads"],
        stated.get("head_dim", 256),
        stated["intermediate_size"],
        stated["vocab_size"],
        norm_eps=stated.get("rms_norm_eps", 1e-6),
        rope_base=rope["rope_theta"],
    )
