"""Episodes that a learner plays while someone who knows better says what should be done.

At every tick a corrector is asked; what it says is the label of the tick, whoever acts. The label is a
whole chunk. As far as the correction was executed, its continuation is what was said at the next ticks.
Where the learner went on in another way, a scripted expert is let play on from a snapshot of the world,
which is then put back; a person cannot be asked that, so his label ends there.

Sources: Ross, Gordon and Bagnell 2011, "A reduction of imitation learning and structured prediction to
no-regret online learning", algorithm 3.1; Kelly et al. 2019, "HG-DAgger", for people who take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32

from visuomotor.data.episode import EncodedEpisode, EpisodeRecorder
from visuomotor.data.labels import ChunkLabels, label_values
from visuomotor.experts.base import Expert
from visuomotor.experts.collect import Collection, wordings
from visuomotor.experts.disturbance import Disturbance
from visuomotor.session import Session
from visuomotor.types import Observation, Spec

__all__ = ["Corrector", "Mix", "ScriptedCorrector", "Turns", "as_corrector", "expert_chunk", "play_corrected"]

Mix = Literal["tick", "episode"]


@runtime_checkable
class Corrector(Protocol):
    """Says what should be done: a scripted expert, or a person with a controller.

    Attributes:
        expert: The function of the state of the world behind it, if there is one. It can be asked about
            any state, and the mixture decides who acts. None for a person: he sees only what happens, and
            takes over whenever he says something.
    """

    expert: Expert | None

    def __call__(self, env: Any, observation: Observation, action: np.ndarray | None) -> np.ndarray | None:
        """What should be done now (action,), raw units; None if the learner's action may stand.

        Args:
            env: The environment or robot; not to be changed.
            observation: What is seen now.
            action: What the learner is about to do; None while there is no learner, and then an answer is
                needed at every tick.
        """
        ...


class ScriptedCorrector:
    """A scripted expert, which has an opinion at every tick."""

    def __init__(self, expert: Expert) -> None:
        self.expert: Expert | None = expert
        self._ask = expert

    def __call__(self, env: Any, observation: Observation, action: np.ndarray | None) -> np.ndarray:
        """What the expert does."""
        return self._ask(env)


def as_corrector(part: Any) -> Corrector:
    """An expert or corrector as a corrector."""
    return part if isinstance(part, Corrector) else ScriptedCorrector(part)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Who acts when.

    Attributes:
        round: Number of the round, which decides the coins together with the seed of the episode.
        beta: Chance that a scripted expert acts.
        mix: Whether the coin is thrown at each tick or once for an episode.
        horizon: Actions in a label.
    """

    round: int
    beta: float
    mix: Mix
    horizon: int


@dataclass(frozen=True)
class _Visit:
    """One tick as it went.

    Attributes:
        label: What should be done, not yet within limits; the learner's own action if nobody objected.
        corrected: Whether someone said so.
        by_expert: Whether the correction was chosen to be executed.
        followed: Whether it was what was executed, undisturbed.
        snapshot: The world before; None if nobody will ask.
    """

    label: np.ndarray
    corrected: bool
    by_expert: bool
    followed: bool
    snapshot: bytes | None


def expert_chunk(env: Any, expert: Expert, horizon: int) -> Float32[np.ndarray, "known action"]:
    """What `expert` does in the next `horizon` ticks, or until the episode ends; `env` stays as it is."""
    low, high = _limits(env.spec)
    snapshot = env.snapshot()
    actions: list[np.ndarray] = []
    try:
        while len(actions) < horizon:
            actions.append(np.asarray(expert(env), np.float32))
            if env.step(np.clip(actions[-1], low, high).astype(np.float32)).done:
                break
    finally:
        env.restore(snapshot)
    return np.stack(actions)


