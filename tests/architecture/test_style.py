"""Rules of the house that can be read off the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import visuomotor

SOURCE = Path(visuomotor.__file__).parent
ROOT = Path(__file__).parents[2]
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
EXCUSE = re.compile(r"#\s*long: \S+")
UNFINISHED = re.compile(r"\bTODO\b|\bFIXME\b|\bXXX\b|NotImplementedError")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_files_are_short_or_say_why_not() -> None:
    """Up to 500 lines, or `# long: reason` in the first ten."""
    lengths = {}
    for path in FILES:
        lines = path.read_text().splitlines()
        if len(lines) > LONGEST_FILE and not any(EXCUSE.search(line) for line in lines[:10]):
            lengths[name(path)] = len(lines)
    assert lengths == {}


def test_functions_are_short_or_say_why_not() -> None:
    """Up to 60 lines besides signature and docstring, or `# long: reason` before the first line."""
    lengths = {}
    for path in FILES:
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                head = lines[max(node.lineno - 2, 0) : node.body[0].lineno]
                if length > LONGEST_FUNCTION and not any(EXCUSE.search(line) for line in head):
                    lengths[f"{name(path)}:{node.name}"] = length
    assert lengths == {}


def test_nothing_is_called_utils_or_common() -> None:
    names = {part for path in FILES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not names & {"utils", "util", "common", "misc"}


def test_every_module_says_what_it_is_and_what_is_public() -> None:
    for path in FILES:
        body = tree(path).body
        assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)
        targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        assert not defines or "__all__" in names, f"{name(path)} has no __all__"


def test_no_work_at_import() -> None:
    """Modules define and assign; they do not loop, print or open files when they are imported."""
    for path in FILES:
        for node in tree(path).body:
            is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not isinstance(node, ast.For | ast.While | ast.With), f"{name(path)}:{node.lineno}"
            assert not is_call, f"{name(path)}:{node.lineno}"


def test_nothing_is_left_unfinished_or_swallowed() -> None:
    for path in FILES:
        assert not UNFINISHED.search(path.read_text()), name(path)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name(path)}:{node.lineno}: bare except"
                only_pass = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not only_pass, f"{name(path)}:{node.lineno}: an error is swallowed"


def test_nothing_foreign_is_unpickled() -> None:
    """Checkpoints and data never are; our own processes may talk to one another in pickles."""
    for path in FILES:
        text = path.read_text()
        assert "torch.load(" not in text, name(path)
        assert "allow_pickle=True" not in text, name(path)
        assert "pickle.load(" not in text, name(path)


def test_nothing_points_to_a_place_on_one_machine_only() -> None:
    """No absolute path of a developer and no package index of one's own, in what people get."""
    pages = [
        ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "run")
    ]
    foreign = re.compile(
        r"(?<![\w.~])/(?:work|home|root|Users|opt|mnt)/|--index-url|find-links|127\.0\.0\.1:\d"
    )
    for path in [*FILES, *pages, *sorted((ROOT / "docs").glob("*.md"))]:
        assert not foreign.search(path.read_text().replace("--extra-index-url", "")), path


def test_constraints_pin_everything_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert wanted
    for requirement in re.findall(r'"([A-Za-z0-9_-]+)', wanted.group(1)):
        assert requirement.lower().replace("_", "-") in pinned, requirement
