"""PaliGemma: a SigLIP tower, a linear map, and Gemma 2B, which reads pictures as if they were words.

Beyer et al. (2024), "PaliGemma: a versatile 3B VLM for transfer", section 3.1. Pictures and prompt are one
block in which every token sees every other; what the model writes behind it looks back. The words are
multiplied by the square root of the width, the pictures are not.

The trunk of pi0, pi0-FAST and pi0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.backbones.gemma import from_published, gemma_2b, tiny
from visuomotor.backbones.language_model import LanguageModel, LanguageModelConfig, language_names
from visuomotor.backbones.siglip import SigLIP, SigLIPConfig, siglip_names
from visuomotor.nn.mixture import Segment, run
from visuomotor.nn.weights import Names, load_named, nested, unfilled

__all__ = ["PaliGemma", "PaliGemmaConfig", "load_paligemma", "paligemma_names"]

WORDS = 257_152
"""Gemma's 256,000 tokens, 1,024 places in a picture, 128 codes of shapes."""


def _language() -> LanguageModelConfig:
    return gemma_2b(WORDS)


@dataclass(frozen=True, kw_only=True)
class PaliGemmaConfig:
    """Sizes; the defaults are PaliGemma 3B at 224 pixels."""

    vision: SigLIPConfig = field(default_factory=SigLIPConfig)
    """The tower."""
    language: LanguageModelConfig = field(default_factory=_language)
    """Gemma."""

    @classmethod
    def padded(cls) -> PaliGemmaConfig:
        """The same as transformers publishes it: 64 rows behind the words stand for nothing."""
        return cls(language=gemma_2b(WORDS + 64))

    @classmethod
    def tiny(cls, vocabulary: int = 64) -> PaliGemmaConfig:
        """A model for tests."""
        return cls(vision=SigLIPConfig.tiny(), language=tiny(vocabulary))


class PaliGemma(nn.Module):
    """Pictures and words to states of Gemma's decoder.

    Args:
        config: Sizes.
    """

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SigLIP(config.vision)
        self.project = nn.Linear(config.vision.width, config.language.decoder.width)
        self.language = LanguageModel(config.language)

    def see(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame token feature"]:
        """Pictures in [-1, 1] as tokens beside words."""
        return self.project(self.vision(pictures).to(self.project.weight.dtype))

    def forward(
        self,
        pictures: Float[Tensor, "batch camera 3 height width"],
        prompt: Int[Tensor, "batch word"],
        answer: Int[Tensor, "batch token"],
        real: Bool[Tensor, "batch word"] | None = None,
    ) -> Float[Tensor, "batch token vocabulary"]:
        """Scores of each token of an answer's successor.

        Args:
            pictures: In [-1, 1], each camera's tokens one behind the other.
            prompt: Ids; sees the pictures and all of itself.
            answer: Ids; each sees what stands before it.
            real: `True` for real tokens of the prompt; None if all are.
        """
        batch, cameras = pictures.shape[:2]
        seen = self.see(pictures.flatten(0, 1)).unflatten(0, (batch, cameras)).flatten(1, 2)
        if real is not None:
            real = torch.cat([real.new_ones(seen.shape[:2]), real], dim=1)
        first = Segment(tokens=torch.cat([seen, self.language.embed(prompt)], dim=1), real=real)
        written = Segment(tokens=self.language.embed(answer), block=1, causal=True)
        ends, _ = run([self.language.decoder], [first, written])
        return self.language.score(ends[1])


# Weight loading

FRONTS = ("", "model.", "paligemma.", "paligemma.model.")
_VISION = ("vision_tower.vision_model.", "vision_tower.")
_LANGUAGE = ("language_model.model.", "language_model.")


def paligemma_names(config: PaliGemmaConfig, fronts: Sequence[str] = FRONTS) -> Names:
    """The table of names, with what may stand before them in a file."""
    fronts = tuple(fronts)
    towers = tuple(front + vision for front in fronts for vision in _VISION)
    decoders = tuple(front + language for front in fronts for language in _LANGUAGE)
    names: dict[str, object] = {
        **nested(siglip_names(config.vision), "vision.", towers),
        **nested(language_names(config.language, ("",)), "language.", decoders),
    }
    for part in ("weight", "bias"):
        spelled = tuple(f"{front}multi_modal_projector.linear.{part}" for front in fronts)
        names[f"project.{part}"] = spelled
    heads = tuple(front.removesuffix("model.") + "lm_head.weight" for front in fronts)
    heads += tuple(f"{front}language_model.lm_head.weight" for front in fronts)
    if not config.language.tied:
        names["language.head.weight"] = tuple(dict.fromkeys(heads))
        return names  # type: ignore[return-value]
    table = names["language.words.weight"]  # may be stored under the name of the scores alone
    assert isinstance(table, tuple)
    names["language.words.weight"] = (*table, *dict.fromkeys(heads))
    return names  # type: ignore[return-value]


def config_from_published(data: Mapping[str, object], where: str = "config.json") -> PaliGemmaConfig:
    """Sizes from a published `config.json`."""
    text = data.get("text_config", {})
    assert isinstance(text, Mapping)
    return PaliGemmaConfig(
        vision=SigLIPConfig.from_published(data, where), language=from_published(text, where)
    )


def load_paligemma(source: str | Path, *, dtype: torch.dtype = torch.float32) -> PaliGemma:
    """A published model.

    Args:
        source: A folder with `config.json` and safetensors, or a name on the Hugging Face hub:
            "google/paligemma-3b-pt-224".
        dtype: Of the weights in memory.

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
    """
    path = find_model(source)
    config = config_from_published(read_config(path), f"{path}: config.json")
    with unfilled():
        network = PaliGemma(config).to(dtype)
    load_named(network, open_tensors(path), where=str(path), names=paligemma_names(config))
    return network.eval()
