"""report.html: one file that asks nothing of the network and shows a result to a person.

Everything that comes from outside (sentences, names, reasons) is escaped; videos lie in the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from visuomotor.evaluation.charts import curve_chart, episode_grid, interval_axis, interval_chart, percent
from visuomotor.executors import Latency

__all__ = ["duration", "fill_page", "interval_text", "pair_list", "render_page"]

Film = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A row of `report["videos"]` with the row of its episode."""


def render_page(report: Mapping[str, Any], videos: Mapping[str, bytes]) -> str:
    """The page of a report.

    Args:
        report: What `build_report` gives, or what was read back from report.json.
        videos: File name as in `report["videos"]` to mp4; a missing one is left out.
    """
    rows = {(row["part"], row["index"]): row for row in report["episodes"]}
    films = [
        (video, rows[video["part"], video["index"]]) for video in report["videos"] if video["file"] in videos
    ]
    failed = [film for film in films if film[0]["outcome"] != "success"]
    worked = [film for film in films if film[0]["outcome"] == "success"]
    sections = [
        _header(report),
        _tasks(report),
        _probes(report),
        _failures(report, failed, videos),
        _successes(worked, videos, button=not failed),
        _learning(report),
        _episodes(report, films),
        _repeat(report),
    ]
    title = f"{_task(report)}: {_count(report['success'])} · visuomotor"
    return fill_page(title, sections, version=str(report["versions"]["visuomotor"]))


def fill_page(title: str, sections: Sequence[str], *, version: str, more_style: str = "") -> str:
    """A whole page that asks nothing of the network.

    Args:
        title: Plain text.
        sections: HTML, everything from outside escaped; empty ones are left out.
        version: Of the software that made it.
        more_style: CSS after that of every report.
    """
    template = files("visuomotor.evaluation").joinpath("static/report.html").read_text(encoding="utf-8")
    style = files("visuomotor").joinpath("static/page.css").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        version=escape(version),
        style=style,
        more_style=more_style,
        content="\n".join(section for section in sections if section),
        foot=f"Made by visuomotor {escape(version)} from the report.json beside it.",
    )


def duration(seconds: float | None) -> str:
    """Seconds for a person: "8.4 s", "2 min 31 s", "1 h 5 min"; the spaces do not break a line."""
    if seconds is None:
        return "not known"
    whole = round(seconds)
    if seconds < 10:
        text = f"{seconds:.1f} s"
    elif whole < 60:
        text = f"{whole} s"
    elif whole < 3600:
        text = f"{whole // 60} min {whole % 60} s"
    else:
        text = f"{whole // 3600} h {whole % 3600 // 60} min"
    return text.replace(" ", "\u00a0")


def _task(report: Mapping[str, Any]) -> str:
    return str(report["task"]).replace("_", " ").capitalize()


def _count(result: Mapping[str, Any]) -> str:
    return f"{result['successes']} of {result['n']}"


def interval_text(result: Mapping[str, Any]) -> str:
    """The interval of a rate for a person: "91.5 to 99.0 %"."""
    return f"{100 * result['low']:.1f} to {percent(result['high'], 1)}"


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _header(report: Mapping[str, Any]) -> str:
    success = report["success"]
    chart = interval_chart(success, "Success")
    return f"""<header>
<p class="eyebrow">visuomotor evaluation · task “{escape(_task(report))}”</p>
<h1>{_count(success)} unseen scenes solved</h1>
<p class="lede">{_lede(report)}</p>
<div class="hero">
<div class="line"><span class="big num">{percent(success["rate"])}</span>
<span class="num">95 % interval <b>{interval_text(success)}</b>, n = {success["n"]}</span></div>
<div class="chart">{chart}{interval_axis()}</div>
<p class="soft">The dot is the share that succeeded. The band holds the true rate with 95 % confidence
(Wilson): with more episodes it would become narrower.</p>
</div>
{_facts(report)}
</header>"""


def _lede(report: Mapping[str, Any]) -> str:
    """Who was trained on what and asked what, in a few sentences."""
    policy, said = report["policy"], report["instructions"]
    example = f" It is told in words what to do, such as “{escape(said[0])}”." if said else ""
    if report["training"] is None:
        agents = {
            "expert": "The scripted expert of the environment plays here. It knows where everything is and "
            "what is asked, so it shows what the task allows.",
            "random": "Random actions play here: this is what chance achieves.",
        }
        who = agents.get(policy["family"], f"The agent <b>{escape(str(policy['family']))}</b> plays here.")
        return f"{who} The sentence of the first scene is “{escape(said[0])}”." if said else who
    size = policy["parameters"]
    weights = f"{size / 1e6:.1f} million" if size >= 1e6 else f"{size:,}"
    kept, train = report["demonstrations"]["kept"], report["seconds"].get("train")
    data = "demonstrations" if kept is None else f"{kept:,} demonstrations"
    took = "" if train is None else f" in {duration(train)}"
    return (
        f"A policy of the family <b>{escape(str(policy['family']))}</b> with {weights} weights, trained on "
        f"{data}{took}.{example} None of the scenes below occurred in its training."
    )


