"""Each check finds the fault that is planted for it, and says nothing about clean data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_arm import GRIPPER, LIFT, Episode, demonstration, demonstrations, write

from visuomotor.data.check import CHECKS, Finding, check
from visuomotor.data.synthetic import make_dataset

FAULTY = 4
"""The episode that is spoiled, where it is one."""
Plant = Callable[[list[Episode]], None]


def hold(first: int, count: int) -> Plant:
    """Tick `first` of the faulty episode lasts `count` ticks longer; nothing is asked meanwhile."""

    def plant(episodes: list[Episode]) -> None:
        one = episodes[FAULTY]
        place = first % len(one.state)
        one.cut([*range(place), *[place] * count, *range(place, len(one.state))])
        one.actions[place : place + count + 1, LIFT] = 0

    return plant


def command(episodes: list[Episode]) -> None:
    for episode in episodes:
        episode.actions[:, :2] = episode.state[:, :2]


def shift(episodes: list[Episode]) -> None:
    for episode in episodes:
        episode.actions[2:] = episode.actions[:-2].copy()


def repeat_commands(episodes: list[Episode]) -> None:
    actions = episodes[FAULTY].actions
    actions[:] = actions[np.arange(len(actions)) // 3 * 3]
    actions[:, LIFT] = 0


def every(feature: str, place: int | slice, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(episodes: list[Episode]) -> None:
        for episode in episodes:
            values = getattr(episode, feature)
            values[:, place] = change(values[:, place])

    return plant


def at(feature: str, ticks: slice, place: int | slice, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(episodes: list[Episode]) -> None:
        values = getattr(episodes[FAULTY], feature)
        values[ticks, place] = change(values[ticks, place])

    return plant


def see(change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Plant:
    def plant(episodes: list[Episode]) -> None:
        episodes[FAULTY].pictures = change(episodes[FAULTY].pictures)

    return plant


def miss_ticks(episodes: list[Episode]) -> None:
    one = episodes[FAULTY]
    one.state[20:, 0] -= 2 * np.sign(one.state[20, 0])


def shake(episodes: list[Episode]) -> None:
    one = episodes[FAULTY]
    one.state[:, :2] += np.random.default_rng(0).normal(0, 0.05, (len(one.state), 2))


def copy(episodes: list[Episode]) -> None:
    twin = demonstration(1, 36 - 1 % 4)
    twin.state += np.random.default_rng(0).normal(0, 0.001, twin.state.shape)
    twin.seed = 77
    episodes[FAULTY] = twin


def say(words: str) -> Plant:
    def plant(episodes: list[Episode]) -> None:
        episodes[FAULTY].instructions = [words] * len(episodes[FAULTY].instructions)

    return plant


def say_the_same(episodes: list[Episode]) -> None:
    for episode in episodes:
        episode.instructions = ["take it"] * len(episode.instructions)


# check -> how it is planted, where it must be found: episode, a tick inside, dimension or camera
PLANTS: dict[str, tuple[Plant, dict[str, object]]] = {
    "idle_head": (hold(0, 14), {"episode": FAULTY, "ticks": (0, 15)}),
    "idle_tail": (hold(-1, 14), {"episode": FAULTY, "tick": 44}),
    "pause": (hold(20, 14), {"episode": FAULTY, "tick": 26}),
    "no_op": (repeat_commands, {"episode": FAULTY}),
    "action_is_state": (command, {"dimension": "action shoulder"}),
    "action_late": (shift, {"episode": None}),
    "gripper_range": (every("actions", GRIPPER, lambda g: 0.08 * g), {"dimension": "action gripper"}),
    "gripper_polarity": (every("actions", GRIPPER, lambda g: 1 - g), {"dimension": "action gripper"}),
    "quaternion_norm": (
        at("state", slice(7, 8), slice(2, 6), lambda q: 1.2 * q),
        {"episode": FAULTY, "tick": 7, "dimension": "state hand_qw"},
    ),
    "quaternion_flip": (
        at("state", slice(9, None), slice(2, 6), lambda q: -q),
        {"episode": FAULTY, "tick": 9, "dimension": "state hand_qw"},
    ),
    "angle_wrap": (
        at("state", slice(11, None), 6, lambda angle: angle - 2 * np.pi),
        {"episode": FAULTY, "tick": 10, "dimension": "state heading"},
    ),
    "jumps": (miss_ticks, {"episode": FAULTY, "tick": 19, "dimension": "state shoulder"}),
    "outliers": (
        at("state", slice(13, 14), 1, lambda angle: angle + 1.5),
        {"episode": FAULTY, "ticks": (13, 14), "dimension": "state elbow"},
    ),
    "odd_episode": (
        at("actions", slice(None), LIFT, lambda meters: 1000 * meters + 100),
        {"episode": FAULTY, "dimension": "action lift"},
    ),
    "jerk": (shake, {"episode": FAULTY}),
    "limits": (
        at("actions", slice(5, 8), 1, lambda angle: np.full_like(angle, 2.5)),
        {"episode": FAULTY, "ticks": (5, 8), "dimension": "action elbow"},
    ),
    "constant": (every("actions", LIFT, np.zeros_like), {"dimension": "action lift"}),
    "odd_length": (lambda episodes: episodes[FAULTY].cut(list(range(5))), {"episode": FAULTY}),
    "instructions": (say("TASK"), {"episode": FAULTY, "tick": 0}),
    "one_instruction": (say_the_same, {"episode": None}),
    "duplicates": (copy, {"episode": FAULTY, "other": 1}),
    "black": (
        see(lambda seen: [*seen[:10], *[picture // 16 for picture in seen[10:25]], *seen[25:]]),
        {"episode": FAULTY, "ticks": (10, 25), "camera": "hand"},
    ),
    "frozen": (
        see(lambda seen: [*seen[:10], *[seen[10]] * 14, *seen[24:]]),
        {"episode": FAULTY, "tick": 15, "camera": "hand"},
    ),
    "doubled": (
        see(lambda seen: [seen[tick - tick % 2] for tick in range(len(seen))]),
        {"episode": FAULTY, "camera": "hand"},
    ),
    "skipped": (
        see(
            lambda seen: [
                *seen[:14],
                *[np.where(picture > 128, 0, 255).astype(np.uint8) for picture in seen[14:]],
            ]
        ),
        {"episode": FAULTY, "tick": 14, "camera": "hand"},
    ),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clean") / "arm", demonstrations())


def found(folder: Path, name: str, **options: Path) -> list[Finding]:
    return [finding for finding in check(folder, only=[name], **options).findings if finding.check == name]


def assert_it_is(finding: Finding, expected: dict[str, object]) -> None:
    for key, value in expected.items():
        if key == "tick":
            assert finding.ticks is not None
            assert finding.ticks[0] <= value < finding.ticks[1], finding  # type: ignore[operator]
        else:
            assert getattr(finding, key) == value, finding


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path, clean: Path) -> None:
    assert found(clean, name) == []
    plant, expected = PLANTS[name]
    episodes = demonstrations()
    plant(episodes)
    findings = found(write(tmp_path / "arm", episodes), name)
    assert findings, name
    assert_it_is(findings[0], expected)
    if "episode" in expected and expected["episode"] is not None:
        assert {finding.episode for finding in findings} == {FAULTY}
    for finding in findings:
        assert np.isfinite([finding.value, finding.threshold]).all()
        assert finding.advice.endswith(".")
        assert finding.said.endswith(".")


def test_every_check_is_tried() -> None:
    by_hand = {"time_gaps", "stats_missing", "stats_differ", "leaked_seeds", "leaked_episodes"}
    assert {one.name for one in CHECKS} == set(PLANTS) | by_hand


def test_clean_data_have_no_findings(clean: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "test", demonstrations(first=50))
    assert check(clean, test=other).findings == ()


@pytest.mark.parametrize("seed", [0, 1000])
def test_synthetic_data_have_neither_errors_nor_warnings(seed: int, tmp_path: Path) -> None:
    report = check(make_dataset(tmp_path / "moves", episodes=12, seed=seed))
    assert [finding for finding in report.findings if finding.severity != "note"] == []


@pytest.mark.parametrize("body", ["franka", "so101"])
@pytest.mark.parametrize("task", ["lift", "put_in", "put_two"])
def test_demonstrations_of_the_expert_have_neither_errors_nor_warnings(
    task: str, body: str, tmp_path: Path
) -> None:
    pytest.importorskip("mujoco")
    from visuomotor import collect

    collect(
        tmp_path / "set", env="tabletop", task=task, episodes=2, env_options={"embodiment": body}, workers=1
    )
    report = check(tmp_path / "set")
    assert [finding for finding in report.findings if finding.severity != "note"] == []


# ---- faults of files ----


def rewrite_column(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a column of the table of ticks."""
    (path,) = (folder / "data").glob("**/*.parquet")
    table = pq.read_table(path)
    values = change(table[name].to_numpy().copy())
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array(values, table.schema.field(name).type)), path)


