"""Checks of what actions mean: copies of the state, shifts in time, grippers, quaternions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from visuomotor.data.check.base import Finding, Survey
from visuomotor.data.check.motion import SAME
from visuomotor.types import Dimension

__all__ = [
    "action_is_state",
    "action_late",
    "gripper_polarity",
    "gripper_range",
    "quaternion_flip",
    "quaternion_norm",
    "quaternions",
]

COPY_SHARE = 0.95
LATE_FACTOR, LATE_MOST = 0.7, 0.9
SLOW_SECONDS = 0.5
GRIPPER_SLACK, MEASURED_SLACK, GRIPPER_NARROW = 0.05, 0.5, 0.1
POLARITY_AGAINST, POLARITY_SHARE = -0.5, 0.8
NORM_SLACK = 0.01
_QUATERNION = re.compile(
    r"(?:.*?[_.\- ]?)(?:q|quat|quaternion|rot|rotation|orientation|orn)[_.\- ]?([wxyz])", re.I
)


def _pairs(survey: Survey) -> list[tuple[int, int]]:
    """Places (action, state) of numbers that name the same thing, as "x" and "measured_x"; no grippers."""
    found = []
    names = [dimension.name for dimension in survey.state_dimensions]
    for place, dimension in enumerate(survey.action_dimensions):
        same = [i for i, name in enumerate(names) if name == dimension.name]
        longer = [i for i, name in enumerate(names) if name.endswith(f"_{dimension.name}")]
        if (same or longer) and dimension.kind != "gripper":
            found.append((place, (same or longer)[0]))
    return [(a, s) for a, s in found if survey.actions.moves[a] and survey.state.moves[s]]


def action_is_state(survey: Survey) -> Iterator[Finding]:
    """Absolute actions that are the state of the same tick, of the one before, or of the next one."""
    pairs = [(a, s) for a, s in _pairs(survey) if not _is_move(survey.action_dimensions[a])]
    if not pairs:
        return
    actions, states = ([pair[side] for pair in pairs] for side in (0, 1))
    width = survey.state.width[states]
    for lag, word, severity in (
        (0, "the same tick", "error"),
        (-1, "the tick before", "error"),
        (1, "the next tick", "note"),
    ):
        equal = total = 0
        for episode in survey.excerpts():
            first, last = max(0, -lag), len(episode) - max(0, lag)
            step = np.diff(episode.state[:, states], axis=0, append=episode.state[-1:, states])
            moves = (np.abs(step) / width > SAME).any(axis=1)[first:last]  # else all three look alike
            away = np.abs(
                episode.actions[first:last, actions] - episode.state[first + lag : last + lag, states]
            )
            equal += int((away / width <= SAME).all(axis=1)[moves].sum())
            total += int(moves.sum())
        share = equal / max(total, 1)
        if total and share > COPY_SHARE:
            yield Finding(
                value=share,
                threshold=COPY_SHARE,
                severity=severity,  # type: ignore[arg-type]  # the literals above
                dimension=f"action {survey.action_dimensions[actions[0]].name}",
                said=f"At {share:.0%} of the ticks that move, the action is the state of {word}.",
            )
            return


def _is_move(dimension: Dimension) -> bool:
    return dimension.kind.endswith(("_delta", "_relative"))


def _lags(survey: Survey) -> dict[int, float]:
    """How much of the actions the state `lag` ticks later does not explain: lag to a share of 0 to 1.

    An absolute action is compared with the state, a move with the motion that ends at that tick. Lag 1 is
    the tick after the action: a cause comes before its effect.
    """
    pairs = [(a, s) for a, s in _pairs(survey) if not survey.action_dimensions[a].kind.endswith("_relative")]
    most = max(2, round(2 * SLOW_SECONDS * survey.rate))
    left, all_of_it = dict[int, float](), dict[int, float]()
    for episode in survey.excerpts():
        for a, s in pairs:
            asked = episode.actions[:, a] / survey.actions.width[a]
            state = episode.state[:, s] / survey.actions.width[a]
            move = _is_move(survey.action_dimensions[a])
            seen = np.diff(state, prepend=state[:1]) if move else state
            for lag in range(-3, most + 1):
                first, last = max(0, -lag), len(episode) - max(0, lag)
                if last - first < 4:
                    continue
                u, v = (x - x.mean() for x in (asked[first:last], seen[first + lag : last + lag]))
                gain = float(u @ v) / max(float(v @ v), 1e-12) if move else 1.0  # moves may fall short
                left[lag] = left.get(lag, 0.0) + float(np.square(u - max(gain, 0.0) * v).sum())
                all_of_it[lag] = all_of_it.get(lag, 0.0) + float(u @ u)
    return {lag: left[lag] / max(all_of_it[lag], 1e-12) for lag in left}


def action_late(survey: Survey) -> Iterator[Finding]:
    """Actions that stand beside a motion that was over already, or long before theirs."""
    unexplained = _lags(survey)
    if not unexplained or min(unexplained.values()) > LATE_MOST:
        return
    best = min(unexplained, key=lambda lag: unexplained[lag])
    after = min(share for lag, share in unexplained.items() if lag >= 1)
    if best < 1 and unexplained[best] < LATE_FACTOR * after:
        yield Finding(
            value=float(best),
            threshold=1.0,
            severity="error",
            said=f"Actions agree best with the state {1 - best} tick{'s' * (best < 0)} too early: it "
            f"leaves {unexplained[best]:.1%} unexplained, what follows {after:.1%}: they came too late.",
        )
    elif (best - 1) / survey.rate > SLOW_SECONDS:
        yield Finding(
            value=(best - 1) / survey.rate,
            threshold=SLOW_SECONDS,
            severity="warning",
            said=f"The state follows the actions only after {(best - 1) / survey.rate:.2f} s.",
        )


def _grippers(survey: Survey) -> Iterator[tuple[str, int, Dimension, np.ndarray]]:
    """Feature, place, dimension and all values (tick,) of each gripper."""
    for name, values, dimensions in (
        ("action", survey.reader.actions, survey.action_dimensions),
        ("state", survey.reader.state, survey.state_dimensions),
    ):
        for place, dimension in enumerate(dimensions):
            if dimension.kind == "gripper":
                yield name, place, dimension, values[:, place]


def gripper_range(survey: Survey) -> Iterator[Finding]:
    """Grippers that do not go from 0, open, to 1, closed."""
    for name, _, dimension, values in _grippers(survey):
        low, high = float(values.min()), float(values.max())
        over = max(high - 1, -low)
        narrow = 0 < high - low < GRIPPER_NARROW
        slack = GRIPPER_SLACK if name == "action" else MEASURED_SLACK  # fingers overshoot and bend
        if over > slack or narrow:
            yield Finding(
                dimension=f"{name} {dimension.name}",
                value=over if over > slack else high - low,
                threshold=slack if over > slack else GRIPPER_NARROW,
                severity="warning" if narrow and name == "state" else "error",
                said=f"{dimension.name} goes from {low:.3g} to {high:.3g}, {_guess(low, high)}; "
                "a gripper is 0 open to 1 closed.",
            )


def _guess(low: float, high: float) -> str:
    """What the range of a gripper looks like."""
    if low < -0.5:
        return "as if -1 and 1 were its ends"
    if high > 1.05:
        return "as if in percent or degrees" if high > 4 else "as if in radians"
    return "as if in meters"


def gripper_polarity(survey: Survey) -> Iterator[Finding]:
    """Grippers that close when told to open, or that are closed whenever an episode begins."""
    measured = [place for name, place, _, _ in _grippers(survey) if name == "state"]
    for number, (_, place, dimension, values) in enumerate(
        gripper for gripper in _grippers(survey) if gripper[0] == "action"
    ):
        if not survey.actions.moves[place]:
            continue
        if number < len(measured) and survey.state.moves[measured[number]]:
            follows = _follows(survey, place, measured[number])
            if follows < POLARITY_AGAINST:
                yield Finding(
                    dimension=f"action {dimension.name}",
                    value=follows,
                    threshold=POLARITY_AGAINST,
                    said=f"{dimension.name} and its measured state go against one another "
                    f"(correlation {follows:.2f}).",
                )
        middle = (float(values.min()) + float(values.max())) / 2
        closed = [float(np.median(values[entry.start :][: min(3, entry.length)])) > middle
                  for entry in survey.reader.episodes]  # fmt: skip
        if len(closed) > 1 and np.mean(closed) > POLARITY_SHARE:
            yield Finding(
                dimension=f"action {dimension.name}",
                value=float(np.mean(closed)),
                threshold=POLARITY_SHARE,
                severity="warning",
                said=f"{np.mean(closed):.0%} of the episodes begin with a closed gripper.",
            )


def _follows(survey: Survey, action: int, state: int) -> float:
    """The strongest correlation, of either sign, of a gripper with its command up to a second before."""
    found = [0.0]
    asked, measured = survey.reader.actions[:, action], survey.reader.state[:, state]
    for lag in range(1, max(2, round(survey.rate))):
        u, v = asked[:-lag] - asked.mean(), measured[lag:] - measured.mean()
        found.append(float(u @ v / max(np.sqrt((u @ u) * (v @ v)), 1e-12)))
    return max(found, key=abs)


def quaternions(dimensions: Sequence[Dimension]) -> list[tuple[str, list[int]]]:
    """Name and places of each four numbers in a row that are named as w, x, y, z of one quaternion."""
    letters = [_QUATERNION.fullmatch(dimension.name) for dimension in dimensions]
    found = []
    for first in range(len(dimensions) - 3):
        four = letters[first : first + 4]
        if all(four) and sorted(match[1].lower() for match in four if match) == list("wxyz"):
            found.append((dimensions[first].name[:-1].rstrip("_.- "), list(range(first, first + 4))))
    return found


def quaternion_norm(survey: Survey) -> Iterator[Finding]:
    """Quaternions of another length than one."""
    for episode in survey.excerpts():
        for name, values, _, dimensions in survey.features(episode):
            for title, places in quaternions(dimensions):
                off = np.abs(np.linalg.norm(values[:, places], axis=1) - 1)
                tick = int(off.argmax())
                if off[tick] > NORM_SLACK:
                    yield Finding(
                        episode=episode.index,
                        ticks=(tick, tick + 1),
                        dimension=f"{name} {dimensions[places[0]].name}",
                        value=float(off[tick]),
                        threshold=NORM_SLACK,
                        said=f"Quaternion {title} has a length that is off by {off[tick]:.2g}, "
                        f"at {(off > NORM_SLACK).mean():.0%} of the ticks by more than {NORM_SLACK}.",
                    )


def quaternion_flip(survey: Survey) -> Iterator[Finding]:
    """Quaternions that change their sign from one tick to the next: the same turn, far apart."""
    for episode in survey.excerpts():
        for name, values, _, dimensions in survey.features(episode):
            for title, places in quaternions(dimensions):
                four = values[:, places]
                along = (four[1:] * four[:-1]).sum(axis=1)
                flips = np.flatnonzero(along < 0)
                if len(flips):
                    tick = int(flips[0])
                    yield Finding(
                        episode=episode.index,
                        ticks=(tick, tick + 2),
                        dimension=f"{name} {dimensions[places[0]].name}",
                        value=float(along[tick]),
                        threshold=0.0,
                        said=f"Quaternion {title} changes its sign {len(flips)} "
                        f"time{'s' * (len(flips) > 1)} in this episode.",
                    )