def _facts(report: Mapping[str, Any]) -> str:
    """The numbers of the strip below the headline."""
    seconds, step, data = report["seconds"], report["inference_ms"], report["demonstrations"]
    n = report["success"]["n"]
    cells = [
        ("Wrong object", str(report["wrong_object"]), f"of {n} episodes"),
        ("Wrong place", str(report["wrong_place"]), f"of {n} episodes"),
        (
            "One policy step",
            f"{step['median']:.1f} ms",
            f"median on one thread; 99 % take less than {step['p99']:.1f} ms",
        ),
    ]
    if report["training"] is not None:
        dropped = data["dropped"]
        note = "failed ones are left out" if dropped is None else f"{dropped:,} failed ones dropped"
        cells.append(("Demonstrations", _number(data["kept"]), note))
    parts = {"collect": "collecting", "train": "training", "evaluate": "evaluating"}
    spent = [
        f"{duration(seconds[key])} {word}" for key, word in parts.items() if seconds.get(key) is not None
    ]
    cells.append(("Time", duration(seconds["total"]), ", ".join(spent)))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in cells
    )
    return f'<dl class="facts">{items}</dl>'


def _tasks(report: Mapping[str, Any]) -> str:
    """Each task by itself, where there were several."""
    if not report.get("tasks"):
        return ""
    rows = "".join(_one_task(name, result) for name, result in report["tasks"].items())
    return f"""<section aria-labelledby="tasks">
<h2 id="tasks">Task by task</h2>
<p>One policy for all of them; it knows what to do from the sentence alone.</p>
<div class="probes">{rows}
<div class="probe" style="border:0;padding:.1rem 0 0" aria-hidden="true"><span></span>
<div class="chart">{interval_axis()}</div></div></div>
</section>"""


def _one_task(name: str, result: Mapping[str, Any]) -> str:
    title = name.replace("_", " ").capitalize()
    why = ", ".join(f"{count} {reason}" for reason, count in result["failures"].items())
    return f"""<div class="probe">
<div><h3>{escape(title)}</h3><p class="soft">{escape(why)}</p></div>
<div><div class="value num"><b>{percent(result["rate"])}</b>
<span>{interval_text(result)}, n = {result["n"]}</span></div>
<div class="chart">{interval_chart(result, title)}</div></div>
</div>"""


def _probes(report: Mapping[str, Any]) -> str:
    probes = report["probes"]
    if not probes:
        return ""
    rows = "".join(_probe(name, result) for name, result in probes.items())
    return f"""<section aria-labelledby="probes">
<h2 id="probes">Does it listen?</h2>
<p>A success rate alone does not tell whether the sentence matters. Each probe plays the same scenes again and
changes one thing, so that every difference has that one cause.</p>
<div class="probes">{rows}
<div class="probe" style="border:0;padding:.1rem 0 0" aria-hidden="true"><span></span>
<div class="chart">{interval_axis()}</div></div></div>
</section>"""


def _probe(name: str, result: Mapping[str, Any]) -> str:
    chance = result.get("chance")
    marks = {} if chance is None else {"Chance": chance}
    return f"""<div class="probe">
<div><h3>{escape(result["title"])}</h3><p class="soft">{escape(result["question"])}</p>
<p class="verdict">{escape(_verdict(name, result))}</p></div>
<div><div class="value num"><b>{percent(result["rate"])}</b>
<span>{interval_text(result)}, n = {result["n"]}</span></div>
<div class="chart">{interval_chart(result, result["title"], marks=marks)}</div></div>
</div>"""


