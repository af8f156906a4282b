"""Chunking and delay: success, jerk and reaction time of every executor, with slower and slower inference.

    ./run bench delay outputs/demo/policy [--out outputs/delay] [--episodes 40] [--latencies 0 0.1 0.2 0.4]
    ./run bench delay outputs/demo/policy --horizons 8 16 --executes 2 4 8 --executors real_time open_loop

Every arm is an executor, a horizon (chunks cut to it), executed actions and a delay on the session's
clock; all arms play the same scenes. Each scene is played twice: as it is, and with the thing that the
sentence names moved by 8 cm after `--at` seconds. Measured are

    success    of the undisturbed episode, with its Wilson interval;
    jerk       root mean square of the third difference of the commanded positions of an undisturbed episode,
               times rate^3 (m/s3 for hands, else rad/s3; deltas are added up): median with its interval;
    reaction   ticks from the move to the first command that differs from the undisturbed one by more than
               5 % of the range of a dimension: median with its interval, and how often there was none;
    holds      ticks an episode at which no action was known;
    stale      ticks an episode whose action is of an older chunk than the one on its way.

`trained_real_time` keeps promised actions exactly if the policy was trained for it; another policy is steered
towards them. Finished episodes are lines of OUT/episodes.jsonl, and the same command goes on where it was
stopped. The last line of the output is one JSON object, as in OUT/delay.json; the table is OUT/delay.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from visuomotor.agent.base import Agent
from visuomotor.envs.base import Status
from visuomotor.evaluation.origin import read_origin
from visuomotor.evaluation.pool import Pool, available_cores
from visuomotor.evaluation.runner import seeds_of
from visuomotor.evaluation.setup import Setup, Station, is_folder
from visuomotor.evaluation.statistics import bootstrap_median, proportion
from visuomotor.executors import default_execute
from visuomotor.rollout import plain, rollout
from visuomotor.types import Chunk, Observation, Spec

EXECUTORS = (
    "open_loop",
    "receding_horizon",
    "temporal_ensemble",
    "asynchronous",
    "real_time",
    "trained_real_time",
)
FIXED = ("open_loop", "temporal_ensemble")
"""Executors whose executed length is no choice here: all, and one."""
MOVE = 0.08  # meters on the table of a layout
FELT = 0.05  # of the range of a dimension


@dataclass(frozen=True)
class Arm:
    """One way of acting."""

    executor: str
    horizon: int
    execute: int
    latency: float


class Cut:
    """An agent whose chunks are cut to a horizon."""

    def __init__(self, agent: Agent, horizon: int) -> None:
        self.agent, self.spec = agent, agent.spec
        self.window = replace(agent.window, horizon=horizon)

    def act(self, observation: Observation, **asked: Any) -> Chunk:
        """The first actions of the chunk."""
        chunk, horizon = self.agent.act(observation, **asked), self.window.horizon
        mask = None if chunk.mask is None else chunk.mask[:horizon]
        return replace(chunk, actions=chunk.actions[:horizon], mask=mask)

    def think(self, observation: Observation, **asked: Any) -> Any:
        """The slow part of the agent."""
        return self.agent.think(observation, **asked)


class Watched:
    """An environment that keeps its actions, changes the scene at a tick, and may end before it is over."""

    def __init__(self, env: Any, *, at: int | None = None, end: int | None = None) -> None:
        self.env, self.at, self.end = env, at, end
        self.actions: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, action: np.ndarray) -> Status:
        """A tick, after which the scene may change."""
        status = self.env.step(action)
        self.actions.append(np.array(action))
        if len(self.actions) == self.at:
            change(self.env)
        return replace(status, done=True) if len(self.actions) == self.end else status


def change(env: Any) -> None:
    """Move what the sentence names: `env.change()` if there is one, else the thing of a table top."""
    if hasattr(env, "change"):
        env.change()
        return
    scene, number = env.scene, env.wanted.object
    place = scene.place(number)
    model, data, here = scene.model, scene.data, scene.to_base(place)
    for address in model.jnt_qposadr[model.jnt_type == 0]:  # free joints
        if np.allclose(data.qpos[address : address + 3], here):
            aside = place + np.array([0.0, -MOVE if place[1] > 0 else MOVE, 0.0])
            data.qpos[address : address + 3] = scene.to_base(aside)
            mujoco.mj_kinematics(model, data)
            return
    raise RuntimeError("no free joint is where the thing is.")


@dataclass(frozen=True)
class Play:
    """The task of a worker: one scene with one arm, undisturbed and disturbed."""

    arm: Arm
    seed: int
    setup: Setup
    at: float
    within: float

    def __call__(self, station: Station) -> dict[str, Any]:
        """Play both."""
        agent = Cut(station.session.agent, self.arm.horizon)
        arm, rate = self.arm, agent.spec.rate
        execute = None if arm.executor in FIXED else arm.execute
        setup = replace(self.setup, executor=arm.executor, execute=execute, latency=arm.latency)
        calm = Watched(station.env)
        session = setup.session(agent)
        episode = rollout(calm, session, seed=self.seed)
        at = round(self.at * rate)
        row = {
            "success": episode.success,
            "ticks": episode.ticks,
            "holds": episode.holds,
            "stale": episode.stale,
            "jerk": jerk(np.array(calm.actions), agent.spec),
            "reaction": None,
            "moved": episode.ticks > at,
        }
        if episode.ticks > at:
            moved = Watched(station.env, at=at, end=at + round(self.within * rate))
            rollout(moved, setup.session(agent), seed=self.seed)
            row["reaction"] = reaction(calm.actions, moved.actions, at, agent.spec)
        return row


def jerk(actions: np.ndarray, spec: Spec) -> float | None:
    """RMS of the third difference of commanded positions a second^3, over ticks and dimensions."""
    for unit in ("m", "rad"):
        columns = [i for i, d in enumerate(spec.action) if d.unit == unit and d.kind != "gripper"]
        if columns:
            break
    else:
        columns = [i for i, d in enumerate(spec.action) if d.kind != "gripper"]
    places = actions[:, columns].astype(np.float64)
    added = np.array([spec.action[i].kind.endswith("_delta") for i in columns])
    places[:, added] = np.cumsum(places[:, added], axis=0)
    if len(places) < 4 or not columns:
        return None
    return float(np.sqrt(np.square(np.diff(places, n=3, axis=0)).mean()) * spec.rate**3)


def reaction(calm: Sequence[np.ndarray], moved: Sequence[np.ndarray], at: int, spec: Spec) -> int | None:
    """Ticks from the change to a command that differs; None if none does."""
    ranges = np.array([d.high - d.low for d in spec.action])
    ranges = np.where(np.isfinite(ranges), ranges, np.ptp(np.array(calm), axis=0) + 1e-9)
    for tick in range(at, min(len(calm), len(moved))):
        if (np.abs(calm[tick] - moved[tick]) > FELT * ranges).any():
            return tick - at
    return None


def arms_of(arguments: argparse.Namespace, horizon: int) -> list[Arm]:
    """Every combination that is one; the same arm once."""
    found: dict[Arm, None] = {}
    for length in arguments.horizons or [horizon]:
        if not 1 <= length <= horizon:
            raise SystemExit(f"delay: horizons lie between 1 and the policy's {horizon}, got {length}.")
        for name in arguments.executors:
            usual = [default_execute(name, length)]
            for execute in usual if name in FIXED else arguments.executes or usual:
                if execute <= length:
                    found |= {Arm(name, length, execute, latency): None for latency in arguments.latencies}
    return list(found)


def journal(path: Path, header: Mapping[str, Any]) -> dict[tuple[Arm, int], dict[str, Any]]:
    """Finished rows of the same measurement; begins the file if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n")
        return {}
    whole = path.read_text()
    lines = whole[: whole.rfind("\n") + 1].splitlines()  # what a crash cut off is played again
    if not lines or json.loads(lines[0]) != header:
        raise SystemExit(f"{path}: holds another measurement. Choose another --out.")
    path.write_text("".join(line + "\n" for line in lines))
    rows = [json.loads(line) for line in lines[1:]]
    return {(Arm(**row["arm"]), row["seed"]): row for row in rows}


