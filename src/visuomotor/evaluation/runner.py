"""Evaluate an agent: seeded episodes in parallel, probes and videos.

Every episode is a function of its seed, so the result does not depend on the number of workers, and an
interrupted evaluation goes on where it was when its output folder is given again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visuomotor.evaluation.journal import Journal
from visuomotor.evaluation.latency import InferenceTime, measure_latency
from visuomotor.evaluation.origin import Origin, read_origin
from visuomotor.evaluation.pool import Pool, available_cores
from visuomotor.evaluation.probes import (
    DEFAULT_PROBES,
    MAIN,
    Case,
    Trial,
    check_probe,
    count_failures,
    play,
    summarize,
)
from visuomotor.evaluation.setup import Setup, Station, is_folder
from visuomotor.evaluation.statistics import Proportion, proportion
from visuomotor.evaluation.videos import Filming, Video, choose, outcome

__all__ = ["FIRST_SEED", "Evaluation", "Progress", "evaluate", "seeds_of"]

FIRST_SEED = 1_000_000_000
"""Where the seeds of evaluations begin; those of collections lie below."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        stage: "episodes" (probes included), "timing" or "videos".
        done: Parts of this stage that are done.
        total: Parts of this stage.
        played: Episodes of the main part so far.
        successes: How many of them succeeded.
    """

    stage: Literal["episodes", "timing", "videos"]
    done: int
    total: int
    played: int
    successes: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        setup: Who played where.
        options: Reset options of the main episodes.
        seed_offset: First seed minus `FIRST_SEED`.
        trials: Every episode: the main part in the order of seeds, then each probe.
        inference: Time of one policy step.
        horizon: Actions in a chunk.
        origin: What the checkpoint says about its training; None for an agent without one.
        videos: Files in `folder`.
        folder: Output folder, if any.
        seconds: Wall time.
        workers: Processes used.
    """

    setup: Setup
    options: Mapping[str, Any]
    seed_offset: int
    trials: tuple[Trial, ...]
    inference: InferenceTime
    horizon: int
    origin: Origin | None = None
    videos: tuple[Video, ...] = ()
    folder: Path | None = None
    seconds: float = 0.0
    workers: int = 0

    def part(self, name: str) -> tuple[Trial, ...]:
        """The trials of "main" or of a probe."""
        return tuple(trial for trial in self.trials if trial.part == name)

    @property
    def success(self) -> Proportion:
        """Success rate of the main part."""
        main = self.part(MAIN)
        return proportion(sum(trial.episode.success for trial in main), len(main))

    @property
    def failures(self) -> dict[str, int]:
        """Reason to count in the main part, most frequent first."""
        return count_failures([trial.episode for trial in self.part(MAIN)])

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        """Result of each probe (see `probes.summarize`)."""
        names = dict.fromkeys(trial.part for trial in self.trials if trial.part != MAIN)
        return {name: summarize(name, self.part(name), self.part(MAIN)) for name in names}


def seeds_of(episodes: int, seed_offset: int = 0) -> list[int]:
    """The seeds that an evaluation plays."""
    if episodes < 1 or seed_offset < 0:
        raise ValueError(f"expected episodes >= 1 and seed_offset >= 0, got {episodes} and {seed_offset}.")
    return list(range(FIRST_SEED + seed_offset, FIRST_SEED + seed_offset + episodes))


