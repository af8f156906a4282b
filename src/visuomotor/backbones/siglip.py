"""SigLIP: the vision tower that PaliGemma, pi0 and OpenVLA see with.

Zhai et al. (2023), "Sigmoid Loss for Language Image Pre-Training"; the shape So400m is from Alabdulmohsin
et al. (2023), "Getting ViT in Shape". A plain vision transformer (Dosovitskiy et al. 2021): patches, learned
positions, pre-norm layers with biases, a final norm; no class token. Its attention-pooling head belongs to
the contrast with text and is left out: policies read the tokens of all patches.

Traps of the released weights:

- The hidden layers use the GELU's tanh approximation. timm, with which Prismatic and OpenVLA were trained,
  takes the exact one, so those weights need `activation="gelu"`.
- At 384 pixels with patches of 14, the last 6 rows and columns are not seen: 27 x 27 tokens.
- pi0 keeps patches and positions in float32 beside bfloat16 layers; see `SigLIP.embed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.nn.attention import Attention
from visuomotor.nn.weights import Made, Names, Spelling, load_named, nested, part_of, unfilled

__all__ = [
    "SIGLIP_UNUSED",
    "SigLIP",
    "SigLIPConfig",
    "load_siglip",
    "load_siglip_weights",
    "siglip_names",
]

Activation = Literal["gelu_tanh", "gelu"]


@dataclass(frozen=True, kw_only=True)
class SigLIPConfig:
    """Sizes of the tower; the defaults are So400m/14 at 224 pixels."""

    width: int = 1152
    """Size of a token."""
    layers: int = 27
    """Depth."""
    heads: int = 16
    """Attention heads of a layer."""
    hidden: int = 4304
    """Hidden size of the feed-forward layers."""
    image: int = 224
    """Height and width of a picture in pixels."""
    patch: int = 14
    """Height and width of a patch in pixels."""
    activation: Activation = "gelu_tanh"
    """Of the feed-forward layers: the GELU's tanh approximation as released, or the exact one as in timm."""
    epsilon: float = 1e-6
    """Added to the variance by the norms."""

    def __post_init__(self) -> None:
        if self.width % self.heads or not 0 < self.patch <= self.image:
            raise ValueError(
                f"SigLIP: expected a width that {self.heads} heads divide and a patch within the picture, "
                f"got width {self.width}, patch {self.patch}, image {self.image}."
            )
        if self.activation not in get_args(Activation):
            raise unknown_name("activation of SigLIP", self.activation, get_args(Activation))

    @property
    def side(self) -> int:
        """Patches in a row; what is left at the border is not seen."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return self.side**2

    @classmethod
    def so400m(cls, image: int = 224) -> SigLIPConfig:
        """The tower of PaliGemma and pi0 (224 pixels: 256 tokens); also released at 384 and 448."""
        return cls(image=image)

    @classmethod
    def base(cls, image: int = 224) -> SigLIPConfig:
        """ViT-B/16."""
        return cls(width=768, layers=12, heads=12, hidden=3072, image=image, patch=16)

    @classmethod
    def large(cls, image: int = 256) -> SigLIPConfig:
        """ViT-L/16."""
        return cls(width=1024, layers=24, heads=16, hidden=4096, image=image, patch=16)

    @classmethod
    def tiny(cls, image: int = 32) -> SigLIPConfig:
        """A tower for tests and for training on two cores."""
        return cls(width=32, layers=2, heads=2, hidden=64, image=image, patch=8)

    @classmethod
    def from_published(cls, data: Mapping[str, Any], where: str = "config.json") -> SigLIPConfig:
        """From a published `config.json`: of the tower, or of a model that has it as `vision_config`.

        Published files leave out what equals the defaults of their library, which are those of ViT-B/16.

        Raises:
            CheckpointError: Another architecture.
        """
        data = data.get("vision_config", data)
        expected = {
            "model_type": "siglip_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "num_channels": 3,
        }
        for key, value in expected.items():
            if data.get(key, value) != value:
                raise CheckpointError(
                    f"{where}: expected {key} {value!r}, got {data[key]!r}. Choose a SigLIP vision tower."
                )
        base = cls.base()
        return cls(
            width=data.get("hidden_size", base.width),
            layers=data.get("num_hidden_layers", base.layers),
            heads=data.get("num_attention_heads", base.heads),
            hidden=data.get("intermediate_size", base.hidden),
            image=data.get("image_size", base.image),
            patch=data.get("patch_size", base.patch),
            epsilon=data.get("layer_norm_eps", base.epsilon),
        )


class SigLIPLayer(nn.Module):
    """Attention and feed-forward, each on a normed residual branch."""

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.attention = Attention(config.width, config.heads)
        self.feed_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(
        self, tokens: Float[Tensor, "frame token width"], mask: Bool[Tensor, "frame token"] | None = None
    ) -> Float[Tensor, "frame token width"]:
        """Tokens one layer deeper; those that `mask` calls `False` are not seen."""
        tokens = tokens + self.attention(self.attention_norm(tokens), mask=mask)
        hidden = F.gelu(self.widen(self.feed_norm(tokens)), approximate=self.approximate)
        return tokens + self.narrow(hidden)


class SigLIP(nn.Module):
    """Pictures to one token a patch, row by row.

    Args:
        config: Sizes.
    """

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.positions = nn.Parameter(torch.empty(config.tokens, config.width))
        self.layers = nn.ModuleList(SigLIPLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        nn.init.normal_(self.positions, std=config.width**-0.5)

    def forward(
        self, pictures: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame token feature"]:
        """The tokens behind the final norm.

        Args:
            pictures: In [-1, 1], `config.image` pixels high and wide.
        """
        return self.norm(self.after(pictures, len(self.layers)))

    def after(
        self, pictures: Float[Tensor, "frame 3 height width"], layers: int
    ) -> Float[Tensor, "frame token feature"]:
        """The tokens behind the first so many layers, without the final norm.

        Prismatic takes those behind all layers but the last: `len(tower.layers) - 1`.
        """
        if not 0 <= layers <= len(self.layers):
            raise ValueError(f"SigLIP: expected 0 to {len(self.layers)} layers, got {layers}.")
        tokens = self.embed(pictures)
        for layer in self.layers[:layers]:
            tokens = layer(tokens)
        return tokens

    def embed(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame token feature"]:
        """Patches with their positions.

        Computed in the type of `patches` and given on in that of the layers, so that both may differ.
        """
        size = self.config.image
        if pictures.shape[-2:] != (size, size):
            raise ValueError(
                f"SigLIP: expected pictures of {size} x {size}, got {tuple(pictures.shape[-2:])}. "
                "Resize them (visuomotor.nn.pictures), or build the tower for their size."
            )
        found = self.patches(pictures.to(self.patches.weight.dtype))
        tokens = found.flatten(2).transpose(1, 2) + self.positions  # frame width y x -> frame token width
        return tokens.to(self.norm.weight.dtype)


# Weight loading: our name -> how it is spelled on disk, by transformers and by timm.

_LAYER = {
    "attention_norm": ("layer_norm1", "norm1"),
    "attention.out": ("self_attn.out_proj", "attn.proj"),
    "feed_norm": ("layer_norm2", "norm2"),
    "widen": ("mlp.fc1", "mlp.fc1"),
    "narrow": ("mlp.fc2", "mlp.fc2"),
}
_PREFIXES = ("vision_model.", "", "vision_tower.vision_model.", "model.vision_tower.vision_model.")
SIGLIP_UNUSED = ("head.*", "attn_pool.*", "embeddings.position_ids")
"""Names beside those of the tower, with the same prefix, that it has no use for: the pooling head."""


def siglip_names(config: SigLIPConfig) -> Names:
    """The table of names of a tower, without a prefix; for towers within other models see `nested`."""
    names: dict[str, tuple[Spelling, ...]] = {
        "positions": (
            "embeddings.position_embedding.weight",
            Made(("pos_embed",), lambda table: table.flatten(0, 1)),  # 1 token width -> token width
        )
    }
    for part in ("weight", "bias"):
        names[f"patches.{part}"] = (f"embeddings.patch_embedding.{part}", f"patch_embed.proj.{part}")
        names[f"norm.{part}"] = (f"post_layernorm.{part}", f"norm.{part}")
        for layer in range(config.layers):
            hub, timm = f"encoder.layers.{layer}.", f"blocks.{layer}."
            for ours, (theirs, other) in _LAYER.items():
                names[f"layers.{layer}.{ours}.{part}"] = (f"{hub}{theirs}.{part}", f"{timm}{other}.{part}")
            for third, (ours, theirs) in enumerate((("query", "q"), ("key", "k"), ("value", "v"))):
                names[f"layers.{layer}.attention.{ours}.{part}"] = (
                    f"{hub}self_attn.{theirs}_proj.{part}",
                    part_of(f"{timm}attn.qkv.{part}", third, 3),
                )
    return names


def load_siglip_weights(network: SigLIP, tensors: Mapping[str, Tensor], where: str = "SigLIP") -> None:
    """Fill a tower with published tensors; every weight exactly once, nothing left over.

    Args:
        network: Built for the same sizes.
        tensors: Of the tower alone or of the whole SigLIP, as transformers or timm write them.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape; with the closest names.
    """
    names = nested(siglip_names(network.config), "", _PREFIXES)
    unused = [prefix + pattern for prefix in _PREFIXES for pattern in SIGLIP_UNUSED]
    unused += ["text_model.*", "logit_scale", "logit_bias"]  # the other half of the contrast
    load_named(network, tensors, where=where, names=names, unused=unused)


def load_siglip(
    source: str | Path, *, config: SigLIPConfig | None = None, dtype: torch.dtype = torch.float32
) -> SigLIP:
    """A tower with published weights.

    Args:
        source: A folder with `config.json` and safetensors, one file of them, or a name on the Hugging
            Face hub: "google/siglip-so400m-patch14-224", "google/siglip-base-patch16-224".
        config: Sizes; None to read them from `config.json`.
        dtype: Of the weights in memory.

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
    """
    path = find_model(source)
    config = config or SigLIPConfig.from_published(read_config(path), f"{path}: config.json")
    with unfilled():
        network = SigLIP(config).to(dtype)
    load_siglip_weights(network, open_tensors(path), str(path))
    return network
