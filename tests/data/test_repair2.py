"""What an interrupted recording of LeRobot v2.1 or v2.0 leaves: whole episodes are kept, the rest is told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.data.check import check
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.repair import repair
from visuomotor.data.stills import encode_png
from visuomotor.data.synthetic import SPEC, make_episode
from visuomotor.data.video import StillSettings, VideoSettings
from visuomotor.data.writer21 import LeRobotWriter21
from visuomotor.errors import DataError
from visuomotor.types import Camera, Dimension, Spec

GOLDEN = Path(__file__).parents[1] / "parity/lerobot_golden/v21/set"
LENGTHS = (5, 2, 7, 4)
STARTS = (0, 5, 7, 14)
FRONT = "observation.images.front"
THEIRS = Spec(
    embodiment="golden",
    cameras=(Camera(name="front", height=64, width=96),),
    state=tuple(Dimension(name=key) for key in ("a", "b", "gripper")),
    action=tuple(Dimension(name=key) for key in ("da", "gripper")),
    rate=10.0,
)


DAMAGED = {"unreadable", "stats_differ", "stats_missing", "black", "frozen", "time_gaps", "instructions"}


def table(episode: int) -> str:
    return f"data/chunk-000/episode_{episode:06d}.parquet"


def video(episode: int) -> str:
    return f"videos/chunk-000/{FRONT}/episode_{episode:06d}.mp4"


def without_footer(path: Path, more: int = 0) -> None:
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    path.write_bytes(data[: len(data) - footer - more])


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def keep_lines(path: Path, count: int, rest: int = 0) -> None:
    """The first `count` lines, and `rest` letters of the next."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:count]) + "".join(lines[count:])[:rest])


def edit_info(folder: Path, **changes) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_line(path: Path, number: int, **changes) -> None:
    lines = path.read_text().splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    path.write_text("\n".join(lines) + "\n")


def leave_pictures(folder: Path, episode: int, count: int | None = None) -> None:
    """The pictures of an episode as a recorder leaves them that has not made its video."""
    place = folder / f"images/{FRONT}/episode_{episode:06d}"
    place.mkdir(parents=True)
    reader = LeRobotReader(GOLDEN, THEIRS)
    for tick, picture in enumerate(reader.frames(episode, "front", count=count)):
        (place / f"frame_{tick:06d}.png").write_bytes(encode_png(picture))


def as_version_20(folder: Path) -> None:
    """The same as v2.0: statistics of the whole."""
    (folder / "meta/episodes_stats.jsonl").unlink()
    reader = LeRobotReader(GOLDEN, THEIRS)
    stats = {
        name: {how: figure.tolist() for how, figure in part.items() if how != "count"}
        for name, part in reader.stored_stats().items()
    }
    (folder / "meta/stats.json").write_text(json.dumps(stats))
    edit_info(folder, codebase_version="v2.0")


