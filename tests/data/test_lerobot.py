from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.data.episode import EncodedEpisode
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.synthetic import SPEC, make_dataset, make_episode
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Spec

EPISODES = [make_episode(seed, ticks=9 - seed % 3) for seed in range(7)]


def write(folder: Path, episodes: list[EncodedEpisode], **options) -> Path:
    with LeRobotWriter(folder, SPEC, executed=True, **options) as writer:
        for episode in episodes:
            writer.add(episode)
    return folder


def assert_equal_files(one: Path, other: Path) -> None:
    a, b = content(one), content(other)
    assert set(a) == set(b)
    assert [name for name in a if a[name] != b[name]] == []


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- what is written is what is read ----


def test_numbers_and_words_come_back_exactly(tmp_path):
    reader = LeRobotReader(write(tmp_path / "set", EPISODES))
    assert reader.spec == SPEC
    assert reader.rate == 10
    for entry, episode in zip(reader.episodes, EPISODES):
        rows = slice(entry.start, entry.start + entry.length)
        np.testing.assert_array_equal(reader.state[rows], episode.state)
        np.testing.assert_array_equal(reader.actions[rows], episode.actions)
        np.testing.assert_array_equal(reader.executed[rows], episode.executed)
        assert [reader.instruction(row) for row in range(rows.start, rows.stop)] == list(episode.instructions)
        assert entry.instructions == tuple(dict.fromkeys(episode.instructions))
        assert entry.seed is not None
    assert reader.seeds == set(range(7))
    assert [entry.seed for entry in reader.episodes] == list(range(7))


@settings(max_examples=15)  # each example writes files
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    width=st.integers(1, 3),
    per_file=st.integers(1, 3),
)
def test_any_numbers_come_back_exactly(tmp_path_factory, data, lengths, width, per_file):
    spec = Spec(
        embodiment="any",
        cameras=(),
        state=tuple(Dimension(name=f"s{i}") for i in range(width)),
        action=(Dimension(name="a"),),
        rate=7.5,
    )
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
    episodes = [
        EncodedEpisode(
            state=data.draw(hnp.arrays(np.float32, (length, width), elements=numbers)),
            actions=data.draw(hnp.arrays(np.float32, (length, 1), elements=numbers)),
            executed=None,
            instructions=tuple(data.draw(st.lists(words, min_size=length, max_size=length))),
            clips={},
            pictures={},
            seed=None,
        )
        for length in lengths
    ]
    folder = tmp_path_factory.mktemp("any") / "set"
    with LeRobotWriter(folder, spec, episodes_per_file=per_file) as writer:
        writer.add(*episodes)
    reader = LeRobotReader(folder)
    np.testing.assert_array_equal(reader.state, np.concatenate([e.state for e in episodes]))
    np.testing.assert_array_equal(reader.actions, np.concatenate([e.actions for e in episodes]))
    assert reader.executed is None
    assert not reader.seeds
    said = [word for episode in episodes for word in episode.instructions]
    assert [reader.instruction(row) for row in range(len(reader))] == said


def test_pictures_come_back_within_what_compression_costs(tmp_path):
    reader = LeRobotReader(write(tmp_path / "set", EPISODES[:3]))
    # the ground of synthetic pictures is gray 120; crf 16 leaves flat parts within 3 levels
    for entry in reader.episodes:
        for camera in SPEC.cameras:
            pictures = np.stack(list(reader.frames(entry.index, camera.name)))
            assert pictures.shape == (entry.length, camera.height, camera.width, 3)
            assert np.abs(np.median(pictures, axis=(1, 2)).astype(int) - 120).max() <= 3


