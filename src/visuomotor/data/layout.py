"""Names, templates and schemas of a LeRobot data set on disk. Version 3.0:

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/visuomotor.json (ours)
    meta/subtasks.parquet, where each tick has a subtask
    meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet
    videos/observation.images.<camera>/chunk-000/file-000.mp4

Versions 2.0 and 2.1 have a file an episode, and lists of JSON lines:

    meta/tasks.jsonl  meta/episodes.jsonl  meta/episodes_stats.jsonl (2.1)  meta/stats.json (2.0)
    data/chunk-000/episode_000000.parquet
    videos/chunk-000/observation.images.<camera>/episode_000000.mp4

Seen in data sets that lerobot 0.6.1 wrote or converts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa

from visuomotor.data.depth_track import depth_info
from visuomotor.data.features import Feature
from visuomotor.data.stats import Spread
from visuomotor.data.video import Settings, VideoSettings
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Spec

__all__ = [
    "ACTION",
    "DATA_PATH",
    "DATA_PATH_2",
    "EPISODES_LINES",
    "EPISODES_PATH",
    "EXECUTED",
    "FILES_PER_CHUNK",
    "INFO",
    "SCALARS",
    "SIDECAR",
    "STATE",
    "STATS",
    "STATS_LINES",
    "SUBTASKS",
    "SUBTASKS_LINES",
    "SUBTASK_INDEX",
    "TASKS",
    "TASKS_LINES",
    "VERSION",
    "VERSIONS_2",
    "VERSION_21",
    "VIDEO_PATH",
    "VIDEO_PATH_2",
    "camera_key",
    "data_table",
    "episodes_table",
    "extra_columns",
    "feature_keys",
    "features",
    "place",
    "safe_path",
    "stats_columns",
    "stills_array",
    "tasks_table",
]

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
SUBTASKS, SUBTASK_INDEX = "meta/subtasks.parquet", "subtask_index"
SIDECAR = "meta/visuomotor.json"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
VERSION_21 = "v2.1"
VERSIONS_2 = ("v2.0", VERSION_21)
TASKS_LINES, SUBTASKS_LINES = "meta/tasks.jsonl", "meta/subtasks.jsonl"
EPISODES_LINES, STATS_LINES = "meta/episodes.jsonl", "meta/episodes_stats.jsonl"
DATA_PATH_2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH_2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
FILES_PER_CHUNK = 1000
STATE, ACTION, EXECUTED = "observation.state", "action", "action.executed"
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_FORM = re.compile(r"0?\d{0,2}d?")
_CAMERA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def camera_key(camera: str) -> str:
    """Feature name of a camera; `DataError` if the name could leave its folder."""
    if not _CAMERA_NAME.fullmatch(camera):
        raise DataError(
            f"camera {camera!r}: expected a name of letters, digits, '_', '-' and '.'. Rename the camera."
        )
    return f"observation.images.{camera}"


def feature_keys(spec: Spec, given: Mapping[str, str]) -> dict[str, str]:
    """ "state", "action" and each camera of the spec to its feature.

    Args:
        spec: Which cameras there are.
        given: Features that have other names than those of LeRobot.
    """
    usual = {"state": STATE, "action": ACTION}
    usual |= {camera.name: camera_key(camera.name) for camera in spec.cameras if camera.name not in given}
    for name in given:
        if name not in usual and name not in {camera.name for camera in spec.cameras}:
            raise unknown_name("key of a feature", name, [*usual, *(camera.name for camera in spec.cameras)])
    return {**usual, **given}


def place(file: int) -> dict[str, int]:
    """Chunk and file index of the `file`-th file."""
    return {"chunk_index": file // FILES_PER_CHUNK, "file_index": file % FILES_PER_CHUNK}


def safe_path(folder: Path, template: str, **values: Any) -> Path:
    """The file that a template of info.json names.

    Links within the data set may lead anywhere, as those of a download cache do; names may not.

    Raises:
        DataError: The template cannot be filled in, or names a file outside the data set.
    """
    try:
        for _, name, form, conversion in Formatter().parse(template):
            if name is not None and (name not in values or not _FORM.fullmatch(form or "") or conversion):
                raise ValueError(f"{{{name}:{form}}} is not one of {sorted(values)} with up to two digits")
        relative = template.format(**values)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / INFO}: path template {template!r} cannot be filled in ({error})."
        ) from error
    path = Path(os.path.normpath(folder / relative))
    if "\0" in relative or not path.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{folder / INFO}: path template {template!r} leads outside the data set, to {path}.")
    return path


def features(
    spec: Spec,
    *,
    executed: bool,
    subtasks: bool,
    settings: Settings,
    columns: Mapping[str, Feature] | None = None,
) -> dict[str, Any]:
    """The `features` of info.json."""
    rate = int(spec.rate) if spec.rate == int(spec.rate) else spec.rate
    found: dict[str, Any] = {}
    for camera in spec.cameras:
        told: dict[str, Any] = {
            "dtype": "image",
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
        }
        if isinstance(settings, VideoSettings):
            told["dtype"] = "video"
            told["info"] = {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": "h264",
                "video.pix_fmt": settings.pixels,
                "video.is_depth_map": False,
                "video.fps": rate,
                "video.channels": 3,
                "has_audio": False,
                "video.g": settings.gap,
                "video.crf": settings.crf,
                "video.preset": settings.preset,
            }
        found[camera_key(camera.name)] = told
    vectors = {STATE: spec.state, ACTION: spec.action, **({EXECUTED: spec.action} if executed else {})}
    for name, dimensions in vectors.items():
        found[name] = {"dtype": "float32", "shape": [len(dimensions)], "names": [d.name for d in dimensions]}
    for name, dtype in SCALARS.items():
        found[name] = {"dtype": dtype, "shape": [1], "names": None}
    if subtasks:
        found[SUBTASK_INDEX] = {"dtype": "int64", "shape": [1], "names": None}
    taken = {*found, *(camera.name for camera in spec.cameras)}
    for name, feature in (columns or {}).items():
        if name in taken:
            raise ValueError(
                f"column {name!r}: a recording has a column or camera of this name already. Choose another."
            )
        found[name] = feature.to_json()
    return found


def extra_columns(columns: Mapping[str, str | Feature], rate: float) -> dict[str, Feature]:
    """Columns of one's own, each given by a dtype ("string", "float32", "bool", ...) or a whole `Feature`.

    Those of pictures are depth, and get all that info.json has to say of them; `rate` is in ticks a second.

    Raises:
        ValueError: A name or a dtype that cannot be written.
    """
    found = {}
    for name, told in columns.items():
        feature = Feature(name=name, dtype=told, shape=(1,)) if isinstance(told, str) else told
        if not _CAMERA_NAME.fullmatch(name) or feature.name != name:
            raise ValueError(f"column {name!r}: expected a name of letters, digits, '_', '-' and '.'.")
        if feature.pictures and not isinstance(told, str):
            feature = depth_info(feature, rate)
        elif feature.dtype != "string" and feature.numeric is None:
            raise ValueError(
                f"column {name!r}: expected 'string', a type of numbers, or a `depth_feature`, got "
                f"{feature.dtype!r}."
            )
        found[name] = feature
    return found


def stills_array(pictures: Sequence[bytes]) -> pa.Array:
    """A column of pictures, each the bytes of its file."""
    kind = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    return pa.array([{"bytes": picture, "path": None} for picture in pictures], kind)


def data_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows of one episode; matrices become fixed-size lists of float32, vectors plain columns."""
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
            kind = pa.list_(pa.field("element", flat.type), values.shape[1])
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, type=kind)
        else:
            arrays[name] = pa.array(values.astype(SCALARS.get(name, "int64")))
    return pa.table(arrays)


