"""How few tokens the FAST codec needs, how fast it is, and what bins do to a task that needs precision.

    ./run bench codecs [--episodes 60] [--task all] [--scenes 100] [--out FOLDER]
    ./run bench codecs --episodes 0 --scenes 0 --data outputs/demo/data --horizon 8 --scales 10 25 50

Compression: the expert's actions (hand deltas, Panda) played in the table top world at 5, 10, 25 and 50 ticks
a second; 20, which is no multiple of the physics' step, is made from 50 by adding up the deltas and reading
them 20 times a second. Chunks last one second. The codec is fitted on the chunks of two thirds of the
episodes and measured on those of the rest; the interval of the tokens a chunk is 2.5 and 97.5 % of 2000
bootstraps over these episodes. `--data` adds a data set as it is, at its own rate, for each of `--scales`.

Quantization: the expert plays *insert*, each of its actions through a codec of 8 to 256 bins, over the body's
limits.

The last line is one JSON object, which `--out` keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codecs.base import Codec, DecodeFailure
from visuomotor.codecs.bins import RT1Bins, UniformBins
from visuomotor.codecs.fast import FAST
from visuomotor.data.chunks import action_chunks
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.stats import summarize
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.evaluation.statistics import wilson
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.transforms.normalize import Normalize
from visuomotor.types import Spec

PLAYED = (5, 10, 25, 50)
BINS = (8, 16, 32, 64, 128, 256)
RULES: dict[str, Callable[[int], Codec]] = {
    "bins": lambda bins: UniformBins(bins, horizon=1, action=7),
    "rt1_bins": lambda bins: RT1Bins(vocabulary=bins, horizon=1, action=7),
}
PUBLISHED = (("BridgeV2", 5, 1.75), ("DROID", 15, 3.6), ("Bussing", 20, 5.0), ("Shirt fold", 50, 13.2))
"""Name, rate and ratio: Pertsch et al. 2025, table 1."""


def play(
    env: TabletopEnv, seed: int, change: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, bool]:
    """The actions of one episode of the expert, changed before they run, and whether it succeeded."""
    expert, actions = TabletopExpert(), []
    env.reset(seed=seed)
    while True:
        action = expert(env)
        actions.append(action if change is None else change(action))
        status = env.step(actions[-1])
        if status.done:
            return np.stack(actions), status.success


def resample(actions: np.ndarray, spec: Spec, rate: float) -> np.ndarray:
    """Hand deltas (tick, action) at another rate: their sum read at other times, the gripper as it was."""
    moves = np.array([dimension.kind.endswith("_delta") for dimension in spec.action])
    count = max(1, round(len(actions) * rate / spec.rate))
    before = np.arange(len(actions) + 1) / spec.rate
    wanted = np.minimum(np.arange(count + 1) / rate, before[-1])
    summed = np.concatenate([np.zeros((1, len(moves))), np.cumsum(actions, axis=0)])
    deltas = np.diff([np.interp(wanted, before, column) for column in summed.T], axis=1).T
    latest = actions[np.minimum((wanted[:-1] * spec.rate + 1e-6).astype(int), len(actions) - 1)]
    return np.where(moves, deltas, latest).astype(np.float32)


def windows(episodes: list[np.ndarray], horizon: int) -> list[np.ndarray]:
    """The chunk that begins at each tick of each episode, the last action repeated."""
    parts = []
    for actions in episodes:
        ticks = np.arange(len(actions))[:, None] + np.arange(horizon)
        parts.append(actions[np.minimum(ticks, len(actions) - 1)])
    return parts


def microseconds(work: Callable[[Any], Any], inputs: list[Any]) -> float:
    """Median CPU time of one call."""
    spent = []
    for one in inputs:
        start = time.process_time()
        work(one)
        spent.append(1e6 * (time.process_time() - start))
    return statistics.median(spent)


def thinned(chunks: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spaced."""
    return chunks[np.linspace(0, len(chunks) - 1, min(most, len(chunks))).astype(int)]


