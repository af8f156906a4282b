"""How fast the table top runs on one core, and how often its expert succeeds.

    ./run bench tabletop [--task put_in_drawer] [--rounds 7] [--episodes 200] [--seed 5000]

Speed is that of one task, by default one with chests, drawers and buttons; success is that of all tasks.

Speed is ticks a second of CPU time, the median of interleaved rounds; wall time stands beside it and
is lower when the machine is busy. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.layout import sample_layout
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.tasks import SUITES, TASKS
from visuomotor.evaluation.statistics import wilson
from visuomotor.experts.tabletop import TabletopExpert

EPISODES_A_ROUND = 8


def record(task: str, seeds: range) -> list[tuple[int, list[np.ndarray]]]:
    """Seeds with the expert's actions, so that physics can be played without the expert."""
    env, expert = TabletopEnv(task=task, cameras={}), TabletopExpert()
    recorded = []
    for seed in seeds:
        env.reset(seed=seed)
        actions = []
        while True:
            actions.append(expert(env))
            if env.step(actions[-1]).done:
                break
        recorded.append((seed, actions))
    return recorded


def seconds(work: Callable[[], int]) -> tuple[float, float]:
    """Units of work a second of CPU time and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return count / (time.process_time() - cpu), count / (time.perf_counter() - wall)


def measure_speed(task: str, rounds: int, seed: int) -> dict[str, dict[str, float]]:
    """Ticks a second of three ways of playing the same episodes, rounds interleaved."""
    env, expert = TabletopEnv(task=task), TabletopExpert()
    episodes = record(task, range(seed, seed + EPISODES_A_ROUND))

    def play(with_expert: bool, with_views: bool) -> int:
        ticks = 0
        for episode, actions in episodes:
            env.reset(seed=episode)
            for action in actions:
                if with_views:
                    env.observe()
                env.step(expert(env) if with_expert else action)
                ticks += 1
        return ticks

    ways: dict[str, Callable[[], int]] = {
        "physics": lambda: play(False, False),
        "physics + expert": lambda: play(True, False),
        "physics + expert + views": lambda: play(True, True),
    }
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):  # the first round warms up
        for way, work in ways.items():
            measured[way].append(seconds(work))
    return {
        way: {
            "cpu": statistics.median(cpu for cpu, _ in speeds[1:]),
            "wall": statistics.median(wall for _, wall in speeds[1:]),
        }
        for way, speeds in measured.items()
    }


def milliseconds(work: Callable[[], Any], count: int) -> float:
    """Median CPU time of one call."""
    spent = []
    for _ in range(count):
        start = time.process_time()
        work()
        spent.append(1e3 * (time.process_time() - start))
    return statistics.median(spent)


def measure_parts(task: str, seed: int) -> dict[str, float]:
    """CPU milliseconds of building a model, resetting an episode and drawing each view."""
    env, bare = TabletopEnv(task=task), TabletopEnv(task=task, cameras={})
    env.reset(seed=seed)
    seeds = iter(range(seed, seed + 10_000))
    layout = sample_layout(seed, task=task)
    shapes = tuple(sorted(thing.shape for thing in layout.objects))
    kinds = [fixture.kind for fixture in layout.fixtures]
    for warm in range(seed, seed + 200):  # so that the models are compiled
        bare.reset(seed=warm)
    return {
        "build": milliseconds(lambda: Scene(env.body, shapes, kinds), 15),
        "reset": milliseconds(lambda: bare.reset(seed=next(seeds)), 100),
        **{
            f"view {name}": milliseconds(lambda name=name: env.observe([name]), 100)
            for name in env.body.views()
        },
    }


def disturbance(seed: int, hands: int = 1, fine: float = 1.0) -> Callable[[int, np.ndarray], np.ndarray]:
    """Random actions of all hands for 10 to 25 ticks somewhere in the first three seconds.

    With `fine` as many ticks for one they are as long in seconds, and as large in a second.
    """
    generator = np.random.default_rng([seed, 1])
    start, length = int(generator.integers(0, 28) * fine), int(generator.integers(10, 26) * fine)
    limit = np.tile(np.array([0.06] * 3 + [0.3] * 3) / fine, (hands, 1))
    grips = np.zeros(hands)

    def change(tick: int, action: np.ndarray) -> np.ndarray:
        if not start <= tick < start + length:
            return action
        for hand in range(hands):
            if generator.random() < 0.25 / fine:
                grips[hand] = float(generator.random() < 0.5)
        return np.column_stack([generator.uniform(-limit, limit), grips]).ravel()

    return change


def measure_expert(task: str, episodes: int, seed: int, disturbed: bool) -> dict[str, Any]:
    """Success of the expert with its Wilson interval, length of successes, and what went wrong."""
    env, expert = TabletopEnv(task=task, cameras={}, max_ticks=TASKS[task].ticks + 50), TabletopExpert()
    lengths, failures, hopeless = [], Counter[str](), 0
    for number in range(seed, seed + episodes):
        env.reset(seed=number)
        change = disturbance(number)
        for tick in range(env.max_ticks):
            meant = expert(env)
            done = change(tick, meant) if disturbed else meant
            status = env.step(done)
            if status.done:
                break
        if status.success:
            lengths.append(tick + 1)
        else:
            failures[str(status.failure)] += 1
            hopeless += done is not meant
    low, high = wilson(len(lengths), episodes)
    return {
        "rate": len(lengths) / episodes,
        "low": low,
        "high": high,
        "n": episodes,
        "ticks": statistics.mean(lengths) if lengths else None,
        "failures": dict(failures),
        "ended_by_random_actions": hopeless,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=SUITES["whole"], default="put_in_drawer", help="task of the speeds")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the speed measurement")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of the expert for each row")
    parser.add_argument("--seed", type=int, default=5000, help="first seed")
    arguments = parser.parse_args()

    speed = measure_speed(arguments.task, arguments.rounds, arguments.seed)
    print(f"{'ticks a second on one core':36}{'CPU time':>10}{'wall time':>11}")
    for way, values in speed.items():
        print(f"  {way:34}{values['cpu']:10.0f}{values['wall']:11.0f}")

    parts = measure_parts(arguments.task, arguments.seed)
    print(f"\n{'milliseconds':36}{'CPU time':>10}")
    for part, value in parts.items():
        print(f"  {part:34}{value:10.2f}")

    print(f"\n{'expert':36}{'success':>10}{'95 % interval':>18}{'ticks':>8}  failures")
    expert = {}
    for task in SUITES["whole"]:
        for disturbed in (False, True):
            row = f"{task}, {'after random actions' if disturbed else 'from the start'}"
            expert[row] = result = measure_expert(task, arguments.episodes, arguments.seed, disturbed)
            interval = f"{100 * result['low']:.1f} to {100 * result['high']:.1f}"
            failures = ", ".join(f"{count} {name}" for name, count in result["failures"].items()) or "none"
            ticks = result["ticks"] or float("nan")
            hopeless = result["ended_by_random_actions"]
            ended = f", {hopeless} of them by the random actions themselves" if hopeless else ""
            print(f"  {row:34}{100 * result['rate']:10.1f}{interval:>18}{ticks:8.1f}  {failures}{ended}")

    print(
        json.dumps(
            {
                "benchmark": "tabletop",
                "ticks_per_second": speed,
                "milliseconds": parts,
                "expert": expert,
                "task": arguments.task,
                "rounds": arguments.rounds,
                "seed": arguments.seed,
                "versions": {"mujoco": mujoco.__version__, "numpy": np.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
