"""A foreign data set is told what its numbers mean by a file, on the command line too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from visuomotor.agent import load_agent
from visuomotor.cli import main
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.meaning import draft, load_meaning, load_meanings
from visuomotor.data.synthetic import SPEC
from visuomotor.errors import DataError

GOLDEN = Path(__file__).parents[1] / "parity" / "lerobot_golden"


@pytest.fixture
def foreign(dataset: Path, tmp_path: Path) -> Path:
    """A data set that says nothing of its numbers, with a camera of another name."""
    folder = Path(shutil.copytree(dataset, tmp_path / "theirs"))
    (folder / "meta/visuomotor.json").unlink()
    (folder / "videos/observation.images.wrist").rename(folder / "videos/observation.hand")
    path = folder / "meta/info.json"
    path.write_text(path.read_text().replace("observation.images.wrist", "observation.hand"))
    import pyarrow.parquet as pq

    for episodes in folder.glob("meta/episodes/*/*.parquet"):
        table = pq.read_table(episodes)
        names = [name.replace("observation.images.wrist", "observation.hand") for name in table.column_names]
        pq.write_table(table.rename_columns(names), episodes)
    return folder


def fill(told: dict) -> dict:
    """What a person does: the true kinds and units of `SPEC`."""
    for what, dimensions in (("state", SPEC.state), ("action", SPEC.action)):
        for entry, true in zip(told[what], dimensions, strict=True):
            assert entry["name"] == true.name
            entry |= {"unit": true.unit, "kind": true.kind}
    return {**told, "embodiment": "theirs"}


def filled(folder: Path, path: Path) -> Path:
    path.write_text(json.dumps(fill(draft(folder))))
    return path


def test_a_draft_says_what_info_says_and_marks_the_rest(foreign: Path) -> None:
    told = draft(foreign)
    assert [(c["name"], c["height"], c["width"]) for c in told["cameras"]] == [
        ("front", SPEC.cameras[0].height, SPEC.cameras[0].width),
        ("hand", SPEC.cameras[1].height, SPEC.cameras[1].width),
    ]
    assert told["keys"] == {"hand": "observation.hand"}
    assert {entry["kind"] for entry in (*told["state"], *told["action"])} == {"?"}
    assert {entry["unit"] for entry in (*told["state"], *told["action"])} == {"?"}
    assert told["rate"] == SPEC.rate
    assert any("action.executed" in line for line in told["note"])


@pytest.mark.parametrize("name", ["videos", "chunks", "images", "depth", "v21"])
def test_a_draft_of_what_lerobot_wrote_can_be_filled_in(name: str, tmp_path: Path) -> None:
    told = draft(GOLDEN / name / "set")
    assert told["embodiment"] == "golden"
    for entry in (*told["state"], *told["action"]):
        entry |= {"unit": "rad", "kind": "joint"}
    (tmp_path / "spec.json").write_text(json.dumps(told))
    meaning = load_meaning(tmp_path / "spec.json")
    reader = LeRobotReader(GOLDEN / name / "set", meaning.spec, keys=meaning.keys)
    assert [d.name for d in reader.spec.state] == ["a", "b", "gripper"]
    assert all("depth" not in camera.name for camera in reader.spec.cameras)


def test_a_spec_is_a_meaning(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_json()))
    assert load_meaning(tmp_path / "spec.json").spec == SPEC


def test_what_is_not_filled_in_is_named(foreign: Path, tmp_path: Path) -> None:
    told, path = fill(draft(foreign)), tmp_path / "spec.json"
    for change, said in (
        ({"embodiment": "?"}, "not filled in: embodiment"),
        ({"state": [*told["state"][:-1], {**told["state"][-1], "kind": "?"}]}, r"state\[2\]\.kind"),
        ({"state": [{"name": "x", "kind": "joints"}]}, "Did you mean 'joint'"),
        ({"stat": []}, "Did you mean 'state'"),
        ({"keys": 3}, "expected keys"),
        ({"rate": "fast"}, "spec.json"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(DataError, match=said):
            load_meaning(path)
    path.write_text(json.dumps(draft(foreign)))
    with pytest.raises(DataError, match=r"and \d+ more"):
        load_meaning(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected an object"):
        load_meaning(path)


def test_the_command_line_is_told(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.json"
    assert main(["data", "info", str(foreign)]) == 1
    assert f"visuomotor data spec {foreign} --out spec.json" in capsys.readouterr().err
    assert main(["data", "spec", str(foreign), "--out", str(spec)]) == 0
    assert "fill in 12 places" in capsys.readouterr().out
    assert main(["data", "spec", str(foreign), "--out", str(spec)]) == 1
    assert "filled in already" in capsys.readouterr().err
    assert main(["data", "info", str(foreign), "--spec", str(spec)]) == 1
    assert "not filled in: state[0].unit" in capsys.readouterr().err
    filled(foreign, spec)
    assert main(["data", "info", str(foreign), "--spec", str(spec), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["embodiment"], told["video"]["hand"]) == ("theirs", "h264 yuv444p")
    assert main(["data", "check", str(foreign), "--spec", str(spec), "--only", "limits"]) == 0
    page = tmp_path / "out"
    assert (
        main(["data", "view", str(foreign), "--spec", str(spec), "--out", str(page), "--episodes", "0"]) == 0
    )
    assert (page / "index_files/000000-hand.mp4").is_file()


def test_a_test_set_of_our_own_keeps_its_spec(foreign: Path, dataset: Path, tmp_path: Path) -> None:
    spec = filled(foreign, tmp_path / "spec.json")
    command = ["data", "check", str(foreign), "--spec", str(spec), "--test", str(dataset), "--only"]
    assert main([*command, "leaked_seeds"]) == 0
    assert main([*command, "leaked_episodes"]) == 1


def test_training_is_told(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = filled(foreign, tmp_path / "spec.json")
    short = ["--training.steps", "1", "--training.batch-size", "2", "--policy.language.reader", "scratch"]
    for number, word in enumerate((str(spec), f"theirs={spec}")):
        out = tmp_path / f"run{number}"
        command = ["train", str(foreign), "--out", str(out), "--recipe", "demo-tiny", "--spec", word, *short]
        assert main(command) == 0
    agent = load_agent(out)
    assert agent.policy.bodies["theirs"] == load_meaning(spec).spec
    assert np.isfinite(
        LeRobotReader(foreign, load_meaning(spec).spec, keys={"hand": "observation.hand"}).state
    ).all()


def test_files_go_to_the_data_sets_that_need_them(foreign: Path, dataset: Path, tmp_path: Path) -> None:
    spec = str(filled(foreign, tmp_path / "spec.json"))
    assert set(load_meanings([spec], [foreign, dataset])) == {"theirs"}
    assert load_meanings([], [foreign]) == {}
    with pytest.raises(ValueError, match="Did you mean 'theirs'"):
        load_meanings([f"their={spec}"], [foreign, dataset])
    with pytest.raises(ValueError, match="Leave it out"):
        load_meanings([spec], [dataset])
    with pytest.raises(DataError, match="missing"):
        load_meanings([str(tmp_path / "none.json")], [foreign])
