"""The picture of a finding: its trace around the ticks, or what the camera saw there."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from visuomotor.data.check.base import Finding, Survey
from visuomotor.data.thumbnails import enlarge, jpeg
from visuomotor.errors import DataError

__all__ = ["histogram_plot", "illustrate", "trace_plot"]

_WIDTH, _HEIGHT = 300.0, 84.0
_POINTS = 300
_STILL = 160
"""Least height and width of a picture in pixels."""


def illustrate(survey: Survey, finding: Finding) -> str:
    """HTML that shows a finding: pictures of a camera, a trace, or how values are spread."""
    places = [n for n, entry in enumerate(survey.reader.episodes) if entry.index == finding.episode]
    if not places:
        return _spread(survey, finding)
    shown = [_trace(survey, places[0], finding)]
    first, last = finding.ticks or (0, survey.reader.episodes[places[0]].length)
    cameras = [camera.name for camera in survey.reader.spec.cameras]
    if finding.camera or cameras:
        camera = finding.camera or cameras[0]
        shown.append(_stills(survey, places[0], camera, sorted({first, (first + last - 1) // 2, last - 1})))
    return "".join(shown)


def _values(survey: Survey, rows: slice, finding: Finding) -> tuple[np.ndarray, str] | None:
    """The numbers (tick,) that a finding is about, and their name; None if it is about no one."""
    feature, _, name = (finding.dimension or "").partition(" ")
    for kind, values, dimensions in (
        ("state", survey.reader.state, survey.state_dimensions),
        ("action", survey.reader.actions, survey.action_dimensions),
    ):
        names = [dimension.name for dimension in dimensions]
        if feature == kind and name in names:
            number = names.index(name)
            unit = dimensions[number].unit
            return values[rows, number], f"{kind} {name}" + (f" ({unit})" if unit != "1" else "")
    return None


def _trace(survey: Survey, place: int, finding: Finding) -> str:
    entry = survey.reader.episodes[place]
    found = _values(survey, slice(entry.start, entry.start + entry.length), finding)
    if found is None and finding.camera and (place, finding.camera) in survey.traces:
        found = survey.traces[place, finding.camera].change, f"change of {finding.camera} (levels of 255)"
    if found is None:
        speeds = survey.speeds(survey.excerpt(place))
        found = speeds.max(axis=1, initial=0), "speed of the fastest number (share of its range)"
    return trace_plot(found[0], found[1], finding.ticks)


def _spread(survey: Survey, finding: Finding) -> str:
    found = _values(survey, slice(None), finding)
    return "" if found is None else histogram_plot(*found)


def trace_plot(values: np.ndarray, title: str, ticks: tuple[int, int] | None = None) -> str:
    """A curve of `values` (tick,) as SVG, with `ticks` (first, one past the last) marked."""
    low, high = float(np.min(values)), float(np.max(values))
    span = high - low or 1.0
    last = max(len(values) - 1, 1)
    # of several ticks at one place the lowest and the highest, so that no spike gets lost
    groups = np.array_split(np.arange(len(values)), min(len(values), _POINTS // 2))
    shown = sorted({int(g[pick(values[g])]) for g in groups for pick in (np.argmin, np.argmax)})
    points = " ".join(f"{_WIDTH * t / last:.1f},{_HEIGHT * (high - values[t]) / span:.1f}" for t in shown)
    band = ""
    if ticks is not None:
        left, right = max(ticks[0] - 0.5, 0), min(ticks[1] - 0.5, last)
        wide = max(_WIDTH * (right - left) / last, 2)
        left = min(_WIDTH * left / last, _WIDTH - wide)
        band = f'<rect class="found" x="{left:.1f}" y="-4" width="{wide:.1f}" height="{_HEIGHT + 8}"/>'
    return _figure(f'{band}<polyline class="trace" points="{points}"/>', title, low, high, f"tick {last}")


def histogram_plot(values: np.ndarray, title: str) -> str:
    """How often `values` (tick,) take each size, as SVG."""
    counts, edges = np.histogram(values, bins=48)
    tall = np.sqrt(counts / max(counts.max(), 1))  # square roots, so that rare values can be seen
    wide = _WIDTH / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{wide * n:.1f}" y="{_HEIGHT * (1 - t):.1f}" width="{wide - 1:.1f}" '
        f'height="{_HEIGHT * t:.1f}"/>'
        for n, t in enumerate(tall)
        if t
    )
    title = f"how often each {title}"
    return _figure(bars, title, None, None, f"{edges[-1]:.3g}", begin=f"{edges[0]:.3g}")


def _figure(
    content: str, title: str, low: float | None, high: float | None, end: str, begin: str = "tick 0"
) -> str:
    scale = "" if low is None else f"<span>{high:.3g}</span><span>{low:.3g}</span>"
    return (
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption><div class="scale">{scale}</div>'
        f'<svg viewBox="0 -4 {_WIDTH:.0f} {_HEIGHT + 8:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{content}</svg>'
        f'<div class="ends"><span>{escape(begin)}</span><span>{escape(end)}</span></div></figure>'
    )


def _stills(survey: Survey, place: int, camera: str, ticks: list[int]) -> str:
    """Pictures of some ticks; a video that cannot be decoded is passed over, as it is a finding itself."""
    wanted = {}
    try:
        for tick, picture in enumerate(survey.reader.frames(place, camera)):
            if tick in ticks:
                wanted[tick] = jpeg(enlarge(picture, _STILL))
    except DataError as error:
        return f'<p class="soft">{escape(str(error))}</p>' if not wanted else ""
    return (
        '<div class="stills">'
        + "".join(
            f'<figure><img alt="{escape(camera)} at tick {tick}" src="data:image/jpeg;base64,'
            f'{base64.b64encode(data).decode("ascii")}"><figcaption>{escape(camera)}, tick {tick}'
            "</figcaption></figure>"
            for tick, data in wanted.items()
        )
        + "</div>"
    )