@pytest.fixture(params=["v2.1", "v2.0"])
def whole(request, tmp_path: Path) -> Path:
    """A data set of four episodes with columns of every type and one camera."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "broken"))
    if request.param == "v2.0":
        as_version_20(folder)
    return folder


def errors(folder: Path) -> set[str]:
    """Checks that `data check` fails."""
    return {one.check for one in check(folder, spec=THEIRS).findings if one.severity == "error"}


def assert_episodes(folder: Path, kept: tuple[int, ...], made: tuple[int, ...] = ()) -> None:
    """The result has the episodes `kept`, every value and picture of them; the videos of `made` are new."""
    before, after = LeRobotReader(GOLDEN, THEIRS), LeRobotReader(folder, THEIRS)
    assert [episode.length for episode in after.episodes] == [LENGTHS[number] for number in kept]
    rows = np.concatenate([np.arange(LENGTHS[number]) + STARTS[number] for number in kept])
    for name, feature in before.features.items():
        if not feature.pictures and name not in ("index", "episode_index", "task_index"):
            np.testing.assert_array_equal(after.column(name), before.column(name)[rows], err_msg=name)
    assert [after.instruction(t) for t in range(len(rows))] == [before.instruction(t) for t in rows.tolist()]
    for new, old in enumerate(kept):
        ours = np.stack(list(after.frames(new, "front"))).astype(int)
        theirs = np.stack(list(before.frames(old, "front"))).astype(int)
        assert np.abs(ours - theirs).mean() < (4 if old in made else 1e-9)
    stored = after.stored_stats()
    np.testing.assert_allclose(stored["action"]["mean"], after.stats["action"].mean, rtol=1e-5)
    np.testing.assert_allclose(stored["action"]["std"], after.stats["action"].std, rtol=1e-5)
    pictures = np.concatenate([np.stack(list(after.frames(e.index, "front"))) for e in after.episodes]) / 255
    # a fourth of the ticks is counted
    np.testing.assert_allclose(stored[FRONT]["mean"].ravel(), pictures.mean((0, 1, 2)), atol=0.1)
    info = json.loads((folder / "meta/info.json").read_text())
    totals = [info[f"total_{name}"] for name in ("episodes", "frames", "videos", "chunks")]
    assert totals == [len(kept), len(rows), len(kept), 1]
    assert info["splits"] == {"train": f"0:{len(kept)}"}
    assert not errors(folder) & DAMAGED  # random numbers have errors of their own


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[int, ...], str]] = {
    "no table of the last": (
        lambda f: (f / table(3)).unlink(),
        (0, 1, 2),
        r"episode 3: its table .* is missing",
    ),
    "no table in the middle": (
        lambda f: (f / table(1)).unlink(),
        (0, 2, 3),
        r"episode 1: its table .* is missing.*episode 2 is now called 1.*episode 3 is now called 2",
    ),
    "table cut in a row group": (
        lambda f: cut(f / table(3), 0.1),
        (0, 1, 2),
        r"episode 3: its table cannot be read",
    ),
    "empty table": (
        lambda f: (f / table(3)).write_bytes(b""),
        (0, 1, 2),
        r"episode 3: its table cannot be read",
    ),
    "table of another episode": (
        lambda f: shutil.copy(f / table(1), f / table(3)),
        (0, 1, 2),
        r"episode 3: its table says that its rows belong to another episode",
    ),
    "no video": (lambda f: (f / video(3)).unlink(), (0, 1, 2), r"episode 3: its video .* is missing"),
    "video of zero bytes": (
        lambda f: (f / video(3)).write_bytes(b""),
        (0, 1, 2),
        r"cannot be read behind picture 0.*episode 3: its video .* has 0 whole pictures for 4 ticks",
    ),
    "shorter video": (
        lambda f: shutil.copy(f / video(1), f / video(2)),
        (0, 1, 3),
        r"episode 2: its video .* has 2 whole pictures for 7 ticks",
    ),
    "longer video and no line": (
        lambda f: (shutil.copy(f / video(2), f / video(3)), keep_lines(f / "meta/episodes.jsonl", 3)),
        (0, 1, 2),
        r"episode 3: its video .* has 7 whole pictures for 4 ticks",
    ),
    "pictures of an episode that has no rows": (
        lambda f: shutil.copytree(leftover(f, 2), f / f"images/{FRONT}/episode_000004"),
        (0, 1, 2, 3),
        r"episode 4: pictures of 'observation.images.front', but its rows were never written",
    ),
    "words that nothing tells": (
        lambda f: (
            (f / "meta/tasks.jsonl").write_text(""),
            keep_lines(f / "meta/episodes.jsonl", 1),
        ),
        (),
        r"episode 0: the words of task 0, 1 are lost.*episode 3: the words of task 1 are lost",
    ),
}


def leftover(folder: Path, episode: int) -> Path:
    leave_pictures(folder, episode)
    return folder / f"images/{FRONT}/episode_{episode:06d}"


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_lost_is_told_and_the_rest_is_kept(whole, tmp_path, name):
    damage, kept, message = DAMAGE[name]
    damage(whole)
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    if not kept:
        with pytest.raises(DataError, match=rf"no episode could be recovered.*{message}"):
            repair(whole, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    report = repair(whole, tmp_path / "out")
    assert re.search(message, " ".join(report.lost)), report.lost
    assert (report.episodes, report.ticks) == (len(kept), sum(LENGTHS[number] for number in kept))
    assert_episodes(tmp_path / "out", kept)
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


BROUGHT_BACK: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda f: None, "^$"),
    "table without footer": (lambda f: without_footer(f / table(3)), r"footer; 1 row groups with 4 ticks"),
    "totals that lag": (
        lambda f: edit_info(f, total_episodes=1, total_frames=99, total_videos=0),
        r"total_episodes was 1, it is 4 .*total_frames was 99, it is 18",
    ),
    "a line of an episode cut off": (
        lambda f: keep_lines(f / "meta/episodes.jsonl", 3, 20),
        r"episode 3: its line in meta/episodes\.jsonl",
    ),
    "no lines of episodes": (
        lambda f: (f / "meta/episodes.jsonl").unlink(),
        r"episode 0: .*episode 3: its line",
    ),
    "a line with a wrong length": (
        lambda f: edit_line(f / "meta/episodes.jsonl", 2, length=9),
        r"episode 2: its line said 9 ticks, its table has 7",
    ),
    "words cut off": (
        lambda f: keep_lines(f / "meta/tasks.jsonl", 1, 30),
        r"task 1, 'lift it', from the episodes",
    ),
    "all words gone": (
        lambda f: (f / "meta/tasks.jsonl").write_text(""),
        r"task 0, 'push the red cube'.*task 1, 'lift it'",
    ),
    "figures cut off": (
        lambda f: [keep_lines(path, 2, 200) for path in f.glob("meta/episodes_stats.jsonl")],
        "",
    ),
    "no figures": (
        lambda f: [path.unlink() for path in f.glob("meta/*stats.json*")],
        "",
    ),
    "bytes that are no text": (
        lambda f: (f / "meta/episodes.jsonl").write_bytes(
            (f / "meta/episodes.jsonl").read_bytes() + b"\xff\xfe{"
        ),
        "",
    ),
    "video not yet made": (
        lambda f: (leave_pictures(f, 3), (f / video(3)).unlink()),
        r"the video of 'observation.images.front' is missing; made of its pictures",
    ),
    "video cut, pictures left": (
        lambda f: (leave_pictures(f, 3), cut(f / video(3), 0.5)),
        r"the video of 'observation.images.front' has 0 whole pictures for 4 ticks; made of its pictures",
    ),
}


@pytest.mark.parametrize("name", BROUGHT_BACK)
def test_what_can_be_told_is_brought_back(whole, tmp_path, name):
    damage, message = BROUGHT_BACK[name]
    damage(whole)
    report = repair(whole, tmp_path / "out")
    assert (report.episodes, report.ticks) == (4, 18)
    assert not [lost for lost in report.lost if lost.startswith("episode ")], report.lost
    assert re.search(message, " ".join(report.recovered)), report.recovered
    assert_episodes(tmp_path / "out", (0, 1, 2, 3), made=(3,) if "pictures" in message else ())


def test_every_moment_of_saving_an_episode_leaves_the_others(tmp_path):
    """The order in which lerobot 0.3.3 saves: words, table, video of pictures, totals, line, figures."""
    for moment in range(7):
        folder = Path(shutil.copytree(GOLDEN, tmp_path / str(moment)))
        leave_pictures(folder, 3, None if moment else 2)
        if moment < 6:
            keep_lines(folder / "meta/episodes_stats.jsonl", 3)
        if moment < 5:
            keep_lines(folder / "meta/episodes.jsonl", 3, 9 if moment == 4 else 0)
        if moment < 4:
            edit_info(folder, total_episodes=3, total_frames=14, total_videos=3)
        if moment < 3:
            (folder / video(3)).unlink()
        if moment < 2:
            (folder / table(3)).unlink()
        report = repair(folder, tmp_path / f"{moment} out")
        kept = (0, 1, 2, 3) if moment >= 2 else (0, 1, 2)
        assert report.episodes == len(kept)
        assert_episodes(tmp_path / f"{moment} out", kept, made=(3,) if moment == 2 else ())


def test_without_footer_and_line_a_table_says_nothing(tmp_path):
    """A table that was cut between two row groups could be shorter than the episode was."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "broken"))
    rows = pq.read_table(folder / table(2))
    with pq.ParquetWriter(folder / table(2), rows.schema, compression="snappy") as writer:
        for begin in (0, 3):
            writer.write_table(rows.slice(begin, 3 if begin == 0 else 4))
    groups = pq.ParquetFile(folder / table(2)).metadata.row_group(1)
    first = min(
        groups.column(n).dictionary_page_offset or groups.column(n).data_page_offset for n in range(3)
    )
    data = (folder / table(2)).read_bytes()
    (folder / table(2)).write_bytes(data[:first])
    report = repair(folder, tmp_path / "out")
    assert any("has 7 whole pictures for 3 ticks" in lost for lost in report.lost), report.lost
    assert_episodes(tmp_path / "out", (0, 1, 3))