def _verdict(name: str, result: Mapping[str, Any]) -> str:
    """What came out of a probe, in one or two plain sentences."""
    if name == "swap":
        old = result["followed_old"]
        return f"It did what the new sentence says in {_count(result)} scenes, and the old thing in {old}."
    if name == "blank":
        if result["chance"] is None:
            return f"It did what was meant in {_count(result)} scenes. How many goals they have is not known."
        where = "holds" if result["overlaps_chance"] else "does not hold"
        judged = "as it should be" if result["overlaps_chance"] else "so the result is not mere guessing"
        return (
            f"It did what was meant in {_count(result)} scenes. Guessing (dashed line) would get "
            f"{percent(result['chance'], 1)}; the interval {where} it, {judged}."
        )
    verdict = f"It succeeded in {_count(result)} scenes."
    paired = result["against_main"]
    if paired is None:
        return verdict
    points, p = 100 * paired["difference"], f" (exact test, p = {paired['p_value']:.2g})"
    if paired["p_value"] < 0.05:
        word = "below" if points < 0 else "above"
        return f"{verdict} That is {abs(points):.0f} points {word} the main result in the same scenes{p}."
    return f"{verdict} In the same scenes, no difference from the main result can be shown{p}."


def _failures(
    report: Mapping[str, Any],
    films: Sequence[Film],
    videos: Mapping[str, bytes],
) -> str:
    """Failures come first: the kinds with their counts, then their videos."""
    n, kinds = report["success"]["n"], report["failures"]
    if kinds:
        counted = ", ".join(f"<b>{count}</b> {escape(reason)}" for reason, count in kinds.items())
        text = f"<p>{sum(kinds.values())} of the {n} episodes failed: {counted}.</p>"
    else:
        high = 1 - report["success"]["low"]
        text = f"<p>Nothing, in these {n} episodes. By the interval above, up to {percent(high, 1)} may.</p>"
    return f"""<section aria-labelledby="failures">
<div class="bar"><div><h2 id="failures">What went wrong</h2>{text}</div>{_button(bool(films))}</div>
{_film_list(films, videos)}
</section>"""


def _successes(films: Sequence[Film], videos: Mapping[str, bytes], *, button: bool) -> str:
    if not films:
        return ""
    return f"""<section aria-labelledby="successes">
<div class="bar"><h2 id="successes">What went right</h2>{_button(button)}</div>
{_film_list(films, videos)}
</section>"""


def _button(wanted: bool) -> str:
    return '<button id="motion" type="button" hidden>Pause all videos</button>' if wanted else ""


def _film_list(films: Sequence[Film], videos: Mapping[str, bytes]) -> str:
    if not films:
        return ""
    items = "".join(_film(video, row, videos[video["file"]]) for video, row in films)
    return f'<ul class="films">{items}</ul>'


def _film(video: Mapping[str, Any], row: Mapping[str, Any], data: bytes) -> str:
    """A video with the sentence, the outcome and what was done instead."""
    said = row["instruction"] or "(no sentence)"
    good = video["outcome"] == "success"
    part = "" if video["part"] == "main" else f' <span class="soft">probe “{escape(video["part"])}”</span>'
    did = ""
    if not good and row["achieved"]:
        did = f'<p class="did">It did: <b>{escape(_goal(row["achieved"]))}</b></p>'
    if row["former"]:
        did += f'<p class="did">Before, the scene asked for: {escape(_goal(row["former"]))}</p>'
    label = escape(f"Video: {said}: {video['outcome']}")
    source = base64.b64encode(data).decode("ascii")
    return f"""<li class="film" id="{_film_id(video)}">
<video autoplay muted loop playsinline controls preload="auto" aria-label="{label}"
src="data:video/mp4;base64,{source}"></video>
<div class="text">
<div><span class="chip {"" if good else "bad"}">{escape(video["outcome"])}</span>{part}</div>
<q>{escape(said)}</q>{did}
<p class="meta num">seed {row["seed"]} · {row["ticks"]} ticks · {row["seconds"]:.1f} s</p></div></li>"""


def _film_id(video: Mapping[str, Any]) -> str:
    return escape(f"film-{video['part']}-{video['index']}")


def _goal(name: str) -> str:
    """A goal's name for a person: "put_in:red cube>blue bowl" as "put in: red cube → blue bowl"."""
    task, colon, rest = name.partition(":")
    return f"{task.replace('_', ' ')}{colon} {rest}".strip().replace(">", " → ")


