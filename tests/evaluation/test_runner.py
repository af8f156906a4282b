from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visuomotor.errors import CheckpointError, DataError, VisuomotorError
from visuomotor.evaluation.comparison import compare
from visuomotor.evaluation.origin import read_origin
from visuomotor.evaluation.probes import MAIN
from visuomotor.evaluation.runner import FIRST_SEED, Evaluation, Progress, evaluate, seeds_of

WORLD = {"env": "grid_world:GridWorld", "env_options": {"max_ticks": 25}}


def play(agent: str = "grid_world:Walker", **options: Any) -> Evaluation:
    return evaluate(
        f"{agent}", **{**WORLD, "episodes": 12, "probe_episodes": 6, "execute": 2, "workers": 0, **options}
    )


def test_a_listening_agent_succeeds_and_passes_every_probe() -> None:
    evaluation = play(episodes=24, probe_episodes=24)
    assert evaluation.success.rate == 1.0
    assert evaluation.success.n == 24
    probes = evaluation.probes
    assert list(probes) == ["swap", "phrasing", "words", "blank"]
    for name in ("swap", "phrasing", "words"):
        assert probes[name]["rate"] == 1.0
        assert probes[name]["against_main"]["difference"] == 0.0
    assert probes["swap"]["followed_old"] == 0
    assert probes["blank"]["chance"] == pytest.approx(1 / 3)
    assert probes["blank"]["overlaps_chance"]
    assert all(trial.episode.instruction == "" for trial in evaluation.part("blank"))


def test_an_agent_that_does_not_read_is_found_out() -> None:
    evaluation = play("grid_world:Deaf", episodes=20, probe_episodes=20)
    assert evaluation.success.rate == 1.0
    assert evaluation.probes["swap"]["rate"] == 0.0
    assert evaluation.probes["swap"]["followed_old"] == 20
    assert evaluation.probes["swap"]["failures"] == {"wrong object": 20}
    assert not evaluation.probes["blank"]["overlaps_chance"]


def test_an_agent_that_knows_its_sentences_by_heart_is_found_out() -> None:
    probes = play("grid_world:Parrot", episodes=20, probe_episodes=20).probes
    assert probes["swap"]["rate"] == 1.0
    assert probes["phrasing"]["rate"] < 0.7
    assert probes["phrasing"]["against_main"]["p_value"] < 0.01


def test_the_number_of_workers_changes_nothing() -> None:
    alone, two = play(), play(workers=2)
    assert len(alone.trials) == 12 + 4 * 6
    for one, other in zip(alone.trials, two.trials, strict=True):
        assert (one.part, one.index, one.goals, one.former) == (
            other.part,
            other.index,
            other.goals,
            other.former,
        )
        assert one.episode.same_as(other.episode)


def test_seeds_are_explicit_and_probes_play_the_same_scenes() -> None:
    evaluation = play(seed_offset=500)
    main = [trial.episode.seed for trial in evaluation.part(MAIN)]
    assert main == seeds_of(12, 500) == list(range(FIRST_SEED + 500, FIRST_SEED + 512))
    assert [trial.episode.seed for trial in evaluation.part("words")] == main[:6]


def test_baselines_need_no_checkpoint() -> None:
    evaluation = play("random", probes=(), execute=1)
    assert evaluation.origin is None
    assert evaluation.success.rate < 0.5
    assert set(evaluation.failures) <= {"wrong object", "out of time"}
    with pytest.raises(ValueError, match="has no expert"):
        play("expert")


def test_latency_is_part_of_the_episodes() -> None:
    quick, slow = play(probes=()), play(probes=(), latency=0.4, execute=3)
    assert sum(t.episode.ticks for t in slow.trials) > sum(t.episode.ticks for t in quick.trials)
    assert all(trial.episode.holds >= 2 for trial in slow.trials)
    assert slow.success.rate == 1.0


def test_progress_counts_up_to_the_end() -> None:
    seen: list[Progress] = []
    play(probes=(), progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["episodes", "timing"]
    episodes = [progress for progress in seen if progress.stage == "episodes"]
    assert [progress.done for progress in episodes] == list(range(13))
    assert (episodes[-1].played, episodes[-1].successes) == (12, 12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probes": ("swaps",)}, "Did you mean 'swap'"),
        ({"episodes": 0}, "episodes >= 1"),
        ({"seed_offset": -1}, "seed_offset >= 0"),
        ({"env": "tabeltop"}, "Did you mean 'tabletop'"),
        ({"options": {"spilt": "words"}}, "Did you mean 'split'"),
        ({"executor": "receding"}, "Did you mean 'receding_horizon'"),
        ({"execute": 9}, "between 1 and the horizon 4"),
        ({"env_options": {"goals_known": False}}, "needs an environment with"),
        ({"workers": -1}, "0 workers"),
    ],
)
def test_wrong_requests_are_answered_with_the_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        play(**wrong)


def test_an_environment_that_ignores_the_sentence_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import grid_world

    reset = grid_world.GridWorld.reset

    def forgetful(self, *, seed, options=None):
        kept = {name: value for name, value in (options or {}).items() if value}
        return reset(self, seed=seed, options=kept)

    monkeypatch.setattr(grid_world.GridWorld, "reset", forgetful)
    with pytest.raises(ValueError, match="ignored the option 'instruction'"):
        play(probes=("blank",))


def test_what_an_agent_raises_in_a_worker_arrives_here() -> None:
    with pytest.raises(ValueError, match="the robot slipped") as caught:
        play("grid_world:Clumsy", workers=1)
    assert "evaluation worker 0" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []


