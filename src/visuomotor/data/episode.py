"""One demonstration on its way to disk, tick by tick.

`EpisodeRecorder` compresses pictures while the episode runs, so that a worker process can hand a
finished `EncodedEpisode` to the process that writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from visuomotor.data.stats import PictureSpread, Spread
from visuomotor.data.video import Clip, ClipEncoder, VideoSettings
from visuomotor.errors import DataError
from visuomotor.types import Dimension, Observation, Spec

__all__ = ["EncodedEpisode", "EpisodeRecorder"]


@dataclass(frozen=True, kw_only=True)
class EncodedEpisode:
    """One finished episode, ready to be written.

    Attributes:
        state: What was measured at each tick.
        actions: The label: what should be done at each tick.
        executed: What was done, where that differs from the label; None if it was not recorded.
        instructions: The words at each tick.
        clips: Camera name to its video.
        pictures: Camera name to the spread of its pictures.
        seed: Seed of the scene, if it came from a simulator.
        subtasks: What was to be done at each tick, in plain words; None if nobody said.
    """

    state: Float32[np.ndarray, "tick state"]
    actions: Float32[np.ndarray, "tick action"]
    executed: Float32[np.ndarray, "tick action"] | None
    instructions: tuple[str, ...]
    clips: dict[str, Clip]
    pictures: dict[str, Spread]
    seed: int | None = None
    subtasks: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Ticks in it."""
        return len(self.state)


class EpisodeRecorder:
    """Takes the ticks of one episode: `tick` for each, then `finish`.

    Args:
        spec: What every tick must look like.
        settings: How pictures are compressed.
    """

    def __init__(self, spec: Spec, settings: VideoSettings | None = None) -> None:
        self.spec = spec
        settings = settings or VideoSettings()
        self._encoders = {camera.name: ClipEncoder(camera, spec.rate, settings) for camera in spec.cameras}
        self._pictures = {camera.name: PictureSpread() for camera in spec.cameras}
        self._state: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._executed: list[np.ndarray] = []
        self._instructions: list[str] = []
        self._subtasks: list[str] = []

    def __len__(self) -> int:
        """Ticks so far."""
        return len(self._state)

    def tick(
        self,
        observation: Observation,
        action: Float[np.ndarray, " action"],
        executed: Float[np.ndarray, " action"] | None = None,
        instruction: str | None = None,
        subtask: str | None = None,
    ) -> None:
        """Append one tick.

        Args:
            observation: What was seen before acting; the newest one if it has history.
            action: The label, raw units.
            executed: What was done, if that differs from the label; give it at every tick or at none.
            instruction: The words at this tick; those of the observation if None.
            subtask: What is to be done at this tick; give it at every tick or at none.
        """
        words = observation.instruction if instruction is None else instruction
        if not words.strip():
            raise DataError(
                f"tick {len(self)}: expected an instruction, got an empty one. Give the words of the task."
            )
        if len(self) and (executed is None) == bool(self._executed):
            raise DataError(
                f"tick {len(self)}: executed actions must be given at every tick of an episode or at none."
            )
        if len(self) and (subtask is None) == bool(self._subtasks):
            raise DataError(
                f"tick {len(self)}: subtasks must be given at every tick of an episode or at none."
            )
        state = _checked("state", observation.state[-1], self.spec.state, len(self))
        label = _checked("action", action, self.spec.action, len(self))
        done = (
            None if executed is None else _checked("executed action", executed, self.spec.action, len(self))
        )
        for name, encoder in self._encoders.items():
            if name not in observation.images:
                raise DataError(
                    f"tick {len(self)}: no picture of camera {name!r}, only of {sorted(observation.images)}. "
                    "Draw every camera of the spec at every tick."
                )
            picture = observation.images[name][-1]
            encoder.add(picture)
            self._pictures[name].add(picture)
        self._state.append(state)
        self._actions.append(label)
        self._instructions.append(words)
        if subtask is not None:
            self._subtasks.append(subtask)
        if done is not None:
            self._executed.append(done)

    def finish(self, *, seed: int | None = None) -> EncodedEpisode:
        """The whole episode; the recorder is used up."""
        if not len(self):
            raise DataError("episode: expected at least one tick, got none.")
        return EncodedEpisode(
            state=np.stack(self._state),
            actions=np.stack(self._actions),
            executed=np.stack(self._executed) if self._executed else None,
            instructions=tuple(self._instructions),
            clips={name: encoder.finish() for name, encoder in self._encoders.items()},
            pictures={name: pictures.finish() for name, pictures in self._pictures.items()},
            seed=seed,
            subtasks=tuple(self._subtasks) or None,
        )


def _checked(
    what: str, values: np.ndarray, dimensions: tuple[Dimension, ...], tick: int
) -> Float32[np.ndarray, " n"]:
    """A float32 copy of `values`, or why they are none of this body."""
    row = np.array(values, np.float32)
    if row.shape != (len(dimensions),):
        raise DataError(f"tick {tick}: expected {what} of shape ({len(dimensions)},), got {row.shape}.")
    if not np.isfinite(row).all():
        names = [d.name for d, good in zip(dimensions, np.isfinite(row)) if not good]
        raise DataError(
            f"tick {tick}: {what} {', '.join(names)} is not a number. Find out where it comes from."
        )
    return row
