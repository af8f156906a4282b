"""A transformer layer that looks back only, with dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["CausalLayer", "looking_back"]


def looking_back(mask: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token token"]:
    """Which tokens (last axis) each token may look at: real ones up to itself, and always itself."""
    count = mask.shape[1]
    before = torch.ones(count, count, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(count, dtype=torch.bool, device=mask.device)
    return (before & mask[:, None]) | itself


class CausalLayer(nn.Module):
    """Tokens look back, then each is transformed by itself; both on a normed residual branch.

    Queries, keys and values have no bias, as the released weights of robomimic.

    Args:
        width: Size of a token; a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Share that is dropped in training, of the attention and of each branch.

    Source: Radford et al. (2019), GPT-2, section 2.3; Vaswani et al. (2017), section 3.2.3.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"causal layer: width {width} is not a multiple of {heads} heads.")
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], sees: Bool[Tensor, "batch token token"]
    ) -> Float[Tensor, "batch token width"]:
        """The tokens after this layer; `sees` is what `looking_back` gives."""
        tokens = tokens + self._dropped(self._look(self.norm1(tokens), sees))
        return tokens + self._dropped(self.feed(self.norm2(tokens)))

    def _look(self, tokens: Tensor, sees: Tensor) -> Tensor:
        asked, held, carried = (
            part.unflatten(-1, (self.heads, -1)).transpose(
                1, 2
            )  # batch token width -> batch head token feature
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        rate = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(asked, held, carried, attn_mask=sees[:, None], dropout_p=rate)
        return self.out(found.transpose(1, 2).flatten(2))

    def _dropped(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training)
