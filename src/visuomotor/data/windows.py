"""Every tick of a data set as a `Sample`: history before it, horizon after it, masks at the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from visuomotor.data.frames import Frames, Pictures
from visuomotor.data.keypoints import find_keypoints
from visuomotor.data.labels import find_labels
from visuomotor.data.reader import LeRobotReader
from visuomotor.errors import DataError
from visuomotor.types import Sample, Window

__all__ = ["Windows"]


class Windows:
    """Sample `i` is what a policy sees at the `i`-th tick, with the actions it should then take.

    Before the start of the episode history repeats the first tick, past its end actions repeat the
    last one; both are masked, and nothing of a neighboring episode is ever seen. Pictures are views
    of the store, not to be written to.

    A data set with chunk labels (see `visuomotor.data.labels`) gives those instead of the actions that
    followed, and does not tell what ran, from which they do not go on; a tick without a label is seen in
    the history of others and is no sample. Hindsight tells where things are only in episodes that the
    expert played: others show what happened, not what was meant.

    Args:
        reader: The data set.
        store: Its pictures: decoded ones (`FrameStore`), or those of its videos (`VideoFrames`).
        window: Which ticks a sample holds.
        key: Name of the data set in `Sample.key`.
        episodes: Only the ticks of these episodes, in this order; all if None.
    """

    def __init__(
        self,
        reader: LeRobotReader,
        store: Frames,
        window: Window,
        key: str,
        episodes: Sequence[int] | None = None,
    ) -> None:
        expected = {(c.name, (len(reader), c.height, c.width, 3)) for c in reader.spec.cameras}
        found = {(name, frames.shape) for name, frames in store.frames.items()}
        if found != expected:
            raise DataError(
                f"pictures of {sorted(found)} do not belong to {reader.folder}, which has {sorted(expected)}."
            )
        self.reader = reader
        self.window = window
        self.key = key
        self._store = store
        self._frames = dict(store.frames)
        lengths = np.array([episode.length for episode in reader.episodes])
        ends = np.cumsum(lengths)
        chosen = range(len(lengths)) if episodes is None else episodes
        rows = [np.arange(ends[episode] - lengths[episode], ends[episode]) for episode in chosen]
        self._rows = np.concatenate([np.arange(0), *rows])
        self._labels = find_labels(reader, window.horizon)
        self._first = np.repeat(ends - lengths, lengths)
        self._end = np.repeat(ends, lengths)
        self._keypoints = find_keypoints(
            reader.spec,
            reader.state,
            reader.actions,
            lengths.tolist(),
            reader.subtask_index,
            reader.executed,
        )
        if self._labels is not None:
            self._rows = self._rows[self._labels.length[self._rows] > 0]
            if self._keypoints is not None:
                played = np.logical_and.reduceat(self._labels.by_expert, ends - lengths)
                self._keypoints.mask[np.repeat(~played, lengths)] = False
        self._offsets = np.array(window.history, np.int64)
        self._ahead = np.arange(window.horizon)
        self._state_mask = _fixed(np.ones(len(reader.spec.state), bool))
        self._action_mask = _fixed(np.ones(len(reader.spec.action), bool))
        self._all_history = _fixed(np.ones(len(window.history), bool))
        self._all_horizon = _fixed(np.ones(window.horizon, bool))

    @property
    def name(self) -> str:
        """Under which the weight of a mixture is looked up: the key."""
        return self.key

    def __len__(self) -> int:
        """Ticks with a label, and so samples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one tick; negative ones count from the end."""
        return self._sample(int(self._rows[index]), self._frames)

    def __getstate__(self) -> dict[str, Any]:
        """Without pictures, which another process opens itself."""
        return {name: value for name, value in vars(self).items() if name != "_frames"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._frames = dict(self._store.frames)

    def blind(self, index: int) -> Sample:
        """The same without cameras: nothing is read of the pictures."""
        return self._sample(int(self._rows[index]), {})

    @property
    def told(self) -> Bool[np.ndarray, "sample 2"]:
        """Of each sample which keypoints hindsight tells."""
        if self._keypoints is None:
            return np.zeros((len(self), 2), bool)
        found: np.ndarray = self._keypoints.mask[self._rows]
        return found

    def _sample(self, tick: int, frames: Mapping[str, Pictures]) -> Sample:
        reader, first, end = self.reader, int(self._first[tick]), int(self._end[tick])
        rows: slice | np.ndarray
        if len(self._offsets) == 1:
            rows, history_mask = slice(tick, tick + 1), self._all_history
        else:
            wanted = self._offsets + tick
            rows, history_mask = np.maximum(wanted, first), wanted >= first
        horizon, executed = self.window.horizon, None
        if self._labels is not None:
            actions, horizon_mask = self._labels.actions[tick], self._ahead < self._labels.length[tick]
        else:
            whole = tick + horizon <= end
            ticks = slice(tick, tick + horizon) if whole else np.minimum(self._ahead + tick, end - 1)
            horizon_mask = self._all_horizon if whole else self._ahead + tick < end
            actions = reader.actions[ticks]
            if self.window.executed and reader.executed is not None:
                executed = reader.executed[ticks]
        keypoints, keypoint_mask, part = (
            (None, None, 0) if self._keypoints is None else (found[tick] for found in self._keypoints)
        )
        return Sample(
            images={name: pictures[rows] for name, pictures in frames.items()},
            image_mask=dict.fromkeys(frames, history_mask),
            state=reader.state[rows],
            history_mask=history_mask,
            state_mask=self._state_mask,
            instruction=reader.instruction(tick),
            embodiment=reader.spec.embodiment,
            key=self.key,
            time=(tick - first) / reader.spec.rate,
            actions=actions,
            executed=executed,
            horizon_mask=horizon_mask,
            action_mask=self._action_mask,
            keypoints=keypoints,
            keypoint_mask=keypoint_mask,
            part=int(part),
            subtask=self._subtask(tick),
        )

    def _subtask(self, tick: int) -> str | None:
        index = self.reader.subtask_index
        return None if index is None else self.reader.subtasks[int(index[tick])]


def _fixed(values: np.ndarray) -> np.ndarray:
    """The same array, protected against writing, as samples share it."""
    values.flags.writeable = False
    return values
