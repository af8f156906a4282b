"""Foreign demonstrations into a LeRobot data set, by one call that can be stopped and called again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data.convert.mapping import Flip, Part, View, arrange
from visuomotor.data.convert.mapping import Mapping as Meaning
from visuomotor.data.convert.sources import Episode, Source, open_source, unused
from visuomotor.data.episode import EncodedEpisode, EpisodeRecorder
from visuomotor.data.layout import SIDECAR
from visuomotor.data.tables import load_json
from visuomotor.data.writer import LeRobotWriter
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Camera, Observation, Spec

__all__ = ["ConvertReport", "Plan", "convert", "plan"]

_COMMIT_SECONDS = 2.0
Folder = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a conversion will do.

    Attributes:
        kind: Format that was found.
        source: The demonstrations.
        mapping: What their numbers become.
        spec: The same, of the new data set.
        unused: Keys that are left behind, with their shapes in the first episode.
    """

    kind: str
    source: Source
    mapping: Meaning
    spec: Spec
    unused: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """How a conversion went.

    Attributes:
        folder: The new data set.
        kind: Format that was found.
        episodes: Converted, over all sittings.
        ticks: Of all of them.
        resumed_from: Episodes that were there already.
        unused: Keys that were left behind, with their shapes in the first episode.
    """

    folder: Path
    kind: str
    episodes: int
    ticks: int
    resumed_from: int
    unused: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            **vars(self),
            "folder": str(self.folder),
            "unused": {k: list(v) for k, v in self.unused.items()},
        }


