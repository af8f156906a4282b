"""Imports go one way, and what must start fast stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import visuomotor

SOURCE = Path(visuomotor.__file__).parent

LAYERS = (
    ("types", "errors", "registry"),
    ("nn", "codecs", "text", "generative", "losses"),
    ("transforms", "data", "backbones", "embodiments", "perception"),
    ("policies",),
    ("agent", "executors", "session", "envs", "experts", "rollout"),
    ("training", "evaluation", "serving"),
    ("lab", "learn", "plots", "recipes", "study", "doctor", "cli", "testing"),
)
"""A part imports from layers above its own, and from its neighbors if that makes no circle."""

LIGHT = (
    "types",
    "errors",
    "registry",
    "envs",
    "embodiments",
    "experts",
    "data.lerobot",
    "data.info",
    "data.loader",
    "data.convert.run",
    "session",
)
"""Modules that load without torch: the processes that simulate start with them."""


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """What a file imports of the package, as dotted names without "visuomotor."; not what only types need.

    Args:
        path: A source file.
        at_import: Leave out what functions import when they are called.
    """
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only or (at_import and id(node) in deferred):
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            if node.module == "visuomotor":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("visuomotor."):
                base = node.module.removeprefix("visuomotor.")
                for alias in node.names:
                    inner = SOURCE / Path(*base.split("."))
                    is_module = (inner / f"{alias.name}.py").is_file() or (inner / alias.name).is_dir()
                    yield f"{base}.{alias.name}" if is_module else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("visuomotor."):
                    yield alias.name.removeprefix("visuomotor.")


def layer(name: str) -> int:
    part = name.split(".")[0]
    for number, parts in enumerate(LAYERS):
        if part in parts:
            return number
    raise AssertionError(f"{part!r} is in no layer; add it to LAYERS and to docs/architecture.md")


def test_every_part_has_a_layer() -> None:
    for path in files():
        if module(path):
            layer(module(path))


@pytest.mark.parametrize("path", [path for path in files() if module(path)], ids=module)
def test_imports_go_down(path: Path) -> None:
    for imported in imports(path):
        if imported == "__version__":
            continue
        assert layer(imported) <= layer(module(path)), (
            f"{module(path)} imports {imported} from a higher layer"
        )


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Some circle of a graph, or an empty list."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(edges.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return []

    for start in sorted(edges):
        if found := walk(start, []):
            return found
    return []


def test_parts_do_not_import_one_another_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    for path in files():
        part = module(path).split(".")[0]
        targets = {name.split(".")[0] for name in imports(path)} - {part, "__version__"}
        if part:
            edges.setdefault(part, set()).update(targets)
    assert circle(edges) == []


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    known = {module(path) for path in files()}
    edges = {
        module(path): {
            name for name in imports(path, at_import=True) if name in known and name != module(path)
        }
        for path in files()
        if module(path)
    }
    assert circle(edges) == []


def test_no_family_imports_another() -> None:
    families = {path.stem for path in (SOURCE / "policies").glob("*.py")} - {"__init__", "base"}
    for path in (SOURCE / "policies").glob("*.py"):
        if path.stem in families:
            taken = {name.split(".")[1] for name in imports(path) if name.startswith("policies.")} - {
                "base",
                path.stem,
            }
            assert not taken, f"{path.name} imports {taken}"


def test_what_is_shared_knows_no_family() -> None:
    families = {path.stem for path in (SOURCE / "policies").glob("*.py")} - {"__init__", "base"}
    for path in files():
        if layer(module(path) or "types") < layer("recipes"):
            for name in imports(path):
                parts = name.split(".")
                is_family = parts[0] == "policies" and len(parts) > 1 and parts[1] in families
                assert not is_family or module(path).startswith("policies"), f"{module(path)} imports {name}"


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh process after `statement`."""
    script = f"{statement}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_without_torch(name: str) -> None:
    assert "torch" not in loaded_by(f"import visuomotor.{name}")


def test_the_simulator_with_its_expert_loads_without_torch() -> None:
    loaded = loaded_by(
        "from visuomotor.registry import lookup; lookup('env', 'tabletop'); lookup('expert', 'tabletop')"
    )
    assert "mujoco" in loaded
    assert "torch" not in loaded


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import visuomotor") & {"torch", "mujoco", "numpy", "pyarrow", "av", "rich", "tyro"}


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    loaded = loaded_by("from visuomotor.cli import main; main(['--help'])")
    assert not loaded & {"torch", "mujoco", "numpy", "pyarrow", "av", "rich", "tyro"}


def fastest(command: list[str]) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.parametrize(
    ("command", "bar"),
    [(["-c", "import visuomotor"], 0.3), (["-m", "visuomotor.cli", "--help"], 0.5)],
    ids=["import visuomotor", "visuomotor --help"],
)
def test_starting_is_fast(command: list[str], bar: float) -> None:
    # The bars are promises of the README; a machine whose bare interpreter needs longer gets that much more.
    bare = fastest([sys.executable, "-c", "pass"])
    assert fastest([sys.executable, *command]) < bar + bare
