"""Figures for the documentation as SVG, drawn by a few lines of our own: paths, and lines with intervals.

Lines differ in their dashes, too, and every figure carries a text that says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Line", "Panel", "figure", "log_plot"]

COLORS = ("#3b6fb6", "#c4572e", "#3f8f5b", "#8a5ba8", "#8a6d1f")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5")
INK, FAINT = "#444444", "#cccccc"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of a figure: SVG in a box of its own.

    Attributes:
        title: Above it.
        body: SVG, with the left upper corner at 0, 0.
        note: Below it.
    """

    title: str
    body: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot: (x, y, low, high), all positive; without interval if low and high are y."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    thin: bool = False
    like: int | None = field(default=None)
    """Number of the line whose color it shares."""


def figure(panels: Sequence[Panel], *, said: str, width: float, height: float, columns: int = 4) -> str:
    """Panels of equal size in rows.

    Args:
        panels: From left to right, row by row.
        said: What the figure shows, for readers who hear it.
        width: Of a panel.
        height: Of a panel, without title and note.
        columns: Panels in a row.
    """
    columns = min(columns, len(panels))
    rows, gap, above, below = -(-len(panels) // columns), 14, 22, 22
    across, down = columns * (width + gap) + gap, rows * (height + above + below) + gap
    parts = []
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = gap + column * (width + gap), gap / 2 + row * (height + above + below)
        parts.append(
            f'<g transform="translate({x:.0f} {y:.0f})">{text(width / 2, 15, panel.title, bold=True)}'
            f'<svg y="{above}" width="{width:.0f}" height="{height:.0f}">{panel.body}</svg>'  # clips it
            f"{text(width / 2, above + height + 16, panel.note)}</g>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:.0f} {down:.0f}" width="{across:.0f}" '
        f'role="img" aria-label="{escape(said)}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, *, bold: bool = False, anchor: str = "middle") -> str:
    """Words at a place."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}"{weight}>{escape(words)}</text>'


def polyline(points: Iterable[tuple[float, float]], *, color: str, dash: str = "", wide: float = 1.0) -> str:
    """A line through points."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{wide:g}"{dashes}/>'


def log_plot(lines: Sequence[Line], *, width: float, height: float, across: str, up: str) -> str:
    """Lines on two logarithmic axes, with their intervals and a legend.

    Args:
        lines: What is drawn.
        width: Of the plot, legend included.
        height: Likewise.
        across: Words below the horizontal axis.
        up: Words above the vertical axis.
    """
    left, right, top, bottom = 52.0, 150.0, 20.0, 34.0
    known = [point for line in lines for point in line.points]
    xs = [point[0] for point in known]
    low = math.floor(math.log10(min(min(point[1:]) for point in known)))
    high = math.ceil(math.log10(max(max(point[1:]) for point in known)))
    first, last = math.log(min(xs)), math.log(max(xs))

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log(x) - first) / max(last - first, 1e-9)
        share = (math.log10(y) - low) / max(high - low, 1)
        return left + along * (width - left - right), height - bottom - share * (height - top - bottom)

    parts = []
    for power in range(low, high + 1):
        y = place(min(xs), 10.0**power)[1]
        parts.append(polyline([(left, y), (width - right, y)], color=FAINT))
        parts.append(text(left - 6, y + 4, f"{10.0**power:g}", anchor="end"))
    parts += [text(place(x, 10.0**low)[0], height - bottom + 15, f"{x:g}") for x in sorted(set(xs))]
    parts += [text(left + (width - left - right) / 2, height - 3, across), text(left, 12, up, anchor="start")]
    for number, line in enumerate(lines):
        style = number if line.like is None else line.like
        color, dash = COLORS[style % len(COLORS)], "1 3" if line.thin else DASHES[style % len(DASHES)]
        parts.append(
            polyline(
                [place(x, y) for x, y, *_ in line.points],
                color=color,
                dash=dash,
                wide=1.2 if line.thin else 2,
            )
        )
        parts += [
            polyline([place(x, low_end), place(x, high_end)], color=color, wide=3)
            for x, _, low_end, high_end in line.points
            if low_end < high_end
        ]
        y = top + 8 + 17 * number
        parts.append(
            polyline([(width - right + 8, y), (width - right + 36, y)], color=color, dash=dash, wide=2)
        )
        parts.append(text(width - right + 42, y + 4, line.name, anchor="start"))
    return "".join(parts)


def crossing(paths: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """SVG of paths in panel units, by the color of their outcome: "success", else dashed."""
    return "".join(
        polyline(path, color=COLORS[0] if name.startswith("success") else COLORS[1], dash="", wide=0.9)
        for name, path in paths.items()
    )
