"""The door: what `./run` says before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds what `run` reads."""
    folder = tmp_path / "a clone"
    (folder / "benchmarks").mkdir(parents=True)
    for name in ("run", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def call(clone: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(clone / "run"), *words],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_word_it_says_what_it_can_do(clone: Path) -> None:
    done = call(clone)
    assert done.returncode == 2
    for word in ("demo", "test", "lint", "check", "bench", "WORD"):
        assert f"./run {word}" in done.stdout
    assert not (clone / ".venv").exists()


def test_without_a_fitting_python_it_says_what_to_install(clone: Path) -> None:
    done = call(clone, "demo", PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "CPython 3.11 or newer" in done.stderr
    assert "/no/such/python" in done.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(("script", "shell"), [("run", "sh"), (".ci/run", "bash")])
def test_scripts_are_executable_and_parse(script: str, shell: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[0].endswith(shell)
    subprocess.run([shell, "-n", str(path)], check=True)


def test_ci_calls_what_the_readme_promises() -> None:
    assert re.search(r"^\./run lint$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert re.search(r"^\./run test\b", (ROOT / ".ci" / "run").read_text(), re.M)
    assert re.search(r"^\./run demo\n\./run test$", (ROOT / "README.md").read_text(), re.M)
