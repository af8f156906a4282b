from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fabricated import invent
from fabricated_comparison import invent_comparison, played

from visuomotor.errors import DataError
from visuomotor.evaluation.comparison import compare, compare_all, read_report
from visuomotor.evaluation.comparison_charts import difference_chart, points, tracks_chart
from visuomotor.evaluation.comparison_page import render_comparison, write_comparison
from visuomotor.evaluation.comparison_table import markdown, table_rows
from visuomotor.evaluation.families import merge_families
from visuomotor.evaluation.report import build_report, write_report
from visuomotor.study.gathering import gather

DATA = {"key": "tabletop_put_in", "hash": "9f4c1e77aa02b6d1", "demonstrations": 800, "ticks": 41234}
VOID = {"meta", "line", "circle", "rect", "polyline"}


def gathered(folder: Path, **more: Any) -> dict[str, Any]:
    return gather(
        folder, **{"data": DATA, "diverged": {}, "command": "visuomotor compare a b", "films": 2, **more}
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = invent_comparison(tmp_path_factory.mktemp("comparison"))
    return write_comparison(folder, gathered(folder))


class Checker(HTMLParser):
    """Notes what is open, the ids, the texts and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = re.sub(r"\s+", " ", self.text.replace("\u00a0", " "))
        assert self.open == []
        ids = [values["id"] for _, values in self.tags if "id" in values]
        assert len(set(ids)) == len(ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_pair_is_the_paired_difference_of_its_two(tmp_path: Path) -> None:
    rates = {"a": 0.9, "b": 0.85, "c": 0.3}
    evaluations = {name: played(invent(), rate, number) for number, (name, rate) in enumerate(rates.items())}
    pairs = compare_all(evaluations)
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in pairs:
        alone = compare(evaluations[pair["first"]], evaluations[pair["second"]]).to_json()
        assert {key: pair[key] for key in alone} == alone
        assert pair["p_value"] <= pair["p_holm"] <= min(1.0, 3 * pair["p_value"])
    assert pairs[1]["p_holm"] < 0.001
    write_report(tmp_path, evaluations["a"])
    assert compare_all({**evaluations, "a": tmp_path}) == pairs
    assert compare_all({**evaluations, "a": build_report(evaluations["a"])}) == pairs
    with pytest.raises(ValueError, match="two evaluations or more"):
        compare_all({"a": evaluations["a"]})


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"episodes": []}')
    with pytest.raises(DataError, match="expected the report of an evaluation"):
        read_report(tmp_path)


def test_the_page_is_whole_and_says_what_the_json_says(tmp_path: Path) -> None:
    folder = invent_comparison(tmp_path, films=True)
    report = write_comparison(folder, gathered(folder))
    page = Checker((folder / "report.html").read_text())
    count = {tag: sum(found == tag for found, _ in page.tags) for tag in ("h1", "video", "polyline")}
    assert count == {"h1": 1, "video": 8, "polyline": 4}
    best = max(report["arms"], key=lambda name: report["arms"][name]["success"]["rate"])
    assert f"Most scenes were solved by {best}" in page.text
    assert "4 ways to learn, one data set, the same 100 scenes" in page.text
    assert "Holm's correction for 6 pairs" in page.text
    for name, arm in report["arms"].items():
        assert f"{100 * arm['success']['rate']:.0f} %" in page.text
        assert name in page.text
    for tag, values in page.tags:
        assert not str(values.get("href", "")).startswith("http")
        if tag == "a":
            assert (folder / str(values["href"])).is_file()
        if tag == "svg":
            assert values.get("aria-label") or values.get("aria-hidden")
    assert "Not equally placed" not in page.text
    assert (folder / "table.md").read_text().startswith("| arm | success | over untrained | swap |")


def test_the_matrix_marks_what_the_corrected_test_still_tells_apart(report: dict[str, Any]) -> None:
    page = render_comparison(report, {})
    real = sum(pair["p_holm"] < 0.05 for pair in report["differences"])
    assert 0 < real < len(report["differences"])
    assert len(re.findall(r'class="pair up"', page)) == len(re.findall(r'class="pair down"', page)) == real
    assert len(re.findall(r'class="pair[ "]', page)) == 2 * len(report["differences"])
    assert "<video" not in page


def test_what_is_missing_is_told_before_the_numbers(report: dict[str, Any]) -> None:
    report = {**report, "waiting": ["late"], "diverged": {"wild": "the loss <b> is not finite"}}
    text = Checker(render_comparison(report, {})).text
    assert text.index("Not finished yet: late") < text.index("How often it succeeds")
    assert "wild diverged. the loss <b> is not finite" in text


def test_nobody_is_called_the_best_where_nobody_succeeds(tmp_path: Path) -> None:
    folder = invent_comparison(tmp_path, {"a": 0.0, "b": 0.0})
    write_comparison(folder, gathered(folder))
    assert "No arm solved any of the 100 scenes." in Checker((folder / "report.html").read_text()).text


def test_a_comparison_without_any_arm_still_has_a_page(tmp_path: Path) -> None:
    folder = invent_comparison(tmp_path)
    for name in ("compact", "bc-mse", "bc-mixture", "act"):
        (folder / "arms" / name / "report.html").unlink()
    report = write_comparison(folder, gathered(folder))
    assert report["arms"] == {}
    assert len(report["waiting"]) == 4
    assert "No arm is finished" in Checker((folder / "report.html").read_text()).text


def test_names_from_outside_are_escaped(report: dict[str, Any]) -> None:
    evil = '<script>alert("1")</script>'
    arm = report["arms"]["act"]
    told = {**report, "arms": {evil: arm}, "differences": [], "command": evil, "task": evil, "films": []}
    page = Checker(render_comparison(told, {}))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count(evil) >= 4


def test_tasks_stand_beside_one_another(report: dict[str, Any]) -> None:
    part = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 40, "successes": 20}
    arms = {name: {**arm, "tasks": {"put_in": part, "lift": part}} for name, arm in report["arms"].items()}
    text = Checker(render_comparison({**report, "arms": arms}, {})).text
    assert "Task by task" in text
    assert text.count("40.0 to 60.0 %, n = 40") == 8


def test_the_table_has_a_cell_for_everything_and_survives_markdown(report: dict[str, Any]) -> None:
    titles, *rows = table_rows(report)
    assert titles == [
        "arm", "success", "over untrained", "swap", "phrasing", "words", "blank",
        "parameters", "training", "policy step", "chunk",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [*report["arms"], "expert", "random"]
    assert all(len(row) == len(titles) for row in rows)
    assert rows[0][-1] == "16, execute 8, receding horizon"
    assert markdown([["a"], ["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"


def test_charts_stay_within_their_frame_and_say_what_they_show() -> None:
    result = {"difference": 0.5, "low": 0.3, "high": 1.0, "n": 9}
    chart = difference_chart(result, "a <minus> b", bar=0.3)
    assert "a &lt;minus&gt; b: +50 points, 95 % interval +30 to +100, 9 pairs. Mark: +30." in chart
    assert 'x="65.00%" width="35.00%"' in chart
    tracks = {"nll": [(1, 40.0), (2, -3.0), (3, float("nan")), (4, -5.0)], "one": [(1, 2.0)]}
    chart = tracks_chart(tracks, looks={"nll": 9, "one": 1})
    (places,) = re.findall(r'class="track arm1" points="([^"]+)"', chart)
    heights = [float(place.split(",")[1]) for place in places.split()]
    assert (heights[0], heights[-1]) == (0, 100)
    assert "40 → -5" in chart
    assert chart.count("<polyline") == 1, "a curve of one point"
    assert tracks_chart({"one": [(1, 2.0)]}, looks={"one": 0}) == ""
    assert [points(value) for value in (0.123, -0.4, 0.0)] == ["+12", "−40", "±0"]


def test_results_can_go_to_another_section_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "families.json"
    merge_families(file, {"a": {"success": 0.5}})
    merge_families(file, {"a": {"success": 0.25}}, section="all_tasks")
    text = file.read_text()
    assert text.index('"policies"') < text.index('"all_tasks"')
    assert [entry.name for entry in file.parent.iterdir()] == ["families.json"]
    file.write_text("{")
    with pytest.raises(DataError, match="expected results as JSON"):
        merge_families(file, {})
