"""The commands about data sets: `data` with `info`, `spec`, `check`, `view`, `repair` and `convert`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from visuomotor.cli.options import Report, Words, parse, save_report
from visuomotor.cli.show import Bars, table
from visuomotor.errors import DataError

if TYPE_CHECKING:
    from visuomotor.data.check import CheckReport

__all__ = ["data_check", "data_convert", "data_info", "data_repair", "data_spec", "data_view"]

_SHOWN = 3
"""Findings of each check that are printed."""


@dataclass(frozen=True, kw_only=True)
class _DataInfo:
    """Options of `data info`."""

    folder: Positional[Path]
    """The data set."""
    spec: Path | None = None
    """JSON that says what its numbers mean, for one that does not; `data spec` writes a draft."""


def data_info(words: Words, prog: str) -> Report:
    """What is in a data set."""
    from visuomotor.data.info import describe, summary

    args = parse(_DataInfo, words, prog)
    report = describe(args.folder, **_meaning(args.spec))
    print(summary(report))
    return report


def _meaning(file: Path | None) -> dict[str, Any]:
    """Spec and keys that a file tells, as arguments."""
    from visuomotor.data.meaning import load_meaning

    if file is None:
        return {}
    told = load_meaning(file)
    return {"spec": told.spec, "keys": told.keys}


@dataclass(frozen=True, kw_only=True)
class _DataSpec:
    """Options of `data spec`."""

    folder: Positional[Path]
    """The data set."""
    out: Path | None = None
    """File for the draft; it is printed if none."""


def data_spec(words: Words, prog: str) -> Report:
    """A draft of what the numbers of a data set mean, each place marked that has to be filled in."""
    from visuomotor.data.meaning import UNKNOWN, draft, save_draft

    args = parse(_DataSpec, words, prog)
    if args.out is None:
        told = draft(args.folder)
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return told
    told = save_draft(args.folder, args.out)
    blanks = json.dumps(told).count(f'"{UNKNOWN}"')
    print(
        f"{args.out}: fill in {blanks} places marked {UNKNOWN!r}, then: "
        f"visuomotor data info {args.folder} --spec {args.out}"
    )
    return told


@dataclass(frozen=True, kw_only=True)
class _DataCheck:
    """Options of `data check`."""

    folder: Positional[Path]
    """The data set."""
    spec: Path | None = None
    """JSON that says what its numbers mean, for one that does not; `data spec` writes a draft."""
    test: Path | None = None
    """Another data set that policies will be tested on, to look for leakage."""
    report: Path | None = None
    """Folder for report.html, with a picture for each finding, and report.json; or a file PAGE.html."""
    fail_on: Literal["error", "warning"] = "error"
    """From which severity on the exit code is 1."""
    only: tuple[str, ...] = ()
    """Names of checks to run; all if none."""


def data_check(words: Words, prog: str) -> Report:
    """What spoils policies; exit code 0 clean, 1 findings, 2 not readable."""
    from visuomotor.data.check.page import refuse_foreign, write_report
    from visuomotor.data.check.run import check_survey, open_surveys

    args = parse(_DataCheck, words, prog)
    if args.report is not None:
        refuse_foreign(args.report)
    given = _meaning(args.spec)
    try:
        survey, test = open_surveys(args.folder, args.test, **given)
    except DataError as error:
        print(f"visuomotor: {error}", file=sys.stderr)
        return {"folder": str(args.folder), "error": str(error), "exit_code": 2}
    try:
        with Bars() as bars:
            found = check_survey(survey, test, only=args.only or None, progress=bars)
        _print_findings(found)
        if args.report is not None:
            print(f"report: {write_report(args.report, survey, found)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; nothing was written.") from None
    return {**found.to_json(), "exit_code": int(found.fails(args.fail_on))}


def _print_findings(report: CheckReport) -> None:
    """The first findings of each check, and how many there are."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in report.findings:
        groups.setdefault((str(one.severity), one.check), []).append(f"{one.where}: {one.said}")
    advice = {one.check: one.advice for one in report.findings}
    for (severity, name), said in groups.items():
        print(f"{severity} {name} ({len(said)})" if len(said) > 1 else f"{severity} {name}")
        for line in said[:_SHOWN]:
            print(f"  {line}")
        if len(said) > _SHOWN:
            print(f"  and {len(said) - _SHOWN} more")
        print(f"  -> {advice[name]}")
    print(
        f"{len(report.ran)} checks, {report.episodes} episodes, {report.ticks} ticks: "
        f"{report.count('error')} errors, {report.count('warning')} warnings, {report.count('note')} notes"
    )


