"""Several experts, each with its own weights, and one attention over the tokens of all.

What is run is a list of `Segment`s. Each is a row of tokens that belong to one expert; its block says what
it sees: segments of its own and of lower blocks. So the attention of a segment is one fused call over the
keys that it sees, and no mask of (token, token) is ever made, but for padding and for causal segments.
Padding takes no position, and segments that no longer change are kept as `Past`.

Nothing here knows of robots. Blocks carry pi0 (Black et al. 2024, appendix B), causal segments carry
autoregressive tokens, branches that do not see each other and `insulated` carry knowledge insulation
(Driess et al. 2025), steering for each token carries training-time action conditioning (Black et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.decoder import Decoder, rotation

__all__ = ["Past", "Segment", "join", "remember", "run"]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Tokens that belong together.

    Attributes:
        tokens: (batch, token, width of the expert).
        expert: Whose weights they pass through.
        block: They see segments of this block and of lower ones.
        branch: Segments of different branches do not see each other; 0 is the trunk, which all see.
        causal: Whether each token sees only itself and those before it, within the segment.
        real: bool (batch, token), `False` for padding; None if all are real.
        steering: What `Decoder.steer` gives: (norm, batch or 1, token or 1, steering); for experts with
            a condition.
        insulated: Whether gradients stop at the keys and values of the other experts.
    """

    tokens: Tensor
    expert: int = 0
    block: int = 0
    branch: int = 0
    causal: bool = False
    real: Tensor | None = None
    steering: Tensor | None = None
    insulated: bool = False


@dataclass(frozen=True, kw_only=True)
class Past:
    """Keys and values of a segment, one pair a layer, for segments to come.

    Attributes:
        keys: Each (batch, kv_head, token, feature); already rotated.
        values: Likewise.
        expert: Of the segment.
        block: Of the segment.
        branch: Of the segment.
        real: bool (batch, token), or None if all are real.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    expert: int
    block: int
    branch: int
    real: Tensor | None

    @property
    def length(self) -> int:
        """Tokens, padding included."""
        return self.keys[0].shape[2]


def join(first: Past, second: Past) -> Past:
    """Two pasts of one expert, block and branch, one behind the other."""
    places = {(past.expert, past.block, past.branch) for past in (first, second)}
    if len(places) > 1:
        raise ValueError(f"mixture: pasts of different expert, block or branch cannot be joined: {places}.")
    real = None
    if first.real is not None or second.real is not None:
        real = torch.cat([_real(past, past.keys[0].shape[0], past.length) for past in (first, second)], dim=1)
    pairs = zip(first.keys, second.keys, strict=True), zip(first.values, second.values, strict=True)
    keys, values = (tuple(torch.cat(pair, dim=2) for pair in side) for side in pairs)
    return replace(first, keys=keys, values=values, real=real)


def run(
    experts: Sequence[Decoder],
    segments: Sequence[Segment],
    past: Sequence[Past] = (),
    *,
    checkpointing: bool = False,
) -> tuple[list[Tensor], list[Past]]:
    """What each segment has become behind the last norm, and the pasts of all of them.

    Args:
        experts: As many layers, heads, kv_heads and as wide heads in each.
        segments: Those of one block see each other.
        past: What earlier calls kept.
        checkpointing: Compute each layer again in the backward pass instead of storing what it needs.
    """
    streams, kept = _through(experts, segments, past, answers=True, checkpointing=checkpointing)
    ends = []
    for segment, stream in zip(segments, streams, strict=True):
        steering = None if segment.steering is None else segment.steering[-1]
        ends.append(experts[segment.expert].norm(stream, steering))
    return ends, kept


def remember(
    experts: Sequence[Decoder], segments: Sequence[Segment], past: Sequence[Past] = ()
) -> list[Past]:
    """Pasts of segments whose own answers nobody needs: the last layer computes keys and values alone."""
    return _through(experts, segments, past, answers=False, checkpointing=False)[1]


def _through(
    experts: Sequence[Decoder],
    segments: Sequence[Segment],
    past: Sequence[Past],
    *,
    answers: bool,
    checkpointing: bool,
) -> tuple[list[Tensor], list[Past]]:
    depth = _depth(experts)
    views = [_View(experts, segments, past, index) for index in range(len(segments))]
    streams = [segment.tokens for segment in segments]
    keys: list[list[Tensor]] = [[] for _ in segments]
    values: list[list[Tensor]] = [[] for _ in segments]
    for level in range(depth):
        if not answers and level == depth - 1:
            held = [view.hold(level, stream) for view, stream in zip(views, streams, strict=True)]
        else:

            def step(*given: Tensor, level: int = level) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
                return _level(views, past, level, given)

            if checkpointing and torch.is_grad_enabled():
                streams, held = checkpoint(step, *streams, use_reentrant=False)
            else:
                streams, held = step(*streams)
        for index, (key, value) in enumerate(held):
            keys[index].append(key)
            values[index].append(value)
    kept = [
        Past(
            keys=tuple(keys[index]),
            values=tuple(values[index]),
            expert=segment.expert,
            block=segment.block,
            branch=segment.branch,
            real=segment.real,
        )
        for index, segment in enumerate(segments)
    ]
    return streams, kept


def _level(
    views: Sequence[_View], past: Sequence[Past], level: int, streams: Sequence[Tensor]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Streams behind one layer, and its keys and values."""
    asked = [view.ask(level, stream) for view, stream in zip(views, streams, strict=True)]
    held = [(key, value) for _, key, value in asked]
    behind = []
    for view, stream, (queries, _, _) in zip(views, streams, asked, strict=True):
        earlier = [view.shield((past[i].keys[level], past[i].values[level]), past[i]) for i in view.earlier]
        beside = [view.shield(held[i], view.segments[i]) for i in view.beside]
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*earlier, *beside, strict=True))
        found = attend(queries, keys, values, mask=view.mask, scale=view.expert.config.scale)
        behind.append(view.answer(level, stream, found))
    return behind, held


