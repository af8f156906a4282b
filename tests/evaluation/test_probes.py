from __future__ import annotations

import pytest
from grid_world import GridWorld, Walker

from visuomotor.evaluation.probes import PROBES, Case, Trial, count_failures, play, summarize
from visuomotor.evaluation.setup import Setup
from visuomotor.executors import OpenLoop
from visuomotor.session import Session


def case(part: str, seed: int = 3, **options: str) -> Case:
    return Case(part=part, index=0, seed=seed, options=options)


def test_a_swap_names_another_goal_of_the_same_scene() -> None:
    place = Setup(agent="grid_world:Walker", env="grid_world:GridWorld").build()
    named = set()
    for seed in range(20):
        plain, swapped = (play(place.env, place.session, case(part, seed)) for part in ("main", "swap"))
        again = play(place.env, place.session, case("swap", seed))
        assert plain.former is None
        assert swapped.former == plain.episode.goal
        assert swapped.episode.goal != swapped.former
        assert swapped.episode.goal in swapped.episode.instruction
        assert swapped.goals == 3
        assert again == Trial(**{**vars(swapped), "episode": again.episode})
        assert again.episode.same_as(swapped.episode)
        named.add((swapped.former, swapped.episode.goal))
    assert len(named) == 6  # every change of goal occurs


def test_probes_keep_the_options_of_the_main_part() -> None:
    place = Setup(agent="grid_world:Walker", env="grid_world:GridWorld").build()
    play(place.env, place.session, case("blank", split="words"))
    assert place.env.reset_options[-1] == {"split": "words", "instruction": ""}
    play(place.env, place.session, case("swap", split="words"))
    assert place.env.reset_options[-1].keys() == {"split", "goal"}


def test_a_goal_that_was_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = GridWorld.reset
    monkeypatch.setattr(GridWorld, "reset", lambda self, *, seed, options=None: reset(self, seed=seed))
    env = GridWorld()
    with pytest.raises(ValueError, match="must change the goal and nothing else"):
        play(env, Session(Walker(env), OpenLoop()), case("swap"))


def test_trials_survive_json_and_every_probe_has_words_for_people() -> None:
    place = Setup(agent="grid_world:Walker", env="grid_world:GridWorld").build()
    trial = play(place.env, place.session, case("swap"))
    assert Trial.from_json(trial.to_json()) == trial
    for probe in PROBES.values():
        assert probe.title
        assert probe.question.endswith(".")


def test_a_summary_without_common_scenes_has_no_paired_difference() -> None:
    place = Setup(agent="grid_world:Walker", env="grid_world:GridWorld").build()
    main = [play(place.env, place.session, case("main", seed)) for seed in (1, 2)]
    probe = [play(place.env, place.session, case("words", seed)) for seed in (3, 4)]
    assert summarize("words", probe, main)["against_main"] is None
    assert summarize("words", probe, [*main, *probe])["against_main"]["n"] == 2
    assert summarize("free", probe, [*main, *probe])["against_main"] is None  # its split decides the scene
    assert count_failures([trial.episode for trial in main]) == {}
