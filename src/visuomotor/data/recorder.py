"""Records demonstrations tick by tick into a data set: for teleoperation, robots and loops of one's own.

    with Recorder(spec, "recorded") as recorder:
        for _ in range(episodes):
            ...
            recorder.tick(observation, action)
            ...
            recorder.end_episode()

A kill at any moment loses at most the episode that is being recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from visuomotor.data.episode import EpisodeRecorder
from visuomotor.data.features import Feature
from visuomotor.data.video import Settings, VideoSettings
from visuomotor.data.writer import LeRobotWriter
from visuomotor.data.writer21 import LeRobotWriter21
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Observation, Spec

__all__ = ["Recorder", "Version"]

Version = Literal["v3.0", "v2.1"]
_WRITERS = {"v3.0": LeRobotWriter, "v2.1": LeRobotWriter21}


class Recorder:
    """A recording that goes on: ticks make episodes, episodes a data set.

    Leaving the `with` block ends the running episode and completes the data set; leaving it by an
    error or Ctrl-C drops the running episode and keeps the finished ones.

    Args:
        spec: What body and data decide.
        folder: Where to; missing or empty, or with `resume` a recording of the same kind.
        resume: Go on with the recording in `folder`, if there is one.
        executed: Whether each tick also tells what was done, besides the label.
        subtasks: Whether each tick tells a subtask.
        columns: More columns of ticks, by dtype ("string", "float32", "bool", ...) or `Feature`; those of
            depth are made by `visuomotor.data.depth.depth_feature`.
        meta: More for meta/visuomotor.json, plain values.
        settings: How pictures are kept.
        version: LeRobot format of the data set.

    Raises:
        DataError: `folder` holds something else.
    """

    def __init__(
        self,
        spec: Spec,
        folder: str | Path,
        *,
        resume: bool = False,
        executed: bool = False,
        subtasks: bool = False,
        columns: Mapping[str, str | Feature] | None = None,
        meta: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        version: Version = "v3.0",
    ) -> None:
        if version not in get_args(Version):
            raise unknown_name("version of the format", version, get_args(Version))
        self.spec = spec
        self._settings = settings or VideoSettings()
        self._columns = dict(columns or {})
        self._kind = {"executed": executed, "subtasks": subtasks}
        self._writer = _WRITERS[version](
            folder,
            spec,
            executed=executed,
            subtasks=subtasks,
            columns=columns,
            meta=meta,
            settings=self._settings,
            resume=resume,
        )
        self._episode = self._begin()

    @property
    def folder(self) -> Path:
        """Where the data set lies."""
        return self._writer.folder

    @property
    def episodes(self) -> int:
        """Episodes that are safe on disk."""
        return self._writer.episodes

    @property
    def running(self) -> int:
        """Ticks of the episode that is being recorded."""
        return len(self._episode)

    def tick(
        self,
        observation: Observation,
        action: Float[np.ndarray, " action"],
        *,
        executed: Float[np.ndarray, " action"] | None = None,
        instruction: str | None = None,
        subtask: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one tick to the running episode.

        Args:
            observation: What was seen before acting.
            action: The label, raw units.
            executed: What was done, if the recording keeps that.
            instruction: The words at this tick; those of the observation if None.
            subtask: What is to be done at this tick, if the recording keeps that.
            extra: The value of every further column; of depth meters, float (height, width).

        Raises:
            DataError: Something is missing, of another shape, or not a number; nothing was appended.
        """
        for name, value in (("executed", executed), ("subtasks", subtask)):
            if self._kind[name] != (value is not None):
                raise DataError(
                    f"tick {self.running}: expected {'' if self._kind[name] else 'no '}{name}, as this "
                    f"recorder was made with {name}={self._kind[name]}."
                )
        self._episode.tick(observation, action, executed, instruction, subtask, extra)

    def end_episode(self, *, seed: int | None = None) -> int:
        """Write the running episode; once it returns the episode survives a crash.

        Args:
            seed: Of the scene, if it came from a simulator.

        Returns:
            Its number.

        Raises:
            DataError: It has no tick, or the disk is full.
        """
        finished = self._episode.finish(seed=seed)
        self._episode = self._begin()
        self._writer.add(finished)
        return self._writer.episodes - 1

    def discard(self) -> int:
        """Forget the running episode; the next tick begins another. Returns how many ticks it had."""
        ticks, self._episode = self.running, self._begin()
        return ticks

    def close(self) -> None:
        """Write final statistics and totals; a running episode is dropped."""
        self.discard()
        self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.running:
            self.end_episode()
        if not isinstance(error, DataError):  # after a failed write the disk holds a readable state; leave it
            self.close()

    def _begin(self) -> EpisodeRecorder:
        return EpisodeRecorder(self.spec, self._settings, self._columns)
