"""Two ways round on the table top: families that learn to pass a fence on either side of it.

    ./run bench two_ways_tabletop [--out outputs/fence] [--arms bc-mse bc-mixture compact diffusion]

The task is `pass_obstacle`: carry a thing around a fence to a bowl behind it. The seed of a scene decides on
which side the expert passes, and nothing that a policy sees tells which. Each arm learns from the same
demonstrations, with the same eyes, steps, batches and seed, and plays the same scenes, through
`visuomotor.study.compare_arms`; what is finished stays in OUT, and the same command goes on, also with more
arms. The last line of the output is one JSON object, as in OUT/fence.json; table and figure lie beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from drawing import Panel, crossing, figure

from visuomotor.envs.base import Status
from visuomotor.evaluation.origin import read_origin
from visuomotor.evaluation.runner import seeds_of
from visuomotor.evaluation.setup import Setup
from visuomotor.evaluation.statistics import proportion
from visuomotor.experts.collect import collect
from visuomotor.recipes import get_recipe
from visuomotor.rollout import plain, rollout
from visuomotor.study import Arm, compare_arms

ARMS = {
    "bc-mse": "demo-bc-mse",
    "bc-mixture": "demo-bc-mixture",
    "compact": "demo",
    "diffusion": "demo-diffusion-transformer",
}
HALF = 0.12  # meters that are drawn to each side along the way


def arm(name: str, arguments: argparse.Namespace) -> Arm:
    """A family with the budget and the exam of all."""
    recipe = get_recipe(ARMS[name])
    training = replace(recipe.training, steps=arguments.steps)
    exam = replace(recipe.evaluation, episodes=arguments.episodes, probes=(), videos=0)
    return Arm(name=name, recipe=replace(recipe, training=training, evaluation=exam), source=ARMS[name])


class Trail:
    """Watches the hand while it carries: places relative to the fence, along and across."""

    def __init__(self) -> None:
        self.places: list[tuple[float, float]] = []

    def __call__(self, env: Any, tick: int, status: Status | None) -> None:
        """Note where the hand is."""
        (fence,) = (n for n, part in enumerate(env.layout.fixtures) if part.kind == "fence")
        x, y = env.scene.to_base(env.scene.fixture(fence))[:2]
        names = [dimension.name for dimension in env.spec.state]
        hand = env.observe([]).state[-1, [names.index("measured_x"), names.index("measured_y")]]
        self.places.append((float(hand[0] - x), float(hand[1] - y)))


def trails(agent: str, setup: Setup, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Where the hand went in some scenes."""
    station = replace(setup, agent=agent).build()
    rows = []
    for seed in seeds:
        trail = Trail()
        episode = rollout(station.env, station.session, seed=seed, watch=trail)
        rows.append({"success": episode.success, "failure": episode.failure, "path": trail.places})
    station.close()
    return rows


def side(path: Sequence[Sequence[float]]) -> str | None:
    """On which side a path comes beside the fence; None if it never does."""
    return next(("left" if across > 0 else "right" for along, across in path if along >= 0), None)


def summary(
    name: str, trials: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One line of the table."""
    failures = [trial["failure"] for trial in trials if not trial["success"]]
    sides = [side(row["path"]) for row in shown]
    return {
        "arm": name,
        "success": proportion(len(trials) - len(failures), len(trials)).to_json(),
        "fence": proportion(failures.count("hit the fence"), len(trials)).to_json(),
        "failures": {why: failures.count(why) for why in sorted(set(failures))},
        "left": sides.count("left"),
        "right": sides.count("right"),
        "shown": len(sides),
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown."""
    rows = ["| policy | success | hit the fence | failures | left, right, neither |", "|---|---|---|---|---|"]
    for line in lines:
        success, fence = (
            f"{rate['successes']} of {rate['n']} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f} %)"
            for rate in (line["success"], line["fence"])
        )
        why = ", ".join(f"{count} {reason}" for reason, count in line["failures"].items())
        neither = line["shown"] - line["left"] - line["right"]
        rows.append(
            f"| `{line['arm']}` | {success} | {fence} | {why} | {line['left']}, {line['right']}, {neither} |"
        )
    return "\n".join(rows) + "\n"


def picture(shown: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Ways of the hand around the fence, seen from above; the bowl is to the right."""
    width, height, scale = 200.0, 240.0, 400.0

    def place(along: float, across: float) -> tuple[float, float]:
        return width / 2 + scale * along, height / 2 - scale * across

    posts = "".join(
        f'<circle cx="{place(0, y)[0]:.1f}" cy="{place(0, y)[1]:.1f}" r="3" fill="#444444"/>'
        for y in np.linspace(-HALF, HALF, 7)
    )
    panels = []
    for name, rows in shown.items():
        paths = {
            f"{'success' if row['success'] else 'failure'}-{number}": [place(*point) for point in row["path"]]
            for number, row in enumerate(rows)
        }
        good = sum(row["success"] for row in rows)
        panels.append(Panel(title=name, body=posts + crossing(paths), note=f"{good} of {len(rows)}"))
    said = "Ways of the hand around a fence. " + " ".join(
        f"{panel.title}: {panel.note} succeed." for panel in panels
    )
    return figure(panels, said=said, width=width, height=height, columns=5)


def measure(arguments: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Collect, train and play what is left, and write table and figure."""
    folder = Path(arguments.out)
    data = Path(arguments.data) if arguments.data else folder / "demonstrations"
    if not arguments.data:
        collect(data, task="pass_obstacle", episodes=arguments.demonstrations, options={"rival": True})
    lines, shown = [], {}
    for name in arguments.arms:
        compare_arms(
            folder / "comparison",
            [arm(name, arguments)],
            data=data,
            references=("expert",),
            untrained=False,
            workers=arguments.workers,
            tell=lambda what, done, total, note: say(f"{what}: {done} of {total} {note}"),
        )
        place = folder / "comparison" / "arms" / name
        trials = [
            json.loads(line) for line in (place / "evaluation" / "episodes.jsonl").read_text().splitlines()
        ]
        rows = [row["episode"] for row in trials if "episode" in row]
        policy = str(place / "policy")
        origin = read_origin(policy, None)
        setup = Setup(agent=policy, env=origin.env, env_options=dict(origin.env_options))
        seeds = seeds_of(arguments.paths, 0)
        shown.setdefault("expert", trails("expert", setup, seeds))
        shown[name] = trails(policy, setup, seeds)
        lines.append(summary(name, rows, shown[name]))
        report = plain({**vars(arguments), "arms": lines})
        (folder / "fence.json").write_text(json.dumps(report, indent=1) + "\n")
        (folder / "fence.md").write_text(table(lines))
        (folder / "fence.svg").write_text(picture(shown))
    say(table(lines))
    return report


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="outputs/fence", help="folder; what was stopped goes on")
    words.add_argument("--data", help="folder of demonstrations; collected into OUT if none")
    words.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    words.add_argument("--demonstrations", type=int, default=500, help="to collect")
    words.add_argument("--steps", type=int, default=700, help="optimizer steps of each arm")
    words.add_argument("--episodes", type=int, default=60, help="scenes of each arm")
    words.add_argument("--paths", type=int, default=20, help="scenes whose ways are drawn")
    words.add_argument("--workers", type=int, help="processes; one for each core if none")
    return words


def main() -> None:
    """Measure, and print the report."""
    print(json.dumps(measure(parser().parse_args())))


if __name__ == "__main__":
    main()