def own(folder: Path, settings: VideoSettings | StillSettings) -> Path:
    """A v2.1 data set of our own with seeds, hashes and executed actions."""
    with LeRobotWriter21(folder, SPEC, executed=True, settings=settings) as writer:
        writer.add(*(make_episode(seed, ticks=6, settings=settings) for seed in range(3)))
    return folder


def test_our_own_version_21_is_repaired_with_seeds_and_hashes(tmp_path):
    folder = own(tmp_path / "own", VideoSettings())
    whole = LeRobotReader(folder)
    (folder / table(1)).unlink()
    clip = folder / "videos/chunk-000/observation.images.wrist/episode_000002.mp4"
    report = repair(folder, tmp_path / "out")
    found = LeRobotReader(tmp_path / "out")
    assert report.episodes == 2
    assert [episode.seed for episode in found.episodes] == [0, 2]
    assert found.episodes[1].videos["wrist"].sha256 == whole.episodes[2].videos["wrist"].sha256
    for episode in found.episodes:
        assert len(list(found.frames(episode.index, "wrist"))) == 6  # the hash is checked
    shutil.copy(clip.with_name("episode_000000.mp4"), clip)
    report = repair(folder, tmp_path / "again")
    assert report.episodes == 1
    assert any("episode 2: " in lost and "their hash differs" in lost for lost in report.lost)


