"""From folders of demonstrations to a trained checkpoint: what `visuomotor train` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from visuomotor.agent.disk import locate
from visuomotor.agent.folder import open_sentences, save_agent
from visuomotor.agent.weights import put_weights, read_tensors
from visuomotor.data.frames import Frames, VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader
from visuomotor.data.store import FrameStore, cache_folder
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError, unknown_name
from visuomotor.policies.base import Policy
from visuomotor.registry import lookup
from visuomotor.text.sentences import SentenceCache
from visuomotor.training.checkpoint import refuse_foreign
from visuomotor.training.loop import Progress, TrainConfig, TrainReport, train
from visuomotor.types import Batch, Diet, Spec

__all__ = ["build_policy", "save_untrained", "train_from_folder"]

Folder = str | os.PathLike[str]
Preparing = Callable[[str, int, int], None]
"""Called with what is being prepared, how much of it is done, and how much there is."""
FramesFrom = Literal["store", "raw", "jpeg", "videos"]
_VALIDATION_BATCHES = 8
_AHEAD = 2
"""Batches that are prepared while the network computes."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One opened data set."""

    key: str
    reader: LeRobotReader
    store: Frames

    def windows(self, policy: Policy, episodes: Sequence[int]) -> Windows:
        """Samples of some episodes, as the policy's window wants them."""
        return Windows(self.reader, self.store, policy.window, self.key, episodes)

    def origin(self) -> dict[str, Any]:
        """What a checkpoint says about these data."""
        reader = self.reader
        told = {name: value for name, value in reader.meta.items() if name not in ("format", "spec")}
        return {
            **told,
            "folder": str(reader.folder.resolve()),
            "hash": reader.hash,
            "episodes": len(reader.episodes),
            "ticks": len(reader),
            "seeds": sorted(reader.seeds),
        }


