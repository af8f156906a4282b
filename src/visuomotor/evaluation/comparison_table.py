"""The one table of a comparison: an arm a row, the same cells on the page, in Markdown and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visuomotor.evaluation.charts import percent
from visuomotor.evaluation.comparison_charts import points
from visuomotor.evaluation.page import duration

__all__ = ["difference_rows", "markdown", "table_rows"]


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row of titles, and a row for each arm and each reference; a probe that nobody answered has no column.

    Args:
        report: Of the comparison.
    """
    arms: Mapping[str, Mapping[str, Any]] = report["arms"]
    probes = list(dict.fromkeys(name for arm in arms.values() for name in arm["probes"]))
    fresh = any(arm["against_untrained"] for arm in arms.values())
    titles = ["arm", "success", *(["over untrained"] if fresh else []), *probes]
    titles += ["parameters", "training", "policy step", "chunk"]
    rows = [
        [
            name,
            _rate(arm["success"]),
            *([_difference(arm["against_untrained"])] if fresh else []),
            *(_rate(arm["probes"].get(probe)) for probe in probes),
            f"{arm['parameters']:,}",
            "–" if arm["train_seconds"] is None else duration(arm["train_seconds"]),
            f"{arm['inference_ms']['median']:.1f} ms",
            _chunk(arm["executor"]),
        ]
        for name, arm in arms.items()
    ]
    empty = ["–"] * (len(titles) - 2)
    rows += [[name, _rate(one["success"]), *empty] for name, one in report["references"].items()]
    return [titles, *([cell.replace("\u00a0", " ") for cell in row] for row in rows)]


def difference_rows(pairs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row of titles, and a row for each pair of `compare_all`."""
    titles = ["pair", "difference", "p", "p (Holm)", "pairs"]
    return [
        titles,
        *(
            [
                f"{pair['second']} over {pair['first']}",
                _difference(pair),
                f"{pair['p_value']:.2g}",
                f"{pair['p_holm']:.2g}",
                str(pair["n"]),
            ]
            for pair in pairs
        ),
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them titles, as a table of a Markdown document."""
    first, *rest = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [first, ["---"] * len(first), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rate(result: Mapping[str, Any] | None) -> str:
    """ "83 % (75 to 89) of 100"."""
    if result is None:
        return "–"
    return (
        f"{percent(result['rate'])} ({100 * result['low']:.0f} to {100 * result['high']:.0f}) "
        f"of {result['n']}"
    )


def _difference(result: Mapping[str, Any] | None) -> str:
    """ "+62 (52 to 71)", in points."""
    if result is None:
        return "–"
    return f"{points(result['difference'])} ({points(result['low'])} to {points(result['high'])})"


def _chunk(executor: Mapping[str, Any]) -> str:
    """ "16, execute 8, receding horizon"."""
    return f"{executor['horizon']}, execute {executor['execute']}, {executor['name'].replace('_', ' ')}"