def evaluate(
    agent: str | os.PathLike[str],
    *,
    env: str | None = None,
    env_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    episodes: int = 100,
    probes: Sequence[str] = DEFAULT_PROBES,
    probe_episodes: int = 50,
    seed_offset: int = 0,
    executor: str = "receding_horizon",
    execute: int | None = None,
    latency: float = 0.0,
    weights: Literal["ema", "model"] = "ema",
    key: str | None = None,
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    videos: int = 2,
    films: int = 0,
    timed: int = 200,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Play seeded episodes and probes, time the policy, film what is worth seeing.

    Args:
        agent: A checkpoint folder, "expert", "random", or "package.module:factory" (see `Setup.agent`).
        env: Name of the environment; what the checkpoint was trained for if None, else "tabletop".
        env_options: Arguments of its constructor, over those that the checkpoint was trained with.
        options: Reset options of the main episodes, such as {"split": "pairs"}.
        episodes: Main episodes.
        probes: Names from `PROBES`; each plays the first `probe_episodes` scenes again.
        probe_episodes: Episodes of each probe.
        seed_offset: Seeds are `FIRST_SEED + seed_offset` and the following ones. Choose it after training.
        executor: Registered name of an executor.
        execute: Actions run before re-planning; None for the executor's default.
        latency: Simulated inference delay in seconds.
        weights: Of a checkpoint: the moving average or the weights as trained.
        key: Of a checkpoint that was trained on several data sets: which one's body and world it is for.
        workers: Processes; one for each core if None, 0 for this process.
        out: Folder for finished episodes and videos; given again, finished episodes are not played again.
        videos: Films of each outcome of the main part; needs `out`.
        films: First main episodes that are filmed however they end; needs `out`.
        timed: Calls of the policy that are timed.
        progress: Called after each step.

    Raises:
        ValueError: A wrong name or number, or seeds that the agent was trained on.
        DataError: `out` holds something else.
        VisuomotorError: A worker died.
    """
    began = time.perf_counter()
    if key is not None and not is_folder(os.fspath(agent)):
        raise ValueError(f"evaluate: key {key!r} is for checkpoints, got agent {os.fspath(agent)!r}.")
    origin = read_origin(agent, key) if is_folder(os.fspath(agent)) else None
    setup = _setup(agent, origin, env, env_options, executor, execute, latency, weights, key)
    for name in probes:
        check_probe(name)
    seeds = seeds_of(episodes, seed_offset)
    _refuse_known(seeds + seeds_of(probe_episodes, seed_offset), origin)
    cases = _cases(seeds, list(probes), probe_episodes, options or {}, seed_offset)
    journal = Journal.open(out, setup, origin, cases)
    count = available_cores() if workers is None else workers
    with Pool(setup.build, min(count, len(cases))) as pool:
        trials = _play(pool, cases, journal, progress)
        inference, horizon = _time(pool, cases[0], timed, trials, progress)
        chosen = choose(trials, videos, films) if out is not None and videos + films else []
        filmed = _film(pool, cases, trials, chosen, Path(out or ""), progress)
    return Evaluation(
        setup=setup,
        options=dict(options or {}),
        seed_offset=seed_offset,
        trials=tuple(trials),
        inference=inference,
        horizon=horizon,
        origin=origin,
        videos=tuple(filmed),
        folder=None if out is None else Path(out),
        seconds=time.perf_counter() - began,
        workers=count,
    )


def _setup(
    agent: str | os.PathLike[str],
    origin: Origin | None,
    env: str | None,
    env_options: Mapping[str, Any] | None,
    executor: str,
    execute: int | None,
    latency: float,
    weights: Literal["ema", "model"],
    key: str | None,
) -> Setup:
    """Who plays where: what the checkpoint was trained for, unless the caller says otherwise."""
    trained = origin.env if origin is not None else None
    options = dict(origin.env_options) if origin is not None and env in (None, trained) else {}
    return Setup(
        agent=os.fspath(agent),
        env=env or trained or "tabletop",
        env_options={**options, **(env_options or {})},
        executor=executor,
        execute=execute,
        latency=latency,
        weights=weights,
        key=key,
    )


def _refuse_known(seeds: Sequence[int], origin: Origin | None) -> None:
    """Raise `ValueError` if the agent was trained on one of the seeds."""
    known = sorted(set(seeds) & origin.seeds) if origin is not None else []
    if origin is not None and known:
        raise ValueError(
            f"{len(known)} of the {len(set(seeds))} evaluation seeds, beginning with {known[0]}, belong to "
            "episodes that this policy was trained on. Choose fresh ones with seed_offset (--seed-offset), "
            f"such as {max(origin.seeds) - FIRST_SEED + 1}."
        )


def _cases(
    seeds: Sequence[int],
    probes: Sequence[str],
    probe_episodes: int,
    options: Mapping[str, Any],
    seed_offset: int,
) -> list[Case]:
    """Every episode to play: the main part, then each probe on the same seeds from the first on."""
    parts = {MAIN: seeds, **{name: seeds_of(probe_episodes, seed_offset) for name in probes}}
    return [
        Case(part=part, index=index, seed=seed, options=dict(options))
        for part, chosen in parts.items()
        for index, seed in enumerate(chosen)
    ]


@dataclass(frozen=True)
class _Play:
    """The task of a worker: play a case."""

    case: Case

    def __call__(self, station: Station) -> Trial:
        return play(station.env, station.session, self.case)


def _play(
    pool: Pool[Station], cases: Sequence[Case], journal: Journal, progress: Callable[[Progress], None] | None
) -> list[Trial]:
    """The trial of each case: from the journal if it is there, else played now and written there."""
    trials: dict[int, Trial] = dict(journal.finished)
    todo = [place for place in range(len(cases)) if place not in trials]

    def done(place: int, trial: Trial) -> None:
        trials[todo[place]] = trial
        journal.add(todo[place], trial)
        _tell(progress, "episodes", len(trials), len(cases), list(trials.values()))

    _tell(progress, "episodes", len(trials), len(cases), list(trials.values()))
    pool.run([_Play(cases[place]) for place in todo], done)
    return [trials[place] for place in range(len(cases))]


def _tell(
    progress: Callable[[Progress], None] | None,
    stage: Literal["episodes", "timing", "videos"],
    done: int,
    total: int,
    trials: Sequence[Trial],
) -> None:
    if progress is None:
        return
    main = [trial.episode.success for trial in trials if trial.part == MAIN]
    progress(Progress(stage=stage, done=done, total=total, played=len(main), successes=sum(main)))


@dataclass(frozen=True)
class _Time:
    """The task of a worker: time the policy on the first observation of a case."""

    case: Case
    calls: int

    def __call__(self, station: Station) -> tuple[InferenceTime, int]:
        agent = station.session.agent
        station.env.reset(seed=self.case.seed, options=dict(self.case.options))
        observation = station.env.observe([camera.name for camera in agent.spec.cameras])
        return measure_latency(agent, observation, calls=self.calls), agent.window.horizon


def _time(
    pool: Pool[Station],
    case: Case,
    calls: int,
    trials: Sequence[Trial],
    progress: Callable[[Progress], None] | None,
) -> tuple[InferenceTime, int]:
    """Time of one policy step and length of its chunk, while the other workers have nothing to do."""
    _tell(progress, "timing", 0, 1, trials)
    (answer,) = pool.run([_Time(case, calls)])
    _tell(progress, "timing", 1, 1, trials)
    return answer


def _film(
    pool: Pool[Station],
    cases: Sequence[Case],
    trials: Sequence[Trial],
    chosen: Sequence[Trial],
    folder: Path,
    progress: Callable[[Progress], None] | None,
) -> list[Video]:
    """Film the chosen trials; those whose file is there already are kept."""
    if not chosen:
        return []
    place = {(trial.part, trial.index): number for number, trial in enumerate(trials)}
    films: list[Video] = []
    tasks: list[Filming] = []
    for trial in chosen:
        reason = re.sub(r"[^a-z0-9]+", "-", outcome(trial).lower())
        name = f"{trial.part}-{trial.index:03d}-{reason}.mp4"
        film = Video(file=f"videos/{name}", part=trial.part, index=trial.index, outcome=outcome(trial))
        films.append(film)
        if not (folder / film.file).exists():
            case = cases[place[trial.part, trial.index]]
            tasks.append(Filming(case=case, expected=trial, path=folder / film.file))
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        _tell(progress, "videos", done, len(tasks), trials)

    _tell(progress, "videos", 0, len(tasks), trials)
    pool.run(tasks, count)
    return films