def mean_with_interval(values: np.ndarray, episodes: np.ndarray) -> tuple[float, float, float]:
    """Mean over all chunks, and its interval if other episodes had been played."""
    sums, counts = (np.bincount(episodes, weights) for weights in (values, np.ones(len(values))))
    picks = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    again = sums[picks].sum(1) / np.maximum(counts[picks].sum(1), 1)
    low, high = np.quantile(again, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def compress(
    episodes: list[np.ndarray], *, scale: float = 10.0, vocabulary: int = 1024, most: int = 2000
) -> dict[str, Any]:
    """Tokens, error and time of FAST after fitting on two thirds of the episodes, on those of the rest.

    Args:
        episodes: Chunks (tick, horizon, action) of each, in robot units.
        scale: See `FAST`.
        vocabulary: Likewise.
        most: Chunks to fit on; a quarter as many are measured.
    """
    split = 2 * len(episodes) // 3
    fitted = thinned(np.concatenate(episodes[:split]), most)
    summary = summarize(fitted.reshape(-1, fitted.shape[2]))
    space = Normalize(state=summary, action=summary, mode="quantile")
    start = time.process_time()
    codec = FAST.fit(space.normalized(fitted), scale=scale, vocabulary=vocabulary)
    seconds = time.process_time() - start
    held = np.concatenate(episodes[split:])
    origin = np.repeat(np.arange(len(episodes) - split), [len(chunks) for chunks in episodes[split:]])
    chunks, origin = space.normalized(thinned(held, most // 4)), thinned(origin, most // 4)
    tokens = [codec.encode(chunk) for chunk in chunks]
    errors = []
    for chunk, said in zip(chunks, tokens, strict=True):
        back = codec.decode(said)
        assert not isinstance(back, DecodeFailure), back.reason
        errors.append(np.abs(back - chunk))
    lengths = np.array([len(said) for said in tokens])
    mean, low, high = mean_with_interval(lengths, origin)
    naive = held.shape[1] * held.shape[2]
    return {
        "dim": held.shape[2],
        "horizon": held.shape[1],
        "scale": scale,
        "naive": naive,
        "tokens": mean,
        "tokens_interval": [low, high],
        "tokens_90": float(np.quantile(lengths, 0.9)),
        "ratio": naive / mean,
        "ratio_interval": [naive / high, naive / low],
        "mean_error": float(np.mean(errors)),
        "worst_of_a_chunk": float(np.median([error.max() for error in errors])),
        "largest_error": float(np.max(errors)),
        "bound": codec.rounding_bound,
        "vocabulary": codec.vocabulary,
        "fitted_chunks": len(fitted),
        "chunks": len(chunks),
        "fit_seconds": seconds,
        "encode_us": microseconds(codec.encode, list(chunks[:200])),
        "decode_us": microseconds(codec.decode, tokens[:200]),
    }


def say(row: dict[str, Any]) -> None:
    """One row for a person."""
    low, high = row["tokens_interval"]
    print(
        f"{row['rate']:3d} Hz  scale {row['scale']:g}  {row['naive']:4d} -> {row['tokens']:5.1f} "
        f"({low:.1f} to {high:.1f}) tokens  {row['ratio']:.2f}  largest error {row['largest_error']:.3f}",
        flush=True,
    )


def measure_expert(task: str, episodes: int, seed: int) -> list[dict[str, Any]]:
    """A row for each rate at which the expert plays."""
    rows = []
    for rate in PLAYED if episodes else ():
        env = TabletopEnv(task=task, cameras={}, rate=rate)
        played = [play(env, seed + number) for number in range(episodes)]
        found = [(rate, f"rate={rate}", [actions for actions, _ in played])]
        if rate == 50:
            found.append((20, "made from 50", [resample(actions, env.spec, 20) for actions, _ in played]))
        for at, source, actions in found:
            row = compress(windows(actions, at))
            solved = sum(success for _, success in played)
            rows.append({"rate": at, "source": source, "episodes": episodes, "solved": solved, **row})
            say(rows[-1])
    return sorted(rows, key=lambda row: row["rate"])


def measure_data(
    data: Path, horizon: int | None, scales: list[float], vocabulary: int
) -> list[dict[str, Any]]:
    """A row for each scale, of a data set."""
    reader = LeRobotReader(data)
    each = range(len(reader.episodes))
    episodes = [action_chunks(reader, horizon or round(reader.rate), [number]) for number in each]
    rows = []
    for scale in scales:
        row = compress(episodes, scale=scale, vocabulary=vocabulary)
        rows.append({"rate": round(reader.rate), "source": reader.source, "episodes": len(episodes), **row})
        say(rows[-1])
    return rows


def measure_quantization(task: str, scenes: int, seed: int) -> list[dict[str, Any]]:
    """Success of the expert, scene by scene the same, when its actions go through bins."""
    env = TabletopEnv(task=task, cameras={})
    low, high = (np.array([getattr(d, side) for d in env.spec.action]) for side in ("low", "high"))
    middle, half = (low + high) / 2, (high - low) / 2

    def arm(name: str, bins: int | None, codec: Codec | None) -> dict[str, Any]:
        errors: list[np.ndarray] = []

        def change(action: np.ndarray) -> np.ndarray:
            if codec is None:
                return action
            back = codec.decode(codec.encode(((action - middle) / half)[None]))
            assert not isinstance(back, DecodeFailure), back.reason
            quantized = (back[0] * half + middle).astype(np.float32)
            errors.append(np.abs(quantized - action))
            return quantized

        successes = sum(play(env, seed + number, change)[1] for number in range(scenes))
        interval = wilson(successes, scenes)
        print(f"{name:9s} {bins or '':4}  {successes} of {scenes}", flush=True)
        return {
            "rule": name,
            "bins": bins,
            "successes": successes,
            "n": scenes,
            "low": interval[0],
            "high": interval[1],
            "error_mm": 1e3 * float(np.mean([error[:3] for error in errors])) if errors else 0.0,
            "error_bound": None if codec is None else codec.error_bound,
        }

    rows = [arm("none", None, None)]
    return rows + [arm(name, bins, make(bins)) for name, make in RULES.items() for bins in BINS]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--task", default="all", help="task or suite whose actions are compressed")
    words.add_argument("--episodes", type=int, default=60, help="of each rate; 0 leaves them out")
    words.add_argument("--seed", type=int, default=0, help="of the first episode that is compressed")
    words.add_argument("--data", type=Path, help="a data set to compress as well")
    words.add_argument("--horizon", type=int, help="ticks of its chunks; those of a second if none")
    words.add_argument("--scales", type=float, nargs="+", default=[10.0], help="of its coefficients")
    words.add_argument("--vocabulary", type=int, default=1024, help="most tokens of its codec")
    words.add_argument("--scenes", type=int, default=100, help="of each number of bins; 0 leaves them out")
    words.add_argument("--scene-seed", type=int, default=900_000, help="of the first scene with bins")
    words.add_argument("--out", type=Path, help="folder for report.json")
    given = words.parse_args()
    report: dict[str, Any] = {
        "compression": measure_expert(given.task, given.episodes, given.seed),
        "published": [{"data": name, "rate": rate, "ratio": ratio} for name, rate, ratio in PUBLISHED],
    }
    if given.data is not None:
        report["data"] = measure_data(given.data, given.horizon, given.scales, given.vocabulary)
    if given.scenes:
        report["quantization"] = measure_quantization("insert", given.scenes, given.scene_seed)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
