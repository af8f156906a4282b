"""What the data page shows runs, word for word."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from visuomotor.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_recipes_of_the_data_page_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PAGE.parents[1] / "tests/parity/lerobot_golden/v21/set", "theirs")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(code) == 6
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in code:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("4 ")
    assert "1.5 ('force', 'remark')" in out
    assert any(line.startswith("v2.1 18 ['action', ") for line in out)
    assert out[-1] == "torch.Size([4, 2, 96, 128, 3]) torch.Size([4, 8, 2])"


SMALLER = {
    "collect": ["--workers", "0"],
    "train": ["--recipe", "demo-tiny", "--training.steps", "2", "--training.batch-size", "4"],
    "evaluate": ["--workers", "0", "--videos", "0"],
}


@pytest.mark.slow
def test_the_recipe_of_several_robots_runs(tmp_path, monkeypatch):
    """Line by line, with two demonstrations of each, two steps of a tiny network, and one episode."""
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (block,) = re.findall(r"## I mix several robots\n\n```\n(.*?)```", PAGE.read_text(), re.S)
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [words[0] for words in lines] == ["collect", "collect", "train", "evaluate"]
    for words in lines:
        if "--episodes" in words:
            words[words.index("--episodes") + 1] = "2" if words[0] == "collect" else "1"
        assert main([*words, *SMALLER[words[0]]]) == 0, words
    report = json.loads((tmp_path / "mixed_widowx/report.json").read_text())
    assert report["success"]["n"] == 1
    specs = json.loads(next((tmp_path / "mixed").rglob("specs.json")).read_text())
    assert set(specs) == {"franka", "widowx"}
