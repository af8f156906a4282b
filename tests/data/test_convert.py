from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visuomotor.cli import main
from visuomotor.data.convert import sources
from visuomotor.data.convert.mapping import Mapping
from visuomotor.data.convert.run import convert, plan
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.errors import DataError

h5py = pytest.importorskip("h5py")

CONTROL = {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3}
ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "controller_configs": CONTROL}}


def half_bright(ticks: int, size: int = 32) -> np.ndarray:
    """Upright pictures: red above, blue below, a green spot on the left that moves down."""
    pictures = np.zeros((ticks, size, size, 3), np.uint8)
    pictures[:, : size // 2, :, 0] = 220
    pictures[:, size // 2 :, :, 2] = 220
    for tick in range(ticks):
        pictures[tick, tick : tick + 6, 2:10] = (0, 220, 0)
    return pictures


def actions(ticks: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-1, 1, (ticks, 7))
    values[:, 6] = np.where(np.arange(ticks) < ticks // 2, -1, 1)  # opens, then closes
    return values


def robomimic(path: Path, demos: int = 3) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"], data.attrs["total"] = json.dumps(ENV), 6 * demos
        for number in (10, 9, 2)[:demos]:  # the order of the numbers is 2, 9, 10
            demo, ticks = data.create_group(f"demo_{number}"), 6
            demo.attrs["num_samples"] = ticks
            generator = np.random.default_rng(number)
            demo["actions"] = actions(ticks, number)
            demo["states"] = generator.normal(size=(ticks, 32))
            for where in ("obs", "next_obs"):
                for key, width in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2), ("joint_pos", 7)):
                    demo[f"{where}/robot0_{key}"] = generator.normal(size=(ticks, width))
                demo[f"{where}/object"] = generator.normal(size=(ticks, 10))
                demo[f"{where}/agentview_image"] = half_bright(ticks)
                demo[f"{where}/robot0_eye_in_hand_image"] = half_bright(ticks)
    return path


def libero(path: Path, convention: str = "opengl") -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        problem = {"language_instruction": ["put the bowl on the plate"], "problem_name": "tabletop"}
        data.attrs["problem_info"], data.attrs["env_args"] = json.dumps(problem), json.dumps(ENV)
        data.attrs["macros_image_convention"] = convention
        for number in range(2):
            demo, ticks = data.create_group(f"demo_{number}"), 5
            demo["actions"] = actions(ticks, number)
            demo["obs/ee_states"] = np.random.default_rng(number).normal(size=(ticks, 6))
            demo["obs/gripper_states"] = np.random.default_rng(number).normal(size=(ticks, 2))
            demo["obs/joint_states"] = np.zeros((ticks, 7))
            demo["obs/agentview_rgb"] = half_bright(ticks)[:, ::-1]
            demo["obs/eye_in_hand_rgb"] = half_bright(ticks)[:, ::-1]
    return path


def act(folder: Path, *, packed: bool = False) -> Path:
    folder.mkdir()
    for number in (0, 1, 10):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            ticks, generator = 5, np.random.default_rng(number)
            file.attrs["sim"] = True
            file["action"] = generator.uniform(0, 1, (ticks, 14))
            file["observations/qpos"] = generator.uniform(0, 1, (ticks, 14))
            file["observations/qvel"] = np.zeros((ticks, 14))
            pictures = half_bright(ticks)
            if packed:
                from visuomotor.data.jpeg import JpegEncoder

                file.attrs["compress"] = True
                # OpenCV takes RGB for BGR: what the JPEG holds has red and blue swapped
                packs = [JpegEncoder(32, 32).encode(picture[..., ::-1]) for picture in pictures]
                longest = max(map(len, packs))
                pictures = np.array([np.frombuffer(p.ljust(longest, b"\0"), np.uint8) for p in packs])
            file["observations/images/top"] = pictures
    return folder


def pusht(path: Path) -> Path:
    zarr = pytest.importorskip("zarr")
    from zarr.storage import ZipStore

    store = ZipStore(path, mode="w") if path.suffix == ".zip" else str(path)
    root = zarr.open_group(store, mode="w", zarr_format=2)
    ticks, generator = 11, np.random.default_rng(0)
    arrays = {
        "img": np.resize(half_bright(ticks, 96), (ticks, 96, 96, 3)).astype(np.float32),
        "state": generator.uniform(0, 512, (ticks, 5)).astype(np.float32),
        "action": generator.uniform(0, 512, (ticks, 2)).astype(np.float32),
        "keypoint": np.zeros((ticks, 9, 2), np.float32),
        "n_contacts": np.zeros((ticks, 1), np.float32),
    }
    for name, values in arrays.items():
        root.create_array(f"data/{name}", data=values, chunks=(4, *values.shape[1:]))
    root.create_array("meta/episode_ends", data=np.array([4, 11], np.int64))
    if path.suffix == ".zip":
        store.close()
    return path


def check_upright(reader: LeRobotReader, camera: str) -> None:
    """Red above, blue below, the green spot on the left, as near as compression leaves it."""
    picture = next(reader.frames(0, camera)).astype(int)
    for place, color in (((10, 24), (220, 0, 0)), ((28, 24), (0, 0, 220)), ((2, 6), (0, 220, 0))):
        assert np.abs(picture[place] - color).max() < 30, (place, picture[place])


def test_robomimic(tmp_path):
    report = convert(robomimic(tmp_path / "image.hdf5"), tmp_path / "out", instruction="lift the cube")
    assert (report.kind, report.episodes, report.ticks, report.resumed_from) == ("robomimic", 3, 18, 0)
    assert set(report.unused) == {"states", "obs/object", "obs/robot0_joint_pos"}
    assert report.unused["obs/object"] == (6, 10)
    reader = LeRobotReader(tmp_path / "out")
    assert [camera.name for camera in reader.spec.cameras] == ["agentview", "robot0_eye_in_hand"]
    assert (reader.rate, reader.tasks, reader.spec.embodiment) == (20.0, ("lift the cube",), "robosuite")
    assert [d.kind for d in reader.spec.action] == ["ee_delta"] * 6 + ["gripper"]
    assert len(reader.spec.state) == 9
    expected = np.concatenate([actions(6, number) for number in (2, 9, 10)])
    np.testing.assert_allclose(reader.actions[:, :6], expected[:, :6], atol=1e-6)
    np.testing.assert_array_equal(reader.actions[:, 6], [0, 0, 0, 1, 1, 1] * 3)
    check_upright(reader, "agentview")


@pytest.mark.parametrize("convention", ["opengl", "opencv"])
def test_libero_pictures_are_turned_as_the_file_says(tmp_path, convention):
    folder = tmp_path / "suite"
    folder.mkdir()
    for name in ("b_demo.hdf5", "a_demo.hdf5"):
        libero(folder / name, convention)
    report = convert(folder, tmp_path / "out")
    assert (report.kind, report.episodes) == ("libero", 4)
    reader = LeRobotReader(tmp_path / "out")
    assert reader.tasks == ("put the bowl on the plate",)
    assert [d.unit for d in reader.spec.state] == ["m"] * 3 + ["rad"] * 3 + ["m"] * 2
    if convention == "opengl":
        check_upright(reader, "agentview")
    else:
        with pytest.raises(AssertionError):
            check_upright(reader, "agentview")


@pytest.mark.parametrize("packed", [False, True])
def test_act(tmp_path, packed):
    source = act(tmp_path / "episodes", packed=packed)
    report = convert(source, tmp_path / "out", instruction="insert the peg")
    assert (report.kind, report.episodes) == ("act", 3)
    assert set(report.unused) == {"observations/qvel"}
    reader = LeRobotReader(tmp_path / "out")
    assert reader.rate == 50.0
    assert [d.name for d in reader.spec.action if d.kind == "gripper"] == ["left_gripper", "right_gripper"]
    with h5py.File(source / "episode_10.hdf5") as file:  # the last one
        raw = file["observations/qpos"][()]
    joints = [*range(6), *range(7, 13)]
    np.testing.assert_allclose(reader.state[-5:, joints], raw[:, joints], atol=1e-6)
    np.testing.assert_allclose(reader.state[-5:, [6, 13]], 1 - raw[:, [6, 13]], atol=1e-6)
    check_upright(reader, "top")


@pytest.mark.parametrize("name", ["replay.zarr", "replay.zarr.zip"])
def test_pusht(tmp_path, name):
    report = convert(pusht(tmp_path / name), tmp_path / "out", instruction="push the T")
    assert (report.kind, report.episodes, report.ticks) == ("replay", 2, 11)
    assert set(report.unused) == {"keypoint", "n_contacts"}
    reader = LeRobotReader(tmp_path / "out")
    assert [episode.length for episode in reader.episodes] == [4, 7]
    assert (reader.rate, reader.state.shape) == (10.0, (11, 2))
    exact = np.resize(half_bright(11, 96), (11, 96, 96, 3))
    assert np.abs(next(reader.frames(1, "top")).astype(int) - exact[4]).mean() < 5


def test_options_change_what_the_preset_says(tmp_path):
    path = robomimic(tmp_path / "image.hdf5", demos=1)
    options = {
        "cameras": {"wrist": "robot0_eye_in_hand"},
        "flip": "vertical",
        "rate": 10.0,
        "embodiment": "panda",
    }
    convert(path, tmp_path / "out", instruction="lift", **options)
    spec = LeRobotReader(tmp_path / "out").spec
    assert ([camera.name for camera in spec.cameras], spec.rate, spec.embodiment) == (
        ["wrist"],
        10.0,
        "panda",
    )
    upside_down = next(LeRobotReader(tmp_path / "out").frames(0, "wrist"))
    assert upside_down[28, 24, 0] > 150  # red is below
    with pytest.raises(ValueError, match=r"unknown camera 'agentviw'. Did you mean 'agentview'"):
        plan(path, instruction="lift", cameras={"front": "agentviw"})


def test_a_mapping_goes_to_json_and_back_and_replaces_the_preset(tmp_path):
    path = robomimic(tmp_path / "image.hdf5", demos=1)
    preset = plan(path, instruction="lift").mapping
    data = json.loads(json.dumps(preset.to_json()))
    assert Mapping.from_json(data) == preset
    data["state"] = [{"key": "obs/object", "columns": [9, 0], "dimensions": [{"name": "a"}, {"name": "b"}]}]
    convert(path, tmp_path / "out", mapping=Mapping.from_json(data))
    with h5py.File(path) as file:
        expected = file["data/demo_10/obs/object"][()][:, [9, 0]]
    np.testing.assert_allclose(LeRobotReader(tmp_path / "out").state, expected, atol=1e-6)
    with pytest.raises(DataError, match="mapping: expected the keys"):
        Mapping.from_json({**data, "colour": 1})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SLOW = """
import sys
from visuomotor.data.convert import run
run._COMMIT_SECONDS = 0
def tell(done, total):
    print(done, flush=True)
    if done == 2:
        sys.stdin.read()
run.convert(sys.argv[1], sys.argv[2], instruction="lift", progress=tell)
"""


def test_a_conversion_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    source = robomimic(tmp_path / "image.hdf5")
    convert(source, tmp_path / "whole", instruction="lift")
    command = [sys.executable, "-c", SLOW, str(source), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
        os.kill(process.pid, signal.SIGKILL)
    report = convert(source, tmp_path / "killed", instruction="lift")
    assert (report.resumed_from, report.episodes) == (2, 3)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert convert(source, tmp_path / "killed", instruction="lift").resumed_from == 3
    with pytest.raises(DataError, match="with other options"):
        convert(source, tmp_path / "killed", instruction="lift it")


def set_nan(file) -> None:
    file["data/demo_9/actions"][3, 1] = np.nan


def shorten(file) -> None:
    values = file["data/demo_9/obs/robot0_eef_pos"][:4]
    del file["data/demo_9/obs/robot0_eef_pos"]
    file["data/demo_9/obs/robot0_eef_pos"] = values


def widen(file) -> None:
    del file["data/demo_9/actions"]
    file["data/demo_9/actions"] = np.zeros((6, 14))


def forget(file) -> None:
    del file["data/demo_9/obs/robot0_eef_quat"]


def resize(file) -> None:
    del file["data/demo_9/obs/agentview_image"]
    file["data/demo_9/obs/agentview_image"] = half_bright(6, 16)


def drop_pictures(file) -> None:
    del file["data/demo_9/obs/agentview_image"]
    file["data/demo_9/obs/agentview_image"] = half_bright(5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_nan, r"key 'actions': tick 3 is not finite"),
        (shorten, r"key 'obs/robot0_eef_pos': expected 6 ticks, as actions has, got 4"),
        (widen, r"key 'actions': expected numbers \(tick, 7\), got float64 \(6, 14\)"),
        (forget, r"no key 'obs/robot0_eef_quat'. It has: actions, obs/"),
        (
            resize,
            r"key 'obs/agentview_image': expected uint8 pictures of \(32, 32, 3\), got uint8 \(16, 16, 3\)",
        ),
        (drop_pictures, r"key 'obs/agentview_image': expected 6 ticks, as actions has, got 5"),
    ],
)
def test_a_damaged_file_is_one_error_that_says_where(tmp_path, damage, message):
    path = robomimic(tmp_path / "image.hdf5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=rf"image.hdf5: episode 'demo_9'[,:] {message}"):
        convert(path, tmp_path / "out", instruction="lift")


def test_what_nobody_can_know_is_asked_for(tmp_path):
    path = robomimic(tmp_path / "image.hdf5", demos=1)
    with pytest.raises(DataError, match=r"has no instruction.*--instruction"):
        plan(path)
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {}})
    with pytest.raises(DataError, match=r"nothing says what its actions are. Say it: --mapping"):
        plan(path, instruction="lift")
    zarr = pytest.importorskip("zarr")
    shutil.rmtree(pusht(tmp_path / "other.zarr") / "data" / "keypoint")
    assert zarr.open_group(str(tmp_path / "other.zarr"))
    with pytest.raises(DataError, match=r"does not say what its arrays mean: action \(11, 2\).*--mapping"):
        plan(tmp_path / "other.zarr", instruction="push")


