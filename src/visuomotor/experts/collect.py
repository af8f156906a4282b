"""Demonstrations of an expert, on all cores, into a LeRobot data set.

Seeds are handed to worker processes one by one; their episodes are written in the order of the
seeds, so the data is the same whatever the number of workers. What is executed is the expert's
action plus noise and, now and then, a push or a slip of the gripper for several ticks, and some
episodes begin with the hand going astray, so that the data shows how to recover; the label stays
what the expert would do. A demonstration that fails is dropped, counted, and its seed remembered.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data.episode import EncodedEpisode, EpisodeRecorder
from visuomotor.data.layout import SIDECAR
from visuomotor.data.tables import load_json
from visuomotor.data.video import VideoSettings
from visuomotor.data.writer import LeRobotWriter
from visuomotor.envs.base import Env
from visuomotor.errors import DataError
from visuomotor.experts.base import Expert
from visuomotor.experts.disturbance import Disturbance, Noise
from visuomotor.experts.workers import Stop, run_seeds
from visuomotor.registry import lookup
from visuomotor.types import Spec

__all__ = [
    "CollectReport",
    "Collection",
    "collect",
    "demonstrate",
    "gather",
    "inspect_collection",
    "what_decides",
    "wordings",
]

SEEDS_PER_RUN = 1_000_000
"""Seeds set apart for each value of `seed`."""
FIRST_EVALUATION_SEED = 1_000_000_000
"""Evaluation begins here; collection stays below."""
_COMMIT_SECONDS = 2.0
_COMMIT_SHARE = 0.1  # of the time, at most, goes into waiting for the disk
_GIVE_UP = 20  # failures without enough successes after which something must be wrong


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What decides the content of a collected data set; see `collect` for the meanings."""

    env: str
    task: str
    expert: str
    control: str | None = None
    env_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    seed_offset: int = 0
    phrasings: int = 4
    noise: Noise = field(default_factory=Noise)
    settings: VideoSettings = field(default_factory=VideoSettings)
    annotate: str | None = None

    @property
    def first_seed(self) -> int:
        """Seed of the first episode; the others follow one by one."""
        return self.seed_offset + self.seed * SEEDS_PER_RUN

    def build(self) -> tuple[Env, Expert]:
        """The environment and the expert, made now."""
        control = {} if self.control is None else {"control": self.control}
        return lookup("env", self.env)(task=self.task, **control, **self.env_options), lookup(
            "expert", self.expert
        )()


@dataclass(frozen=True, kw_only=True)
class CollectReport:
    """What `collect` did, earlier interrupted runs into the same folder included.

    Attributes:
        folder: The data set.
        kept: Demonstrations in it.
        dropped: Demonstrations that failed.
        reasons: Why they failed, and how many each.
        ticks: Ticks in the data set.
        seconds: Time that collecting took.
        first_seed: Seed of the first demonstration.
        last_seed: Seed of the last one, kept or dropped.
    """

    folder: str
    kept: int
    dropped: int
    reasons: Mapping[str, int]
    ticks: int
    seconds: float
    first_seed: int
    last_seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


def collect(
    folder: str | Path,
    *,
    env: str = "tabletop",
    task: str = "put_in",
    episodes: int = 500,
    seed: int = 0,
    seed_offset: int = 0,
    phrasings: int = 4,
    noise: Noise | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    expert: str | None = None,
    control: str | None = None,
    env_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: VideoSettings | None = None,
    annotate: str | None = None,
) -> CollectReport:
    """Collect demonstrations into a LeRobot v3.0 data set; an interrupted run goes on when called again.

    Args:
        folder: Where to; missing, empty, or what an interrupted run with the same arguments left.
        env: Name of the environment, or "package.module:Class".
        task: Task of every episode.
        episodes: Demonstrations to keep.
        seed: Which million of seeds the scenes come from; also decides the noise.
        seed_offset: Added to the seed of every scene, for fresh ones.
        phrasings: Wordings that an episode's ticks are labeled with, in turn at random.
        noise: How executed actions differ from the expert's.
        workers: Processes; every core that this one may use if None, none besides this one if 0.
        progress: Called with demonstrations kept so far and in all, once they are safe on disk.
        expert: Name of the expert; that of the environment if None.
        control: Control of the environment; its default if None.
        env_options: More arguments of the environment, plain values.
        options: Options of every reset, plain values.
        settings: How pictures are compressed.
        annotate: Name of what tells texts of each tick, which are kept as columns, such as "tabletop"
            (questions with answers, and boxes), or "package.module:function".

    Raises:
        DataError: `folder` holds something else, the disk is full, or the expert keeps failing.
        ValueError: Unknown environment, task or control, with the closest name.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once what was finished is saved.
    """
    job = Collection(
        env=env,
        task=task,
        expert=expert or env,
        control=control,
        env_options=dict(env_options or {}),
        options=dict(options or {}),
        seed=seed,
        seed_offset=seed_offset,
        phrasings=phrasings,
        noise=noise or Noise(),
        settings=settings or VideoSettings(),
        annotate=annotate,
    )
    _check(job, episodes)
    spec, told, columns = inspect_collection(job)
    _check_folder(Path(folder), job)
    with LeRobotWriter(
        folder,
        spec,
        executed=True,
        subtasks=told,
        columns=columns,
        meta=_meta(job),
        settings=job.settings,
        resume=True,
    ) as writer:
        return gather(job, writer, _Demonstrator, job, episodes=episodes, workers=workers, progress=progress)


