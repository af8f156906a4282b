"""Tokens from a language model one by one: the likeliest or by chance, within bounds, no state twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from visuomotor.backbones.language_model import LanguageModel
from visuomotor.nn.mixture import join

__all__ = ["Allow", "Generated", "generate"]

Allow = Callable[[Int64[Tensor, "batch step"]], Bool[Tensor, "batch word"]]
"""Tokens written so far to those that may come next; at least one must be allowed in each row."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was written.

    Attributes:
        ids: (batch, step); behind the end of a row its stop token, or 0 if there are several.
        mask: (batch, step), `True` up to the stop token, and for it.
        stopped: (batch,), whether a row has ended by itself, and not for lack of room.
    """

    ids: Int64[Tensor, "batch step"]
    mask: Bool[Tensor, "batch step"]
    stopped: Bool[Tensor, " batch"]

    def rows(self) -> list[list[int]]:
        """The ids of each row, stop token included."""
        return [row[real].tolist() for row, real in zip(self.ids, self.mask)]


@torch.no_grad()
def generate(
    model: LanguageModel,
    tokens: Float[Tensor, "batch token width"],
    mask: Bool[Tensor, "batch token"] | None = None,
    *,
    limit: int,
    stop: Collection[int] = (),
    allow: Allow | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Generated:
    """Continue texts.

    Args:
        model: Writes.
        tokens: What `model.embed` gives for the beginning, with pictures where there are any.
        mask: `True` for real ones; each row needs one. None if all are.
        limit: Most tokens to write.
        stop: Ids that end a row.
        allow: What may come next; everything if None.
        temperature: 0 for the likeliest token; else scores are divided by it and a token is drawn.
        generator: Where chance comes from; needed for a temperature above 0.

    Raises:
        ValueError: An argument is out of range, or `allow` leaves a row without a token.
    """
    if limit < 1 or temperature < 0 or (temperature > 0 and generator is None):
        raise ValueError(
            "generate: expected limit >= 1 and temperature >= 0, with a generator above 0; "
            f"got limit {limit}, temperature {temperature}, generator {generator}."
        )
    batch, device = len(tokens), tokens.device
    states, past = model.read(tokens, mask)
    last = states.shape[1] - 1 if mask is None else _last_real(mask)
    state = states[torch.arange(batch, device=device), last]
    ids = torch.zeros(batch, 0, dtype=torch.long, device=device)
    real = torch.zeros(batch, 0, dtype=torch.bool, device=device)
    ends = torch.tensor(sorted(stop), dtype=torch.long, device=device)
    filler = int(ends[0]) if len(ends) == 1 else 0
    running = torch.ones(batch, dtype=torch.bool, device=device)
    while True:
        chosen = _choose(model.score(state).float(), ids, running, allow, temperature, generator)
        chosen = torch.where(running, chosen, filler)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        real = torch.cat([real, running[:, None]], dim=1)
        running = running & ~torch.isin(chosen, ends)
        if ids.shape[1] == limit or not running.any():
            return Generated(ids=ids, mask=real, stopped=~running)
        states, new = model.read(model.embed(chosen[:, None]), past=past)
        past, state = join(past, new), states[:, 0]


def _last_real(mask: Bool[Tensor, "batch token"]) -> Int64[Tensor, " batch"]:
    """The place of the last real token of each row."""
    if not mask.any(1).all():
        raise ValueError("generate: a row has no real token to begin with. Begin it with the bos token.")
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(1)


def _choose(
    scores: Float[Tensor, "batch word"],
    ids: Int64[Tensor, "batch step"],
    running: Bool[Tensor, " batch"],
    allow: Allow | None,
    temperature: float,
    generator: torch.Generator | None,
) -> Int64[Tensor, " batch"]:
    """One token for each row."""
    if allow is not None:
        allowed = allow(ids)
        if not (allowed.any(1) | ~running).all():
            raise ValueError("generate: `allow` leaves a row without a token. Allow a stop token at least.")
        scores = scores.masked_fill(~allowed & running[:, None], -torch.inf)
    if temperature == 0:
        return scores.argmax(-1)
    weights = (scores / temperature).softmax(-1)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]
