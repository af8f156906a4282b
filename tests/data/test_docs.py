"""What the data page shows runs, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_recipes_of_the_data_page_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(code) == 5
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in code:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("4 ")
    assert out[-1] == "torch.Size([4, 2, 96, 128, 3]) torch.Size([4, 8, 2])"
