from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fabricated import invent

from visuomotor.evaluation.charts import curve_chart, interval_chart, percent
from visuomotor.evaluation.comparison import compare
from visuomotor.evaluation.page import duration, render_page
from visuomotor.evaluation.report import build_report, write_report
from visuomotor.evaluation.runner import FIRST_SEED, evaluate

VOID = {"meta", "br", "line", "circle", "rect", "polyline"}


class Checker(HTMLParser):
    """Notes what opens and closes, the texts, the ids and everything that is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes.append((tag, values))
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [values[key] for key in ("src", "href") if values.get(key)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    for link in checker.links:
        assert link.startswith(("data:video/mp4;base64,", "#"))
        assert not link.startswith("#") or link[1:] in checker.ids
    checker.text = checker.text.replace("\u00a0", " ")
    return checker


def test_the_json_has_every_field_that_programs_rely_on(tmp_path: Path) -> None:
    evaluation = invent()
    seconds = {"collect": 50.0, "train": 160.0, "evaluate": 62.0, "total": 280.0}
    report = write_report(tmp_path, evaluation, command="visuomotor demo", seed=7, seconds=seconds)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse) == report
    assert report["task"] == "put_in"
    proportions = [report["success"], *report["probes"].values()]
    assert list(report["probes"]) == ["swap", "phrasing", "words", "blank"]
    for result, n in zip(proportions, (100, 50, 50, 50, 50)):
        assert 0 <= result["low"] <= result["rate"] <= result["high"] <= 1
        assert result["n"] == n
    assert report["success"]["successes"] == 97
    assert (report["wrong_object"], report["wrong_place"]) == (0, 1)
    assert report["probes"]["swap"]["followed_old"] == 1
    assert report["probes"]["blank"]["chance"] == 0.125
    assert report["policy"]["family"] == "compact"
    assert report["policy"]["parameters"] == 3_142_880
    assert report["policy"]["text"] == "minilm"
    assert (report["demonstrations"]["kept"], report["demonstrations"]["dropped"]) == (600, 7)
    assert report["seconds"] == seconds
    assert report["inference_ms"]["median"] == 7.84
    assert report["inference_ms"]["p99"] == 9.61
    assert report["seed"] == 7
    assert {"visuomotor", "python", "torch", "mujoco", "numpy"} <= set(report["versions"])
    assert report["executor"] == {"name": "receding_horizon", "execute": 8, "horizon": 16, "latency_s": 0.0}
    assert len(report["episodes"]) == 300


def test_what_nobody_measured_is_null_and_not_invented() -> None:
    report = build_report(invent(trained=False))
    assert report["training"] is None
    assert report["policy"] == {"family": "expert", "parameters": 0, "text": None}
    assert (report["demonstrations"]["kept"], report["demonstrations"]["dropped"]) == (0, 0)
    assert report["seconds"] == {"collect": None, "train": None, "evaluate": 61.3, "total": 61.3}
    assert report["seed"] == FIRST_SEED
    own = build_report(invent())
    assert own["seconds"] == {"collect": 48.0, "train": 151.2, "evaluate": 61.3, "total": 260.5}
    assert own["seed"] == 0


def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    evaluation = invent(tmp_path / "evaluation")
    write_report(tmp_path, evaluation, command="visuomotor demo --seed 0")
    checker = check((tmp_path / "report.html").read_text())
    assert checker.counts["video"] == len(evaluation.videos) == 10
    assert checker.counts["h1"] == 1
    assert "97 of 100 unseen scenes solved" in checker.text
    assert "visuomotor demo --seed 0" in checker.text
    assert "91.5 to 99.0 %" in checker.text
    assert re.search(r"Seed\s*0\s*Episode seeds\s*1000000000 to 1000000099", checker.text)
    assert checker.text.index("What went wrong") < checker.text.index("What went right")
    assert "learning" in checker.ids
    for tag, values in checker.attributes:
        if tag == "video":
            assert {"muted", "autoplay", "loop", "playsinline", "controls"} <= set(values)
            assert values["aria-label"]
            data = base64.b64decode((values["src"] or "").partition(",")[2])
            assert data[4:8] == b"ftyp"
        if tag == "svg":
            assert values["role"] == "img"
            assert values["aria-label"]


def test_the_page_of_an_evaluation_has_no_training_part(tmp_path: Path) -> None:
    write_report(tmp_path, invent(trained=False, perfect=True))
    checker = check((tmp_path / "report.html").read_text())
    assert "learning" not in checker.ids
    assert "video" not in checker.counts
    assert "The scripted expert" in checker.text
    assert "Nothing, in these 100 episodes" in checker.text


def test_everything_from_outside_is_escaped() -> None:
    evil = '<script>alert("1")</script><img src=x onerror=alert(2)>&"\'$title'
    evaluation = invent()
    first = evaluation.trials[0]
    episode = replace(first.episode, instruction=evil, success=False, failure=evil, achieved=evil, goal=evil)
    trials = (replace(first, episode=episode), *evaluation.trials[1:])
    evaluation = replace(evaluation, trials=trials, setup=replace(evaluation.setup, agent=evil))
    report = build_report(evaluation, command=evil)
    report["task"] = report["policy"]["family"] = report["probes"]["swap"]["title"] = evil
    report["videos"] = [{"file": evil, "part": "main", "index": 0, "outcome": evil}]
    checker = check(render_page(report, {evil: b""}))
    assert checker.counts["script"] == 1
    assert "img" not in checker.counts
    assert checker.text.count(evil) >= 6


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_texts_stand_out_from_their_ground_in_both_schemes(scheme: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1."""
    style = files("visuomotor").joinpath("static/page.css").read_text()
    arms = files("visuomotor.evaluation").joinpath("static/comparison.css").read_text()
    colors = {}
    for sheet in (style, arms):
        block = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[scheme]
        colors.update(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for text, grounds in {
        "ink": ("paper", "card", "wash"),
        "soft": ("paper", "card", "wash"),
        "good": ("paper", "card", "good-wash"),
        "bad": ("paper", "card", "bad-wash"),
        "second": ("card",),
        **{f"arm{number}": ("paper", "card") for number in range(8)},
    }.items():
        for ground in grounds:
            light, dark = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_charts_say_in_words_what_they_show() -> None:
    result = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 80}
    chart = interval_chart(result, "New <words>", marks={"Chance": 0.125}).replace("\u00a0", " ")
    assert "New &lt;words&gt;: 50 %, 95 % interval 40.0 % to 60.0 %, 80 episodes. Chance: 12.5 %." in chart
    assert 'x="40.00%" width="20.00%"' in chart


