"""Two ways round: squared error takes the mean of two right answers, and the mean is wrong.

    ./run bench two_ways [--out outputs/two-ways] [--heads mse mixture] [--seeds 3] [--episodes 200]

A point has to pass an obstacle, on the left or on the right; half of the demonstrations take either side,
and nothing that can be seen tells which. Four heads on the same trunk (states to features, an MLP), with
the same demonstrations, steps, batches and seeds, answer with whole chunks:

    mse        one chunk, by the squared error
    mixture    a mixture of Gaussians over chunks (`visuomotor.generative.mixture`)
    diffusion  noise is removed (`visuomotor.generative.diffusion`, 20 steps of DDIM)
    flow       a velocity is followed (`visuomotor.generative.flow`, 20 Euler steps)

Both of the last two predict the clean chunk of a noisy one, by its squared error at uniform times; `--predict
noise` asks diffusion for the noise and flow for the velocity instead.

Everything else is the library's: `collect`, `train_from_folder`, `evaluate`. A head that answers a noisy
chunk is given it, and its time, beside the features; the others are given zeros, so all have the same
weights but for their last layer. What is finished stays in OUT, and the same command goes on. The last line
of the output is one JSON object, as in OUT/two-ways.json; table and figure lie beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from drawing import Panel, crossing, figure
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.envs.base import Status
from visuomotor.errors import unknown_name
from visuomotor.evaluation.runner import evaluate
from visuomotor.evaluation.statistics import proportion
from visuomotor.experts.collect import collect
from visuomotor.experts.disturbance import Noise
from visuomotor.generative import diffusion, flow, mixture
from visuomotor.nn.embedding import embed_time
from visuomotor.perception.sight import real_actions
from visuomotor.policies.base import Acted, Context, Loss, Policy, Term, continued
from visuomotor.rollout import plain
from visuomotor.text.sentences import SentenceCache
from visuomotor.training.loop import TrainConfig
from visuomotor.training.run import train_from_folder
from visuomotor.transforms.base import Pipeline
from visuomotor.transforms.normalize import Normalize, within_limits
from visuomotor.transforms.pad import PadDimensions
from visuomotor.types import Batch, Dimension, Observation, Spec, Stats, Window

RADIUS = 0.25  # of the obstacle around the origin, meters
BESIDE = 0.55  # meters beside its middle at which the expert passes
BEFORE = 0.7  # meters before its middle at which it turns aside
SPEED = 0.08  # meters a tick
NEAR = 0.1  # meters from the goal that count as there
GOAL = np.array([1.0, 0.0])
Head = Literal["mse", "mixture", "diffusion", "flow"]
Predicted = Literal["clean", "noise"]

# --- the world


class Passing:
    """A point before an obstacle; the goal lies behind it. The side of the demonstration is not seen."""

    def __init__(self, *, task: str = "pass", max_ticks: int = 60) -> None:
        self.task, self.max_ticks = task, max_ticks
        self.spec = Spec(
            embodiment="point",
            cameras=(),
            state=tuple(Dimension(name=axis, unit="m", kind="ee") for axis in "xy"),
            action=tuple(
                Dimension(name=axis, unit="m", kind="ee_delta", low=-0.1, high=0.1) for axis in "xy"
            ),
            rate=10.0,
        )

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        """Somewhere before the obstacle; a coin says on which side a demonstration passes."""
        generator = np.random.default_rng(seed)
        self.place = np.array([-1.0, generator.uniform(-0.02, 0.02)])
        self.side = 1.0 if generator.random() < 0.5 else -1.0
        self.path = [tuple(self.place)]
        return self.observe()

    def step(self, action: np.ndarray) -> Status:
        """Move; the way there must not touch the obstacle."""
        before = self.place
        self.place = before + np.clip(action, -0.1, 0.1)
        self.path.append(tuple(self.place))
        hit = _distance(before, self.place) < RADIUS
        there = not hit and float(np.hypot(*(self.place - GOAL))) < NEAR
        late = len(self.path) > self.max_ticks
        failure = None if there else "hit the obstacle" if hit else "out of time" if late else None
        return Status(
            success=there,
            done=there or failure is not None,
            progress=float(there),
            failure=failure,
            facts={"path": [[round(float(x), 3), round(float(y), 3)] for x, y in self.path]},
        )

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        """Where the point is."""
        return Observation(
            images={},
            state=self.place[None].astype(np.float32),
            instruction="pass the obstacle",
            embodiment="point",
            time=(len(self.path) - 1) / self.spec.rate,
        )

    def snapshot(self) -> bytes:
        """The whole world."""
        return json.dumps([self.path, self.side]).encode()

    def restore(self, snapshot: bytes) -> None:
        """Back to a snapshot."""
        path, self.side = json.loads(snapshot)
        self.path = [tuple(place) for place in path]
        self.place = np.array(self.path[-1])

    def close(self) -> None:
        """Nothing is held."""


def _distance(start: np.ndarray, end: np.ndarray) -> float:
    """Meters from the origin to the nearest point of a way."""
    way = end - start
    along = float(np.clip(-(start @ way) / max(float(way @ way), 1e-12), 0, 1))
    return float(np.hypot(*(start + along * way)))


class Guide:
    """Straight on until short before the obstacle, beside it on the side of the coin, then to the goal."""

    def __call__(self, env: Passing) -> np.ndarray:
        """The next step."""
        x, y = env.place
        aside = np.array([0.0, env.side * BESIDE])
        target = np.array([x + 1, y]) if x < -BEFORE else aside if x < -SPEED / 2 else GOAL
        way = target - env.place
        length = max(float(np.hypot(*way)), 1e-9)
        return (way / length * min(length, SPEED)).astype(np.float32)


# --- the policy


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Sizes, the same for every head."""

    head: Head = "mse"
    """How a chunk is answered."""
    horizon: int = 16
    """Actions predicted by one call."""
    width: int = 128
    """Of every layer."""
    time: int = 16
    """Numbers that tell the time of a noisy chunk."""
    modes: int = 5
    """Components of the mixture."""
    apart: float = 1.0
    """Weight of what keeps them apart."""
    predict: Predicted = "clean"
    """What the head says of a noisy chunk: the clean one, or noise (diffusion) and velocity (flow)."""
    steps: int = 20
    """Calls of the head for an answer of diffusion and flow."""
    noise_steps: int = 50
    """Steps of noise in the training of diffusion."""

    def __post_init__(self) -> None:
        if self.head not in get_args(Head):
            raise unknown_name("head", self.head, get_args(Head))
        if self.predict not in get_args(Predicted):
            raise unknown_name("prediction", self.predict, get_args(Predicted))


