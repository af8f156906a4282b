"""The whole demo in its tiny form: stopped in the middle, finished, looked at, and asked for again."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest

import visuomotor
from visuomotor.cli import main
from visuomotor.evaluation import runner

pytestmark = pytest.mark.slow

SOURCE = Path(visuomotor.__file__).parent.parent
RATE = {"rate", "low", "high", "n"}


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "visuomotor.cli", "demo", "--tiny", "--out", str(out)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, int, str]:
    """A demo that got Ctrl-C while it trained: its folder, exit code and last words."""
    out = tmp_path_factory.mktemp("study") / "demo"
    process = subprocess.Popen(command(out), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "policy" / "log.jsonl").is_file():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    return out, process.returncode, said


@pytest.fixture(scope="module")
def finished(stopped: tuple[Path, int, str], environment: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    """The same command again: its folder, and the JSON of its last line."""
    out, _, _ = stopped
    done = subprocess.run(
        [*command(out), "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def test_ctrl_c_saves_the_state_and_says_how_to_go_on(stopped: tuple[Path, int, str]) -> None:
    out, code, said = stopped
    assert code == 130, said
    assert "the state is saved" in said
    assert said.rstrip().endswith(f"visuomotor demo --tiny --out {out}")
    assert "Traceback" not in said
    assert not (out / "report.json").exists()


def test_the_same_command_goes_on_where_it_was_stopped(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    steps = [json.loads(line)["step"] for line in (out / "policy" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "a step was logged twice"
    assert steps[-1] == 30


def test_the_report_has_every_field(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    assert report == json.loads((out / "report.json").read_text())
    assert report["task"] == "put_in"
    assert set(report["success"]) >= RATE
    assert report["success"]["n"] == 4
    assert 0 <= report["success"]["low"] <= report["success"]["rate"] <= report["success"]["high"] <= 1
    assert isinstance(report["wrong_object"], int)
    assert isinstance(report["wrong_place"], int)
    assert set(report["probes"]) == {"swap", "phrasing", "words", "blank"}
    assert all(set(probe) >= RATE and probe["n"] == 2 for probe in report["probes"].values())
    assert "followed_old" in report["probes"]["swap"]
    assert "chance" in report["probes"]["blank"]
    assert set(report["policy"]) >= {"family", "parameters", "text"}
    assert report["policy"]["text"] == "scratch"
    assert report["demonstrations"]["kept"] == 6
    assert report["demonstrations"]["dropped"] >= 0
    facts = json.loads((out / "demonstrations" / "meta" / "visuomotor.json").read_text())
    assert facts["collect"]["options"] == {"rival": True}
    seconds = report["seconds"]
    assert set(seconds) >= {"collect", "train", "evaluate", "total"}
    assert seconds["total"] == pytest.approx(
        seconds["collect"] + seconds["train"] + seconds["evaluate"], abs=0.05
    )
    assert 0 < report["inference_ms"]["median"] <= report["inference_ms"]["p99"]
    assert report["seed"] == 0
    assert report["versions"]["visuomotor"] == visuomotor.__version__


def test_the_page_holds_videos_that_play(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    page = (out / "report.html").read_text()
    films = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", page)
    assert films
    assert "<video" in page
    assert not re.search(r"(?:src|href)=[\"']https?://", page), "the page loads something from elsewhere"
    for film in films:
        with av.open(io.BytesIO(base64.b64decode(film))) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            assert video.streams.video[0].codec_context.name == "h264"
        assert len(frames) > 1
        assert frames[0].std() > 5, "a picture of one color"


def test_a_finished_demo_does_nothing_and_says_where_the_report_is(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(["demo", "--tiny", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "finished" in said
    assert str(out / "report.html") in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_doctor_verifies_the_checkpoint_and_finds_damage(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    assert main(["doctor", str(out / "policy")]) == 0
    assert "every hash right" in capsys.readouterr().out
    weights = out / "policy" / "checkpoint" / "ema.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert main(["doctor", str(out / "policy")]) == 1
        assert "ema.safetensors" in capsys.readouterr().err
    finally:
        weights.write_bytes(whole)


def test_a_checkpoint_can_be_evaluated_and_compared_again(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    few = ["--episodes", "2", "--probes", "--videos", "0", "--workers", "0"]
    assert main(["evaluate", str(out / "policy"), "--out", str(tmp_path / "again"), *few]) == 0
    assert main(["evaluate", "expert", "--out", str(tmp_path / "expert"), *few]) == 0
    capsys.readouterr()
    assert main(["compare", str(out), str(tmp_path / "again"), "--json"]) == 0
    difference = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert difference["n"] == 2
    assert difference["difference"] == 0, "equal seeds must give equal episodes"
    assert main(["compare", str(tmp_path / "again"), str(tmp_path / "expert")]) == 1
    assert "env_options" in capsys.readouterr().err


def test_seeds_that_the_policy_was_trained_on_are_refused(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, _ = finished
    monkeypatch.setattr(runner, "FIRST_SEED", 0)
    with pytest.raises(ValueError, match="seed_offset"):
        runner.evaluate(out / "policy", episodes=2, probes=(), workers=0, out=tmp_path / "cheat")
