"""A language model: a table of words, a decoder that looks back, and numbers for the next word.

What Llama, Gemma and Qwen have in common. Each of `llama.py`, `gemma.py`, `gemma2.py`, `gemma3.py` and
`qwen.py` says how its family differs, with its published sizes; the decoder is `nn/decoder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.errors import CheckpointError
from visuomotor.nn.decoder import Decoder, DecoderConfig, RopeStretch
from visuomotor.nn.mixture import Past, Segment, run
from visuomotor.nn.weights import Names, load_named, nested, unfilled

__all__ = ["LanguageModel", "LanguageModelConfig", "Stated", "build", "decoder_names", "language_names"]

FRONTS = ("model.", "", "language_model.model.", "model.language_model.", "model.text_model.")
"""What stands before the names of a language model in files: alone, and within models that also see."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Sizes and conventions of a language model."""

    decoder: DecoderConfig
    """Its layers."""
    vocabulary: int
    """Rows of the table of words."""
    tied: bool = True
    """Whether the next word is scored with the table of words, or with a table of its own."""
    word_scale: float = 1.0
    """Factor of words, but not of pictures, before the first layer."""
    logit_cap: float | None = None
    """Scores stay within this, by a hyperbolic tangent; None for no bound."""

    def first(self, layers: int) -> LanguageModelConfig:
        """The same with the first layers only, as policies use that need no words back."""
        if not 1 <= layers <= self.decoder.layers:
            raise ValueError(f"language model: expected 1 to {self.decoder.layers} layers, got {layers}.")
        return replace(self, decoder=replace(self.decoder, layers=layers))


