"""Every chunk of actions of a data set, how they are spread, and the codec fitted on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from visuomotor.codecs.fast import FAST
from visuomotor.data.labels import find_labels
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.stats import summarize
from visuomotor.errors import DataError
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.relative import RelativeActions
from visuomotor.types import Summary

__all__ = ["action_chunks", "fit_fast", "relative_summary"]


def action_chunks(
    reader: LeRobotReader, horizon: int, episodes: Sequence[int] | None = None
) -> Float32[np.ndarray, "tick horizon action"]:
    """The actions that a sample of each tick has (see `Windows`), in robot units.

    Past the end of an episode the last action is repeated; ticks with a label of their own have that.

    Args:
        reader: The data set.
        horizon: Ticks of a chunk.
        episodes: Only the ticks of these; all if None.
    """
    lengths = np.array([episode.length for episode in reader.episodes])
    ends = np.cumsum(lengths)
    chosen = range(len(lengths)) if episodes is None else episodes
    rows = np.concatenate([np.arange(0), *(np.arange(ends[e] - lengths[e], ends[e]) for e in chosen)])
    labels = find_labels(reader, horizon)
    if labels is not None:
        return labels.actions[rows[labels.length[rows] > 0]]
    last = np.repeat(ends, lengths)[rows] - 1
    ticks = np.minimum(rows[:, None] + np.arange(horizon), last[:, None])  # tick -> tick horizon
    return reader.actions[ticks]


def relative_summary(reader: LeRobotReader, horizon: int, relative: RelativeActions) -> Summary:
    """Spread of the actions of all chunks of a data set, measured as a policy learns them.

    Every action of every chunk counts, as in the released code of pi0, so that all numbers of the horizon
    have one scale; but what is past the end of an episode, and so no lesson, does not.

    Args:
        reader: The data set.
        horizon: Ticks of a chunk.
        relative: Which numbers are measured from the state.
    """
    lengths = np.array([episode.length for episode in reader.episodes])
    end = np.repeat(np.cumsum(lengths), lengths)[:, None]
    ahead = np.arange(len(reader))[:, None] + np.arange(horizon)  # tick horizon
    labels = find_labels(reader, horizon)
    real = ahead < end if labels is None else np.arange(horizon) < labels.length[:, None]
    origins = dict(zip(relative.action, relative.state, strict=True))
    parts = []
    for number in range(len(reader.spec.action)):  # one at a time: chunks take much memory
        if labels is None:
            values = reader.actions[np.minimum(ahead, end - 1), number]
        else:
            values = labels.actions[:, :, number]
        if number in origins:
            values = values - reader.state[:, origins[number], None]
        parts.append(summarize(values[real][:, None]))
    names = ("mean", "std", "min", "max", "q01", "q99")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Summary(**joined, count=parts[0].count)


def fit_fast(
    readers: Sequence[LeRobotReader],
    *,
    horizon: int,
    normalize: Callable[[LeRobotReader], Normalize] | None = None,
    scale: float = 10.0,
    vocabulary: int = 1024,
    most: int = 50_000,
    progress: Callable[[int, int], None] | None = None,
) -> FAST:
    """The FAST codec of data sets of one body, each normalized by its own statistics.

    Args:
        readers: The data sets, with actions of the same width.
        horizon: Ticks of a chunk; those of one second in the paper.
        normalize: Normalization of a data set, that of the policy that will use the codec; 1 % and 99 %
            of its actions become -1 and 1 if None, as in the paper.
        scale: Finer and longer, the larger it is.
        vocabulary: Most tokens to make.
        most: Chunks to fit on; of more, evenly spaced ones are taken.
        progress: Called with the number of tokens so far and the number wanted.

    Raises:
        DataError: No data sets, or actions of different widths.
    """
    widths = {reader.actions.shape[1] for reader in readers}
    if len(widths) != 1:
        raise DataError(
            f"fit_fast: expected data sets with actions of one width, got widths {sorted(widths)}. "
            "Fit a codec for each body."
        )
    share = sum(len(reader) for reader in readers)
    chunks = []
    for reader in readers:
        raw = action_chunks(reader, horizon)
        count = min(len(raw), max(1, round(most * len(reader) / share)))
        raw = raw[np.linspace(0, len(raw) - 1, count).astype(np.int64)]
        space = normalize(reader) if normalize else Normalize.from_stats(reader.stats, mode="quantile")
        chunks.append(space.normalized(raw))
    return FAST.fit(np.concatenate(chunks), scale=scale, vocabulary=vocabulary, progress=progress)
