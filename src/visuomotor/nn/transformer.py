"""A pre-norm transformer block, plain or steered by a condition, with optional cross-attention."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.nn.attention import Attention
from visuomotor.nn.dropout import drop

__all__ = ["Block", "FeedForward", "Modulation"]


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them.

    Args:
        width: Size of input and output.
        factor: Hidden size as a multiple of `width`.
    """

    def __init__(self, width: int, factor: float = 4.0) -> None:
        hidden = round(width * factor)
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Modulation(nn.Module):
    """Shift, scale and gate of each branch of a block, from a condition; all 0 at the start.

    Args:
        width: Size of the tokens.
        condition: Size of the condition.
        branches: How many branches are steered.

    Source: Peebles & Xie (2023), section 3.2, adaLN-Zero.
    """

    def __init__(self, width: int, condition: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.project = nn.Linear(condition, 3 * branches * width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, condition: Float[Tensor, "batch condition"] | Float[Tensor, "batch token condition"]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """(shift, scale, gate) for each branch, each (batch, 1 or token, width)."""
        if condition.ndim == 2:
            condition = condition[:, None]  # batch condition -> batch 1 condition
        parts = self.project(nn.functional.silu(condition)).chunk(3 * self.branches, dim=-1)
        return tuple((parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3))


class Block(nn.Module):
    """Self-attention, cross-attention if there is a context, feed-forward; each on a normed residual branch.

    With a condition each branch computes `tokens + gate * branch(norm(tokens) * (1 + scale) + shift)`;
    the gates start at 0, so a fresh block is the identity. Without one it is the usual pre-norm block.

    Args:
        width: Size of the tokens.
        heads: Number of attention heads.
        context_width: Size of the context tokens; None for a block without cross-attention.
        condition_width: Size of the condition; None for a plain block.
        factor: Hidden size of the feed-forward layer as a multiple of `width`.
        dropout: Share of the attention, of the hidden layer and of what each branch adds that is dropped in
            training.

    Source: Peebles & Xie (2023), fig. 3 (adaLN-Zero); the cross-attention branch is modulated like
    the others, which the paper does not do.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        condition_width: int | None = None,
        factor: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        plain = condition_width is None
        self.dropout = dropout
        self.attention = Attention(width, heads, dropout=dropout)
        self.cross = (
            None
            if context_width is None
            else Attention(width, heads, context_width=context_width, dropout=dropout)
        )
        self.feed = FeedForward(width, factor)
        branches = 2 if self.cross is None else 3
        # The modulation brings scale and shift of its own, so the norms learn them only in a plain block.
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=plain) for _ in range(branches))
        self.modulation = None if condition_width is None else Modulation(width, condition_width, branches)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        *,
        mask: Bool[Tensor, "batch token"] | Bool[Tensor, "batch token token"] | None = None,
        context: Float[Tensor, "batch key source"] | None = None,
        context_mask: Bool[Tensor, "batch key"] | Bool[Tensor, "batch token key"] | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        condition: Float[Tensor, "batch condition"] | Float[Tensor, "batch token condition"] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """The tokens after one block.

        Args:
            tokens: The residual stream.
            mask: `True` for real tokens, for all queries alike or a row for each.
            context: What the cross-attention looks at.
            context_mask: `True` for real context tokens.
            memory: `block.cross.remember(context)` instead of `context`, when many calls share it.
            condition: What steers the block, for a sample or for each token.
        """
        if (condition is None) != (self.modulation is None):
            raise ValueError("block: pass `condition` if and only if it was built with condition_width.")
        if ((context is None) and (memory is None)) != (self.cross is None):
            raise ValueError(
                "block: pass `context` or `memory` if and only if it was built with context_width."
            )
        steer: tuple[tuple[Tensor, Tensor, Tensor], ...] | None = None
        if self.modulation is not None and condition is not None:
            steer = self.modulation(condition)

        def enter(branch: int) -> Tensor:
            normed = self.norms[branch](tokens)
            if steer is None:
                return normed
            shift, scale, _ = steer[branch]
            return normed * (1 + scale) + shift

        def leave(branch: int, update: Tensor) -> Tensor:
            update = drop(update, self.dropout, self.training)
            return tokens + (update if steer is None else steer[branch][2] * update)

        tokens = leave(0, self.attention(enter(0), mask=mask))
        if self.cross is not None:
            seen = memory
            if seen is None and context is not None:
                seen = self.cross.remember(context)
            assert seen is not None
            tokens = leave(1, self.cross.attend(enter(1), seen, context_mask))
        if not self.dropout or not self.training:
            return leave(-1, self.feed(enter(-1)))
        first, bend, second = self.feed
        return leave(-1, second(drop(bend(first(enter(-1))), self.dropout)))
