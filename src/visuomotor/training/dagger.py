"""DAgger: the learner plays, the expert says what should have been done, and both are learned from.

    <out>/dagger.json            what decides the run
    <out>/data/                  one LeRobot data set, to which each round adds episodes
    <out>/round-01/policy/       training run on everything up to this round
    <out>/round-01/evaluation/   its episodes in the validation scenes
    <out>/round-01/round.json    how the round went; it is done when this is there
    <out>/report.json            all rounds, and which one is best

A policy that learned from demonstrations only meets states in which no demonstration was, because its
own small errors lead there, and errors grow with the square of the length of an episode. DAgger asks the
expert in the states that the learner meets, and they grow with the length only:

    round 1       the expert plays alone; D = its demonstrations
    train         policy i on all of D
    round i + 1   play beta_i expert + (1 - beta_i) policy i; label every state with the expert; add to D

and the best policy on validation is returned. Any family works: it is trained by `train_from_folder` and
acts through a session. What it fits to data first, such as a codec or the words that it writes, it fits to
the demonstrations of round 1. Labels are whole chunks (see `visuomotor.experts.corrections`). Every part
goes on where it was stopped, and a run that was killed ends with the same bits.

Source: Ross, Gordon and Bagnell 2011, "A reduction of imitation learning and structured prediction to
no-regret online learning", algorithm 3.1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from visuomotor.agent.config import differences, to_plain
from visuomotor.agent.folder import read_config
from visuomotor.data.files import replace_json
from visuomotor.data.labels import find_labels, label_columns
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.errors import DataError, unknown_name
from visuomotor.evaluation.runner import Evaluation, evaluate
from visuomotor.evaluation.setup import Acting, Setup
from visuomotor.evaluation.statistics import proportion
from visuomotor.executors import Latency
from visuomotor.experts.collect import Collection, gather, inspect_collection, what_decides
from visuomotor.experts.corrections import Mix, Turns, as_corrector, play_corrected
from visuomotor.rollout import plain
from visuomotor.training.loop import TrainConfig, TrainReport
from visuomotor.training.run import Folder, build_policy, train_from_folder

__all__ = ["DaggerConfig", "DaggerReport", "Law", "Round", "dagger", "expert_share"]

Law = Literal["first", "geometric"]
Tell = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class DaggerConfig:
    """Rounds, who acts in them, and how they are measured."""

    rounds: int = 5
    """Policies that are trained, each on the data of all rounds so far."""
    demonstrations: int = 50
    """Episodes of the first round, which the expert plays alone; failed ones are dropped and counted."""
    episodes: int = 25
    """Episodes of every later round; failed ones are kept, for the learner may fail, but for those that the
    expert played alone."""
    law: Law = "first"
    """Share of the expert: "first" acts in the first round only; "geometric" is decay^(round - 1)."""
    decay: float = 0.5
    """Base of the geometric law."""
    mix: Mix = "tick"
    """Whether a coin says at each "tick" who acts, or once an "episode"."""
    retrain: Literal["scratch", "continue"] = "scratch"
    """Whether each policy begins with new weights, or with those of the round before."""
    later_steps: int | None = None
    """Optimizer steps of every round after the first; as many as in the first if none."""
    validation: int = 50
    """Episodes that each policy is measured in, the same scenes for all."""
    validation_offset: int = 500_000
    """Which scenes these are: far from those that `visuomotor evaluate` plays if nothing else is said."""
    executor: str = "receding_horizon"
    """How the learner's chunks become one action for each tick, while playing and in validation."""
    execute: int | None = None
    """Actions run before re-planning; the executor's default if none."""
    latency: float | str = 0.0
    """Simulated inference delay in seconds, or a file of measured ones (latency.json of an evaluation)."""
    acting: Acting = field(default_factory=Acting)
    """Options of the executor, rate of the slow part, safety limits."""

    def __post_init__(self) -> None:
        for name, known in (("law", Law), ("mix", Mix), ("retrain", Literal["scratch", "continue"])):
            if getattr(self, name) not in get_args(known):
                raise unknown_name(f"{name} of DAgger", getattr(self, name), get_args(known))
        for name in ("rounds", "demonstrations", "episodes", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"DAgger: {name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"DAgger: decay lies in [0, 1], got {self.decay}.")
        if self.later_steps is not None and self.later_steps < 1:
            raise ValueError(f"DAgger: later_steps must be at least 1, got {self.later_steps}.")


def expert_share(number: int, *, law: Law, decay: float = 0.5) -> float:
    """The chance beta that the expert acts in round `number`, counted from 1.

    Source: Ross et al. (2011), section 3: beta_1 = 1; beta_i = I(i = 1), which has no parameter, or
    beta_i = p^(i - 1).
    """
    if number < 1:
        raise ValueError(f"DAgger: rounds are counted from 1, got {number}.")
    if law == "first":
        return float(number == 1)
    return float(decay ** (number - 1))


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one round went.

    Attributes:
        round: Its number, from 1.
        beta: Chance that the expert acted.
        episodes: In the data set, all rounds so far.
        ticks: Likewise.
        labeled: Share of this round's ticks that have a label.
        by_expert: Share of this round's ticks at which the expert's action was executed.
        steps: Optimizer steps of its policy.
        loss: Last training loss.
        success: In the validation scenes: rate, low, high, n.
        progress: Mean at the end of these episodes, in [0, 1].
        seconds: "collect", "train" and "evaluate", of the sitting that finished each.
        policy: Folder of its policy, within the run.
    """

    round: int
    beta: float
    episodes: int
    ticks: int
    labeled: float
    by_expert: float
    steps: int
    loss: float | None
    success: Mapping[str, Any]
    progress: float
    seconds: Mapping[str, float]
    policy: str


@dataclass(frozen=True, kw_only=True)
class DaggerReport:
    """A finished run.

    Attributes:
        folder: Of the run.
        rounds: How each went.
        best: The round whose policy did best in the validation scenes; of equal ones the last.
        demonstrations_dropped: Demonstrations of the expert that failed.
    """

    folder: str
    rounds: tuple[Round, ...]
    best: Round
    demonstrations_dropped: int

    @property
    def policy(self) -> Path:
        """Folder of the best policy."""
        return Path(self.folder) / self.best.policy

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        found: dict[str, Any] = plain(asdict(self))
        return {**found, "policy": str(self.policy)}


def dagger(
    out: Folder,
    *,
    job: Collection,
    policy: str = "compact",
    policy_config: Any | None = None,
    training: TrainConfig | None = None,
    config: DaggerConfig | None = None,
    text_path: Folder | None = None,
    cache: Folder | None = None,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    tell: Callable[[str, int, int, str], None] | None = None,
) -> DaggerReport:
    """Train a policy by DAgger; the same call goes on with a run that was stopped.

    Args:
        out: Folder of the run: new, empty, or the same run.
        job: Environment, task, noise of the first round, wordings, seed; `job.expert` names the expert, or
            "package.module:Name" of an expert or a `Corrector`, made without arguments in each process.
        policy: Name of the family, or "package.module:Class".
        policy_config: Its config; the default one if None.
        training: How to train in each round.
        config: How many rounds of what.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
        cache: Folder for decoded pictures and encoded sentences; one within the run if None.
        device: Where to train.
        workers: Processes that play; one for each core if None, 0 for this one, as a person needs it.
        tell: Hears what is being done, how much of it is done, how much there is, and a note.

    Raises:
        DataError: `out` holds something else or another run; or the expert keeps failing.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once the state is saved.
    """
    run = _Run(
        folder=Path(out),
        job=job,
        policy=policy,
        policy_config=policy_config,
        training=training or TrainConfig(),
        config=config or DaggerConfig(),
        text_path=text_path,
        cache=Path(out) / "cache" if cache is None else Path(cache),
        device=device,
        workers=workers,
        tell=tell or (lambda *_: None),
    )
    Latency.of(run.config.latency)  # what cannot be read is refused before the first round
    _claim(run.folder, run.identity())
    rounds = [run.round(number) for number in range(1, run.config.rounds + 1)]
    report = DaggerReport(
        folder=str(run.folder),
        rounds=tuple(rounds),
        best=max(rounds, key=lambda one: (one.success["rate"], one.progress, one.round)),
        demonstrations_dropped=len(LeRobotReader(run.data).meta.get("dropped_seeds", {})),
    )
    replace_json(run.folder / "report.json", report.to_json())
    return report


@dataclass(frozen=True)
class _Player:
    """What a process needs to play episodes; an instance is given to it as plain data."""

    job: Collection
    turns: Turns
    setup: Setup | None

    def build(self) -> Callable[[int], Any]:
        """The function of a seed."""
        env, expert = self.job.build()
        corrector = as_corrector(expert)
        session = None
        if self.setup is not None:
            env.close()
            station = self.setup.build()
            env, session = station.env, station.session
        return lambda seed: play_corrected(env, corrector, session, seed, job=self.job, turns=self.turns)


def _build(player: _Player) -> Callable[[int], Any]:
    return player.build()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One call of `dagger`."""

    folder: Path
    job: Collection
    policy: str
    policy_config: Any | None
    training: TrainConfig
    config: DaggerConfig
    text_path: Folder | None
    cache: Path
    device: str | torch.device
    workers: int | None
    tell: Tell

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def key(self) -> str:
        """Of the data set in checkpoints."""
        return f"{self.job.env}_{self.job.task}".replace(":", ".")

    def place(self, number: int) -> Path:
        return self.folder / f"round-{number:02d}"

    def identity(self) -> dict[str, Any]:
        """What two sittings must share: plain data. More rounds may be asked for later."""
        config = self._config()
        del config["rounds"]
        return {
            "format": 1,
            "collect": what_decides(self.job),
            "policy": {"name": self.policy, "config": to_plain(self.policy_config)},
            "training": to_plain(self.training),
            "dagger": config,
        }

    def _config(self) -> dict[str, Any]:
        """The config as plain data: of a file of delays what is in it, not where it lies."""
        return {**to_plain(self.config), "latency": Latency.of(self.config.latency).to_json()}

    def round(self, number: int) -> Round:
        """One round, or what is left of it."""
        done = self.place(number) / "round.json"
        if done.is_file():
            return Round(**json.loads(done.read_text()))
        began = time.perf_counter()
        self._collect(number)
        collected = time.perf_counter()
        trained = self._train(number)
        learned = time.perf_counter()
        evaluation = self._evaluate(number)
        seconds = {
            "collect": round(collected - began, 3),
            "train": round(learned - collected, 3),
            "evaluate": round(time.perf_counter() - learned, 3),
        }
        found = self._describe(number, trained, evaluation, seconds)
        replace_json(done, plain(asdict(found)))
        return found

    def _said(self, number: int, what: str) -> str:
        return f"round {number} of {self.config.rounds}: {what}"

    def _collect(self, number: int) -> None:
        """Add the episodes of a round to the data set."""
        config = self.config
        spec, told, columns = inspect_collection(self.job)
        model = build_policy(self.policy, self.policy_config, {self.key: spec}, seed=self.training.seed)
        turns = Turns(
            round=number,
            beta=expert_share(number, law=config.law, decay=config.decay),
            mix=config.mix,
            horizon=model.window.horizon,
        )
        player = _Player(self.job, turns, self._setup(number - 1) if number > 1 else None)
        with LeRobotWriter(
            self.data,
            spec,
            executed=True,
            subtasks=told,
            columns={**columns, **label_columns(turns.horizon, len(spec.action))},
            meta={
                "env": self.job.env,
                "task": self.job.task,
                "control": self.job.control,
                "collect": {**what_decides(self.job), "dagger": self._config()},
            },
            settings=self.job.settings,
            resume=True,
        ) as writer:
            gather(
                self.job,
                writer,
                _build,
                player,
                episodes=self._episodes(number),
                workers=self.workers,
                progress=lambda kept, wanted: self.tell(self._said(number, "play"), kept, wanted, ""),
            )

    def _episodes(self, number: int) -> int:
        """In the data set after round `number`; 0 before the first."""
        return self.config.demonstrations + (number - 1) * self.config.episodes if number else 0

    def _setup(self, number: int) -> Setup:
        """The policy of round `number` at work."""
        control = {} if self.job.control is None else {"control": self.job.control}
        return Setup(
            agent=str(self.place(number) / "policy"),
            env=self.job.env,
            env_options={"task": self.job.task, **control, **self.job.env_options},
            executor=self.config.executor,
            execute=self.config.execute,
            latency=Latency.of(self.config.latency).to_json(),
            acting=self.config.acting,
        )

    def _fitted(self, number: int) -> Any | None:
        """The config that round `number` trains: what is fitted to data, such as a codec, is fitted once, to
        the demonstrations.
        """
        return self.policy_config if number == 1 else read_config(self.place(1) / "policy")[1]

    def _train(self, number: int) -> TrainReport:
        config = self.training
        if number > 1 and self.config.later_steps is not None:
            config = replace(config, steps=self.config.later_steps)
        carry_on = number > 1 and self.config.retrain == "continue"
        return train_from_folder(
            {self.key: self.data},
            out=self.place(number) / "policy",
            policy=self.policy,
            policy_config=self._fitted(number),
            config=config,
            text_path=self.text_path,
            cache=self.cache,
            device=self.device,
            begin=self.place(number - 1) / "policy" if carry_on else None,
            progress=lambda now: self.tell(
                self._said(number, "train"),
                now.step,
                now.steps,
                "" if now.loss is None else f"loss {now.loss:.3f}",
            ),
            preparing=lambda what, done, total: self.tell(self._said(number, what), done, total, ""),
        )

    def _evaluate(self, number: int) -> Evaluation:
        setup, config = self._setup(number), self.config
        return evaluate(
            setup.agent,
            env=setup.env,
            env_options=setup.env_options,
            episodes=config.validation,
            probes=(),
            probe_episodes=1,
            seed_offset=config.validation_offset,
            executor=config.executor,
            execute=config.execute,
            latency=config.latency,
            acting=config.acting,
            workers=self.workers,
            out=self.place(number) / "evaluation",
            videos=0,
            progress=lambda now: self.tell(
                self._said(number, "play validation scenes"),
                now.played,
                config.validation,
                f"{now.successes} succeeded",
            ),
        )

    def _describe(
        self, number: int, trained: TrainReport, evaluation: Evaluation, seconds: Mapping[str, float]
    ) -> Round:
        """What a round is remembered by."""
        reader = LeRobotReader(self.data)
        labels = find_labels(reader, 1)
        assert labels is not None  # this file wrote them
        first = sum(episode.length for episode in reader.episodes[: self._episodes(number - 1)])
        episodes = [trial.episode for trial in evaluation.trials]
        return Round(
            round=number,
            beta=expert_share(number, law=self.config.law, decay=self.config.decay),
            episodes=len(reader.episodes),
            ticks=len(reader),
            labeled=round(float((labels.length[first:] > 0).mean()), 4),
            by_expert=round(float(labels.by_expert[first:].mean()), 4),
            steps=trained.steps,
            loss=trained.loss,
            success=asdict(proportion(sum(e.success for e in episodes), len(episodes))),
            progress=float(np.mean([episode.progress for episode in episodes])),
            seconds=seconds,
            policy=str((self.place(number) / "policy").relative_to(self.folder)),
        )


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make `folder` this run, or see that it is already.

    Raises:
        DataError: It holds something else.
    """
    path, mine = folder / "dagger.json", json.loads(json.dumps(identity))
    if path.is_file():
        changed = differences(json.loads(path.read_text()), mine)
        if changed:
            raise DataError(
                f"{folder} holds another run of DAgger: {'; '.join(changed[:3])}. Nothing was overwritten; "
                "give the same options to go on with it, or choose another folder (--out)."
            )
        return
    strangers = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if [name for name in strangers if not name.startswith(".")] or (folder.exists() and not folder.is_dir()):
        raise DataError(
            f"{folder}: expected a new or empty folder or that of a run of DAgger, "
            f"found {', '.join(strangers[:3]) or 'a file'}. Nothing was overwritten; "
            "choose another folder (--out)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(path, mine)