def tasks_table(tasks: Sequence[str], kind: str = "task") -> pa.Table:
    """`task_index` and `task`, the latter marked as the pandas index that LeRobot looks tasks up by.

    With `kind` "subtask" the columns are called after it.
    """
    index = f"{kind}_index"
    table = pa.table(
        {index: pa.array(range(len(tasks)), pa.int64()), kind: pa.array(list(tasks), pa.string())}
    )

    def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": pandas_type,
            "numpy_type": numpy_type,
            "metadata": None,
        }

    pandas = {
        "index_columns": [kind],
        "column_indexes": [],
        "columns": [column(index, "int64", "int64"), column(kind, "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episodes_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of meta/episodes; every row has the same keys. Row groups are the caller's choice."""
    fields = []
    for name, value in rows[0].items():
        if name == "tasks":
            kind = _list(pa.string())
        elif isinstance(value, str):
            kind = pa.string()
        elif name.startswith("stats/"):
            kind, inner = pa.int64() if name.endswith("/count") else pa.float64(), value
            while isinstance(inner, list):  # pictures: channel 1 1
                kind, inner = _list(kind), inner[0]
        elif name.endswith("timestamp"):
            kind = pa.float64()
        else:
            kind = pa.int64()
        fields.append(pa.field(name, kind))
    return pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(fields))


def _list(kind: pa.DataType) -> pa.DataType:
    """A list type with the inner name that parquet gives it, so that a round trip changes nothing."""
    return pa.list_(pa.field("element", kind))


def stats_columns(key: str, figures: Spread) -> dict[str, Any]:
    """The columns of meta/episodes that hold one feature's figures."""
    return {f"stats/{key}/{name}": value.tolist() for name, value in figures.items()}
