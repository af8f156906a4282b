from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from walk_world import SPEC, LostExpert, Person, SilentPerson, WalkExpert, WalkWorld

from visuomotor.agent.base import ScriptedAgent
from visuomotor.data.episode import EncodedEpisode
from visuomotor.data.frames import VideoFrames
from visuomotor.data.labels import ChunkLabels, label_columns
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.executors import RecedingHorizon
from visuomotor.experts.collect import Collection, demonstrate
from visuomotor.experts.corrections import (
    Corrector,
    ScriptedCorrector,
    Turns,
    as_corrector,
    expert_chunk,
    play_corrected,
)
from visuomotor.experts.disturbance import Noise
from visuomotor.session import Session
from visuomotor.types import Window

QUIET = Noise(meters=0, radians=0, push_chance=0, slip_chance=0, stray_chance=0)
JOB = Collection(
    env="walk_world:WalkWorld", task="walk", expert="walk_world:WalkExpert", noise=QUIET, phrasings=2
)
HORIZON = 5


def turns(beta: float = 0.0, mix: str = "tick", number: int = 2) -> Turns:
    return Turns(round=number, beta=beta, mix=mix, horizon=HORIZON)


def learner(env: WalkWorld) -> Session:
    """Walks, badly, to the corner."""
    move = np.array([-0.7, -0.3, 0.0], np.float32)
    return Session(
        ScriptedAgent(env.spec, lambda observation: np.tile(move, (4, 1)), horizon=4), RecedingHorizon(2)
    )


def play(seed: int = 3, how: Turns | None = None, corrector: object = None, **world: float) -> EncodedEpisode:
    env = WalkWorld(**world)
    found = play_corrected(
        env, as_corrector(corrector or WalkExpert()), learner(env), seed, job=JOB, turns=how or turns()
    )
    assert isinstance(found, EncodedEpisode)
    return found


def labels(episode: EncodedEpisode) -> ChunkLabels:
    return ChunkLabels(*episode.columns.values())


def by_hand(episode: EncodedEpisode, tick: int, seed: int, **world: float) -> np.ndarray:
    """The expert's actions from one tick of an episode on, in a world of its own."""
    env, expert, actions = WalkWorld(**world), WalkExpert(), []
    env.reset(seed=seed)
    for action in episode.executed[:tick]:
        env.step(action)
    while len(actions) < HORIZON:
        actions.append(expert(env))
        if env.step(actions[-1]).done:
            break
    return np.stack(actions)


@pytest.mark.parametrize("wind", [0.0, 0.3])
@pytest.mark.parametrize(("beta", "mix"), [(0.0, "tick"), (0.5, "tick"), (0.7, "tick"), (0.5, "episode")])
def test_labels_are_what_the_expert_would_do_from_there(beta: float, mix: str, wind: float) -> None:
    for seed in (3, 8):
        episode = play(seed, turns(beta, mix), wind=wind)
        found = labels(episode)
        for tick in range(len(episode)):
            expected = by_hand(episode, tick, seed, wind=wind)
            assert found.length[tick] == len(expected)
            np.testing.assert_array_equal(found.actions[tick, : len(expected)], expected)
            assert (found.actions[tick, len(expected) :] == expected[-1]).all()
            np.testing.assert_array_equal(episode.actions[tick], expected[0])


def test_looking_ahead_leaves_the_world_as_it_was() -> None:
    env = WalkWorld(wind=0.3)
    env.reset(seed=5)
    env.step(np.array([0.4, 0.1, 0.0], np.float32))
    before, picture = env.snapshot(), env.observe().images["top"]
    assert len(expert_chunk(env, WalkExpert(), HORIZON)) == HORIZON
    assert env.snapshot() == before
    np.testing.assert_array_equal(env.observe().images["top"], picture)

    class Breaks(WalkExpert):
        calls = 0

        def __call__(self, env: WalkWorld) -> np.ndarray:
            self.calls += 1
            if self.calls == 3:
                raise ArithmeticError("no way")
            return super().__call__(env)

    with pytest.raises(ArithmeticError):
        expert_chunk(env, Breaks(), HORIZON)
    assert env.snapshot() == before