def test_statistics_are_those_of_the_numbers(tmp_path):
    reader = LeRobotReader(write(tmp_path / "set", EPISODES))
    for name, values in (("state", reader.state), ("action", reader.actions)):
        np.testing.assert_allclose(reader.stats[name].mean, values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(reader.stats[name].q99, np.quantile(values.astype(float), 0.99, axis=0))
    assert reader.stats.source.startswith("set@")


def test_the_hash_knows_the_content_and_not_the_files(tmp_path):
    one = LeRobotReader(write(tmp_path / "a", EPISODES)).hash
    assert LeRobotReader(write(tmp_path / "b", EPISODES, episodes_per_file=2)).hash == one
    changed = replace(EPISODES[3], actions=EPISODES[3].actions + np.float32(1e-3))
    assert LeRobotReader(write(tmp_path / "c", [*EPISODES[:3], changed, *EPISODES[4:]])).hash != one
    other_pictures = replace(EPISODES[3], clips=EPISODES[0].clips)
    assert LeRobotReader(write(tmp_path / "d", [*EPISODES[:3], other_pictures, *EPISODES[4:]])).hash != one


def test_all_at_once_or_one_by_one_gives_equal_files(tmp_path):
    write(tmp_path / "one", EPISODES, episodes_per_file=3)
    with LeRobotWriter(tmp_path / "many", SPEC, executed=True, episodes_per_file=3) as writer:
        writer.add(*EPISODES)
    assert_equal_files(tmp_path / "many", tmp_path / "one")


# ---- the format ----


def test_files_are_those_of_lerobot_v3(tmp_path):
    folder = write(tmp_path / "set", EPISODES, episodes_per_file=3)
    expected = {"meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/visuomotor.json"}
    for number in range(3):
        place = f"chunk-000/file-{number:03d}"
        expected |= {f"meta/episodes/{place}.parquet", f"data/{place}.parquet"}
        expected |= {f"videos/observation.images.{camera}/{place}.mp4" for camera in ("front", "wrist")}
    assert set(content(folder)) == expected


def test_info_says_what_lerobot_wants_to_know(tmp_path):
    info = json.loads((write(tmp_path / "set", EPISODES) / "meta/info.json").read_text())
    ticks = sum(len(episode) for episode in EPISODES)
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (
        10,
        7,
        ticks,
        4,
    )
    assert info["splits"] == {"train": "0:7"}
    assert info["robot_type"] == "cursor"
    assert info["chunks_size"] == 1000
    features = info["features"]
    assert features["observation.images.wrist"]["shape"] == [16, 24, 3]
    assert features["observation.images.wrist"]["info"]["video.codec"] == "h264"
    assert features["action"] == {"dtype": "float32", "shape": [3], "names": ["dx", "dy", "gripper"]}
    assert features["task_index"] == {"dtype": "int64", "shape": [1], "names": None}
    paths = {"chunk_index": 0, "file_index": 0}
    assert (tmp_path / "set" / info["data_path"].format(**paths)).exists()
    assert (
        tmp_path / "set" / info["video_path"].format(video_key="observation.images.front", **paths)
    ).exists()


def test_data_has_a_row_group_an_episode(tmp_path):
    folder = write(tmp_path / "set", EPISODES)
    file = pq.ParquetFile(folder / "data/chunk-000/file-000.parquet")
    lengths = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    assert lengths == [len(episode) for episode in EPISODES]
    kinds = {name: str(kind) for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types)}
    assert kinds["observation.state"].startswith("fixed_size_list<")
    assert kinds["observation.state"].endswith("[3]")
    assert (kinds["timestamp"], kinds["index"]) == ("float", "int64")
    table = file.read().to_pydict()
    assert table["index"] == list(range(sum(lengths)))
    assert table["frame_index"][: lengths[0]] == list(range(lengths[0]))
    assert table["timestamp"][3] == pytest.approx(0.3)


def test_episodes_have_their_place_and_figures(tmp_path):
    folder = write(tmp_path / "set", EPISODES)
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key, start = "observation.images.front", 0
    for row, episode in zip(rows, EPISODES):
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (start, start + len(episode))
        assert row[f"videos/{key}/from_timestamp"] == pytest.approx(start / 10)
        assert row[f"videos/{key}/to_timestamp"] == pytest.approx((start + len(episode)) / 10)
        assert row["tasks"] == list(dict.fromkeys(episode.instructions))
        np.testing.assert_allclose(row["stats/action/mean"], episode.actions.mean(0), rtol=1e-5, atol=1e-7)
        assert row["stats/action/count"] == [len(episode)]
        assert np.shape(row[f"stats/{key}/mean"]) == (3, 1, 1)
        start += len(episode)
    figures = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    for feature in (key, "observation.state", "action", "action.executed", "timestamp", "task_index"):
        assert {name for name in figures if f"stats/{feature}/{name}" in rows[0]} == figures


def test_stats_json_covers_the_whole_data_set(tmp_path):
    folder = write(tmp_path / "set", EPISODES)
    stats, reader = json.loads((folder / "meta/stats.json").read_text()), LeRobotReader(folder)
    np.testing.assert_allclose(stats["action"]["q01"], reader.stats["action"].q01)
    assert stats["action"]["count"] == [len(reader)]
    front = np.array(stats["observation.images.front"]["mean"])
    assert front.shape == (3, 1, 1)
    assert 0.3 < front.mean() < 0.6


def test_tasks_are_found_by_pandas_index(tmp_path):
    table = pq.read_table(write(tmp_path / "set", EPISODES) / "meta/tasks.parquet")
    assert table.column_names == ["task_index", "task"]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


# ---- going on ----


