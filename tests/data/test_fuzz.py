"""Whatever is damaged: the data are the same as before, or one `DataError`; never another error or a hang."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.data.layout import safe_path
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Spec

GOLDEN = Path(__file__).parents[1] / "parity/lerobot_golden"
STATE = tuple(Dimension(name=key) for key in ("a", "b", "gripper"))
ACTION = tuple(Dimension(name=key) for key in ("da", "gripper"))
SIZES = {"v21": (64, 96), "images": (12, 16), "chunks": (64, 64)}
TABLE = "data/chunk-000/episode_000002.parquet"


def spec(name: str) -> Spec:
    height, width = SIZES[name]
    camera = Camera(name="front", height=height, width=width)
    return Spec(embodiment="golden", cameras=(camera,), state=STATE, action=ACTION, rate=10.0)


def read_all(folder: Path, name: str) -> None:
    """Every value and every picture."""
    reader = LeRobotReader(folder, spec(name))
    for key, feature in reader.features.items():
        if not feature.pictures:
            reader.column(key)
        elif key in ("observation.images.front", "observation.images.depth"):
            for episode in reader.episodes:
                assert len(list(reader.pictures(episode.index, key))) == episode.length


def mutate(folder: Path, generator: np.random.Generator) -> str:
    """Damage one file: cut it, change bytes, double a part, or empty it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[generator.integers(len(files))]
    data = bytearray(path.read_bytes())
    kind = int(generator.integers(5))
    if kind == 0:
        data = data[: int(generator.integers(len(data)))]
    elif kind == 1:
        for place in generator.integers(0, len(data), 8):
            data[place] = int(generator.integers(256))
    elif kind == 2:
        begin = int(generator.integers(len(data)))
        data[begin : begin + 16] = generator.bytes(16)
    elif kind == 3:
        begin = int(generator.integers(len(data)))
        data = data[:begin] + data[max(0, begin - 64) :]
    else:
        data[-int(generator.integers(1, 64)) :] = b""
    path.write_bytes(bytes(data))
    return f"{path.relative_to(folder)} kind {kind}"


