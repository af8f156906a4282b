"""From folders of demonstrations to a trained checkpoint: what `visuomotor train` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from visuomotor.agent.folder import open_sentences, read_config, save_agent
from visuomotor.data.frames import Frames, VideoFrames
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.loader import Loader, Samples
from visuomotor.data.questions import Questions
from visuomotor.data.store import FrameStore, cache_folder
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError, unknown_name
from visuomotor.policies.base import Policy
from visuomotor.registry import lookup
from visuomotor.text.sentences import SentenceCache
from visuomotor.training.begin import Beginning, begin_from
from visuomotor.training.checkpoint import refuse_foreign
from visuomotor.training.config import TrainConfig
from visuomotor.training.fitting import normalized_chunks, policy_stats
from visuomotor.training.group import Parallel, open_group
from visuomotor.training.loop import Progress, TrainReport, train
from visuomotor.training.selection import choose_trained
from visuomotor.types import Batch, Spec, Stats

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
    asked: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What weights of it are called."""
        return (self.key, f"{self.key}/questions") if self.asked else (self.key,)

    def samples(self, policy: Policy, episodes: Sequence[int]) -> list[Samples]:
        """Samples of some episodes, as the policy's window wants them, and the questions in them."""
        windows = Windows(self.reader, self.store, policy.window, self.key, episodes)
        return [windows, *([self.questions(policy, episodes)] if self.asked else [])]

    def questions(self, policy: Policy, episodes: Sequence[int] | None = None) -> Questions:
        """The questions in some episodes; in all of them if None."""
        return Questions(self.reader, self.store, policy.window, self.key, episodes)

    def texts(self, policy: Policy) -> tuple[str, ...]:
        """Everything in them that the policy is to write."""
        told = self.reader.subtasks if policy.learns_subtasks else ()
        return (*told, *(self.questions(policy).answers if self.asked else ()))

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

    def origins(self, policy: Policy) -> dict[str, dict[str, Any]]:
        """`origin` of the data, and of the questions among them, by name."""
        found = {self.key: self.origin()}
        if self.asked:
            questions = {"questions": len(self.questions(policy))}
            told = {name: found[self.key][name] for name in ("folder", "hash", "episodes", "seeds")}
            found[self.names[1]] = {**told, **questions}
        return found


