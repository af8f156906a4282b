"""Checks of pictures. Each video is decoded once, and three numbers a picture are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from visuomotor.data.check.base import Excerpt, Finding, Survey, Trace
from visuomotor.data.check.motion import runs

__all__ = ["black", "doubled", "expect", "frozen", "look", "skipped"]

_LONGEST = 128
"""Pictures are looked at with at most so many pixels a side; every n-th is taken."""
BLACK_LEVEL, FLAT_LEVELS = 24.0, 8.0
BLIND_SECONDS = 1.0
FROZEN_SECONDS, FROZEN_TICKS, SUDDEN_SHARE = 1.0, 5.0, 0.4
SAME_SHARE = 0.15
STILL_LEVELS = 0.05
DOUBLED_SHARE, DOUBLED_LEAST, CATCH_UP = 0.1, 5, 1.0
SKIP_FACTOR, SKIP_MOTION, SKIP_ALONE = 10.0, 2.0, 0.25
_NEAR = 5
"""Ticks to either side that count as the neighborhood."""


def look(survey: Survey, number: int, camera: str) -> Trace:
    """Decode the pictures of one episode and camera and keep what checks need.

    Raises:
        DataError: They cannot be decoded.
    """
    size = survey.reader.spec.camera(camera)
    stride = max(1, -(-max(size.height, size.width) // _LONGEST))
    change, low, high = list[float](), list[float](), list[float]()
    before: np.ndarray | None = None
    for picture in survey.reader.frames(number, camera):
        small = picture[::stride, ::stride].astype(np.int16)
        change.append(0.0 if before is None else float(np.abs(small - before).mean()))
        gray = small.sum(axis=-1, dtype=np.int16).ravel()
        ends = (len(gray) // 100, len(gray) - 1 - len(gray) // 100)
        darkest, brightest = np.partition(gray, ends)[list(ends)] / 3
        low.append(float(darkest))
        high.append(float(brightest))
        before = small
    changes, lows, highs = (np.array(values, np.float32) for values in (change, low, high))
    return Trace(change=changes, low=lows, high=highs, expected=np.zeros_like(changes))


def _blind(trace: Trace) -> np.ndarray:
    """bool (tick,), whether a picture is black or of one color."""
    return (trace.high < BLACK_LEVEL) | (trace.high - trace.low < FLAT_LEVELS)


def expect(survey: Survey) -> None:
    """Fill in what change of the pictures the motion of the robot lets expect, for every trace.

    The median of it is kept as the usual change of the camera, at least `STILL_LEVELS`: a camera that
    stands still in the whole data set lets nothing expect, and is met by that floor.

    It is a sum of the speeds of all numbers of the state, with weights that are not negative, fitted to
    all episodes: a joint that turns the whole view weighs much, one that the camera does not see nothing.
    """
    for camera in (camera.name for camera in survey.reader.spec.cameras):
        survey.usual_change[camera] = STILL_LEVELS
        places = [place for place, name in survey.traces if name == camera]
        speeds = [survey.speeds(survey.excerpt(place)) for place in places]
        if not places or not speeds[0].shape[1]:
            continue
        seen = np.concatenate([survey.traces[place, camera].change[1:] for place in places])
        weights = _fit(np.concatenate([speed[1:] for speed in speeds]), seen.astype(np.float64))
        changes = [(speed @ weights).astype(np.float32) for speed in speeds]
        for place, expected in zip(places, changes):
            survey.traces[place, camera] = replace(survey.traces[place, camera], expected=expected)
        usual = np.median(np.concatenate([expected[1:] for expected in changes]))
        survey.usual_change[camera] = max(float(usual), STILL_LEVELS)


def _fit(speeds: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Weights (number,), none negative, so that `speeds` (tick, number) @ weights is near `change` (tick,).

    Least squares, one weight after the other; a few dozen rounds are plenty for a threshold.
    """
    square, right = speeds.T @ speeds, speeds.T @ change
    weights = np.zeros(len(right))
    for _ in range(50):
        for number in np.flatnonzero(np.diag(square) > 0):
            rest = right[number] - square[number] @ weights + square[number, number] * weights[number]
            weights[number] = max(0.0, rest / square[number, number])
    return weights


def black(survey: Survey, episode: Excerpt, traces: Mapping[str, Trace]) -> Iterator[Finding]:
    """Pictures that are black, or of one color, so that they tell nothing."""
    for camera, trace in traces.items():
        blind = _blind(trace)
        longest = max(runs(blind), key=lambda run: run[1] - run[0], default=(0, 0))
        seconds = (longest[1] - longest[0]) / survey.rate
        if seconds > BLIND_SECONDS or (blind.all() and len(blind)):
            inside = slice(*longest)
            dark = bool(np.median(trace.high[inside]) < BLACK_LEVEL)
            level = np.median(trace.high[inside] if dark else (trace.high - trace.low)[inside])
            yield Finding(
                episode=episode.index,
                ticks=longest,
                camera=camera,
                value=float(level),
                threshold=BLACK_LEVEL if dark else FLAT_LEVELS,
                said=f"Camera {camera} is {'black' if dark else 'of one color'} for {seconds:.1f} s "
                f"({'brightest level' if dark else 'levels between dark and bright'} {level:.0f} of 255).",
            )


