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

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.decoder import Decoder, DecoderLayer, rotation

__all__ = ["Past", "Segment", "join", "remember", "repeat", "run"]


class Segment(NamedTuple):
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


class Past(NamedTuple):
    """Keys and values of a segment, one pair a layer, for segments to come.

    Attributes:
        keys: Each (batch, kv_head, token, feature); already rotated.
        values: Likewise.
        expert: Of the segment.
        block: Of the segment.
        branch: Of the segment.
        real: bool (batch, token), or None if all are real.
        positions: int (batch, token); only of experts with local layers.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    expert: int
    block: int
    branch: int
    real: Tensor | None
    positions: Tensor | None = None


def join(first: Past, second: Past) -> Past:
    """Two pasts of one expert, block and branch, one behind the other."""
    places = {(past.expert, past.block, past.branch) for past in (first, second)}
    if len(places) > 1:
        raise ValueError(f"mixture: pasts of different expert, block or branch cannot be joined: {places}.")
    real = None
    if first.real is not None or second.real is not None:
        batch, device = first.keys[0].shape[0], first.keys[0].device
        real = torch.cat([_real(past, batch, device) for past in (first, second)], dim=1)
    pairs = zip(first.keys, second.keys, strict=True), zip(first.values, second.values, strict=True)
    keys, values = (tuple(torch.cat(pair, dim=2) for pair in side) for side in pairs)
    positions = None
    if first.positions is not None and second.positions is not None:
        positions = torch.cat([first.positions, second.positions], dim=1)
    return first._replace(keys=keys, values=values, real=real, positions=positions)


def repeat(past: Past, times: int) -> Past:
    """A past whose batch stands so many times one behind the other, for several draws of one observation."""
    keys, values = (tuple(t.repeat(times, 1, 1, 1) for t in side) for side in (past.keys, past.values))
    real = None if past.real is None else past.real.repeat(times, 1)
    positions = None if past.positions is None else past.positions.repeat(times, 1)
    return past._replace(keys=keys, values=values, real=real, positions=positions)


def run(
    experts: Sequence[Decoder],
    segments: Sequence[Segment],
    past: Sequence[Past] = (),
) -> tuple[list[Tensor], list[Past]]:
    """What each segment has become behind the last norm, and the pasts of all of them.

    Each layer is computed again in the backward pass if an expert asks for it (`Decoder.recomputes`).

    Args:
        experts: As many layers, heads, kv_heads and as wide heads in each.
        segments: Those of one block see each other.
        past: What earlier calls kept.
    """
    streams, kept = _through(experts, segments, past, answers=True)
    ends = []
    for segment, stream in zip(segments, streams, strict=True):
        steering = None if segment.steering is None else segment.steering[-1]
        ends.append(experts[segment.expert].norm(stream, steering))
    return ends, kept


def remember(
    experts: Sequence[Decoder], segments: Sequence[Segment], past: Sequence[Past] = ()
) -> list[Past]:
    """Pasts of segments whose own answers nobody needs: the last layer computes keys and values alone."""
    return _through(experts, segments, past, answers=False)[1]


def _through(
    experts: Sequence[Decoder],
    segments: Sequence[Segment],
    past: Sequence[Past],
    *,
    answers: bool,
) -> tuple[list[Tensor], list[Past]]:
    depth = _depth(experts)
    again = torch.is_grad_enabled() and any(expert.recomputes for expert in experts)
    views = _views(experts, segments, past)
    streams = [segment.tokens for segment in segments]
    keys: list[list[Tensor]] = [[] for _ in segments]
    values: list[list[Tensor]] = [[] for _ in segments]
    for level in range(depth):
        if not answers and level == depth - 1:
            held = [_hold(view, level, stream) for view, stream in zip(views, streams, strict=True)]
        else:

            def step(*given: Tensor, level: int = level) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
                return _level(views, past, level, given)

            if again:
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
            positions=views[index].positions if len(views[index].masks) > 1 else None,
        )
        for index, segment in enumerate(segments)
    ]
    return streams, kept


def _level(
    views: Sequence[_View], past: Sequence[Past], level: int, streams: Sequence[Tensor]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Streams behind one layer, and its keys and values."""
    asked = [_ask(view, level, stream) for view, stream in zip(views, streams, strict=True)]
    held = [(key, value) for _, key, value in asked]
    behind = []
    for view, stream, (queries, _, _) in zip(views, streams, asked, strict=True):
        earlier = [
            _shielded(view, (past[i].keys[level], past[i].values[level]), past[i]) for i in view.earlier
        ]
        beside = [_shielded(view, held[i], view.segments[i]) for i in view.beside]
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*earlier, *beside, strict=True))
        config = view.layers[level].config
        mask = view.masks[config.local(level)]
        found = attend(queries, keys, values, mask=mask, scale=config.scale, softcap=config.softcap)
        behind.append(view.layers[level].answer(stream, found, _steering(view, level)))
    return behind, held


