from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_policy import TinyConfig

from visuomotor.agent import load_agent
from visuomotor.cli import main
from visuomotor.data.labels import find_labels
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.errors import DataError
from visuomotor.evaluation.runner import FIRST_SEED, evaluate
from visuomotor.evaluation.setup import Acting
from visuomotor.executors import Latency
from visuomotor.experts.collect import Collection
from visuomotor.experts.disturbance import Noise
from visuomotor.policies.pi0_fast import PI0FASTConfig
from visuomotor.rollout import plain
from visuomotor.training import dagger as module
from visuomotor.training.dagger import DaggerConfig, DaggerReport, dagger, expert_share
from visuomotor.training.loop import TrainConfig

QUIET = Noise(meters=0, radians=0, push_chance=0, slip_chance=0, stray_chance=0)
JOB = Collection(
    env="walk_world:WalkWorld", task="walk", expert="walk_world:WalkExpert", noise=QUIET, phrasings=2
)
TRAINING = TrainConfig(steps=6, batch_size=8, warmup=2, save_every=3, log_every=3)
CONFIG = DaggerConfig(rounds=2, demonstrations=3, episodes=2, law="geometric", validation=3)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def no_sync() -> Iterator[None]:
    """Nobody pulls the plug while tests run; waiting for the disk would take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def run(out: Path, config: DaggerConfig = CONFIG, **more: Any) -> DaggerReport:
    asked = {"job": JOB, "policy": "tiny_policy:TinyPolicy", "training": TRAINING, "workers": 0, **more}
    return dagger(out, config=config, **asked)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds."""
    out = tmp_path_factory.mktemp("dagger") / "run"
    run(out)
    return out


def weights(out: Path, number: int = 2) -> bytes:
    return (out / f"round-{number:02d}" / "policy" / "checkpoint" / "ema.safetensors").read_bytes()


def content(out: Path) -> tuple[str, bytes, bytes, Any]:
    """Everything that must be equal: data, weights, and how each round went, but for the clock."""
    rounds = json.loads((out / "report.json").read_text())["rounds"]
    told = [{name: value for name, value in one.items() if name != "seconds"} for one in rounds]
    return LeRobotReader(out / "data").hash, weights(out, 1), weights(out), told


def test_the_share_of_the_expert_follows_its_law() -> None:
    assert [expert_share(number, law="first") for number in (1, 2, 3)] == [1.0, 0.0, 0.0]
    shares = [expert_share(number, law="geometric", decay=0.5) for number in (1, 2, 3)]
    assert shares == [1.0, 0.5, 0.25]
    assert expert_share(1, law="geometric", decay=0.0) == 1.0
    with pytest.raises(ValueError, match="counted from 1"):
        expert_share(0, law="first")


def test_rounds_add_to_one_data_set_and_the_best_policy_is_told(finished: Path) -> None:
    report = run(finished)
    assert [(one.round, one.beta, one.episodes) for one in report.rounds] == [(1, 1.0, 3), (2, 0.5, 5)]
    assert [one.by_expert == 1.0 for one in report.rounds] == [True, False]
    assert all(one.labeled == 1.0 and one.success["n"] == 3 for one in report.rounds)
    assert report.policy == finished / report.best.policy
    reader = LeRobotReader(finished / "data")
    assert (len(reader.episodes), len(reader)) == (5, report.rounds[1].ticks)
    assert [episode.seed for episode in reader.episodes] == [0, 1, 2, 3, 4]
    labels = find_labels(reader, TinyConfig().horizon)
    assert labels is not None
    assert labels.actions.shape == (len(reader), 4, 3)
    first = load_agent(finished / "round-01" / "policy")
    assert first.seeds == {0, 1, 2}
    assert load_agent(report.policy).spec == reader.spec
    saved = json.loads((finished / "report.json").read_text())
    assert saved["policy"] == str(report.policy)
    assert saved["best"]["round"] == report.best.round
    where = evaluate(
        report.policy, episodes=1, probes=(), workers=0, videos=0
    )  # the checkpoint knows its world
    assert where.setup.env_options["task"] == "walk"
    assert where.trials[0].episode.seed == FIRST_SEED


