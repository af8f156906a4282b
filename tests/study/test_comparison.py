"""A comparison from beginning to end: killed, stopped, gone on with, made larger, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killable_comparison import EXAM, make_arm, make_data, run

import visuomotor
from visuomotor.data.synthetic import SPEC, make_episode
from visuomotor.data.writer import LeRobotWriter
from visuomotor.errors import DataError, VisuomotorError
from visuomotor.evaluation.runner import FIRST_SEED
from visuomotor.recipes import CollectConfig, Recipe
from visuomotor.study import Arm, Comparison, compare_arms, comparison
from visuomotor.training.loop import Diverged, TrainReport

SOURCE = Path(visuomotor.__file__).parent.parent
TESTS = Path(__file__).parents[1]
NARROW, WIDE = make_arm("narrow"), make_arm("wide", width=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "slides")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two arms without a stop."""
    out = tmp_path_factory.mktemp("whole") / "comparison"
    return run(data, out, [NARROW, WIDE], merge=out.parent / "families.json", command="visuomotor compare x")


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_arms_learn_and_play_the_same(whole: Comparison, data: Path) -> None:
    report = whole.report
    assert whole.worked == ("narrow", "wide")
    assert list(report["arms"]) == ["narrow", "wide"]
    assert list(report["references"]) == ["random"], "this world has no expert"
    played = {}
    for name in ("narrow", "wide", "narrow/untrained", "wide/untrained"):
        one = json.loads((whole.folder / "arms" / name / "report.json").read_text())
        played[name] = [row["seed"] for row in one["episodes"] if row["part"] == "main"]
        assert one["demonstrations"]["sets"].keys() == {"slide_world:SlideWorld_slide"}
    assert all(seeds == list(range(FIRST_SEED, FIRST_SEED + 5)) for seeds in played.values())
    for arm in report["arms"].values():
        assert (arm["steps"], arm["batch_size"], arm["history"]) == (12, 8, 1)
        assert arm["success"]["n"] == arm["against_untrained"]["n"] == 5
        assert arm["train_seconds"] > 0
        assert arm["executor"]["horizon"] == 4
    assert report["arms"]["narrow"]["parameters"] < report["arms"]["wide"]["parameters"]
    assert report["budget"]["steps"] == 12
    (pair,) = report["differences"]
    assert (pair["first"], pair["second"], pair["n"]) == ("narrow", "wide", 5)
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert pair["p_holm"] == pair["p_value"]
    assert report["data"]["demonstrations"] == 4
    assert len([path for path in (whole.folder / "cache" / "frames").iterdir() if path.is_dir()]) == 1


def test_the_untrained_policy_has_the_weights_that_training_began_with(
    whole: Comparison, data: Path, tmp_path: Path
) -> None:
    from visuomotor.agent import load_policy
    from visuomotor.training.run import build_policy

    fresh = load_policy(whole.folder / "arms" / "wide" / "untrained" / "policy").policy
    first = build_policy(
        "tiny_policy:TinyPolicy", WIDE.recipe.policy, fresh.bodies, seed=WIDE.recipe.training.seed
    )
    for name, weight in first.state_dict().items():
        assert weight.equal(fresh.state_dict()[name]), name


def test_the_same_call_does_nothing_to_what_is_finished(whole: Comparison, data: Path) -> None:
    before = states(whole.folder / "arms")
    again = run(data, whole.folder, [NARROW, WIDE], command="visuomotor compare x")
    assert again.worked == ()
    assert again.report == whole.report
    assert states(whole.folder / "arms") == before


