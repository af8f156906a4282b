"""Prismatic: what DINOv2 and SigLIP see of each patch, side by side, as words of a language model.

Karamcheti et al. (2024), "Prismatic VLMs: Investigating the Design Space of Visually-Conditioned Language
Models", section 4.2 (fused features) and appendix A; the eyes of OpenVLA (Kim et al. 2024, section 3.1).
DINOv2 knows where things are and SigLIP what they are called. Both towers see the same picture, each on its
own scale; their tokens behind the last layer but one are joined patch by patch, class token and registers
left out, and mapped to the width of the language model by three layers.

As in the released weights, SigLIP's hidden layers take the exact GELU. The last layer of each tower and
SigLIP's pooling head are in the files and change nothing: they are accounted for by name and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from visuomotor.backbones import llama
from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.backbones.dinov2 import DINOV2_UNUSED, DINOv2, DINOv2Config, dinov2_names
from visuomotor.backbones.language_model import LanguageModel, LanguageModelConfig, language_names
from visuomotor.backbones.siglip import SIGLIP_UNUSED, SigLIP, SigLIPConfig, siglip_names
from visuomotor.errors import CheckpointError
from visuomotor.nn.pictures import standardize_pictures, unit_pictures
from visuomotor.nn.weights import Names, load_named, nested, unfilled

__all__ = [
    "Prismatic",
    "PrismaticConfig",
    "PrismaticVision",
    "PrismaticVisionConfig",
    "Projector",
    "load_prismatic",
    "load_prismatic_weights",
    "prismatic_vision_names",
    "prismatic_vision_unused",
]

WORDS = 32_064  # Llama 2's 32,000, a padding token, and unused ones up to a multiple of 64
WIDER = 4  # hidden width of the projector's first layer, in widths of the joined features


@dataclass(frozen=True, kw_only=True)
class PrismaticVisionConfig:
    """Sizes; the defaults are those of OpenVLA. Towers count the layers that are not run."""

    dino: DINOv2Config = field(default_factory=lambda: DINOv2Config(image=224))
    """DINOv2; its `image` is the size of the pictures, for which files hold the positions."""
    siglip: SigLIPConfig = field(default_factory=lambda: SigLIPConfig(activation="gelu"))
    """SigLIP."""
    out: int = 4096
    """Width of the language model."""

    def __post_init__(self) -> None:
        dino, siglip = (self.dino.image, self.dino.side), (self.siglip.image, self.siglip.side)
        if dino != siglip or min(self.dino.layers, self.siglip.layers) < 2:
            raise ValueError(
                "Prismatic: expected two towers of at least two layers with as many patches of the same "
                f"picture, got pictures of {dino[0]} and {siglip[0]} pixels with {dino[1]} and {siglip[1]} "
                "patches in a row."
            )

    @property
    def image(self) -> int:
        """Height and width of a picture in pixels."""
        return self.siglip.image

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return self.siglip.tokens

    @property
    def features(self) -> int:
        """Width of the joined features of a patch."""
        return self.dino.width + self.siglip.width

    @classmethod
    def published(cls, image: int = 224, out: int = 4096) -> PrismaticVisionConfig:
        """dinosiglip-vit-so of 224 (OpenVLA: 256 tokens) or 384 pixels (729 tokens).

        Args:
            image: Height and width of a picture in pixels.
            out: Width of the language model: 4096 of Llama 2 7B, 5120 of 13B.
        """
        return cls(
            dino=DINOv2Config(image=image),
            siglip=replace(SigLIPConfig.so400m(image), activation="gelu"),
            out=out,
        )

    @classmethod
    def tiny(cls, out: int = 24) -> PrismaticVisionConfig:
        """Eyes for tests."""
        return cls(dino=DINOv2Config.tiny(), siglip=replace(SigLIPConfig.tiny(), activation="gelu"), out=out)


class Projector(nn.Module):
    """Joined features to words: three layers with exact GELUs between them.

    Source: Prismatic's "fused-gelu-mlp".
    """

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, WIDER * features)
        self.second = nn.Linear(WIDER * features, out)
        self.third = nn.Linear(out, out)

    def forward(self, joined: Float[Tensor, "frame token feature"]) -> Float[Tensor, "frame token width"]:
        """Tokens as wide as words."""
        return self.third(F.gelu(self.second(F.gelu(self.first(joined)))))


class PrismaticVision(nn.Module):
    """Pictures to tokens of a language model, row by row.

    Args:
        config: Sizes.
    """

    def __init__(self, config: PrismaticVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.dino = DINOv2(replace(config.dino, layers=config.dino.layers - 1))
        self.siglip = SigLIP(replace(config.siglip, layers=config.siglip.layers - 1))
        self.project = Projector(config.features, config.out)
        for tower in (self.dino, self.siglip):
            tower.norm.requires_grad_(False)  # nothing passes through it

    def forward(self, pixels: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame token word"]:
        """Tokens beside words.

        Args:
            pixels: `config.image` high and wide.
        """
        joined = self.features(pixels)
        return self.project(joined.to(self.project.first.weight.dtype))

    def features(self, pixels: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame token feature"]:
        """What the two towers say of each patch, DINOv2 first."""
        size = self.config.image
        if pixels.shape[1:3] != (size, size):
            raise ValueError(
                f"Prismatic: expected pictures of {size} x {size}, got {tuple(pixels.shape[1:3])}. "
                "Resize them (visuomotor.nn.pictures)."
            )
        where = self.dino.after(standardize_pictures(pixels), len(self.dino.layers))
        what = self.siglip.after(unit_pictures(pixels), len(self.siglip.layers))
        return torch.cat([where[:, self.config.dino.leading :], what], dim=-1)


def _llama() -> LanguageModelConfig:
    return llama.llama2_7b(WORDS)


@dataclass(frozen=True, kw_only=True)
class PrismaticConfig:
    """Sizes of the whole; the defaults are those of OpenVLA."""

    vision: PrismaticVisionConfig = field(default_factory=PrismaticVisionConfig)
    """The eyes."""
    language: LanguageModelConfig = field(default_factory=_llama)
    """The language model."""

    def __post_init__(self) -> None:
        if self.vision.out != self.language.decoder.width:
            raise ValueError(
                f"Prismatic: the eyes give tokens of width {self.vision.out}, and the language model takes "
                f"{self.language.decoder.width}. Set vision.out."
            )

    @classmethod
    def tiny(cls, vocabulary: int = 64) -> PrismaticConfig:
        """A model for tests."""
        return cls(vision=PrismaticVisionConfig.tiny(24), language=llama.tiny(vocabulary))

    @classmethod
    def from_published(cls, data: Mapping[str, Any], where: str = "config.json") -> PrismaticConfig:
        """From a published `config.json` of Prismatic or OpenVLA.

        What its `text_config` leaves out is taken from the defaults of transformers, as in the released code:
        the sizes of Llama 2 7B, but norms that add 1e-6 to the mean square, where Llama 2 itself has 1e-5.

        Raises:
            CheckpointError: Other eyes than DINOv2 and SigLIP, or another language model than Llama 2.
        """
        eyes = data.get("vision_backbone_id")
        sizes = {"dinosiglip-vit-so-224px": 224, "dinosiglip-vit-so-384px": 384}
        if eyes not in sizes:
            raise CheckpointError(
                f"{where}: expected vision_backbone_id {' or '.join(map(repr, sizes))}, got {eyes!r}. "
                "Choose a model with the eyes of OpenVLA."
            )
        text = {**llama.DEFAULTS, **data.get("text_config", {})}
        language = llama.from_published(text, f"{where}: text_config")
        return cls(
            vision=PrismaticVisionConfig.published(sizes[eyes], language.decoder.width), language=language
        )


class Prismatic(nn.Module):
    """Pictures and words to scores of the next word; everything looks back only, pictures too.

    Args:
        config: Sizes.
    """

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = PrismaticVision(config.vision)
        self.language = LanguageModel(config.language)

    def embed(
        self,
        pixels: UInt8[Tensor, "batch picture height width 3"],
        ids: Int[Tensor, "batch word"],
    ) -> Float[Tensor, "batch token feature"]:
        """Tokens for the language model: the first word, the pictures one behind the other, the other words.

        Args:
            pixels: `config.vision.image` high and wide.
            ids: The first one begins the text (`<s>`).
        """
        seen = self.vision(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).flatten(1, 2)
        words = self.language.embed(ids)
        return torch.cat([words[:, :1], seen.to(words.dtype), words[:, 1:]], dim=1)

    def forward(
        self,
        pixels: UInt8[Tensor, "batch picture height width 3"],
        ids: Int[Tensor, "batch word"],
        mask: Bool[Tensor, "batch word"] | None = None,
    ) -> Float[Tensor, "batch token vocabulary"]:
        """Scores of the token behind each, the tokens of the pictures among them; see `embed`.

        Args:
            pixels: As for `embed`.
            ids: As for `embed`.
            mask: `True` for real words, the first among them; None if all are.
        """
        tokens = self.embed(pixels, ids)
        if mask is not None:
            seen = mask.new_ones(len(mask), tokens.shape[1] - mask.shape[1])
            mask = torch.cat([mask[:, :1], seen, mask[:, 1:]], dim=1)
        return self.language.score(self.language.read(tokens, mask)[0])


# Weight loading: what stands before the names of a part, in safetensors and in the authors' own files.

_DINO = ("vision_backbone.featurizer.", "vision_backbone.dino_featurizer.")
_SIGLIP = ("vision_backbone.fused_featurizer.", "vision_backbone.siglip_featurizer.")
_PROJECTOR = {
    "first": ("projector.fc1", "projector.projector.0"),
    "second": ("projector.fc2", "projector.projector.2"),
    "third": ("projector.fc3", "projector.projector.4"),
}


def prismatic_vision_names(config: PrismaticVisionConfig, ours: str = "") -> Names:
    """The table of names of the eyes.

    Args:
        config: Sizes.
        ours: What stands before them in the network that they are part of.
    """
    dino = replace(config.dino, layers=config.dino.layers - 1)
    siglip = replace(config.siglip, layers=config.siglip.layers - 1)
    return {
        **nested(dinov2_names(dino), f"{ours}dino.", _DINO),
        **nested(siglip_names(siglip), f"{ours}siglip.", _SIGLIP),
        **{
            f"{ours}project.{layer}.{part}": tuple(f"{name}.{part}" for name in spellings)
            for layer, spellings in _PROJECTOR.items()
            for part in ("weight", "bias")
        },
    }


def prismatic_vision_unused(config: PrismaticVisionConfig) -> list[str]:
    """Patterns of what a file holds of the eyes and they have no use for."""
    dino, siglip = config.dino.layers - 1, config.siglip.layers - 1
    return [
        *(front + pattern for front in _DINO for pattern in (f"blocks.{dino}.*", *DINOV2_UNUSED)),
        *(front + pattern for front in _SIGLIP for pattern in (f"blocks.{siglip}.*", *SIGLIP_UNUSED)),
    ]


def load_prismatic_weights(
    network: Prismatic, tensors: Mapping[str, Tensor], where: str = "Prismatic"
) -> None:
    """Fill a model with published tensors; every weight exactly once, nothing left over.

    Args:
        network: Built for the same sizes.
        tensors: As OpenVLA's safetensors name them.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape; with the closest names.
    """
    config = network.config
    words = language_names(config.language, ("language_model.model.",))
    names: Names = {**prismatic_vision_names(config.vision, "vision."), **nested(words, "language.", "")}
    unused = [*prismatic_vision_unused(config.vision), "language_model.*.rotary_emb.inv_freq"]
    load_named(network, tensors, where=where, names=names, unused=unused)


def load_prismatic(source: str | Path, *, dtype: torch.dtype = torch.float32) -> Prismatic:
    """A model with published weights.

    Args:
        source: A folder with `config.json` and safetensors, or a name on the Hugging Face hub:
            "openvla/openvla-7b".
        dtype: Of the weights in memory.

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
    """
    path = find_model(source)
    config = PrismaticConfig.from_published(read_config(path), f"{path}: config.json")
    with unfilled():
        network = Prismatic(config).to(dtype)
    load_prismatic_weights(network, open_tensors(path), str(path))
    return network.eval()