def test_the_best_of_equal_rounds_is_the_last_and_better_ones_win(finished: Path, tmp_path: Path) -> None:
    rounds = [json.loads((finished / f"round-0{number}" / "round.json").read_text()) for number in (1, 2)]

    def best(*rates: tuple[float, float]) -> int:
        for number, (rate, progress) in enumerate(rates, start=1):
            told = {**rounds[number - 1], "progress": progress}
            told["success"] = {**told["success"], "rate": rate}
            (tmp_path / f"round-0{number}").mkdir(exist_ok=True)
            (tmp_path / f"round-0{number}" / "round.json").write_text(json.dumps(told))
        return run(tmp_path).best.round

    (tmp_path / "dagger.json").write_text((finished / "dagger.json").read_text())
    (tmp_path / "data").symlink_to(finished / "data")
    assert best((0.5, 0.5), (0.5, 0.5)) == 2
    assert best((0.5, 0.6), (0.5, 0.5)) == 1
    assert best((0.5, 0.5), (0.6, 0.1)) == 2


def test_the_same_call_gives_the_same_bits_with_workers_too(finished: Path, tmp_path: Path) -> None:
    report = run(tmp_path / "again", replace(CONFIG, rounds=1), workers=1)
    assert weights(tmp_path / "again", 1) == weights(finished, 1)
    before = json.loads((finished / "round-01" / "round.json").read_text())
    assert plain(report.rounds[0].success) == before["success"]
    run(tmp_path / "seed", replace(CONFIG, rounds=1), job=replace(JOB, seed=1))
    assert LeRobotReader(tmp_path / "seed" / "data").episodes[0].seed == 1_000_000


