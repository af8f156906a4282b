"""How unusual each episode is: length, jerk, distance from the others, findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visuomotor.data.check.base import Survey, spreads
from visuomotor.data.check.episodes import distances, signatures
from visuomotor.data.check.motion import roughness
from visuomotor.data.check.run import CheckReport

__all__ = ["Score", "score"]

_FINDING = {"error": 10.0, "warning": 5.0, "note": 0.0}
"""What a finding counts, in robust standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How unusual one episode is.

    Attributes:
        length: Robust standard deviations of its length from the others, on a logarithmic scale.
        jerk: The same of how much it shakes; less than usual is 0.
        distance: The same of how far its way lies from that of the most similar other episode.
        errors: Findings of this severity.
        warnings: Findings of this severity.
        total: Of all; episodes are sorted by it.
    """

    length: float
    jerk: float
    distance: float
    errors: int
    warnings: int
    total: float


def score(survey: Survey, report: CheckReport) -> list[Score]:
    """One score for each episode of `survey`, in its order."""
    entries = survey.reader.episodes
    length = np.abs(spreads(np.log([entry.length for entry in entries])))
    jerk = np.maximum(spreads(roughness(survey)), 0)
    far = np.maximum(spreads(_nearest(signatures(survey))), 0)
    found = []
    for place, entry in enumerate(entries):
        bad = [str(one.severity) for one in report.findings if one.episode == entry.index]
        total = max(length[place], jerk[place], far[place]) + sum(_FINDING[severity] for severity in bad)
        found.append(
            Score(
                length=round(float(length[place]), 2),
                jerk=round(float(jerk[place]), 2),
                distance=round(float(far[place]), 2),
                errors=bad.count("error"),
                warnings=bad.count("warning"),
                total=round(float(total), 2),
            )
        )
    return found


def _nearest(ways: np.ndarray) -> np.ndarray:
    """(episode,) distance to the most similar other one; 0 if there is no other."""
    found = np.zeros(len(ways))
    if len(ways) < 2:
        return found
    for first, gaps in distances(ways, ways):
        rows = np.arange(len(gaps))
        gaps[rows, first + rows] = np.inf
        found[first + rows] = gaps.min(axis=1)
    return found
