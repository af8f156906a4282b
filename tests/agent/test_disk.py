from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from visuomotor.agent.disk import check_hashes, locate, new_folder, read_json, seal
from visuomotor.errors import CheckpointError


def put(target: Path, text: str) -> None:
    with new_folder(target) as part:
        (part / "a.txt").write_text(text)
        seal(part, {"format": 1})


def test_a_folder_appears_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    for text in ("one", "two"):
        put(tmp_path / "here" / "checkpoint", text)
        assert (locate(tmp_path / "here") / "a.txt").read_text() == text
        assert [path.name for path in (tmp_path / "here").iterdir()] == ["checkpoint"]


def test_an_error_while_writing_leaves_the_last_one_alone(tmp_path: Path) -> None:
    put(tmp_path / "checkpoint", "one")

    def fail(part: Path) -> None:
        (part / "a.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"), new_folder(tmp_path / "checkpoint") as part:
        fail(part)
    assert (locate(tmp_path) / "a.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_one_whole_folder_survives_a_kill_at_any_moment(tmp_path: Path, moment: int) -> None:
    """Killed while writing, before the first rename, or between the two renames."""
    put(tmp_path / "checkpoint", "one")
    code = f"""
import os, signal, sys
from pathlib import Path
from visuomotor.agent.disk import new_folder, seal
calls = 0
rename = Path.rename
def killing(self, target):
    global calls
    calls += 1
    if calls == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killing
with new_folder(Path({str(tmp_path / "checkpoint")!r})) as part:
    (part / "a.txt").write_text("two")
    if {moment} == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    seal(part, {{}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    place = locate(tmp_path)
    check_hashes(place, ["a.txt"])
    assert (place / "a.txt").read_text() == "one"
    put(tmp_path / "checkpoint", "three")
    assert (locate(tmp_path) / "a.txt").read_text() == "three"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_nothing_foreign_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(CheckpointError, match=r"found something else\. Nothing was overwritten"),
        new_folder(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_without_a_checkpoint_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint here \(expected provenance\.json"):
        locate(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(tmp_path / "nowhere")


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    put(tmp_path / "c", "one")
    (tmp_path / "c" / "a.txt").write_text("eno")
    with pytest.raises(CheckpointError, match=r"a\.txt: the file is damaged or was changed"):
        check_hashes(tmp_path / "c", ["a.txt"])
    (tmp_path / "c" / "a.txt").unlink()
    with pytest.raises(CheckpointError, match=r"a\.txt: the file is missing"):
        check_hashes(tmp_path / "c", ["a.txt"])
    with pytest.raises(CheckpointError, match=r"b\.txt: the file is not listed"):
        check_hashes(tmp_path / "c", ["b.txt"])


def test_json_with_other_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"a": 1, "b": 2}))
    assert read_json(file, ("a", "b")) == {"a": 1, "b": 2}
    with pytest.raises(CheckpointError, match="missing or unknown: b, c"):
        read_json(file, ("a", "c"))
    file.write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        read_json(file)
    file.write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object, got list"):
        read_json(file)