def test_writing_goes_on_where_it_stopped(tmp_path):
    write(tmp_path / "whole", EPISODES, episodes_per_file=3, meta={"task": "move"})
    for stop in (0, 2, 3, 4, 7):
        folder = write(tmp_path / f"at{stop}", EPISODES[:stop], episodes_per_file=3, meta={"task": "move"})
        write(folder, EPISODES[stop:], episodes_per_file=3, resume=True)
        assert_equal_files(folder, tmp_path / "whole")


def test_another_codec_header_begins_another_file(tmp_path):
    from visuomotor.data.video import VideoSettings, encode

    camera = SPEC.cameras[0]
    pictures = list(np.full((len(EPISODES[1]), camera.height, camera.width, 3), 90, np.uint8))
    clips = {**EPISODES[1].clips, "front": encode(pictures, camera, 10.0, VideoSettings(crf=30))}
    reader = LeRobotReader(
        write(tmp_path / "set", [EPISODES[0], replace(EPISODES[1], clips=clips), EPISODES[2]])
    )
    assert [entry.videos["front"].path.stem for entry in reader.episodes] == [
        "file-000",
        "file-001",
        "file-002",
    ]
    for entry in reader.episodes:
        assert len(list(reader.frames(entry.index, "front"))) == entry.length


def test_writing_over_something_else_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(DataError, match=r"holds something else, nothing was written"):
            LeRobotWriter(tmp_path, SPEC, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    folder = write(tmp_path / "set", EPISODES[:1])
    with pytest.raises(DataError, match="holds something else"):
        LeRobotWriter(folder, SPEC)
    with pytest.raises(DataError, match="another spec"):
        LeRobotWriter(folder, replace(SPEC, rate=20.0), resume=True)
    with pytest.raises(DataError, match="executed"):
        LeRobotWriter(folder, SPEC, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executed": None}, "expected executed actions"),
        ({"clips": {}}, "expected videos of"),
        (dict.fromkeys(("actions", "executed"), np.zeros((9, 2), np.float32)), "finite actions of width 3"),
        ({"state": np.full((9, 3), np.nan, np.float32)}, "expected finite state"),
    ],
)
def test_episodes_of_another_shape_are_refused(tmp_path, change, message):
    with (
        LeRobotWriter(tmp_path / "set", SPEC, executed=True) as writer,
        pytest.raises(DataError, match=message),
    ):
        writer.add(replace(EPISODES[0], **change))


def test_a_camera_name_cannot_leave_the_folder(tmp_path):
    spec = replace(SPEC, cameras=(Camera(name="../../up", height=8, width=8),))
    with pytest.raises(DataError, match=r"camera '\.\./\.\./up'"):
        LeRobotWriter(tmp_path / "set", spec)


# ---- data sets of others ----


def foreign(tmp_path: Path) -> Path:
    folder = make_dataset(tmp_path / "foreign", episodes=3)
    (folder / "meta/visuomotor.json").unlink()
    return folder


def test_a_foreign_data_set_needs_a_spec(tmp_path):
    folder = foreign(tmp_path)
    with pytest.raises(DataError, match=r"Pass spec=Spec\(\.\.\.\)"):
        LeRobotReader(folder)
    reader = LeRobotReader(folder, SPEC)
    assert len(reader.episodes) == 3
    assert reader.meta == {}


def test_a_spec_that_contradicts_the_data_is_refused(tmp_path):
    folder = foreign(tmp_path)
    cases = {
        "expected fps 20": replace(SPEC, rate=20.0),
        r"'action': expected shape \[2\] as in the spec, got \[3\]": replace(SPEC, action=SPEC.action[:2]),
        r"'observation.images.front': expected shape \[8, 8, 3\]": replace(
            SPEC, cameras=(Camera(name="front", height=8, width=8),)
        ),
        "unknown feature 'observation.images.frnt'. Did you mean 'observation.images.front'": replace(
            SPEC, cameras=(Camera(name="frnt", height=32, width=32),)
        ),
    }
    for message, spec in cases.items():
        with pytest.raises(DataError, match=message):
            LeRobotReader(folder, spec)
    with pytest.raises(DataError, match="differs from the one in"):
        LeRobotReader(make_dataset(tmp_path / "own", episodes=1), replace(SPEC, embodiment="other"))


def test_tasks_under_a_nameless_index_are_read(tmp_path):
    folder = make_dataset(tmp_path / "set", episodes=2)
    before = LeRobotReader(folder).tasks
    path = folder / "meta/tasks.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.rename_columns(["task_index", "__index_level_0__"]).replace_schema_metadata({}), path
    )
    assert LeRobotReader(folder).tasks == before