def plan(
    source: Folder,
    *,
    kind: str | None = None,
    mapping: Meaning | None = None,
    instruction: str | None = None,
    embodiment: str | None = None,
    rate: float | None = None,
    cameras: Mapping[str, str] | None = None,
    flip: Flip | None = None,
) -> Plan:
    """What `convert` would do with the same arguments.

    Raises:
        DataError: Unknown format or meaning, a missing key, no instruction.
    """
    kind, opened = open_source(Path(source), kind)
    found = opened.preset() if mapping is None else mapping
    if isinstance(found, str):
        raise DataError(f"{found} Say it: --mapping FILE.json (docs/data.md shows one).")
    given = {"instruction": instruction, "embodiment": embodiment, "rate": rate}
    found = replace(found, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if cameras is not None:
        known = {view.camera: view for view in found.views}
        for old in cameras.values():
            if old not in known:
                raise unknown_name("camera", old, known)
        found = replace(found, views=tuple(replace(known[old], camera=new) for new, old in cameras.items()))
    if flip is not None:
        found = replace(found, views=tuple(replace(view, flip=flip) for view in found.views))
    first = opened.open(opened.names()[0])
    if not (found.instruction or first.instruction):
        raise DataError(
            f"{first.where}: has no instruction. Give the words of the task: --instruction 'pick up ...'"
        )
    spec = Spec(
        embodiment=found.embodiment,
        cameras=tuple(_camera(first, view) for view in found.views),
        state=tuple(dimension for part in found.state for dimension in part.dimensions),
        action=tuple(dimension for part in found.action for dimension in part.dimensions),
        rate=found.rate,
    )
    return Plan(kind=kind, source=opened, mapping=found, spec=spec, unused=unused(first, found))


def convert(
    source: Folder, out: Folder, *, progress: Callable[[int, int], None] | None = None, **options: Any
) -> ConvertReport:
    """Convert demonstrations into a LeRobot v3.0 data set.

    Every episode that progress has counted is on disk for good. The same call goes on with a conversion
    that was stopped, in whatever way, and ends with the same bytes.

    Args:
        source: A file or a folder of one of the formats in `sources.FORMATS`.
        out: Folder of the new data set.
        progress: Called with episodes done and in all.
        **options: Those of `plan`:
            kind: Format, if it is not to be found out.
            mapping: What the numbers mean, instead of the preset of the format.
            instruction: The words of every episode, for files that have none.
            embodiment: Name of the body.
            rate: Ticks a second.
            cameras: New name to name in the preset, of those that are wanted, in order.
            flip: What makes pictures upright.

    Raises:
        DataError: A file is damaged, lacks a key, or has a wrong shape, differing lengths or NaN; or
            `out` holds something else.
    """
    work, out = plan(source, **options), Path(out)
    identity = {
        "format": work.kind,
        "mapping": work.mapping.to_json(),
        "files": [[path.name, path.stat().st_size] for path in work.source.files],
    }
    if (out / SIDECAR).exists() and load_json(out / SIDECAR).get("source") != identity:
        raise DataError(
            f"{out}: holds something else, or the conversion of other files or with other options. Choose "
            "another folder, or empty this one."
        )
    names = work.source.names()
    with LeRobotWriter(out, work.spec, meta={"source": identity}, resume=True) as writer:
        before = writer.episodes
        pending: list[EncodedEpisode] = []
        committed = time.monotonic()
        for number, name in enumerate(names[before:], start=before + 1):
            pending.append(_encode(work.source.open(name), work.mapping, work.spec))
            # several at once, as each commit rewrites the open file
            if number == len(names) or time.monotonic() - committed > _COMMIT_SECONDS:
                writer.add(*pending)
                pending, committed = [], time.monotonic()
                if progress is not None:
                    progress(number, len(names))
    return ConvertReport(
        folder=out,
        kind=work.kind,
        episodes=writer.episodes,
        ticks=writer.ticks,
        resumed_from=before,
        unused=work.unused,
    )


def _camera(episode: Episode, view: View) -> Camera:
    """Size of a camera, from its first picture."""
    for picture in episode.pictures(view.key):
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(
                f"{episode.where}, key {view.key!r}: expected pictures (height, width, 3), "
                f"got {picture.shape}."
            )
        return Camera(name=view.camera, height=picture.shape[0], width=picture.shape[1])
    raise DataError(f"{episode.where}, key {view.key!r}: expected pictures, found none.")


def _encode(episode: Episode, mapping: Meaning, spec: Spec) -> EncodedEpisode:
    """One episode, checked and compressed."""
    ticks = len(_vector(episode, mapping.action[0]))
    state, actions = (
        np.concatenate([_vector(episode, part, ticks) for part in parts], axis=1)
        for parts in (mapping.state, mapping.action)
    )
    words = mapping.instruction or episode.instruction
    if not words:
        raise DataError(
            f"{episode.where}: has no instruction. Give the words of the task: --instruction '...'"
        )
    recorder = EpisodeRecorder(spec)
    views = [_upright(episode, view, spec.camera(view.camera), len(actions)) for view in mapping.views]
    for tick, pictures in enumerate(zip(*views, strict=True) if views else [()] * len(actions)):
        images = {view.camera: picture[None] for view, picture in zip(mapping.views, pictures)}
        observation = Observation(
            images=images, state=state[tick][None], instruction=words, embodiment=spec.embodiment
        )
        recorder.tick(observation, actions[tick])
    return recorder.finish()


def _vector(episode: Episode, part: Part, ticks: int | None = None) -> np.ndarray:
    """The numbers of a part, checked."""
    values = episode.read(part.key)
    where = f"{episode.where}, key {part.key!r}"
    wanted = max(part.columns) + 1 if part.columns else part.width
    good = values.ndim == 2 and len(values) and np.issubdtype(values.dtype, np.number)
    if not good or (values.shape[1] < wanted if part.columns else values.shape[1] != wanted):
        raise DataError(f"{where}: expected numbers (tick, {wanted}), got {values.dtype} {values.shape}.")
    if ticks is not None:
        _same_length(episode, part.key, len(values), ticks)
    if not np.isfinite(values).all():
        tick = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DataError(
            f"{where}: tick {tick} is not finite: {values[tick].tolist()}. Leave this episode out."
        )
    return arrange(values, part)


def _same_length(episode: Episode, key: str, found: int, expected: int) -> None:
    if found != expected:
        raise DataError(
            f"{episode.where}, key {key!r}: expected {expected} ticks, as actions has, got {found}."
        )


def _upright(episode: Episode, view: View, camera: Camera, ticks: int) -> Any:
    """Pictures of a camera as they should be, each checked."""
    shape = episode.keys().get(view.key, (0,))
    _same_length(episode, view.key, shape[0], ticks)
    where = f"{episode.where}, key {view.key!r}"
    for picture in episode.pictures(view.key):
        if picture.dtype != np.uint8 or picture.shape != (camera.height, camera.width, 3):
            raise DataError(
                f"{where}: expected uint8 pictures of {(camera.height, camera.width, 3)}, "
                f"got {picture.dtype} {picture.shape}."
            )
        if view.channels == "bgr":
            picture = picture[..., ::-1]
        if view.flip != "none":
            picture = picture[::-1] if view.flip == "vertical" else picture[::-1, ::-1]
        yield np.ascontiguousarray(picture)
