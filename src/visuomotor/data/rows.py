"""Episodes as rows and figures: what the writers of every version of the format have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from visuomotor.data import layout
from visuomotor.data.columns import column_array
from visuomotor.data.episode import EncodedEpisode
from visuomotor.data.features import Feature
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.stats import Spread, merge, plain, spread
from visuomotor.data.video import Settings
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["EpisodeRows"]


class EpisodeRows:
    """Checks episodes, turns them into tables, and keeps what statistics of all of them need.

    Args:
        spec: What body and data decide.
        executed: Whether each episode has executed actions besides the labels.
        subtasks: Whether each tick has a subtask.
        columns: More columns of ticks.
        settings: How pictures are kept.

    Attributes:
        features: Of info.json.
        keys: What is pictured, cameras by their name and depth by that of its column, to its feature.
        tasks: Every wording so far to its index.
        subtasks: Every subtask so far to its index.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        executed: bool,
        subtasks: bool,
        columns: Mapping[str, Feature],
        settings: Settings,
    ) -> None:
        self.spec = spec
        self.executed = executed
        self.told = subtasks
        self.columns = {name: feature for name, feature in columns.items() if not feature.pictures}
        self.depth = {name: feature for name, feature in columns.items() if feature.pictures}
        self.features: dict[str, Any] = layout.features(
            spec, executed=executed, subtasks=subtasks, settings=settings, columns=columns
        )
        self.tasks: dict[str, int] = {}
        self.subtasks: dict[str, int] = {}
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in self._numeric()}
        self.keys = {camera.name: layout.camera_key(camera.name) for camera in spec.cameras}
        self.keys |= {name: name for name in self.depth}
        self._pictures: dict[str, list[Spread]] = {name: [] for name in self.keys}

    @property
    def filmed(self) -> dict[str, str]:
        """Those of `keys` whose pictures are kept as video."""
        return {name: key for name, key in self.keys.items() if self.features[key]["dtype"] == "video"}

    def check(self, episode: EncodedEpisode, number: int) -> None:
        """`DataError` unless it is one that these features describe."""
        kept = {
            name: "image" if name in episode.stills else "video" for name in (*episode.clips, *episode.stills)
        }
        wanted = {name: self.features[key]["dtype"] for name, key in self.keys.items()}
        if kept != wanted:
            raise DataError(f"episode {number}: expected {_kinds(wanted)}, got {_kinds(kept)}.")
        if self.executed != (episode.executed is not None):
            raise DataError(
                f"episode {number}: expected {'' if self.executed else 'no '}executed actions, "
                f"as this writer was made with executed={self.executed}."
            )
        if self.told != (episode.subtasks is not None):
            raise DataError(
                f"episode {number}: expected {'' if self.told else 'no '}subtasks, "
                f"as this writer was made with subtasks={self.told}."
            )
        if set(episode.columns) != set(self.columns):
            raise DataError(
                f"episode {number}: expected columns {sorted(self.columns)}, got {sorted(episode.columns)}."
            )
        for name, values, width in (
            ("state", episode.state, len(self.spec.state)),
            ("actions", episode.actions, len(self.spec.action)),
        ):
            if values.shape != (len(episode), width) or not np.isfinite(values).all():
                raise DataError(
                    f"episode {number}: expected finite {name} of width {width}, got {values.shape}."
                )

    def table(self, episode: EncodedEpisode, number: int, start: int) -> pa.Table:
        """The rows of an episode whose first tick is row `start`; new words get their index."""
        ticks = np.arange(len(episode))
        table = layout.data_table(
            {
                **self._vectors_of(episode),
                "timestamp": ticks / self.spec.rate,
                "frame_index": ticks,
                "episode_index": np.full(len(episode), number),
                "index": ticks + start,
                "task_index": _indices(self.tasks, episode.instructions),
                **(
                    {}
                    if episode.subtasks is None
                    else {layout.SUBTASK_INDEX: _indices(self.subtasks, episode.subtasks)}
                ),
            }
        )
        for name, feature in self.columns.items():
            table = table.append_column(name, column_array(feature, episode.columns[name]))
        for name, pictures in episode.stills.items():
            table = table.append_column(self.keys[name], layout.stills_array(pictures))
        return table

    def figures(self, episode: EncodedEpisode, table: pa.Table) -> dict[str, Spread]:
        """Feature to its figures in one episode: cameras first, then every column of numbers."""
        found = {self.keys[name]: figures for name, figures in episode.pictures.items()}
        values = self._values_of(episode)
        for name in table.column_names:
            if name in values:
                found[name] = shaped_spread(values[name])
            elif name not in self.columns and name not in found:
                found[name] = spread(table[name].to_numpy()[:, None])
        return found

    def remember(self, episodes: Sequence[EncodedEpisode]) -> None:
        """Keep what statistics of the whole data set need."""
        for episode in episodes:
            for name, values in self._values_of(episode).items():
                self._values[name].append(values)
            for name, figures in episode.pictures.items():
                self._pictures[name].append(figures)

    def stats(self) -> dict[str, Any]:
        """The content of stats.json."""
        figures = {self.keys[name]: plain(merge(parts)) for name, parts in self._pictures.items()}
        return figures | {
            name: plain(shaped_spread(np.concatenate(parts))) for name, parts in self._values.items()
        }

    def take_up(self, reader: LeRobotReader, pictures: Callable[[str], list[Spread]]) -> None:
        """Go on behind the episodes of a data set.

        Args:
            reader: The data set.
            pictures: Feature to the figures of its pictures, episode by episode.

        Raises:
            DataError: It has other columns.
        """
        folder: Path = reader.folder
        if self.executed != (reader.executed is not None):
            raise DataError(
                f"{folder}: its episodes do {'not ' if self.executed else ''}have executed actions."
            )
        if self.told != (reader.subtask_index is not None):
            raise DataError(f"{folder}: its ticks do {'not ' if self.told else ''}have subtasks.")
        found = {name: reader.features[name] for name in reader.extra}
        if {n: (f.dtype, f.shape) for n, f in found.items()} != {
            n: (f.dtype, f.shape) for n, f in self.columns.items()
        }:
            raise DataError(
                f"{folder}: its ticks have the columns {sorted(found)}, expected {sorted(self.columns)} of "
                "the same types. Use the same columns, or choose another folder."
            )
        kept = {name: (f.dtype, f.shape, f.info) for name, f in reader.features.items() if f.depth}
        if kept != {name: (f.dtype, f.shape, f.info) for name, f in self.depth.items()}:
            raise DataError(
                f"{folder}: has the depth {sorted(kept)}, expected {sorted(self.depth)} of the same size and "
                "scale, kept in the same way. Use the same columns, or choose another folder."
            )
        if any(reader.features[key].dtype != self.features[key]["dtype"] for key in self.keys.values()):
            raise DataError(f"{folder}: keeps its pictures in another way. Use the same settings.")
        self.tasks = {task: index for index, task in enumerate(reader.tasks)}
        self.subtasks = {subtask: index for index, subtask in enumerate(reader.subtasks)}
        vectors = {
            layout.STATE: reader.state,
            layout.ACTION: reader.actions,
            layout.EXECUTED: reader.executed,
        }
        for name in self._values:
            values = vectors[name] if name in vectors else reader.column(name)
            self._values[name] = [] if values is None else [values]
        self._pictures = {name: pictures(key) for name, key in self.keys.items()}

    def _numeric(self) -> tuple[str, ...]:
        vectors = (layout.STATE, layout.ACTION, *((layout.EXECUTED,) if self.executed else ()))
        return (*vectors, *(name for name, f in self.columns.items() if f.numeric is not None))

    def _vectors_of(self, episode: EncodedEpisode) -> dict[str, np.ndarray]:
        found = {layout.STATE: episode.state, layout.ACTION: episode.actions}
        return found if episode.executed is None else {**found, layout.EXECUTED: episode.executed}

    def _values_of(self, episode: EncodedEpisode) -> dict[str, np.ndarray]:
        """Every column of numbers that statistics are kept of."""
        found = {**self._vectors_of(episode), **episode.columns}
        return {name: found[name] for name in self._values}


def shaped_spread(values: np.ndarray) -> Spread:
    """`spread` of ticks of any shape; a single number a tick has figures of shape (1,)."""
    shape = values.shape[1:] or (1,)
    found = spread(values.reshape(len(values), -1))
    return {name: figure if name == "count" else figure.reshape(shape) for name, figure in found.items()}


def _indices(known: dict[str, int], words: Sequence[str]) -> np.ndarray:
    return np.array([known.setdefault(word, len(known)) for word in words])


def _kinds(pictures: Mapping[str, str]) -> str:
    """Cameras and how their pictures are kept, for messages."""
    return ", ".join(f"{kind}s of {name}" for name, kind in sorted(pictures.items())) or "no pictures"
