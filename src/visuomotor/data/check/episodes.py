"""Checks that compare whole episodes: words, lengths, duplicates, leakage into a test set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from visuomotor.data.check.base import Finding, Survey, spreads

__all__ = [
    "distances",
    "duplicates",
    "instructions",
    "leaked_episodes",
    "leaked_seeds",
    "odd_length",
    "one_instruction",
    "signatures",
]

_POINTS = 16
"""Places along an episode at which two are compared."""
DUPLICATE_WIDTH = 0.01
DUPLICATE_LENGTH = 0.9
LENGTH_FACTOR, LENGTH_SPREADS = 5.0, 5.0
_BLOCK = 512
"""Episodes compared at once; bounds the memory."""
_PLACEHOLDERS = re.compile(
    r"task|to ?do|tbd|none|null|nan|n/?a|unknown|default|dummy|test|instruction|description|placeholder"
    r"|language[_ ]instruction|xxx+|asdf|foo|lorem"
)


def instructions(survey: Survey) -> Iterator[Finding]:
    """Ticks without words, or with a stand-in for them."""
    reader = survey.reader
    bad = {
        number: _why(task) for number, task in enumerate(reader.tasks) if _why(task)
    }  # number of a wording -> what is wrong with it
    for entry in reader.episodes:
        words = reader.task_index[entry.start : entry.start + entry.length]
        wrong = np.isin(words, list(bad))
        if wrong.any():
            tick = int(wrong.argmax())
            why = bad[int(words[tick])]
            yield Finding(
                episode=entry.index,
                ticks=(tick, tick + int(wrong.sum())),
                value=float(wrong.mean()),
                threshold=0.0,
                severity="error" if why == "is empty" else "warning",
                said=f"The instruction {why} at {wrong.mean():.0%} of the ticks.",
            )


def _why(task: str) -> str:
    """What is wrong with an instruction; empty if nothing is."""
    said = task.strip().lower().strip(" .!?<>[](){}\"'")
    if not said:
        return "is empty"
    if _PLACEHOLDERS.fullmatch(said) or not any(letter.isalpha() for letter in said):
        return f"is the placeholder {task!r}"
    return ""


def one_instruction(survey: Survey) -> Iterator[Finding]:
    """One and the same sentence everywhere: a policy learns nothing from words then."""
    if len(survey.reader.tasks) == 1 and len(survey.reader.episodes) > 1:
        yield Finding(
            value=1.0,
            threshold=1.0,
            said=f"Every tick says {survey.reader.tasks[0]!r}; a policy can ignore the words.",
        )


def odd_length(survey: Survey) -> Iterator[Finding]:
    """Episodes much shorter or longer than the others."""
    entries = survey.reader.episodes
    lengths = np.array([entry.length for entry in entries], float)
    usual, strange = float(np.median(lengths)), np.abs(spreads(np.log(lengths)))
    for entry, spread in zip(entries, strange):
        factor = max(entry.length / usual, usual / entry.length)
        if factor > LENGTH_FACTOR and spread > LENGTH_SPREADS and len(entries) > 2:
            yield Finding(
                episode=entry.index,
                value=factor,
                threshold=LENGTH_FACTOR,
                said=f"It has {entry.length} ticks; a usual episode has {usual:.0f}.",
            )


def signatures(survey: Survey, like: Survey | None = None) -> np.ndarray:
    """(episode, number): the way of each state at equal shares of its time, in widths.

    Args:
        survey: Whose episodes.
        like: Whose widths, so that two data sets can be compared; its own if None.
    """
    scale = (like or survey).state
    places = np.linspace(0, 1, _POINTS)
    found = []
    for episode in survey.excerpts():
        time = np.linspace(0, 1, len(episode)) if len(episode) > 1 else np.zeros(1)
        ways = [np.interp(places, time, column) for column in (episode.state / scale.width).T[scale.moves]]
        found.append(np.concatenate(ways) if ways else np.zeros(1))
    return np.array(found, np.float32)


def distances(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For blocks of rows of `one` (n, number): place of the first, and distances (block, m) to `other`.

    A distance is the root mean square difference, in widths.
    """
    square = (other.astype(np.float64) ** 2).sum(axis=1)
    for first in range(0, len(one), _BLOCK):
        block = one[first : first + _BLOCK].astype(np.float64)
        gap = (block**2).sum(axis=1)[:, None] - 2 * block @ other.T.astype(np.float64) + square
        yield first, np.sqrt(np.maximum(gap, 0) / one.shape[1])


def _alike(one: Survey, other: Survey) -> Iterator[tuple[int, int, float]]:
    """Places of episodes, in `one` and `other`, that are almost the same, with their distance."""
    same = one is other
    mine, yours = signatures(one), signatures(other, like=one)
    lengths = [np.array([entry.length for entry in s.reader.episodes], float) for s in (one, other)]
    for first, gaps in distances(mine, yours):
        for row, gap in enumerate(gaps):
            ratio = lengths[0][first + row] / lengths[1]
            near = (gap < DUPLICATE_WIDTH) & (np.minimum(ratio, 1 / ratio) >= DUPLICATE_LENGTH)
            if same:
                near[first + row :] = False  # each pair once, and none with itself
            if near.any():
                place = int(np.where(near, gap, np.inf).argmin())
                yield first + row, place, float(gap[place])


def duplicates(survey: Survey) -> Iterator[Finding]:
    """Episodes that are almost the same as an earlier one."""
    if not survey.state.moves.any():
        return
    entries = survey.reader.episodes
    for later, earlier, gap in _alike(survey, survey):
        yield Finding(
            episode=entries[later].index,
            other=entries[earlier].index,
            value=gap,
            threshold=DUPLICATE_WIDTH,
            said=f"It moves as episode {entries[earlier].index} does, "
            f"within {gap:.2%} of the usual range of each number.",
        )


def leaked_seeds(survey: Survey, test: Survey) -> Iterator[Finding]:
    """Scenes with the same seed in training and test data."""
    kinds = [[survey.reader.meta.get(key) for key in ("env", "task")] for survey in (survey, test)]
    if kinds[0] != kinds[1]:
        return  # the same seed draws other scenes there
    seen = {entry.seed: entry.index for entry in survey.reader.episodes if entry.seed is not None}
    for entry in test.reader.episodes:
        if entry.seed in seen:
            yield Finding(
                episode=seen[entry.seed],
                other=entry.index,
                value=float(entry.seed or 0),
                threshold=0.0,
                said=f"Seed {entry.seed} is also that of episode {entry.index} of the test data.",
            )


def leaked_episodes(survey: Survey, test: Survey) -> Iterator[Finding]:
    """Episodes of the test data that are almost the same as one of the training data."""
    if survey.reader.spec.state != test.reader.spec.state:
        yield Finding(
            value=0.0,
            threshold=0.0,
            severity="note",
            said="The test data has another state, so its episodes cannot be compared with these.",
        )
        return
    found = Finding(said="", value=0.0, threshold=DUPLICATE_WIDTH)
    for place, twin, gap in _alike(survey, test):
        mine, yours = survey.reader.episodes[place].index, test.reader.episodes[twin].index
        said = f"Episode {yours} of the test data moves the same way, within {gap:.2%} of the usual range."
        yield replace(found, episode=mine, other=yours, value=gap, said=said)
