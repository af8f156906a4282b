"""The page to look through a data set, and how it ranks episodes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_arm import demonstrations, write

from visuomotor.cli import main
from visuomotor.data.check.base import Survey
from visuomotor.data.check.run import check_survey
from visuomotor.data.check.scores import score
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.video import decode
from visuomotor.data.view import view
from visuomotor.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = demonstrations(count=10)
    episodes[6].cut([*range(15), *range(15)])  # it goes back at once
    episodes[7].state[9, 1] += 1.5
    episodes[7].instructions[3:] = ["</script><b>take</b>"] * len(episodes[7].instructions[3:])
    return write(tmp_path_factory.mktemp("view") / "arm", episodes)


def content(page: Path) -> dict:
    (data,) = re.findall(r"<script>const data = (.*);</script>", page.read_text())
    return json.loads(data)


def episode(page: Path, line: dict) -> dict:
    script = (page.parent / content(page)["files"] / line["file"]).read_text()
    match = re.fullmatch(rf"showEpisode\({line['index']}, (.*)\);\n", script)
    assert match
    return json.loads(match[1])


def test_the_page_holds_every_number_and_word(folder: Path, tmp_path: Path) -> None:
    page = view(folder, tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    reader = LeRobotReader(folder)
    lines = content(page)["episodes"]
    assert sorted(line["index"] for line in lines) == list(range(10))
    for line in lines:
        entry, told = reader.episodes[line["index"]], episode(page, line)
        rows = slice(entry.start, entry.start + entry.length)
        np.testing.assert_allclose(np.array(told["state"]).T, reader.state[rows], rtol=1e-4, atol=1e-12)
        np.testing.assert_allclose(np.array(told["action"]).T, reader.actions[rows], rtol=1e-4, atol=1e-12)
        assert told["words"][0] == [0, reader.instruction(entry.start)]
    (spoiled,) = [line for line in lines if line["index"] == 7]
    assert [tick for tick, _ in episode(page, spoiled)["words"]] == [0, 3]
    assert "</script><b>" not in page.read_text()


def test_videos_play_everywhere_and_show_every_tick(folder: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    page = view(folder, tmp_path / "one.html", episodes=[4])
    (line,) = content(page)["episodes"]
    video = tmp_path / "one_files" / episode(page, line)["videos"]["hand"]
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    reader = LeRobotReader(folder)
    shown = list(decode(video, rate=reader.rate, count=line["length"]))
    for large, picture in zip(shown, reader.frames(4, "hand")):
        small = large[4::8, 4::8].astype(int)  # the middle of each square of pixels
        assert np.abs(small - picture).mean() < 8  # levels; two lossy steps with halved colors
    strip = tmp_path / "one_files" / line["strip"]["file"]
    assert strip.read_bytes().startswith(b"\xff\xd8\xff")
    assert line["strip"]["count"] == 24


def test_unusual_episodes_come_first(folder: Path, tmp_path: Path) -> None:
    page = view(folder, tmp_path / "out", most=4)
    lines = content(page)["episodes"]
    assert len(lines) == 4
    assert {line["index"] for line in lines[:2]} == {6, 7}
    totals = [line["score"]["total"] for line in lines]
    assert totals == sorted(totals, reverse=True)
    (spoiled,) = [line for line in lines if line["index"] == 7]
    assert ("outliers", [9, 10], "state elbow") in [
        (one["check"], one["ticks"], one["dimension"]) for one in spoiled["findings"]
    ]


def test_scores_do_not_depend_on_units(folder: Path) -> None:
    survey = Survey(reader=LeRobotReader(folder))
    report = check_survey(survey, only=["outliers"])
    other = Survey(reader=LeRobotReader(folder))
    other.reader.state = other.reader.state * np.float32(64)
    for one, same in zip(score(survey, report), score(other, report)):
        assert one.total == pytest.approx(same.total, abs=0.02)


def test_an_episode_that_does_not_exist_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "view", str(folder), "--out", str(tmp_path / "out"), "--episodes", "3", "99"]) == 1
    assert "no episode 99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_page_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("my home page")
    with pytest.raises(DataError, match="is not a page of visuomotor"):
        view(tmp_path / "set", tmp_path)
    assert page.read_text() == "my home page"


def test_only_videos_of_shown_episodes_are_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    frames = LeRobotReader.frames

    def watched(self: LeRobotReader, number: int, camera: str, **more: int):
        seen.add(number)
        return frames(self, number, camera, **more)

    monkeypatch.setattr(LeRobotReader, "frames", watched)
    page = view(folder, tmp_path / "out", most=3)
    assert seen == {line["index"] for line in content(page)["episodes"]}
    assert len(seen) == 3


def test_a_page_of_another_command_is_left_alone(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text('<meta name="generator" content="visuomotor data check 0.1">')
    with pytest.raises(DataError, match="is not a page of visuomotor data view"):
        view(folder, page)
