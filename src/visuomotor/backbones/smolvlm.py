"""SmolVLM and SmolVLM2: a SigLIP tower, patches gathered into few tokens, and SmolLM2, which looks back only.

Marafioti et al. (2025), "SmolVLM: Redefining small and efficient multimodal models", section 2; the form is
that of Idefics3 (Laurençon et al. 2024, "Building and better understanding vision-language models"). Blocks
of patches become one token each by standing side by side in it (pixel shuffle: 64 tokens for a picture of 512
pixels), and a linear map without a bias makes them as wide as words. In a text the tokens of a picture take
the places of a word of their own, so pictures may stand anywhere.

The trunk of SmolVLA (Shukor et al. 2025, section 3.1), which keeps the first 16 of 32 layers:
`load_smolvlm(source, layers=16)`.

What differs from the towers that PaliGemma and Prismatic see with: the learned positions are a table over the
whole picture, whatever its size. A patch takes the row and column at its share of the height and width, so
that a smaller picture uses every second position, say, and padding at the right and at the bottom none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from visuomotor.backbones import llama
from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.backbones.language_model import (
    UNUSED,
    LanguageModel,
    LanguageModelConfig,
    Stated,
    decoder_names,
)
from visuomotor.backbones.siglip import SigLIP, SigLIPConfig, siglip_names
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import Names, load_named, nested, unfilled

__all__ = [
    "SmolVLM",
    "SmolVLMConfig",
    "load_smolvlm",
    "load_smolvlm_weights",
    "patch_positions",
    "shuffle_patches",
    "smolvlm_names",
    "smolvlm_unused",
]

WORDS = 49_280
"""SmolLM2's 49,152 tokens, and 128 for pictures, their places in a larger one, and turns of a talk."""


def _smollm2_360m() -> LanguageModelConfig:
    return replace(llama.smollm2_360m(WORDS), tied=False)


