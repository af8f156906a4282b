"""Runs all checks over a data set: numbers first, then each video once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visuomotor.data import layout
from visuomotor.data.check.base import SEVERITIES, Check, Finding, Severity, Survey
from visuomotor.data.check.pictures import expect, look
from visuomotor.data.check.table import CHECKS
from visuomotor.data.reader import LeRobotReader
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Spec

__all__ = ["CheckReport", "Progress", "check", "check_survey", "merge_reports", "open_surveys"]

Progress = Callable[[str, int, int], object]
"""Called with what is done, how much of it, and of how much."""

UNREADABLE = "unreadable"
"""Name of the finding that a video cannot be decoded; no check can run on it."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found in a data set.

    Attributes:
        folder: The data set.
        test: The test data that it was compared with; None if there were none.
        hash: Hash of its content.
        episodes: How many there are.
        ticks: In all of them.
        findings: The worst first, then in the order of the table of checks and of episodes.
        ran: Names of the checks that ran.
    """

    folder: str
    test: str | None
    hash: str
    episodes: int
    ticks: int
    findings: tuple[Finding, ...]
    ran: tuple[str, ...]

    def count(self, severity: Severity) -> int:
        """Findings of exactly this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def fails(self, severity: Severity) -> bool:
        """Whether there is a finding of this severity or a worse one."""
        bad = SEVERITIES[SEVERITIES.index(severity) :]
        return any(finding.severity in bad for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            "folder": self.folder,
            "test": self.test,
            "hash": self.hash,
            "episodes": self.episodes,
            "ticks": self.ticks,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "ran": list(self.ran),
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(
    folder: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    spec: Spec | None = None,
    keys: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look for what spoils policies in the data set in `folder`; nothing is written.

    Tables lie in memory as in the reader; of pictures three numbers each are kept.

    Args:
        folder: A LeRobot data set.
        test: Another one that policies will be tested on, to look for leakage.
        spec: Meaning of the numbers, for data sets that do not bring one.
        keys: Features of theirs that have other names than LeRobot's, as `LeRobotReader` takes them.
        only: Names of the checks to run; all if None.
        progress: Told how many videos were looked at.

    Raises:
        DataError: A data set cannot be read at all.
        UnknownNameError: A name in `only` is no check.
    """
    survey, against = open_surveys(folder, test, spec=spec, keys=keys)
    return check_survey(survey, against, only=only, progress=progress)


def open_surveys(
    folder: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    spec: Spec | None = None,
    keys: Mapping[str, str] | None = None,
) -> tuple[Survey, Survey | None]:
    """A data set, and the one that policies are tested on, opened for `check_survey`; as for `check`."""
    survey = Survey(reader=LeRobotReader(Path(folder), spec, keys=keys, timed=False))
    if test is None:
        return survey, None
    if (Path(test) / layout.SIDECAR).exists():  # it says itself what it is
        spec = keys = None
    return survey, Survey(reader=LeRobotReader(Path(test), spec, keys=keys, timed=False))


def check_survey(
    survey: Survey,
    test: Survey | None = None,
    *,
    only: Iterable[str] | None = None,
    shown: Collection[int] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """`check` for data sets that are open already; the traces of `survey` are filled in.

    With `shown`, only the pictures of these episodes (places in the reader) are looked at, and what motion
    lets expect of them is fitted to these alone.
    """
    checks = [one for one in _chosen(only) if one.scope != "test set" or test is not None]
    found: list[Finding] = []
    for one in checks:
        if one.scope == "data set":
            found += _named(one, one.function(survey))
        elif one.scope == "test set":
            found += _named(one, one.function(survey, test))
        elif one.scope == "episode":
            for excerpt in survey.excerpts():
                found += _named(one, one.function(survey, excerpt))
    of_pictures = [one for one in checks if one.scope == "pictures"]
    if of_pictures:
        found += _look(survey, shown, progress)
        for number, excerpt in enumerate(survey.excerpts()):
            cameras = [camera.name for camera in survey.reader.spec.cameras]
            traces = {
                name: survey.traces[number, name] for name in cameras if (number, name) in survey.traces
            }
            for one in of_pictures:
                found += _named(one, one.function(survey, excerpt, traces))
    reader = survey.reader
    return CheckReport(
        folder=str(reader.folder),
        test=None if test is None else str(test.reader.folder),
        hash=reader.hash,
        episodes=len(reader.episodes),
        ticks=len(reader),
        findings=tuple(sorted(found, key=_order)),
        ran=tuple(one.name for one in checks),
    )


def merge_reports(one: CheckReport, other: CheckReport) -> CheckReport:
    """Two reports of the same data set, made with different checks, as one."""
    ran = {*one.ran, *other.ran}
    return replace(
        one,
        findings=tuple(sorted((*one.findings, *other.findings), key=_order)),
        ran=tuple(known.name for known in CHECKS if known.name in ran),
    )


def _chosen(only: Iterable[str] | None) -> list[Check]:
    known: Mapping[str, Check] = {one.name: one for one in CHECKS}
    if only is None:
        return list(CHECKS)
    wanted = list(only)
    for name in wanted:
        if name not in known:
            raise unknown_name("check", name, known)
    return [one for one in CHECKS if one.name in wanted]


def _named(one: Check, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Findings with what their check says about all of them."""
    for finding in findings:
        yield replace(finding, check=one.name, advice=one.advice, severity=finding.severity or one.severity)


def _look(survey: Survey, shown: Collection[int] | None, progress: Progress | None) -> Iterator[Finding]:
    """Fill in the traces, one video after the other; one that cannot be decoded is a finding."""
    cameras = [camera.name for camera in survey.reader.spec.cameras]
    entries = [(n, e) for n, e in enumerate(survey.reader.episodes) if shown is None or n in shown]
    total = len(entries) * len(cameras)
    done = 0
    for camera in cameras:  # one camera after the other, as their files lie on disk
        for number, entry in entries:
            try:
                survey.traces[number, camera] = look(survey, number, camera)
            except DataError as error:
                yield Finding(
                    check=UNREADABLE,
                    severity="error",
                    episode=entry.index,
                    camera=camera,
                    value=1.0,
                    threshold=0.0,
                    said=str(error),
                    advice="Restore the video from a copy, or drop the episode.",
                )
            done += 1
            if progress is not None:
                progress("look at videos", done, total)
    expect(survey)


def _order(finding: Finding) -> tuple[int, int, int]:
    names = [one.name for one in CHECKS]
    place = names.index(finding.check) if finding.check in names else -1
    bad = SEVERITIES.index(finding.severity or "note")
    return -bad, place, -1 if finding.episode is None else finding.episode
