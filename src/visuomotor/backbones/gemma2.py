"""Gemma 2: every other layer is local, products and scores are bounded, branches are normed at their end.

Gemma Team (2024), "Gemma 2: Improving Open Language Models at a Practical Size", section 2 and table 1.
Else as Gemma.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visuomotor.backbones.language_model import LanguageModelConfig, Stated
from visuomotor.nn.decoder import DecoderConfig

__all__ = ["from_published", "gemma2_2b", "gemma2_9b", "gemma2_27b", "tiny"]

GLOBAL_EVERY = 2


def gemma2_2b(vocabulary: int = 256_000) -> LanguageModelConfig:
    """Gemma 2 2B; PaliGemma 2 3B's has a vocabulary of 257,216."""
    return _sizes(2304, 26, 8, 4, 256, 9216, vocabulary)


def gemma2_9b() -> LanguageModelConfig:
    """Gemma 2 9B."""
    return _sizes(3584, 42, 16, 8, 256, 14_336, 256_000)


def gemma2_27b() -> LanguageModelConfig:
    """Gemma 2 27B: queries are scaled by the width over the heads, not by the width of a head."""
    return _sizes(4608, 46, 32, 16, 128, 36_864, 256_000, query_size=144)


def tiny(vocabulary: int = 64) -> LanguageModelConfig:
    """A model for tests, with a short window."""
    return _sizes(24, 3, 4, 2, 8, 40, vocabulary, query_size=6, window=4)


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
    window: int = 4096,
    softcap: float | None = 50.0,
    logit_cap: float | None = 30.0,
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
        query_scale=query_size**-0.5,
        branch_norm=True,
        softcap=softcap,
        window=window,
        global_every=GLOBAL_EVERY,
    )
    scale = width**0.5
    return LanguageModelConfig(decoder=decoder, vocabulary=vocabulary, word_scale=scale, logit_cap=logit_cap)


def from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """From the keys of a published `config.json`, or its `text_config`.

    Raises:
        CheckpointError: It is another architecture, or a key is missing.
    """
    stated = Stated(data, where)
    stated.expect(
        model_type="gemma2",
        hidden_activation="gelu_pytorch_tanh",
        attention_bias=False,
        tie_word_embeddings=True,
        use_bidirectional_attention=False,
    )
    stated.expect_layers(GLOBAL_EVERY)
    rope = stated.rope()
    stated.stretch(rope)
    return _sizes(
        stated["hidden_size"],
        stated["num_hidden_layers"],
        stated["num_attention_heads"],
        stated["num_key_value_heads"],
        stated.get("head_dim", 256),
        stated["intermediate_size"],
        stated.get("vocab_size", 256_000),
        query_size=stated.get("query_pre_attn_scalar", 256),
        window=stated.get("sliding_window", 4096),
        softcap=stated.get("attn_logit_softcapping", None),
        logit_cap=stated.get("final_logit_softcapping", None),
        norm_eps=stated.get("rms_norm_eps", 1e-6),
        rope_base=rope["rope_theta"],
    )