def _learning(report: Mapping[str, Any]) -> str:
    training = report["training"]
    if training is None:
        return ""
    lines = training["curve"]
    curves = {"Training loss": [(line["step"], line["loss"]) for line in lines if "loss" in line]}
    curves["Loss on held-out demonstrations"] = [
        (line["step"], line["validation"]) for line in lines if "validation" in line
    ]
    policy, data, seconds = report["policy"], report["demonstrations"], report["seconds"]
    text = {
        "minilm": "frozen MiniLM token states",
        "smollm2": "rows of SmolLM2's table, read by its first layers",
        "scratch": "learned from the demonstrations alone",
    }
    pairs = {
        "Policy": f"{policy['family']}, {policy['parameters']:,} weights",
        "Words": text.get(policy["text"], policy["text"]),
        "Demonstrations": f"{_number(data['kept'])} kept, {_number(data['dropped'])} dropped",
        "Data": ", ".join(f"{key} ({str(one['hash'])[:12]})" for key, one in data["sets"].items()),
        "Steps": _number(training["steps"]),
        "Collecting": duration(seconds["collect"]),
        "Training": duration(seconds["train"]),
    }
    return f"""<section aria-labelledby="learning">
<h2 id="learning">How it learned</h2>
{curve_chart(curves)}
{pair_list(pairs)}
</section>"""


def pair_list(pairs: Mapping[str, Any]) -> str:
    """Names with their values, escaped, as a list in two columns; those without a value are left out."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in pairs.items()
        if value not in (None, "")
    )
    return f'<dl class="pairs num">{items}</dl>'


def _episodes(report: Mapping[str, Any], films: Sequence[Film]) -> str:
    """Every episode at a glance, and in a table for each part."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["episodes"]:
        parts.setdefault(row["part"], []).append(row)
    shown = {video["index"]: _film_id(video) for video, _ in films if video["part"] == "main"}
    tables = "".join(_table(part, rows) for part, rows in parts.items())
    good = sorted(row["seconds"] for row in parts["main"] if row["success"])
    typical = f" A typical success takes {good[len(good) // 2]:.1f} s of the robot's time." if good else ""
    link = " Those with a frame have a video." if shown else ""
    return f"""<section aria-labelledby="episodes">
<h2 id="episodes">Every episode</h2>
<p>One square each, in the order of the seeds; a cross is a failure.{link}{typical}</p>
{episode_grid(parts["main"], shown)}
{tables}
</section>"""


def _table(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    name = "Main evaluation" if part == "main" else f"Probe “{part}”"
    body = "".join(
        f'<tr><td>{row["seed"]}</td><td class="words">{escape(row["instruction"]) or "(no sentence)"}</td>'
        + ("<td>success</td>" if row["success"] else f'<td class="bad">{escape(str(row["failure"]))}</td>')
        + f"<td>{escape(_goal(row['achieved'])) if row['achieved'] else '–'}</td>"
        f"<td>{row['progress']:.2f}</td><td>{row['ticks']}</td></tr>"
        for row in rows
    )
    heads = ("Seed", "Sentence", "Outcome", "What was done", "Progress", "Ticks")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return f"""<details><summary>{escape(name)}: {len(rows)} episodes</summary>
<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"""


def _repeat(report: Mapping[str, Any]) -> str:
    """What is needed to get the same numbers again."""
    executor, seeds, step = report["executor"], report["seeds"], report["inference_ms"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    acting = f"{executor['name'].replace('_', ' ')}, a new chunk every {executor['execute']} ticks"
    acting += f" ({executor['horizon']} actions in a chunk)"
    latency = Latency.of(executor["latency_s"])
    if latency.mean > 0:
        drawn = " on average, drawn from measured ones" if len(latency.seconds) > 1 else ""
        acting += f", simulated delay of {1000 * latency.mean:.0f} ms{drawn}"
    options = {**report["env_options"], **report["options"]}
    told = ", ".join(f"{name}={value}" for name, value in options.items())
    weights = report["policy"].get("weights_sha256")
    pairs = {
        "Agent": report["agent"],
        "Weights": f"{report['weights']}, sha256 {weights[:16]}" if weights else None,
        "Environment": f"{report['env']} ({told})" if told else report["env"],
        "Acting": acting,
        "Seed": report["seed"],
        "Episode seeds": f"{seeds['first']} to {seeds['first'] + seeds['n'] - 1}",
        "Policy step": f"median {step['median']:.2f} ms (interval {step['low']:.2f} to {step['high']:.2f}), "
        f"99 % below {step['p99']:.2f} ms, {step['n']} calls, {step['threads']} thread",
        "Machine": f"{report['machine']['processor']}, {report['machine']['cores']} cores",
        "Versions": versions,
    }
    command = f"<pre><code>{escape(report['command'])}</code></pre>" if report["command"] else ""
    return f"""<section aria-labelledby="repeat">
<h2 id="repeat">Get the same numbers again</h2>
<p>Episodes are functions of their seed: on the same machine they repeat bit by bit.</p>
{command}
{pair_list(pairs)}
</section>"""
