"""Changes to a batch behind its masks: no policy may notice them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from visuomotor.types import Batch

__all__ = ["changes_that_must_not_matter"]

FAR = 50.0  # far from anything normalized, and finite: 0 * FAR is 0, as it should be


def changes_that_must_not_matter(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    """(what changes, a batch with a mask, the same with other values behind it, whether acting sees it).

    Masks are set here where the batch has none: any camera can be missing, any chunk can end early,
    any width can be padded.
    """
    yield from _actions(batch)
    yield from _state(batch)
    yield from _images(batch)
    yield from _words(batch)
    yield from _keypoints(batch)


def _actions(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    actions, ticks, numbers = batch.actions, batch.horizon_mask, batch.action_mask
    if actions is None or ticks is None or numbers is None:
        return
    if actions.shape[1] > 1:
        ticks = ticks.clone()
        ticks[::2, actions.shape[1] // 2 :] = False
        masked = replace(batch, horizon_mask=ticks)
        yield "padded ticks", masked, replace(masked, actions=_behind(actions, ticks[:, :, None])), False
    if actions.shape[2] > 1:
        numbers = numbers.clone()
        numbers[:, -1] = False
        masked = replace(batch, action_mask=numbers)
        yield (
            "padded action dimensions",
            masked,
            replace(masked, actions=_behind(actions, numbers[:, None])),
            False,
        )
    if len(batch) > 1:
        has = batch.has_actions.clone()
        has[0] = False
        masked = replace(batch, has_actions=has)
        changed = replace(masked, actions=_behind(actions, has[:, None, None]))
        yield "actions of a sample that has none", masked, changed, False


def _state(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    if batch.state.shape[2] > 1:
        numbers = batch.state_mask.clone()
        numbers[:, -1] = False
        masked = replace(batch, state_mask=numbers)
        yield (
            "padded state dimensions",
            masked,
            replace(masked, state=_behind(batch.state, numbers[:, None])),
            True,
        )
    if batch.state.shape[1] > 1:
        ticks = batch.history_mask.clone()
        ticks[::2, 0] = False
        image_mask = {name: mask & ticks for name, mask in batch.image_mask.items()}
        masked = replace(batch, history_mask=ticks, image_mask=image_mask)
        changed = replace(
            masked,
            state=_behind(batch.state, ticks[:, :, None]),
            images={name: _inverted(image, image_mask[name]) for name, image in batch.images.items()},
        )
        yield "ticks before the start of the episode", masked, changed, True


def _images(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    for name, image in batch.images.items():
        mask = batch.image_mask[name].clone()
        mask[::2] = False
        masked = replace(batch, image_mask={**batch.image_mask, name: mask})
        changed = replace(masked, images={**batch.images, name: _inverted(image, mask)})
        yield f"pictures of the masked camera {name!r}", masked, changed, True


def _words(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    if batch.sentence is not None and batch.sentence_mask is not None:
        for what, mask in _shortened(batch.sentence_mask):
            masked = replace(batch, sentence_mask=mask)
            changed = replace(masked, sentence=_behind(batch.sentence, mask[:, :, None]))
            yield f"{what} of the sentence", masked, changed, True
    if batch.tokens is not None:
        ids = batch.tokens.ids
        for what, mask in _shortened(batch.tokens.attend):
            tokens = replace(batch.tokens, attend=mask)
            other = torch.where(mask, ids, ids[:, :1].expand_as(ids))  # the first word again: a known id
            masked, changed = replace(batch, tokens=tokens), replace(batch, tokens=replace(tokens, ids=other))
            yield f"{what} of the instruction", masked, changed, True


def _shortened(mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The mask with half of each row's real tokens, and with one row that has none."""
    place = mask.cumsum(-1)
    yield "padded tokens", mask & (place <= (place[:, -1:] + 1) // 2)
    nothing = mask.clone()
    nothing[0] = False
    yield "tokens of a sample without any", nothing


def _behind(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask is `True`, something absurd elsewhere."""
    return torch.where(mask, values, torch.full_like(values, FAR))


def _inverted(image: Tensor, mask: Tensor) -> Tensor:
    """Pictures (batch, history, height, width, 3), inverted where the mask (batch, history) is `False`."""
    return torch.where(mask[:, :, None, None, None], image, 255 - image)


def _keypoints(batch: Batch) -> Iterator[tuple[str, Batch, Batch, bool]]:
    places, mask = batch.keypoints, batch.keypoint_mask
    if places is None or mask is None:
        return
    mask = mask.clone()
    mask[::2, 1] = False
    masked = replace(batch, keypoint_mask=mask)
    changed = replace(masked, keypoints=_behind(places, mask[..., None]))
    yield "keypoints that never come", masked, changed, True
