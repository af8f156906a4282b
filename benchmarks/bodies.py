"""How often the expert succeeds with each body, how fast the table top runs with it, and what it looks like.

    ./run bench bodies [--bodies aloha2arm] [--every-task] [--episodes 300] [--seed 1000]
    ./run bench bodies --picture docs/images/bodies.png

Rows of the picture are bodies. Columns: all at one distance; nearer, so that tables are equally large; the
front view as drawn for videos; both views that a policy sees. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from tabletop import disturbance

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.camera import VIDEO_LOOK, render
from visuomotor.envs.tabletop.layout import sample_layout
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.tasks import TASKS, playable
from visuomotor.evaluation.statistics import wilson
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.registry import lookup

BODIES = ("franka", "widowx", "so101", "aloha2arm")
HEIGHT = 320  # pixels of a row


def measure_expert(body: str, task: str, episodes: int, seed: int, disturbed: bool) -> dict[str, Any]:
    """Success with its Wilson interval; disturbances are as large, relative to the things, for every body."""
    most = TASKS[task].ticks + 50 * disturbed
    fine = max(1.0, lookup("embodiment", body).rate / 10)
    env = TabletopEnv(body, task=task, cameras={}, max_ticks=round(fine * most))
    expert, lengths, failures, hopeless = TabletopExpert(), [], Counter[str](), 0
    size = np.tile([*[env.body.scale] * 3, 1.0, 1.0, 1.0, 1.0], len(env.controllers))
    for number in range(seed, seed + episodes):
        env.reset(seed=number)
        change = disturbance(number, len(env.controllers), fine)
        for tick in range(env.max_ticks):
            meant = expert(env) / size
            done = change(tick, meant) if disturbed else meant
            status = env.step(done * size)
            if status.done:
                break
        if status.success:
            lengths.append(tick + 1)
        else:
            failures[str(status.failure)] += 1
            hopeless += done is not meant
    low, high = wilson(len(lengths), episodes)
    return {
        "solved": len(lengths),
        "n": episodes,
        "low": round(low, 4),
        "high": round(high, 4),
        "ticks": round(statistics.mean(lengths), 1),
        "failures": dict(failures),
        "ended_by_random_actions": hopeless,
    }


def measure_speed(body: str, seed: int) -> dict[str, float]:
    """CPU milliseconds to build a scene and to reset, ticks a second with expert and both views."""
    env, bare, expert = TabletopEnv(body), TabletopEnv(body, cameras={}), TabletopExpert()
    layout = sample_layout(seed, task="put_in")
    shapes = tuple(sorted(thing.shape for thing in layout.objects))
    kinds = [fixture.kind for fixture in layout.fixtures]

    def milliseconds(work: Callable[[], Any], count: int) -> float:
        spent = []
        for _ in range(count):
            start = time.process_time()
            work()
            spent.append(1e3 * (time.process_time() - start))
        return statistics.median(spent)

    def play() -> float:
        ticks, start = 0, time.process_time()
        for number in range(seed, seed + 8):
            env.reset(seed=number)
            done = False
            while not done:
                env.observe()
                done = env.step(expert(env)).done
                ticks += 1
        return ticks / (time.process_time() - start)

    for number in range(seed, seed + 60):  # so that the models are compiled
        bare.reset(seed=number)
    seeds = iter(range(seed, seed + 60))
    play()
    return {
        "build_ms": round(milliseconds(lambda: Scene(env.body, shapes, kinds), 10), 1),
        "reset_ms": round(milliseconds(lambda: bare.reset(seed=next(seeds)), 60), 2),
        "ticks_a_second": round(statistics.median(play() for _ in range(3))),
    }


def carry(env: TabletopEnv) -> None:
    """Play until the thing hangs before its bowl."""
    scene, expert, wanted = env.scene, TabletopExpert(), env.wanted
    while True:
        env.step(expert(env))
        place = scene.place(wanted.object)
        if scene.holds(wanted.object) and place[2] > 0.09:
            beside = place[:2] - scene.fixture(wanted.fixture)[:2]
            if np.hypot(*beside) < 0.22:
                return


def from_the_side(env: TabletopEnv, size: float) -> np.ndarray:
    """A picture that shows about `size` meters; the front camera is moved for it, and back."""
    model, data = env.scene.model, env.scene.data
    camera = model.camera("front").id
    kept = data.cam_xpos[camera].copy(), data.cam_xmat[camera].copy(), float(model.cam_fovy[camera])
    two = len(env.body.arms) > 1
    toward = np.array([1.0, -0.55, 0.5] if two else [0.50, -1.0, 0.33])
    middle, away = (np.array([0.0, 0.0, 0.16]), 2.6) if two else (np.array([0.28, 0.0, 0.27]), 2.2)
    backwards = toward / np.linalg.norm(toward)
    right = np.cross([0.0, 0.0, 1.0], backwards)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(backwards, right), backwards], axis=1)
    data.cam_xpos[camera] = size * (middle + away * backwards)
    data.cam_xmat[camera], model.cam_fovy[camera] = axes.ravel(), 27.0
    picture = render(model, data, "front", HEIGHT, HEIGHT * 5 // 4, look=VIDEO_LOOK)
    data.cam_xpos[camera], data.cam_xmat[camera], model.cam_fovy[camera] = kept
    return picture


def enlarged(view: np.ndarray) -> np.ndarray:
    """A view with its pixels as squares."""
    rows, columns = (np.arange(HEIGHT) * size // HEIGHT for size in view.shape[:2])
    return view[rows][:, columns]


def png(picture: np.ndarray) -> bytes:
    """A picture uint8 (height, width, 3) as a PNG file."""
    height, width, _ = picture.shape
    lines = b"".join(b"\0" + line.tobytes() for line in picture)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def draw(path: Path) -> None:
    """The picture of all bodies at work."""
    gap = np.full((HEIGHT, 6, 3), 255, np.uint8)
    rows = []
    for body in BODIES:
        env = TabletopEnv(body, rate=10)
        env.reset(seed=1)
        carry(env)
        seen = [enlarged(env.observe().images[view][0]) for view in ("front", env.body.arms[0].wrist)]
        drawn = [from_the_side(env, 1.0), from_the_side(env, env.body.scale)]
        drawn += [env.render("front", HEIGHT, HEIGHT), *seen]
        row = np.concatenate([part for picture in drawn for part in (picture, gap)][:-1], axis=1)
        rows += [row, np.full((6, row.shape[1], 3), 255, np.uint8)]
    path.write_bytes(png(np.concatenate(rows[:-1])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=BODIES, help="which to measure")
    parser.add_argument("--every-task", action="store_true", help="all that a body can do, not two or three")
    parser.add_argument("--episodes", type=int, default=300, help="episodes of the expert for each row")
    parser.add_argument("--seed", type=int, default=1000, help="first seed")
    parser.add_argument("--picture", type=Path, help="draw the bodies into this file, and measure nothing")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        draw(arguments.picture)
        return
    report: dict[str, Any] = {"mujoco": mujoco.__version__, "seed": arguments.seed}
    for body in arguments.bodies:
        report[body] = measure_speed(body, arguments.seed)
        print(f"{body:8} {report[body]}", flush=True)
        hands = len(lookup("embodiment", body).arms)
        rows = [("put_in", False), ("lift", False), ("put_in", True)]
        if hands == 2:
            rows += [("hand_over", False), ("hand_over", True)]
        if arguments.every_task:
            rows = [(task, disturbed) for task in playable(hands) for disturbed in (False, True)]
        for task, disturbed in rows:
            name = f"{task}, disturbed" if disturbed else task
            row = measure_expert(body, task, arguments.episodes, arguments.seed, disturbed)
            report[body][name] = row
            print(f"{body:8} {name:18} {row}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
