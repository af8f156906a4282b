from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from grid_world import GridWorld, Walker

from visuomotor.types import Dimension, Spec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def delay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("delay_benchmark", ROOT / "benchmarks" / "delay.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["delay_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def spec(kind: str) -> Spec:
    action = (Dimension(name="x", unit="m", kind=kind), Dimension(name="grip", kind="gripper", low=0, high=1))
    return Spec(embodiment="hand", cameras=(), state=(), action=action, rate=10.0)


def test_jerk_is_the_third_derivative_of_the_commanded_position(delay: ModuleType) -> None:
    seconds = np.arange(20) / 10
    places = np.column_stack([2 * seconds**3, np.arange(20) % 2])
    assert delay.jerk(places, spec("ee")) == pytest.approx(12.0)  # of 2 t^3; the gripper does not count
    steps = places.copy()
    steps[:, 0] = np.diff(places[:, 0], prepend=0)
    assert delay.jerk(steps, spec("ee_delta")) == pytest.approx(12.0)
    assert delay.jerk(places[:3], spec("ee")) is None


def test_a_reaction_is_the_first_command_that_differs(delay: ModuleType) -> None:
    calm = [np.array([0.0, 0.0])] * 10
    moved = [*calm[:7], np.array([0.0, 0.5]), *calm[8:]]
    assert delay.reaction(calm, moved, 4, spec("ee")) == 3
    assert delay.reaction(calm, calm, 4, spec("ee")) is None


class Jumping(GridWorld):
    """A grid whose tokens change places."""

    def change(self) -> None:
        self.tokens = {name: 8 - place for name, place in self.tokens.items()}


def walker(env: Jumping) -> Walker:
    return Walker(env)


def test_a_measurement_goes_on_where_it_was_stopped(delay: ModuleType, tmp_path: Path) -> None:
    def measure(episodes: int) -> dict:
        words = ["test_delay_agent:walker", "--env", "test_delay_agent:Jumping", "--workers", "0"]
        words += ["--out", str(tmp_path), "--episodes", str(episodes), "--latencies", "0", "0.4"]
        words += ["--executors", "receding_horizon", "real_time", "--executes", "1", "--at", "0.4"]
        return delay.measure(delay.parser().parse_args(words), say=lambda text: None)

    sys.modules["test_delay_agent"] = sys.modules[__name__]
    first = measure(2)
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 * 4
    (tmp_path / "episodes.jsonl").write_text("\n".join(lines[:5]) + '\n{"arm": {"exec')
    assert measure(2) == first
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 9
    assert len(measure(3)["arms"]) == 4
    arms = {(arm["executor"], arm["latency"]): arm for arm in first["arms"]}
    quick, slow = arms["receding_horizon", 0.0], arms["receding_horizon", 0.4]
    assert quick["reaction"]["median"] == 0
    assert slow["reaction"]["median"] >= 2
    assert slow["holds"] == 2
    assert "| `real_time` | 4 | 1 | 400 |" in (tmp_path / "delay.md").read_text()
    with pytest.raises(SystemExit, match="another measurement"):
        delay.measure(
            delay.parser().parse_args(
                [
                    "test_delay_agent:walker",
                    "--env",
                    "test_delay_agent:Jumping",
                    "--out",
                    str(tmp_path),
                    "--at",
                    "1",
                ]
            )
        )
