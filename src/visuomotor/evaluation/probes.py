"""Questions to a policy beyond "does it succeed": does it listen, and to which words?

A probe plays the scenes of the main evaluation again with one thing changed, through nothing but the
reset options of the environment: another goal, another split of the sentences, no sentence. Equal
seeds make each probe a paired experiment, but for those whose split decides the scene. What a probe
needs from an environment is `goals()`, the names of all goals in the scene; the options "goal",
"split" and "instruction"; and the facts "goal" and "achieved".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visuomotor.errors import DataError, unknown_name
from visuomotor.evaluation.statistics import paired_difference, proportion
from visuomotor.rollout import Episode, Watch, rollout
from visuomotor.session import Session

__all__ = [
    "DEFAULT_PROBES",
    "MAIN",
    "PROBES",
    "Case",
    "Probe",
    "Trial",
    "check_probe",
    "count_failures",
    "play",
    "summarize",
]

MAIN = "main"
"""The part that is no probe: the plain evaluation."""

DEFAULT_PROBES = ("swap", "phrasing", "words", "blank")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One episode to be played.

    Attributes:
        part: "main" or the name of a probe.
        index: Place within its part.
        seed: Seed of scene and session.
        options: Reset options of the main evaluation; the probe changes its own.
    """

    part: str
    index: int
    seed: int
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One episode that was played.

    Attributes:
        part: "main" or the name of a probe.
        index: Place within its part.
        episode: How it went.
        goals: How many goals the scene has; None if the environment names none.
        former: What the unchanged sentence would have asked for (probe "swap").
    """

    part: str
    index: int
    episode: Episode
    goals: int | None = None
    former: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {**asdict(self), "episode": self.episode.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """Inverse of `to_json`."""
        try:
            return cls(**{**data, "episode": Episode.from_json(data["episode"])})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"trial: expected the keys that Trial.to_json writes, got a problem with {error}."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question, and how to put it.

    Attributes:
        title: A few words for a person.
        question: What it tells, in plain words, in one or two sentences.
        change: From the reset options of the scene, its goals, its goal and a generator, those of the probe.
        other_scenes: Equal seeds give other scenes than those of the main part, so that no pairs can be made.
    """

    title: str
    question: str
    change: Callable[[dict[str, Any], Sequence[str], str | None, np.random.Generator], dict[str, Any]]
    other_scenes: bool = False


def _swap(
    options: dict[str, Any], goals: Sequence[str], goal: str | None, generator: np.random.Generator
) -> dict[str, Any]:
    others = [name for name in goals if name != goal]
    if goal is None or not others:
        raise ValueError(
            "probe 'swap': expected a scene with at least two goals. Leave out this probe (probes=...)."
        )
    return {**options, "goal": others[int(generator.integers(len(others)))]}


def _split(name: str) -> Callable[..., dict[str, Any]]:
    return lambda options, *_: {**options, "split": name}


PROBES: dict[str, Probe] = {
    "swap": Probe(
        title="Another goal",
        question="The same scene, but the sentence now asks for something else in it. A robot that only "
        "repeats what the picture suggests would still do the old thing.",
        change=_swap,
    ),
    "phrasing": Probe(
        title="New phrasings",
        question="The same scenes and goals, said in sentence patterns that never occurred in training.",
        change=_split("phrasing"),
    ),
    "words": Probe(
        title="New words",
        question="The same scenes and goals, said with synonyms that never occurred in training.",
        change=_split("words"),
    ),
    "free": Probe(
        title="Free sentences",
        question="Sentences as people type them, which no grammar made, in scenes that hold what they name.",
        change=_split("free"),
        other_scenes=True,
    ),
    "blank": Probe(
        title="No sentence",
        question="The sentence is taken away. Nobody can know the goal now, so an honest result lies near "
        "chance; far above would mean that the picture gives the answer away.",
        change=lambda options, *_: {**options, "instruction": ""},
    ),
    "positions": Probe(
        title="New places",
        question="Objects and bowls stand where none stood in training.",
        change=_split("positions"),
        other_scenes=True,
    ),
    "pairs": Probe(
        title="New objects",
        question="Color and shape are combined as they never were in training.",
        change=_split("pairs"),
        other_scenes=True,
    ),
}


