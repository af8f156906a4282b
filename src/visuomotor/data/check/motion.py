"""Checks of how an episode moves: idle ends, pauses, jumps, outliers, jerk, limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visuomotor.data.check.base import Excerpt, Finding, Survey, spreads

__all__ = [
    "angle_wrap",
    "constant",
    "idle_head",
    "idle_tail",
    "jerk",
    "jumps",
    "limits",
    "no_op",
    "odd_episode",
    "outliers",
    "pause",
    "roughness",
    "runs",
]

STILL = 0.02
"""Share of the width within which a robot stands still: above the noise of encoders, below any reach."""
SAME = 0.001
"""Share of the width below which a command is the one before, but for rounding."""
IDLE_SECONDS = 1.0
NO_OP_SHARE = 0.25
JUMP_STEPS, JUMP_WIDTH = 5.0, 0.5
SPIKE_STEPS, SPIKE_WIDTH, FAR_WIDTHS = 5.0, 0.25, 5.0
ODD_WIDTHS = 5.0
JERK_SPREADS, JERK_FACTOR, JERK_EPISODES = 6.0, 2.0, 8
LIMIT_SHARE, LIMIT_ERROR = 0.01, 0.10
_FULL_TURN = {"rad": 2 * np.pi, "deg": 360.0, "degree": 360.0, "degrees": 360.0}


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of each stretch of True in `mask` (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2])]


def idle_head(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """Nothing moves and nothing is asked at the beginning."""
    ticks = _still(survey, episode)
    yield from _idle(survey, episode, (0, ticks), "begins")


def idle_tail(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """Nothing moves and nothing is asked at the end."""
    ticks = _still(survey, episode, backward=True)
    yield from _idle(survey, episode, (len(episode) - ticks, len(episode)), "ends")


def _idle(survey: Survey, episode: Excerpt, ticks: tuple[int, int], how: str) -> Iterator[Finding]:
    seconds = (ticks[1] - ticks[0]) / survey.rate
    if seconds > IDLE_SECONDS:
        yield Finding(
            episode=episode.index,
            ticks=ticks,
            value=seconds,
            threshold=IDLE_SECONDS,
            said=f"The episode {how} with {seconds:.1f} s in which nothing moves and nothing is asked.",
        )


def _still(survey: Survey, episode: Excerpt, *, backward: bool = False) -> int:
    """Ticks at one end of an episode that stay within `STILL` of that end, state and actions."""
    still = np.ones(len(episode), bool)
    for name, values, scale, dimensions in survey.features(episode):
        ordered = values[::-1] if backward else values
        moves = np.array([name == "action" and d.kind.endswith("_delta") for d in dimensions])
        rest = np.where(moves, 0.0, ordered[0])  # an action that is a move rests at zero
        away = np.abs(ordered - rest) / scale.width
        still &= (away[:, scale.moves] <= STILL).all(axis=1)
    return len(episode) if still.all() else int(np.argmin(still))


def _asks_nothing(survey: Survey, episode: Excerpt) -> np.ndarray:
    """bool (tick,), whether the action of a tick changes nothing; never at the first tick."""
    scale = survey.actions
    deltas = np.array([dimension.kind.endswith("_delta") for dimension in survey.action_dimensions])
    change = np.abs(np.diff(episode.actions, axis=0, prepend=episode.actions[:1])) / scale.width
    size = np.abs(episode.actions) / scale.width
    nothing = np.where(deltas, size <= STILL / 2, change <= SAME)[:, scale.moves].all(axis=1)
    nothing[0] = False
    return nothing


def _inner_no_ops(survey: Survey, episode: Excerpt) -> np.ndarray:
    """`_asks_nothing` without idle ends, which are a finding of their own."""
    nothing = _asks_nothing(survey, episode)
    nothing[: _still(survey, episode)] = False
    nothing[len(nothing) - _still(survey, episode, backward=True) :] = False
    return nothing


def no_op(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """A large share of actions that change nothing."""
    share = float(_inner_no_ops(survey, episode).mean())
    if share > NO_OP_SHARE:
        yield Finding(
            episode=episode.index,
            value=share,
            threshold=NO_OP_SHARE,
            said=f"{share:.0%} of the actions ask for nothing new, idle ends not counted.",
        )


def pause(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """The longest stretch in the middle in which nothing is asked."""
    found = runs(_inner_no_ops(survey, episode))
    if not found:
        return
    first, last = max(found, key=lambda run: run[1] - run[0])
    seconds = (last - first) / survey.rate
    if seconds > IDLE_SECONDS:
        yield Finding(
            episode=episode.index,
            ticks=(first, last),
            value=seconds,
            threshold=IDLE_SECONDS,
            said=f"For {seconds:.1f} s in the middle of the episode the actions ask for nothing new.",
        )


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running median of five ticks: it removes spikes of up to two and keeps jumps sharp."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    return np.median(np.stack([padded[k : k + len(values)] for k in range(5)]), axis=0)


def jumps(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """A measured number that is elsewhere from one tick to the next, and stays there."""
    scale = survey.state
    if len(episode) < 3:
        return
    change = np.abs(np.diff(_smooth(episode.state), axis=0))
    bound = np.maximum(JUMP_STEPS * scale.step, JUMP_WIDTH * scale.width)
    for number, dimension in enumerate(survey.state_dimensions):
        tick = int(change[:, number].argmax())
        size = float(change[tick, number])
        jumped = scale.moves[number] and dimension.kind != "gripper" and size > bound[number]
        if jumped and not _turned(change[tick : tick + 1, number], dimension.unit).any():
            yield Finding(
                episode=episode.index,
                ticks=(tick, tick + 2),
                dimension=f"state {dimension.name}",
                value=size / scale.step[number],
                threshold=bound[number] / scale.step[number],
                said=f"{dimension.name} jumps by {size:.3g} within one tick, "
                f"{size / scale.step[number]:.0f} times a fast step of this data set.",
            )


def _turned(sizes: np.ndarray, unit: str) -> np.ndarray:
    """bool (n,), whether changes (n,) are full turns of an angle, within a tenth."""
    turn = _FULL_TURN.get(unit, np.inf)
    return np.abs(sizes - turn) < 0.1 * turn if np.isfinite(turn) else np.zeros(len(sizes), bool)


def angle_wrap(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """An angle that jumps by a full turn."""
    for name, values, scale, dimensions in survey.features(episode):
        change = np.abs(np.diff(values, axis=0))
        for number, dimension in enumerate(dimensions):
            turns = np.flatnonzero(_turned(change[:, number], dimension.unit)).tolist()
            if turns and scale.moves[number]:
                size = float(change[turns[0], number])
                yield Finding(
                    episode=episode.index,
                    ticks=(turns[0], turns[0] + 2),
                    dimension=f"{name} {dimension.name}",
                    value=size,
                    threshold=0.9 * _FULL_TURN[dimension.unit],
                    said=f"{dimension.name} jumps by a full turn ({size:.3g} {dimension.unit}), "
                    f"{len(turns)} time{'s' * (len(turns) > 1)} in this episode.",
                )


def outliers(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """Single values far from their neighbors, or, for moves, far from all others."""
    for name, values, scale, dimensions in survey.features(episode):
        spike = np.abs(values - _smooth(values))
        bound = np.maximum(SPIKE_STEPS * scale.step, SPIKE_WIDTH * scale.width)
        for number, dimension in enumerate(dimensions):
            if not scale.moves[number] or dimension.kind == "gripper":
                continue
            far, limit = spike[:, number], bound[number]
            if name == "action" and dimension.kind.endswith("_delta"):
                far = np.abs(values[:, number] - scale.median[number])
                limit = FAR_WIDTHS * scale.width[number]
                if np.isfinite([dimension.low, dimension.high]).all():
                    limit = max(limit, dimension.high - dimension.low)  # inside limits is never far
            tick = int(far.argmax())
            if far[tick] > limit:
                yield Finding(
                    episode=episode.index,
                    ticks=(tick, tick + 1),
                    dimension=f"{name} {dimension.name}",
                    value=far[tick] / scale.width[number],
                    threshold=limit / scale.width[number],
                    said=f"{dimension.name} is {values[tick, number]:.3g} at one tick, "
                    f"{far[tick] / scale.width[number]:.1f} times its usual range away.",
                )


def odd_episode(survey: Survey) -> Iterator[Finding]:
    """An episode whose values lie at another level than those of all others: other units, other zero."""
    episodes = list(survey.excerpts())
    if len(episodes) < JERK_EPISODES:
        return
    for name, dimensions in (("state", survey.state_dimensions), ("action", survey.action_dimensions)):
        scale = survey.state if name == "state" else survey.actions
        values = [episode.state if name == "state" else episode.actions for episode in episodes]
        middle = np.array([np.median(one, axis=0) for one in values])
        ends = np.array([np.quantile(one, [0.05, 0.95], axis=0) for one in values])  # episode end dimension
        usual = np.median(ends, axis=0)
        between = 1.4826 * np.median(np.abs(middle - np.median(middle, axis=0)), axis=0)
        width = np.maximum.reduce([usual[1] - usual[0], 3 * between, scale.width / 20])
        away = np.abs(middle - np.median(middle, axis=0)) / width
        for number, dimension in enumerate(dimensions):
            if not scale.moves[number] or dimension.kind == "gripper":
                continue
            for place in np.flatnonzero(away[:, number] > ODD_WIDTHS):
                yield Finding(
                    episode=episodes[place].index,
                    dimension=f"{name} {dimension.name}",
                    value=float(away[place, number]),
                    threshold=ODD_WIDTHS,
                    said=f"{dimension.name} lies around {middle[place, number]:.3g}, in the other episodes "
                    f"around {np.median(middle[:, number]):.3g}: "
                    f"{away[place, number]:.0f} times their range away.",
                )


def roughness(survey: Survey) -> np.ndarray:
    """(episode,) third differences of the state over its first ones: 0 is smooth, white noise 3.2."""
    found = []
    moves = survey.state.moves & np.array([d.kind != "gripper" for d in survey.state_dimensions])
    for episode in survey.excerpts():
        state = episode.state[:, moves] / survey.state.width[moves]
        speed = np.sqrt(np.square(np.diff(state, axis=0)).mean()) if state.size and len(state) > 3 else 0.0
        third = np.sqrt(np.square(np.diff(state, n=3, axis=0)).mean()) if speed > 0 else 0.0
        found.append(third / speed if speed > 0 else 0.0)
    return np.array(found)


def jerk(survey: Survey) -> Iterator[Finding]:
    """Episodes that shake more than the others."""
    rough = roughness(survey)
    if len(rough) < JERK_EPISODES:
        return
    usual, strange = np.median(rough), spreads(rough)
    for place in np.flatnonzero((strange > JERK_SPREADS) & (rough > JERK_FACTOR * usual)):
        yield Finding(
            episode=survey.reader.episodes[place].index,
            value=float(rough[place]),
            threshold=max(JERK_FACTOR, 1) * float(usual),
            said=f"The motion is {rough[place] / usual:.1f} times as jerky as in a usual episode.",
        )


def limits(survey: Survey, episode: Excerpt) -> Iterator[Finding]:
    """Values outside the limits that the spec states."""
    for name, values, _, dimensions in survey.features(episode):
        for number, dimension in enumerate(dimensions):
            span = dimension.high - dimension.low
            if not np.isfinite(span) or span <= 0 or dimension.kind == "gripper":
                continue  # grippers have a check of their own
            column = values[:, number]
            over = np.maximum(column - dimension.high, dimension.low - column) / span
            tick = int(over.argmax())
            if over[tick] > LIMIT_SHARE:
                outside = runs(over > LIMIT_SHARE)
                yield Finding(
                    episode=episode.index,
                    ticks=next(run for run in outside if run[0] <= tick < run[1]),
                    dimension=f"{name} {dimension.name}",
                    value=float(over[tick]),
                    threshold=LIMIT_SHARE,
                    severity="error" if over[tick] > LIMIT_ERROR else "warning",
                    said=f"{dimension.name} is {column[tick]:.4g}; the spec allows "
                    f"{dimension.low:.4g} to {dimension.high:.4g}.",
                )


def constant(survey: Survey) -> Iterator[Finding]:
    """Numbers that never change in the whole data set."""
    for name, scale, dimensions in (
        ("state", survey.state, survey.state_dimensions),
        ("action", survey.actions, survey.action_dimensions),
    ):
        for number in np.flatnonzero(~scale.moves).tolist():
            yield Finding(
                dimension=f"{name} {dimensions[number].name}",
                value=float(scale.median[number]),
                threshold=0.0,
                said=f"{dimensions[number].name} is {scale.median[number]:.4g} at every tick.",
            )