def summary(arm: Arm, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line of the table."""

    def median(name: str) -> dict[str, float] | None:
        values = [row[name] for row in rows if row[name] is not None]
        if not values:
            return None
        middle, low, high = bootstrap_median(values, generator=np.random.default_rng(0))
        return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}

    success = proportion(sum(row["success"] for row in rows), len(rows))
    moved = [row for row in rows if row["moved"]]
    return {
        **asdict(arm),
        "success": {"rate": success.rate, "low": success.low, "high": success.high, "n": success.n},
        "jerk": median("jerk"),
        "reaction": median("reaction"),
        "no_reaction": sum(row["reaction"] is None for row in moved),
        "moved": len(moved),
        "ticks": statistics.mean(row["ticks"] for row in rows),
        "holds": statistics.mean(row["holds"] for row in rows),
        "stale": statistics.mean(row["stale"] for row in rows),
    }


def table(lines: Sequence[Mapping[str, Any]], rate: float) -> str:
    """The lines as Markdown."""

    def span(value: Mapping[str, float] | None, form: str, factor: float = 1) -> str:
        if value is None:
            return "none"
        middle, low, high = (factor * value[name] for name in ("median", "low", "high"))
        return f"{middle:{form}} ({low:{form}} to {high:{form}})"

    rows = [
        f"| executor | horizon | executed | delay, ms | success, % | jerk | reaction, ticks at {rate:g} Hz "
        "| no reaction | holds | stale |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rate_of = line["success"]
        success = {"median": rate_of["rate"], **rate_of}
        rows.append(
            f"| `{line['executor']}` | {line['horizon']} | {line['execute']} | {1000 * line['latency']:.0f} "
            f"| {span(success, '.0f', 100)} | {span(line['jerk'], '.3g')} | {span(line['reaction'], 'g')} "
            f"| {line['no_reaction']} of {line['moved']} | {line['holds']:.1f} | {line['stale']:.1f} |"
        )
    return "\n".join(rows) + "\n"


def measure(arguments: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Play what is left to play, and write the table."""
    folder = is_folder(arguments.agent)
    origin = read_origin(arguments.agent, arguments.key) if folder else None
    setup = Setup(
        agent=arguments.agent,
        env=arguments.env or (origin and origin.env) or "tabletop",
        env_options=dict(origin.env_options) if origin is not None else {},
        key=arguments.key,
    )
    station = setup.build()
    horizon, rate = station.session.agent.window.horizon, station.session.spec.rate
    station.close()
    arms = arms_of(arguments, horizon)
    seeds = seeds_of(arguments.episodes, arguments.seed_offset)
    header = {
        "agent": arguments.agent,
        "weights": None if origin is None else origin.weights.get(f"{setup.weights}.safetensors"),
        "env": setup.env,
        "env_options": setup.env_options,
        "at": arguments.at,
        "within": arguments.within,
    }
    path = Path(arguments.out) / "episodes.jsonl"
    header = plain(header)
    done = journal(path, header)
    wanted = [(arm, seed) for seed in seeds for arm in arms]  # so that all arms grow alike
    todo = [pair for pair in wanted if pair not in done]

    def add(place: int, row: Mapping[str, Any]) -> None:
        arm, seed = todo[place]
        done[arm, seed] = {"arm": asdict(arm), "seed": seed, **row}
        with path.open("a") as file:
            file.write(json.dumps(done[arm, seed]) + "\n")
        if (len(wanted) - len(todo) + place + 1) % 50 == 0:
            say(f"{len(wanted) - len(todo) + place + 1} of {len(wanted)} episodes")

    workers = available_cores() if arguments.workers is None else arguments.workers
    with Pool(setup.build, min(workers, len(todo))) as pool:
        tasks = [Play(arm, seed, setup, arguments.at, arguments.within) for arm, seed in todo]
        pool.run(tasks, add)
    lines = [summary(arm, [done[arm, seed] for seed in seeds]) for arm in arms]
    named = {"agent": Path(arguments.agent).name} if folder else {}  # its weights are told by their hash
    report = plain(
        {**header, **named, "episodes": len(seeds), "first_seed": seeds[0], "rate": rate, "arms": lines}
    )
    (path.parent / "delay.json").write_text(json.dumps(report, indent=1) + "\n")
    (path.parent / "delay.md").write_text(table(lines, rate))
    say(table(lines, rate))
    return report


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("agent", help="a checkpoint or the folder of a run, or package.module:factory")
    words.add_argument(
        "--out", default="outputs/delay", help="folder; a measurement that was stopped goes on"
    )
    words.add_argument("--env", help="environment; what the checkpoint was trained for if none")
    words.add_argument("--key", help="of a checkpoint of several data sets: which one's body")
    words.add_argument("--episodes", type=int, default=40, help="scenes of each arm")
    words.add_argument("--seed-offset", type=int, default=0, help="which scenes")
    words.add_argument("--latencies", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.4], help="seconds")
    words.add_argument("--executors", nargs="+", choices=EXECUTORS, default=EXECUTORS)
    words.add_argument("--horizons", type=int, nargs="+", help="chunks are cut to them; the policy's if none")
    words.add_argument(
        "--executes", type=int, nargs="+", help="executed actions; each executor's own if none"
    )
    words.add_argument("--at", type=float, default=0.6, help="seconds until the thing is moved")
    words.add_argument("--within", type=float, default=3.0, help="seconds in which a reaction counts")
    words.add_argument("--workers", type=int, help="processes; one for each core if none")
    return words


def main() -> None:
    report = measure(parser().parse_args())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