def test_a_dead_worker_is_an_error_and_the_rest_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"probes": (), "out": tmp_path / "out", "videos": 0}
    with pytest.raises(VisuomotorError, match=r"worker 0 died \(exit code 3\)"):
        play("grid_world:Mortal", workers=1, **options)
    assert multiprocessing.active_children() == []
    kept = (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()
    monkeypatch.setenv("GRID_MORTAL", "off")
    finished = play("grid_world:Mortal", **options)
    assert 1 <= len(kept) < 13
    whole = play("grid_world:Mortal", probes=())
    for one, other in zip(finished.trials, whole.trials, strict=True):
        assert one.episode.same_as(other.episode)


def test_ctrl_c_ends_the_workers_and_keeps_what_was_finished(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(workers=2, out=tmp_path, progress=interrupt)
    assert multiprocessing.active_children() == []
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"place": 7, "par')  # as if the machine had died while writing
    seen: list[Progress] = []
    evaluation = play(out=tmp_path, videos=0, progress=seen.append)
    assert seen[0].done == 5
    assert len(evaluation.trials) == 36
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 1 + 36


def test_a_kill_before_the_first_episode_leaves_a_folder_that_goes_on(tmp_path: Path) -> None:
    for number, left in enumerate(({"episodes.jsonl.new": "{"}, {"episodes.jsonl": '{"version": "0'})):
        out = tmp_path / str(number)
        out.mkdir()
        for name, text in left.items():
            (out / name).write_text(text)
        evaluation = play(probes=(), episodes=2, out=out, videos=0)
        assert len((out / "episodes.jsonl").read_text().splitlines()) == 1 + len(evaluation.trials)
        assert len(play(probes=(), episodes=2, out=out, videos=0).trials) == 2


def test_an_output_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        play(out=tmp_path)
    other = tmp_path / "other"
    play(probes=(), out=other, videos=0)
    before = (other / "episodes.jsonl").read_text()
    with pytest.raises(DataError, match=r"another evaluation \(different: cases, episodes\)"):
        play(probes=(), out=other, episodes=13)
    with pytest.raises(DataError, match="setup"):
        play("grid_world:Deaf", probes=(), out=other)
    assert (other / "episodes.jsonl").read_text() == before


def write_checkpoint(folder: Path, seeds: list[int], **data: Any) -> Path:
    folder.mkdir(parents=True)
    provenance = {
        "format": 1,
        "versions": {"visuomotor": "0.1.0"},
        "data": {"grid": {"hash": "ab", "seeds": seeds, **data}},
        "command": [],
        "seed": 3,
        "step": 100,
        "text": {"encoder": "minilm", "hash": "x"},
        "parameters": 1234,
        "files": {"ema.safetensors": "00", "golden.npz": "11"},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "policy": "compact", "config": {"text": "minilm"}})
    )
    return folder


def test_seeds_of_the_training_data_are_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run" / "checkpoint", [5, FIRST_SEED + 3, FIRST_SEED + 9])
    with pytest.raises(
        ValueError, match=r"2 of the 12 evaluation seeds, beginning with 1000000003.*such as 10\."
    ):
        play(str(folder))
    with pytest.raises(ValueError, match="unknown env"):  # the next thing that is wrong
        play(str(folder), seed_offset=10, env="elsewhere")
    with pytest.raises(CheckpointError, match="no such folder"):
        play(str(tmp_path / "nowhere"))


def test_the_origin_of_a_checkpoint_is_read_without_its_weights(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_checkpoint(
        run / "checkpoint",
        [1, 2],
        env="grid_world:GridWorld",
        collect={"env_options": {"max_ticks": 9}},
        task="reach",
        control=None,
        kept=5,
        dropped=1,
    )
    (run / "log.jsonl").write_text(
        '{"step": 10, "loss": 0.5}\n{"step": 20, "loss": 0.25, "seconds": 4.5}\n{"st'
    )
    origin = read_origin(run)
    options = {"max_ticks": 9, "task": "reach"}
    assert (origin.family, origin.parameters, origin.text) == ("compact", 1234, "minilm")
    assert (origin.env, origin.env_options, origin.task) == (
        "grid_world:GridWorld",
        options,
        "reach",
    )
    assert (origin.count("kept"), origin.count("dropped"), origin.count("length")) == (5, 1, None)
    assert [line["loss"] for line in origin.curve] == [0.5, 0.25]
    assert origin.seconds == 4.5
    assert origin.seeds == {1, 2}
    assert origin.weights == {"ema.safetensors": "00"}


def test_two_agents_are_compared_on_the_seeds_that_both_played() -> None:
    good = play(probes=(), episodes=20)
    chance = play("random", probes=(), episodes=16, seed_offset=4, execute=1)
    difference = compare(chance, good)
    assert difference.n == 16
    assert difference.both + difference.only_second == 16
    assert difference.low > 0
    assert difference.p_value < 0.01
    with pytest.raises(ValueError, match="no seed"):
        compare(good, play(probes=(), seed_offset=1000))
    with pytest.raises(ValueError, match="differ in options"):
        compare(good, play(probes=(), options={"split": "words"}))


def test_inference_time_is_measured_apart_from_the_episodes() -> None:
    inference = play(probes=(), episodes=1).inference
    assert 0 < inference.low <= inference.median <= inference.high
    assert inference.median <= inference.p99
    assert np.isfinite(inference.first)
    assert (inference.n, inference.threads) == (200, 1)