@dataclass(frozen=True, kw_only=True)
class _DataView:
    """Options of `data view`."""

    folder: Positional[Path]
    """The data set."""
    spec: Path | None = None
    """JSON that says what its numbers mean, for one that does not; `data spec` writes a draft."""
    out: Path = Path("outputs/view")
    """Folder for index.html and the files beside it; or a file PAGE.html."""
    most: int = 50
    """Episodes to show: the most unusual ones, and others spread evenly over the rest."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes to show; chosen as `most` says if none."""


def data_view(words: Words, prog: str) -> Report:
    """A page to look through a data set."""
    from visuomotor.data.view import view

    args = parse(_DataView, words, prog)
    given = _meaning(args.spec)
    try:
        with Bars() as bars:
            page = view(
                args.folder,
                args.out,
                most=args.most,
                episodes=args.episodes or None,
                progress=bars,
                **given,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the page was not written.") from None
    print(f"page: {page}")
    return {"folder": str(args.folder), "page": str(page)}


@dataclass(frozen=True, kw_only=True)
class _DataRepair:
    """Options of `data repair`."""

    folder: Positional[Path]
    """The data set that cannot be read."""
    out: Path | None = None
    """Where the repaired one is written."""
    in_place: bool = False
    """Put the repaired one in the place of the damaged one, which is renamed to FOLDER.broken."""


def data_repair(words: Words, prog: str) -> Report:
    """Recover an interrupted recording."""
    from visuomotor.data.repair import repair

    args = parse(_DataRepair, words, prog)
    report = repair(args.folder, args.out, in_place=args.in_place)
    for title, found in (("recovered", report.recovered), ("lost", report.lost)):
        for what in found:
            print(f"{title}: {what}")
    print(f"{report.episodes} episodes, {report.ticks} ticks in {report.folder}")
    return report.to_json()


@dataclass(frozen=True, kw_only=True)
class _DataConvert:
    """Options of `data convert`."""

    source: Positional[Path]
    """A file, or a folder of files."""
    out: Path = Path("outputs/converted")
    """Folder of the data set; a conversion that was stopped goes on."""
    format: Literal["libero", "robomimic", "act", "replay"] | None = None
    """What the files are; found out if none."""
    instruction: str | None = None
    """The words of every episode, for files that have none."""
    embodiment: str | None = None
    """Name of the body; that of the format if none."""
    rate: float | None = None
    """Ticks a second; what the files or their format say if none."""
    cameras: tuple[str, ...] | None = None
    """Those that are wanted, in order; "new=old" renames one. All if none."""
    flip: Literal["none", "vertical", "rotate"] | None = None
    """What makes pictures upright; what the files or their format say if none."""
    mapping: Path | None = None
    """JSON that says what every number is, instead of the preset of the format."""
    show: bool = False
    """Print the mapping as JSON, for --mapping, and convert nothing."""


def data_convert(words: Words, prog: str) -> Report:
    """Demonstrations in other formats."""
    from visuomotor.data.convert.mapping import Mapping
    from visuomotor.data.convert.run import convert, plan
    from visuomotor.data.tables import load_json

    args = parse(_DataConvert, words, prog)
    named = [word.partition("=") for word in args.cameras or ()]
    options: dict[str, Any] = {
        "kind": args.format,
        "instruction": args.instruction,
        "embodiment": args.embodiment,
        "rate": args.rate,
        "cameras": {new: old or new for new, _, old in named} or None,
        "flip": args.flip,
        "mapping": None if args.mapping is None else Mapping.from_json(load_json(args.mapping)),
    }
    work = plan(args.source, **options)
    if args.show:
        print(json.dumps(work.mapping.to_json(), indent=1))
        return work.mapping.to_json()
    with Bars() as bars:
        report = convert(
            args.source,
            args.out,
            progress=lambda done, total: bars("convert episodes", done, total),
            **options,
        )
    print(f"{report.episodes} episodes, {report.ticks} ticks of format {report.kind} in {report.folder}")
    if report.unused:
        print("left behind:")
        table([["", key, str(shape)] for key, shape in sorted(report.unused.items())])
    return save_report(args.out, report.to_json())