def gather(
    job: Collection,
    writer: LeRobotWriter,
    factory: Callable[[Any], Callable[[int], EncodedEpisode | str]],
    argument: Any,
    *,
    episodes: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CollectReport:
    """Play seed after seed until `writer` holds so many episodes, written in the order of their seeds.

    Args:
        job: Which seed is the first; seeds that the writer has seen before are not played again.
        writer: An open data set; what it has counts.
        factory: Called with `argument` once in each process; gives the function of a seed, whose answer is
            an episode, or why there is none.
        argument: Something that can be pickled.
        episodes: How many the data set shall have.
        workers: Processes; every core that this one may use if None, none besides this one if 0.
        progress: Called with episodes so far and in all, once they are safe on disk.

    Raises:
        DataError: The disk is full, or next to nothing succeeds.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once what was finished is saved.
    """
    with Stop() as stop:
        run = _Run(job, writer, episodes, progress)
        return run.go(factory, argument, _cores() if workers is None else workers, stop)


class _Run:
    """One call of `gather`: takes outcomes in any order, writes them in the order of their seeds."""

    def __init__(
        self,
        job: Collection,
        writer: LeRobotWriter,
        episodes: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.job, self.writer, self.episodes, self.progress = job, writer, episodes, progress
        self.dropped: dict[str, str] = writer.meta.setdefault("dropped_seeds", {})
        done = {*writer.seeds, *map(int, self.dropped)}
        self.next = next(seed for seed in count(job.first_seed) if seed not in done)
        for seed in [known for known in self.dropped if int(known) > self.next]:
            del self.dropped[seed]  # told before a kill, but a demonstration before it was not written
        self.earlier: float = writer.meta.get("seconds", 0.0)
        self.waiting: list[EncodedEpisode] = []
        self.begun, self.commit_at = time.monotonic(), 0.0

    def go(
        self,
        factory: Callable[[Any], Callable[[int], EncodedEpisode | str]],
        argument: Any,
        workers: int,
        stop: Stop,
    ) -> CollectReport:
        """Collect until enough are kept or `stop` is asked for."""
        early: dict[int, EncodedEpisode | str] = {}
        if self.kept < self.episodes:
            outcomes = run_seeds(factory, argument, first=self.next, workers=workers, stop=stop)
            try:
                for number, outcome in outcomes:
                    early[number] = outcome
                    while self.next in early and self.kept < self.episodes:
                        self._take(early.pop(self.next))
                    if self.kept >= self.episodes:
                        break
                    if self.waiting and time.monotonic() > self.commit_at:
                        self._commit()
            finally:
                outcomes.close()
                self._commit()
        if self.kept < self.episodes:
            raise KeyboardInterrupt(
                f"stopped with {self.kept} of {self.episodes} demonstrations in {self.writer.folder}; "
                "run the same command again to go on."
            )
        return self._report()

    @property
    def kept(self) -> int:
        return self.writer.episodes + len(self.waiting)

    def _take(self, outcome: EncodedEpisode | str) -> None:
        """The next seed's outcome: an episode, or why there is none."""
        if isinstance(outcome, str):
            self.dropped[str(self.next)] = outcome
            if len(self.dropped) >= _GIVE_UP and len(self.dropped) > 9 * self.kept:
                reasons = dict(Counter(self.dropped.values()))
                raise DataError(
                    f"collect: the expert failed in {len(self.dropped)} of {len(self.dropped) + self.kept} "
                    f"episodes ({reasons}). Lower the noise, or choose another task or expert."
                )
        else:
            self.waiting.append(outcome)
        self.next += 1

    def _commit(self) -> None:
        """Bring what waits to disk."""
        meta = self.writer.meta
        meta["seeds"] = list(range(self.job.first_seed, self.next))
        meta["kept"], meta["dropped"] = self.kept, len(self.dropped)
        meta["seconds"] = round(self.earlier + time.monotonic() - self.begun, 3)
        waiting, self.waiting = self.waiting, []  # not tried again if it fails
        begun = time.monotonic()
        if waiting:
            self.writer.add(*waiting)
        took = time.monotonic() - begun
        self.commit_at = begun + took + max(_COMMIT_SECONDS, took / _COMMIT_SHARE)
        if self.progress is not None:
            self.progress(self.kept, self.episodes)

    def _report(self) -> CollectReport:
        meta = self.writer.meta
        return CollectReport(
            folder=str(self.writer.folder),
            kept=self.kept,
            dropped=len(self.dropped),
            reasons=dict(Counter(self.dropped.values())),
            ticks=self.writer.ticks,
            seconds=meta.get("seconds", 0.0),
            first_seed=self.job.first_seed,
            last_seed=self.next - 1,
        )


class _Demonstrator:
    """What a worker process runs: seed in, outcome out."""

    def __init__(self, job: Collection) -> None:
        self.job = job
        self.env, self.expert = job.build()

    def __call__(self, seed: int) -> EncodedEpisode | str:
        return demonstrate(self.env, self.expert, seed, self.job)


def demonstrate(env: Env, expert: Expert, seed: int, job: Collection) -> EncodedEpisode | str:
    """One demonstration, or why it failed.

    Args:
        env: The environment.
        expert: Decides every label.
        seed: Of the scene; together with `job.seed` also of noise and wordings.
        job: Noise, wordings and compression.
    """
    generator = np.random.default_rng([job.seed, seed])
    observation = env.reset(seed=seed, options=job.options or None)
    words = wordings(env, observation.instruction, job.phrasings)
    annotate = None if job.annotate is None else lookup("annotation", job.annotate)
    chance = np.random.default_rng([job.seed, seed, 1])  # of its own: annotated data are otherwise the same
    extra = {} if annotate is None else annotate(env, chance)
    recorder = EpisodeRecorder(env.spec, job.settings, dict.fromkeys(extra, "string"))
    disturbance = Disturbance(env.spec, job.noise, generator)
    low = np.array([dimension.low for dimension in env.spec.action])
    high = np.array([dimension.high for dimension in env.spec.action])
    while True:
        label = np.asarray(expert(env), np.float32)
        executed = np.clip(disturbance(label), low, high).astype(np.float32)
        said = words[int(generator.integers(len(words)))]
        recorder.tick(observation, label, executed, said, getattr(env, "subtask", None), extra)
        status = env.step(executed)
        if status.done:
            break
        observation = env.observe()
        extra = {} if annotate is None else annotate(env, chance)
    return recorder.finish(seed=seed) if status.success else (status.failure or "unknown")


def wordings(env: Env, instruction: str, count: int) -> tuple[str, ...]:
    """`count` wordings of this episode's goal; only an env with `instructions` knows more than one."""
    if count == 1:
        return (instruction,)
    words = tuple(env.instructions(count))  # type: ignore[attr-defined]  # checked by inspect_collection
    return words


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(job: Collection, episodes: int) -> None:
    """Numbers that no environment has to be built for."""
    if episodes < 1 or job.phrasings < 1 or job.seed < 0 or job.seed_offset < 0:
        raise ValueError(
            f"collect: expected episodes and phrasings >= 1, seed and seed_offset >= 0, got {episodes}, "
            f"{job.phrasings}, {job.seed}, {job.seed_offset}."
        )
    if job.first_seed + SEEDS_PER_RUN > FIRST_EVALUATION_SEED:
        raise ValueError(
            f"collect: seed {job.seed} with seed_offset {job.seed_offset} begins at {job.first_seed}; "
            f"collection must stay below {FIRST_EVALUATION_SEED}, where evaluation begins."
        )


def inspect_collection(job: Collection) -> tuple[Spec, bool, dict[str, str]]:
    """The spec of the environment, whether it tells subtasks, and columns of annotations with their type.

    Wrong names and options come to light here and not in a worker.
    """
    env, _ = job.build()
    try:
        env.reset(seed=job.first_seed, options=job.options or None)
        if job.phrasings > 1 and not hasattr(env, "instructions"):
            raise ValueError(
                f"collect: environment {job.env!r} knows one wording an episode (it has no method "
                f"`instructions`), got phrasings={job.phrasings}. Use phrasings=1."
            )
        told: dict[str, str] = {}
        if job.annotate is not None:
            texts = lookup("annotation", job.annotate)(env, np.random.default_rng(0))
            told = dict.fromkeys(texts, "string")
        return env.spec, getattr(env, "subtask", None) is not None, told
    finally:
        env.close()


def what_decides(job: Collection) -> dict[str, Any]:
    """What two runs into the same folder must agree in, as it is after a trip through JSON."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return found


def _meta(job: Collection) -> dict[str, Any]:
    return {"env": job.env, "task": job.task, "control": job.control, "collect": what_decides(job)}


def _check_folder(folder: Path, job: Collection) -> None:
    """Refuse to go on with data of other arguments; what is no data set at all the writer refuses."""
    if not (folder / SIDECAR).exists():
        return
    before, now = load_json(folder / SIDECAR).get("collect"), what_decides(job)
    if before is None:
        raise DataError(
            f"{folder}: holds a data set that was not collected by an expert. Choose another folder."
        )
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        listed = "; ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in different)
        raise DataError(
            f"{folder}: holds demonstrations collected with other arguments ({listed}). "
            "Use the same ones to go on, or choose another folder."
        )
