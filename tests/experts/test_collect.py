from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.synthetic import SPEC, make_dataset
from visuomotor.errors import DataError, VisuomotorError
from visuomotor.experts.collect import Collection, collect, demonstrate
from visuomotor.experts.disturbance import Disturbance, Noise

ENV, EXPERT = "slide_world:SlideWorld", "slide_world:SlideExpert"
QUIET = Noise(meters=0.0, radians=0.0, push_chance=0.0, slip_chance=0.0, stray_chance=0.0)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def no_sync() -> Iterator[None]:
    """Nobody pulls the plug while tests run; waiting for the disk would take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visuomotor.data.files.os.fsync", lambda descriptor: None)
        yield


def run(folder: Path, **changes):
    arguments = {"env": ENV, "expert": EXPERT, "task": "slide", "episodes": 9, "workers": 0, **changes}
    return collect(folder, **arguments)


def content(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    meta = json.loads(files.pop("meta/visuomotor.json"))
    return {**files, "meta": json.dumps({**meta, "seconds": 0}).encode()}


# ---- what is collected ----


def test_successes_are_kept_and_failures_counted(tmp_path):
    report = run(tmp_path / "set", noise=Noise(stray_chance=0.0))
    assert (report.kept, report.dropped, dict(report.reasons)) == (9, 1, {"out of time": 1})
    assert (report.first_seed, report.last_seed) == (0, 9)
    reader = LeRobotReader(tmp_path / "set")
    assert [entry.seed for entry in reader.episodes] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert reader.seeds == set(range(10))  # a dropped demonstration's scene was seen as well
    assert report.ticks == len(reader)
    meta = reader.meta
    assert (meta["env"], meta["task"], meta["kept"], meta["dropped"]) == (ENV, "slide", 9, 1)
    assert meta["dropped_seeds"] == {"6": "out of time"}
    assert report.to_json()["reasons"] == {"out of time": 1}


def test_what_ran_is_disturbed_and_the_label_is_clean(tmp_path):
    run(tmp_path / "set", episodes=20, noise=Noise(meters=0.01, slip_chance=0.0))
    reader = LeRobotReader(tmp_path / "set")
    difference = reader.executed - reader.actions
    assert difference[:, :2].std() > 0.005
    assert not difference[:, 2].any()  # noise leaves grippers alone
    assert np.abs(reader.executed[:, :2]).max() <= np.float32(0.1)  # limits of the body hold
    for entry in reader.episodes:  # the label is the expert's answer to the state that was met
        mark = np.random.default_rng(entry.seed).uniform(0.2, 0.8, (2, 2))[1]
        rows = slice(entry.start, entry.start + entry.length)
        clean = np.clip(mark - reader.state[rows, :2], -0.1, 0.1)
        np.testing.assert_allclose(reader.actions[rows, :2], clean, atol=1e-6)


def test_without_noise_the_expert_acts(tmp_path):
    run(tmp_path / "set", noise=QUIET)
    reader = LeRobotReader(tmp_path / "set")
    np.testing.assert_array_equal(reader.executed, reader.actions)


def disturbed(noise: Noise, ticks: int, label: np.ndarray, seed: int = 0) -> np.ndarray:
    disturbance = Disturbance(SPEC, noise, np.random.default_rng(seed))
    return np.stack([disturbance(label) for _ in range(ticks)])


def runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First ticks and lengths of everything that lasts."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]])))
    return edges[::2], edges[1::2] - edges[::2]


def test_pushes_last_and_have_one_direction():
    noise = replace(QUIET, meters=0.001, push_chance=0.1, push_ticks=(3, 3), push_factor=30.0)
    values = disturbed(noise, 400, np.zeros(3, np.float32))
    firsts, lengths = runs(np.linalg.norm(values[:, :2], axis=1) > 0.02)
    assert len(lengths) > 10
    assert set(lengths % 3) == {0}
    push = values[firsts[0] : firsts[0] + 3, :2]
    directions = push / np.linalg.norm(push, axis=1, keepdims=True)
    assert (directions @ directions[0] > 0.95).all()


def test_while_a_gripper_slips_it_does_the_opposite():
    noise = replace(QUIET, slip_chance=0.1, slip_ticks=(2, 2))
    label = np.array([0.05, -0.03, 1.0], np.float32)
    values = disturbed(noise, 400, label)
    np.testing.assert_array_equal(values[:, :2], np.tile(label[:2], (400, 1)))
    assert set(values[:, 2].tolist()) == {0.0, 1.0}
    _, lengths = runs(values[:, 2] == 0)
    assert len(lengths) > 10
    assert set(lengths % 2) == {0}


def test_an_episode_may_begin_with_the_hand_going_astray():
    noise = replace(QUIET, stray_chance=0.5, stray_ticks=(4, 4))
    label = np.array([0.01, -0.02, 1.0], np.float32)
    began = [disturbed(noise, 10, label, seed) for seed in range(40)]
    astray = [values for values in began if (values[0] != label).any()]
    assert 10 < len(astray) < 30
    for values in astray:
        np.testing.assert_array_equal(values[4:], np.tile(label, (6, 1)))  # and then as the expert says
        np.testing.assert_array_equal(values[:4], np.tile(values[0], (4, 1)))
        assert np.abs(values[0, :2]).max() == np.float32(0.1)  # the limit of this body
        assert values[0, 2] == 1


def test_moves_without_limits_do_not_go_astray():
    free = replace(SPEC, action=tuple(replace(d, low=-np.inf, high=np.inf) for d in SPEC.action))
    noise = replace(QUIET, stray_chance=1.0)
    label = np.array([0.01, -0.02, 1.0], np.float32)
    np.testing.assert_array_equal(Disturbance(free, noise, np.random.default_rng(0))(label), label)


def test_an_episode_is_told_in_several_wordings(tmp_path):
    run(tmp_path / "many", episodes=4, phrasings=3)
    reader = LeRobotReader(tmp_path / "many")
    assert set(reader.tasks) <= {"slide to the mark", "go to the mark", "mark, please"}
    assert any(len(entry.instructions) > 1 for entry in reader.episodes)
    run(tmp_path / "one", episodes=4, phrasings=1)
    assert LeRobotReader(tmp_path / "one").tasks == ("slide to the mark",)


def test_noise_and_wording_of_a_seed_depend_on_nothing_else():
    job = Collection(env=ENV, task="slide", expert=EXPERT)
    env, expert = job.build()
    alone = demonstrate(env, expert, 5, job)
    demonstrate(env, expert, 1, job)
    again = demonstrate(env, expert, 5, job)
    assert not isinstance(alone, str)
    assert not isinstance(again, str)
    np.testing.assert_array_equal(alone.executed, again.executed)
    assert alone.instructions == again.instructions


# ---- the same whatever happens on the way ----


def test_workers_do_not_change_the_data(tmp_path):
    alone, many = run(tmp_path / "a", episodes=8), run(tmp_path / "b", episodes=8, workers=2)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert (many.kept, many.dropped, many.last_seed) == (alone.kept, alone.dropped, alone.last_seed)


def test_seeds_can_be_fresh(tmp_path):
    assert run(tmp_path / "a", episodes=2, seed_offset=500).first_seed == 500
    assert run(tmp_path / "b", episodes=2, seed=3).first_seed == 3_000_000
    with pytest.raises(ValueError, match="must stay below 1000000000, where evaluation begins"):
        run(tmp_path / "c", seed=999, seed_offset=1)


def test_more_episodes_are_added_to_what_is_there(tmp_path):
    run(tmp_path / "a", episodes=4)
    assert run(tmp_path / "a", episodes=9).kept == 9
    run(tmp_path / "b", episodes=9)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = content(tmp_path / "a")
    assert run(tmp_path / "a", episodes=5).kept == 9  # there are enough
    assert content(tmp_path / "a") == before


def test_progress_tells_what_is_safe(tmp_path):
    told: list[tuple[int, int, int]] = []

    def progress(kept: int, wanted: int) -> None:
        told.append((kept, wanted, len(LeRobotReader(tmp_path / "set").episodes)))

    run(tmp_path / "set", progress=progress)
    assert told[-1] == (9, 9, 9)
    assert all(kept == safe for kept, _, safe in told)


SLOW = {"slow": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run gives that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    run(folder, episodes=30, env_options=SLOW, workers=2)
    return folder


def start(folder: Path) -> subprocess.Popen:
    code = (
        "import sys\nfrom visuomotor.experts.collect import collect\n"
        f"collect(sys.argv[1], env={ENV!r}, expert={EXPERT!r}, task='slide', episodes=30, workers=2,\n"
        f"        env_options={SLOW!r}, progress=lambda kept, all: print(kept, flush=True))\n"
        "assert 'torch' not in sys.modules\n"
    )
    script = folder.with_suffix(".py")
    script.write_text(code)
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_first(process: subprocess.Popen) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def alive(group: int) -> list[str]:
    """Processes of a process group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended in between
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on(tmp_path, whole, number):
    folder = tmp_path / "set"
    process = start(folder)
    kept = wait_for_first(process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, error = process.communicate(timeout=30)
    for _ in range(100):
        if not alive(process.pid):
            break
        time.sleep(0.05)
    assert not alive(process.pid)  # no worker outlives its parent
    kept = int((out.split() or [kept])[-1])
    assert len(LeRobotReader(folder).episodes) >= kept
    assert kept < 30
    if number != signal.SIGKILL:
        assert f"stopped with {kept} of 30 demonstrations in {folder}" in error
        assert "run the same command again to go on" in error
    with start(folder) as process:
        assert process.wait(timeout=60) == 0, process.stderr.read()
    assert content(folder) == content(whole)


def test_death_at_any_file_repeats_and_forgets_nothing(tmp_path, monkeypatch):
    """Around the sixth seed, whose demonstration is dropped."""

    class Killed(BaseException):
        pass

    run(tmp_path / "whole", episodes=7)
    run(tmp_path / "begun", episodes=5)
    real = os.replace
    for strike in range(1, 100):
        folder = Path(shutil.copytree(tmp_path / "begun", tmp_path / str(strike)))
        left = strike

        def replace(source, target):
            nonlocal left
            left -= 1
            if left <= 0:  # a dead process does nothing more
                raise Killed
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("visuomotor.data.files.os.replace", replace)
            patch.setattr("visuomotor.experts.collect._COMMIT_SECONDS", -1.0)
            patch.setattr("visuomotor.experts.collect._COMMIT_SHARE", 1e9)
            try:
                run(folder, episodes=7)
            except Killed:
                pass
            else:
                break
        run(folder, episodes=7)
        assert content(folder) == content(tmp_path / "whole"), f"died at file {strike}"
    assert strike > 10


# ---- bad input ----


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else, nothing was written"):
        run(tmp_path)
    other = make_dataset(tmp_path / "other", episodes=1)
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="not collected by an expert"):
        run(other)
    assert before == {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}