def build_policy(name: str, config: Any | None, bodies: Mapping[str, Spec], *, seed: int) -> Policy:
    """A new policy whose first weights are drawn from `seed`, but for published ones that its config names.

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
    policy.load_pretrained()
    return policy


def train_from_folder(
    data: Folder | Sequence[Folder] | Mapping[str, Folder],
    *,
    out: Folder,
    policy: str = "compact",
    policy_config: Any | None = None,
    config: TrainConfig | None = None,
    specs: Mapping[str, Spec] | None = None,
    keys: Mapping[str, Mapping[str, str]] | None = None,
    questions: Sequence[str] = (),
    text_path: Folder | None = None,
    cache: Folder | None = None,
    device: str | torch.device = "cpu",
    frames: FramesFrom = "store",
    workers: int = 0,
    parallel: Parallel | None = None,
    shard: Sequence[str] = (),
    begin: Folder | None = None,
    fresh: Sequence[str] = (),
    begun: Callable[[Beginning], None] | None = None,
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
        keys: Key to the features of state, action and cameras that have other names than LeRobot's, as
            `LeRobotReader` takes them.
        questions: Keys of data sets whose questions are mixed in (see `visuomotor.data.questions`), for
            policies that learn answers. They are a data set of their own, "KEY/questions" in
            `config.weights`.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
        cache: Folder for decoded pictures and encoded sentences; the user's cache folder if None.
        device: Where to compute.
        frames: Where pictures come from: decoded once into a "store", as JPEG where the disk is short
            ("raw" and "jpeg" insist); or from the "videos" each time, which needs no disk.
        workers: Processes that prepare batches. With a store one thread is as fast, and is what 0 means.
        parallel: How the processes that torchrun started share the work; see `open_group`.
        shard: Likewise, with "fsdp".
        begin: A checkpoint of the same family, whose averaged weights are the first ones; drawn if None.
        fresh: Name patterns of weights that begin anew all the same (see `begin_from`).
        begun: Called with what was taken from `begin`.
        progress: Called after every step.
        preparing: Called while pictures are decoded and sentences are encoded.
        resume: Whether a run that is there already may be resumed; if not, it is refused.

    Raises:
        DataError: A data set is damaged or foreign, or has no questions.
        ValueError: Weights, specs, keys or questions of a data set that is not there, or questions for a
            policy that has no loss for answers; found before a picture is decoded.
        CheckpointError: `out` holds something else, or a run with other settings or data.
        TrainInterrupted: Ctrl-C or SIGTERM; the state is saved, and the same call goes on.
    """
    config = config or TrainConfig()
    if frames not in get_args(FramesFrom):
        raise unknown_name("source of pictures", frames, get_args(FramesFrom))
    refuse_foreign(Path(out))  # this and what follows comes before pictures are decoded for minutes
    films = _open(data, specs, keys, questions)
    _refuse_unknown(config.weights or {}, [name for film in films for name in film.names])
    model = _build(
        policy, policy_config, films, config.seed, text_path, hold_out=config.hold_out, begin=begin
    )
    _check_samples(model, films, config.hold_out)
    sentences = open_sentences(model, text_path)
    origin = _begin(model, begin, fresh, sentences, begun)
    choose_trained(model, config)
    with ExitStack() as stack:
        group = stack.enter_context(open_group(device, parallel, shard))
        with group.in_turn():  # the first decodes, the others find it done
            if sentences is not None:
                _warm(model, sentences, films, cache, preparing)
            sources = [_decode(film, cache, frames, preparing) for film in films]
        stats = {source.key: policy_stats(model, source.key, source.reader) for source in sources}
        load = partial(_load, model, sources, stats, sentences, config)
        how = {"diet": model.diet, "prefetch": _AHEAD, "workers": workers, "stride": group.ranks}
        loader = stack.enter_context(load("train", **how))
        validation: list[Batch] = []
        if config.hold_out:
            held = load("validation")
            count = max(1, min(_VALIDATION_BATCHES, len(held) // held.batch_size))
            validation = [held.batch(number) for number in range(count)]
        return train(
            model,
            loader,
            config=config,
            folder=out,
            stats=stats,
            data={name: told for source in sources for name, told in source.origins(model).items()},
            sentences=sentences,
            instruction=next(iter(sources[0].reader.tasks)),
            origin=origin,
            validation=validation,
            progress=progress,
            group=group,
            resume=resume,
        )


def _load(
    policy: Policy,
    sources: Sequence[_Source],
    stats: Mapping[str, Stats],
    sentences: SentenceCache | None,
    config: TrainConfig,
    part: str,
    **how: Any,
) -> Loader:
    """Batches of one part of every data set, each as large as what is computed at once."""
    every = [source.samples(policy, _split(source, config.hold_out)[part]) for source in sources]
    samples = [one for some in every for one in some if len(one)]
    return Loader(
        samples,
        {s.key: policy.transforms(s.key, stats[s.key], sentences) for s in sources},
        batch_size=config.batch_size // config.accumulate,
        seed=config.seed,
        embodiments=policy.embodiments,
        weights={s.name: (config.weights or {}).get(s.name, 1.0) for s in samples},
        **how,
    )


def _begin(
    policy: Policy,
    begin: Folder | None,
    fresh: Sequence[str],
    sentences: SentenceCache | None,
    begun: Callable[[Beginning], None] | None,
) -> Mapping[str, Any] | None:
    """Give `policy` its first weights; what provenance says of them, if they come from a checkpoint."""
    if begin is None:
        if fresh:
            raise ValueError("training: all weights begin anew; fresh is for training from a checkpoint.")
        return None
    encoder = None if sentences is None else sentences.hash
    beginning = begin_from(policy, begin, fresh=fresh, encoder_hash=encoder)
    if begun is not None:
        begun(beginning)
    return beginning.origin


def save_untrained(
    data: Folder | Sequence[Folder] | Mapping[str, Folder],
    *,
    out: Folder,
    policy: str = "compact",
    policy_config: Any | None = None,
    seed: int = 0,
    specs: Mapping[str, Spec] | None = None,
    keys: Mapping[str, Mapping[str, str]] | None = None,
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
        keys: Key to the features that have other names than LeRobot's.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
    """
    sources = _open(data, specs, keys)
    model = _build(policy, policy_config, sources, seed, text_path)
    return save_agent(
        out,
        model,
        {source.key: policy_stats(model, source.key, source.reader) for source in sources},
        data={source.key: source.origin() for source in sources},
        sentences=open_sentences(model, text_path),
        instruction=next(iter(sources[0].reader.tasks)),
    )


def _build(
    name: str,
    config: Any | None,
    sources: Sequence[_Source],
    seed: int,
    text_path: Folder | None,
    *,
    hold_out: int = 0,
    begin: Folder | None = None,
) -> Policy:
    """A new policy for some data, whatever it fits to them fitted.

    A run that begins from a checkpoint takes what that was fitted to: something else would make its weights
    meaningless.
    """
    bodies = {source.key: source.reader.spec for source in sources}
    model = build_policy(name, config, bodies, seed=seed)
    if not model.unfitted:
        return model
    if begin is not None:
        kind, known = read_config(begin)
        if kind is not type(model):
            raise ValueError(
                f"training: {begin} is a {kind.__name__}, this run trains a {type(model).__name__}. Name the "
                "family of the checkpoint."
            )
        model = build_policy(name, model.fitted_as(known), bodies, seed=seed)
        if model.unfitted:
            raise ValueError(
                f"training: {type(model).__name__} fits something to its data that {begin} has not, and its "
                "weights would mean something else. Pass the config of that checkpoint."
            )
        return model
    windows = {
        s.key: Windows(s.reader, s.store, model.window, s.key, _split(s, hold_out)["train"]) for s in sources
    }
    stats = {source.key: policy_stats(model, source.key, source.reader) for source in sources}
    chunks = normalized_chunks(model, windows, stats, open_sentences(model, text_path))
    texts = {text for source in sources for text in source.texts(model)}
    return build_policy(name, model.fitted(chunks, texts), bodies, seed=seed)


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


def _refuse_unknown(keys: Iterable[str], known: Collection[str]) -> None:
    for key in keys:
        if key not in known:
            raise unknown_name("data-set key", key, known)


def _open(
    data: Folder | Sequence[Folder] | Mapping[str, Folder],
    specs: Mapping[str, Spec] | None,
    keys: Mapping[str, Mapping[str, str]] | None,
    questions: Sequence[str] = (),
) -> list[_Source]:
    """The data sets with their tables read, and no picture decoded."""
    named, sources = _named(data), []
    _refuse_unknown([*(specs or {}), *(keys or {}), *questions], named)
    for key, folder in named.items():
        reader = LeRobotReader(folder, (specs or {}).get(key), keys=(keys or {}).get(key))
        if not reader.episodes:
            raise DataError(f"{folder}: the data set has no episode. Collect some first.")
        sources.append(_Source(key=key, reader=reader, store=VideoFrames(reader), asked=key in questions))
    return sources


def _check_samples(policy: Policy, sources: Sequence[_Source], hold_out: int) -> None:
    """Each data set has what is wanted of it."""
    if policy.learns_subtasks and all(source.reader.subtask_index is None for source in sources):
        raise DataError(
            f"{sources[0].reader.folder}: its ticks have no subtasks, which this policy learns to write. "
            "Record with subtasks=True, or train without policy.subtasks."
        )
    for source in sources:
        train = _split(source, hold_out)["train"]
        if not source.asked:
            continue
        if not policy.learns_answers:
            raise ValueError(
                f"training: questions of {source.key!r} are asked for, but {type(policy).__name__} has no "
                "loss for answers. Leave questions out, or train a policy whose "
                "`learns_answers` is true."
            )
        if not len(source.questions(policy, train)):
            raise DataError(
                f"{source.reader.folder}: none of its {len(train)} episodes for training asks a question. "
                "Collect with `--annotate tabletop`, or leave questions out."
            )


def _decode(
    source: _Source, cache: Folder | None, frames: FramesFrom, preparing: Preparing | None
) -> _Source:
    """The source with its pictures decoded, unless the cache has them, or they come from the videos."""
    if frames == "videos":
        return source
    place = None if cache is None else Path(cache) / "frames"

    def tell(done: int, total: int) -> None:
        if preparing is not None:
            preparing(f"decoding pictures of {source.key}", done, total)

    storage = "auto" if frames == "store" else frames
    return replace(source, store=FrameStore.of(source.reader, place, tell, storage=storage))


def _split(source: _Source, hold_out: int) -> dict[str, range]:
    """Numbers of the episodes for training and for validation, the last `hold_out`."""
    count = len(source.reader.episodes)
    if hold_out >= count:
        raise ValueError(
            f"training: expected hold_out below the {count} episodes of {source.key!r}, got {hold_out}."
        )
    return {"train": range(count - hold_out), "validation": range(count - hold_out, count)}


def _warm(
    policy: Policy,
    sentences: SentenceCache,
    sources: Sequence[_Source],
    cache: Folder | None,
    preparing: Preparing | None,
) -> None:
    """Encode every sentence of the data once; they are kept beside the decoded pictures."""
    place = (Path(cache) if cache is not None else cache_folder().parent) / "sentences"
    for source in sources:
        asked = source.questions(policy).sentences if source.asked else ()
        name = f"{sentences.hash[:16]}-{source.reader.hash[:16]}{'-asked' if asked else ''}"
        file = place / f"{name}.safetensors"
        if file.is_file():
            sentences.load(file)
        words = [*source.reader.tasks, *asked]
        for start in range(0, len(words), 64):
            if preparing is not None:
                preparing(f"encoding sentences of {source.key}", start, len(words))
            sentences.warm(words[start : start + 64])
        if not file.is_file():
            place.mkdir(parents=True, exist_ok=True)
            sentences.save(file)