class Heads(Policy):
    """One trunk, four heads; looks at the state alone."""

    Config = HeadsConfig
    config: HeadsConfig

    def __init__(self, config: HeadsConfig, bodies: Mapping[str, Spec]) -> None:
        super().__init__(config, bodies)
        (spec,) = self.bodies.values()
        width, self.shape = config.width, (config.horizon, len(spec.action))
        chunk = config.horizon * len(spec.action)
        out = config.modes * (2 * chunk + 1) if config.head == "mixture" else chunk
        self.trunk = nn.Sequential(
            nn.Linear(len(spec.state), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.hidden = nn.Sequential(
            nn.Linear(width + chunk + config.time, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.leave = nn.Linear(width, out)

    @property
    def window(self) -> Window:
        """The current tick, and the horizon."""
        return Window(horizon=self.config.horizon)

    def transforms(self, key: str, stats: Stats, sentences: SentenceCache | None = None) -> Pipeline:
        """States by mean and spread, actions to [-1, 1]."""
        spec = self.check_key(key)
        action = within_limits(stats["action"], spec.action)
        normalize = Normalize(state=stats["state"], action=action, action_mode="min_max")
        return Pipeline((normalize, PadDimensions(spec, state=len(spec.state), action=len(spec.action))))

    def loss(self, batch: Batch, *, generator: torch.Generator | None) -> Loss:
        """What each head is taught by."""
        assert batch.actions is not None
        clean, mask, seen = batch.actions, real_actions(batch), self.see(batch)
        match self.config.head:
            case "mse":
                error = (self.point(seen) - clean).square().masked_fill(~mask, 0)
                total, count = error.sum(), mask.sum().to(error.dtype)
            case "mixture":
                total, count = mixture.loss(self.mixture(seen), clean, mask, apart=self.config.apart)
            case "diffusion":
                total, count = diffusion.loss(
                    self.denoise(seen, batch),
                    self.schedule,
                    clean,
                    mask=mask,
                    generator=generator,
                    prediction=self.prediction,
                )
            case "flow":
                total, count = self.flow_loss(seen, batch, generator)
        return Loss({self.config.head: Term(total, count)})

    def act(
        self,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        context: Context | None = None,
        prefix: Tensor | None = None,
        held: Tensor | None = None,
    ) -> Acted:
        """A chunk; promised actions are put at its beginning."""
        seen = self.see(batch)
        if noise is None:
            noise = torch.randn((len(seen), *self.shape), generator=generator, device=seen.device)
        match self.config.head:
            case "mse":
                chunk = self.point(seen)
            case "mixture":
                chunk = mixture.sample(mixture.quiet(self.mixture(seen)), noise)
            case "diffusion":
                rungs = diffusion.ladder(self.schedule, self.config.steps, prediction=self.prediction)
                chunk = diffusion.sample(self.denoise(seen, batch), rungs, noise)
            case "flow":
                chunk = flow.integrate(self.velocity(seen, batch), noise, self.config.steps)
        return Acted(actions=continued(chunk, prefix, held))

    def see(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """The trunk, which reads real numbers of the state alone."""
        return self.trunk(batch.state[:, -1].masked_fill(~batch.state_mask, 0))

    @property
    def schedule(self) -> diffusion.Schedule:
        """How noise grows."""
        return diffusion.Schedule.cosine(self.config.noise_steps)

    def answer(
        self,
        seen: Float[Tensor, "batch width"],
        chunk: Float[Tensor, "batch horizon action"] | None = None,
        time: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out"]:
        """What the head says about a noisy chunk, or, given none, about the features alone."""
        count = self.shape[0] * self.shape[1]
        noisy = seen.new_zeros(len(seen), count) if chunk is None else chunk.flatten(1)
        told = seen.new_zeros(len(seen), self.config.time)
        if time is not None:
            told = embed_time(time, self.config.time, shortest=0.1)
        return self.leave(self.hidden(torch.cat([seen, noisy, told], dim=1)))

    def point(self, seen: Tensor) -> Tensor:
        """The one chunk of the squared error."""
        return self.answer(seen).unflatten(1, self.shape)

    def mixture(self, seen: Tensor) -> mixture.Mixture:
        """The mixture over chunks."""
        modes, chunk = self.config.modes, self.shape[0] * self.shape[1]
        logits, mean, std = self.answer(seen).split([modes, modes * chunk, modes * chunk], dim=1)
        mean, std = (part.unflatten(1, (modes, *self.shape)) for part in (mean, std))
        return mixture.from_raw(logits, mean, std, min_std=0.01)

    @property
    def prediction(self) -> diffusion.Prediction:
        """In the words of diffusion."""
        return "sample" if self.config.predict == "clean" else "epsilon"

    def flow_loss(
        self, seen: Tensor, batch: Batch, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The squared error of what the head says, and its count."""
        assert batch.actions is not None
        mask = real_actions(batch)
        if self.config.predict == "noise":
            return flow.loss(self.velocity(seen, batch), batch.actions, mask=mask, generator=generator)
        clean = batch.actions.masked_fill(~mask, 0)
        home = clean.device if generator is None else generator.device
        noise = torch.randn(clean.shape, generator=generator, device=home).to(clean)
        time = torch.rand(len(clean), generator=generator, device=home).to(clean)
        said = self.told(seen, batch)(flow.interpolate(noise, clean, time), time)
        return (said - clean).square().masked_fill(~mask, 0).sum(), mask.sum().to(said.dtype)

    def velocity(self, seen: Tensor, batch: Batch) -> flow.Velocity:
        """The velocity towards the clean chunk, or what the head says itself."""
        told = self.told(seen, batch)
        if self.config.predict == "noise":
            return told
        return lambda chunk, time: (told(chunk, time) - chunk) / (1 - time[:, None, None])

    def denoise(self, seen: Tensor, batch: Batch) -> diffusion.Predict:
        """The head, told the diffusion step as a share of all."""
        told = self.told(seen, batch)
        return lambda chunk, step: told(chunk, step.to(chunk.dtype) / self.config.noise_steps)

    def told(self, seen: Tensor, batch: Batch) -> flow.Velocity:
        """What the head says of a chunk at a time; padded actions are not read."""
        assert batch.action_mask is not None
        padded = ~batch.action_mask[:, None]
        return lambda chunk, time: self.answer(seen, chunk.masked_fill(padded, 0), time).unflatten(
            1, self.shape
        )


# --- the measurement


def play(folder: Path, head: Head, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one head with one seed, and how its episodes went."""
    config = TrainConfig(
        steps=arguments.steps, batch_size=128, learning_rate=2e-3, seed=seed, ema_decay=0.99, save_every=10**6
    )
    train_from_folder(
        {"pass": folder / "demonstrations"},
        out=folder / f"{head}-{seed}" / "policy",
        policy="two_ways:Heads",
        policy_config=HeadsConfig(head=head, predict=arguments.predict),
        config=config,
    )
    played = evaluate(
        folder / f"{head}-{seed}" / "policy",
        env="two_ways:Passing",
        episodes=arguments.episodes,
        probes=(),
        executor="open_loop",
        workers=0,
        out=folder / f"{head}-{seed}" / "evaluation",
        videos=0,
        timed=1,
    )
    return [
        {
            "success": trial.episode.success,
            "failure": trial.episode.failure,
            "left": crossed(trial.episode.facts["path"]),
            "path": trial.episode.facts["path"],
        }
        for trial in played.trials
    ]


def crossed(path: Sequence[Sequence[float]]) -> bool | None:
    """Whether a path passes on the left (y > 0); None if it never comes beside the obstacle."""
    return next((y > 0 for x, y in path if x >= 0), None)


def summary(head: str, runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """One line of the table, from the episodes of each training seed."""
    rows = [row for run in runs for row in run]
    rates = [sum(row["success"] for row in run) / len(run) for run in runs]
    passed = [row["left"] for row in rows if row["success"]]
    success = proportion(sum(row["success"] for row in rows), len(rows))
    left = proportion(sum(passed), len(passed)) if passed else None
    return {
        "head": head,
        "success": success.to_json(),
        "lowest": min(rates),
        "highest": max(rates),
        "hits": sum(row["failure"] == "hit the obstacle" for row in rows),
        "late": sum(row["failure"] == "out of time" for row in rows),
        "left": None if left is None else left.to_json(),
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown."""
    rows = [
        "| head | success | 95 % interval | worst and best training | hit | late | left, % of passed |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rate, left = line["success"], line["left"]
        side = (
            ""
            if left is None
            else f"{_percent(left['rate'])} ({_percent(left['low'])} to {_percent(left['high'])})"
        )
        rows.append(
            f"| `{line['head']}` | {rate['successes']} of {rate['n']} "
            f"| {_percent(rate['low'])} to {_percent(rate['high'])} % "
            f"| {_percent(line['lowest'])} and {_percent(line['highest'])} % "
            f"| {line['hits']} | {line['late']} | {side} |"
        )
    return "\n".join(rows) + "\n"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def picture(shown: Mapping[str, Sequence[Mapping[str, Any]]], *, most: int = 60) -> str:
    """The first paths of each head, and of the demonstrations."""
    size, scale = 220.0, 88.0

    def place(x: float, y: float) -> tuple[float, float]:
        return size / 2 + scale * x, size / 2 - scale * y

    x, y = place(0, 0)
    goal = place(*GOAL)
    scene = (
        f'<circle cx="{x}" cy="{y}" r="{scale * RADIUS}" fill="#dddddd"/>'
        f'<circle cx="{goal[0]}" cy="{goal[1]}" r="{scale * NEAR}" fill="none" stroke="#444444"/>'
    )
    panels = []
    for name, rows in shown.items():
        rows = rows[:most]
        paths = {
            f"{'success' if row['success'] else 'failure'}-{number}": [place(*point) for point in row["path"]]
            for number, row in enumerate(rows)
        }
        good = sum(row["success"] for row in rows)
        panels.append(Panel(title=name, body=scene + crossing(paths), note=f"{good} of {len(rows)}"))
    said = "Paths around an obstacle. " + " ".join(
        f"{panel.title}: {panel.note} reach the goal." for panel in panels
    )
    return figure(panels, said=said, width=size, height=size * 0.8, columns=5)


def demonstrated(episodes: int) -> list[dict[str, Any]]:
    """Episodes of the expert alone."""
    env, guide, rows = Passing(), Guide(), []
    for seed in range(episodes):
        env.reset(seed=seed)
        status = env.step(guide(env))
        while not status.done:
            status = env.step(guide(env))
        rows.append({"success": status.success, "path": status.facts["path"]})
    return rows


def measure(arguments: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train and play what is left, and write table and figure."""
    folder = Path(arguments.out)
    quiet = Noise(meters=0.01, push_chance=0, slip_chance=0, stray_chance=0)
    collect(
        folder / "demonstrations",
        env="two_ways:Passing",
        task="pass",
        expert="two_ways:Guide",
        episodes=arguments.demonstrations,
        phrasings=1,
        noise=quiet,
        workers=0,
    )
    shown: dict[str, Sequence[Mapping[str, Any]]] = {"demonstrations": demonstrated(60)}
    runs: dict[str, list[list[dict[str, Any]]]] = {head: [] for head in arguments.heads}
    for seed in range(arguments.seeds):
        for head, played in runs.items():
            played.append(play(folder, head, seed, arguments))
            say(f"{head}, seed {seed}: {sum(row['success'] for row in played[-1])} of {len(played[-1])}")
    lines = [summary(head, played) for head, played in runs.items()]
    shown |= {head: played[0] for head, played in runs.items()}
    report = plain({**vars(arguments), "heads": lines})
    (folder / "two-ways.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "two-ways.md").write_text(table(lines))
    (folder / "two-ways.svg").write_text(picture(shown))
    say(table(lines))
    return report


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="outputs/two-ways", help="folder; what was stopped goes on")
    words.add_argument("--heads", nargs="+", choices=get_args(Head), default=get_args(Head))
    words.add_argument("--seeds", type=int, default=3, help="trainings of each head")
    words.add_argument("--episodes", type=int, default=200, help="episodes of each training")
    words.add_argument("--demonstrations", type=int, default=300, help="episodes of the expert")
    words.add_argument("--steps", type=int, default=6000, help="optimizer steps of each training")
    words.add_argument(
        "--predict", choices=get_args(Predicted), default="clean", help="what diffusion and flow predict"
    )
    return words


def main() -> None:
    print(json.dumps(measure(parser().parse_args())))


if __name__ == "__main__":
    main()
