from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fabricated import invent
from fabricated_comparison import played

from visuomotor import __version__, study
from visuomotor.cli import COMMANDS, commands, main
from visuomotor.cli.show import Bars, rate, table
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.synthetic import make_dataset
from visuomotor.envs.tabletop.catalog import catalog
from visuomotor.errors import DataError
from visuomotor.evaluation.report import write_report
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.study import Arm, Comparison, Study, single

REPORT = {
    "success": {"rate": 0.5, "low": 0.2, "high": 0.8, "n": 4},
    "wrong_object": 1,
    "wrong_place": 0,
    "probes": {"swap": {"rate": 1.0, "low": 0.6, "high": 1.0, "n": 6}},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command `demo` asks of the library, which only pretends to work."""
    seen: dict[str, Any] = {}

    def demo(out: Path, **arguments: Any) -> Study:
        seen.update(arguments, out=out)
        return Study(folder=out, report=REPORT, finished_before=False)

    monkeypatch.setattr(study, "demo", demo)
    return seen


# --- finding the command


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


def test_no_command_at_all_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: visuomotor COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("words", "closest"),
    [
        (["evalute"], "'evaluate'"),
        (["data", "inof"], "'data info'"),
        (["data"], "'data view'"),
        (["demo", "--recipe", "dmo"], "'demo'"),
        (["demo", "--recipe=demo-tny"], "'demo-tiny'"),
        (["train", "x", "--recipe", "lfit"], "'lift'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_closest(
    words: list[str], closest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert f"Did you mean {closest}?" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_wrong_task_is_answered_with_the_closest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collect", "--out", str(tmp_path / "data"), "--task", "put_on", "--workers", "0"]) == 2
    assert "Did you mean 'put_in'?" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_wrong_option_is_answered_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--training.stesp", "3"])
    assert stopped.value.code == 2
    assert "--training.steps" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert f"usage: visuomotor {name}" in capsys.readouterr().out


# --- options and recipes


def test_options_of_demo_reach_the_recipe(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--out", "here", "--seed", "5", "--text", "scratch", "--episodes", "9", "--steps", "8"]
    assert main([*words, "--policy.sight.width", "64", "--training.precision", "bf16", "--workers", "1"]) == 0
    recipe: Recipe = asked["recipe"]
    assert (recipe.collect.seed, recipe.training.seed) == (5, 5)
    assert (recipe.collect.episodes, recipe.training.steps) == (9, 8)
    assert (recipe.policy.language.reader, recipe.policy.sight.width) == ("scratch", 64)
    assert recipe.training.precision == "bf16"
    assert asked["out"] == Path("here")
    assert asked["workers"] == 1
    assert asked["command"] == "visuomotor " + " ".join(
        [*words, "--policy.sight.width", "64", "--training.precision", "bf16", "--workers", "1"]
    )


def test_without_options_demo_follows_its_recipe(asked: dict[str, Any]) -> None:
    assert main(["demo"]) == 0
    assert asked["recipe"] == get_recipe("demo")
    assert main(["demo", "--tiny"]) == 0
    assert asked["recipe"] == get_recipe("demo-tiny")
    assert main(["demo", "--recipe", "lift", "--steps", "3"]) == 0
    assert asked["recipe"].collect == get_recipe("lift").collect
    assert asked["recipe"].training.steps == 3


def test_a_number_that_makes_no_sense_is_refused_with_the_reason(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--steps", "0"]) == 1
    assert "steps must be at least 1" in capsys.readouterr().err


def test_success_is_told_with_its_interval(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "here"]) == 0
    said = capsys.readouterr().out
    assert "success 50.0 % of 4 (95 % interval 20.0 to 80.0 %)" in said
    assert "wrong object 1, wrong place 0" in said
    assert "probe swap" in said
    assert str(Path("here") / "report.html") in said


def test_json_is_the_last_line(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == REPORT


# --- the other commands that work


def test_collect_writes_a_data_set_and_goes_on_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["collect", "--out", str(tmp_path / "set"), "--cameras", "front", "16", "--workers", "0"]
    words += ["--task", "lift", "--phrasings", "1", "--options", "rival", "True", "--json", "--episodes"]
    assert main([*words, "1"]) == 0
    assert main([*words, "2"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads((tmp_path / "set" / "report.json").read_text())
    assert report["kept"] == 2
    assert len(LeRobotReader(tmp_path / "set").episodes) == 2
    facts = json.loads((tmp_path / "set" / "meta" / "visuomotor.json").read_text())
    assert facts["collect"]["options"] == {"rival": True}


def test_train_learns_from_a_folder_and_a_second_call_finds_it_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make_dataset(tmp_path / "set", episodes=3, ticks=6)
    words = ["train", str(folder), "--out", str(tmp_path / "run"), "--recipe", "demo-tiny"]
    words += ["--training.steps", "3", "--training.batch-size", "4", "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["finished"]
    assert report["resumed_from"] is None
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["resumed_from"] == 3
    again = ["train", str(folder), "--from", str(tmp_path / "run"), "--out", str(tmp_path / "second")]
    again += ["--training.steps", "2", "--training.batch-size", "4"]
    assert main([*again, "--recipe", "demo-act"]) == 1
    assert "trains the family 'act', but" in capsys.readouterr().err
    assert main([*again, "--policy.blocks", "2"]) == 1
    assert "velocity.blocks.1." in (said := capsys.readouterr().err)
    assert "not in the checkpoint" in said
    assert main([*again, "--policy.blocks", "2", "--fresh", "velocity.blocks.1"]) == 0
    said = capsys.readouterr().out
    assert "step 3" in said
    assert "new weights: velocity.blocks.1." in said
    assert "config.blocks: 1 there, 2 here" in said


def test_train_wants_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 1
    assert "visuomotor train FOLDER" in capsys.readouterr().err


# --- compare


def test_options_of_compare_reach_every_arm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def compare_arms(out: Path, arms: list[Arm], **arguments: Any) -> Comparison:
        seen.update(arguments, out=out, arms=arms)
        report: dict[str, Any] = {"arms": {}, "references": {}, "differences": []}
        return Comparison(folder=out, report=report, worked=())

    monkeypatch.setattr(study, "compare_arms", compare_arms)
    words = ["compare", "demo-tiny", "other=demo-tiny", "--out", "here", "--steps", "9", "--batch-size", "8"]
    words += ["--seed", "3", "--episodes", "7", "--probe-episodes", "5", "--seed-offset", "90"]
    words += ["--demonstrations", "11", "--unequal", "why not", "--no-untrained", "--merge", "f.json"]
    assert main(words) == 0
    assert [arm.name for arm in seen["arms"]] == ["demo-tiny", "other"]
    for arm in seen["arms"]:
        recipe = arm.recipe
        assert (recipe.training.steps, recipe.training.batch_size, recipe.training.seed) == (9, 8, 3)
        assert (recipe.collect.episodes, recipe.collect.seed) == (11, 3)
        exam = recipe.evaluation
        assert (exam.episodes, exam.probe_episodes, exam.seed_offset) == (7, 5, 90)
    assert (seen["out"], seen["unequal"], seen["untrained"]) == (Path("here"), "why not", False)
    assert (seen["merge"], seen["section"], seen["data"]) == (Path("f.json"), "policies", None)
    assert seen["command"].startswith("visuomotor compare demo-tiny other=demo-tiny --out here")
    assert "nothing was trained or played" in capsys.readouterr().out


def test_compare_of_evaluations_gives_the_pair_or_every_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(tmp_path / name) for name in ("a", "b", "c")]
    for number, folder in enumerate(folders):
        write_report(folder, played(invent(), 0.9 - 0.3 * number, number))
    assert main(["compare", *folders[:2], "--json"]) == 0
    pair = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert pair["n"] == 100
    assert pair["difference"] < 0
    assert main(["compare", *folders, "--json"]) == 0
    said = capsys.readouterr().out
    pairs = json.loads(said.splitlines()[-1])["differences"]
    assert {key: pairs[0][key] for key in pair} == pair
    assert len(pairs) == 3
    assert f"{folders[1]} over {folders[0]}" in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 1, "expected two arms or evaluations or more"),
        (["demo-tny", "demo"], 1, "got both: demo and demo-tny"),
        (["demo-tny", "elsewhere"], 2, "Did you mean 'demo-tiny'"),
        (["a=demo-tny"], 2, "Did you mean 'demo-tiny'"),
    ],
)
def test_compare_says_what_it_wants(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == code
    assert message in capsys.readouterr().err


# --- when things go wrong


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(words: list[str], prog: str) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(commands, "train", command)


@pytest.mark.parametrize("error", [DataError("bad row"), ValueError("bad row"), OSError("bad row")])
def test_what_a_user_can_mend_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error, monkeypatch)
    assert main(["train", "x"]) == 1
    assert capsys.readouterr().err == "visuomotor: bad row\n"
    with pytest.raises(type(error), match="bad row"):
        main(["train", "x", "--debug"])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(ZeroDivisionError("oops"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["train", "x"])


def test_a_stop_says_what_is_saved_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISUOMOTOR_COMMAND", "./run")
    failing(KeyboardInterrupt("stopped after step 7"), monkeypatch)
    assert main(["train", "my data", "--out", "there"]) == 130
    said = capsys.readouterr().err
    assert "stopped after step 7" in said
    assert said.endswith("Go on with:\n  ./run train 'my data' --out there\n")


def test_demo_refuses_a_folder_that_holds_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--tiny", "--out", str(tmp_path)]) == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_demo_refuses_the_folder_of_another_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single._claim(tmp_path, get_recipe("demo-tiny").with_seed(3))
    assert main(["demo", "--tiny", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "recipe.collect.seed: 3 there, 0 here" in said
    assert "choose another folder" in said


# --- data and lists


def test_data_info_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dataset(tmp_path / "set", episodes=3, ticks=6)
    assert main(["data", "info", str(folder), "--json"]) == 0
    said = capsys.readouterr().out
    report = json.loads(said.splitlines()[-1])
    assert report["episodes"] == 3
    assert report["ticks"] == len(LeRobotReader(folder))
    assert report["cameras"] == ["front 32x32", "wrist 16x24"]
    assert "embodiment" in said


def test_data_info_of_something_else_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", str(tmp_path)]) == 1
    assert "meta/info.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "kind", "name"),
    [("policies", "policy", "compact"), ("envs", "env", "tabletop"), ("recipes", "recipe", "demo-tiny")],
)
def test_lists_name_what_there_is(
    command: str, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said.splitlines()[-1])[kind][name]
    assert name in said.splitlines()[0] or name in said


def test_envs_lists_what_the_catalog_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)["env"]["tabletop"]
    assert {name: told[name] for name in catalog()} == catalog()
    assert told["tasks"]["put_in_drawer"]["stages"] == ["open_drawer", "put_in"]
    assert told["tasks"]["press"]["hold"] == 2
    for kind in ("tasks", "suites", "bodies", "worlds"):
        assert kind in lines
        for name, entry in told[kind].items():
            assert any(line.split()[:1] == [name] for line in lines), name
            assert kind != "tasks" or any(entry["does"] in line for line in lines), name


def test_a_suite_is_collected_and_evaluated_in_a_world_by_another_body(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--task", "all", "--embodiment", "so101", "--world", "randomized:0.5", "--workers", "0"]
    where = str(tmp_path / "data")
    cameras = ["--cameras", "front", "16", "wrist", "16"]
    assert main(["collect", "--out", where, "--episodes", "3", *cameras, *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == 3
    assert LeRobotReader(where).spec.embodiment == "so101"
    out = str(tmp_path / "measured")
    words = ["--episodes", "3", "--probes", "phrasing", "--probe-episodes", "2", "--videos", "0"]
    assert main(["evaluate", "expert", "--out", out, *words, *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["success"]["n"] == 3
    assert '"embodiment": "so101"' in (tmp_path / "measured" / "report.json").read_text()


@pytest.mark.language
def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]}
    assert found["simulator"]["fine"]
    assert found["sentence encoder"]["fine"]
    assert found["torch"]["found"].startswith("2.")


def test_doctor_refuses_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


# --- what is shown


def test_where_nobody_watches_progress_is_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        for step in range(101):
            bars("train the policy", step, 100, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "train the policy: 0 of 100 loss 0"
    assert lines[-1] == "train the policy: 100 of 100 loss 100"


def test_a_rate_is_told_with_its_n() -> None:
    assert rate({"rate": 1.0, "low": 0.964, "high": 1.0, "n": 100}) == (
        "100.0 % of 100 (95 % interval 96.4 to 100.0 %)"
    )


def test_rows_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table([("a", "long"), ("longer", "b")])
    assert capsys.readouterr().out == "a       long\nlonger  b\n"
    table([])
    assert capsys.readouterr().out == ""
