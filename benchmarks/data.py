"""Reading and writing data sets, side by side with lerobot in an environment of its own.

    ./run bench data --lerobot lerobot-env/bin/python [--rounds 5] [--samples 100] [--seed 0]
    ./run bench data --memory [--soak 50000] [--soak-videos 50000]       without lerobot: memory of a worker

The environment needs Python 3.12:

    python3.12 -m venv lerobot-env && lerobot-env/bin/pip install 'lerobot[dataset]==0.6.1'

Rendered episodes of the table top, two cameras of 224 pixels, are written by both. Samples (2 pictures a
camera, 16 actions) are then read by both from the files that lerobot wrote with its defaults. Both are
pinned to one core, rounds are interleaved, and the table has the median of rounds with minimum and
maximum. Rates of reading are compared by CPU time, which on one idle core is wall time and suffers little
from other work; wall time stands beside it. Writing and first batches, which wait for disk and processes, are
compared by wall time. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from peers.beside import Peer, Times, one_core, timed
from peers.beside import note as keep

from visuomotor.data.episode import EpisodeRecorder
from visuomotor.data.frames import Frames, VideoFrames
from visuomotor.data.lerobot import LeRobotReader, LeRobotWriter
from visuomotor.data.loader import Loader
from visuomotor.data.store import FrameStore
from visuomotor.data.windows import Windows
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.types import Camera, Dimension, Observation, Spec, Window

SIZE, RATE = 224, 10.0
WINDOW = Window(history=(-1, 0), horizon=16)
CAMERAS = ("front", "wrist")
WORDS = "put it in the bowl"


def render(episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Demonstrations with a little noise, all ticks one after the other."""
    env, expert = TabletopEnv(task="put_in", cameras=dict.fromkeys(CAMERAS, SIZE)), TabletopExpert()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*CAMERAS, "state", "action")}
    lengths, generator = [], np.random.default_rng(seed)
    for number in range(seed, seed + episodes):
        env.reset(seed=number)
        for length in range(1, env.max_ticks + 1):  # noqa: B007  (its last value is what is wanted)
            seen, action = env.observe(), expert(env)
            for camera in CAMERAS:
                rows[camera].append(seen.images[camera][0])
            rows["state"].append(seen.state[0])
            rows["action"].append(np.asarray(action, np.float32))
            if env.step(action + generator.normal(0, 0.01, action.shape) * (np.arange(len(action)) < 6)).done:
                break
        lengths.append(length)
    return {**{name: np.stack(values) for name, values in rows.items()}, "lengths": np.array(lengths)}


def spec_of(data: dict[str, np.ndarray]) -> Spec:
    state, action = (
        tuple(Dimension(name=f"d{i}") for i in range(data[n].shape[1])) for n in ("state", "action")
    )
    cameras = tuple(Camera(name=name, height=SIZE, width=SIZE) for name in CAMERAS)
    return Spec(embodiment="bench", cameras=cameras, state=state, action=action, rate=RATE)


def write(data: dict[str, np.ndarray], spec: Spec, folder: Path) -> None:
    """The same as the peer's, with our own interface and defaults."""
    shutil.rmtree(folder, ignore_errors=True)
    tick = 0
    with LeRobotWriter(folder, spec) as writer:
        for length in data["lengths"].tolist():
            recorder = EpisodeRecorder(spec)
            for _ in range(length):
                images = {camera: data[camera][tick][None] for camera in CAMERAS}
                seen = Observation(
                    images=images, state=data["state"][tick][None], instruction=WORDS, embodiment="bench"
                )
                recorder.tick(seen, data["action"][tick])
                tick += 1
            writer.add(recorder.finish())


def decode_plainly(folder: Path) -> None:
    """Every picture of every video as PyAV's own example does it."""
    for path in sorted(folder.glob("videos/*/*/*.mp4")):
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


def equal_values(peer: Peer, windows: Windows, rows: list[int], folder: Path) -> int:
    """In how many samples every picture, state and action has the very same values as lerobot's."""
    found = 0
    for row in rows:
        peer("values", row=row, out=str(folder / "sample.npz"))
        theirs, ours = np.load(folder / "sample.npz"), windows[row]
        same = np.array_equal(theirs["action"], ours.actions) and np.array_equal(
            theirs["observation.state"], ours.state
        )
        for camera in CAMERAS:
            pictures = theirs[f"observation.images.{camera}"]  # time channel height width
            same = same and np.array_equal(pictures.transpose(0, 2, 3, 1), ours.images[camera])
        found += bool(same)
    return found


