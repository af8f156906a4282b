"""One demonstration on its way to disk, tick by tick.

`EpisodeRecorder` compresses pictures while the episode runs, so that a worker process can hand a
finished `EncodedEpisode` to the process that writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from visuomotor.data.depth_track import DepthTrack
from visuomotor.data.features import Feature
from visuomotor.data.layout import extra_columns
from visuomotor.data.stats import PictureSpread, Spread
from visuomotor.data.stills import encode_png
from visuomotor.data.video import Clip, ClipEncoder, Settings, VideoSettings
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Observation, Spec

__all__ = ["EncodedEpisode", "EpisodeRecorder"]


@dataclass(frozen=True, kw_only=True)
class EncodedEpisode:
    """One finished episode, ready to be written.

    Attributes:
        state: What was measured at each tick.
        actions: The label: what should be done at each tick.
        executed: What was done, where that differs from the label; None if it was not recorded.
        instructions: The words at each tick.
        clips: Name of a camera, or of a column of depth, to its video.
        pictures: Name of a camera, or of a column of depth, to the spread of its pictures.
        seed: Seed of the scene, if it came from a simulator.
        subtasks: What was to be done at each tick, in plain words; None if nobody said.
        columns: More columns that hold no pictures, name to values, first axis tick.
        stills: Name of a camera, or of a column of depth, to its pictures as bytes of PNG or TIFF files,
            where it has no clip.
    """

    state: Float32[np.ndarray, "tick state"]
    actions: Float32[np.ndarray, "tick action"]
    executed: Float32[np.ndarray, "tick action"] | None
    instructions: tuple[str, ...]
    clips: dict[str, Clip]
    pictures: dict[str, Spread]
    seed: int | None = None
    subtasks: tuple[str, ...] | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    stills: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Ticks in it."""
        return len(self.state)


class EpisodeRecorder:
    """Takes the ticks of one episode: `tick` for each, then `finish`.

    Args:
        spec: What every tick must look like.
        settings: How pictures are kept.
        columns: More columns of ticks, by dtype or `Feature`.
    """

    def __init__(
        self,
        spec: Spec,
        settings: Settings | None = None,
        columns: Mapping[str, str | Feature] | None = None,
    ) -> None:
        self.spec = spec
        settings = settings or VideoSettings()
        video = settings if isinstance(settings, VideoSettings) else None
        self._encoders = {c.name: ClipEncoder(c, spec.rate, video) for c in spec.cameras if video is not None}
        self._stills: dict[str, list[bytes]] = {c.name: [] for c in spec.cameras if video is None}
        every = extra_columns(columns or {}, spec.rate)
        self._columns = {name: feature for name, feature in every.items() if not feature.pictures}
        self._depth = {name: DepthTrack(f, spec.rate) for name, f in every.items() if f.pictures}
        self._extra: dict[str, list[Any]] = {name: [] for name in self._columns}
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
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one tick.

        Args:
            observation: What was seen before acting; the newest one if it has history.
            action: The label, raw units.
            executed: What was done, if that differs from the label; give it at every tick or at none.
            instruction: The words at this tick; those of the observation if None.
            subtask: What is to be done at this tick; give it at every tick or at none.
            extra: The value of every further column at this tick; of depth meters, float (height, width).
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
        values = self._checked_extra(extra or {})
        pictures = {camera.name: self._picture(observation, camera) for camera in self.spec.cameras}
        for name, picture in pictures.items():
            if name in self._encoders:
                self._encoders[name].add(picture)
            else:
                self._stills[name].append(encode_png(picture))
            self._pictures[name].add(picture)
        for name, value in values.items():
            if name in self._depth:
                self._depth[name].add(value)
            else:
                self._extra[name].append(value)
        self._state.append(state)
        self._actions.append(label)
        self._instructions.append(words)
        if subtask is not None:
            self._subtasks.append(subtask)
        if done is not None:
            self._executed.append(done)

    def _picture(self, observation: Observation, camera: Camera) -> UInt8[np.ndarray, "height width 3"]:
        """The newest picture of a camera."""
        if camera.name not in observation.images:
            raise DataError(
                f"tick {len(self)}: no picture of camera {camera.name!r}, "
                f"only of {sorted(observation.images)}. "
                "Draw every camera of the spec at every tick."
            )
        picture: np.ndarray = observation.images[camera.name][-1]
        if picture.dtype != np.uint8 or picture.shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"camera {camera.name!r}: expected uint8 {(camera.height, camera.width, 3)}, "
                f"got {picture.dtype} {picture.shape}."
            )
        return picture

    def _checked_extra(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each further column, of its type and shape."""
        known = {*self._columns, *self._depth}
        if set(extra) != known:
            raise DataError(
                f"tick {len(self)}: expected the columns {sorted(known)}, got {sorted(extra)}. "
                "Give every column at every tick."
            )
        depth = {name: track.check(len(self), extra[name]) for name, track in self._depth.items()}
        values = {name: _value(feature, extra[name], len(self)) for name, feature in self._columns.items()}
        return {**values, **depth}

    def finish(self, *, seed: int | None = None) -> EncodedEpisode:
        """The whole episode; the recorder is used up."""
        if not len(self):
            raise DataError("episode: expected at least one tick, got none.")
        depth = {name: track.finish() for name, track in self._depth.items()}
        figures = {name: pictures.finish() for name, pictures in self._pictures.items()}
        return EncodedEpisode(
            state=np.stack(self._state),
            actions=np.stack(self._actions),
            executed=np.stack(self._executed) if self._executed else None,
            instructions=tuple(self._instructions),
            clips={
                **{name: encoder.finish() for name, encoder in self._encoders.items()},
                **{name: found for name, found in depth.items() if isinstance(found, Clip)},
            },
            pictures={**figures, **{name: track.figures() for name, track in self._depth.items()}},
            seed=seed,
            subtasks=tuple(self._subtasks) or None,
            columns={
                name: np.array(values, self._columns[name].numeric or object)
                for name, values in self._extra.items()
            },
            stills={
                **{name: tuple(pictures) for name, pictures in self._stills.items()},
                **{name: found for name, found in depth.items() if not isinstance(found, Clip)},
            },
        )


def _value(feature: Feature, value: Any, tick: int) -> Any:
    """The value of a column, or why it is none of its type."""
    where = f"tick {tick}: column {feature.name!r}"
    shape = () if feature.single else feature.shape
    if feature.dtype == "string":
        texts = np.asarray(value, object)
        if texts.shape != shape or not all(isinstance(text, str) for text in texts.ravel()):
            raise DataError(f"{where}: expected text of shape {list(shape)}, got {value!r:.60}.")
        return value if feature.single else texts.tolist()
    found = np.asarray(value)
    if found.shape != shape and found.shape == feature.shape:
        found = found.reshape(shape)
    if found.shape != shape or found.dtype.kind not in "fiub":
        raise DataError(f"{where}: expected {feature.dtype} of shape {list(shape)}, got {value!r:.60}.")
    cast = found.astype(feature.numeric)
    if cast.dtype.kind != "f" and (cast != found).any():
        raise DataError(
            f"{where}: expected {feature.dtype}, got numbers that are none, such as {found.ravel()[0]}."
        )
    return cast


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
