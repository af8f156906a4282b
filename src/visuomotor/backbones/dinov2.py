"""DINOv2: features of patches that know where things are, with or without register tokens.

Oquab et al. (2023), "DINOv2: Learning Robust Visual Features without Supervision"; registers: Darcet et al.
(2023), "Vision Transformers Need Registers". A vision transformer with a class token and, in each branch, a
learned scale per channel (Touvron et al. 2021, "Going deeper with Image Transformers"); the giant has gated
feed-forward layers (Shazeer 2020).

Tokens stand in the order class, registers, patches; neither class token nor registers belong to a place, and
only the class token has a position of its own. Positions were learned on 37 x 37 patches of 518 pixels and
are resampled for other sizes: bicubically, and antialiased in the networks with registers alone, as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.nn.attention import Attention
from visuomotor.nn.weights import Made, Names, Spelling, load_named, nested, part_of, unfilled

__all__ = [
    "DINOV2_UNUSED",
    "DINOv2",
    "DINOv2Config",
    "dinov2_names",
    "load_dinov2",
    "load_dinov2_weights",
    "resample_positions",
]

Feed = Literal["plain", "gated"]


@dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """Sizes of the network; the defaults are ViT-L/14 with registers."""

    width: int = 1024
    """Size of a token."""
    layers: int = 24
    """Depth."""
    heads: int = 16
    """Attention heads of a layer."""
    hidden: int = 4096
    """Hidden size of the feed-forward layers, of the gate and of what it gates alike."""
    feed: Feed = "plain"
    """Feed-forward layers with the exact GELU, or gated by SiLU."""
    image: int = 518
    """Height and width in pixels of the pictures that the positions are for; others resample them."""
    patch: int = 14
    """Height and width of a patch in pixels."""
    registers: int = 4
    """Register tokens; 0 for the first release."""
    epsilon: float = 1e-6
    """Added to the variance by the norms."""

    def __post_init__(self) -> None:
        if self.width % self.heads or not 0 < self.patch <= self.image or self.registers < 0:
            raise ValueError(
                f"DINOv2: expected a width that {self.heads} heads divide, a patch within the picture and "
                f"registers from 0, got width {self.width}, patch {self.patch}, image {self.image}, "
                f"registers {self.registers}."
            )
        if self.feed not in get_args(Feed):
            raise unknown_name("feed-forward layer of DINOv2", self.feed, get_args(Feed))

    @property
    def side(self) -> int:
        """Patches in a row of a picture of `image` pixels."""
        return self.image // self.patch

    @property
    def leading(self) -> int:
        """Tokens before the first patch: class and registers."""
        return 1 + self.registers

    @classmethod
    def small(cls, registers: int = 4) -> DINOv2Config:
        """ViT-S/14."""
        return cls(width=384, layers=12, heads=6, hidden=1536, registers=registers)

    @classmethod
    def base(cls, registers: int = 4) -> DINOv2Config:
        """ViT-B/14."""
        return cls(width=768, layers=12, heads=12, hidden=3072, registers=registers)

    @classmethod
    def large(cls, registers: int = 4) -> DINOv2Config:
        """ViT-L/14; with registers that of Prismatic and OpenVLA."""
        return cls(registers=registers)

    @classmethod
    def giant(cls, registers: int = 4) -> DINOv2Config:
        """ViT-g/14."""
        return cls(width=1536, layers=40, heads=24, hidden=4096, feed="gated", registers=registers)

    @classmethod
    def tiny(cls, registers: int = 4, feed: Feed = "plain") -> DINOv2Config:
        """A network for tests."""
        return cls(width=32, layers=2, heads=2, hidden=64, feed=feed, image=32, patch=8, registers=registers)

    @classmethod
    def from_published(cls, data: Mapping[str, Any], where: str = "config.json") -> DINOv2Config:
        """From a published `config.json`. Raises `CheckpointError` if it is another architecture."""
        kind = data.get("model_type")
        if kind not in ("dinov2", "dinov2_with_registers"):
            raise CheckpointError(
                f"{where}: expected model_type 'dinov2' or 'dinov2_with_registers', got {kind!r}. "
                "Choose a DINOv2."
            )
        expected = {"hidden_act": "gelu", "num_channels": 3, "qkv_bias": True}
        for key, value in expected.items():
            if data.get(key, value) != value:
                raise CheckpointError(f"{where}: expected {key} {value!r}, got {data[key]!r}.")
        try:
            gated = data["use_swiglu_ffn"]
            hidden = int(data["hidden_size"] * data["mlp_ratio"])
            return cls(
                width=data["hidden_size"],
                layers=data["num_hidden_layers"],
                heads=data["num_attention_heads"],
                hidden=_gated_size(hidden) if gated else hidden,
                feed="gated" if gated else "plain",
                image=data["image_size"],
                patch=data["patch_size"],
                registers=data["num_register_tokens"] if kind == "dinov2_with_registers" else 0,
                epsilon=data["layer_norm_eps"],
            )
        except KeyError as error:
            raise CheckpointError(
                f"{where}: expected the key {error}, as in a published DINOv2 config."
            ) from error


def _gated_size(hidden: int) -> int:
    """Two thirds, so that the third matrix of a gated layer costs nothing; rounded up to eights."""
    return (hidden * 2 // 3 + 7) // 8 * 8


class DINOv2Layer(nn.Module):
    """Attention and feed-forward, each on a normed and scaled residual branch."""

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.gated = config.feed == "gated"
        self.attention_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.attention = Attention(config.width, config.heads)
        self.attention_scale = nn.Parameter(torch.ones(config.width))
        self.feed_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.widen = nn.Linear(config.width, config.hidden * (2 if self.gated else 1))
        self.narrow = nn.Linear(config.hidden, config.width)
        self.feed_scale = nn.Parameter(torch.ones(config.width))

    def forward(self, tokens: Float[Tensor, "frame token width"]) -> Float[Tensor, "frame token width"]:
        """Tokens one layer deeper."""
        tokens = tokens + self.attention(self.attention_norm(tokens)) * self.attention_scale
        hidden = self.widen(self.feed_norm(tokens))
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = F.gelu(hidden)
        return tokens + self.narrow(hidden) * self.feed_scale


class DINOv2(nn.Module):
    """Pictures to a class token, registers, and one token a patch, row by row.

    Args:
        config: Sizes.
    """

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.start = nn.Parameter(torch.empty(config.width))  # the class token
        self.registers = nn.Parameter(torch.empty(config.registers, config.width))
        self.positions = nn.Parameter(torch.empty(1 + config.side**2, config.width))  # class, then patches
        self.layers = nn.ModuleList(DINOv2Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        for learned in (self.start, self.registers, self.positions):
            nn.init.normal_(learned, std=0.02)

    def forward(
        self, pictures: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame token feature"]:
        """All tokens behind the final norm; those of the patches begin at `config.leading`.

        Args:
            pictures: By the mean and spread of ImageNet; sides of at least one patch.
        """
        return self.norm(self.after(pictures, len(self.layers)))

    def after(
        self, pictures: Float[Tensor, "frame 3 height width"], layers: int
    ) -> Float[Tensor, "frame token feature"]:
        """All tokens behind the first so many layers, without the final norm."""
        if not 0 <= layers <= len(self.layers):
            raise ValueError(f"DINOv2: expected 0 to {len(self.layers)} layers, got {layers}.")
        tokens = self.embed(pictures)
        for layer in self.layers[:layers]:
            tokens = layer(tokens)
        return tokens

    def embed(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame token feature"]:
        """Class token, registers, and patches with their positions."""
        height, width = (side // self.config.patch for side in pictures.shape[-2:])
        if not height or not width:
            raise ValueError(
                f"DINOv2: expected pictures of at least {self.config.patch} pixels, "
                f"got {tuple(pictures.shape[-2:])}."
            )
        found = self.patches(pictures.to(self.patches.weight.dtype))
        positions = resample_positions(self.positions, height, width, antialias=self.config.registers > 0)
        patches = found.flatten(2).transpose(1, 2) + positions[1:]  # frame width y x -> frame token width
        leading = torch.cat([(self.start + positions[0])[None], self.registers])
        return torch.cat([leading.expand(len(patches), -1, -1), patches], dim=1)


def resample_positions(
    positions: Float[Tensor, "token width"], height: int, width: int, *, antialias: bool
) -> Float[Tensor, "resampled width"]:
    """Positions of a square of patches for `height` times `width` of them; the class token's, first, stays.

    Computed in float32. The same number of patches in a square gets the positions as they are.
    """
    first, table = positions[:1], positions[1:]
    side = round(len(table) ** 0.5)
    if (height, width) == (side, side):
        return positions
    grid = table.float().unflatten(0, (side, side)).permute(2, 0, 1)  # token width -> width y x
    grid = F.interpolate(
        grid[None], size=(height, width), mode="bicubic", align_corners=False, antialias=antialias
    )[0]
    return torch.cat([first, grid.flatten(1).T.to(table.dtype)])


# Weight loading: our name -> how it is spelled on disk: by transformers, by the authors, by timm, by OpenVLA.

_LAYER = {
    "attention_norm": ("norm1", "norm1"),
    "attention.query": ("attention.attention.query", 0),
    "attention.key": ("attention.attention.key", 1),
    "attention.value": ("attention.attention.value", 2),
    "attention.out": ("attention.output.dense", "attn.proj"),
    "feed_norm": ("norm2", "norm2"),
}
_FEED = {
    "plain": {"widen": ("mlp.fc1", "mlp.fc1", "mlp.fc1"), "narrow": ("mlp.fc2", "mlp.fc2", "mlp.fc2")},
    "gated": {
        "widen": ("mlp.weights_in", "mlp.w12", "mlp.fc1"),
        "narrow": ("mlp.weights_out", "mlp.w3", "mlp.fc2"),
    },
}
_SCALES = {"attention_scale": 1, "feed_scale": 2}
_PREFIXES = ("", "dinov2.", "dinov2_with_registers.")
DINOV2_UNUSED = ("embeddings.mask_token", "mask_token", "classifier.*", "head.*")
"""Names beside those of the network, with the same prefix, that it has no use for."""


def dinov2_names(config: DINOv2Config) -> Names:
    """The table of names of a network, without a prefix; for those within other models see `nested`."""
    names: dict[str, tuple[Spelling, ...]] = {
        "start": tuple(
            Made((name,), lambda token: token.flatten()) for name in ("embeddings.cls_token", "cls_token")
        ),
        "positions": tuple(
            Made((name,), _positions(config)) for name in ("embeddings.position_embeddings", "pos_embed")
        ),
        "registers": tuple(
            Made((name,), lambda tokens: tokens.flatten(0, 1))  # 1 token width -> token width
            for name in ("embeddings.register_tokens", "register_tokens", "reg_token")
        ),
    }
    if not config.registers:
        names["registers"] = (Made((), lambda: torch.empty(0, config.width)),)
    for part in ("weight", "bias"):
        names[f"patches.{part}"] = (
            f"embeddings.patch_embeddings.projection.{part}",
            f"patch_embed.proj.{part}",
        )
        names[f"norm.{part}"] = (f"layernorm.{part}", f"norm.{part}")
        for layer in range(config.layers):
            hub, other = f"encoder.layer.{layer}.", f"blocks.{layer}."
            for ours, (theirs, place) in _LAYER.items():
                second = (
                    part_of(f"{other}attn.qkv.{part}", place, 3)
                    if isinstance(place, int)
                    else f"{other}{place}.{part}"
                )
                names[f"layers.{layer}.{ours}.{part}"] = (f"{hub}{theirs}.{part}", second)
            for ours, (theirs, authors, timm) in _FEED[config.feed].items():
                spellings = dict.fromkeys((f"{hub}{theirs}", f"{other}{authors}", f"{other}{timm}"))
                names[f"layers.{layer}.{ours}.{part}"] = tuple(f"{name}.{part}" for name in spellings)
    for layer in range(config.layers):
        for ours, place in _SCALES.items():
            names[f"layers.{layer}.{ours}"] = (
                f"encoder.layer.{layer}.layer_scale{place}.lambda1",
                f"blocks.{layer}.ls{place}.gamma",
                f"blocks.{layer}.ls{place}.scale_factor",
            )
    return names


def _positions(config: DINOv2Config) -> Any:
    """Their table to ours. timm adds the position of the class token to the token and keeps the others."""

    def unfold(table: Tensor) -> Tensor:
        table = table.flatten(0, 1)  # 1 token width -> token width
        return F.pad(table, (0, 0, 1, 0)) if len(table) == config.side**2 else table

    return unfold


def load_dinov2_weights(network: DINOv2, tensors: Mapping[str, Tensor], where: str = "DINOv2") -> None:
    """Fill a network with published tensors; every weight exactly once, nothing left over.

    Args:
        network: Built for the same sizes.
        tensors: As transformers, the authors or timm name them.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape; with the closest names.
    """
    names = nested(dinov2_names(network.config), "", _PREFIXES)
    unused = [prefix + pattern for prefix in _PREFIXES for pattern in DINOV2_UNUSED]
    load_named(network, tensors, where=where, names=names, unused=unused)


def load_dinov2(
    source: str | Path,
    *,
    image: int | None = None,
    config: DINOv2Config | None = None,
    dtype: torch.dtype = torch.float32,
) -> DINOv2:
    """A network with published weights.

    Args:
        source: A folder with `config.json` and safetensors, one file of them, or a name on the Hugging
            Face hub: "facebook/dinov2-small", "facebook/dinov2-with-registers-large".
        image: Height and width of the pictures to come, to resample the positions now and not in every
            call; None to leave them.
        config: Sizes; None to read them from `config.json`.
        dtype: Of the weights in memory.

    Raises:
        CheckpointError: Weights are missing, damaged or of another architecture.
        RemoteError: The hub did not answer.
    """
    path = find_model(source)
    config = config or DINOv2Config.from_published(read_config(path), f"{path}: config.json")
    with unfilled():
        network = DINOv2(config).to(dtype)
    load_dinov2_weights(network, open_tensors(path), str(path))
    if image is not None:
        network.config = replace(config, image=image)
        side = network.config.side
        table = resample_positions(network.positions.detach(), side, side, antialias=config.registers > 0)
        network.positions = nn.Parameter(table.clone(), network.positions.requires_grad)
    return network
