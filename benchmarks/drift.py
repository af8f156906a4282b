"""Drift: how the cost of imitation grows with the length of an episode, and what the bounds say.

    ./run bench drift [--out outputs/drift] [--seeds 3] [--episodes 200]

The world is the one that the bounds are made of (Ross and Bagnell 2010; Ross, Gordon and Bagnell 2011): a
track on which every tick asks for left or right, seen through noise, so that any driver errs at some ticks.
An error leaves the track. Beside it each tick costs 1 until one backs up, which no demonstration shows, since
the expert never leaves the track. The side may change every 8 ticks. Who learns:

    bc           `bc` with an MLP and the squared error, from demonstrations alone
    bc, chunks   the same with chunks of 8 actions, all executed: one look in 8 ticks
    dagger       the same as `bc`, from `visuomotor.training.dagger`, with as many episodes in all

The cost of an episode of T ticks is how many of them end beside the track. Worlds and policies do not know T,
so the first T ticks of a long episode are an episode of length T. The bounds, for an expert without cost:

    bc           eps T^2      eps: share of wrong actions where the expert goes; theorem 2.1 of theirs
    bc, chunks   eps T^2 / 8  eps: share of chunks with a wrong action there; the same with T / 8 looks that
                              cost up to 8 ticks each
    dagger       u eps T      eps: share of wrong actions where the learner goes; theorem 3.2 without its
                              lower terms; u = 1, for an expert who takes over is back after one tick

and the exact costs, if errors are independent and `bc` never backs up: after k looks one is beside the track
with 1 - (1 - eps)^k; who backs up is there with eps / (1 + eps) in the long run. Slopes are fitted by
least squares to log J over log T; intervals are 2.5 and 97.5 % of 2000 bootstraps over episodes.

What is finished stays in OUT, and the same command goes on. The last line of the output is one JSON object,
as in OUT/drift.json; table and figure lie beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import Line, Panel, figure, log_plot

from visuomotor.envs.base import Status
from visuomotor.evaluation.runner import evaluate
from visuomotor.evaluation.statistics import proportion
from visuomotor.experts.collect import Collection
from visuomotor.experts.disturbance import Noise
from visuomotor.policies.bc import BCConfig
from visuomotor.rollout import plain
from visuomotor.training.dagger import DaggerConfig, dagger
from visuomotor.training.loop import TrainConfig
from visuomotor.types import Dimension, Observation, Spec

STRETCH = 8  # ticks with the same side
BLUR = 0.36  # of the sign, whose two values are -1 and 1: a look at it errs with 0.27 %
SWAY = 0.2  # of the place on the track, and beside it
BESIDE = 1.5  # where one is, once the track is left

# --- the world


class Track:
    """Stay on a track of T ticks; see the top of this file."""

    def __init__(self, *, task: str = "track", ticks: int = 128) -> None:
        self.task, self.ticks = task, ticks
        self.spec = Spec(
            embodiment="driver",
            cameras=(),
            state=(Dimension(name="place"), Dimension(name="sign"), Dimension(name="since")),
            action=(
                Dimension(name="steer", kind="joint", low=-1.0, high=1.0),
                Dimension(name="back", kind="joint", low=-1.0, high=1.0),
            ),
            rate=10.0,
        )

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        """On the track, with sides, sway and blur drawn from the seed."""
        generator = np.random.default_rng(seed)
        count = -(-self.ticks // STRETCH)
        self.sides = np.repeat(np.where(generator.random(count) < 0.5, -1.0, 1.0), STRETCH)
        self.blur = BLUR * generator.standard_normal(len(self.sides) + 1)
        self.sway = SWAY * generator.standard_normal(len(self.sides) + 1)
        self.tick, self.off = 0, False
        self.costs: list[int] = []
        self.errors: list[int] = []
        return self.observe()

    @property
    def side(self) -> float:
        """Where the track turns at this tick."""
        return float(self.sides[min(self.tick, len(self.sides) - 1)])

    def step(self, action: np.ndarray) -> Status:
        """One tick: on the track a wrong turn leaves it, beside it only backing up leads there again."""
        right = float(action[1]) > 0 if self.off else float(action[0]) * self.side > 0
        if not right:
            self.errors.append(self.tick)
        self.off = not right
        self.costs += [self.tick] if self.off else []
        self.tick += 1
        done = self.tick >= self.ticks
        success = done and not self.costs
        return Status(
            success=success,
            done=done,
            progress=1.0 if success else 0.999 * (1 - len(self.costs) / self.ticks),
            failure="left the track" if done and not success else None,
            facts={"costs": list(self.costs), "errors": list(self.errors)} if done else {},
        )

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        """Where one is across the track, a blurred look at the sign, and how long it has stood."""
        place = self.sway[self.tick] + (BESIDE if self.off else 0.0)
        sign = self.side + self.blur[self.tick]
        return Observation(
            images={},
            state=np.array([[place, sign, self.tick % STRETCH / STRETCH]], np.float32),
            instruction="stay on the track",
            embodiment="driver",
            time=self.tick / self.spec.rate,
        )

    def snapshot(self) -> bytes:
        """What a tick changes; sides, sway and blur are those of the last reset."""
        return json.dumps([self.tick, self.off, self.costs, self.errors]).encode()

    def restore(self, snapshot: bytes) -> None:
        """Back to a snapshot of this episode."""
        self.tick, self.off, self.costs, self.errors = json.loads(snapshot)

    def close(self) -> None:
        """Nothing is held."""


class Driver:
    """Sees the true side; backs up when it is beside the track."""

    def __call__(self, env: Track) -> np.ndarray:
        """What to do now."""
        return np.array([0.0, 1.0] if env.off else [env.side, -1.0], np.float32)


# --- the learners


@dataclass(frozen=True)
class Learner:
    """One way of learning: horizon of its chunks, all of which is executed, and rounds of DAgger."""

    name: str
    horizon: int
    rounds: int

    @property
    def recovers(self) -> bool:
        """Whether it was ever shown how."""
        return self.rounds > 1


LEARNERS = (Learner("bc", 1, 1), Learner("bc, chunks", STRETCH, 1), Learner("dagger", 1, 4))


def learn(learner: Learner, folder: Path, seed: int, arguments: argparse.Namespace) -> Path:
    """Folder of the policy that did best in validation; equal numbers of episodes and steps for all."""
    each = arguments.demonstrations // max(learner.rounds, 1)
    still = Noise(meters=0, radians=0, push_chance=0, slip_chance=0, stray_chance=0)
    report = dagger(
        folder,
        job=Collection(
            env="drift:Track",
            task="track",
            expert="drift:Driver",
            env_options={"ticks": arguments.train_ticks},
            noise=still,
            phrasings=1,
            seed=seed,
        ),
        policy="bc",
        policy_config=BCConfig(
            head="mse", vision="none", layers=(64, 64), bounded=False, horizon=learner.horizon
        ),
        training=TrainConfig(
            steps=arguments.steps,
            batch_size=128,
            learning_rate=2e-3,
            warmup=20,
            ema_decay=0.99,
            seed=seed,
            save_every=10**6,
        ),
        config=DaggerConfig(
            rounds=learner.rounds,
            demonstrations=arguments.demonstrations - (learner.rounds - 1) * each,
            episodes=each,
            validation=40 if learner.rounds > 1 else 1,
            executor="open_loop",
        ),
        workers=0,
    )
    return report.policy


def play(learner: Learner, folder: Path, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Costs and errors of each episode: at which ticks."""
    policy = learn(learner, folder / "run", seed, arguments)
    played = evaluate(
        policy,
        env="drift:Track",
        env_options={"ticks": max(arguments.lengths)},
        episodes=arguments.episodes,
        probes=(),
        seed_offset=seed * arguments.episodes,
        executor="open_loop",
        workers=0,
        out=folder / "evaluation",
        videos=0,
        timed=1,
    )
    return [dict(trial.episode.facts) for trial in played.trials]