class LanguageModel(nn.Module):
    """Ids of tokens to scores of the next one.

    Args:
        config: Sizes and conventions.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.width
        self.words = nn.Embedding(config.vocabulary, width)
        self.decoder = Decoder(config.decoder)
        self.head = None if config.tied else nn.Linear(width, config.vocabulary, bias=False)
        nn.init.normal_(self.words.weight, std=width**-0.5)  # tied scores are then of size 1

    def embed(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Words as the first layer takes them."""
        words = self.words(ids)
        if self.config.word_scale == 1:
            return words
        return words * torch.tensor(self.config.word_scale, dtype=words.dtype)  # rounded as the words are

    def read(
        self,
        tokens: Float[Tensor, "batch token width"],
        mask: Bool[Tensor, "batch token"] | None = None,
        past: Past | None = None,
    ) -> tuple[Float[Tensor, "batch token width"], Past]:
        """States of tokens that see themselves and what came before, and what later ones need of them.

        Args:
            tokens: What `embed` gives, or pictures, or both.
            mask: `True` for real tokens; padding takes no position, wherever it stands. None if all are.
            past: Of the tokens before these.
        """
        segment = Segment(tokens=tokens, causal=True, real=mask)
        (states,), (kept,) = run([self.decoder], [segment], [] if past is None else [past])
        return states, kept

    def score(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch word"]:
        """Scores (logits) of every token as the next one, from states behind the last norm."""
        table = self.words.weight if self.head is None else self.head.weight
        scores = nn.functional.linear(states, table)
        cap = self.config.logit_cap
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def forward(
        self, ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch token word"]:
        """Scores of the next token behind each token; those behind padding mean nothing."""
        return self.score(self.read(self.embed(ids), mask)[0])


# Weight loading

_LAYER = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "attention_norm": "input_layernorm",
}
_TWO_NORMS = {"mlp_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    "attention_end": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_end": "post_feedforward_layernorm",
}
UNUSED = ("*rotary_emb.inv_freq",)
"""Saved by old versions of a library; computed here."""


def decoder_names(config: DecoderConfig) -> dict[str, str]:
    """The table of names of a decoder with plain norms, without what stands before them in a file."""
    layer = _LAYER | (_FOUR_NORMS if config.branch_norm else _TWO_NORMS)
    if not config.head_norm:
        layer = {ours: theirs for ours, theirs in layer.items() if ours not in ("query_norm", "key_norm")}
    names = {"norm.weight": "norm.weight"}
    for level in range(config.layers):
        for ours, theirs in layer.items():
            parts = ["weight"]
            if config.qkv_bias and ours in ("query", "key", "value"):
                parts.append("bias")
            for part in parts:
                names[f"layers.{level}.{ours}.{part}"] = f"layers.{level}.{theirs}.{part}"
    return names


def language_names(config: LanguageModelConfig, fronts: Sequence[str] = FRONTS) -> Names:
    """The table of names of a language model.

    A tied table may be stored under the name of the scores as well, or under it alone.

    Args:
        config: Sizes and conventions.
        fronts: What may stand before the names in a file.
    """
    heads = tuple(dict.fromkeys(front.removesuffix("model.") + "lm_head.weight" for front in fronts))
    words = tuple(front + "embed_tokens.weight" for front in fronts)
    names = {"words.weight": (*words, *heads) if config.tied else words}
    if not config.tied:
        names["head.weight"] = heads
    return {**names, **nested(decoder_names(config.decoder), "decoder.", tuple(fronts))}


def build(
    config: LanguageModelConfig,
    weights: Mapping[str, Tensor],
    *,
    where: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    unused: Sequence[str] = (),
) -> LanguageModel:
    """A language model with published weights; every one exactly once, nothing left over.

    Args:
        config: Sizes and conventions.
        weights: By their names on disk.
        where: Named in errors.
        dtype: Of the weights here.
        device: Where they go.
        unused: Patterns of further names that are known and not needed.

    Raises:
        CheckpointError: A weight is missing, unknown or of the wrong shape.
    """
    with unfilled():
        network = LanguageModel(config).to(dtype)
    load_named(
        network,
        weights,
        where=where,
        names=language_names(config),
        unused=(*UNUSED, *unused),
        device=device,
    )
    return network.eval()


class Stated:
    """A published `config.json`, read strictly.

    Args:
        data: Its content.
        where: Named in errors.
    """

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def __getitem__(self, key: str) -> Any:
        if key not in self.data:
            raise CheckpointError(f"{self.where}: expected the key {key!r}, as in a published config.")
        return self.data[key]

    def get(self, key: str, default: Any) -> Any:
        """The value of a key that may be missing, or null."""
        found = self.data.get(key)
        return default if found is None else found

    def expect(self, **values: Any) -> None:
        """Refuse another architecture: keys that are there must have these values.

        Raises:
            CheckpointError: One has another value.
        """
        for key, value in values.items():
            if self.get(key, value) != value:
                raise CheckpointError(
                    f"{self.where}: expected {key} {value!r}, got {self.data[key]!r}. "
                    "This architecture is not supported."
                )

    def expect_layers(self, global_every: int) -> None:
        """Refuse a list of kinds of layers in which another one than every so-manieth sees all.

        Raises:
            CheckpointError: It is such a list.
        """
        kinds = {True: "full_attention", False: "sliding_attention"}
        expected = [kinds[(level + 1) % global_every == 0] for level in range(self["num_hidden_layers"])]
        self.expect(layer_types=expected)

    def stretch(self, rope: Mapping[str, Any], *kinds: str) -> RopeStretch | None:
        """How the rotary angles of `rope` are slowed.

        Args:
            rope: What `rope` gave.
            kinds: Those that the family has, besides none: "linear", "llama3".

        Raises:
            CheckpointError: It is another kind.
        """
        kind = rope.get("rope_type", "default")
        if kind not in ("default", *kinds):
            raise CheckpointError(
                f"{self.where}: rotary positions of the kind {kind!r} are not supported; "
                f"{', '.join(('default', *kinds))} are. Choose another model."
            )
        if kind == "default":
            return None
        if kind == "linear":
            return RopeStretch(factor=rope["factor"])
        return RopeStretch(
            factor=rope["factor"],
            context=rope["original_max_position_embeddings"],
            slow=rope["low_freq_factor"],
            fast=rope["high_freq_factor"],
        )

    def rope(self, kind: str = "full_attention") -> Mapping[str, Any]:
        """What it says of the rotary positions of one kind of layers; older keys are understood, too."""
        table = self.get("rope_parameters", None)
        if table is None:
            older = dict(self.get("rope_scaling", {}))
            older.setdefault("rope_type", older.pop("type", "default"))
            return {"rope_theta": self.get("rope_theta", 10_000.0), **older}
        return table.get(kind, table)