def test_other_arguments_are_refused(tmp_path):
    run(tmp_path / "set", episodes=2)
    before = content(tmp_path / "set")
    with pytest.raises(DataError, match="phrasings was 4 and is 2"):
        run(tmp_path / "set", phrasings=2)
    with pytest.raises(DataError, match=r"noise was \{'meters': 0.0"):
        run(tmp_path / "set", noise=QUIET)
    assert content(tmp_path / "set") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "tabeltop"}, "unknown env 'tabeltop'. Did you mean 'tabletop'"),
        ({"task": "slid"}, "unknown task 'slid'. Did you mean 'slide'"),
        ({"env": "slide_world:MuteWorld"}, "no method `instructions`.*Use phrasings=1"),
        ({"episodes": 0}, "expected episodes"),
        ({"seed": -1}, "expected episodes"),
        ({"workers": -1}, "expected 0 or more"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "set", **changes)
    assert not list(tmp_path.rglob("*.parquet"))


def test_noise_is_checked():
    for wrong in ({"meters": -1.0}, {"push_chance": 2.0}, {"push_ticks": (3, 2)}, {"slip_ticks": (0, 2)}):
        with pytest.raises(ValueError, match="noise: expected"):
            Noise(**wrong)


def test_an_expert_that_keeps_failing_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"failed in 20 of 20 episodes \(\{'out of time': 20\}\)"):
        run(tmp_path / "set", task="hopeless")