@pytest.mark.parametrize("drift", [False, True])
def test_time_gaps_are_found(drift: bool, tmp_path: Path) -> None:
    folder = write(tmp_path / "arm", demonstrations(count=3))
    assert found(folder, "time_gaps") == []

    def delay(times: np.ndarray) -> np.ndarray:
        start = 36  # where episode 1 begins
        if drift:
            times[start : start + 35] *= 1.05
        else:
            times[start + 20 : start + 35] += 0.2  # two pictures were lost
        return times

    rewrite_column(folder, "timestamp", delay)
    (finding,) = found(folder, "time_gaps")
    assert finding.episode == 1
    assert finding.ticks == ((34, 35) if drift else (19, 21))
    assert finding.value == pytest.approx(1.7 if drift else 2, abs=1e-3)


def test_missing_statistics_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "arm", demonstrations(count=2))
    assert found(folder, "stats_missing") == []
    path = folder / "meta/stats.json"
    told = json.loads(path.read_text())
    del told["action"]
    path.write_text(json.dumps(told))
    assert [finding.dimension for finding in found(folder, "stats_missing")] == ["action"]
    path.write_text("{")
    assert len(found(folder, "stats_missing")) == 2


@pytest.mark.parametrize(
    ("figure", "value"), [("mean", 0.3), ("std", 2.0), ("max", 1.4), ("min", None), ("mean", "zero")]
)
def test_statistics_of_other_data_are_found(figure: str, value: object, tmp_path: Path) -> None:
    folder = write(tmp_path / "arm", demonstrations(count=2))
    assert found(folder, "stats_differ") == []
    path = folder / "meta/stats.json"
    told = json.loads(path.read_text())
    told["action"][figure][1] = value
    path.write_text(json.dumps(told))
    findings = found(folder, "stats_differ")
    assert "action elbow" in {finding.dimension for finding in findings}
    assert {finding.episode for finding in findings} == {None}


# ---- training and test ----


def test_leakage_is_found(clean: Path, tmp_path: Path) -> None:
    fresh = demonstrations(first=50, count=4)
    seen = demonstration(3, 33)
    seen.seed = 900
    again = demonstration(60)
    again.seed = 7
    test = write(tmp_path / "test", [*fresh, seen, again])
    (twin,) = found(clean, "leaked_episodes", test=test)
    assert (twin.episode, twin.other) == (3, 4)
    (seed,) = found(clean, "leaked_seeds", test=test)
    assert (seed.episode, seed.other) == (7, 5)


def test_scenes_of_another_task_share_no_seeds(clean: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test", demonstrations(first=5, count=3))
    assert len(found(clean, "leaked_seeds", test=test)) == 3
    path = test / "meta/visuomotor.json"
    path.write_text(path.read_text().replace('"take"', '"give"'))
    assert found(clean, "leaked_seeds", test=test) == []