@dataclass(frozen=True, kw_only=True)
class SmolVLMConfig:
    """Sizes; the defaults are those of SmolVLM2 500M, and of SmolVLM 500M."""

    vision: SigLIPConfig = field(default_factory=lambda: SigLIPConfig.base(512))
    """The tower."""
    language: LanguageModelConfig = field(default_factory=_smollm2_360m)
    """SmolLM2, or its first layers."""
    shuffle: int = 4
    """Patches in a row, and rows of them, that become one token."""
    place: int = 49_190
    """Id of the word whose places the tokens of pictures take."""

    def __post_init__(self) -> None:
        if self.shuffle < 1 or self.vision.side % self.shuffle:
            raise ValueError(
                f"SmolVLM: expected a shuffle that divides {self.vision.side} patches in a row, got "
                f"{self.shuffle}."
            )
        if not 0 <= self.place < self.language.vocabulary:
            raise ValueError(
                f"SmolVLM: expected a place among {self.language.vocabulary} words, got {self.place}."
            )

    @property
    def tokens(self) -> int:
        """Tokens of one picture of the size of the tower."""
        return (self.vision.side // self.shuffle) ** 2

    def first(self, layers: int) -> SmolVLMConfig:
        """The same with the first layers of the language model only."""
        return replace(self, language=self.language.first(layers))

    @classmethod
    def smolvlm2_256m(cls) -> SmolVLMConfig:
        """SmolVLM2 256M."""
        return cls(language=replace(llama.smollm2_135m(WORDS), tied=False))

    @classmethod
    def smolvlm2_500m(cls) -> SmolVLMConfig:
        """SmolVLM2 500M, the one that SmolVLA is built on."""
        return cls()

    @classmethod
    def smolvlm2_2_2b(cls) -> SmolVLMConfig:
        """The sizes of SmolVLM2 2.2B; for the rotary angles its own `config.json` counts."""
        return cls(
            vision=SigLIPConfig.so400m(384),
            language=replace(llama.smollm2_1_7b(WORDS), tied=False),
            shuffle=3,
        )

    @classmethod
    def tiny(cls, vocabulary: int = 64) -> SmolVLMConfig:
        """A model for tests: 4 tokens a picture of 32 pixels, whose place is the last word."""
        language = replace(llama.tiny(vocabulary), tied=False)
        return cls(vision=SigLIPConfig.tiny(), language=language, shuffle=2, place=vocabulary - 1)

    @classmethod
    def from_published(cls, data: Mapping[str, Any], where: str = "config.json") -> SmolVLMConfig:
        """From a published `config.json` of SmolVLM, SmolVLM2 or Idefics3.

        Published files leave out what equals the defaults of their library.

        Raises:
            CheckpointError: It is another architecture.
        """
        stated = Stated(data, where)
        if data.get("model_type") not in ("smolvlm", "idefics3"):
            raise CheckpointError(
                f"{where}: expected model_type 'smolvlm' or 'idefics3', got {data.get('model_type')!r}. "
                "Choose a SmolVLM."
            )
        text = {**llama.DEFAULTS, **stated.get("text_config", {})}
        language = llama.from_published(text, f"{where}: text_config")
        return cls(
            vision=_tower(Stated(stated.get("vision_config", {}), f"{where}: vision_config")),
            language=replace(language, tied=stated.get("tie_word_embeddings", False)),
            shuffle=stated.get("scale_factor", 2),
            place=stated.get("image_token_id", 128_257),
        )


def _tower(stated: Stated) -> SigLIPConfig:
    """The tower of a published config; the defaults are those of transformers, of no published model."""
    stated.expect(hidden_act="gelu_pytorch_tanh", num_channels=3)
    return SigLIPConfig(
        width=stated.get("hidden_size", 1152),
        layers=stated.get("num_hidden_layers", 12),
        heads=stated.get("num_attention_heads", 16),
        hidden=stated.get("intermediate_size", 3072),
        image=stated.get("image_size", 224),
        patch=stated.get("patch_size", 32),
        epsilon=stated.get("layer_norm_eps", 1e-6),
    )


def patch_positions(real: Bool[Tensor, "frame row column"], side: int) -> Int[Tensor, "frame token"]:
    """Which of `side` times `side` learned positions each patch of a picture of any size takes.

    A patch in row i of n takes the row whose share of `side` contains i / n, and columns likewise. For as
    many patches as positions that is one after the other, at all published sizes; at a few others, as 19 in
    a row, rounding leaves one out, as released. Padding takes the first position, which nobody sees.

    Args:
        real: `True` for patches with pixels; padding is at the right and at the bottom.
        side: Positions in a row.

    Source: Dehghani et al. (2023), "Patch n' Pack", section 2.1, fractional positions; the buckets, and the
    order of rounding, are those of the released code.
    """
    edges = torch.arange(1 / side, 1.0, 1 / side, device=real.device)
    places = []
    for count, length in ((real[:, :, 0].sum(1), real.shape[1]), (real[:, 0].sum(1), real.shape[2])):
        share = torch.arange(length, device=real.device, dtype=torch.float32) * (1.0 / count)[:, None]
        places.append(torch.bucketize(share.clamp(max=1 - 1e-6), edges, right=True))  # frame place
    rows, columns = places
    return (rows[:, :, None] * side + columns[:, None]).masked_fill(~real, 0).flatten(1)


def shuffle_patches(
    tokens: Float[Tensor, "frame patch feature"], block: int
) -> Float[Tensor, "frame token wide"]:
    """Each block of patches as one token, in which they stand side by side, row by row.

    Source: pixel shuffle run backwards (Shi et al. 2016, section 3.2), as in Idefics3.
    """
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.unflatten(1, (side // block, block, side // block, block))  # frame Y y X x feature
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)  # frame Y X y x feature -> frame token wide


class SmolVLM(nn.Module):
    """Pictures and words to scores of the next word; everything looks back only, pictures too.

    Args:
        config: Sizes.
    """

    def __init__(self, config: SmolVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = SigLIP(config.vision)
        self.project = nn.Linear(
            config.shuffle**2 * config.vision.width, config.language.decoder.width, bias=False
        )
        self.language = LanguageModel(config.language)

    def see(
        self,
        pictures: Float[Tensor, "frame 3 height width"],
        pixels: Bool[Tensor, "frame height width"] | None = None,
    ) -> Float[Tensor, "frame token feature"]:
        """Pictures as tokens beside words.

        Args:
            pictures: In [-1, 1]; square, as many patches in a row as `config.shuffle` divides. Published
                models see pictures of `config.vision.image` pixels.
            pixels: `False` for padding at the right and at the bottom; None if there is none.
        """
        tower = self.vision
        found = tower.patches(pictures.to(tower.patches.weight.dtype))  # frame feature row column
        rows, columns = found.shape[2:]
        if rows != columns or rows % self.config.shuffle:
            raise ValueError(
                f"SmolVLM: expected square pictures, with a multiple of {self.config.shuffle} patches of "
                f"{self.config.vision.patch} pixels in a row, got {tuple(pictures.shape[2:])} pixels. "
                "Resize them (visuomotor.nn.pictures)."
            )
        real = found.new_ones((len(found), rows, columns), dtype=torch.bool)
        if pixels is not None:
            real = _patched(pixels, self.config.vision.patch)
        tokens = found.flatten(2).transpose(1, 2) + tower.positions[patch_positions(real, tower.config.side)]
        tokens = tokens.to(tower.norm.weight.dtype)
        for layer in tower.layers:
            tokens = layer(tokens, None if pixels is None else real.flatten(1))
        gathered = shuffle_patches(tower.norm(tokens), self.config.shuffle)
        return self.project(gathered.to(self.project.weight.dtype))

    def embed(
        self,
        pictures: Float[Tensor, "batch picture 3 height width"],
        ids: Int[Tensor, "batch word"],
        there: Bool[Tensor, "batch picture"] | None = None,
        pixels: Bool[Tensor, "batch picture height width"] | None = None,
    ) -> Float[Tensor, "batch word feature"]:
        """Tokens for the language model: words, and the tokens of pictures in the places kept for them.

        Args:
            pictures: As `see` takes them, in the order in which a row has places for them.
            ids: With `config.place` as often as the pictures of the row have tokens.
            there: `False` for pictures that a row does not have; None if all are there.
            pixels: As `see` takes them.

        Raises:
            ValueError: A row has more or fewer places than its pictures have tokens.
        """
        flat, real = pictures.flatten(0, 1), None if pixels is None else pixels.flatten(0, 1)
        if there is not None:
            kept = there.flatten()
            flat, real = flat[kept], None if real is None else real[kept]
        seen = self.see(flat, real)
        places = ids == self.config.place
        if not torch.compiler.is_compiling():
            count = torch.full_like(ids[:, 0], pictures.shape[1]) if there is None else there.sum(1)
            found, needed = places.sum(1).tolist(), (count * seen.shape[1]).tolist()
            if found != needed:
                raise ValueError(
                    f"SmolVLM: the pictures of each row have {needed} tokens, and its ids keep {found} "
                    f"places for them. Write the id {self.config.place} once for each token."
                )
        words = self.language.embed(ids)
        return words.masked_scatter(places[:, :, None], seen.to(words.dtype))

    def forward(
        self,
        pictures: Float[Tensor, "batch picture 3 height width"],
        ids: Int[Tensor, "batch word"],
        mask: Bool[Tensor, "batch word"] | None = None,
        there: Bool[Tensor, "batch picture"] | None = None,
    ) -> Float[Tensor, "batch word vocabulary"]:
        """Scores of the word behind each; `backbones.generation` writes behind what `embed` gives.

        Args:
            pictures: As for `embed`.
            ids: As for `embed`.
            mask: `True` for real words, places of pictures among them; None if all are.
            there: As for `embed`.
        """
        tokens = self.embed(pictures, ids, there)
        return self.language.score(self.language.read(tokens, mask)[0])


def _patched(pixels: Bool[Tensor, "frame height width"], patch: int) -> Bool[Tensor, "frame row column"]:
    """Patches of which any pixel is real."""
    rows, columns = (size // patch for size in pixels.shape[1:])
    whole = pixels[:, : rows * patch, : columns * patch]
    return whole.unflatten(2, (columns, patch)).any(3).unflatten(1, (rows, patch)).any(2)


# Weight loading: transformers' names have not changed from Idefics3 to SmolVLM2.

FRONTS = ("model.", "")
"""What stands before the names of the three parts in a file."""


def smolvlm_names(config: SmolVLMConfig, fronts: Sequence[str] = FRONTS) -> Names:
    """The table of names.

    Args:
        config: Sizes.
        fronts: What may stand before the names of tower, map and language model in a file.
    """
    towers = tuple(f"{front}vision_model." for front in fronts)
    decoders = tuple(f"{front}text_model." for front in fronts)
    words = tuple(f"{front}embed_tokens.weight" for front in decoders)
    heads = tuple(dict.fromkeys(f"{front.removesuffix('model.')}lm_head.weight" for front in fronts))
    names: Names = {
        **nested(siglip_names(config.vision), "vision.", towers),
        "project.weight": tuple(f"{front}connector.modality_projection.proj.weight" for front in fronts),
        # A tied table may be stored under the name of the scores as well, or under it alone.
        "language.words.weight": (*words, *heads) if config.language.tied else words,
        **nested(decoder_names(config.language.decoder), "language.decoder.", decoders),
    }
    return names if config.language.tied else {**names, "language.head.weight": heads}


def smolvlm_unused(config: SmolVLMConfig, depth: int, fronts: Sequence[str] = FRONTS) -> list[str]:
    """Patterns of what a file holds and the model has no use for: layers behind its last one, indices.

    Args:
        config: Sizes of the model.
        depth: Layers of the language model in the file.
        fronts: As for `smolvlm_names`.
    """
    behind = range(config.language.decoder.layers, depth)
    return [
        *UNUSED,
        *(f"{front}vision_model.embeddings.position_ids" for front in fronts),
        *(f"{front}text_model.layers.{level}.*" for front in fronts for level in behind),
    ]


def load_smolvlm_weights(
    network: SmolVLM,
    tensors: Mapping[str, Tensor],
    where: str = "SmolVLM",
    *,
    depth: int | None = None,
) -> None:
    """Fill a model with published tensors; every weight exactly once, nothing left over.

    Args:
        network: Built for the same sizes, or with the first layers of the language model.
        tensors: As transformers writes them.
        where: Path of the file, for messages.
        depth: Layers of the language model in the file; None for as many as the network has.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape; with the closest names.
    """
    config = network.config
    depth = config.language.decoder.layers if depth is None else depth
    unused = smolvlm_unused(config, depth)
    load_named(network, tensors, where=where, names=smolvlm_names(config), unused=unused)


def load_smolvlm(
    source: str | Path, *, layers: int | None = None, dtype: torch.dtype = torch.float32
) -> SmolVLM:
    """A published model.

    Args:
        source: A folder with `config.json` and safetensors, or a name on the Hugging Face hub:
            "HuggingFaceTB/SmolVLM2-500M-Video-Instruct".
        layers: How many of the language model's layers are kept, from the first; None for all. Those behind
            them are not read. The scores of a cut model mean nothing before it is trained.
        dtype: Of the weights in memory.

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
        ValueError: It has fewer layers.
    """
    path = find_model(source)
    stated = SmolVLMConfig.from_published(read_config(path), f"{path}: config.json")
    config = stated if layers is None else stated.first(layers)
    with unfilled():
        network = SmolVLM(config).to(dtype)
    depth = stated.language.decoder.layers
    load_smolvlm_weights(network, open_tensors(path), str(path), depth=depth)
    return network.eval()
