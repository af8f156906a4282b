"""HDF5 files of robosuite demonstrations: robomimic's and LIBERO's.

    data                    attributes: env_args (JSON); LIBERO: problem_info (JSON), macros_image_convention
    data/demo_0/actions     (tick, 7): move of the hand, rotation vector, gripper -1 open to 1 closed
    data/demo_0/obs/...     robomimic: robot0_eef_pos, agentview_image; LIBERO: ee_states, agentview_rgb

robomimic turns pictures upright when it writes them. LIBERO keeps them as OpenGL gives them, upside down,
and says so in macros_image_convention. (Half a turn, which some do instead, also mirrors them.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from visuomotor.data.convert.hdf5 import Group, open_file, open_files, text
from visuomotor.data.convert.mapping import Flip, Mapping, Part, View
from visuomotor.data.convert.sources import natural
from visuomotor.errors import DataError
from visuomotor.types import Dimension, Kind

__all__ = ["Libero", "Robomimic"]

_POSITION = tuple(Dimension(name=name, unit="m", kind="ee") for name in ("x", "y", "z"))
_ROTATION = tuple(Dimension(name=name, unit="rad", kind="ee") for name in ("rx", "ry", "rz"))
_FINGERS = tuple(Dimension(name=name, unit="m") for name in ("finger1", "finger2"))
_QUATERNION = tuple(Dimension(name=name) for name in ("qx", "qy", "qz", "qw"))


class _Robosuite:
    """What both have in common. See `Source`.

    Args:
        path: A file, or a folder of files.
        words: Gives the instructions of a file, demonstration by demonstration.
    """

    def __init__(self, path: Path, words: Callable[[Path], dict[str, str]]) -> None:
        self._words = cache(words)
        self.files: Sequence[Path] = open_files(path)
        self._root = path if path.is_dir() else path.parent

    def names(self) -> Sequence[str]:
        """`file:demo_0` and so on, files and demonstrations in the order of their numbers."""
        return list(self._episodes)

    def open(self, name: str) -> Group:
        """One demonstration."""
        path, demo = self._episodes[name]
        return Group(path, f"data/{demo}", self._words(path).get(demo), ("next_obs/",))

    @cached_property
    def _episodes(self) -> dict[str, tuple[Path, str]]:
        found: dict[str, tuple[Path, str]] = {}
        for path in self.files:
            with open_file(path) as file:
                demos = sorted(file["data"], key=natural)
            found |= {f"{path.relative_to(self._root)}:{demo}": (path, demo) for demo in demos}
        if not found:
            raise DataError(f"{self._root}: no demonstration in group 'data' of any file.")
        return found

    def _agreed(self, what: str, values: dict[Path, Any]) -> Any:
        """The one value that all files have; a data set has one rate and one kind of action."""
        if len(set(values.values())) != 1:
            raise DataError(
                f"{self._root}: files differ in {what}: { {str(p): v for p, v in values.items()} }."
            )
        return next(iter(values.values()))

    def _controller(self) -> tuple[float, Kind] | str:
        """Rate and kind of the actions, as env_args says, or what is missing there."""
        rates, kinds = {}, {}
        for path in self.files:
            words = _attributes(path).get("env_args")
            try:
                settings = json.loads(words or "{}").get("env_kwargs", {})
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: attribute env_args of 'data' is not JSON ({error}).") from error
            controller = settings.get("controller_configs") or {}
            if "control_freq" not in settings or controller.get("type") != "OSC_POSE":
                return (
                    f"{path}: env_args names no control_freq, or a controller other than OSC_POSE (got "
                    f"{controller.get('type')!r}), so nothing says what its actions are."
                )
            rates[path] = float(settings["control_freq"])
            kinds[path] = "ee_delta" if controller.get("control_delta", True) else "ee"
        return self._agreed("control_freq", rates), self._agreed("control_delta", kinds)

    def _mapping(self, state: tuple[Part, ...], views: tuple[View, ...], body: str) -> Mapping | str:
        told = self._controller()
        if isinstance(told, str):
            return told
        rate, kind = told
        names = ("x", "y", "z", "rx", "ry", "rz")
        unit = ["1"] * 6 if kind == "ee_delta" else ["m"] * 3 + ["rad"] * 3
        bound = {"low": -1.0, "high": 1.0} if kind == "ee_delta" else {}
        move = tuple(Dimension(name=n, unit=u, kind=kind, **bound) for n, u in zip(names, unit))
        gripper = Dimension(name="gripper", kind="gripper", low=0.0, high=1.0)
        action = Part(
            key="actions",
            dimensions=(*move, gripper),
            scale=(1.0,) * 6 + (0.5,),  # -1 open to 1 closed becomes 0 to 1
            offset=(0.0,) * 6 + (0.5,),
        )
        return Mapping(embodiment=body, rate=rate, state=state, action=(action,), views=views)

    def _views(self, ending: str, flip: Flip) -> tuple[View, ...]:
        keys = self.open(self.names()[0]).keys()
        found = [key for key in sorted(keys) if key.startswith("obs/") and key.endswith(ending)]
        return tuple(
            View(camera=key.removeprefix("obs/").removesuffix(ending), key=key, flip=flip) for key in found
        )


class Robomimic(_Robosuite):
    """Demonstrations of robomimic, one arm."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _lang)

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether the first file has its groups."""
        return _holds(path, lambda file: "data" in file and "env_args" in file["data"].attrs)

    def preset(self) -> Mapping | str:
        """Position, quaternion and fingers; every camera."""
        arm = "obs/robot0_"
        state = (
            Part(key=f"{arm}eef_pos", dimensions=_POSITION),
            Part(key=f"{arm}eef_quat", dimensions=_QUATERNION),
            Part(key=f"{arm}gripper_qpos", dimensions=_FINGERS),
        )
        return self._mapping(state, self._views("_image", "none"), "robosuite")


class Libero(_Robosuite):
    """Demonstrations of LIBERO; a folder may hold the files of many tasks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _problem)

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether the first file has its groups."""
        return _holds(path, lambda file: "data" in file and "problem_info" in file["data"].attrs)

    def preset(self) -> Mapping | str:
        """Position, rotation vector and fingers; every camera, turned upright as the file says."""
        said = {path: _attributes(path).get("macros_image_convention") for path in self.files}
        convention = self._agreed("macros_image_convention", said)
        if convention not in ("opengl", "opencv"):
            return f"{self.files[0]}: macros_image_convention is {convention!r}, not opengl or opencv."
        state = (
            Part(key="obs/ee_states", dimensions=(*_POSITION, *_ROTATION)),
            Part(key="obs/gripper_states", dimensions=_FINGERS),
        )
        return self._mapping(
            state, self._views("_rgb", "vertical" if convention == "opengl" else "none"), "libero"
        )


def _attributes(path: Path) -> dict[str, Any]:
    """What a file says about all its demonstrations."""
    with open_file(path) as file:
        return {name: text(value) for name, value in file["data"].attrs.items()}


def _lang(path: Path) -> dict[str, str]:
    """`lang` of each demonstration, where it has one."""
    with open_file(path) as file:
        told = {name: demo.attrs.get("ep_meta") for name, demo in file["data"].items()}
    words = {name: json.loads(text(meta)).get("lang") for name, meta in told.items() if meta is not None}
    return {name: said for name, said in words.items() if said}


def _problem(path: Path) -> dict[str, str]:
    """The instruction of the file, which all its demonstrations share."""
    try:
        words = json.loads(_attributes(path)["problem_info"])["language_instruction"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: problem_info of 'data' has no language_instruction ({error!r}).") from error
    words = " ".join(words) if isinstance(words, list) else words
    with open_file(path) as file:
        return dict.fromkeys(file["data"], words.strip().strip('"'))


def _holds(path: Path, test: Any) -> bool:
    files = open_files(path)
    if not files:
        return False
    with open_file(files[0]) as file:
        return bool(test(file))
