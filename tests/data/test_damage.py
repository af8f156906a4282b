"""A damaged or foreign folder gives one error that names the file and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.data.lerobot import LeRobotReader
from visuomotor.errors import DataError

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
FRONT = "videos/observation.images.front/chunk-000/file-000.mp4"


def info(**changes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "meta/info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    )


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def table(name: str, edit: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(edit(pq.read_table(folder / name)), folder / name)


def column(name: str, edit: Callable[[list], list]) -> Callable[[pa.Table], pa.Table]:
    def change(old: pa.Table) -> pa.Table:
        values = pa.array(edit(old[name].to_pylist()))
        return old.set_column(old.column_names.index(name), name, values)

    return change


def at(row: int, value) -> Callable[[list], list]:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


CASES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "not a data set, there is no meta/info.json"),
    "no info": (remove("meta/info.json"), "not a data set"),
    "info is no JSON": (text("meta/info.json", "{"), "info.json: expected JSON"),
    "info is a list": (text("meta/info.json", "[]"), "expected an object with 'features'"),
    "old version": (info(codebase_version="v1.6"), "got 'v1.6'. It is older than all of them"),
    "new version": (info(codebase_version="v9.0"), "got 'v9.0'. It is newer"),
    "other rate": (info(fps=25), "expected fps 10 as in the spec, got 25"),
    "path out of the folder": (info(data_path="../{chunk_index}{file_index}"), "leads outside the data set"),
    "path with unknown names": (
        info(video_path="videos/{camera}.mp4"),
        "template .* cannot be filled in",
    ),
    "pictures in parquet": (
        lambda folder: info(
            features={
                name: {**feature, "dtype": "image" if feature["dtype"] == "video" else feature["dtype"]}
                for name, feature in json.loads((folder / "meta/info.json").read_text())["features"].items()
            }
        )(folder),
        "file-000.parquet: no column 'observation.images.front', 'observation.images.wrist'",
    ),
    "sidecar is no JSON": (text("meta/visuomotor.json", "nonsense"), "visuomotor.json: expected JSON"),
    "sidecar of another format": (text("meta/visuomotor.json", '{"format": 7}'), "expected 'format' 1"),
    "spec without keys": (
        text("meta/visuomotor.json", '{"format": 1, "spec": {}}'),
        "spec: expected",
    ),
    "no tasks": (remove("meta/tasks.parquet"), "tasks.parquet: file is missing"),
    "tasks without text": (
        table("meta/tasks.parquet", lambda old: old.rename_columns(["task_index", "name"])),
        "tasks.parquet: expected a column 'task' or '__index_level_0__'",
    ),
    "task twice": (
        table("meta/tasks.parquet", column("task_index", lambda values: [0] * len(values))),
        "expected task_index 0 to N with one text each, got 0 for",
    ),
    "no episodes": (remove("meta/episodes"), "holds no finished episode"),
    "cut episodes": (cut(EPISODES), "meta/episodes/chunk-000/file-000.parquet: cannot be read as parquet"),
    "empty episodes": (text(EPISODES, ""), "cannot be read as parquet"),
    "episodes without a column": (
        table(EPISODES, lambda old: old.drop_columns(["length"])),
        "file-000.parquet: no column 'length'",
    ),
    "an episode missing": (table(EPISODES, lambda old: old.slice(1)), "4 episodes in 1 files, but .* says 5"),
    "an episode doubled": (
        table(EPISODES, column("episode_index", at(2, 1))),
        r"episode 2: expected \(episode_index.*\) \(2, .*got \(1, ",
    ),
    "no data": (remove(DATA), "data/chunk-000/file-000.parquet: file is missing"),
    "cut data": (cut(DATA), "data/chunk-000/file-000.parquet: cannot be read as parquet"),
    "data without actions": (table(DATA, lambda old: old.drop_columns(["action"])), "no column 'action'"),
    "rows missing": (table(DATA, lambda old: old.slice(0, 10)), "expected rows with index 0 to 55 in order"),
    "rows doubled": (table(DATA, column("index", at(7, 6))), "found 56 rows, row 7 with index 6"),
    "a row of another episode": (
        table(DATA, column("episode_index", at(3, 4))),
        "expected episode_index 0, got 4",
    ),
    "ticks out of order": (
        table(DATA, column("frame_index", at(3, 9))),
        "expected frame_index 3, got 9",
    ),
    "an unknown task": (
        table(DATA, column("task_index", at(5, 99))),
        "file-000.parquet: episode 0, tick 5: task_index 99, but the data set has 4 tasks",
    ),
    "not a number": (
        table(DATA, column("action", at(20, [0.0, float("nan"), 0.0]))),
        "episode 1, tick 8: 'action' dimension 1 is nan",
    ),
    "infinite": (
        table(DATA, column("observation.state", at(0, [float("inf"), 0.0, 0.0]))),
        "episode 0, tick 0: 'observation.state' dimension 0 is inf",
    ),
    "a longer state": (
        table(DATA, column("observation.state", at(0, [0.0] * 4))),
        r"'observation.state': expected lists of 3 numbers, got lengths \[3, 4\], first at episode 0, tick 0",
    ),
    "words for numbers": (
        table(DATA, column("action", lambda values: ["go"] * len(values))),
        "'action': expected lists of 3 numbers, got string",
    ),
    "nulls": (
        table(DATA, column("task_index", at(1, None))),
        "file-000.parquet: column 'task_index': expected numbers, got .* 1 nulls, first at episode 0, tick 1",
    ),
    "no video": (remove(FRONT), "episode 0: video .*file-000.mp4 of camera 'front' is missing"),
    "no place of a video": (
        table(EPISODES, column("videos/observation.images.front/file_index", at(1, None))),
        "episode 1: expected columns .* for 'observation.images.front'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named(dataset, tmp_path, name):
    damage, message = CASES[name]
    folder = shutil.copytree(dataset, tmp_path / "set")
    damage(folder)
    with pytest.raises(DataError, match=message):
        LeRobotReader(folder)


def test_a_video_shorter_than_the_table_is_named(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "set")
    from visuomotor.data.video import join

    join([(dataset / FRONT, 20)], folder / FRONT, 10.0)
    reader = LeRobotReader(folder)
    assert len(list(reader.frames(0, "front"))) == 12
    with pytest.raises(DataError, match=r"episode 1, camera 'front': .*ends after picture 20, but .* 23"):
        list(reader.frames(1, "front"))


def test_pictures_of_another_size_are_named(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "set")
    shutil.copy(dataset / FRONT.replace("front", "wrist"), folder / FRONT)
    with pytest.raises(DataError, match="expected pictures of 32 x 32 for camera 'front', got 16 x 24"):
        list(LeRobotReader(folder).frames(0, "front"))


def test_changed_pictures_are_noticed(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "set")
    from visuomotor.data.synthetic import SPEC
    from visuomotor.data.video import encode, join

    pictures = list(np.full((12, 32, 32, 3), 77, np.uint8))
    join([(encode(pictures, SPEC.cameras[0], 10.0).data, 12)], folder / FRONT, 10.0)
    with pytest.raises(DataError, match="pictures 0 to 12 are not the ones that were written"):
        list(LeRobotReader(folder).frames(0, "front"))


def test_foreign_rows_behind_the_last_episode_are_an_error(dataset, tmp_path):
    """Only our own writer is known to leave such rows."""
    folder = shutil.copytree(dataset, tmp_path / "set")
    spec = LeRobotReader(folder).spec
    (folder / "meta/visuomotor.json").unlink()
    table(EPISODES, lambda old: old.slice(0, 4))(folder)
    info(total_episodes=4)(folder)
    with pytest.raises(DataError, match=r"56 rows, but the episodes of .*meta/episodes have 45"):
        LeRobotReader(folder, spec)
