"""Layers of the language models that policies are built on: what Llama, Gemma and Qwen have in common.

A `Decoder` is a stack of layers and a final norm, without a table of words and without attention of its
own: `visuomotor.nn.mixture.run` lets the tokens of one decoder, or of several beside one another, look at
each other. So a layer is split where attention happens: `ask` before it, `answer` behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from visuomotor.errors import unknown_name

__all__ = [
    "Activation",
    "Decoder",
    "DecoderConfig",
    "DecoderLayer",
    "Norm",
    "RopeStretch",
    "rotate",
    "rotation",
]

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class RopeStretch:
    """Slower rotary angles, for texts longer than those of the first training."""

    factor: float
    """How much slower."""
    context: int | None = None
    """Tokens of the first training's texts; None to slow all angles alike, also those that turn often."""
    slow: float = 1.0
    """Angles that turn fewer times than this within `context` are slowed by the whole factor."""
    fast: float = 4.0
    """Those that turn more often than this are left as they are; between the two, in between."""

    def __post_init__(self) -> None:
        if self.factor <= 0 or not 0 <= self.slow < self.fast:
            raise ValueError(f"rope: expected a positive factor and 0 <= slow < fast, got {self}.")


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
    rope_stretch: RopeStretch | None = None
    """Slower angles; None for those of the formula. Local layers keep theirs."""
    window: int | None = None
    """Positions that a token of a local layer sees, up to its own; None for no local layers."""
    global_every: int = 1
    """Every so-manieth layer is not local."""
    local_rope_base: float | None = None
    """`rope_base` of local layers; the same if none."""
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
    branch_norm: bool = False
    """Whether what attention and feed-forward layer give is normed before it is added."""
    softcap: float | None = None
    """Products of queries and keys stay within this, by a hyperbolic tangent; None for no bound."""
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
        if self.global_every < 1 or (self.window is not None and self.window < 1):
            raise ValueError(f"decoder: window and global_every must be at least 1, got {self}.")

    @property
    def scale(self) -> float:
        """Factor of the products of queries and keys."""
        return self.head_width**-0.5 if self.query_scale is None else self.query_scale

    def local(self, level: int) -> bool:
        """Whether the tokens of layer `level` see `window` positions only."""
        return self.window is not None and (level + 1) % self.global_every != 0


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
    positions: Int[Tensor, "batch token"],
    head_width: int,
    base: float,
    stretch: RopeStretch | None = None,
) -> tuple[Float[Tensor, "batch 1 token half"], Float[Tensor, "batch 1 token half"]]:
    """Cosine and sine of the rotary angles at each position, in float32, to be shared by all layers.

    Source: Su et al. (2021), eq. 34, with the two halves of a head as the pairs that are rotated.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    rates = base**-exponents if stretch is None else _stretched(base**-exponents, stretch)
    angles = positions[:, None, :, None].float() * rates  # batch token -> batch 1 token half
    return angles.cos(), angles.sin()


def _stretched(rates: Float[Tensor, " half"], stretch: RopeStretch) -> Float[Tensor, " half"]:
    """Radians a token, slowed.

    Source: all alike: Chen et al. (2023), eq. 4; by how often they turn: Peng et al. (2023), section 3.2,
    with the linear ramp over turns that Llama 3.1 uses (Grattafiori et al. 2024).
    """
    if stretch.context is None:
        return rates / stretch.factor
    turns = stretch.context * rates / (2 * math.pi)
    kept = ((turns - stretch.slow) / (stretch.fast - stretch.slow)).clamp(0, 1)
    return rates * (kept + (1 - kept) / stretch.factor)


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

    Attributes:
        entrances: Methods that others call in the place of `forward`; whoever prepares the weights of a
            module before it computes prepares them for these.
    """

    entrances: ClassVar[tuple[str, ...]] = ("ask", "hold", "answer", "steer")

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
        self.attention_end = end_norm(config) if config.branch_norm else None
        self.mlp_norm = token_norm(config)
        self.gate = nn.Linear(width, config.mlp_width, bias=False)
        self.up = nn.Linear(width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, width, bias=False)
        self.mlp_end = end_norm(config) if config.branch_norm else None

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
        branch = self.out(found.transpose(1, 2).flatten(2))  # batch head token feature -> batch token width
        tokens = tokens + gated(branch if self.attention_end is None else self.attention_end(branch), first)
        normed = self.mlp_norm(tokens, second)
        gate = self.gate(normed)
        gate = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        branch = self.down(gate * self.up(normed))
        return tokens + gated(branch if self.mlp_end is None else self.mlp_end(branch), second)

    def steer(self, condition: Float[Tensor, "*batch condition"]) -> Float[Tensor, "2 *batch steering"]:
        """Scale, shift and gate of its two norms."""
        return torch.stack([_steered(norm, condition) for norm in (self.attention_norm, self.mlp_norm)])

    def _hold(self, normed: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        keys = self._heads(self.key(normed), self.key_norm)
        return rotate(keys, turn), self._heads(self.value(normed), None)

    def _heads(self, flat: Tensor, norm: Norm | None) -> Tensor:
        heads = flat.unflatten(-1, (-1, self.config.head_width)).transpose(1, 2)
        return heads if norm is None else norm(heads)


def token_norm(config: DecoderConfig) -> Norm:
    """A norm over tokens as the config says."""
    return Norm(config.width, eps=config.norm_eps, offset=config.norm_offset, condition=config.condition)


def end_norm(config: DecoderConfig) -> Norm:
    """A norm over what a branch gives, never steered; as the config says."""
    return Norm(config.width, eps=config.norm_eps, offset=config.norm_offset)


def head_norm(config: DecoderConfig) -> Norm:
    """A norm over the numbers of one head as the config says."""
    return Norm(config.head_width, eps=config.norm_eps, offset=config.norm_offset)


def _steered(norm: Norm, condition: Float[Tensor, "*batch condition"]) -> Float[Tensor, "*batch steering"]:
    """What steers a norm that was built with a condition."""
    if norm.steer is None:
        raise ValueError("decoder: its norms are plain. Build it with condition=... to steer it.")
    steering: Tensor = norm.steer(condition)
    return steering


def gated(branch: Tensor, steering: Tensor | None) -> Tensor:
    """A branch times the gate in `steering`, if there is one."""
    return branch if steering is None else branch * steering.chunk(3, dim=-1)[2].to(branch.dtype)


class Decoder(nn.Module):
    """Layers and a final norm; `visuomotor.nn.mixture.run` runs it.

    Args:
        config: Sizes and conventions.

    Attributes:
        recomputes: Whether training computes its layers again in the backward pass.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.recomputes = config, False
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
        levels = [layer.steer(condition) for layer in self.levels]
        return torch.cat([*levels, _steered(self.norm, condition)[None]])