def test_results_are_merged_into_a_file_and_leave_the_rest_of_it(whole: Comparison, data: Path) -> None:
    file = whole.folder.parent / "families.json"
    found = json.loads(file.read_text())["policies"]
    assert list(found) == ["narrow", "wide"]
    needed = {"success", "swap", "phrasing", "parameters", "train_seconds", "inference_ms"}
    for name, entry in found.items():
        assert set(entry) > needed
        assert entry["success"] == whole.report["arms"][name]["success"]["rate"]
        assert entry["n"] == 5
        assert entry["success_interval"][0] <= entry["success"] <= entry["success_interval"][1]
        assert entry["swap"] is None, "it was not asked"
        assert (entry["seed"], entry["command"]) == (0, "visuomotor compare x")
        assert set(entry["against_untrained"]) == {"difference", "low", "high", "p_value", "n"}
    file.write_text('{"note": "kept", "policies": {"old": {"success": 1}, "wide": {"success": 0}}}')
    run(data, whole.folder, [WIDE], merge=file)
    merged = json.loads(file.read_text())
    assert merged["note"] == "kept"
    assert merged["policies"]["old"] == {"success": 1}
    assert merged["policies"]["wide"]["parameters"] == found["wide"]["parameters"]
    file.write_text("[]")
    with pytest.raises(DataError, match="Nothing was overwritten"):
        run(data, whole.folder, [WIDE], merge=file)
    assert file.read_text() == "[]"


def test_a_kill_loses_nothing_that_was_saved_and_changes_no_bit(
    whole: Comparison, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    script = [sys.executable, str(TESTS / "killable_comparison.py"), str(data), str(out), "wide", "8"]
    here = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = json.loads((out / "report.json").read_text())
    assert list(told["arms"]) == ["narrow"], "the report is written after each arm"
    assert told["waiting"] == ["wide"]
    before = states(out / "arms" / "narrow")
    stages: list[tuple[str, int]] = []
    finished = run(data, out, [NARROW, WIDE], tell=lambda what, done, *_: stages.append((what, done)))
    assert finished.worked == ("wide",)
    assert states(out / "arms" / "narrow") == before, "a finished arm was touched"
    assert stages[0] == ("wide: train the policy", 6), "it goes on from the checkpoint of step 5"
    assert {what.partition(":")[0] for what, _ in stages} == {"wide", "wide, untrained"}
    for name, arm in finished.report["arms"].items():
        one, other = arm, whole.report["arms"][name]
        assert one["weights_sha256"] == other["weights_sha256"]
        assert one["success"] == other["success"]
        assert [line["loss"] for line in one["curve"]] == [line["loss"] for line in other["curve"]]


def test_ctrl_c_while_playing_keeps_the_episodes(data: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, note: str) -> None:
        if what == "narrow: play unseen scenes" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"finished episodes are saved in .*narrow"):
        run(data, tmp_path / "out", [NARROW], tell=interrupt)
    seen: list[tuple[str, int]] = []
    run(data, tmp_path / "out", [NARROW], tell=lambda what, done, *_: seen.append((what, done)))
    assert seen[0] == ("narrow: play unseen scenes", 3)