def test_other_things_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        plan(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"expected one of the formats libero, .*What is there: notes.txt"):
        plan(tmp_path / "folder")
    (tmp_path / "bad.hdf5").write_bytes(b"no such thing")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        plan(tmp_path / "bad.hdf5")
    with pytest.raises(ValueError, match=r"unknown format 'robomimik'. Did you mean 'robomimic'"):
        plan(tmp_path / "folder", kind="robomimik")
    (tmp_path / "bad.zarr.zip").write_bytes(b"no such thing")
    pytest.importorskip("zarr")
    with pytest.raises(DataError, match="cannot be read as zarr"):
        plan(tmp_path / "bad.zarr.zip")


@pytest.mark.parametrize(("package", "name"), [("h5py", "some.hdf5"), ("zarr", "some.zarr.zip")])
def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch, package, name):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"h5py": "hdf5", "zarr": "zarr"}[package]
    with pytest.raises(DataError, match=rf"needs {package}. Install it: pip install 'visuomotor\[{extra}\]'"):
        plan(tmp_path / name)


PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_recipe_of_the_data_page_runs_word_for_word(tmp_path, monkeypatch, capsys):
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    robomimic(tmp_path / "image_v15.hdf5")
    (tmp_path / "libero_goal").mkdir()
    libero(tmp_path / "libero_goal" / "put_the_bowl_on_the_plate_demo.hdf5")
    act(tmp_path / "sim_insertion_scripted")
    pusht(tmp_path / "pusht_cchi_v7_replay.zarr")
    recipe = PAGE.read_text().partition("## I have HDF5 or zarr")[2].partition("\n## ")[0]
    commands = [line for line in recipe.splitlines() if line.startswith("visuomotor data convert ")]
    assert len(commands) == 7
    for command in commands:
        line, _, target = command.partition(" > ")
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        if target:
            (tmp_path / target).write_text(out)
    assert "left behind:" in out
    for name in ("lift", "goal", "insertion", "pusht", "own"):
        assert len(LeRobotReader(tmp_path / name)) > 0
    assert [camera.name for camera in LeRobotReader("wrist").spec.cameras] == ["wrist"]


def test_every_format_can_be_imported():
    from importlib import import_module

    for path in sources.FORMATS.values():
        module, _, attribute = path.partition(":")
        assert getattr(import_module(module), attribute).__doc__