# --- the numbers


def costs_of(episodes: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> np.ndarray:
    """Cost (episode, length) of the first T ticks of each episode."""
    return np.array(
        [[sum(tick < length for tick in row["costs"]) for length in lengths] for row in episodes], np.float64
    )


def error_where_the_expert_goes(
    episodes: Sequence[Mapping[str, Any]], length: int, every: int
) -> dict[str, Any]:
    """Share of looks, one in `every` ticks, with a wrong action, until the first one of an episode.

    After it the learner is where the expert never was.
    """
    wrong = looks = 0
    for row in episodes:
        first = min(row["errors"], default=None)
        wrong += first is not None
        looks += -(-length // every) if first is None else first // every + 1
    return proportion(wrong, looks).to_json()


def error_where_the_learner_goes(episodes: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Share of wrong actions at all ticks."""
    return proportion(sum(len(row["errors"]) for row in episodes), len(episodes) * length).to_json()


def exact(error: float, length: int, *, every: int = 1, recovers: bool = False) -> float:
    """Expected cost of T ticks if each look errs with `error`, and one backs up at once or never."""
    on, cost = 1.0, 0.0
    for tick in range(length):
        if recovers:
            on = on * (1 - error) + (1 - on)
        elif tick % every == 0:
            on *= 1 - error
        cost += 1 - on
    return cost


def bound(error: float, length: int, learner: Learner) -> float:
    """u eps T with u = 1 for DAgger, else eps T^2 divided by the length of a chunk."""
    return error * length if learner.recovers else error * length**2 / learner.horizon


def slope(costs: np.ndarray, lengths: Sequence[int]) -> float:
    """Of log J over log T, by least squares; NaN if a length has no cost at all."""
    means = costs.mean(0)
    if (means <= 0).any():
        return float("nan")
    return float(np.polyfit(np.log(np.array(lengths, np.float64)), np.log(means), 1)[0])


def summary(
    learner: Learner, episodes: Sequence[Mapping[str, Any]], lengths: Sequence[int], *, draws: int = 2000
) -> dict[str, Any]:
    """Costs with intervals, fitted slope, error, bounds and exact costs of one learner."""
    costs, generator = costs_of(episodes, lengths), np.random.default_rng(0)
    picks = generator.integers(len(costs), size=(draws, len(costs)))
    again = np.array([costs[pick].mean(0) for pick in picks])
    slopes = np.array([slope(costs[pick], lengths) for pick in picks[:500]])
    error = (
        error_where_the_learner_goes(episodes, max(lengths))
        if learner.recovers
        else error_where_the_expert_goes(episodes, max(lengths), learner.horizon)
    )
    rate = error["rate"]
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    ends = np.nanquantile(slopes, [0.025, 0.975]) if np.isfinite(slopes).any() else (np.nan, np.nan)
    return {
        "learner": learner.name,
        "n": len(costs),
        "error": error,
        "lengths": list(lengths),
        "cost": costs.mean(0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "slope": [slope(costs, lengths), float(ends[0]), float(ends[1])],
        "bound": [bound(rate, length, learner) for length in lengths],
        "exact": [
            exact(rate, length, every=learner.horizon, recovers=learner.recovers) for length in lengths
        ],
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown."""
    lengths = lines[0]["lengths"]
    head = ["learner", "eps, % (95 %)", *(f"J({length})" for length in lengths), "slope (95 %)"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for line in lines:
        error, fitted = line["error"], line["slope"]
        cells = [f"`{line['learner']}`"]
        cells.append(f"{100 * error['rate']:.2f} ({100 * error['low']:.2f} to {100 * error['high']:.2f})")
        cells += [
            f"{cost:.3g} ({low:.2g} to {high:.2g})"
            for cost, low, high in zip(line["cost"], line["low"], line["high"], strict=True)
        ]
        cells.append(f"{fitted[0]:.2f} ({fitted[1]:.2f} to {fitted[2]:.2f})")
        rows.append("| " + " | ".join(cells) + " |")
        for name in ("bound", "exact"):
            own = np.polyfit(np.log(lengths), np.log(line[name]), 1)[0] if error["rate"] > 0 else np.nan
            numbers = " | ".join(f"{value:.3g}" for value in line[name])
            rows.append(f"| {name} for this eps | | {numbers} | {own:.2f} |")
    return "\n".join(rows) + "\n"


def picture(lines: Sequence[Mapping[str, Any]]) -> str:
    """Costs over T with their intervals, and the bounds."""
    drawn: list[Line] = []
    for number, line in enumerate(lines):
        rows = zip(line["lengths"], line["cost"], line["low"], line["high"], strict=True)
        points = [(length, cost, max(low, 1e-3), high) for length, cost, low, high in rows if cost > 0]
        drawn.append(Line(name=line["learner"], points=points, like=number))
    for number, line in enumerate(lines):
        known = zip(line["lengths"], line["bound"], strict=True)
        points = [(length, value, value, value) for length, value in known if value > 0]
        drawn.append(Line(name=f"bound, {line['learner']}", points=points, thin=True, like=number))
    said = "Cost over the length of an episode, both logarithmic. " + " ".join(
        f"{line['learner']}: slope {line['slope'][0]:.2f}." for line in lines
    )
    body = log_plot(
        [line for line in drawn if line.points],
        width=620,
        height=380,
        across="ticks of an episode, T",
        up="cost J",
    )
    return figure([Panel(title="", body=body)], said=said, width=620, height=380, columns=1)


def measure(arguments: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train and play what is left, and write table and figure."""
    folder = Path(arguments.out)
    played: dict[Learner, list[dict[str, Any]]] = {learner: [] for learner in LEARNERS}
    for seed in range(arguments.seeds):
        for learner, episodes in played.items():
            place = folder / f"{learner.name.replace(', ', '-')}-{seed}"
            episodes += play(learner, place, seed, arguments)
            say(f"{learner.name}, seed {seed}: {len(episodes)} episodes")
    lines = [summary(learner, episodes, arguments.lengths) for learner, episodes in played.items()]
    report = plain({**vars(arguments), "learners": lines})
    (folder / "drift.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "drift.md").write_text(table(lines))
    (folder / "drift.svg").write_text(picture(lines))
    say(table(lines))
    return report


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="outputs/drift", help="folder; what was stopped goes on")
    words.add_argument("--seeds", type=int, default=3, help="trainings of each learner")
    words.add_argument("--episodes", type=int, default=200, help="episodes of each training")
    words.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="T, in ticks")
    words.add_argument(
        "--demonstrations", type=int, default=120, help="episodes to learn from, of all rounds"
    )
    words.add_argument("--train-ticks", type=int, default=64, help="length of these episodes")
    words.add_argument("--steps", type=int, default=600, help="optimizer steps of each training")
    return words


def main() -> None:
    """Measure, and print the report."""
    print(json.dumps(measure(parser().parse_args())))


if __name__ == "__main__":
    main()