def attend(
    queries: Float[Tensor, "batch head query feature"],
    keys: Float[Tensor, "batch kv_head key feature"],
    values: Float[Tensor, "batch kv_head key feature"],
    *,
    mask: Bool[Tensor, "#batch #query key"] | None,
    scale: float,
) -> Float[Tensor, "batch head query feature"]:
    """Scaled dot-product attention in which each head of keys serves several heads of queries."""
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=None if mask is None else mask[:, None],
        scale=scale,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


class _View:
    """What one segment sees, and where it stands: computed once for all layers."""

    def __init__(
        self, experts: Sequence[Decoder], segments: Sequence[Segment], past: Sequence[Past], index: int
    ) -> None:
        segment = segments[index]
        self.segment, self.index, self.segments = segment, index, segments
        self.expert = experts[segment.expert]
        self.layers = self.expert.levels
        self.earlier = [place for place, other in enumerate(past) if _sees(segment, other)]
        self.beside = [place for place, other in enumerate(segments) if _sees(segment, other)]
        batch, count = segment.tokens.shape[:2]
        sources: list[tuple[Past | Segment, int]] = [
            (past[place], past[place].length) for place in self.earlier
        ]
        sources += [(segments[place], segments[place].tokens.shape[1]) for place in self.beside]
        before = [(other, length) for other, length in sources if self._precedes(other)]
        device = segment.tokens.device
        offset = torch.zeros(batch, 1, dtype=torch.long, device=device)
        for other, length in before:
            offset = offset + (length if other.real is None else other.real.sum(1, keepdim=True))
        own = (
            torch.ones(1, count, dtype=torch.long, device=device)
            if segment.real is None
            else segment.real.long()
        )
        positions = (offset + own.cumsum(1) - 1).clamp(min=0)
        self.turn = rotation(positions, self.expert.config.head_width, self.expert.config.rope_base)
        self.mask = self._mask(sources, batch, count, device)

    def _precedes(self, other: Past | Segment) -> bool:
        """Whether the positions of `other` come first: lower blocks, pasts, and segments listed earlier."""
        if other is self.segment:
            return False
        if isinstance(other, Past) or other.block < self.segment.block:
            return True
        return any(other is segment for segment in self.segments[: self.index])

    def _mask(
        self, sources: Sequence[tuple[Past | Segment, int]], batch: int, count: int, device: torch.device
    ) -> Tensor | None:
        if not self.segment.causal and all(other.real is None for other, _ in sources):
            return None
        parts = []
        for other, length in sources:
            part = _real(other, batch, length, device)[:, None]  # batch key -> batch 1 key
            if other is self.segment and self.segment.causal:
                part = part & torch.ones(count, count, dtype=torch.bool, device=device).tril()
            parts.append(part.expand(-1, count if self.segment.causal else 1, -1))
        mask = torch.cat(parts, dim=-1)
        # A row of padding that sees nothing looks everywhere: nobody reads what it finds.
        return mask | ~mask.any(-1, keepdim=True)

    def shield(self, pair: tuple[Tensor, Tensor], other: Past | Segment) -> tuple[Tensor, Tensor]:
        """Keys and values, without their gradients if the segment is insulated from their expert."""
        if self.segment.insulated and other.expert != self.segment.expert:
            return pair[0].detach(), pair[1].detach()
        return pair

    def steering(self, level: int) -> tuple[Tensor, Tensor] | None:
        table = self.segment.steering
        return None if table is None else (table[2 * level], table[2 * level + 1])

    def ask(self, level: int, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steering = self.steering(level)
        return self.layers[level].ask(stream, self.turn, None if steering is None else steering[0])

    def hold(self, level: int, stream: Tensor) -> tuple[Tensor, Tensor]:
        steering = self.steering(level)
        return self.layers[level].hold(stream, self.turn, None if steering is None else steering[0])

    def answer(self, level: int, stream: Tensor, found: Tensor) -> Tensor:
        return self.layers[level].answer(stream, found, self.steering(level))


def _sees(segment: Segment, other: Past | Segment) -> bool:
    return other.block <= segment.block and other.branch in (0, segment.branch)


def _real(
    other: Past | Segment, batch: int, length: int, device: torch.device | str | None = None
) -> Bool[Tensor, "batch token"]:
    if other.real is not None:
        return other.real
    return torch.ones(batch, length, dtype=torch.bool, device=device)


def _depth(experts: Sequence[Decoder]) -> int:
    shapes = {
        (e.config.layers, e.config.heads, e.config.kv_heads, e.config.head_width, e.config.rope_base)
        for e in experts
    }
    if len(shapes) != 1:
        raise ValueError(
            "mixture: experts need equal layers, heads, kv_heads, head_width and rope_base, "
            f"got {sorted(shapes)}."
        )
    return next(iter(shapes))[0]
