"""Layers of the language models that policies are built on: what Llama, Gemma and Qwen have in common.

A `Decoder` is a stack of layers and a final norm, without a table of words and without attention of its
own: `visuomotor.nn.mixture.run` lets the tokens of one decoder, or of several beside one another, look at
each other. So a layer is split where attention happens: `ask` before it, `answer` behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from visuomotor.errors import unknown_name

__all__ = ["Activation", "Decoder", "DecoderConfig", "DecoderLayer", "Norm", "rotate", "rotation"]

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and conventions of a decoder."""

    width: int
    """Size of a token."""
    layers: int
    """Depth."""
    heads: int
    """Heads that ask."""
    kv_heads: int
    """Heads that answer; each serves `heads / kv_heads` that ask."""
    head_width: int
    """Size of a head."""
    mlp_width: int
    """Hidden size of the gated feed-forward layer."""
    activation: Activation = "silu"
    """Of the gate."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotary positions, in tokens over two pi."""
    norm_eps: float = 1e-6
    """Added to the mean square."""
    norm_offset: float = 0.0
    """Added to the stored scale of each norm; Gemma stores the difference to 1."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias."""
    head_norm: bool = False
    """Whether each head of queries and keys is normed."""
    query_scale: float | None = None
    """Factor of queries; `head_width ** -0.5` if none."""
    condition: int | None = None
    """Size of a condition that steers the norms (adaptive norm); None for plain norms."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.heads, self.kv_heads, self.head_width, self.mlp_width)
        if min(sizes) < 1 or self.heads % self.kv_heads or self.head_width % 2:
            raise ValueError(
                f"decoder: expected positive sizes, heads a multiple of kv_heads, even head_width: {self}."
            )
        if self.activation not in get_args(Activation):
            raise unknown_name("activation", self.activation, get_args(Activation))

    @property
    def scale(self) -> float:
        """Factor of the products of queries and keys."""
        return self.head_width**-0.5 if self.query_scale is None else self.query_scale


class Norm(nn.Module):
    """Root-mean-square norm, computed in float32; plain, or scaled and shifted by a condition.

    Args:
        width: Size of what is normed.
        eps: Added to the mean square.
        offset: Added to the stored scale.
        condition: Size of the condition; None for a norm with a scale of its own.

    Source: Zhang & Sennrich (2019), eq. 4. With a condition: scale, shift and gate are linear in it and
    0 at the start (Peebles & Xie 2023, section 3.2), as in pi0.5 (Black et al. 2025).
    """

    def __init__(
        self, width: int, *, eps: float = 1e-6, offset: float = 0.0, condition: int | None = None
    ) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = None if condition is not None else nn.Parameter(torch.full((width,), 1.0 - offset))
        self.steer = None if condition is None else nn.Linear(condition, 3 * width)
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(
        self,
        tokens: Float[Tensor, "*batch width"],
        steering: Float[Tensor, "*#batch steering"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """The normed tokens; `steering` is what `steer` gives: scale, shift and gate, side by side."""
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            return (wide * (self.offset + self.weight.to(wide.dtype))).to(tokens.dtype)
        if steering is None:
            raise ValueError("norm: it was built with a condition; pass `steering`.")
        scale, shift, _ = steering.to(wide.dtype).chunk(3, dim=-1)
        return (wide * (1 + scale) + shift).to(tokens.dtype)


def rotation(
    positions: Int[Tensor, "batch token"], head_width: int, base: float
) -> tuple[Float[Tensor, "batch 1 token half"], Float[Tensor, "batch 1 token half"]]:
    """Cosine and sine of the rotary angles at each position, in float32, to be shared by all layers.

    Source: Su et al. (2021), eq. 34, with the two halves of a head as the pairs that are rotated.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    angles = positions[:, None, :, None].float() * base**-exponents  # batch token -> batch 1 token half
    return angles.cos(), angles.sin()


