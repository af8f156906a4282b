"""Chunk labels: what an expert would do from a tick on, where that is not what came after it.

In a demonstration the actions that follow a tick are its label. When a learner acts, they are not: the
expert's first action leads elsewhere than the learner's. So data sets of DAgger bring the label of each
tick as a column of its own, a whole chunk, as columns that any LeRobot reader reads:

    action.chunk         float32 (horizon, action), the last known action repeated
    action.chunk_length  how many of them are known; 0 where nobody told what to do
    action.by_expert     whether the expert's action was executed at this tick
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from visuomotor.data.features import Feature
from visuomotor.errors import DataError

if TYPE_CHECKING:
    from visuomotor.data.reader import LeRobotReader

__all__ = ["ChunkLabels", "find_labels", "label_columns", "label_values"]

_CHUNK, _LENGTH, _BY_EXPERT = "action.chunk", "action.chunk_length", "action.by_expert"


class ChunkLabels(NamedTuple):
    """The labels of every tick.

    Attributes:
        actions: What the expert does from each tick on, raw units.
        length: How many of these actions are known.
        by_expert: Whether the expert's action was executed.
    """

    actions: Float32[np.ndarray, "tick horizon action"]
    length: Int64[np.ndarray, " tick"]
    by_expert: Bool[np.ndarray, " tick"]


def label_columns(horizon: int, width: int) -> dict[str, Feature]:
    """The columns for labels of `horizon` actions of `width` numbers, for a writer."""
    return {
        _CHUNK: Feature(name=_CHUNK, dtype="float32", shape=(horizon, width)),
        _LENGTH: Feature(name=_LENGTH, dtype="int64", shape=(1,)),
        _BY_EXPERT: Feature(name=_BY_EXPERT, dtype="bool", shape=(1,)),
    }


def label_values(labels: ChunkLabels) -> dict[str, np.ndarray]:
    """The values of these columns."""
    return {_CHUNK: labels.actions, _LENGTH: labels.length, _BY_EXPERT: labels.by_expert}


def find_labels(reader: LeRobotReader, horizon: int) -> ChunkLabels | None:
    """The first `horizon` actions of the labels of a data set; None if it has none of its own.

    Raises:
        DataError: Its labels are shorter, or are none.
    """
    if _CHUNK not in reader.features:
        return None
    _check(reader.features, reader, horizon)
    actions = reader.column(_CHUNK)[:, :horizon].reshape(len(reader), horizon, len(reader.spec.action))
    length = np.minimum(reader.column(_LENGTH), horizon)
    return ChunkLabels(np.ascontiguousarray(actions), length, reader.column(_BY_EXPERT))


def _check(features: Mapping[str, Feature], reader: LeRobotReader, horizon: int) -> None:
    """Raise `DataError` unless the columns are those of labels of at least `horizon` actions."""
    width = len(reader.spec.action)
    found = {name: (f.dtype, f.shape) for name, f in features.items()}
    longest = features[_CHUNK].shape[0] if features[_CHUNK].shape else 0
    expected = {name: (f.dtype, f.shape) for name, f in label_columns(longest, width).items()}
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        raise DataError(
            f"{reader.folder}: column {wrong[0]!r}: expected {expected[wrong[0]]}, "
            f"got {found.get(wrong[0], 'nothing')}. Remove the column {_CHUNK!r} to learn from the actions."
        )
    if longest < horizon:
        raise DataError(
            f"{reader.folder}: its labels are chunks of {longest} actions, but the policy wants {horizon}. "
            "Make them with a policy of this horizon, or lower the horizon of the policy."
        )
