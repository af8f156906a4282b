"""What a killed LeRobot recorder leaves is read again, and what is lost is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from visuomotor.cli import main
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.repair import repair
from visuomotor.data.synthetic import make_dataset
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Spec

GOLDEN = Path(__file__).parents[1] / "parity/lerobot_golden"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
SPEC = Spec(
    embodiment="golden",
    cameras=(Camera(name="front", height=64, width=96), Camera(name="wrist", height=64, width=64)),
    state=tuple(Dimension(name=key) for key in ("a", "b", "gripper")),
    action=tuple(Dimension(name=key) for key in ("da", "gripper")),
    rate=10.0,
)


def without_footer(path: Path, more: int = 0) -> None:
    """What is on disk when the writer is killed, less the last `more` bytes."""
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    path.write_bytes(data[: len(data) - footer - more])


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A recording of lerobot 0.6.1 (columns of every type, two cameras) that was killed."""
    folder = Path(shutil.copytree(GOLDEN / "videos/set", tmp_path / "killed"))
    without_footer(folder / DATA)
    without_footer(folder / EPISODES)
    return folder


def assert_same_ticks(folder: Path, ticks: int) -> None:
    """The first `ticks` ticks are those of the recording, pictures and every column included."""
    whole, found = LeRobotReader(GOLDEN / "videos/set", SPEC), LeRobotReader(folder, SPEC)
    assert len(found) == ticks
    for name, feature in whole.features.items():
        if not feature.pictures:
            np.testing.assert_array_equal(found.column(name), whole.column(name)[:ticks], err_msg=name)
    for episode in found.episodes:
        for camera in ("front", "wrist"):
            ours = np.stack(list(found.frames(episode.index, camera)))
            np.testing.assert_array_equal(ours, np.stack(list(whole.frames(episode.index, camera))))
    assert [found.instruction(t) for t in range(ticks)] == [whole.instruction(t) for t in range(ticks)]


def test_tables_without_footers_are_read_again(killed, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as parquet.*data repair"):
        LeRobotReader(killed, SPEC)
    before = {p: p.read_bytes() for p in killed.rglob("*") if p.is_file()}
    report = repair(killed, tmp_path / "out")
    assert (report.episodes, report.ticks, report.lost) == (4, 18, [])
    assert "4 row groups with 18 ticks" in report.recovered[0]
    assert_same_ticks(tmp_path / "out", 18)
    assert before == {p: p.read_bytes() for p in killed.rglob("*") if p.is_file()}


def test_pictures_of_an_episode_without_rows_are_told(killed, tmp_path):
    """lerobot keeps rows in memory and pictures on disk until the episode is saved."""
    place = killed / "images/observation.images.front/episode-000004"
    place.mkdir(parents=True)
    (place / "frame-000000.png").write_bytes(b"")
    (lost,) = repair(killed, tmp_path / "out").lost
    assert lost == "episode 4: pictures of 'observation.images.front', but its rows were never written"


def test_words_that_are_lost_are_learned_from_the_index(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "videos/set", tmp_path / "killed"))
    (folder / "meta/tasks.parquet").write_bytes(b"PAR1")
    report = repair(folder, tmp_path / "out")
    assert "2 tasks from the index of episodes" in report.recovered
    assert_same_ticks(tmp_path / "out", 18)


def test_a_cut_row_group_costs_its_episode_only(killed, tmp_path):
    path = killed / DATA
    path.write_bytes(path.read_bytes()[:-40])
    report = repair(killed, tmp_path / "out")
    assert (report.episodes, report.ticks) == (3, 14)
    assert any("bytes behind the last whole row group" in lost for lost in report.lost)
    assert_same_ticks(tmp_path / "out", 14)


def test_a_cut_video_costs_the_episodes_behind_the_cut(killed, tmp_path):
    video = killed / "videos/observation.images.front/chunk-000/file-000.mp4"
    data = video.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # lerobot puts the index first
    video.write_bytes(data[: len(data) * 3 // 4])
    report = repair(killed, tmp_path / "out")
    assert 1 <= report.episodes < 4
    assert any(
        "pictures of 'observation.images.front' are missing or cut off" in lost for lost in report.lost
    )
    assert any("pictures" in found for found in report.recovered)
    assert_same_ticks(tmp_path / "out", report.ticks)


def test_pictures_in_tables_are_recovered(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "images/set", tmp_path / "killed"))
    without_footer(folder / DATA)
    shutil.rmtree(folder / "meta/episodes")
    assert repair(folder, tmp_path / "out").ticks == 5
    spec = Spec(embodiment="x", cameras=(), state=(), action=(), rate=10.0)
    whole, found = LeRobotReader(GOLDEN / "images/set", spec), LeRobotReader(tmp_path / "out", spec)
    for key in ("observation.images.front", "observation.images.depth", "observation.images.depth_float"):
        for episode in (0, 1):
            np.testing.assert_array_equal(
                list(found.pictures(episode, key)), list(whole.pictures(episode, key))
            )


def test_an_index_that_lags_is_made_anew(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "videos/set", tmp_path / "killed"))
    shutil.rmtree(folder / "meta/episodes")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 1, "total_frames": 5}))
    assert repair(folder, tmp_path / "out").lost == []
    assert_same_ticks(tmp_path / "out", 18)


def test_our_own_data_sets_are_repaired_as_well(tmp_path):
    folder = make_dataset(tmp_path / "own", episodes=3)
    whole = LeRobotReader(folder)
    without_footer(folder / DATA)
    repair(folder, tmp_path / "out")
    np.testing.assert_array_equal(LeRobotReader(tmp_path / "out").actions, whole.actions)


def test_the_command_repairs_in_place_when_asked(killed, capsys):
    assert main(["data", "repair", str(killed), "--in-place"]) == 0
    said = capsys.readouterr().out
    assert "recovered: " in said
    assert f"4 episodes, 18 ticks in {killed}" in said
    assert_same_ticks(killed, 18)
    assert (killed.with_name("killed.broken") / DATA).exists()


def test_where_to_must_be_said(killed, tmp_path):
    with pytest.raises(ValueError, match="either a folder for the result"):
        repair(killed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note").write_text("mine")
    with pytest.raises(DataError, match="holds something"):
        repair(killed, tmp_path / "full")
    with pytest.raises(DataError, match="lies within the data set"):
        repair(killed, killed / "inside")


def test_nothing_left_is_an_error(killed, tmp_path):
    (killed / DATA).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"no episode could be recovered.*no whole row group"):
        repair(killed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
