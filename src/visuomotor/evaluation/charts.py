"""Small charts for the report page, as inline SVG and HTML with percentages, so that text never scales.

Every chart carries a text that says what it shows; colors come from the page's style sheet and never
carry a meaning alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["Point", "curve_chart", "episode_grid", "interval_axis", "interval_chart", "percent", "thin"]

Point = tuple[int | float, float]
"""Step and value."""


def percent(rate: float, digits: int | None = None) -> str:
    """A rate for a person: "97 %", "91.5 %"; whole percents without decimals unless `digits` is given.

    The space does not break at the end of a line.
    """
    value = 100 * rate
    if digits is None:
        digits = 0 if abs(value - round(value)) < 1e-9 else 1
    return f"{value:.{digits}f}\u00a0%"


def interval_chart(result: Mapping[str, Any], label: str, *, marks: Mapping[str, float] | None = None) -> str:
    """A dot with its interval on the way from 0 to 100 %.

    Args:
        result: With `rate`, `low`, `high`, `n`.
        label: What it is about, for readers who hear the page.
        marks: Further rates to mark, by name.
    """
    marks = marks or {}
    said = f"{label}: {percent(result['rate'])}, 95 % interval {percent(result['low'], 1)} to "
    said += f"{percent(result['high'], 1)}, {result['n']} episodes."
    said += "".join(f" {name}: {percent(rate, 1)}." for name, rate in marks.items())
    low, rate, high = (100 * result[key] for key in ("low", "rate", "high"))
    lines = "".join(f'<line class="rule" x1="{x}%" x2="{x}%" y1="0" y2="28"/>' for x in (0, 25, 50, 75, 100))
    crosses = "".join(
        f'<line class="mark" x1="{100 * value:.2f}%" x2="{100 * value:.2f}%" y1="2" y2="26"/>'
        for value in marks.values()
    )
    return (
        f'<svg class="interval" role="img" aria-label="{escape(said)}" height="28">{lines}'
        f'<line class="base" x1="0" x2="100%" y1="14" y2="14"/>'
        f'<rect class="band" x="{low:.2f}%" width="{high - low:.2f}%" y="9" height="10" rx="3"/>{crosses}'
        f'<circle class="dot" cx="{rate:.2f}%" cy="14" r="6"/></svg>'
    )


def interval_axis() -> str:
    """The scale below interval charts."""
    places = "".join(f'<span style="left:{x}%">{x}\u00a0%</span>' for x in (0, 25, 50, 75, 100))
    return f'<div class="axis" aria-hidden="true">{places}</div>'


def curve_chart(curves: Mapping[str, Sequence[Point]]) -> str:
    """Values over steps on a logarithmic scale, one line for each name; at most two.

    Args:
        curves: Name to points (step, value), in order; values that are not positive are left out.
    """
    shown = {
        name: [(x, y) for x, y in points if y > 0 and math.isfinite(y)] for name, points in curves.items()
    }
    shown = {name: points for name, points in shown.items() if len(points) > 1}
    if not shown:
        return ""
    values = [y for points in shown.values() for _, y in points]
    last = max(x for points in shown.values() for x, _ in points)
    ticks = _log_ticks(min(values), max(values))
    bottom = min(math.log(min(values)), math.log(ticks[0]))
    top = max(math.log(max(values)), math.log(ticks[-1]))
    span = max(top - bottom, 1e-9)

    def height(y: float) -> float:
        return 100 * (top - math.log(y)) / span

    rules = "".join(
        f'<line class="rule" x1="0" x2="1000" y1="{height(y):.2f}" y2="{height(y):.2f}"/>' for y in ticks
    )
    paths = "".join(
        f'<polyline class="line line{number}" points="'
        + " ".join(f"{1000 * x / last:.1f},{height(y):.2f}" for x, y in thin(points))
        + '"/>'
        for number, points in enumerate(shown.values())
    )
    labels = "".join(f'<span style="top:{height(y):.1f}%">{y:g}</span>' for y in ticks)
    said = " ".join(
        f"{name}: from {points[0][1]:.3g} to {points[-1][1]:.3g}." for name, points in shown.items()
    )
    legend = "".join(
        f'<span class="key key{number}">{escape(name)}<b>{points[-1][1]:.3g}</b></span>'
        for number, (name, points) in enumerate(shown.items())
    )
    return (
        f'<div class="curve"><div class="legend">{legend}</div><div class="plot">'
        f'<div class="scale" aria-hidden="true">{labels}</div>'
        f'<svg role="img" aria-label="{escape(f"Learning curve over {last:,.0f} steps. {said}")}" '
        f'viewBox="0 0 1000 100" preserveAspectRatio="none">{rules}{paths}</svg></div>'
        f'<div class="steps" aria-hidden="true"><span>0</span><span>{last / 2:,.0f}</span>'
        f"<span>{last:,.0f} steps</span></div></div>"
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """At least two round numbers that enclose or fill the range: 1, 2 and 5 times powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
    below = [tick for tick in fine if tick <= low] or fine[:1]
    above = [tick for tick in fine if tick >= high] or fine[-1:]
    inside = [tick for tick in fine if below[-1] <= tick <= above[0]]
    if len(inside) > 6:
        inside = [tick for tick in inside if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return inside if len(inside) > 1 else [below[-1], above[0] * 1.0001]


def thin(points: Sequence[Point], most: int = 400) -> list[Point]:
    """At most about `most` points, the first and the last among them."""
    stride = max(1, len(points) // most)
    return [*points[::stride], points[-1]]


def episode_grid(rows: Sequence[Mapping[str, Any]], films: Mapping[int, str]) -> str:
    """One small square for each episode, with a cross where it failed.

    Args:
        rows: With `index`, `success`, `failure`, `instruction` and `seed`.
        films: Index to the id of the element that shows its video.
    """
    cells = []
    for row in rows:
        outcome = "success" if row["success"] else str(row["failure"])
        said = escape(f"{row['index'] + 1}: {outcome}. {row['instruction']}")
        kind = "good" if row["success"] else "bad"
        if row["index"] in films:
            place = escape(films[row["index"]])
            cells.append(
                f'<a class="cell {kind}" href="#{place}" title="{said}" aria-label="{said} (video)"></a>'
            )
        else:
            cells.append(f'<span class="cell {kind}" title="{said}"></span>')
    failed = sum(not row["success"] for row in rows)
    said = f"{len(rows)} episodes in the order of their seeds, {failed} of them failed."
    return f'<div class="grid" role="group" aria-label="{escape(said)}">{"".join(cells)}</div>'