def rotate(
    heads: Float[Tensor, "batch head token feature"],
    turn: tuple[Float[Tensor, "batch 1 token half"], Float[Tensor, "batch 1 token half"]],
) -> Float[Tensor, "batch head token feature"]:
    """Heads turned by what `rotation` gives."""
    cosine, sine = turn
    first, second = heads.to(torch.promote_types(heads.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(heads.dtype)


class DecoderLayer(nn.Module):
    """Attention and a gated feed-forward layer, each on a normed residual branch.

    Source: Touvron et al. (2023), section 2.2; grouped queries: Ainslie et al. (2023); gated units:
    Shazeer (2020).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, head = config.width, config.head_width
        self.attention_norm = token_norm(config)
        self.query = nn.Linear(width, config.heads * head, bias=config.qkv_bias)
        self.key = nn.Linear(width, config.kv_heads * head, bias=config.qkv_bias)
        self.value = nn.Linear(width, config.kv_heads * head, bias=config.qkv_bias)
        self.out = nn.Linear(config.heads * head, width, bias=False)
        self.query_norm = head_norm(config) if config.head_norm else None
        self.key_norm = head_norm(config) if config.head_norm else None
        self.mlp_norm = token_norm(config)
        self.gate = nn.Linear(width, config.mlp_width, bias=False)
        self.up = nn.Linear(width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, width, bias=False)

    def ask(
        self, tokens: Tensor, turn: tuple[Tensor, Tensor], steering: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch head token feature), keys and values (batch kv_head token feature) of tokens.

        Args:
            tokens: (batch, token, width).
            turn: What `rotation` gives for their positions.
            steering: Of this layer's first norm.
        """
        normed = self.attention_norm(tokens, steering)
        queries = self._heads(self.query(normed), self.query_norm)
        return rotate(queries, turn), *self._hold(normed, turn)

    def hold(
        self, tokens: Tensor, turn: tuple[Tensor, Tensor], steering: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values alone, for tokens whose own answer nobody needs."""
        return self._hold(self.attention_norm(tokens, steering), turn)

    def answer(
        self,
        tokens: Tensor,
        found: Float[Tensor, "batch head token feature"],
        steering: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The tokens behind this layer.

        Args:
            tokens: (batch, token, width), as given to `ask`.
            found: What their queries found.
            steering: Of this layer's two norms.
        """
        first, second = (None, None) if steering is None else steering
        tokens = tokens + gated(self.out(found.transpose(1, 2).flatten(2)), first)
        normed = self.mlp_norm(tokens, second)
        gate = self.gate(normed)
        gate = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        return tokens + gated(self.down(gate * self.up(normed)), second)

    def _hold(self, normed: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        keys = self._heads(self.key(normed), self.key_norm)
        return rotate(keys, turn), self._heads(self.value(normed), None)

    def _heads(self, flat: Tensor, norm: Norm | None) -> Tensor:
        heads = flat.unflatten(-1, (-1, self.config.head_width)).transpose(1, 2)
        return heads if norm is None else norm(heads)


def token_norm(config: DecoderConfig) -> Norm:
    """A norm over tokens as the config says."""
    return Norm(config.width, eps=config.norm_eps, offset=config.norm_offset, condition=config.condition)


def head_norm(config: DecoderConfig) -> Norm:
    """A norm over the numbers of one head as the config says."""
    return Norm(config.head_width, eps=config.norm_eps, offset=config.norm_offset)


def gated(branch: Tensor, steering: Tensor | None) -> Tensor:
    """A branch times the gate in `steering`, if there is one."""
    return branch if steering is None else branch * steering.chunk(3, dim=-1)[2].to(branch.dtype)


class Decoder(nn.Module):
    """Layers and a final norm; `visuomotor.nn.mixture.run` runs it.

    Args:
        config: Sizes and conventions.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = token_norm(config)

    @property
    def levels(self) -> tuple[DecoderLayer, ...]:
        """The layers, with their type."""
        return cast(tuple[DecoderLayer, ...], tuple(self.layers))

    def steer(self, condition: Float[Tensor, "*batch condition"]) -> Float[Tensor, "norm *batch steering"]:
        """Scale, shift and gate of every norm, two a layer and the last: computed once for each condition.

        Where conditions are few, as the flow times of a sampler with so many steps, this is a table.
        """
        norms = [norm for layer in self.levels for norm in (layer.attention_norm, layer.mlp_norm)]
        parts = []
        for norm in [*norms, self.norm]:
            if norm.steer is None:
                raise ValueError("decoder: its norms are plain. Build it with condition=... to steer it.")
            parts.append(norm.steer(condition))
        return torch.stack(parts)
