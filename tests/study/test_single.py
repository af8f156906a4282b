from __future__ import annotations

import json
from pathlib import Path

import pytest

from visuomotor.errors import DataError
from visuomotor.recipes import get_recipe
from visuomotor.study.single import _claim, _Clock, demo

TINY = get_recipe("demo-tiny")


def test_a_new_folder_remembers_its_recipe_and_takes_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "study"
    _claim(folder, TINY)
    before = (folder / "recipe.json").read_bytes()
    _claim(folder, TINY)
    assert (folder / "recipe.json").read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == ["recipe.json"]


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    _claim(tmp_path, TINY)
    with pytest.raises(DataError, match=r"recipe\.training\.seed: 0 there, 4 here"):
        _claim(tmp_path, TINY.with_seed(4))


def test_a_folder_or_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"found notes\.txt"):
        demo(tmp_path, recipe=TINY)
    with pytest.raises(DataError, match="found a file"):
        demo(tmp_path / "notes.txt", recipe=TINY)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_recipe_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(DataError, match=r"recipe\.json: expected the recipe of a study"):
        _claim(tmp_path, TINY)


def test_a_finished_study_is_not_done_again(tmp_path: Path) -> None:
    _claim(tmp_path, TINY)
    (tmp_path / "report.json").write_text('{"task": "put_in"}')
    (tmp_path / "report.html").write_text("<html>")
    study = demo(tmp_path, recipe=TINY)
    assert study.finished_before
    assert study.report == {"task": "put_in"}
    assert study.page == tmp_path / "report.html"


def test_seconds_add_up_over_sittings_also_when_one_is_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text('{"collect": 100.0}')
    clock = _Clock(path)
    with pytest.raises(KeyboardInterrupt), clock.running("collect"):
        raise KeyboardInterrupt
    assert 100 <= json.loads(path.read_text())["collect"] < 101
