"""What the data page shows runs, word for word."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

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
