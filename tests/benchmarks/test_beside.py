"""Another program is asked over a pipe, and measured in turn with ours."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks" / "peers")!r})
from serve import cores, serve, timed

def fail():
    raise RuntimeError("out of milk")

print("chatter of a library")
serve({{"add": lambda one, two: {{"sum": one + two}}, "work": lambda: timed(lambda: sum(range(1000))),
    "cores": cores, "fail": fail}})
"""


@pytest.fixture(scope="module")
def beside() -> ModuleType:
    spec = importlib.util.spec_from_file_location("beside", ROOT / "benchmarks" / "peers" / "beside.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["beside"] = module
    spec.loader.exec_module(module)
    return module


def test_a_peer_answers_and_its_end_shows_why(beside: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(SCRIPT)
    with beside.Peer(sys.executable, str(script), tmp_path / "log") as peer:
        assert peer("add", one=2, two=3) == {"sum": 5}
        before = os.sched_getaffinity(0)
        with beside.one_core(peer, min(before)):
            assert os.sched_getaffinity(0) == {min(before)}
            assert peer("work")["seconds"] > 0
        assert os.sched_getaffinity(0) == before
        with pytest.raises(RuntimeError, match="out of milk"):
            peer("fail")


def test_sides_have_their_turns_alternately_and_the_first_is_not_kept(beside: ModuleType) -> None:
    order: list[str] = []

    def turn(name: str, seconds: float) -> dict[str, float]:
        order.append(name)
        return {"seconds": seconds, "cpu": seconds / 2}

    times: dict[str, list[float]] = {}
    beside.alternate(
        times, 2, {"ours": lambda: turn("ours", 2), "theirs": lambda: turn("theirs", 6)}, calls=2
    )
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert times == {
        "ours": [1, 1],
        "ours (CPU)": [0.5, 0.5],
        "theirs": [3, 3],
        "theirs (CPU)": [1.5, 1.5],
    }


def test_a_rate_is_an_amount_by_its_time(beside: ModuleType) -> None:
    times: dict[str, list[float]] = {}
    beside.note(times, "frames", {"seconds": 4.0}, amount=100)
    assert times == {"frames": [25.0]}
