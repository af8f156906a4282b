"""report.html, report.json and table.md of a comparison; the page is made of the JSON and the films alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from visuomotor.evaluation.charts import interval_axis, interval_chart, percent
from visuomotor.evaluation.comparison_charts import (
    KINDS,
    difference_axis,
    difference_chart,
    points,
    tracks_chart,
)
from visuomotor.evaluation.comparison_table import difference_rows, markdown, table_rows
from visuomotor.evaluation.page import duration, fill_page, interval_text, pair_list
from visuomotor.evaluation.report import replace_file
from visuomotor.rollout import plain

__all__ = ["render_comparison", "write_comparison"]

ALPHA = 0.05
"""Below it, an adjusted p-value is called a difference."""


def write_comparison(folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write the three files of a comparison and return what report.json holds.

    Args:
        folder: Of the comparison; films are read from it.
        report: Plain data, as `visuomotor.study` gathers them.
    """
    told: dict[str, Any] = plain(report)
    films = {film["file"]: (folder / film["file"]).read_bytes() for film in told["films"]}
    tables = markdown(table_rows(told))
    if told["differences"]:
        tables += "\n" + markdown(difference_rows(told["differences"]))
    replace_file(folder / "report.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    replace_file(folder / "table.md", tables)
    replace_file(folder / "report.html", render_comparison(told, films))
    return told


def render_comparison(report: Mapping[str, Any], films: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        report: Content of report.json.
        films: File name as in `report["films"]` to mp4; a missing one is left out.
    """
    looks = {name: number for number, name in enumerate(report["arms"])}
    sections = [
        _header(report),
        _success(report, looks),
        _matrix(report),
        _untrained(report, looks),
        _numbers(report),
        _tasks(report),
        _films(report, films, looks),
        _learning(report, looks),
        _repeat(report),
    ]
    style = files("visuomotor.evaluation").joinpath("static/comparison.css").read_text(encoding="utf-8")
    title = f"{_task(report)}: {len(report['arms'])} arms · visuomotor"
    version = str((report["versions"] or {}).get("visuomotor", ""))
    return fill_page(title, sections, version=version, more_style=style)


def _task(report: Mapping[str, Any]) -> str:
    return str(report["task"] or "comparison").replace("_", " ").capitalize()


def _scenes(report: Mapping[str, Any]) -> int:
    return int((report["seeds"] or {}).get("n", 0))


def _header(report: Mapping[str, Any]) -> str:
    arms, budget, data = report["arms"], report["budget"], report["data"]
    seconds = [arm["train_seconds"] for arm in arms.values() if arm["train_seconds"] is not None]
    cells = [
        ("Demonstrations", f"{data['demonstrations']:,}", f"{data['ticks']:,} ticks, the same for all"),
        (
            "Budget of an arm",
            f"{budget['steps']:,} steps" if "steps" in budget else "unequal",
            f"of {budget['batch_size']} samples" if "batch_size" in budget else "batch sizes differ",
        ),
        ("Scenes", str(_scenes(report)), "never seen before, the same for all"),
        ("Seed", str(budget.get("seed", "unequal")), "of first weights, order and noise"),
        ("Training in all", duration(sum(seconds)), f"{len(arms)} arms"),
    ]
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in cells
    )
    count = len(arms)
    ways = {0: "Nothing finished yet", 1: "One way to learn"}.get(count, f"{count} ways to learn")
    return f"""<header>
<p class="eyebrow">visuomotor comparison · task “{escape(_task(report))}”</p>
<h1>{ways}, one data set, the same {_scenes(report)} scenes</h1>
<p class="lede">{_lede(report)}</p>
<dl class="facts">{facts}</dl>
{_notes(report)}
</header>"""


def _lede(report: Mapping[str, Any]) -> str:
    """Who did best, and who cannot be told from it."""
    arms = report["arms"]
    if not arms:
        return "No arm is finished; this page is written anew after each."
    best = max(arms, key=lambda name: arms[name]["success"]["rate"])
    success = arms[best]["success"]
    if not success["successes"]:
        return f"No arm solved any of the {success['n']} scenes."
    said = (
        f"Most scenes were solved by <b>{escape(best)}</b>: {success['successes']} of {success['n']} "
        f"(95 % interval {interval_text(success)})."
    )
    close: list[str] = []
    far: list[str] = []
    for pair in report["differences"]:
        if best in (pair["first"], pair["second"]):
            other = pair["first"] if pair["second"] == best else pair["second"]
            (far if pair["p_holm"] < ALPHA else close).append(f"<b>{escape(other)}</b>")
    if close:
        said += f" In these scenes it cannot be told from {_and(close)}."
    if far:
        said += f" It is better than {_and(far)}."
    return said


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _notes(report: Mapping[str, Any]) -> str:
    """What a reader must know before the numbers: unequal budgets, arms that are missing."""
    unequal, lines = report["unequal"], []
    if unequal["differences"]:
        told = "; ".join(unequal["differences"])
        lines.append(f"<p><b>Not equally placed.</b> {escape(told)}. Why: {escape(unequal['reason'])}</p>")
    for name, why in report["diverged"].items():
        lines.append(f"<p><b>{escape(name)} diverged.</b> {escape(why)}</p>")
    if report["waiting"]:
        lines.append(f"<p><b>Not finished yet:</b> {escape(', '.join(report['waiting']))}.</p>")
    return f'<div class="note">{"".join(lines)}</div>' if lines else ""


def _success(report: Mapping[str, Any], looks: Mapping[str, int]) -> str:
    rows = []
    for name, arm in report["arms"].items():
        fresh = arm["untrained"]
        marks = {} if fresh is None else {"Untrained": fresh["rate"]}
        about = f"{arm['family']}, {_millions(arm['parameters'])} weights"
        chart = interval_chart(arm["success"], name, marks=marks)
        rows.append(_row(name, about, chart, _value(arm["success"]), f"arm{looks[name] % KINDS}"))
    known = {"expert": "knows the state of the world", "random": "chance"}
    for name, one in report["references"].items():
        chart = interval_chart(one["success"], name)
        rows.append(_row(name, known.get(name, ""), chart, _value(one["success"]), "reference"))
    dashed = any(arm["untrained"] for arm in report["arms"].values())
    mark = " The dashed line is the same policy before it learned anything." if dashed else ""
    return f"""<section aria-labelledby="success">
<h2 id="success">How often it succeeds</h2>
<p>The dot is the share of scenes that were solved; the band holds the true rate with 95 % confidence
(Wilson).{mark} Bands that overlap say little: the arms played the same scenes, so the matrix below
decides.</p>
<div class="forest">{"".join(rows)}{_scale(interval_axis())}</div>
</section>"""


def _row(name: str, about: str, chart: str, value: str, look: str) -> str:
    return (
        f'<div class="row {look}"><div><h3>{escape(name)}</h3><p class="soft">{escape(about)}</p></div>'
        f'<div class="chart">{chart}</div><div class="value num">{value}</div></div>'
    )


def _scale(axis: str) -> str:
    return f'<div class="row scale-row" aria-hidden="true"><span></span><div class="chart">{axis}</div></div>'


def _value(result: Mapping[str, Any]) -> str:
    said = f"{interval_text(result)}, n = {result['n']}"
    return f"<b>{percent(result['rate'])}</b><span>{said}</span>"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _matrix(report: Mapping[str, Any]) -> str:
    """Row minus column, scene by scene."""
    arms = list(report["arms"])
    if len(arms) < 2:
        return ""
    cells: dict[tuple[str, str], Mapping[str, Any]] = {}
    for pair in report["differences"]:
        cells[pair["second"], pair["first"]] = pair
        cells[pair["first"], pair["second"]] = {
            **pair,
            "difference": -pair["difference"],
            "low": -pair["high"],
            "high": -pair["low"],
        }
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in arms)
    body = "".join(
        f'<tr><th scope="row">{escape(row)}</th>'
        + "".join(
            _cell(cells[row, column]) if row != column else '<td class="self">·</td>' for column in arms
        )
        + "</tr>"
        for row in arms
    )
    pairs = len(report["differences"])
    return f"""<section aria-labelledby="pairs">
<h2 id="pairs">Which differences are real</h2>
<p>Row minus column, in percentage points over the scenes that both played, with the 95 % interval of each
pair by itself (Newcombe). Colored, and marked ▲ or ▼, where the exact McNemar test still tells the two apart
after Holm's correction for {pairs} {"pair" if pairs == 1 else "pairs"} (p below {ALPHA}).</p>
<div class="scroll" tabindex="0" role="region" aria-label="Paired differences"><table class="matrix num">
<thead><tr><td class="self"></td>{head}</tr></thead><tbody>{body}</tbody></table></div>
</section>"""


def _cell(pair: Mapping[str, Any]) -> str:
    real = pair["p_holm"] < ALPHA
    kind, sign = "", ""
    if real:
        kind, sign = (" up", "▲\u00a0") if pair["difference"] > 0 else (" down", "▼\u00a0")
    return (
        f'<td class="pair{kind}"><b>{sign}{points(pair["difference"])}</b>'
        f"<small>{points(pair['low'])} to {points(pair['high'])}</small>"
        f"<small>p {pair['p_holm']:.2g}</small></td>"
    )


def _untrained(report: Mapping[str, Any], looks: Mapping[str, int]) -> str:
    rows = [
        _row(
            name,
            "minus its first weights",
            difference_chart(arm["against_untrained"], f"{name} minus untrained"),
            f"<b>{points(arm['against_untrained']['difference'])}</b>"
            f"<span>{points(arm['against_untrained']['low'])} to {points(arm['against_untrained']['high'])}, "
            f"n = {arm['against_untrained']['n']}</span>",
            f"arm{looks[name] % KINDS}",
        )
        for name, arm in report["arms"].items()
        if arm["against_untrained"]
    ]
    if not rows:
        return ""
    return f"""<section aria-labelledby="untrained">
<h2 id="untrained">What learning brought</h2>
<p>Each trained policy against the same network with the weights it began with, in the same scenes, in
percentage points with 95 % interval.</p>
<div class="forest">{"".join(rows)}{_scale(difference_axis())}</div>
</section>"""


def _numbers(report: Mapping[str, Any]) -> str:
    titles, *rows = table_rows(report)
    head = "".join(f'<th scope="col">{escape(title.capitalize())}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{_link(report, row[0])}</th>'
        + "".join(f"<td>{_small(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"""<section aria-labelledby="numbers">
<h2 id="numbers">The numbers</h2>
<p>Rates with 95 % interval and n. <i>Swap</i>: the sentence asks for something else in the same scene;
<i>phrasing</i> and <i>words</i>: sentence patterns and synonyms that never occurred in training;
<i>blank</i>: no sentence, where an honest result lies near chance. Policy step: median on one thread of the
CPU.</p>
<div class="scroll" tabindex="0" role="region" aria-label="The numbers"><table class="numbers num">
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
</section>"""


def _link(report: Mapping[str, Any], name: str) -> str:
    """An arm's name, which leads to its own page."""
    page = report["arms"].get(name, {}).get("page")
    return f'<a href="{escape(page)}">{escape(name)}</a>' if page else escape(name)


def _small(cell: str) -> str:
    """A cell with what stands behind its first number in small letters."""
    for mark in (" (", ", "):
        value, found, rest = cell.partition(mark)
        if found:
            return f"{escape(value)}<small>{escape((mark + rest).strip(' ,'))}</small>"
    return escape(cell)


def _tasks(report: Mapping[str, Any]) -> str:
    """Each task by itself, where there were several."""
    arms = report["arms"]
    tasks = list(dict.fromkeys(task for arm in arms.values() for task in arm["tasks"]))
    if not tasks:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in arms)
    body = "".join(
        f'<tr><th scope="row">{escape(task.replace("_", " ").capitalize())}</th>'
        + "".join(_task_cell(arm["tasks"].get(task)) for arm in arms.values())
        + "</tr>"
        for task in tasks
    )
    return f"""<section aria-labelledby="tasks">
<h2 id="tasks">Task by task</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Task by task"><table class="numbers num">
<thead><tr><th scope="col">Task</th>{head}</tr></thead><tbody>{body}</tbody></table></div>
</section>"""


def _task_cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "<td>–</td>"
    return f"<td>{percent(result['rate'])}<small>{interval_text(result)}, n = {result['n']}</small></td>"


def _films(report: Mapping[str, Any], films: Mapping[str, bytes], looks: Mapping[str, int]) -> str:
    """The first scenes, with all arms side by side."""
    scenes: dict[int, list[Mapping[str, Any]]] = {}
    for film in report["films"]:
        if film["file"] in films:
            scenes.setdefault(film["index"], []).append(film)
    if not scenes:
        return ""
    parts = "".join(
        f'<div class="scene"><p><q>{escape(those[0]["instruction"] or "(no sentence)")}</q> '
        f'<span class="soft num">seed {those[0]["seed"]}</span></p><ul class="films">'
        + "".join(_film(film, films[film["file"]], looks) for film in those)
        + "</ul></div>"
        for those in scenes.values()
    )
    return f"""<section aria-labelledby="films">
<div class="bar"><div><h2 id="films">The same scene, side by side</h2>
<p>The first scenes of the evaluation, chosen before anything was known of them.</p></div>
<button id="motion" type="button" hidden>Pause all videos</button></div>
{parts}
</section>"""


def _film(film: Mapping[str, Any], data: bytes, looks: Mapping[str, int]) -> str:
    outcome = "success" if film["success"] else str(film["failure"])
    label = escape(f"Video: {film['arm']}: {film['instruction']}: {outcome}")
    look = f"arm{looks[film['arm']] % KINDS}" if film["arm"] in looks else "reference"
    source = base64.b64encode(data).decode("ascii")
    return f"""<li class="film {look}">
<video autoplay muted loop playsinline controls preload="auto" aria-label="{label}"
src="data:video/mp4;base64,{source}"></video>
<div class="text"><h4>{escape(film["arm"])}</h4>
<div><span class="chip {"" if film["success"] else "bad"}">{escape(outcome)}</span>
<span class="soft num">{film["seconds"]:.1f} s</span></div></div></li>"""


def _learning(report: Mapping[str, Any], looks: Mapping[str, int]) -> str:
    tracks = {
        name: [(line["step"], line["loss"]) for line in arm["curve"] if "loss" in line]
        for name, arm in report["arms"].items()
    }
    chart = tracks_chart(tracks, looks=looks)
    if not chart:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_loss(arm["loss"])}</td>'
        f"<td>{_loss(arm['validation'])}</td></tr>"
        for name, arm in report["arms"].items()
    )
    return f"""<section aria-labelledby="learning">
<h2 id="learning">How they learned</h2>
<p>Losses of different families are different quantities, so each curve runs between its own highest (100 %)
and lowest (0 %) training loss, on a square-root scale; only their shapes can be compared.</p>
{chart}
<div class="scroll" tabindex="0" role="region" aria-label="Losses"><table class="numbers num">
<thead><tr><th scope="col">Arm</th><th scope="col">Last training loss</th>
<th scope="col">Last loss on held-out demonstrations</th></tr></thead><tbody>{rows}</tbody></table></div>
</section>"""


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _repeat(report: Mapping[str, Any]) -> str:
    seeds, data, budget = report["seeds"] or {}, report["data"], report["budget"]
    versions = ", ".join(f"{name} {number}" for name, number in (report["versions"] or {}).items() if number)
    told = ", ".join(f"{name}={value}" for name, value in (report["env_options"] or {}).items())
    machine = report["machine"] or {}
    pairs = {
        "Data": f"{data['key']} ({str(data['hash'])[:12]})",
        "Environment": f"{report['env']} ({told})" if told else report["env"],
        "Budget": ", ".join(f"{name} {value}" for name, value in budget.items() if value is not None),
        "Episode seeds": f"{seeds['first']} to {seeds['first'] + seeds['n'] - 1}" if seeds else None,
        "Arms": ", ".join(f"{name} ({arm['recipe']})" for name, arm in report["arms"].items()),
        "Machine": f"{machine['processor']}, {machine['cores']} cores" if machine else None,
        "Versions": versions,
    }
    command = f"<pre><code>{escape(report['command'])}</code></pre>" if report["command"] else ""
    return f"""<section aria-labelledby="repeat">
<h2 id="repeat">Get the same numbers again</h2>
<p>Episodes are functions of their seed, and training is bit-equal also after a stop: on the same machine this
command repeats everything.</p>
{command}
{pair_list(pairs)}
</section>"""