def test_what_was_finished_before_a_bug_is_saved(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"(?s)seed 3 failed in a worker process:.*no way to the mark"
    ) as caught:
        run(tmp_path / "set", expert="slide_world:BrokenExpert", workers=1)
    assert "ArithmeticError" in str(caught.value)
    assert len(LeRobotReader(tmp_path / "set").episodes) == 3


def test_a_worker_that_dies_is_named(tmp_path):
    with pytest.raises(VisuomotorError, match="a worker process ended with code -9"):
        run(tmp_path / "set", expert="slide_world:MortalExpert", workers=1)
    assert len(LeRobotReader(tmp_path / "set").episodes) == 3


def test_a_full_disk_is_said_once(tmp_path, monkeypatch):
    def full(self, *episodes):
        raise DataError("the disk is full: stay readable")

    monkeypatch.setattr(LeRobotWriter, "add", full)
    with pytest.raises(DataError, match="the disk is full") as caught:
        run(tmp_path / "set")
    assert caught.value.__context__ is None or "disk" not in str(caught.value.__context__)


def test_annotations_become_columns_and_change_nothing_else(tmp_path):
    both = {"env": "tabletop", "task": "lift", "episodes": 1, "workers": 0}
    collect(tmp_path / "plain", **both)
    collect(tmp_path / "told", annotate="tabletop", **both)
    plain, told = LeRobotReader(tmp_path / "plain"), LeRobotReader(tmp_path / "told")
    np.testing.assert_array_equal(plain.actions, told.actions)
    assert told.extra == ("question", "answer", "kind", "camera", "boxes")
    assert any(told.column("question"))
    assert all("{" in boxes for boxes in told.column("boxes"))
    with pytest.raises(DataError, match="annotate was 'tabletop' and is None"):
        collect(tmp_path / "told", **both)