@pytest.mark.parametrize("damage", ["none", "in the table", "gone"])
def test_pictures_in_tables_are_read_each(tmp_path, damage):
    settings = own(tmp_path / "own", StillSettings())
    path = settings / table(2)
    rows = pq.read_table(path)
    values = rows["observation.images.front"].to_pylist()
    (settings / "images").mkdir()
    (settings / "images/one.png").write_bytes(values[1]["bytes"])
    if damage == "in the table":
        values[4] = {"bytes": values[4]["bytes"][:60], "path": None}
    else:
        name = "images/one.png" if damage == "none" else "images/two.png"
        values[1] = {"bytes": None, "path": name}
    at = rows.column_names.index("observation.images.front")
    kind = rows.schema.field(at).type
    pq.write_table(rows.set_column(at, "observation.images.front", pa.array(values, kind)), path)
    report = repair(settings, tmp_path / "out")
    assert report.episodes == (3 if damage == "none" else 2)
    if damage == "none":  # the picture is in the table now
        inside = pq.read_table(tmp_path / "out" / table(2))["observation.images.front"].to_pylist()
        assert inside[1]["bytes"] == (settings / "images/one.png").read_bytes()
    else:
        assert any("episode 2: tick " in lost for lost in report.lost)
    reader = LeRobotReader(tmp_path / "out")
    assert sum(len(list(reader.frames(e.index, "front"))) for e in reader.episodes) == len(reader)


@pytest.mark.parametrize("others", [True, False])
def test_a_new_video_has_the_codec_of_the_others(tmp_path, others):
    """lerobot's converter to v3.0 joins videos by their packets."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "broken"))
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features[FRONT]["info"] = {**(features[FRONT].get("info") or {}), "video.codec": "av1"}
    edit_info(folder, features=features)
    made = (3,) if others else (0, 1, 2, 3)
    for episode in made:
        leave_pictures(folder, episode)
        (folder / video(episode)).unlink()
    repair(folder, tmp_path / "out")
    with av.open(str(tmp_path / "out" / video(3))) as container:
        assert container.streams.video[0].codec_context.name in (("h264",) if others else ("libdav1d", "av1"))
    assert_episodes(tmp_path / "out", (0, 1, 2, 3), made=made)


def damage_some(folder: Path, generator: np.random.Generator) -> list[str]:
    """Cut, empty, remove or garble one to three files."""
    said = []
    for _ in range(int(generator.integers(1, 4))):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "info.json")
        path = files[int(generator.integers(len(files)))]
        data = bytearray(path.read_bytes())
        kind = int(generator.integers(5))
        if kind == 0:
            path.unlink()
        elif kind == 1 or not data:
            path.write_bytes(b"")
        elif kind == 2:
            path.write_bytes(data[: int(generator.integers(len(data)))])
        elif kind == 3:
            path.write_bytes(data[: -int(generator.integers(1, 64))])
        else:
            begin = int(generator.integers(len(data)))
            data[begin : begin + 8] = generator.bytes(8)
            path.write_bytes(data)
        said.append(f"{path.relative_to(folder)} kind {kind}")
    return said


def test_whatever_is_damaged_the_result_can_be_read_or_nothing_is_written(tmp_path):
    kept = 0
    for seed in range(40):
        folder = Path(shutil.copytree(GOLDEN, tmp_path / str(seed)))
        if seed % 2:
            as_version_20(folder)
        if seed % 3 == 0:
            leave_pictures(folder, 3)
        said = damage_some(folder, np.random.default_rng(seed))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        out = tmp_path / f"{seed} out"
        try:
            report = repair(folder, out)
        except Exception as error:
            if not isinstance(error, DataError) or "no episode could be recovered" not in str(error):
                raise AssertionError(f"seed {seed}, {said}: {error!r}") from error
            continue
        reader = LeRobotReader(out, THEIRS)
        reader.stored_stats()
        for name, feature in reader.features.items():
            if not feature.pictures:
                reader.column(name)
        for episode in reader.episodes:
            assert len(list(reader.frames(episode.index, "front"))) == episode.length, said
        assert report.episodes == 4 or any("episode" in lost for lost in report.lost), said
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        kept += report.episodes
    assert kept > 40 * 2
