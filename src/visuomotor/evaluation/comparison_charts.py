"""Charts of a comparison, made as those in `charts`: inline SVG, described in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from visuomotor.evaluation.charts import Point, thin

__all__ = ["difference_axis", "difference_chart", "points", "tracks_chart"]

KINDS = 8
"""Looks of an arm in the style sheet, taken in turn."""


def points(difference: float, digits: int = 0) -> str:
    """A difference of rates for a person, in percentage points, with its sign: "+12", "−3"."""
    value = round(100 * difference, digits)
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.{digits}f}"


def difference_chart(result: Mapping[str, Any], label: str, *, bar: float | None = None) -> str:
    """A dot with its interval on the way from −100 to +100 points.

    Args:
        result: With `difference`, `low`, `high`, `n`.
        label: What it is about, for readers who hear the page.
        bar: A difference to mark.
    """
    said = f"{label}: {points(result['difference'])} points, 95 % interval {points(result['low'])} to "
    said += f"{points(result['high'])}, {result['n']} pairs."
    low, middle, high = (50 + 50 * result[key] for key in ("low", "difference", "high"))
    lines = "".join(f'<line class="rule" x1="{x}%" x2="{x}%" y1="0" y2="28"/>' for x in (0, 25, 75, 100))
    mark = ""
    if bar is not None:
        said += f" Mark: {points(bar)}."
        mark = f'<line class="mark" x1="{50 + 50 * bar:.2f}%" x2="{50 + 50 * bar:.2f}%" y1="2" y2="26"/>'
    return (
        f'<svg class="interval" role="img" aria-label="{escape(said)}" height="28">{lines}'
        f'<line class="zero" x1="50%" x2="50%" y1="0" y2="28"/>'
        f'<line class="base" x1="0" x2="100%" y1="14" y2="14"/>'
        f'<rect class="band" x="{low:.2f}%" width="{high - low:.2f}%" y="9" height="10" rx="3"/>{mark}'
        f'<circle class="dot" cx="{middle:.2f}%" cy="14" r="6"/></svg>'
    )


def difference_axis() -> str:
    """The scale below difference charts."""
    places = {0: "−100", 25: "−50", 50: "0", 75: "+50", 100: "+100"}
    spans = "".join(f'<span style="left:{x}%">{text}</span>' for x, text in places.items())
    return f'<div class="axis" aria-hidden="true">{spans}</div>'


def tracks_chart(tracks: Mapping[str, Sequence[Point]], *, looks: Mapping[str, int]) -> str:
    """Values of different kinds over steps in one frame: each between its own lowest and highest value.

    The height is the square root of the share of the way, so that the slow end of learning is seen.

    Args:
        tracks: Name to points (step, value), in order; values that are not finite are left out.
        looks: Name to the number of its look.
    """
    shown = {name: [(x, y) for x, y in track if math.isfinite(y)] for name, track in tracks.items()}
    shown = {name: track for name, track in shown.items() if len(track) > 1}
    if not shown:
        return ""
    last = max(x for track in shown.values() for x, _ in track)
    lines = "".join(_line(track, last, looks[name]) for name, track in shown.items())
    legend = "".join(
        f'<span class="arm{looks[name] % KINDS}"><svg class="sample" viewBox="0 0 34 10" aria-hidden="true">'
        f'<line x1="0" x2="34" y1="5" y2="5"/></svg>{escape(name)}'
        f"<small>{track[0][1]:.3g} → {track[-1][1]:.3g}</small></span>"
        for name, track in shown.items()
    )
    said = " ".join(f"{name}: from {track[0][1]:.3g} to {track[-1][1]:.3g}." for name, track in shown.items())
    shares = (1.0, 0.5, 0.1, 0.0)
    labels = "".join(
        f'<span style="top:{100 - 100 * math.sqrt(share):.1f}%">{100 * share:.0f}\u00a0%</span>'
        for share in shares
    )
    rules = "".join(
        f'<line class="rule" x1="0" x2="1000" y1="{100 - 100 * math.sqrt(share):.1f}" '
        f'y2="{100 - 100 * math.sqrt(share):.1f}"/>'
        for share in shares
    )
    return (
        f'<div class="curve"><div class="legend">{legend}</div><div class="plot">'
        f'<div class="scale" aria-hidden="true">{labels}</div>'
        f'<svg role="img" aria-label="{escape(f"Learning curves over {last:,.0f} steps. {said}")}" '
        f'viewBox="0 0 1000 100" preserveAspectRatio="none">{rules}{lines}</svg></div>'
        f'<div class="steps" aria-hidden="true"><span>0</span><span>{last / 2:,.0f}</span>'
        f"<span>{last:,.0f} steps</span></div></div>"
    )


def _line(track: Sequence[Point], last: float, look: int) -> str:
    """One polyline, between the lowest and the highest value of the track."""
    values = [y for _, y in track]
    low, span = min(values), max(max(values) - min(values), 1e-12)
    places = " ".join(
        f"{1000 * x / last:.1f},{100 - 100 * math.sqrt((y - low) / span):.2f}" for x, y in thin(track)
    )
    return f'<polyline class="track arm{look % KINDS}" points="{places}"/>'