def frozen(survey: Survey, episode: Excerpt, traces: Mapping[str, Trace]) -> Iterator[Finding]:
    """Pictures that stand still while the robot moves."""
    for camera, trace in traces.items():
        usual = survey.usual_change[camera]
        for first, last in runs(_stands(trace, usual)):
            seconds, moved = (last - first) / survey.rate, float(trace.expected[first:last].sum() / usual)
            if seconds > FROZEN_SECONDS and moved > FROZEN_TICKS and _sudden(trace, first, last):
                yield Finding(
                    episode=episode.index,
                    ticks=(first, last),
                    camera=camera,
                    value=seconds,
                    threshold=FROZEN_SECONDS,
                    said=f"Camera {camera} shows the same picture for {seconds:.1f} s, while the robot moves "
                    f"as far as in {moved:.0f} usual ticks.",
                )


def _sudden(trace: Trace, first: int, last: int) -> bool:
    """Whether pictures stop and go on at once; a robot that leaves the view does so little by little."""
    ends = [tick for tick in (first - 1, last) if 0 < tick < len(trace.change)]
    return all(trace.change[tick] > SUDDEN_SHARE * trace.expected[tick] for tick in ends)


def _stands(trace: Trace, usual: float) -> np.ndarray:
    """bool (tick,), whether a picture is the one before, but for what compression adds."""
    stands = trace.change < SAME_SHARE * np.maximum(trace.expected, usual)
    stands[:1] = False
    return stands & ~_blind(trace)  # which is a finding of its own


def doubled(survey: Survey, episode: Excerpt, traces: Mapping[str, Trace]) -> Iterator[Finding]:
    """Single pictures that come twice between others that change: a camera slower than the rate."""
    for camera, trace in traces.items():
        usual = survey.usual_change[camera]
        moves = trace.expected > usual / 2
        twice = np.zeros(len(moves), bool)
        for first, last in runs(_stands(trace, usual) & moves):
            # what stood still is made up for at once: else the robot is out of view, or hidden
            enough = trace.expected[[first - 1, min(last, len(moves) - 1)]] * (CATCH_UP / 2, CATCH_UP)
            if first > 1 and last < len(moves) and (trace.change[[first - 1, last]] > enough).all():
                twice[first:last] = True
        share = float(twice.sum() / max(moves.sum(), 1))
        if share > DOUBLED_SHARE and twice.sum() >= DOUBLED_LEAST:
            tick = int(np.flatnonzero(twice)[0])
            yield Finding(
                episode=episode.index,
                ticks=(tick - 1, tick + 1),
                camera=camera,
                value=share,
                threshold=DOUBLED_SHARE,
                said=f"Camera {camera} repeats its picture at {twice.sum()} ticks ({share:.0%}), "
                "although the robot moves.",
            )


def skipped(survey: Survey, episode: Excerpt, traces: Mapping[str, Trace]) -> Iterator[Finding]:
    """A picture that jumps while the state does not: pictures were left out before it."""
    for camera, trace in traces.items():
        usual = survey.usual_change[camera]
        jump = trace.change / np.maximum(_around(trace.change), usual)
        jump[trace.expected > SKIP_MOTION * np.maximum(_around(trace.expected), usual)] = 0
        # two jumps in a row are something that passes before the camera
        after = np.append(trace.change[1:], 0)
        blind = _blind(trace)
        jump[blind | np.roll(blind, 1)] = 0
        jump[np.maximum(after, np.roll(trace.change, 1)) > SKIP_ALONE * trace.change] = 0
        tick = int(jump.argmax()) if len(jump) else 0
        if len(jump) and jump[tick] > SKIP_FACTOR:
            yield Finding(
                episode=episode.index,
                ticks=(tick - 1, tick + 1),
                camera=camera,
                value=float(jump[tick]),
                threshold=SKIP_FACTOR,
                said=f"The picture of camera {camera} changes {jump[tick]:.0f} times as much as around it, "
                "while the state moves as usual.",
            )


def _around(values: np.ndarray) -> np.ndarray:
    """Median of the neighborhood of each tick, itself left out."""
    padded = np.pad(values.astype(np.float64), _NEAR, constant_values=np.nan)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEAR + 1).copy()
    near[:, _NEAR] = np.nan
    near[np.isnan(near).all(axis=1), 0] = 0.0  # an episode of a single tick
    return np.nanmedian(near, axis=1)