def build_policy(name: str, config: Any | None, bodies: Mapping[str, Spec], *, seed: int) -> Policy:
    """A new policy whose first weights are drawn from `seed`.

    Args:
        name: Of the family, or "package.module:Class".
        config: Its config; the default one if None.
        bodies: Data-set key to body.
        seed: Torch's own random state is the same after the call as before.
    """
    kind = lookup("policy", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy: Policy = kind(kind.Config() if config is None else config, bodies)
    return policy


def train_from_folder(
    data: Folder | Sequence[Folder] | Mapping[str, Folder],
    *,
    out: Folder,
    policy: str = "compact",
    policy_config: Any | None = None,
    config: TrainConfig | None = None,
    specs: Mapping[str, Spec] | None = None,
    text_path: Folder | None = None,
    cache: Folder | None = None,
    device: str | torch.device = "cpu",
    frames: FramesFrom = "store",
    workers: int = 0,
    begin: Folder | None = None,
    progress: Callable[[Progress], None] | None = None,
    preparing: Preparing | None = None,
    resume: bool = True,
) -> TrainReport:
    """Train a policy on one or several LeRobot data sets.

    Args:
        data: Folders of data sets. The key of a data set in the checkpoint is the name of its folder,
            or what the mapping calls it.
        out: Folder of the run: new, empty, or the same run, which is resumed.
        policy: Name of the family, or "package.module:Class".
        policy_config: Its config; the default one if None.
        config: How to train.
        specs: Key to spec, for data sets that do not bring one.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
        cache: Folder for decoded pictures and encoded sentences; the user's cache folder if None.
        device: Where to compute.
        frames: Where pictures come from: decoded once into a "store", as JPEG where the disk is short
            ("raw" and "jpeg" insist); or from the "videos" each time, which needs no disk.
        workers: Processes that prepare batches. With a store one thread is as fast, and is what 0 means.
        begin: A checkpoint of the same policy, whose averaged weights are the first ones; drawn if None.
        progress: Called after every step.
        preparing: Called while pictures are decoded and sentences are encoded.
        resume: Whether a run that is there already may be resumed; if not, it is refused.

    Raises:
        DataError: A data set is damaged or foreign.
        CheckpointError: `out` holds something else, or a run with other settings or data.
        TrainInterrupted: Ctrl-C or SIGTERM; the state is saved, and the same call goes on.
    """
    config = config or TrainConfig()
    if frames not in get_args(FramesFrom):
        raise unknown_name("source of pictures", frames, get_args(FramesFrom))
    refuse_foreign(Path(out))  # before pictures are decoded for minutes
    sources = [
        _open(key, folder, (specs or {}).get(key), cache, frames, preparing)
        for key, folder in _named(data).items()
    ]
    model = build_policy(policy, policy_config, {s.key: s.reader.spec for s in sources}, seed=config.seed)
    if begin is not None:
        weights = locate(begin) / "ema.safetensors"
        put_weights(model, read_tensors(weights), str(weights))
    sentences = open_sentences(model, text_path)
    if sentences is not None:
        _warm(sentences, sources, cache, preparing)
    stats = {source.key: source.reader.stats for source in sources}
    pipelines = {key: model.transforms(key, stats[key], sentences) for key in stats}

    def load(part: str, batch_size: int, ahead: int, diet: Diet | None = None, workers: int = 0) -> Loader:
        windows = [source.windows(model, _split(source, config.hold_out)[part]) for source in sources]
        return Loader(
            windows,
            pipelines,
            batch_size=batch_size,
            seed=config.seed,
            embodiments=model.embodiments,
            diet=diet,
            weights=config.weights,
            prefetch=ahead,
            workers=workers,
        )

    with ExitStack() as stack:
        part_size = config.batch_size // config.accumulate
        loader = stack.enter_context(load("train", part_size, _AHEAD, model.diet, workers))
        validation: list[Batch] = []
        if config.hold_out:
            held = load("validation", part_size, 0)
            count = max(1, min(_VALIDATION_BATCHES, len(held) // held.batch_size))
            validation = [held.batch(number) for number in range(count)]
        return train(
            model,
            loader,
            config=config,
            folder=out,
            stats=stats,
            data={source.key: source.origin() for source in sources},
            sentences=sentences,
            instruction=next(iter(sources[0].reader.tasks)),
            validation=validation,
            progress=progress,
            device=device,
            resume=resume,
        )


def save_untrained(
    data: Folder | Sequence[Folder] | Mapping[str, Folder],
    *,
    out: Folder,
    policy: str = "compact",
    policy_config: Any | None = None,
    seed: int = 0,
    specs: Mapping[str, Spec] | None = None,
    text_path: Folder | None = None,
) -> Path:
    """The checkpoint of a policy that has learned nothing: the weights that training with `seed` begins with.

    Args:
        data: As for `train_from_folder`; bodies and statistics come from it, and no picture is decoded.
        out: Folder of the checkpoint; does not exist, is empty, or is a checkpoint, which is replaced.
        policy: Name of the family, or "package.module:Class".
        policy_config: Its config; the default one if None.
        seed: `TrainConfig.seed`.
        specs: Key to spec, for data sets that do not bring one.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
    """
    sources = [
        _open(key, folder, (specs or {}).get(key), None, "videos", None)
        for key, folder in _named(data).items()
    ]
    model = build_policy(policy, policy_config, {s.key: s.reader.spec for s in sources}, seed=seed)
    return save_agent(
        out,
        model,
        {source.key: source.reader.stats for source in sources},
        data={source.key: source.origin() for source in sources},
        sentences=open_sentences(model, text_path),
        instruction=next(iter(sources[0].reader.tasks)),
    )


def _named(data: Folder | Sequence[Folder] | Mapping[str, Folder]) -> dict[str, Path]:
    """Data-set key to folder."""
    if isinstance(data, Mapping):
        named = {key: Path(folder) for key, folder in data.items()}
    else:
        folders = [Path(folder) for folder in ([data] if isinstance(data, (str, os.PathLike)) else data)]
        named = {folder.resolve().name: folder for folder in folders}
        if len(named) < len(folders):
            raise ValueError(
                f"training: two data sets have the same name, got {[str(folder) for folder in folders]}. "
                "Pass a mapping from names of your choice to folders."
            )
    if not named:
        raise ValueError("training: expected at least one data set, got none.")
    return named


def _open(
    key: str,
    folder: Path,
    spec: Spec | None,
    cache: Folder | None,
    source: FramesFrom,
    preparing: Preparing | None,
) -> _Source:
    """Read a data set, and decode its pictures unless the cache has them, or they come from the videos."""
    reader = LeRobotReader(folder, spec)
    if not reader.episodes:
        raise DataError(f"{folder}: the data set has no episode. Collect some first.")

    if source == "videos":
        return _Source(key=key, reader=reader, store=VideoFrames(reader))
    frames = None if cache is None else Path(cache) / "frames"
    storage = "auto" if source == "store" else source

    def tell(done: int, total: int) -> None:
        if preparing is not None:
            preparing(f"decoding pictures of {key}", done, total)

    return _Source(key=key, reader=reader, store=FrameStore.of(reader, frames, tell, storage=storage))


def _split(source: _Source, hold_out: int) -> dict[str, range]:
    """Numbers of the episodes for training and for validation, the last `hold_out`."""
    count = len(source.reader.episodes)
    if hold_out >= count:
        raise ValueError(
            f"training: expected hold_out below the {count} episodes of {source.key!r}, got {hold_out}."
        )
    return {"train": range(count - hold_out), "validation": range(count - hold_out, count)}


def _warm(
    sentences: SentenceCache, sources: Sequence[_Source], cache: Folder | None, preparing: Preparing | None
) -> None:
    """Encode every sentence of the data once; they are kept beside the decoded pictures."""
    place = (Path(cache) if cache is not None else cache_folder().parent) / "sentences"
    for source in sources:
        file = place / f"{sentences.hash[:16]}-{source.reader.hash[:16]}.safetensors"
        if file.is_file():
            sentences.load(file)
        words = list(source.reader.tasks)
        for start in range(0, len(words), 64):
            if preparing is not None:
                preparing(f"encoding sentences of {source.key}", start, len(words))
            sentences.warm(words[start : start + 64])
        if not file.is_file():
            place.mkdir(parents=True, exist_ok=True)
            sentences.save(file)
