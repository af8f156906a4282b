"""What the numbers of a foreign data set mean, as a JSON file that a person fills in.

A data set of others says how many numbers there are, and often what they are called, but not whether
one is a joint or a position, absolute or a step. `draft` writes down what info.json does say, with a
mark at each place that it does not; `load_meaning` refuses a file that still has marks. Nothing is guessed.

    {"embodiment": "?", "rate": 10.0,
     "cameras": [{"name": "top", "height": 64, "width": 96}],
     "state": [{"name": "a", "unit": "?", "kind": "?"}],
     "action": [{"name": "da", "unit": "?", "kind": "?"}],
     "keys": {"top": "observation.image"}}

The rest is `Spec.to_json`, which may be given as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from visuomotor.data import layout
from visuomotor.data.features import Feature, parse_features
from visuomotor.data.files import replace_json
from visuomotor.data.folder import load_info
from visuomotor.data.tables import load_json
from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Kind, Spec

__all__ = ["UNKNOWN", "Meaning", "draft", "load_meaning", "load_meanings", "save_draft"]

UNKNOWN = "?"
"""Stands where something has to be filled in."""

_PARTS = ("embodiment", "rate", "cameras", "state", "action")


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a foreign data set does not say of itself.

    Attributes:
        spec: What its numbers mean.
        keys: Feature of "state", "action" or a camera, where it has another name than LeRobot's.
    """

    spec: Spec
    keys: Mapping[str, str] = field(default_factory=dict)


def draft(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What info.json says of the meaning of a data set, `UNKNOWN` where it says nothing.

    Besides the parts of a spec and `keys` it has a "note" for who fills it in, which `load_meaning`
    passes over.

    Raises:
        DataError: Not a data set, or info.json is damaged.
    """
    place = Path(folder)
    info = load_info(place)
    features = parse_features(place / layout.INFO, info)
    keys: dict[str, str] = {}
    cameras, left = [], []
    for name, feature in features.items():
        if feature.pictures and not feature.depth and feature.shape[2] == 3:
            camera = name.removeprefix("observation.images.")
            if camera == name or layout.camera_key(camera) != name:
                camera = name.rpartition(".")[2]
                keys[camera] = name
            cameras.append({"name": camera, "height": feature.shape[0], "width": feature.shape[1]})
        elif name not in (layout.STATE, layout.ACTION, *layout.SCALARS):
            left.append(f"{name} ({feature.dtype} {list(feature.shape)})")
    body = info.get("robot_type")
    vectors = {}
    for what, name in (("state", layout.STATE), ("action", layout.ACTION)):
        if name in features:
            vectors[what] = [
                {"name": one, "unit": UNKNOWN, "kind": UNKNOWN} for one in _names(features[name])
            ]
        else:
            vectors[what], keys[what] = [{"name": UNKNOWN, "unit": UNKNOWN, "kind": UNKNOWN}], UNKNOWN
    return {
        "note": [
            f"Fill in every {UNKNOWN!r}. Nothing here is guessed: names, sizes and rate stand in info.json.",
            f"kind: one of {', '.join(get_args(Kind))}. Without suffix absolute, delta from the previous "
            "command, relative to the state at chunk start, gripper 0 open to 1 closed.",
            'unit: "m", "rad", "m/s", ... or "1" for none. "low" and "high" may be added as limits.',
            "A camera may be left out. keys: features of state, action and cameras with names of their own.",
            f"Not in this spec: {', '.join(left) or 'nothing'}.",
        ],
        "embodiment": body if isinstance(body, str) and body and body != "unknown" else UNKNOWN,
        "rate": float(info["fps"]),
        "cameras": cameras,
        **vectors,
        **({"keys": keys} if keys else {}),
    }


def save_draft(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Write `draft` to a file that does not exist yet; returns it.

    Raises:
        DataError: There is a file, which somebody may have filled in.
    """
    place, told = Path(out), draft(folder)
    if place.exists():
        raise DataError(f"{place}: exists, and may be filled in already. Choose another name, or delete it.")
    replace_json(place, told)
    return told


def load_meaning(path: str | os.PathLike[str]) -> Meaning:
    """A file as `draft` writes it, filled in, or just what `Spec.to_json` gives.

    Raises:
        DataError: Missing or damaged, a part is missing or unknown, or something is not filled in; the
            message names every such place.
    """
    place = Path(path)
    told = load_json(place)
    if not isinstance(told, Mapping):
        raise DataError(f"{place}: expected an object with {', '.join(_PARTS)}, got {told!r:.60}.")
    told = {name: value for name, value in told.items() if name != "note"}
    for name in told:
        if name not in (*_PARTS, "keys"):
            raise DataError(f"{place}: {unknown_name('part', name, (*_PARTS, 'keys'))}")
    blanks = list(_blanks(told))
    if blanks:
        more = f" and {len(blanks) - 8} more" if len(blanks) > 8 else ""
        raise DataError(
            f"{place}: not filled in: {', '.join(blanks[:8])}{more}. "
            f"Put what is true of the data where {UNKNOWN!r} stands; it is never guessed."
        )
    keys = told.pop("keys", {})
    if not isinstance(keys, Mapping) or not all(isinstance(name, str) for name in keys.values()):
        raise DataError(f"{place}: expected keys to be names of features by name, got {keys!r:.80}.")
    try:
        return Meaning(spec=Spec.from_json(told), keys=dict(keys))
    except (DataError, ValueError, TypeError) as error:
        raise DataError(f"{place}: {error}") from error


def load_meanings(words: Sequence[str], folders: Sequence[Path]) -> dict[str, Meaning]:
    """Name of a data set to what its numbers mean.

    Args:
        words: Each FILE, for every data set that does not say it itself, or NAME=FILE, with the name of a
            folder.
        folders: The data sets.

    Raises:
        DataError: A file is wrong.
        ValueError: A name of no data set, or a file that no data set needs.
    """
    names = {folder.resolve().name: folder for folder in folders}
    mute = [name for name, folder in names.items() if not (folder / layout.SIDECAR).exists()]
    found: dict[str, Meaning] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if equals and not Path(word).exists():
            if name not in names:
                raise unknown_name("data set", name, names)
            found[name] = load_meaning(file)
        elif not mute:
            raise ValueError(
                f"--spec {word}: every data set says itself what its numbers mean. Leave it out."
            )
        else:
            found |= dict.fromkeys((one for one in mute if one not in found), load_meaning(word))
    return found


def _names(feature: Feature) -> list[str]:
    """What the numbers of a vector are called, each name once; numbers where info.json has no names."""
    told: Any = feature.names
    while isinstance(told, Mapping):  # {"motors": [...]}, as older data sets have it
        told = [name for part in told.values() for name in (part if isinstance(part, list) else [part])]
    width = feature.shape[0] if len(feature.shape) == 1 else 0
    if not isinstance(told, list) or len(told) != width or len({str(name) for name in told}) != width:
        return [f"{feature.name.rpartition('.')[2]}_{number}" for number in range(width)]
    return [str(name) for name in told]


def _blanks(told: Any, place: str = "") -> Iterable[str]:
    """Where something is not filled in, in words: "state[2].kind"."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            yield from _blanks(value, f"{place}.{name}" if place else str(name))
    elif isinstance(told, list):
        for number, value in enumerate(told):
            yield from _blanks(value, f"{place}[{number}]")
    elif told == UNKNOWN:
        yield place
