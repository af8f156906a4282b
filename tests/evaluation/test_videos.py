from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fabricated import invent
from grid_world import GridWorld

from visuomotor.errors import VisuomotorError
from visuomotor.evaluation.probes import Case, play
from visuomotor.evaluation.setup import Setup
from visuomotor.evaluation.videos import VideoWriter, choose, film, outcome

CASE = Case(part="main", index=0, seed=12, options={})


def station() -> Any:
    return Setup(agent="grid_world:Walker", env="grid_world:GridWorld", execute=2).build()


def test_a_film_shows_every_tick_and_rests_on_the_end(tmp_path: Path) -> None:
    place = station()
    trial = play(place.env, place.session, CASE)
    path = tmp_path / "film.mp4"
    film(place, CASE, trial, path, size=96)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 5.0
    assert len(frames) == 1 + trial.episode.ticks + 5  # the start, every tick, and one more second
    assert frames[0].shape == (96, 96, 3)
    assert np.abs(frames[-1].astype(int) - frames[-4]).mean() < 2
    corner = frames[0][8:36, 60:88].astype(int)  # the second camera, in a white frame
    assert corner[0].mean() > 240
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_episode_that_goes_another_way_is_not_shown(tmp_path: Path) -> None:
    place = station()
    trial = play(place.env, place.session, CASE)
    other = replace(trial, episode=replace(trial.episode, digest="0"))
    with pytest.raises(VisuomotorError, match=r"seed 12 \(main\) went another way"):
        film(place, CASE, other, tmp_path / "film.mp4", size=32)
    assert list(tmp_path.iterdir()) == []


def test_a_world_that_cannot_draw_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = station()
    trial = play(place.env, place.session, CASE)
    monkeypatch.delattr(GridWorld, "render")
    with pytest.raises(ValueError, match="videos=0"):
        film(place, CASE, trial, tmp_path / "film.mp4")


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"), VideoWriter(tmp_path / "a.mp4", 5.0) as video:
        video.add(np.zeros((15, 16, 3), np.uint8))


def test_every_kind_of_failure_is_filmed_and_a_few_successes() -> None:
    chosen = choose(invent().trials, 2)
    kinds = [(trial.part, outcome(trial)) for trial in chosen]
    assert kinds.count(("main", "success")) == 2
    assert {("main", reason) for reason in ("out of time", "wrong place", "dropped")} <= set(kinds)
    assert kinds.count(("swap", "success")) == 1
    assert ("swap", "wrong object") in kinds
    assert ("phrasing", "success") not in kinds
    assert not any(part == "blank" for part, _ in kinds)
    assert choose(invent().trials, 0) == []


def test_the_first_scenes_are_filmed_however_they_end() -> None:
    trials = invent().trials
    first = [trial for trial in choose(trials, 0, first=3) if trial.part == "main"]
    assert [trial.index for trial in first] == [0, 1, 2]
    both = [trial.index for trial in choose(trials, 1, first=2) if trial.part == "main"]
    assert both[:2] == [0, 1]
    assert len(set(both)) == len(both)
    assert {outcome(trial) for trial in choose(trials, 1, first=2)} >= {
        "success",
        "out of time",
        "wrong place",
        "dropped",
    }