def play_corrected(
    env: Any, corrector: Corrector, session: Session | None, seed: int, *, job: Collection, turns: Turns
) -> EncodedEpisode | str:
    """One episode with a label at every tick; or why a demonstration failed.

    Args:
        env: The environment.
        corrector: Says what should be done.
        session: The learner at work; None while there is none, and then everything is as in
            `visuomotor.experts.collect.demonstrate`, noise included.
        seed: Of the scene; together with `job.seed` and the round also of coins, noise and wordings.
        job: Noise, wordings and compression.
        turns: Who acts.

    Returns:
        The episode, whose columns are those of `label_columns`. An episode that only the expert played
        is a demonstration, in any round: if it fails, only the reason is told.
    """
    generator = np.random.default_rng([job.seed, seed])
    coins = np.random.default_rng([job.seed, seed, 2, turns.round])
    observation = env.reset(seed=seed, options=job.options or None)
    words = wordings(env, observation.instruction, job.phrasings)
    recorder = EpisodeRecorder(env.spec, job.settings)
    disturbance = Disturbance(env.spec, job.noise, generator)
    chance = _Chance(turns, coins) if corrector.expert is not None else None
    if session is not None:
        session.reset(seed)
    visits: list[_Visit] = []
    low, high = _limits(env.spec)
    while True:
        visit, executed = _visit(
            env, corrector, session, observation, chance, disturbance if session is None else None
        )
        executed = np.clip(executed, low, high).astype(np.float32)
        followed = visit.by_expert and np.array_equal(executed, np.clip(visit.label, low, high))
        visits.append(replace(visit, followed=followed))
        said = words[int(generator.integers(len(words)))]
        recorder.tick(observation, visit.label, executed, said, getattr(env, "subtask", None))
        status = env.step(executed)
        if status.done:
            break
        observation = env.observe()
    if not status.success and corrector.expert is not None and all(visit.by_expert for visit in visits):
        return status.failure or "unknown"
    labels = _chunks(env, corrector.expert, visits, turns.horizon)
    return replace(recorder.finish(seed=seed), columns=label_values(labels))


class _Chance:
    """Whose turn it is: a coin at each tick, or the same one for an episode."""

    def __init__(self, turns: Turns, generator: np.random.Generator) -> None:
        self._beta, self._generator = turns.beta, generator
        self._kept = self._throw() if turns.mix == "episode" else None

    def _throw(self) -> bool:
        return bool(self._generator.random() < self._beta)

    def __call__(self) -> bool:
        """Whether the expert acts now."""
        return self._throw() if self._kept is None else self._kept


def _visit(
    env: Any,
    corrector: Corrector,
    session: Session | None,
    observation: Observation,
    chance: _Chance | None,
    disturbance: Disturbance | None,
) -> tuple[_Visit, np.ndarray]:
    """What this tick is labeled with, and what is to be executed.

    Args:
        env: The environment.
        corrector: Says what should be done.
        session: The learner; None if there is none.
        observation: What is seen.
        chance: Whose turn it is; None if a correction is always executed.
        disturbance: What becomes of the expert's action; None if it is executed as it is.
    """
    action = None if session is None else session.tick(lambda: observation)
    said = corrector(env, observation, action)
    if said is None and action is None:
        raise ValueError(
            "corrector: expected an action at every tick while there is no learner, got None. "
            "Show the whole task in the first round."
        )
    expert_acts = chance is None or session is None or chance()
    label = np.asarray(action if said is None else said, np.float32)
    corrected = said is not None
    by_expert = corrected and expert_acts
    executed = label if by_expert or action is None else action
    if disturbance is not None:
        executed = disturbance(label)
    snapshot = env.snapshot() if corrector.expert is not None else None
    return _Visit(label, corrected, by_expert, False, snapshot), executed


def _chunks(env: Any, expert: Expert | None, visits: Sequence[_Visit], horizon: int) -> ChunkLabels:
    """The label of each tick: what was said next as far as it was followed, else what the expert would do."""
    count, width = len(visits), len(visits[0].label)
    actions = np.zeros((count, horizon, width), np.float32)
    length = np.zeros(count, np.int64)
    for tick in range(count):
        known, open_end = _follow(visits, tick, horizon)
        if open_end and expert is not None:
            env.restore(visits[tick].snapshot)
            known = expert_chunk(env, expert, horizon)
        length[tick] = len(known)
        if len(known):
            actions[tick, : len(known)], actions[tick, len(known) :] = known, known[-1]
        else:
            actions[tick] = visits[tick].label
    return ChunkLabels(actions, length, _by_expert(visits))


def _by_expert(visits: Sequence[_Visit]) -> Bool[np.ndarray, " tick"]:
    return np.array([visit.by_expert for visit in visits], bool)


def _follow(visits: Sequence[_Visit], tick: int, horizon: int) -> tuple[np.ndarray, bool]:
    """What was said from `tick` on while it was followed; and whether more could be known.

    Nothing more can be when there are `horizon` actions, when the episode was over, or when nobody
    said anything at `tick`.
    """
    said: list[np.ndarray] = []
    for visit in visits[tick : tick + horizon]:
        if not visit.corrected:
            return np.array(said), False
        said.append(visit.label)
        if not visit.followed:
            return np.array(said), len(said) < horizon
    return np.array(said), False


def _limits(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action (action,)."""
    return (
        np.array([dimension.low for dimension in spec.action]),
        np.array([dimension.high for dimension in spec.action]),
    )