@pytest.mark.parametrize(
    "values", [[1.0, 0.5, 0.2], [0.31, 0.30], [1e-5, 1e3], [0.2, 0.2], [100.0, 0.0, float("nan"), 50.0]]
)
def test_curves_stay_within_their_frame(values: list[float]) -> None:
    chart = curve_chart({"loss": [(10.0 * i, value) for i, value in enumerate(values)]})
    (points,) = re.findall(r'points="([^"]+)"', chart)
    for point in points.split():
        x, y = (float(number) for number in point.split(","))
        assert 0 <= x <= 1000
        assert -0.01 <= y <= 100.01
    assert chart.count("<span style") >= 2


def test_a_curve_without_points_is_left_out() -> None:
    assert curve_chart({"loss": [], "validation": [(1.0, 0.5)]}) == ""


def test_numbers_are_written_for_people() -> None:
    assert [percent(rate).replace("\u00a0", " ") for rate in (0.97, 0.915, 1.0)] == [
        "97 %",
        "91.5 %",
        "100 %",
    ]
    said = [duration(seconds).replace("\u00a0", " ") for seconds in (None, 8.44, 59.4, 59.6, 151.2, 3900.0)]
    assert said == ["not known", "8.4 s", "59 s", "1 min 0 s", "2 min 31 s", "1 h 5 min"]


def test_from_episodes_to_a_report_with_videos_that_can_be_compared(tmp_path: Path) -> None:
    world: dict[str, Any] = {"env": "grid_world:GridWorld", "episodes": 6, "probe_episodes": 3, "workers": 0}
    parrot = evaluate("grid_world:Parrot", **world, out=tmp_path, videos=1)
    report = write_report(tmp_path, parrot)
    files_there = {path.name for path in (tmp_path / "videos").iterdir()}
    assert {f"videos/{name}" for name in files_there} == {video["file"] for video in report["videos"]}
    assert {"main-000-success.mp4", "swap-000-success.mp4"} <= files_there
    assert any("phrasing" in name for name in files_there)
    filmed = [row for row in report["episodes"] if row["video"]]
    assert len(filmed) == len(files_there)
    again = evaluate("grid_world:Parrot", **world, out=tmp_path, videos=1)
    assert write_report(tmp_path, again)["episodes"] == report["episodes"]
    chance = evaluate("random", **world, probes=(), execute=1)
    assert compare(chance, tmp_path).n == compare(chance, parrot).n == 6
    assert compare(tmp_path / "report.json", parrot).difference == 0.0