def _ask(view: _View, level: int, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    steering = _steering(view, level)
    return view.layers[level].ask(stream, _turn(view, level), None if steering is None else steering[0])


def _hold(view: _View, level: int, stream: Tensor) -> tuple[Tensor, Tensor]:
    steering = _steering(view, level)
    return view.layers[level].hold(stream, _turn(view, level), None if steering is None else steering[0])


def attend(
    queries: Float[Tensor, "batch head query feature"],
    keys: Float[Tensor, "batch kv_head key feature"],
    values: Float[Tensor, "batch kv_head key feature"],
    *,
    mask: Bool[Tensor, "#batch #query key"] | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "batch head query feature"]:
    """Scaled dot-product attention in which each head of keys serves several heads of queries.

    With `softcap` the products are bounded (Gemma Team 2024, Gemma 2, section 2), for which there is no
    fused call.
    """
    if softcap is not None:
        wide = torch.promote_types(queries.dtype, torch.float32)
        groups = queries.to(wide).unflatten(1, (keys.shape[1], -1))  # batch kv_head group query feature
        scores = scale * groups @ keys[:, :, None].to(wide).transpose(-1, -2)
        scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        return (scores.softmax(-1).to(values.dtype) @ values[:, :, None]).flatten(1, 2)
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=None if mask is None else mask[:, None],
        scale=scale,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


class _View(NamedTuple):
    """What one segment sees, and where it stands: computed once for all layers.

    There are two turns and masks if the expert has local layers: of the others, and of those.
    """

    layers: tuple[DecoderLayer, ...]
    segment: Segment
    segments: Sequence[Segment]
    earlier: list[int]
    beside: list[int]
    positions: Tensor
    turns: tuple[tuple[Tensor, Tensor], ...]
    masks: tuple[Tensor | None, ...]


def _views(experts: Sequence[Decoder], segments: Sequence[Segment], past: Sequence[Past]) -> list[_View]:
    positions: list[Tensor] = []
    for index, segment in enumerate(segments):
        # Pasts, lower blocks, and segments of the same block that are listed earlier stand before it.
        before: list[Past | Segment] = [other for other in past if _sees(segment, other)]
        before += [
            other
            for place, other in enumerate(segments)
            if _sees(segment, other) and (place < index or other.block < segment.block)
        ]
        positions.append(_positions(segment, before))
    return [_view(experts, segments, past, positions, index) for index in range(len(segments))]


def _view(
    experts: Sequence[Decoder],
    segments: Sequence[Segment],
    past: Sequence[Past],
    positions: Sequence[Tensor],
    index: int,
) -> _View:
    segment, stand = segments[index], positions[index]
    expert = experts[segment.expert]
    config = expert.config
    earlier = [place for place, other in enumerate(past) if _sees(segment, other)]
    beside = [place for place, other in enumerate(segments) if _sees(segment, other)]
    turns = [rotation(stand, config.head_width, config.rope_base, config.rope_stretch)]
    masks = [_mask(segment, index, [past[i] for i in earlier], {i: segments[i] for i in beside})]
    if config.window is not None:
        base = config.rope_base if config.local_rope_base is None else config.local_rope_base
        turns.append(rotation(stand, config.head_width, base))
        keys = [*(past[i].positions for i in earlier), *(positions[i] for i in beside)]
        masks.append(_near(masks[0], stand, keys, config.window))
    return _View(
        layers=expert.levels,
        segment=segment,
        segments=segments,
        earlier=earlier,
        beside=beside,
        positions=stand,
        turns=tuple(turns),
        masks=tuple(masks),
    )


def _near(
    mask: Tensor | None, queries: Tensor, keys: Sequence[Tensor | None], window: int
) -> Bool[Tensor, "#batch #query key"] | None:
    """The mask of layers in which tokens do not look back farther than the window."""
    if any(place is None for place in keys):
        raise ValueError("mixture: a past that was kept without positions cannot be seen from local layers.")
    places = torch.cat([place for place in keys if place is not None], dim=1)
    if places.shape[1] <= window:
        return mask
    near = queries[:, :, None] - places[:, None] < window  # batch token, batch key -> batch token key
    near = near if mask is None else near & mask
    return near | ~near.any(-1, keepdim=True)


def _positions(segment: Segment, before: Sequence[Past | Segment]) -> Int[Tensor, "batch token"]:
    """Where the tokens stand; padding takes no place."""
    batch, count = segment.tokens.shape[:2]
    device = segment.tokens.device
    offset = torch.zeros(batch, 1, dtype=torch.long, device=device)
    for other in before:
        offset = offset + (_length(other) if other.real is None else other.real.sum(1, keepdim=True))
    if segment.real is None:
        return offset + torch.arange(count, device=device)
    return (offset + segment.real.long().cumsum(1) - 1).clamp(min=0)


def _mask(
    segment: Segment, index: int, earlier: Sequence[Past], beside: Mapping[int, Segment]
) -> Bool[Tensor, "batch query key"] | None:
    """Which keys are there for each query, for all queries alike unless the segment is causal."""
    if (
        not segment.causal
        and all(past.real is None for past in earlier)
        and all(one.real is None for one in beside.values())
    ):
        return None
    batch, count = segment.tokens.shape[:2]
    device = segment.tokens.device
    rows = count if segment.causal else 1
    parts = [_real(other, batch, device)[:, None].expand(-1, rows, -1) for other in earlier]
    for place, other in beside.items():
        part = _real(other, batch, device)[:, None]  # batch key -> batch 1 key
        if segment.causal and place == index:
            part = part & torch.ones(count, count, dtype=torch.bool, device=device).tril()
        parts.append(part.expand(-1, rows, -1))
    mask = torch.cat(parts, dim=-1)
    # A row of padding that sees nothing looks everywhere: nobody reads what it finds.
    return mask | ~mask.any(-1, keepdim=True)


def _shielded(view: _View, pair: tuple[Tensor, Tensor], other: Past | Segment) -> tuple[Tensor, Tensor]:
    """Keys and values, without their gradients if the segment is insulated from their expert."""
    if view.segment.insulated and other.expert != view.segment.expert:
        return pair[0].detach(), pair[1].detach()
    return pair


def _turn(view: _View, level: int) -> tuple[Tensor, Tensor]:
    return view.turns[view.layers[level].config.local(level)]


def _steering(view: _View, level: int) -> tuple[Tensor, Tensor] | None:
    """Of the two norms of a layer."""
    table = view.segment.steering
    return None if table is None else (table[2 * level], table[2 * level + 1])


def _sees(segment: Segment, other: Past | Segment) -> bool:
    return other.block <= segment.block and other.branch in (0, segment.branch)


def _length(other: Past | Segment) -> int:
    return other.keys[0].shape[2] if isinstance(other, Past) else other.tokens.shape[1]


def _real(other: Past | Segment, batch: int, device: torch.device) -> Bool[Tensor, "batch token"]:
    if other.real is not None:
        return other.real
    return torch.ones(batch, _length(other), dtype=torch.bool, device=device)


def _depth(experts: Sequence[Decoder]) -> int:
    shapes = {
        (c.layers, c.heads, c.kv_heads, c.head_width, c.rope_base, c.window, c.global_every)
        for c in (expert.config for expert in experts)
    }
    if len(shapes) != 1:
        raise ValueError(
            "mixture: experts need equal layers, heads, kv_heads, head_width, rope_base, window and "
            f"global_every, got {shapes}."
        )
    return next(iter(shapes))[0]