def test_relabeling_does_not_change_what_happens() -> None:
    """The same learner in the same world, with nobody looking, goes the same way."""
    episode = play(4, wind=0.3)
    env = WalkWorld(wind=0.3)
    session = learner(env)
    observation = env.reset(seed=4)
    session.reset(4)
    for tick in range(len(episode)):
        np.testing.assert_array_equal(episode.state[tick], observation.state[-1])
        action = session.tick(lambda: observation)  # noqa: B023  (called at once)
        np.testing.assert_array_equal(episode.executed[tick], action)
        done = env.step(action).done
        observation = env.observe()
    assert done
    assert not labels(episode).by_expert.any()


def test_the_first_round_is_what_collect_gives() -> None:
    noise = Noise(meters=0.0, radians=0.0, slip_chance=0.2, stray_chance=0.0)
    job = Collection(env=JOB.env, task="walk", expert=JOB.expert, noise=noise, phrasings=2)
    env, expert = WalkWorld(), WalkExpert()
    for seed in range(4):
        plain = demonstrate(env, expert, seed, job)
        found = play_corrected(
            env, ScriptedCorrector(expert), None, seed, job=job, turns=turns(1.0, number=1)
        )
        assert isinstance(plain, EncodedEpisode)
        assert isinstance(found, EncodedEpisode)
        for name in ("state", "actions", "executed"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
        assert plain.instructions == found.instructions
        assert {n: c.sha256 for n, c in plain.clips.items()} == {n: c.sha256 for n, c in found.clips.items()}
        assert labels(found).by_expert.all()


def test_coins_follow_beta_by_tick_and_by_episode() -> None:
    ticks = np.concatenate([labels(play(seed, turns(0.3))).by_expert for seed in range(30)])
    assert abs(ticks.mean() - 0.3) < 4 * np.sqrt(0.21 / len(ticks))
    episodes = [labels(play(seed, turns(0.5, "episode"))).by_expert for seed in range(30)]
    assert all(acts.all() or not acts.any() for acts in episodes)
    assert 7 <= sum(acts.all() for acts in episodes) <= 23
    one, other = (labels(play(3, turns(0.5, number=number))).by_expert for number in (2, 3))
    assert one.tobytes() != other.tobytes()  # another round throws other coins
    np.testing.assert_array_equal(one, labels(play(3, turns(0.5, number=2))).by_expert)


def test_a_demonstration_that_fails_is_told_and_a_learner_may_fail() -> None:
    env = WalkWorld()
    lost = ScriptedCorrector(LostExpert())
    assert play_corrected(env, lost, None, 3, job=JOB, turns=turns(1.0)) == "out of time"
    assert play_corrected(env, lost, learner(env), 3, job=JOB, turns=turns(1.0)) == "out of time"
    assert len(play(3, turns(0.0), LostExpert())) == 16


def test_a_person_takes_over_and_labels_as_far_as_he_acts() -> None:
    assert isinstance(Person(), Corrector)
    assert not isinstance(WalkExpert(), Corrector)
    episode = play(3, turns(0.0), Person())
    found = labels(episode)
    spoke = found.length > 0
    assert spoke.any()
    assert not spoke.all()
    np.testing.assert_array_equal(found.by_expert, spoke)
    for tick in range(len(episode)):
        run = spoke[tick : tick + HORIZON].tolist()
        known = run.index(False) if False in run else len(run)
        assert found.length[tick] == known
        np.testing.assert_array_equal(found.actions[tick, :known], episode.actions[tick : tick + known])
    np.testing.assert_array_equal(episode.executed[~spoke], episode.actions[~spoke])
    with pytest.raises(ValueError, match="expected an action at every tick while there is no learner"):
        play_corrected(WalkWorld(), SilentPerson(), None, 3, job=JOB, turns=turns())


# ---- on disk, and as samples ----


def write(folder: Path, *episodes: EncodedEpisode) -> LeRobotReader:
    columns = label_columns(HORIZON, 3)
    with LeRobotWriter(folder, SPEC, executed=True, columns=columns, meta={"env": "walk"}) as writer:
        writer.add(*episodes)
    return LeRobotReader(folder)


def windows(reader: LeRobotReader, horizon: int = HORIZON, history: tuple[int, ...] = (0,)) -> Windows:
    return Windows(reader, VideoFrames(reader), Window(horizon=horizon, history=history), "walk")


def test_samples_have_the_labels_and_not_what_came_after(tmp_path: Path) -> None:
    episodes = [play(3), play(8, turns(0.5))]
    reader = write(tmp_path / "set", *episodes)
    for horizon in (HORIZON, 2, 1):
        found, tick = windows(reader, horizon), 0
        assert len(found) == len(reader)
        for episode in episodes:
            for actions, length in zip(labels(episode).actions, labels(episode).length):
                sample = found[tick]
                np.testing.assert_array_equal(sample.actions, actions[:horizon])
                np.testing.assert_array_equal(sample.horizon_mask, np.arange(horizon) < length)
                tick += 1
    with pytest.raises(DataError, match="labels are chunks of 5 actions, but the policy wants 6"):
        windows(reader, 6)


def test_ticks_without_a_label_are_history_and_no_samples(tmp_path: Path) -> None:
    episode = play(3, turns(0.0), Person())
    spoke = np.flatnonzero(labels(episode).length)
    found = windows(write(tmp_path / "set", episode), history=(-1, 0))
    assert len(found) == len(spoke) < len(episode)
    for place, tick in enumerate(spoke):
        np.testing.assert_array_equal(found[place].state, episode.state[[max(tick - 1, 0), tick]])


def test_on_the_table_labels_are_exact_and_hindsight_speaks_of_demonstrations_only(tmp_path: Path) -> None:
    options = {"cameras": {"front": 32}}
    job = Collection(env="tabletop", task="lift", expert="tabletop", env_options=options, noise=QUIET)
    env, expert = job.build()
    rest = np.zeros(len(env.spec.action), np.float32)
    session = Session(ScriptedAgent(env.spec, lambda observation: rest), RecedingHorizon(1))
    demonstration = play_corrected(env, as_corrector(expert), None, 5, job=job, turns=turns(1.0))
    mixed = play_corrected(env, as_corrector(expert), session, 6, job=job, turns=turns(0.6))
    assert isinstance(demonstration, EncodedEpisode)
    assert isinstance(mixed, EncodedEpisode)
    env.reset(seed=6)
    for tick, action in enumerate(mixed.executed[:12]):
        known = expert_chunk(env, expert, HORIZON)
        np.testing.assert_array_equal(labels(mixed).actions[tick, : len(known)], known)
        env.step(action)
    columns = label_columns(HORIZON, len(rest))
    with LeRobotWriter(
        tmp_path / "set", env.spec, executed=True, subtasks=True, columns=columns, meta={"env": "tabletop"}
    ) as writer:
        writer.add(demonstration, mixed)
    found = windows(LeRobotReader(tmp_path / "set"))
    assert found.told[: len(demonstration)].any()
    assert not found.told[len(demonstration) :].any()


def test_damaged_labels_are_named(tmp_path: Path) -> None:
    episode = play(3)
    columns = {"action.chunk": "float32"}
    broken = {"action.chunk": np.zeros(len(episode), np.float32)}
    with LeRobotWriter(
        tmp_path / "set", SPEC, executed=True, columns=columns, meta={"env": "walk"}
    ) as writer:
        writer.add(replace(episode, columns=broken))
    with pytest.raises(DataError, match=r"column 'action.chunk': expected"):
        windows(LeRobotReader(tmp_path / "set"))