def memory(pid: int) -> dict[str, float]:
    """Megabytes of a process: `private` are its own, `resident` all, with what it has mapped of files."""
    names = {"Rss": "resident", "Anonymous": "private"}
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name in names:
            found[names[name]] = round(int(amount.split()[0]) / 1024, 1)
    if len(found) != len(names):
        raise RuntimeError("the system does not tell the memory of a process")
    return found


def soak(windows: Windows, samples: int, seed: int) -> dict[str, Any]:
    """Memory of one worker after each tenth of `samples` random samples, and how fast it grows."""
    size, points = 50, 10
    each = max(1, samples // size // points)
    found: dict[str, list[float]] = {"private": [], "resident": []}
    with Loader(windows, batch_size=size, seed=seed, workers=1) as loader:
        assert loader._workers is not None
        for step in range(each * points):
            loader.batch(step)
            if (step + 1) % each == 0:
                for name, amount in memory(loader._workers.processes[0]).items():
                    found[name].append(amount)
    slopes = {f"{name}_mb_per_10000": slope(size * each, values) for name, values in found.items()}
    return {"samples": size * each * points, **found, **slopes}


def slope(each: int, values: Sequence[float]) -> list[float]:
    """Growth a 10,000 samples by least squares, and its 95 % interval; a value every `each` samples."""
    x, y = np.arange(len(values)) * each / 1e4, np.array(values)
    x = x - x.mean()
    rise = float(x @ y / (x @ x))
    rest = y - y.mean() - rise * x
    error = float(np.sqrt(rest @ rest / (len(y) - 2) / (x @ x)))
    student = 2.306  # 97.5 % quantile of t with 8 degrees of freedom, for ten values
    return [round(value, 3) for value in (rise, rise - student * error, rise + student * error)]


def tell_memory(facts: dict[str, dict[str, Any]]) -> None:
    """One line for each source of pictures and kind of memory."""
    for source, told in facts.items():
        for kind in ("private", "resident"):
            rise, low, high = told[f"{kind}_mb_per_10000"]
            print(
                f"{kind} memory of a worker, {source}, {told['samples']} samples: {told[kind]} MB after each "
                f"tenth; {rise:+.2f} ({low:+.2f} to {high:+.2f}) MB a 10,000 samples"
            )


def only_memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The memory test alone, on a data set of our own."""
    data = render(args.episodes, 5000 + args.seed)
    write(data, spec_of(data), folder / "ours")
    reader = LeRobotReader(folder / "ours")
    frames: dict[str, Frames] = {
        "store": FrameStore.of(reader, folder / "cache", storage="raw"),
        "no_cache": VideoFrames(reader),
    }
    counts = {"store": args.soak, "no_cache": args.soak_videos}
    return {
        name: soak(Windows(reader, source, WINDOW, "bench"), counts[name], args.seed)
        for name, source in frames.items()
        if counts[name]
    }


def read(windows: Windows, rows: list[int]) -> None:
    for row in rows:
        windows[row]


def first_batch(windows: Windows, seed: int) -> float:
    began = time.perf_counter()
    with Loader(windows, batch_size=8, seed=seed, workers=2) as loader:
        loader.batch(0)
        return time.perf_counter() - began


def measure(args: argparse.Namespace, folder: Path) -> tuple[Times, dict[str, Any]]:
    """All rounds: rates a second, or seconds where the name ends in `_s`."""
    peer = Peer(args.lerobot, "lerobot_data.py", folder / "lerobot.log")
    versions = peer("versions")
    data = render(args.episodes, 5000 + args.seed)
    np.savez(folder / "frames.npz", **data)
    spec, pictures = spec_of(data), 2 * int(data["lengths"].sum())
    times: Times = {}

    def note(name: str, amount: float, answer: dict[str, float]) -> None:
        keep(times, name, answer, amount)

    with one_core(peer, args.core):
        for _ in range(args.write_rounds):
            note(
                "write lerobot",
                pictures,
                peer("write", frames=f"{folder}/frames.npz", folder=f"{folder}/theirs"),
            )
            note("write ours", pictures, timed(lambda: write(data, spec, folder / "ours")))
    reader = LeRobotReader(folder / "theirs", spec)
    peer("open", folder=f"{folder}/theirs", history=list(WINDOW.history), horizon=WINDOW.horizon)
    with one_core(peer, args.core):
        for _ in range(args.rounds):
            note("decode PyAV", pictures, timed(lambda: decode_plainly(folder / "theirs")))
            shutil.rmtree(folder / "cache", ignore_errors=True)
            note(
                "build",
                pictures,
                timed(lambda: FrameStore.of(reader, folder / "cache", storage="raw", threads=1)),
            )
    store = FrameStore.of(reader, folder / "cache", storage="raw")
    sources: dict[str, Frames] = {"no cache": VideoFrames(reader), "store": store}
    windows = {name: Windows(reader, frames, WINDOW, "bench") for name, frames in sources.items()}
    generator = np.random.default_rng(args.seed)

    def rows(count: int) -> list[int]:
        return generator.integers(0, len(reader), count).tolist()

    equal = equal_values(peer, windows["no cache"], rows(16), folder)
    with one_core(peer, args.core):
        peer("random", rows=rows(10))  # warm
        for _ in range(args.rounds):
            chosen = rows(args.samples)
            note("samples lerobot", len(chosen), peer("random", rows=chosen))
            note("samples no cache", len(chosen), timed(partial(read, windows["no cache"], chosen)))
            note("samples store", 20 * len(chosen), timed(partial(read, windows["store"], chosen * 20)))
    for number in range(args.first_rounds):
        times.setdefault("first batch ours, store_s", []).append(first_batch(windows["store"], number))
        times.setdefault("first batch ours, no cache_s", []).append(first_batch(windows["no cache"], number))
        times.setdefault("first batch lerobot_s", []).append(
            peer("first_batch", batch_size=8, workers=2)["seconds"]
        )
    facts = {
        "memory": {
            "store": soak(windows["store"], args.soak, args.seed),
            "no_cache": soak(windows["no cache"], args.soak_videos, args.seed),
        },
        "samples_with_equal_values": f"{equal} of 16",
        "pictures": pictures,
        "lerobot": versions,
    }
    return times, facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lerobot", default=os.environ.get("LEROBOT_PYTHON"), help="its Python; or $LEROBOT_PYTHON"
    )
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write-rounds", type=int, default=2)
    parser.add_argument("--first-rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=100, help="a round")
    parser.add_argument("--soak", type=int, default=50_000, help="samples of the memory test, from the store")
    parser.add_argument("--soak-videos", type=int, default=50_000, help="the same, from the videos")
    parser.add_argument("--memory", action="store_true", help="the memory test alone, which needs no lerobot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, default=0, help="on which both run, but for the first batches")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
            found = only_memory(args, Path(name))
        tell_memory(found)
        save({"memory": found, **circumstances(args.seed)}, args.out)
        return
    if not args.lerobot:
        parser.error("--lerobot: expected the Python of an environment with lerobot 0.6.1. " + str(__doc__))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-data-") as name:
        times, facts = measure(args, Path(name))
    middle = {what: statistics.median(values) for what, values in times.items()}
    print(f"{'':34}{'median':>10}{'min':>10}{'max':>10}    n")
    for what, values in times.items():
        unit = "s" if what.endswith("_s") else "/s"
        numbers = "".join(f"{value:10.2f}" for value in (middle[what], min(values), max(values)))
        print(f"{what.removesuffix('_s'):34}{numbers} {unit:2} {len(values)}")

    def ratio(ours: str, theirs: str) -> float:
        return round(middle[ours] / middle[theirs], 2)

    result = {
        "no_cache": ratio("samples no cache (CPU)", "samples lerobot (CPU)"),
        "no_cache_wall": ratio("samples no cache", "samples lerobot"),
        "store": ratio("samples store (CPU)", "samples lerobot (CPU)"),
        "store_wall": ratio("samples store", "samples lerobot"),
        "build": ratio("build (CPU)", "decode PyAV (CPU)"),
        "build_wall": ratio("build", "decode PyAV"),
        "write": ratio("write ours", "write lerobot"),
        "first_batch_s": round(middle["first batch ours, store_s"], 2),
        "first_batch_no_cache_s": round(middle["first batch ours, no cache_s"], 2),
        "first_batch_lerobot_s": round(middle["first batch lerobot_s"], 2),
        **facts,
        "rounds": {what: [round(value, 3) for value in values] for what, values in times.items()},
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        **circumstances(args.seed),
    }
    tell_memory(facts["memory"])
    print(f"samples with the same values as lerobot's: {facts['samples_with_equal_values']}")
    save(result, args.out)


def circumstances(seed: int) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "av", "numpy", "pyarrow")}
    return {
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {**versions, "python": platform.python_version()},
    }


def save(result: dict[str, Any], out: Path | None) -> None:
    """Write the JSON object if asked to, and print it as the last line."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
