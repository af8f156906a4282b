"""What a data set says of itself before any table is read: info.json, our own file, and the spec."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visuomotor.data import layout
from visuomotor.data.features import Feature, unknown_feature
from visuomotor.data.files import is_temporary, replace_json
from visuomotor.data.tables import load_json
from visuomotor.errors import DataError
from visuomotor.types import Spec

__all__ = ["agree", "check_features", "load_info", "load_sidecar", "save_sidecar", "take_up_sidecar"]

_FASTEST = 1e4
"""Ticks a second beyond which an fps is damage."""


def load_info(folder: Path) -> dict[str, Any]:
    """info.json of a data set of a version that is read here.

    Raises:
        DataError: Not a data set, another version, or no sensible fps.
    """
    path = folder / layout.INFO
    if not path.is_file():
        raise DataError(
            f"{folder}: not a data set, there is no {layout.INFO}. Pass the folder that `collect` wrote."
        )
    info = load_json(path)
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise DataError(f"{path}: expected an object with 'features'. Is this a LeRobot data set?")
    version = info.get("codebase_version")
    known = (layout.VERSION, *reversed(layout.VERSIONS_2))
    if version not in known:
        what = "It is older than all of them." if str(version).startswith(("v1", "1")) else "It is newer."
        raise DataError(f"{path}: expected LeRobot format {', '.join(known)}, got {version!r}. {what}")
    rate = info.get("fps")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= _FASTEST:
        raise DataError(f"{path}: expected fps in (0, {_FASTEST:g}], got {rate!r:.40}.")
    for name in ("data_path", "video_path"):
        if not isinstance(info.get(name), str | None):
            raise DataError(f"{path}: expected {name} to be a template, got {info[name]!r:.80}.")
    return info


def load_sidecar(folder: Path) -> dict[str, Any]:
    """meta/visuomotor.json, empty where a data set has none."""
    path = folder / layout.SIDECAR
    if not path.exists():
        return {}
    meta = load_json(path)
    if not isinstance(meta, dict) or meta.get("format") != 1 or "spec" not in meta:
        raise DataError(
            f"{path}: expected 'format' 1 and a 'spec'. A newer version of visuomotor may have written it."
        )
    return meta


def save_sidecar(folder: Path, spec: Spec, meta: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Write what LeRobot has no place for, `meta["seeds"]` besides the seeds of episodes."""
    told = {name: value for name, value in meta.items() if name != "seeds"}
    every = sorted({*seeds, *meta.get("seeds", ())})
    replace_json(folder / layout.SIDECAR, {"format": 1, **told, "spec": spec.to_json(), "seeds": every})


def take_up_sidecar(folder: Path, spec: Spec, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set of `spec` that goes on says of itself, `meta` over it; removes unfinished files.

    Raises:
        DataError: It is of another spec.
    """
    found = load_json(folder / layout.SIDECAR)
    if Spec.from_json(found.get("spec", {})) != spec:
        raise DataError(f"{folder}: holds data of another spec. Choose another folder.")
    for path in folder.rglob(".*.tmp"):
        if is_temporary(path):
            path.unlink()
    return {**{key: value for key, value in found.items() if key not in ("format", "spec")}, **meta}


def agree(folder: Path, meta: Mapping[str, Any], spec: Spec | None) -> Spec:
    """The spec of the data set, from its own files or from the caller."""
    if not meta:
        if spec is None:
            raise DataError(
                f"{folder}: no {layout.SIDECAR}, so nothing says what the numbers mean; they are never "
                "guessed. Pass spec=Spec(...) with cameras, state, action and rate of this data set; on the "
                f"command line `visuomotor data spec {folder} --out spec.json` writes a draft to be filled "
                "in, for --spec."
            )
        return spec
    own = Spec.from_json(meta["spec"])
    if spec is not None and spec != own:
        raise DataError(f"{folder}: the given spec differs from the one in {layout.SIDECAR}. Leave it out.")
    return own


def check_features(
    folder: Path,
    info: Mapping[str, Any],
    features: Mapping[str, Feature],
    spec: Spec,
    keys: Mapping[str, str],
) -> dict[str, int]:
    """Names and widths of the vector features, once info.json is found to agree with the spec.

    Args:
        folder: The data set.
        info: Its info.json.
        features: The columns that it tells.
        spec: What they must be.
        keys: "state", "action" and cameras to their features.
    """
    path = folder / layout.INFO
    if not math.isclose(info["fps"], spec.rate):
        raise DataError(f"{path}: expected fps {spec.rate:g} as in the spec, got {info['fps']!r}.")
    widths = {keys["state"]: len(spec.state), keys["action"]: len(spec.action)}
    if layout.EXECUTED in features:
        widths[layout.EXECUTED] = len(spec.action)
    widths = {name: width for name, width in widths.items() if width}
    shapes: dict[str, tuple[int, ...]] = {name: (width,) for name, width in widths.items()}
    for camera in spec.cameras:
        shapes[keys[camera.name]] = (camera.height, camera.width, 3)
    for name, shape in shapes.items():
        if name not in features:
            raise unknown_feature(path, name, features)
        feature = features[name]
        if feature.shape != shape:
            raise DataError(
                f"{path}: feature {name!r}: expected shape {list(shape)} as in the spec, "
                f"got {list(feature.shape)}."
            )
        if feature.pictures != (name not in widths):
            expected = "numbers" if name in widths else "dtype 'video' or 'image'"
            raise DataError(f"{path}: feature {name!r}: expected {expected}, got dtype {feature.dtype!r}.")
    return widths
