"""Samples of one shape to a batch: of arrays (`stack`, without torch) or of tensors (`collate`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Batch, Sample, Tokens

__all__ = ["collate", "filled", "stack", "to_tensors"]


def collate(samples: Sequence[Sample], embodiments: Sequence[str]) -> Batch:
    """A batch of tensors of `samples` in order; see `stack`."""
    return to_tensors(stack(samples, embodiments))


def to_tensors(batch: Batch) -> Batch:
    """A batch of arrays as one of tensors, which share their memory."""
    import torch  # here, because processes that only stack samples start in a tenth of its time

    return batch.map(torch.from_numpy)


def stack(samples: Sequence[Sample], embodiments: Sequence[str]) -> Batch:
    """A batch of `samples` in order, of NumPy arrays; pictures stay uint8.

    Sentences and tokens of different lengths are padded at the end with mask `False`. A sample
    without actions gets zeros, masks `False` and `has_actions` `False`. If no sample has any, as while
    acting, the batch has none either; it keeps `action_mask`, which tells the real dimensions of the
    answer, if every sample brings one.

    Args:
        samples: At least one; equal cameras, sizes and widths, as pipelines with padding make them.
        embodiments: Body names in the order of `Batch.embodiment`.

    Raises:
        DataError: Samples do not fit together.
    """
    first = samples[0]
    for sample in samples:
        if sample.embodiment not in embodiments:
            raise unknown_name("embodiment", sample.embodiment, embodiments)
        if sample.images.keys() != first.images.keys():
            raise DataError(
                f"batch: data set {sample.key!r} has cameras {sorted(sample.images)}, {first.key!r} has "
                f"{sorted(first.images)}. Pad camera slots in the pipelines of both."
            )
    arrays: dict[str, Any] = {
        "embodiment": np.array([embodiments.index(sample.embodiment) for sample in samples], np.int64),
        "has_actions": np.array([sample.actions is not None for sample in samples], bool),
    }
    return Batch(
        images={name: _stack([s.images[name] for s in samples], samples, "images") for name in first.images},
        image_mask={
            name: _stack([s.image_mask[name] for s in samples], samples, "image mask")
            for name in first.images
        },
        state=_stack([sample.state for sample in samples], samples, "state"),
        history_mask=_stack([sample.history_mask for sample in samples], samples, "history mask"),
        state_mask=_stack([sample.state_mask for sample in samples], samples, "state mask"),
        **arrays,
        **_actions(samples),
        **_filled(samples, hand=((3, 4), np.float32)),
        **_keypoints(samples),
        **_sentences(samples),
        tokens=_tokens(samples),
    )


def filled(batch: Batch, horizon: int, action: int) -> Batch:
    """A batch without actions as if it stood beside one that has some: zeros, and masks that are `False`.

    So a loss of a batch of questions alone has the terms that it always has.

    Args:
        batch: Of tensors; one with actions stays as it is.
        horizon: Ticks of a chunk.
        action: Numbers of an action.
    """
    if batch.actions is not None:
        return batch
    zeros = batch.state.new_zeros(len(batch), horizon, action)
    return replace(batch, actions=zeros, horizon_mask=zeros[:, :, 0].bool(), action_mask=zeros[:, 0].bool())


def _stack(arrays: Sequence[np.ndarray], samples: Sequence[Sample], what: str) -> Any:
    """One array of one array a sample."""
    try:
        return np.stack(arrays)
    except ValueError as error:
        shapes = sorted({(sample.key, array.shape) for sample, array in zip(samples, arrays)})
        raise DataError(
            f"batch: {what}: expected equal shapes, got {shapes} by data set. Pad them in the pipelines."
        ) from error


def _actions(samples: Sequence[Sample]) -> dict[str, Any]:
    """Actions and their masks, zeros and `False` where a sample has none; see `collate` for acting."""
    model = next((sample for sample in samples if sample.actions is not None), None)
    if model is None:
        masks = [sample.action_mask for sample in samples if sample.action_mask is not None]
        return {"action_mask": _stack(masks, samples, "action_mask")} if len(masks) == len(samples) else {}
    found = {}
    for name in ("actions", "horizon_mask", "action_mask"):
        empty = np.zeros_like(getattr(model, name))
        arrays = [empty if sample.actions is None else getattr(sample, name) for sample in samples]
        found[name] = _stack(arrays, samples, name)
    if any(sample.executed is not None for sample in samples):
        given = zip(samples, found["actions"], strict=True)
        ran = [actions if sample.executed is None else sample.executed for sample, actions in given]
        found["executed"] = _stack(ran, samples, "executed")
    return found


def _keypoints(samples: Sequence[Sample]) -> dict[str, Any]:
    """Keypoints, their mask, and which part of an episode they belong to; nothing if no sample has any."""
    found = _filled(samples, keypoints=((2, 3), np.float32), keypoint_mask=((2,), bool))
    return {**found, "part": np.array([sample.part for sample in samples], np.int64)} if found else {}


def _filled(samples: Sequence[Sample], **fields: tuple[tuple[int, ...], type]) -> dict[str, Any]:
    """Fields that only some samples may have: zeros, and so mask `False`, for the others."""
    found = {}
    for name, (shape, kind) in fields.items():
        given = [getattr(sample, name) for sample in samples]
        if any(value is not None for value in given):
            empty: np.ndarray = np.zeros(shape, kind)
            found[name] = _stack([empty if value is None else value for value in given], samples, name)
    return found


def _sentences(samples: Sequence[Sample]) -> dict[str, Any]:
    """Encoded instructions, padded to the longest; a sample without one is all padding."""
    model = next((sample.sentence for sample in samples if sample.sentence is not None), None)
    if model is None:
        return {}
    longest = max(len(sample.sentence) for sample in samples if sample.sentence is not None)
    values = np.zeros((len(samples), longest, *model.shape[1:]), model.dtype)
    mask = np.zeros((len(samples), longest), bool)
    for row, sample in enumerate(samples):
        if sample.sentence is None:
            continue
        length = len(sample.sentence)
        values[row, :length] = sample.sentence
        mask[row, :length] = True if sample.sentence_mask is None else sample.sentence_mask
    return {"sentence": values, "sentence_mask": mask}


def _tokens(samples: Sequence[Sample]) -> Tokens | None:
    """Token ids, padded to the longest; padding is neither attended to nor trained."""
    if all(sample.tokens is None for sample in samples):
        return None
    longest = max(len(sample.tokens.ids) for sample in samples if sample.tokens is not None)
    kinds: dict[str, Any] = {"ids": np.int64, "attend": bool, "loss": bool, "segment": np.int64}
    arrays = {name: np.zeros((len(samples), longest), kind) for name, kind in kinds.items()}
    for row, sample in enumerate(samples):
        if sample.tokens is not None:
            for name, array in arrays.items():
                values = getattr(sample.tokens, name)
                array[row, : len(values)] = values
    return Tokens(**arrays)