@pytest.mark.parametrize(("number", "stage"), [(1, "train"), (2, "play"), (2, "play validation scenes")])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    number: int, stage: str, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "training"), *sys.path])}
    done = subprocess.run(
        [sys.executable, __file__, str(out), f"round {number} of 2: {stage}"], env=here, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    run(out)
    assert content(out) == content(finished)


def test_more_rounds_may_be_asked_for_and_weights_may_be_kept(finished: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, rounds=1, retrain="continue", later_steps=2)
    run(tmp_path / "run", config)
    assert weights(tmp_path / "run", 1) == weights(finished, 1)
    report = run(tmp_path / "run", replace(config, rounds=2))
    assert [one.steps for one in report.rounds] == [6, 2]
    scratch, kept = load_agent(finished / "round-02" / "policy"), load_agent(tmp_path / "run/round-02/policy")
    first = load_agent(finished / "round-01" / "policy")

    def away(agent: Any) -> float:
        pairs = zip(first.policy.parameters(), agent.policy.parameters(), strict=True)
        return float(sum((a - b).detach().square().sum() for a, b in pairs))

    assert 0 < away(kept) < away(scratch)


@pytest.mark.parametrize("retrain", ["scratch", "continue"])
def test_what_is_fitted_to_data_is_fitted_to_the_demonstrations(tmp_path: Path, retrain: Any) -> None:
    """A codec of later data would give the tokens of earlier rounds another meaning."""
    config = replace(CONFIG, retrain=retrain, validation=1)
    tiny = replace(PI0FASTConfig.tiny(), horizon=2)
    report = run(
        tmp_path / "run",
        config,
        policy="pi0_fast",
        policy_config=tiny,
        training=replace(TRAINING, steps=2, save_every=2),
    )
    assert [one.round for one in report.rounds] == [1, 2]
    codecs = [load_agent(tmp_path / "run" / one.policy).policy.config.codec for one in report.rounds]
    assert codecs[0] is not None
    assert codecs[0] == codecs[1]


def test_the_learner_acts_as_asked_while_it_plays_and_in_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Latency((0.1, 0.3), (3, 1)).save(tmp_path / "latency.json")
    acting = Acting(options={"order": "newest_first"}, safety="spec")
    how = {"executor": "temporal_ensemble", "latency": str(tmp_path / "latency.json"), "acting": acting}
    players, setups, real, real_evaluate = [], [], module.play_corrected, module.evaluate

    def watched(env: Any, corrector: Any, session: Any, seed: int, **more: Any) -> Any:
        players.append(session)
        return real(env, corrector, session, seed, **more)

    def measured(*arguments: Any, **more: Any) -> Any:
        found = real_evaluate(*arguments, **more)
        setups.append(found.setup)
        return found

    monkeypatch.setattr(module, "play_corrected", watched)
    monkeypatch.setattr(module, "evaluate", measured)
    run(tmp_path / "run", replace(CONFIG, validation=1, **how), job=replace(JOB, env="walk_world:HornWorld"))
    session = players[-1]
    assert session.latency == Latency((0.1, 0.3), (3, 1))
    assert session.executor.order == "newest_first"
    assert session.safety is not None
    assert [setup.latency for setup in setups] == [{"seconds": [0.1, 0.3], "counts": [3, 1]}] * 2
    assert [setup.acting for setup in setups] == [acting] * 2
    (tmp_path / "latency.json").rename(tmp_path / "moved.json")
    how["latency"] = str(tmp_path / "moved.json")  # the same delays, so the same run
    run(tmp_path / "run", replace(CONFIG, validation=1, **how), job=replace(JOB, env="walk_world:HornWorld"))
    Latency((0.1, 0.3), (1, 1)).save(tmp_path / "moved.json")
    with pytest.raises(DataError, match=r"dagger\.latency"):
        run(
            tmp_path / "run",
            replace(CONFIG, validation=1, **how),
            job=replace(JOB, env="walk_world:HornWorld"),
        )


def test_a_person_corrects_through_the_same_door(tmp_path: Path) -> None:
    config = replace(CONFIG, law="first")
    report = run(tmp_path / "run", config, job=replace(JOB, expert="walk_world:Person"))
    assert report.rounds[0].labeled == 1.0
    second = report.rounds[1]
    assert 0 < second.labeled < 1
    assert second.by_expert == second.labeled


def test_other_runs_and_foreign_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"another run of DAgger: dagger.episodes: 2 there, 4 here"):
        run(finished, replace(CONFIG, episodes=4))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"found notes.txt. Nothing was overwritten"):
        run(tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'geometric'"):
        DaggerConfig(law="geometrical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        DaggerConfig(rounds=0)
    with pytest.raises(DataError, match="the expert failed in 20 of 20"):
        run(tmp_path / "lost", job=replace(JOB, expert="walk_world:LostExpert"))


def test_an_expert_that_fails_now_and_then_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.play_corrected

    def now_and_then(env: Any, corrector: Any, session: Any, seed: int, **more: Any) -> Any:
        return "dropped" if seed == 1 else real(env, corrector, session, seed, **more)

    monkeypatch.setattr(module, "play_corrected", now_and_then)
    report = run(tmp_path / "run", replace(CONFIG, rounds=1))
    assert report.demonstrations_dropped == 1
    assert [entry.seed for entry in LeRobotReader(tmp_path / "run" / "data").episodes] == [0, 2, 3]
    assert np.isfinite(report.rounds[0].loss or np.nan)


def test_the_command_asks_for_what_its_options_say(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    report = run(finished)

    def pretend(out: Path, **asked: Any) -> DaggerReport:
        seen.update(asked, out=out)
        return report

    monkeypatch.setattr(module, "dagger", pretend)
    words = (
        "--recipe demo-tiny --rounds 3 --law geometric --latency delays.json "
        "--acting.options overlap average --collect.task lift --training.steps 7 --workers 0"
    )
    assert main(["dagger", *words.split(), "--out", str(tmp_path)]) == 0
    acting = Acting(options={"overlap": "average"})
    assert seen["config"] == DaggerConfig(rounds=3, law="geometric", latency="delays.json", acting=acting)
    assert (seen["job"].task, seen["job"].phrasings, seen["training"].steps) == ("lift", 2, 7)
    assert f"round {report.best.round}, {report.policy}" in capsys.readouterr().out


if __name__ == "__main__":  # to be killed: OUT WHAT, at the second report of WHAT

    def kill(what: str, done: int, total: int, note: str) -> None:
        if what == sys.argv[2] and done > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(sys.argv[1]), tell=kill)