@pytest.mark.parametrize("name", SIZES)
def test_random_damage_is_one_data_error_or_harmless(name, tmp_path):
    refused = longest = 0
    for seed in range(60):
        folder = Path(shutil.copytree(GOLDEN / name / "set", tmp_path / str(seed)))
        what = mutate(folder, np.random.default_rng([seed, len(name)]))
        try:
            read_all(folder, name)
        except DataError as error:
            refused += 1
            longest = max(longest, len(str(error)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {what}: {error!r}") from error
        shutil.rmtree(folder)
    assert longest < 3000
    assert refused > 20  # the rest hit unread bytes, such as statistics, or changed a number


def info(**changes):
    def change(folder: Path) -> None:
        path = folder / "meta/info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def feature(name: str, **changes):
    def change(folder: Path) -> None:
        features = json.loads((folder / "meta/info.json").read_text())["features"]
        features[name] = {**features.get(name, {}), **changes}
        info(features=features)(folder)

    return change


def lines(name: str, edit):
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text("".join(line + "\n" for line in edit(path.read_text().splitlines())))

    return change


def cell(name: str, row: int, value):
    def change(folder: Path) -> None:
        table = pq.read_table(folder / TABLE)
        values = table[name].to_pylist()
        values[row] = value
        at = table.column_names.index(name)
        pq.write_table(table.set_column(at, name, pa.array(values)), folder / TABLE)

    return change


def cut(name: str, share: float):
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return change


VIDEO = "videos/chunk-000/observation.images.front/episode_000002.mp4"
CASES = {
    "cut table": (cut(TABLE, 0.7), r"episode_000002\.parquet: cannot be read as parquet.*data repair"),
    "no table": (lambda f: (f / TABLE).unlink(), r"episode_000002\.parquet: file is missing"),
    "no video": (lambda f: (f / VIDEO).unlink(), r"episode 2: video .*episode_000002\.mp4 of camera 'front'"),
    "cut video": (cut(VIDEO, 0.5), r"episode 2, feature 'observation.images.front': .*episode_000002\.mp4"),
    "short video": (
        lambda f: shutil.copy(f / VIDEO.replace("002.mp4", "001.mp4"), f / VIDEO) and None,
        r"episode 2, feature 'observation.images.front': "
        r".*the video ends after picture 2, but the table has ticks up to 7",
    ),
    "wrong fps": (info(fps=20), r"expected fps 10 as in the spec, got 20"),
    "no fps": (info(fps="fast"), r"expected fps in \(0, 10000\], got 'fast'"),
    "not a number": (
        cell("action", 3, [float("nan"), 0.0]),
        r"episode_000002\.parquet: episode 2, tick 3: 'action' dimension 0 is nan",
    ),
    "wrong shape": (
        cell("observation.state", 3, [0.0]),
        r"episode_000002\.parquet: column 'observation\.state': expected lists of 3 numbers, "
        r"got lengths \[1, 3\], first at episode 2, tick 3",
    ),
    "wrong time": (
        cell("timestamp", 3, 0.7),
        r"002\.parquet: episode 2, tick 3: expected timestamp 0\.3000 at 10 ticks a second, got 0\.7",
    ),
    "index twice": (
        cell("index", 3, 9),
        r"row 10 with index 9 \(.*episode_000002\.parquet: episode 2, tick 3",
    ),
    "no camera": (
        feature("observation.images.front", shape=[8, 8, 3]),
        r"'observation\.images\.front': expected shape \[64, 96, 3\]",
    ),
    "absurd shape": (feature("half", shape=[10**9, 10**9]), r"'half': shape .* is too large for one tick"),
    "absurd length": (
        lines(
            "meta/episodes.jsonl",
            lambda old: [*old[:-1], old[-1].replace('length": 4', 'length": 4' + "0" * 18)],
        ),
        r"expected rows with index 0 to .* found 18 rows",
    ),
    "absurd count": (info(total_episodes=10**30), r"4 episodes in 1 files, but meta/info\.json says 10000"),
    "shape of words": (feature("half", shape="two"), r"'half': expected a 'shape' of whole numbers"),
    "unknown dtype": (feature("half", dtype="quaternion"), r"'half': dtype 'quaternion' is not known"),
    "other dtype": (feature("exact", dtype="int64"), r"column 'exact': expected int64, got double"),
    "feature that leaves": (
        feature("../../up", dtype="video", shape=[8, 8, 3]),
        r"'\.\./\.\./up': expected a name",
    ),
    "template that leaves": (info(data_path="../{episode_index}.parquet"), r"leads outside the data set"),
    "template that asks": (info(data_path="{episode_index.__class__}"), r"template .* cannot be filled in"),
    "template that is huge": (
        info(video_path="{episode_index:9999999d}"),
        r"template .* cannot be filled in",
    ),
    "template of zero": (info(data_path="data/a\0b"), r"template .* leads outside|cannot be read|missing"),
    "episode twice": (
        lines("meta/episodes.jsonl", lambda old: [*old[:3], old[2]]),
        r"expected episode 3 .* got episode 2",
    ),
    "episode without length": (
        lines("meta/episodes.jsonl", lambda old: ['{"episode_index": 0}', *old[1:]]),
        r"episodes\.jsonl: expected whole numbers episode_index and length",
    ),
    "cut line": (
        lines("meta/tasks.jsonl", lambda old: [old[0], old[1][:9]]),
        r"tasks\.jsonl: line 2: expected JSON",
    ),
    "deep JSON": (
        lambda f: (f / "meta/info.json").write_text("[" * 100000) and None,
        r"info\.json: expected JSON",
    ),
    "chunks of none": (info(chunks_size=0), r"expected chunks_size of 1 or more, got 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_of_version_2_is_named(case, tmp_path):
    damage, message = CASES[case]
    folder = Path(shutil.copytree(GOLDEN / "v21/set", tmp_path / "set"))
    damage(folder)
    with pytest.raises(DataError, match=message):
        read_all(folder, "v21")


def picture(folder: Path, value: dict) -> None:
    """Put something else in the place of the second picture."""
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    name = "observation.images.front"
    values = table[name].to_pylist()
    values[1] = value
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, pa.array(values, table.schema.field(name).type)), path)


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": None, "path": None}, "holds no picture"),
        ({"bytes": None, "path": "/etc/passwd"}, "lies outside the data set"),
        ({"bytes": None, "path": "../../secret.png"}, "lies outside the data set"),
        ({"bytes": None, "path": "images/gone.png"}, r"gone\.png is missing"),
        ({"bytes": b"GIF89a", "path": None}, "expected a PNG, JPEG or TIFF"),
        (
            {"bytes": PNG + b"\xff\xff\xff\xff\xff\xff\xff\xff", "path": None},
            "expected a picture of 12 x 16, got 42949",
        ),
        (
            {"bytes": PNG + b"\0\0\0\x10\0\0\0\x0c\x08\x02", "path": None},
            "cannot be decoded|holds no picture",
        ),
        ({"bytes": PNG, "path": None}, "header of the picture is cut off"),
        ({"bytes": b"\xff\xd8\xff\xe0\0\x02", "path": None}, "header of the picture is cut off"),
        ({"bytes": b"\x80\x04cos\nsystem\n", "path": None}, "expected a PNG, JPEG or TIFF"),
    ],
)
def test_damaged_pictures_are_named(value, message, tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "images/set", tmp_path / "set"))
    picture(folder, value)
    with pytest.raises(
        DataError, match=rf"file-000\.parquet: row 1: 'observation\.images\.front'.*({message})"
    ):
        read_all(folder, "images")


def test_pictures_that_are_files_of_the_data_set_are_read(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "images/set", tmp_path / "set"))
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    before = [list(LeRobotReader(folder, spec("images")).frames(e, "front")) for e in (0, 1)]
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images/one.png").write_bytes(table["observation.images.front"][1].as_py()["bytes"])
    picture(folder, {"bytes": None, "path": "images/one.png"})
    after = [list(LeRobotReader(folder, spec("images")).frames(e, "front")) for e in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(before), np.concatenate(after))


def test_missing_statistics_are_an_error_where_they_are_asked_for(tmp_path):
    for name, file in (("v21", "episodes_stats.jsonl"), ("images", "stats.json")):
        folder = Path(shutil.copytree(GOLDEN / name / "set", tmp_path / name))
        (folder / "meta" / file).unlink()
        reader = LeRobotReader(folder, spec(name))
        with pytest.raises(DataError, match=f"{file}: file is missing"):
            reader.stored_stats()
        assert reader.stats["action"].count == len(reader)  # ours are computed


def test_links_of_a_download_cache_are_followed(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "v21/set", tmp_path / "set"))
    blob = tmp_path / "blob"
    (folder / TABLE).rename(blob)
    (folder / TABLE).symlink_to(blob)
    read_all(folder, "v21")


def test_a_template_may_not_leave_by_its_key(tmp_path):
    with pytest.raises(DataError, match="leads outside"):
        safe_path(tmp_path, "videos/{video_key}.mp4", video_key="../../up")
