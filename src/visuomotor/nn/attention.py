"""Multi-head attention that survives rows with nothing to look at."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Attention"]


class Attention(nn.Module):
    """Scaled dot-product attention with several heads, over the queries themselves or over a context.

    A query whose keys are all masked gets exactly 0, forwards and backwards, never NaN, so that an
    absent sentence or camera adds nothing to a residual stream.

    Args:
        width: Size of the queries and of the answer; a multiple of `heads`.
        heads: Number of heads.
        context_width: Size of what is attended to; None for `width` (self-attention).
        bias: Whether the four projections have a bias.
        dropout: Share of the attention that is dropped in training.

    Source: Vaswani et al. (2017), section 3.2.2.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: width {width} is not a multiple of {heads} heads.")
        self.heads, self.dropout = heads, dropout
        source = width if context_width is None else context_width
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(source, width, bias=bias)
        self.value = nn.Linear(source, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def remember(
        self, context: Float[Tensor, "batch key source"]
    ) -> tuple[Float[Tensor, "batch head key feature"], Float[Tensor, "batch head key feature"]]:
        """Keys and values of a context, to be computed once and given to `attend` many times."""
        return self._split(self.key(context)), self._split(self.value(context))

    def attend(
        self,
        queries: Float[Tensor, "batch query width"],
        memory: tuple[Float[Tensor, "batch head key feature"], Float[Tensor, "batch head key feature"]],
        mask: Bool[Tensor, "batch key"] | Bool[Tensor, "batch query key"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """What the queries find in a `remember`ed context; for the arguments see `forward`."""
        keys, values = memory
        heads, dropped = self._split(self.query(queries)), self.dropout if self.training else 0.0
        if mask is None:
            found = F.scaled_dot_product_attention(heads, keys, values, dropout_p=dropped)
            return self.out(self._merge(found))
        pairs = mask if mask.ndim == 3 else mask[:, None, :]  # batch key -> batch 1 key
        sees = pairs.any(-1, keepdim=True)
        # A row without keys looks everywhere and is then zeroed: no 0/0 in either direction.
        found = F.scaled_dot_product_attention(
            heads, keys, values, attn_mask=(pairs | ~sees)[:, None], dropout_p=dropped
        )
        return self.out(self._merge(found)).masked_fill(~sees, 0)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        context: Float[Tensor, "batch key source"] | None = None,
        mask: Bool[Tensor, "batch key"] | Bool[Tensor, "batch query key"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """What each query finds.

        Args:
            queries: Who looks.
            context: Where they look; None for the queries themselves.
            mask: `True` where a key is real, for all queries alike or a row for each.
        """
        return self.attend(queries, self.remember(queries if context is None else context), mask)

    def _split(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch head token feature"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _merge(self, heads: Float[Tensor, "batch head token feature"]) -> Float[Tensor, "batch token width"]:
        return heads.transpose(1, 2).flatten(2)
