"""Transformer layers to which positions are told anew in each of them, normed behind each branch.

Positions are added to queries and keys but not to values, in every layer; each residual branch is
followed by its norm. Entries of the state dicts are named as in torch's `TransformerEncoderLayer` and
`TransformerDecoderLayer`, as all released weights of this design are.

Source: Carion et al. (2020), "End-to-end object detection with transformers", sections 3.2 and A.4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.nn.dropout import drop

__all__ = ["DecoderLayer", "EncoderLayer", "PlacedAttention", "sine_grid", "sine_table"]

LONGEST = 10_000  # period of the slowest wave, as a multiple of the fastest


def sine_table(count: int, width: int) -> Float[Tensor, "{count} {width}"]:
    """Positions 0, 1, ... as sines and cosines in turn.

    Source: Vaswani et al. (2017), section 3.5.
    """
    wave = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count)[:, None] / LONGEST ** (2 * (wave // 2) / width)
    return torch.where(wave % 2 == 0, angles.sin(), angles.cos()).float()


def sine_grid(
    height: int, across: int, width: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "place {width}"]:
    """Places of a grid, row by row, as sines and cosines in turn of the row, then of the column.

    Rows and columns are counted from 1 and scaled so that the last one is at 2 pi.

    Args:
        height: Number of rows.
        across: Number of columns.
        width: Size of the answer; a multiple of 4.
        device: Where the answer lives.

    Source: Carion et al. (2020), section A.4, after Parmar et al. (2018).
    """
    if width % 4:
        raise ValueError(f"sine grid: the width must be a multiple of 4, got {width}.")
    wave = torch.arange(width // 2, dtype=torch.float32, device=device)
    rates = LONGEST ** (-2 * (wave // 2) / (width // 2))

    def waves(count: int) -> Tensor:
        place = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + 1e-6)
        angles = 2 * math.pi * place[:, None] * rates
        return torch.where(wave % 2 == 0, angles.sin(), angles.cos())

    rows = waves(height)[:, None].expand(-1, across, -1)
    columns = waves(across)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class PlacedAttention(nn.Module):
    """Attention whose keys know places that its values do not.

    Args:
        width: Of queries, keys, values and the answer; a multiple of `heads`.
        heads: Number of heads.
        dropout: Share of the attention that is dropped in training.

    Source: Vaswani et al. (2017), section 3.2.2.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: width {width} is not a multiple of {heads} heads.")
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # of queries, keys and values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        keys: Float[Tensor, "batch key width"],
        values: Float[Tensor, "batch key width"],
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """What each query finds among the values; at least one key of each sample must be real."""
        width = queries.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if keys is queries:
            both = F.linear(queries, weight[: 2 * width], bias[: 2 * width])
            asked, held = both.chunk(2, dim=-1)
        else:
            asked = F.linear(queries, weight[:width], bias[:width])
            held = F.linear(keys, weight[width : 2 * width], bias[width : 2 * width])
        carried = F.linear(values, weight[2 * width :], bias[2 * width :])
        found = F.scaled_dot_product_attention(
            self._split(asked),
            self._split(held),
            self._split(carried),
            attn_mask=None if mask is None else mask[:, None, None],  # batch key -> batch head query key
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(found.transpose(1, 2).flatten(2))

    def of_nothing(self) -> Float[Tensor, " width"]:
        """What every query finds among values that are all made of zeros: their bias, wherever it looks."""
        bias: Tensor = self.out_proj(self.in_proj_bias.chunk(3)[2])
        return bias

    def _split(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch head token feature"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Tokens look at one another, then each is transformed by itself.

    Args:
        width: Size of a token.
        heads: Number of attention heads.
        feed: Hidden size of the feed-forward branch.
        dropout: Share that is dropped in training: of attention, of hidden numbers and of each branch.
    """

    def __init__(self, width: int, heads: int, feed: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = PlacedAttention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feed)
        self.linear2 = nn.Linear(feed, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        places: Float[Tensor, "#batch token width"],
        mask: Bool[Tensor, "batch token"] | None = None,
        *,
        first: int | None = None,
    ) -> Float[Tensor, "batch asked width"]:
        """The tokens after one layer.

        Args:
            tokens: All look at all that are real.
            places: Of the tokens.
            mask: `True` for real ones; None if all are.
            first: How many are asked for, from the first on; the others are not computed. None for all.
        """
        placed = tokens + places
        asking = placed if first is None else placed[:, :first]
        tokens = self.norm1(tokens[:, :first] + _drop(self, self.self_attn(asking, placed, tokens, mask)))
        return self.norm2(tokens + _feed(self, tokens))


class DecoderLayer(nn.Module):
    """Tokens look at one another, then at a memory, then each is transformed by itself.

    Args:
        width: Size of a token.
        heads: Number of attention heads.
        feed: Hidden size of the feed-forward branch.
        dropout: Share that is dropped in training: of attention, of hidden numbers and of each branch.
    """

    def __init__(self, width: int, heads: int, feed: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = PlacedAttention(width, heads, dropout)
        self.multihead_attn = PlacedAttention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feed)
        self.linear2 = nn.Linear(feed, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"] | None,
        places: Float[Tensor, "#batch token width"],
        memory: Float[Tensor, "batch key width"],
        placed_memory: Float[Tensor, "batch key width"],
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """The tokens after one layer.

        Args:
            tokens: What is decoded so far; None before the first layer, which begins with zeros.
            places: Of the tokens.
            memory: What they look at.
            placed_memory: The same with its places added, which is the same for all layers.
            mask: `True` where the memory is real.
        """
        if tokens is None and not self.training:
            tokens = self.norm1(self.self_attn.of_nothing()).expand(len(memory), places.shape[1], -1)
        else:  # in training a part of the attention is dropped, so that it matters where a query looks
            tokens = torch.zeros_like(places).expand(len(memory), -1, -1) if tokens is None else tokens
            placed = tokens + places
            tokens = self.norm1(tokens + _drop(self, self.self_attn(placed, placed, tokens)))
        found = self.multihead_attn(tokens + places, placed_memory, memory, mask)
        tokens = self.norm2(tokens + _drop(self, found))
        return self.norm3(tokens + _feed(self, tokens))


def _drop(layer: EncoderLayer | DecoderLayer, branch: Tensor) -> Tensor:
    return drop(branch, layer.dropout, layer.training)


def _feed(layer: EncoderLayer | DecoderLayer, tokens: Tensor) -> Tensor:
    hidden = F.relu(layer.linear1(tokens), inplace=True)
    return _drop(layer, layer.linear2(_drop(layer, hidden)))
