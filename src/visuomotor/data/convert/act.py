"""HDF5 files of ACT and ALOHA: one file an episode, two arms of six joints and a gripper.

    observations/qpos (tick, 14)   left arm, gripper, right arm, gripper; radians, gripper 0 closed, 1 open
    observations/images/<camera>   (tick, height, width, 3), or JPEGs with zeros behind (attribute `compress`)
    action (tick, 14)              absolute targets, the same order

There is one tick every 0.02 s (DT of the recording code), which the files do not say. JPEGs were made by
OpenCV from RGB arrays that it took for BGR; so what an ordinary decoder gives has red and blue swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visuomotor.data.convert.hdf5 import Group, open_file, open_files
from visuomotor.data.convert.mapping import Mapping, Part, View
from visuomotor.types import Dimension

__all__ = ["Act"]

_RATE = 50.0
_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_IMAGES = "observations/images/"


class Act:
    """Episodes of ACT or ALOHA. See `Source`."""

    def __init__(self, path: Path) -> None:
        self.files: Sequence[Path] = open_files(path)
        self._root = path if path.is_dir() else path.parent

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether the first file has its keys."""
        files = open_files(path)
        if not files:
            return False
        with open_file(files[0]) as file:
            return "action" in file and "observations/qpos" in file

    def names(self) -> Sequence[str]:
        """The files."""
        return [str(path.relative_to(self._root)) for path in self.files]

    def open(self, name: str) -> Group:
        """One file."""
        return Group(self._root / name, "/", None)

    def preset(self) -> Mapping | str:
        """Fourteen joints; every camera."""
        keys = self.open(self.names()[0]).keys()
        if keys.get("action", (0, 0))[1:] != (14,):
            return f"{self.files[0]}: expected actions of width 14, two arms, got {keys.get('action')}."
        with open_file(self.files[0]) as file:
            packed = bool(file.attrs.get("compress", False))
        views = tuple(
            View(camera=key.removeprefix(_IMAGES), key=key, channels="bgr" if packed else "rgb")
            for key in sorted(keys)
            if key.startswith(_IMAGES)
        )
        state, action = (_both_arms(key) for key in ("observations/qpos", "action"))
        return Mapping(embodiment="aloha", rate=_RATE, state=(state,), action=(action,), views=views)


def _both_arms(key: str) -> Part:
    dimensions: list[Dimension] = []
    for side in ("left", "right"):
        dimensions += [Dimension(name=f"{side}_{joint}", unit="rad", kind="joint") for joint in _JOINTS]
        dimensions.append(Dimension(name=f"{side}_gripper", kind="gripper"))
    scale = ((1.0,) * 6 + (-1.0,)) * 2  # 1 open becomes 0 open
    offset = ((0.0,) * 6 + (1.0,)) * 2
    return Part(key=key, dimensions=tuple(dimensions), scale=scale, offset=offset)
