"""The findings of a check as one HTML file that asks nothing of the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from visuomotor import __version__
from visuomotor.data.check.base import Finding, Survey
from visuomotor.data.check.plots import illustrate
from visuomotor.data.check.run import CheckReport
from visuomotor.data.check.table import CHECKS
from visuomotor.data.files import replace_file, replace_json
from visuomotor.data.tables import load_json
from visuomotor.errors import DataError

__all__ = ["refuse_foreign", "refuse_other_page", "render", "write_report"]

_CARDS = 6
"""Findings of each check that get a picture; the others stand in a list."""


def write_report(place: str | Path, survey: Survey, report: CheckReport) -> Path:
    """Write report.html and report.json, or PAGE.html and PAGE.json; returns the page.

    Args:
        place: A folder, or a file that ends with ".html".
        survey: What was checked.
        report: What was found.

    Raises:
        DataError: There is a report of something else.
    """
    page = _page(place)
    refuse_foreign(place)
    html = render(survey, report)
    replace_json(page.with_suffix(".json"), report.to_json())
    replace_file(page, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return page


def refuse_foreign(place: str | Path) -> None:
    """`DataError` if `write_report` would replace a page or a JSON file that is no report of it."""
    page = _page(place)
    refuse_other_page(page, "data check")
    told = page.with_suffix(".json")
    if told.exists():
        try:
            known = load_json(told)
        except DataError:
            known = None
        if not isinstance(known, dict) or not {"findings", "ran", "hash"} <= known.keys():
            raise DataError(f"{told}: exists and is no report of data check. Choose another place.")


def refuse_other_page(page: Path, command: str) -> None:
    """`DataError` if there is a page that this command of ours did not write."""
    mark = f'name="generator" content="visuomotor {command} '.encode()
    if page.exists() and mark not in page.read_bytes()[:2000]:
        raise DataError(f"{page}: exists and is not a page of visuomotor {command}. Choose another place.")


def _page(place: str | Path) -> Path:
    path = Path(place)
    return path if path.suffix == ".html" else path / "report.html"


def render(survey: Survey, report: CheckReport) -> str:
    """The page of a report, pictures included."""
    groups: dict[str, list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault(finding.check, []).append(finding)
    name = survey.reader.folder.resolve().name
    template = files("visuomotor.data").joinpath("static/check.html").read_text(encoding="utf-8")
    sections = [_header(name, report), *(_group(survey, one, rest) for one, rest in groups.items())]
    return Template(template).substitute(
        title=escape(f"{name}: {_verdict(report)} · visuomotor"),
        version=escape(__version__),
        style=files("visuomotor").joinpath("static/page.css").read_text(encoding="utf-8"),
        content="\n".join([*sections, _table(report, groups)]),
    )


def _verdict(report: CheckReport) -> str:
    parts = [
        f"{count} {word}{'s' * (count != 1)}"
        for word, count in (("error", report.count("error")), ("warning", report.count("warning")))
        if count
    ]
    return " and ".join(parts) or "nothing that spoils a policy"


def _begin(text: str) -> str:
    """The text with a capital at its beginning; the rest may be names."""
    return text[:1].upper() + text[1:]


def _header(name: str, report: CheckReport) -> str:
    notes = report.count("note")
    more = f"; {notes} more things worth knowing" if notes else ""
    against = f" Test data: <b>{escape(report.test)}</b>." if report.test else ""
    return f"""<header>
<p class="eyebrow">visuomotor data check · {escape(name)}</p>
<h1>{escape(_begin(_verdict(report)))}</h1>
<p class="lede">{len(report.ran)} checks over {report.episodes:,} episodes and {report.ticks:,} ticks{more}.
{against}</p>
<p class="soft num">content {escape(report.hash[:12])} · {escape(report.folder)}</p>
</header>"""


def _group(survey: Survey, name: str, findings: Sequence[Finding]) -> str:
    """All findings of one check: the first ones with pictures."""
    known = {one.name: one for one in CHECKS}.get(name)
    what = f"Finds {known.finds}. It matters because {known.spoils}." if known else ""
    episodes = {finding.episode for finding in findings if finding.episode is not None}
    count = f" in {len(episodes)} episode{'s' * (len(episodes) != 1)}" if episodes else ""
    cards = "".join(_card(survey, finding) for finding in findings[:_CARDS])
    rest = "".join(
        f"<tr><td>{escape(one.where)}</td><td class='words'>{escape(one.said)}</td></tr>"
        for one in findings[_CARDS:]
    )
    more = (
        f"<details><summary>{len(findings) - _CARDS} more</summary><div class='scroll'><table>{rest}</table>"
        "</div></details>"
        if rest
        else ""
    )
    title = name.replace("_", " ").capitalize()
    return f"""<section aria-labelledby="{escape(name)}">
<h2 id="{escape(name)}">{_chip(findings[0])} {escape(title)}{count}</h2>
<p>{escape(what)}</p><p class="todo">{escape(findings[0].advice)}</p>
<ul class="cards">{cards}</ul>{more}
</section>"""


def _chip(finding: Finding) -> str:
    return f'<span class="chip {escape(str(finding.severity))}">{escape(str(finding.severity))}</span>'


def _card(survey: Survey, finding: Finding) -> str:
    return f"""<li class="card"><h3>{escape(_begin(finding.where))}</h3>
<p>{escape(finding.said)}</p>{illustrate(survey, finding)}
<p class="soft num">measured {finding.value:.3g}, threshold {finding.threshold:.3g}</p></li>"""


def _table(report: CheckReport, groups: dict[str, list[Finding]]) -> str:
    """Every check that ran, with how often it spoke."""
    rows = "".join(
        f"<tr><td><b>{escape(one.name)}</b></td><td class='num'>{len(groups.get(one.name, ()))}</td>"
        f"<td class='words'>{escape(one.finds)}</td><td class='words'>{escape(one.limit)}</td></tr>"
        for one in CHECKS
        if one.name in report.ran
    )
    command = json.dumps(report.folder)
    return f"""<section aria-labelledby="all"><h2 id="all">All checks</h2>
<p>Thresholds are relative to the data themselves. The same again: <code>visuomotor data check
{escape(command)}</code></p>
<div class="scroll" tabindex="0" role="region" aria-label="All checks"><table>
<thead><tr><th>Check</th><th>Findings</th><th>What it finds</th><th>From where on</th></tr></thead>
<tbody>{rows}</tbody></table></div></section>"""
