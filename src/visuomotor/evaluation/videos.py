"""Videos of chosen episodes, played again from their seeds.

Episodes are bit-equal when repeated, so filming can wait until it is known which ones are worth it.
A repetition that ends in any other way is an error, not a video.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from visuomotor.errors import VisuomotorError
from visuomotor.evaluation.probes import MAIN, Case, Trial, play

__all__ = ["Filming", "Video", "VideoWriter", "choose", "film"]


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video of one trial.

    Attributes:
        file: Path relative to the output folder.
        part: "main" or the name of a probe.
        index: Place of the trial within its part.
        outcome: "success" or the reason of the failure.
    """

    file: str
    part: str
    index: int
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


class VideoWriter:
    """An h264 mp4 that plays in every browser (yuv420p, index at the front); a context manager.

    Args:
        path: Appears when the last picture is in; nothing is left behind otherwise.
        rate: Pictures a second.
        crf: Constant rate factor of x264; 23 shows no loss in drawn scenes.
    """

    def __init__(self, path: Path, rate: float, crf: int = 23) -> None:
        self._path = path
        self._part = path.with_name(f"{path.stem}.part.mp4")
        self._rate = Fraction(rate).limit_denominator(1001)
        self._crf = crf
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, picture: UInt8[np.ndarray, "height width 3"], repeat: int = 1) -> None:
        """Append one picture, `repeat` times."""
        import av

        if self._container is None:
            self._open(picture)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        for _ in range(repeat):
            for packet in self._stream.encode(frame.reformat(format="yuv420p")):
                self._container.mux(packet)

    def _open(self, picture: np.ndarray) -> None:
        import av

        height, width, _ = picture.shape
        if height % 2 or width % 2:
            raise ValueError(f"video: expected an even height and width, got {height} and {width}.")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._part), "w", options={"movflags": "+faststart"})
        options = {"crf": str(self._crf), "preset": "medium", "tune": "animation"}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.thread_count = 1

    def __exit__(self, kind: object, *_: object) -> None:
        if self._container is None:
            return
        if kind is None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Filming:
    """The task of a worker: play a case again and film it.

    Attributes:
        case: What to play.
        expected: How it went before.
        path: Where the mp4 goes.
        size: Height and width in pixels.
    """

    case: Case
    expected: Trial
    path: Path
    size: int = 320

    def __call__(self, station: Any) -> None:
        """Film it in `station`."""
        film(station, self.case, self.expected, self.path, self.size)


def film(station: Any, case: Case, expected: Trial, path: Path, size: int = 320) -> None:
    """Play `case` again and write what the first camera sees, with the second one in a corner.

    Raises:
        VisuomotorError: The episode did not go as `expected`; nothing is written.
        ValueError: The environment cannot draw.
    """
    env = station.env
    if not hasattr(env, "render"):
        raise ValueError(f"{type(env).__name__} has no render(camera, height, width). Ask for videos=0.")
    cameras = [camera.name for camera in env.spec.cameras][:2]
    with VideoWriter(path, env.spec.rate) as video:

        def watch(env: Any, tick: int, status: Any) -> None:
            ended = status is not None and status.done
            video.add(_picture(env, cameras, size), repeat=1 + round(env.spec.rate) if ended else 1)

        trial = play(env, station.session, case, watch)
        if not trial.episode.same_as(expected.episode):
            raise VisuomotorError(
                f"seed {case.seed} ({case.part}) went another way when it was filmed: "
                f"{outcome(expected)} after {expected.episode.ticks} ticks before, {outcome(trial)} after "
                f"{trial.episode.ticks} now. Environment or agent depend on something besides the seed."
            )


def _picture(env: Any, cameras: Sequence[str], size: int) -> np.ndarray:
    """The view of the first camera, with that of the second in its upper right corner."""
    picture = np.array(env.render(cameras[0], size, size), np.uint8)
    if len(cameras) > 1:
        small = size // 4
        inset = np.full((small + 4, small + 4, 3), 255, np.uint8)
        inset[2:-2, 2:-2] = env.render(cameras[1], small, small)
        picture[8 : 8 + small + 4, -(small + 12) : -8] = inset
    return picture


def outcome(trial: Trial) -> str:
    """ "success", or why it failed."""
    return "success" if trial.episode.success else trial.episode.failure or "unknown"


def choose(trials: Sequence[Trial], each: int, first: int = 0) -> list[Trial]:
    """Which trials to film: of the main part `each` of every outcome, of each probe one of every failure.

    The `first` trials of the main part are filmed however they went, so that films of several agents
    show the same scenes.

    One success is shown of "swap" too; those of other probes look like those of the main part. "blank"
    is not filmed: without a sentence nothing that happens is a mistake.
    """
    chosen: list[Trial] = []
    seen: dict[tuple[str, str], int] = {}
    for trial in trials:
        kind = (trial.part, outcome(trial))
        if trial.part == MAIN and trial.index < first:
            seen[kind] = seen.get(kind, 0) + 1
            chosen.append(trial)
            continue
        if trial.part == "blank" or (trial.part not in (MAIN, "swap") and trial.episode.success):
            continue
        if seen.get(kind, 0) < (each if trial.part == MAIN else min(each, 1)):
            seen[kind] = seen.get(kind, 0) + 1
            chosen.append(trial)
    return chosen
