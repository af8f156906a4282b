"""Makes tests/parity/lerobot_golden: data sets that lerobot 0.6.1 wrote, and what it reads from them.

lerobot 0.6.1 needs Python 3.12 and cannot share an environment with the newest torch, so it gets one
of its own, and its answers are kept as files:

    python3.12 -m venv /tmp/lerobot-env
    /tmp/lerobot-env/bin/pip install "lerobot[dataset]==0.6.1"
    /tmp/lerobot-env/bin/python tests/parity/make_lerobot_golden.py [NAME ...]

Each folder is a data set with `answers.npz` beside it: for some ticks (the first and the last of each
episode among them) every key of `LeRobotDataset[tick]`, with and without `delta_timestamps`. Pictures
are kept as uint8, depth as float32. `v21` is written as lerobot 0.3.3 lays it out, read through the
converter of 0.6.1; its `datasets` part (columns, hugging-face metadata) is real. `jpeg` has JPEG in the
place of the PNG that lerobot writes, as converters from other formats leave it. v2.0, which 0.6.1 does not
read, has a script of its own, `make_lerobot_golden_v20.py`.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from lerobot.configs import DepthEncoderConfig, RGBEncoderConfig
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset
from PIL import Image

GOLDEN = Path(__file__).parent / "lerobot_golden"
RATE = 10
LENGTHS = (5, 2, 7, 4)
TASKS = ("push the red cube", "lift it")
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "gripper"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["da", "gripper"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "exact": {"dtype": "float64", "shape": (1,), "names": None},
    "exact.vector": {"dtype": "float64", "shape": (2,), "names": None},
    "half": {"dtype": "float16", "shape": (2,), "names": None},
    "count": {"dtype": "int64", "shape": (1,), "names": None},
    "small": {"dtype": "int32", "shape": (2,), "names": None},
    "bytes": {"dtype": "uint8", "shape": (4,), "names": None},
    "flags": {"dtype": "bool", "shape": (3,), "names": None},
    "answer": {"dtype": "string", "shape": (1,), "names": None},
    "matrix": {"dtype": "float32", "shape": (2, 3), "names": None},
    "block": {"dtype": "int64", "shape": (2, 1, 2), "names": None},
    "deep": {"dtype": "float64", "shape": (1, 2, 1, 2), "names": None},
}
DELTAS = {
    "observation.state": [-0.3, -0.1, 0.0],
    "action": [0.0, 0.1, 0.2, 0.3],
    "matrix": [0.1],
    "flags": [-0.1, 0.0],
}


def picture(shape: tuple[int, int, int], tick: int, episode: int) -> np.ndarray:
    """A shaded ground with a square that moves by three pixels a tick, another color in each episode."""
    width = shape[1]
    found = np.full(shape, 60 + 30 * episode, np.uint8)
    found[:, :, 1] += np.arange(width, dtype=np.uint8)[None]
    found[4:20, 2 + 3 * tick : 18 + 3 * tick] = (220, 40 + 50 * episode, 90)
    return found


def numbers(features: dict, generator: np.random.Generator) -> dict:
    """Random values of every feature that is not a picture."""
    found: dict = {}
    for name, feature in features.items():
        dtype, shape = feature["dtype"], feature["shape"]
        if dtype == "string":
            found[name] = f"ein Würfel, {generator.integers(1000)}"
        elif dtype == "bool":
            found[name] = generator.random(shape) < 0.5
        elif dtype.startswith(("int", "uint")):
            found[name] = generator.integers(0, 200, shape).astype(dtype)
        elif dtype not in ("image", "video"):
            found[name] = generator.normal(size=shape).astype(dtype)
    return found


def record(
    name: str, cameras: dict, lengths: tuple[int, ...] = LENGTHS, extra: dict | None = None, **options
) -> Path:
    """A data set that lerobot writes."""
    folder = GOLDEN / name / "set"
    features = {**(FEATURES if extra is None else extra), **cameras}
    encoder = RGBEncoderConfig(crf=20)
    chunks_size = options.pop("chunks_size", 1000)
    dataset = LeRobotDataset.create(
        f"golden/{name}", RATE, features, root=folder, robot_type="golden", rgb_encoder=encoder, **options
    )
    dataset.meta.info.chunks_size = chunks_size
    generator = np.random.default_rng(0)
    for episode, length in enumerate(lengths):
        for tick in range(length):
            frame = numbers(features, generator)
            for key, feature in cameras.items():
                height, width, channels = feature["shape"]
                if channels == 3:
                    frame[key] = picture(feature["shape"], tick, episode)
                else:
                    meters = 0.3 + 0.01 * np.arange(height * width).reshape(height, width, 1) + 0.1 * tick
                    metric = key.endswith("float")
                    frame[key] = meters.astype(np.float32) if metric else (1000 * meters).astype(np.uint16)
            dataset.add_frame({**frame, "task": TASKS[(episode + tick // 4) % 2]})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return folder


def plain(key: str, value) -> np.ndarray:
    """What is kept of one answer; pictures as uint8."""
    if isinstance(value, str):
        return np.array(value)
    values = value.numpy()
    if key.startswith("observation.images.") and not key.endswith("_is_pad") and values.shape[-3] == 3:
        values = np.rint(values * 255).astype(np.uint8) if values.dtype != np.uint8 else values
    return values


def answer(folder: Path, deltas: dict, ticks: list[int], place: Path, **options) -> None:
    """Keep what LeRobotDataset says at `ticks`: one array a key, first axis tick."""
    kept: dict[str, np.ndarray] = {"ticks": np.array(ticks)}
    for kind, delta in (("plain", None), ("deltas", deltas)):
        dataset = LeRobotDataset(
            "golden/any",
            root=folder,
            delta_timestamps=delta,
            video_backend="pyav",
            return_uint8=True,
            **options,
        )
        rows = [dataset[tick] for tick in ticks]
        for key in rows[0]:
            if key in (delta or {}) or f"{key.removesuffix('_is_pad')}" in (delta or {}) or delta is None:
                kept[f"{kind}|{key}"] = np.stack([plain(key, row[key]) for row in rows])
    np.savez_compressed(place / "answers.npz", **kept)
    (place / "deltas.json").write_text(json.dumps(deltas) + "\n")


def shrink() -> None:
    """Drop the statistics of episodes, which take most of the bytes and are never read."""
    for path in GOLDEN.glob("*/set/meta/episodes/*/*.parquet"):
        table = pq.read_table(path)
        if not any(n.startswith("stats/") for n in table.column_names):
            continue
        pq.write_table(table.select([n for n in table.column_names if not n.startswith("stats/")]), path)
    shutil.rmtree(GOLDEN / "depth/set/images", ignore_errors=True)


def edges(lengths: tuple[int, ...]) -> list[int]:
    """First, second and last tick of each episode."""
    found, start = set(), 0
    for length in lengths:
        found |= {start, min(start + 1, start + length - 1), start + length - 1}
        start += length
    return sorted(found)


def camera(height: int, width: int, dtype: str, channels: int = 3, **info) -> dict:
    names = ["height", "width", "channels"]
    return {
        "dtype": dtype,
        "shape": (height, width, channels),
        "names": names,
        **({"info": info} if info else {}),
    }


def videos() -> None:
    """Every dtype, and two cameras as AV1 video, in many files and chunks."""
    cameras = {
        "observation.images.front": camera(64, 96, "video"),
        "observation.images.wrist": camera(64, 64, "video"),
    }
    folder = GOLDEN / "videos" / "set"
    record("videos", cameras, use_videos=True)
    answer(folder, {**DELTAS, "observation.images.front": [-0.3, -0.1, 0.0]}, edges(LENGTHS), folder.parent)


def chunks() -> None:
    """A file an episode, two files a chunk."""
    cameras = {"observation.images.front": camera(64, 64, "video")}
    extra = {name: FEATURES[name] for name in ("observation.state", "action")}
    small = {"data_files_size_in_mb": 1e-6, "video_files_size_in_mb": 1e-6, "chunks_size": 2}
    lengths = (2, 3, 2, 4, 2)
    folder = record("chunks", cameras, lengths, extra, use_videos=True, **small)
    answer(folder, {"action": [0.0, 0.1]}, edges(lengths), folder.parent)


def images() -> None:
    """Pictures as PNG and depth as TIFF, inside of the tables."""
    cameras = {
        "observation.images.front": camera(12, 16, "image"),
        "observation.images.depth": camera(12, 16, "image", 1, is_depth_map=True),
        "observation.images.depth_float": camera(12, 16, "image", 1, is_depth_map=True),
    }
    lengths = (3, 2)
    extra = {name: FEATURES[name] for name in ("observation.state", "action")}
    folder = record("images", cameras, lengths, extra, use_videos=False)
    answer(
        folder,
        {"observation.images.front": [-0.1, 0.0]},
        edges(lengths),
        folder.parent,
        depth_output_unit="m",
    )


def jpeg() -> None:
    """Pictures as JPEG inside of the tables: colors at half and at full resolution, and levels of gray."""
    cameras = {f"observation.images.{name}": camera(48, 64, "image") for name in ("half", "full", "gray")}
    lengths = (3, 2)
    extra = {name: FEATURES[name] for name in ("observation.state", "action")}
    folder = record("jpeg", cameras, lengths, extra, use_videos=False)
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for name, mode, sampling in (("half", "RGB", 2), ("full", "RGB", 0), ("gray", "L", 0)):
        column = table.column_names.index(f"observation.images.{name}")
        values = []
        for value in table[column].to_pylist():
            file = io.BytesIO()
            image = Image.open(io.BytesIO(value["bytes"])).convert(mode)
            image.save(file, "JPEG", quality=95, subsampling=sampling)
            values.append({"bytes": file.getvalue(), "path": None})
        told = table.schema.field(column)
        table = table.set_column(column, told, pa.array(values, told.type))
    pq.write_table(table, path, row_group_size=3)
    answer(folder, {"observation.images.half": [-0.1, 0.0]}, edges(lengths), folder.parent)


def depth() -> None:
    """Depth as 12-bit video.

    Without B frames, as with them lerobot 0.6.1 cannot join short episodes; and tick 3 is left out: it seeks
    a moment too far back for the first picture of the second episode and finds none.
    """
    cameras = {
        "observation.images.front": camera(64, 64, "video"),
        "observation.images.depth": camera(64, 64, "video", 1, is_depth_map=True),
    }
    lengths = (3, 2)
    extra = {name: FEATURES[name] for name in ("observation.state", "action")}
    encoder = DepthEncoderConfig(extra_options={"x265-params": "lossless=1:bframes=0"})
    folder = record("depth", cameras, lengths, extra, use_videos=True, depth_encoder=encoder)
    answer(folder, {"action": [0.0, 0.1]}, [0, 1, 2, 4], folder.parent, depth_output_unit="m")


def version21() -> None:
    """The numbers of `videos` laid out as v2.1: a table and a video an episode."""
    deltas = {name: DELTAS[name] for name in ("observation.state", "action", "flags")}
    source = LeRobotDataset("golden/videos", root=GOLDEN / "videos" / "set")
    place = GOLDEN / "v21"
    folder = place / "set"
    features = {key: dict(feature) for key, feature in source.meta.features.items()}
    for name in ("observation.images.wrist", "matrix", "block", "deep"):
        del features[name]  # the converter of lerobot 0.6.1 fails on columns of more than one axis
    kind = get_hf_features_from_features(features)
    whole = source.hf_dataset.with_format(None)
    (folder / "meta").mkdir(parents=True)
    lines: dict[str, list] = {"episodes": [], "episodes_stats": [], "tasks": []}
    lines["tasks"] = [
        {"task_index": index, "task": task} for index, task in enumerate(source.meta.tasks.index)
    ]
    import av

    start = 0
    for episode, length in enumerate(LENGTHS):
        rows = whole.select(range(start, start + length))
        path = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({name: rows[name] for name in kind}, features=kind).to_parquet(path)
        video = folder / f"videos/chunk-000/observation.images.front/episode_{episode:06d}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(video), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"g": "2", "crf": "20"})
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for tick in range(length):
                frame = av.VideoFrame.from_ndarray(picture((64, 96, 3), tick, episode))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        used = [TASKS[(episode + tick // 4) % 2] for tick in range(length)]
        lines["episodes"].append(
            {"episode_index": episode, "tasks": list(dict.fromkeys(used)), "length": length}
        )
        figures = {}
        for name in ("observation.state", "action"):
            values = np.array(rows[name])
            figures[name] = {
                **{how: getattr(values, how)(0).tolist() for how in ("min", "max", "mean", "std")},
                "count": [length],
            }
        lines["episodes_stats"].append({"episode_index": episode, "stats": figures})
        start += length
    for name, entries in lines.items():
        (folder / f"meta/{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    info = {
        "codebase_version": "v2.1",
        "robot_type": "golden",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TASKS),
        "total_videos": len(LENGTHS),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": RATE,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {key: {**feature, "shape": list(feature["shape"])} for key, feature in features.items()},
    }
    (folder / "meta/info.json").write_text(json.dumps(info, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "set"))
        convert_dataset(repo_id="golden/v21", root=copy, push_to_hub=False)
        answer(copy, {**deltas, "observation.images.front": [-0.3, -0.1, 0.0]}, edges(LENGTHS), place)


if __name__ == "__main__":
    torch.set_num_threads(1)
    makers = {
        "videos": videos,
        "chunks": chunks,
        "images": images,
        "jpeg": jpeg,
        "depth": depth,
        "v21": version21,
    }
    for name in sys.argv[1:] or makers:
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        makers[name]()
    shrink()
    size = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    print(f"{size / 1000:.0f} KB in {GOLDEN}")