def test_an_arm_can_join_later(whole: Comparison, data: Path) -> None:
    before = states(whole.folder / "arms" / "wide")
    late = make_arm("late", width=4)
    joined = run(data, whole.folder, [late], untrained=False)
    assert joined.worked == ("late",)
    assert list(joined.report["arms"]) == ["narrow", "wide", "late"]
    assert len(joined.report["differences"]) == 3
    assert joined.report["arms"]["late"]["against_untrained"] is None
    assert states(whole.folder / "arms" / "wide") == before
    page, table = (whole.folder / "report.html").read_text(), (whole.folder / "table.md").read_text()
    assert all(name in page and name in table for name in ("narrow", "wide", "late", "random"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"steps": 13}, "steps: 12 for narrow, 13 for other"),
        ({"batch_size": 16}, "batch_size: 8 for narrow, 16 for other"),
        ({"seed": 4}, "seed: 0 for narrow, 4 for other"),
        ({"hold_out": 1}, "hold_out: 0 for narrow, 1 for other"),
        ({"history": (-1, 0)}, "history"),
    ],
)
def test_unequal_budgets_are_refused_before_anything_is_done(
    data: Path, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(data, tmp_path / "out", [NARROW, make_arm("other", **other)])
    assert "--unequal" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_with_a_reason_budgets_may_differ_and_the_page_says_so(data: Path, tmp_path: Path) -> None:
    arms = [NARROW, make_arm("longer", steps=14)]
    found = run(data, tmp_path, arms, unequal="more <steps>", untrained=False, references=())
    assert found.report["unequal"]["reason"] == "more <steps>"
    assert "steps" not in found.report["budget"]
    page = found.page.read_text()
    assert "steps: 12 for narrow, 14 for longer" in page
    assert "more &lt;steps&gt;" in page
    again = run(data, tmp_path, arms, untrained=False, references=())
    assert again.worked == ()
    assert again.report["unequal"]["reason"] == "more <steps>"


def test_arms_without_a_common_exam_are_refused_whatever_the_reason(data: Path, tmp_path: Path) -> None:
    other = replace(NARROW.recipe, evaluation=replace(EXAM, seed_offset=9))
    with pytest.raises(ValueError, match=r"evaluation\.seed_offset: 0 there, 9 here"):
        run(data, tmp_path / "out", [NARROW, Arm(name="other", recipe=other)], unequal="I want to")
    other = replace(NARROW.recipe, collect=CollectConfig(episodes=3))
    with pytest.raises(ValueError, match=r"collect\.episodes: 500 there, 3 here"):
        compare_arms(tmp_path / "out", [NARROW, Arm(name="other", recipe=other)])
    with pytest.raises(ValueError, match="two arms are called 'narrow'"):
        run(data, tmp_path / "out", [NARROW, NARROW])
    with pytest.raises(ValueError, match="at least one arm"):
        run(data, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_another_arm_of_the_same_name_and_another_exam_are_refused(whole: Comparison, data: Path) -> None:
    before = states(whole.folder)
    with pytest.raises(DataError, match=r"arm\.policy\.width: 8 there, 9 here.*give the arm another name"):
        run(data, whole.folder, [make_arm("narrow", width=9)])
    longer = replace(NARROW.recipe, evaluation=replace(EXAM, episodes=6))
    with pytest.raises(DataError, match=r"exam\.episodes: 5 there, 6 here"):
        run(data, whole.folder, [Arm(name="new", recipe=longer)])
    assert states(whole.folder) == before


def test_a_folder_of_somebody_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        run(data, tmp_path, [NARROW])
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_data_that_grow_between_two_arms_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, train = make_data(tmp_path / "slides"), comparison.train_recipe

    def train_and_collect(recipe: Recipe, *arguments: Any, **options: Any) -> TrainReport:
        report = train(recipe, *arguments, **options)
        with LeRobotWriter(data, SPEC, executed=True, resume=True) as writer:
            writer.add(make_episode(4, ticks=8))
        return report

    monkeypatch.setattr(comparison, "train_recipe", train_and_collect)
    with pytest.raises(DataError, match=r"slides: the data set has changed since this comparison began"):
        run(data, tmp_path / "out", [NARROW, WIDE], untrained=False, references=())
    assert (tmp_path / "out/arms/narrow/report.json").is_file()
    assert not (tmp_path / "out/arms/wide/policy").exists()


def test_an_arm_that_diverges_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, wild = comparison.train_recipe, make_arm("wild", width=3)

    def diverge(recipe: Recipe, *arguments: Any, **options: Any) -> TrainReport:
        if recipe is wild.recipe:
            raise Diverged("training step 7: expected a finite loss.")
        return train(recipe, *arguments, **options)

    monkeypatch.setattr(comparison, "train_recipe", diverge)
    with pytest.raises(VisuomotorError, match=r"wild: training step \d+.*The other arms are finished"):
        run(data, tmp_path, [wild, NARROW], untrained=False, references=())
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["arms"]) == ["narrow"]
    assert list(report["diverged"]) == ["wild"]
    assert report["waiting"] == []
    assert "wild diverged" in (tmp_path / "report.html").read_text()
