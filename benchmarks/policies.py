"""Policies at their published sizes, side by side with lerobot in an environment of its own.

    ./run bench policies --lerobot lerobot-env/bin/python [--rounds 7] [--cameras 1] [--seed 0]

The environment needs Python 3.12:

    python3.12 -m venv lerobot-env && lerobot-env/bin/pip install 'lerobot[dataset,diffusion]==0.6.1'

lerobot makes the policies and writes their weights; we load them strictly, and both get the same inputs, so
they compute the same: how far their answers are apart is printed. ACT has LeRobot's defaults (chunks of 100,
cameras of 480 x 640, 51.6 million weights); Diffusion Policy has the published U-Net for pictures (251.5
million), one camera of 96 pixels, and 10 steps of DDIM. A training step is one of ACT with 8 samples:
forward, backward, clipping, AdamW. The scheduler is what is computed around the network in 10 steps.

Both are pinned to one core with one thread, and take turns, one idle while the other works; the table has
medians of rounds with minimum and maximum. Ratios are lerobot's CPU time by ours, which on one idle core is
wall time and suffers little from other work; those of wall time stand beside them. Each has a torch of its
own; "plain torch" is a convolution and a product that both run alike, so what of a ratio is torch's. Our
pictures are bytes, which we normalize within the time; lerobot gets normalized ones. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers.beside import Peer, Times, alternate, one_core, timed
from safetensors.torch import load_file, save_file
from torch import Tensor

from visuomotor.generative import diffusion
from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD
from visuomotor.policies.act import ACT, ACTConfig
from visuomotor.policies.act import load_released as load_act
from visuomotor.policies.diffusion import DiffusionConfig, DiffusionPolicy
from visuomotor.policies.released.diffusion import load_released as load_diffusion
from visuomotor.training.config import TrainConfig
from visuomotor.training.group import Alone
from visuomotor.training.moved import Own
from visuomotor.training.optim import Optimizer
from visuomotor.training.step import optimizer_step
from visuomotor.types import Batch, Camera, Dimension, Spec

BARS = {
    "act_latency": (1.5, 2.5),
    "act_train": (1.5, 2.5),
    "diffusion_ddim10": (1.2, 2.0),
    "scheduler": (10.0, None),
}
"""Ratio -> bar and aim."""
HALF = (0.5, 0.5, 0.5)


def spec_of(cameras: int, size: tuple[int, int], state: int, action: int) -> Spec:
    height, width = size
    return Spec(
        embodiment="bench",
        cameras=tuple(Camera(name=f"camera{n}", height=height, width=width) for n in range(cameras)),
        state=tuple(Dimension(name=f"s{number}") for number in range(state)),
        action=tuple(Dimension(name=f"a{number}") for number in range(action)),
        rate=50.0,
    )


def batch_of(spec: Spec, rows: int, history: int, horizon: int, generator: torch.Generator) -> Batch:
    """Random observations and actions; every number is real."""
    there = torch.ones(rows, history, dtype=torch.bool)
    return Batch(
        images={
            camera.name: torch.randint(
                256,
                (rows, history, camera.height, camera.width, 3),
                dtype=torch.uint8,
                generator=generator,
            )
            for camera in spec.cameras
        },
        image_mask={camera.name: there for camera in spec.cameras},
        state=torch.randn(rows, history, len(spec.state), generator=generator),
        history_mask=there,
        state_mask=torch.ones(rows, len(spec.state), dtype=torch.bool),
        embodiment=torch.zeros(rows, dtype=torch.int64),
        has_actions=torch.ones(rows, dtype=torch.bool),
        actions=torch.randn(rows, horizon, len(spec.action), generator=generator),
        horizon_mask=torch.ones(rows, horizon, dtype=torch.bool),
        action_mask=torch.ones(rows, len(spec.action), dtype=torch.bool),
    )


def as_lerobot(
    batch: Batch, mean: tuple[float, ...], std: tuple[float, ...], **more: Tensor
) -> dict[str, Tensor]:
    """The same for lerobot: normalized pictures, channels first; no history axis where it is 1."""
    center, spread = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))
    found = {"observation.state": batch.state, **more}
    for name, pixels in batch.images.items():
        found[f"observation.images.{name}"] = (pixels.movedim(-1, -3) / 255 - center) / spread
    if batch.state.shape[1] == 1:
        found = {name: value[:, 0] if name.startswith("obs") else value for name, value in found.items()}
    return {name: value.contiguous() for name, value in found.items()}


class Bench:
    """Both sides, and what was measured of them."""

    def __init__(self, peer: Peer, folder: Path, args: argparse.Namespace) -> None:
        self.peer, self.folder, self.args = peer, folder, args
        self.generator = torch.Generator().manual_seed(args.seed)
        self.times: Times = {}
        self.facts: dict[str, Any] = {"parameters": {}, "difference": {}}

    def show(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Give lerobot inputs."""
        path = self.folder / "inputs.safetensors"
        save_file(tensors, path)
        self.peer("show", name=name, path=str(path))
        path.unlink()

    def make(self, kind: str, cameras: int) -> dict[str, Tensor]:
        """Have lerobot make a policy; its weights."""
        path = self.folder / "weights.safetensors"
        made = self.peer("make", kind=kind, cameras=cameras, weights=str(path))
        self.facts["parameters"][f"{kind} lerobot"] = made["parameters"]
        weights = load_file(path)
        path.unlink()
        return weights

    def compare(self, kind: str, ours: Tensor) -> None:
        """Keep how far the answers are apart."""
        path = self.folder / "chunk.safetensors"
        self.peer("chunk", kind=kind, calls=0, out=str(path))
        theirs = load_file(path)["chunk"]
        self.facts["difference"][kind] = float((ours[:, : theirs.shape[1]] - theirs).abs().max())

    def turns(self, name: str, ours: Callable[[], object], calls: int, do: str, **request: Any) -> None:
        """Rounds of both."""

        def several() -> None:
            for _ in range(calls):
                ours()

        sides = {
            f"{name} lerobot": partial(self.peer, do, calls=calls, **request),
            f"{name} ours": partial(timed, several),
        }
        with one_core(self.peer, self.args.core):
            alternate(self.times, self.args.rounds, sides, calls)

    def act(self) -> None:
        """Latency of ACT, and its training step."""
        cameras = self.args.cameras
        spec = spec_of(cameras, (480, 640), 14, 14)
        policy = ACT(ACTConfig.lerobot(), {"bench": spec}).eval()
        load_act(policy.network, self.make("act", cameras), "lerobot")
        self.facts["parameters"]["act ours"] = sum(weight.numel() for weight in policy.parameters())
        batch = batch_of(spec, 1, 1, 100, self.generator)
        self.show("act", as_lerobot(batch, IMAGENET_MEAN, IMAGENET_STD))
        with torch.inference_mode():
            self.compare("act", policy.act(batch).actions)
        if self.args.only == "act_train":
            self.train(policy, spec)
            return
        with torch.inference_mode():
            self.turns("act_latency", lambda: policy.act(batch), 2, "chunk", kind="act")
        if self.args.compile:
            self.compiled(policy, batch)
        if self.args.only != "act_latency":
            self.train(policy, spec)
        self.peer("forget", kind="act")

    def train(self, policy: ACT, spec: Spec) -> None:
        """A training step of ACT."""
        lesson = batch_of(spec, 8, 1, 100, self.generator)
        assert lesson.actions is not None
        padded = torch.zeros(8, 100, dtype=torch.bool)
        self.show(
            "train",
            as_lerobot(lesson, IMAGENET_MEAN, IMAGENET_STD, action=lesson.actions, action_is_pad=padded),
        )
        policy.train()
        optimizer = Optimizer(policy, weight_decay=1e-4, betas=(0.9, 0.999))
        config = TrainConfig(learning_rate=1e-5, clip=10.0)
        step = partial(
            optimizer_step,
            policy,
            [lesson],
            optimizer,
            moved=Own(policy),
            group=Alone(),
            rate=1e-5,
            numbers=(0,),
            config=config,
            check=False,
        )
        self.turns("act_train", step, 1, "train")

    def compiled(self, policy: ACT, batch: Batch) -> None:
        """Our latency through torch.compile, which is an option of the agent."""
        call = torch.compile(policy.act, fullgraph=True, dynamic=False)
        with torch.inference_mode():
            self.turns("act_latency_compiled", lambda: call(batch), 2, "chunk", kind="act")

    def diffusion(self) -> None:
        """Ten steps of DDIM, and what of them is not the network."""
        spec = spec_of(1, (96, 96), 2, 2)
        config = replace(DiffusionConfig(), past=1, sampler="ddim", steps=10)
        policy = DiffusionPolicy(config, {"bench": spec}).eval()
        load_diffusion(policy, self.make("diffusion", 1), "lerobot")
        self.facts["parameters"]["diffusion ours"] = sum(weight.numel() for weight in policy.parameters())
        batch = batch_of(spec, 1, 2, 15, self.generator)
        noise = torch.randn(1, 16, 2, generator=self.generator)
        noise[:, 0] = 0  # what is over starts from nothing here
        self.show("diffusion", as_lerobot(batch, HALF, HALF, noise=noise))
        with torch.inference_mode():
            self.compare("diffusion", policy.act(batch, noise=noise[:, 1:]).actions)
            self.turns(
                "diffusion_ddim10",
                lambda: policy.act(batch, noise=noise[:, 1:]),
                1,
                "chunk",
                kind="diffusion",
            )
            draw = partial(diffusion.sample, lambda points, step: noise, policy.rungs, noise)
            self.turns("scheduler", draw, 200, "scheduler")

    def plain(self) -> None:
        """What the versions of torch are worth."""
        maps, kernel = torch.ones(1, 128, 60, 80), torch.ones(128, 128, 3, 3)
        tokens, weight = torch.ones(302, 512), torch.ones(3200, 512)

        def compute() -> None:
            torch.conv2d(maps, kernel, padding=1)
            torch.nn.functional.linear(tokens, weight)

        with torch.no_grad():
            self.turns("plain torch", compute, 10, "plain")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lerobot", default=os.environ.get("LEROBOT_PYTHON"), help="its Python; or $LEROBOT_PYTHON"
    )
    parser.add_argument(
        "--only", choices=("act_latency", "act_train", "diffusion"), help="measure this alone"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cameras", type=int, default=1, help="of ACT")
    parser.add_argument("--compile", action="store_true", help="measure ours through torch.compile as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, default=0, help="on which both run")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    args = parser.parse_args()
    if not args.lerobot:
        parser.error("--lerobot: expected the Python of an environment with lerobot 0.6.1. " + str(__doc__))
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="bench-policies-") as name,
        Peer(args.lerobot, "lerobot_policies.py", Path(name) / "lerobot.log") as peer,
    ):
        bench = Bench(peer, Path(name), args)
        bench.facts["lerobot"] = peer("versions")
        bench.plain()
        if args.only != "diffusion":
            bench.act()
        if args.only in (None, "diffusion"):
            bench.diffusion()
    report(bench, args, [round(load, 1), round(os.getloadavg()[0], 1)])


