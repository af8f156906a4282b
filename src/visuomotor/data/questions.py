"""Vision-language samples of a data set: the ticks whose columns hold a question and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from visuomotor.data.frames import Frames
from visuomotor.data.keypoints import tells_keypoints
from visuomotor.data.reader import LeRobotReader
from visuomotor.errors import DataError
from visuomotor.types import Sample, Window

__all__ = ["Questions"]


class Questions:
    """Sample `i` is the `i`-th question: its picture, its words as instruction, and the answer to be learned.

    It has no actions, its state is masked, so that the answer has to be seen, and so is history. Mixed
    with `Windows` in one `Loader` as a data set of its own, with statistics that are not needed.

    Args:
        reader: The data set, with text columns as `visuomotor collect --annotate` writes them.
        store: Its pictures.
        window: What the samples beside it hold; only the length of its history matters.
        key: Name of the data set in `Sample.key`.
        episodes: Only questions in these episodes, in this order; all if None.
        question: Column of the questions; where it is empty nothing is asked.
        answer: Column of the answers.
        camera: Column of the camera that is asked about; the others are masked. None shows all.

    Raises:
        DataError: A column is missing or holds no texts, or names a camera that there is not.
    """

    def __init__(
        self,
        reader: LeRobotReader,
        store: Frames,
        window: Window,
        key: str,
        episodes: Sequence[int] | None = None,
        *,
        question: str = "question",
        answer: str = "answer",
        camera: str | None = "camera",
    ) -> None:
        self.reader = reader
        self.key = key
        self._store = store
        self._history = len(window.history)
        self._questions, self._answers = _texts(reader, question), _texts(reader, answer)
        self._untold: dict[str, Any] = {}
        if tells_keypoints(reader.spec):  # so that a batch of questions alone has what others have
            self._untold = {
                "keypoints": np.zeros((2, 3), np.float32),
                "keypoint_mask": np.zeros(2, bool),
            }
        self._shown = None if camera is None else _texts(reader, camera)
        chosen = range(len(reader.episodes)) if episodes is None else episodes
        ticks = [
            np.arange(e.start, e.start + e.length) for e in (reader.episodes[number] for number in chosen)
        ]
        rows = np.concatenate([np.arange(0), *ticks])
        asked = self._questions[rows].astype(bool) & self._answers[rows].astype(bool)
        self._rows = rows[asked]
        cameras = {view.name for view in reader.spec.cameras}
        named = set() if self._shown is None else set(self._shown[self._rows].tolist())
        if not named <= cameras:
            raise DataError(
                f"{reader.folder}: column {camera!r} names {sorted(named - cameras)}, the cameras are "
                f"{sorted(cameras)}. Pass camera=None to show all of them."
            )

    @property
    def name(self) -> str:
        """Under which the weight of a mixture is looked up: "key/questions"."""
        return f"{self.key}/questions"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every question once, in order of first use."""
        return tuple(dict.fromkeys(self._questions[self._rows].tolist()))

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer once, in order of first use."""
        return tuple(dict.fromkeys(self._answers[self._rows].tolist()))

    def __len__(self) -> int:
        """Questions, and so samples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """One question; negative ones count from the end."""
        row = int(self._rows[index])
        last = np.arange(self._history) == self._history - 1
        seen = {view.name: self._sees(row, view.name) for view in self.reader.spec.cameras}
        images = {
            name: np.repeat(self._store.frames[name][row : row + 1], self._history, axis=0) for name in seen
        }
        return replace(
            self.blind(index), images=images, image_mask={name: last & shown for name, shown in seen.items()}
        )

    def blind(self, index: int) -> Sample:
        """The same without cameras: nothing is read of the pictures."""
        row, width = int(self._rows[index]), len(self.reader.spec.state)
        return Sample(
            images={},
            image_mask={},
            state=np.zeros((self._history, width), np.float32),
            history_mask=np.arange(self._history) == self._history - 1,
            state_mask=np.zeros(width, bool),
            instruction=str(self._questions[row]),
            embodiment=self.reader.spec.embodiment,
            key=self.key,
            answer=str(self._answers[row]),
            **self._untold,
        )

    @property
    def told(self) -> Bool[np.ndarray, "sample 2"]:
        """Hindsight tells no keypoint of a question."""
        return np.zeros((len(self), 2), bool)

    def _sees(self, row: int, camera: str) -> bool:
        return self._shown is None or bool(self._shown[row] == camera)


def _texts(reader: LeRobotReader, column: str) -> np.ndarray:
    """A column of texts (tick,)."""
    values = reader.column(column)
    if values.dtype != object or not all(isinstance(value, str) for value in values):
        raise DataError(f"{reader.folder}: expected texts in column {column!r}, got {values.dtype}.")
    return values