def _goals(env: Any) -> tuple[str, ...] | None:
    """The goals of the present scene, if the environment names them."""
    goals = getattr(env, "goals", None)
    return tuple(goals()) if callable(goals) else None


def check_probe(name: str) -> None:
    """Raise `ValueError` with the closest name if there is no such probe."""
    if name not in PROBES:
        raise unknown_name("probe", name, PROBES)


def play(env: Any, session: Session, case: Case, watch: Watch | None = None) -> Trial:
    """Play one case; equal cases give equal trials.

    Raises:
        ValueError: The environment lacks what the probe needs, or does not do what its options ask for.
    """
    options, former = dict(case.options), None
    goals: tuple[str, ...] = ()
    if case.part != MAIN:
        check_probe(case.part)
        if case.part == "swap":
            goals, former = _scene(env, case)
        # The second word keeps this stream apart from those of the scene and of the session.
        generator = np.random.default_rng([case.seed, 2])
        options = PROBES[case.part].change(options, goals, former, generator)
    episode = rollout(env, session, seed=case.seed, options=options, watch=watch)
    after = _goals(env)
    where = f"probe {case.part!r}, seed {case.seed}"
    if former is not None and (set(after or ()) != set(goals) or episode.goal != options["goal"]):
        raise ValueError(
            f"{where}: the option 'goal' must change the goal and nothing else in the scene. "
            f"Goal {options['goal']!r} was asked for, {episode.goal!r} came; "
            f"goals before: {sorted(goals)}, after: {sorted(after or ())}."
        )
    if episode.instruction != options.get("instruction", episode.instruction):
        raise ValueError(
            f"{where}: the environment ignored the option 'instruction': {options['instruction']!r} "
            f"was asked for, the robot read {episode.instruction!r}."
        )
    count = len(after) if after else None
    return Trial(part=case.part, index=case.index, episode=episode, goals=count, former=former)


def _scene(env: Any, case: Case) -> tuple[tuple[str, ...], str]:
    """All goals of the unchanged scene and the one that its sentence names."""
    env.reset(seed=case.seed, options=dict(case.options))
    goals, goal = _goals(env), getattr(env, "goal", None)
    if goals is None or goal is None:
        raise ValueError(
            f"probe {case.part!r} needs an environment with `goals()` and `goal`; "
            f"{type(env).__name__} has none. Leave out this probe (probes=...)."
        )
    return goals, goal


def summarize(part: str, trials: Sequence[Trial], main: Sequence[Trial]) -> dict[str, Any]:
    """The result of one probe as plain data.

    Args:
        part: Name of the probe.
        trials: Its trials.
        main: Trials of the main evaluation, for the paired difference on the scenes that both played.

    Returns:
        `rate`, `low`, `high`, `n`, `successes`, `title`, `question`, `failures` (reason to count) and
        `against_main` (see `Difference`; None without common scenes); for "swap" also `followed_old`; for
        "blank" also `chance`, the rate of a robot that knows the task and guesses the goal, mean of
        1 / (goals in the scene), and `overlaps_chance`.
    """
    episodes = [trial.episode for trial in trials]
    result: dict[str, Any] = {
        **proportion(sum(episode.success for episode in episodes), len(episodes)).to_json(),
        "title": PROBES[part].title,
        "question": PROBES[part].question,
        "failures": count_failures(episodes),
    }
    outcomes = {trial.episode.seed: trial.episode.success for trial in main}
    common = [episode for episode in episodes if episode.seed in outcomes]
    result["against_main"] = None
    if common and not PROBES[part].other_scenes:
        before = [outcomes[episode.seed] for episode in common]
        result["against_main"] = paired_difference(before, [episode.success for episode in common]).to_json()
    if part == "swap":
        result["followed_old"] = sum(trial.episode.achieved == trial.former for trial in trials)
    if part == "blank":
        scenes = [trial.goals for trial in trials if trial.goals]
        result["chance"] = float(np.mean([1 / goals for goals in scenes])) if scenes else None
        result["overlaps_chance"] = None
        if scenes:
            result["overlaps_chance"] = bool(result["low"] <= result["chance"] <= result["high"])
    return result


def count_failures(episodes: Sequence[Episode]) -> dict[str, int]:
    """Failure reason to number of episodes, most frequent first."""
    counts: dict[str, int] = {}
    for episode in episodes:
        if not episode.success:
            reason = episode.failure or "unknown"
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
