"""What a check of a whole data set reports, on the command line and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small_arm import demonstrations, write

from visuomotor.cli import main
from visuomotor.data.check import CHECKS, check
from visuomotor.errors import UnknownNameError

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = demonstrations(count=9)
    episodes[2].actions[5:8, 1] = 2.5  # out of limits: an error
    episodes[3].instructions = ["todo <b>"] * len(episodes[3].instructions)
    episodes[3].instructions[0] = "todo"  # a warning
    episodes[4].pictures[10:25] = [picture // 16 for picture in episodes[4].pictures[10:25]]
    return write(tmp_path_factory.mktemp("spoiled") / "arm", episodes)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clean") / "arm", demonstrations(count=4))


def test_the_exit_code_says_how_bad_it_is(
    clean: Path, spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(clean), "--fail-on", "warning"]) == 0
    assert main(["data", "check", str(spoiled)]) == 1
    assert main(["data", "check", str(spoiled), "--only", "instructions"]) == 0
    assert main(["data", "check", str(spoiled), "--only", "instructions", "--fail-on", "warning"]) == 1
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "meta/info.json" in capsys.readouterr().err


def test_the_report_is_a_page_and_json_with_pictures(
    spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["data", "check", str(spoiled), "--report", str(out), "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    saved = json.loads((out / "report.json").read_text())
    assert saved["findings"] == told["findings"]
    assert {(one["check"], one["episode"]) for one in saved["findings"]} >= {
        ("limits", 2),
        ("instructions", 3),
        ("black", 4),
    }
    page = (out / "report.html").read_text()
    assert "image/jpeg;base64,/9j/" in page
    assert page.count("<polyline") >= 3
    assert "Episode 2, ticks 5 to 7, action elbow" in page
    assert "http" not in re.sub(r"http-equiv", "", page)  # nothing from the network
    assert (
        main(["data", "check", str(spoiled), "--report", str(tmp_path / "one.html"), "--only", "limits"]) == 1
    )
    assert (tmp_path / "one.html").is_file()
    assert (tmp_path / "one.json").is_file()


def test_a_video_that_cannot_be_decoded_is_a_finding_among_others(clean: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "arm", demonstrations(count=2))
    (video,) = folder.glob("videos/**/*.mp4")
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    video.write_bytes(content)
    report = check(folder)
    assert "unreadable" in {finding.check for finding in report.findings}
    assert report.fails("error")


def test_checking_writes_nothing_and_tells_how_far_it_is(clean: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
    seen: list[tuple[str, int, int]] = []
    check(clean, progress=lambda *words: seen.append(words))
    assert {path: path.stat().st_mtime_ns for path in clean.rglob("*")} == before
    assert [done for _, done, _ in seen] == [1, 2, 3, 4]
    assert {total for *_, total in seen} == {4}


def test_an_unknown_check_is_answered_with_the_closest(clean: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'outliers'"):
        check(clean, only=["outlier"])


def test_the_documents_have_the_table_of_checks() -> None:
    text = DOCS.read_text()
    for one in CHECKS:
        assert f"| `{one.name}` | {one.severity} | {one.finds} | {one.spoils} | {one.limit} |" in text, (
            one.name
        )


def test_a_report_of_something_else_is_left_alone(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "check", str(clean), "--only", "limits", "--report", str(tmp_path)]
    assert main(command) == 0
    assert main(command) == 0  # its own is replaced
    for name, said in (
        ("report.html", "is not a page of visuomotor data check"),
        ("report.json", "is no report of data check"),
    ):
        kept, other = (tmp_path / name).read_text(), '{"success": 1}'
        (tmp_path / name).write_text(other)
        capsys.readouterr()
        assert main(command) == 1
        assert said in capsys.readouterr().err
        assert (tmp_path / name).read_text() == other
        (tmp_path / name).write_text(kept)
