"""Gemma 3, text only: five local layers to one that sees all, normed heads, two bases of rotary positions.

Gemma Team (2025), "Gemma 3 Technical Report", section 2. Norms as in Gemma 2, and no bounds: norms of
queries and keys have taken their place. From 4B on, the angles of global layers are slowed eightfold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visuomotor.backbones.language_model import LanguageModelConfig, Stated
from visuomotor.nn.decoder import DecoderConfig, RopeStretch

__all__ = [
    "from_published",
    "gemma3_1b",
    "gemma3_4b",
    "gemma3_12b",
    "gemma3_27b",
    "gemma3_270m",
    "tiny",
]

GLOBAL_EVERY = 6
SLOWED = RopeStretch(factor=8.0)


def gemma3_270m() -> LanguageModelConfig:
    """Gemma 3 270M."""
    return _sizes(640, 18, 4, 1, 256, 2048, 262_144, window=512)


def gemma3_1b() -> LanguageModelConfig:
    """Gemma 3 1B."""
    return _sizes(1152, 26, 4, 1, 256, 6912, 262_144, window=512)


def gemma3_4b() -> LanguageModelConfig:
    """The language model of Gemma 3 4B."""
    return _sizes(2560, 34, 8, 4, 256, 10_240, 262_208, rope_stretch=SLOWED)


def gemma3_12b() -> LanguageModelConfig:
    """The language model of Gemma 3 12B."""
    return _sizes(3840, 48, 16, 8, 256, 15_360, 262_208, rope_stretch=SLOWED)


def gemma3_27b() -> LanguageModelConfig:
    """The language model of Gemma 3 27B: queries are scaled by the width over the heads."""
    return _sizes(5376, 62, 32, 16, 128, 21_504, 262_208, query_size=168, rope_stretch=SLOWED)


def tiny(vocabulary: int = 64) -> LanguageModelConfig:
    """A model for tests, with a short window."""
    return _sizes(24, 7, 4, 2, 8, 40, vocabulary, query_size=6, window=4, rope_stretch=SLOWED)


def _sizes(
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    vocabulary: int,
    *,
    query_size: float = 256,
    window: int = 1024,
    norm_eps: float = 1e-6,
    rope_base: float = 1_000_000.0,
    rope_stretch: RopeStretch | None = None,
    local_rope_base: float = 10_000.0,
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
        head_norm=True,
        branch_norm=True,
        query_scale=query_size**-0.5,
        window=window,
        global_every=GLOBAL_EVERY,
        rope_base=rope_base,
        rope_stretch=rope_stretch,
        local_rope_base=local_rope_base,
    )
    return LanguageModelConfig(decoder=decoder, vocabulary=vocabulary, word_scale=width**0.5)


def from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """From the keys of a published `config.json`, or its `text_config`.

    Keys that published files leave out have the values of the 4B model.

    Raises:
        CheckpointError: It is another architecture, or a key is missing.
    """
    stated = Stated(data, where)
    stated.expect(
        model_type="gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        attention_bias=False,
        tie_word_embeddings=True,
        use_bidirectional_attention=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    )
    stated.expect_layers(GLOBAL_EVERY)
    rope, local = stated.rope(), stated.rope("sliding_attention")
    two = "sliding_attention" in stated.get("rope_parameters", {})
    return _sizes(
        stated["hidden_size"],
        stated["num_hidden_layers"],
        stated.get("num_attention_heads", 8),
        stated.get("num_key_value_heads", 4),
        stated.get("head_dim", 256),
        stated["intermediate_size"],
        stated.get("vocab_size", 262_208),
        query_size=stated.get("query_pre_attn_scalar", 256),
        window=stated.get("sliding_window", 4096),
        norm_eps=stated.get("rms_norm_eps", 1e-6),
        rope_base=rope["rope_theta"] if two else stated.get("rope_theta", 1_000_000.0),
        rope_stretch=stated.stretch(rope, "linear"),
        local_rope_base=local["rope_theta"] if two else stated.get("rope_local_base_freq", 10_000.0),
    )
