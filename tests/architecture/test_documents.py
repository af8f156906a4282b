"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import visuomotor
from visuomotor.cli import COMMANDS, commands
from visuomotor.registry import BUILT_IN

SOURCE = Path(visuomotor.__file__).parent
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}


def test_public_names_exist_and_are_documented() -> None:
    assert sorted(visuomotor._HOME) == sorted(set(visuomotor.__all__) - {"__version__"})
    for name in visuomotor._HOME:
        assert inspect.getdoc(getattr(visuomotor, name)), name
        assert name in dir(visuomotor)


def test_public_names_stand_in_the_architecture_page() -> None:
    for name in visuomotor._HOME:
        assert re.search(rf"`{name}`", DOCS["architecture.md"]), name


def test_an_unknown_public_name_is_answered_with_the_closest() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'Spec'"):
        visuomotor.Specs  # noqa: B018


def test_type_checkers_see_the_public_names() -> None:
    text = Path(visuomotor.__file__).read_text()
    seen = re.search(r"if TYPE_CHECKING:\n(.*?)\n\n", text, re.S)
    assert seen
    for name in visuomotor._HOME:
        assert re.search(rf"\b{name}\b", seen.group(1)), name


def public() -> list[tuple[str, str]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        dotted = ".".join(("visuomotor", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        if not dotted.endswith("__main__"):
            found += [(dotted, name) for name in getattr(importlib.import_module(dotted), "__all__", ())]
    return found


def test_every_public_part_has_a_docstring() -> None:
    for module, name in public():
        part = getattr(importlib.import_module(module), name)
        if inspect.isclass(part) or inspect.isfunction(part):
            assert part.__doc__, f"{module}.{name}"
            if inspect.isclass(part) and part.__module__ == module:
                for attribute, member in vars(part).items():
                    if inspect.isfunction(member) and not attribute.startswith("_"):
                        assert inspect.getdoc(member), f"{module}.{name}.{attribute}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_has_a_function(command: str) -> None:
    assert f"visuomotor {command}" in README
    assert inspect.getdoc(getattr(commands, command.replace(" ", "_")))


@pytest.mark.parametrize(
    "kind", ["policy", "env", "embodiment", "backbone", "expert", "codec", "executor", "recipe"]
)
def test_every_registered_name_is_in_the_docs(kind: str) -> None:
    everything = README + "".join(DOCS.values())
    for name in BUILT_IN[kind]:
        assert f"`{name}`" in everything, f"{kind} {name}"


def test_every_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for block in re.findall(
        r"^(?:dependencies|language|smollm2|sentencepiece|gym|hdf5|zarr|test|parity) = \[(.*?)\]$",
        project,
        re.M | re.S,
    ):
        for requirement in re.findall(r'"([A-Za-z0-9_-]+)', block):
            assert f"`{requirement}`" in DOCS["dependencies.md"], requirement


def test_links_of_the_documents_lead_somewhere() -> None:
    pages = {ROOT / "README.md": README, **{ROOT / "docs" / name: text for name, text in DOCS.items()}}
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    here = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "success"