def report(bench: Bench, args: argparse.Namespace, load: list[float]) -> None:
    """Print the table and the JSON object."""
    middle = {what: statistics.median(values) for what, values in bench.times.items()}
    print(f"{'milliseconds a call':34}{'median':>11}{'min':>11}{'max':>11}    n")
    for what, values in bench.times.items():
        numbers = "".join(f"{1e3 * value:11.3f}" for value in (middle[what], min(values), max(values)))
        print(f"{what:34}{numbers}    {len(values)}")
    result: dict[str, Any] = {}
    for name in dict.fromkeys(what.partition(" lerobot")[0] for what in middle if " lerobot" in what):
        for tail, behind in (("", " (CPU)"), ("_wall", "")):
            ratio = middle[f"{name} lerobot{behind}"] / middle[f"{name} ours{behind}"]
            result[name.replace(" ", "_") + tail] = round(ratio, 2)
    for name, (bar, aim) in BARS.items():
        if name in result:
            print(f"{name:20}{result[name]:8.2f} times lerobot's speed; bar {bar}, aim {aim or 'none'}")
    for kind, apart in bench.facts["difference"].items():
        print(f"answers of {kind} are {apart:.1e} apart, with equal weights, inputs and noise")
    result |= {
        **bench.facts,
        "rounds": {what: [round(value, 6) for value in values] for what, values in bench.times.items()},
        "cameras": args.cameras,
        "seed": args.seed,
        "load_average": load,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy")}
        | {"python": platform.python_version()},
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
