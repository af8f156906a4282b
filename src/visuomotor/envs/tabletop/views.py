"""What a camera sees of things and fixtures: their pixels, and boxes around those.

Objects and fixtures are numbered together: objects first, as in the layout, then fixtures. Pixels are
told by the same rays that draw the pictures, so that a box is exact to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from visuomotor.envs.tabletop.env import TabletopEnv

__all__ = ["HIDDEN", "Box", "boxes", "names", "segment"]

HIDDEN = 0.5
"""Share of a thing that may be hidden for it to count as seen."""

_DRAWN, _ALONE = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.array([0, 0, 0, 0, 0, 1], np.uint8)
_LONELY = 5  # geom group that `_ALONE` takes; nothing else is in it
_OTHER = -2  # a pixel of the arm
_NEAR = 0.005  # meters before the camera
_FAR = 50.0  # meters
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)

Window = tuple[int, int, int, int]  # left, top, right, bottom in pixels, may reach beyond the picture


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a thing or fixture is in a picture.

    Attributes:
        number: Of the object; fixtures count on from there.
        name: Its plain name.
        left: First column of pixels in which it is seen.
        top: First row.
        right: First column after it.
        bottom: First row after it.
        size: Height and width of the picture in pixels.
        pixels: How many pixels show it.
        hidden: Share of it, in [0, 1], that something else or the edge of the picture hides.
        middle: Column and row of the pixel of it that is next to the mean of all its pixels.
    """

    number: int
    name: str
    left: int
    top: int
    right: int
    bottom: int
    size: tuple[int, int]
    pixels: int
    hidden: float
    middle: tuple[int, int]

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom as shares of the picture, in [0, 1]."""
        height, width = self.size
        return self.left / width, self.top / height, self.right / width, self.bottom / height

    @property
    def point(self) -> tuple[float, float]:
        """The middle of `middle`, x and y as shares of the picture."""
        return (self.middle[0] + 0.5) / self.size[1], (self.middle[1] + 0.5) / self.size[0]


@dataclass(frozen=True, kw_only=True)
class _Eye:
    """A camera: its place, its axes as columns (3, 3), focal length in pixels, size of its picture."""

    place: np.ndarray
    axes: np.ndarray
    focal: float
    height: int
    width: int

    def rays(
        self, rows: Int[np.ndarray, " pixel"], columns: Int[np.ndarray, " pixel"]
    ) -> Float[np.ndarray, "pixel 3"]:
        """Unit directions through the middles of pixels, in the frame of the world."""
        across, down = columns + 0.5 - self.width / 2, rows + 0.5 - self.height / 2
        rays = np.stack([across, -down, np.full(len(rows), -self.focal)], axis=-1) @ self.axes.T
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def names(env: TabletopEnv) -> tuple[str, ...]:
    """Plain names of the objects, then of the fixtures."""
    return (
        *(thing.name for thing in env.layout.objects),
        *(fixture.name for fixture in env.layout.fixtures),
    )


def segment(env: TabletopEnv, camera: str, height: int, width: int) -> Int[np.ndarray, "height width"]:
    """Number of the object or fixture that each pixel shows, -1 for arm, table and background.

    Raises:
        ValueError: The environment has no such camera.
    """
    owners, eye = env.scene.owners(), _eye(env, camera, height, width)
    return np.maximum(_segment(env, eye, owners, _windows(env, eye, owners)), -1)


def boxes(
    env: TabletopEnv, camera: str, height: int, width: int, *, hidden: float = HIDDEN
) -> tuple[Box, ...]:
    """Boxes around everything that is seen, by number.

    Args:
        env: With a running episode.
        camera: Name of the view.
        height: Of the picture in pixels.
        width: Of the picture in pixels.
        hidden: What is hidden for more than this share, by other things or by the edge, is left out;
            1 leaves in whatever has a pixel.

    Raises:
        ValueError: The environment has no such camera.
    """
    owners, eye = env.scene.owners(), _eye(env, camera, height, width)
    windows = _windows(env, eye, owners)
    pixels, called = _segment(env, eye, owners, windows), names(env)
    found = []
    for number in np.unique(pixels[pixels >= 0]).tolist():
        rows, columns = np.nonzero(pixels == number)
        whole = len(rows)
        if not _is_free(pixels, windows[number], number):
            whole = _alone(env, eye, owners, number, windows[number])
        gone = 1.0 - len(rows) / max(whole, len(rows))
        if gone > hidden:
            continue
        nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
        found.append(
            Box(
                number=number,
                name=called[number],
                left=int(columns.min()),
                top=int(rows.min()),
                right=int(columns.max()) + 1,
                bottom=int(rows.max()) + 1,
                size=(height, width),
                pixels=len(rows),
                hidden=gone,
                middle=(int(columns[nearest]), int(rows[nearest])),
            )
        )
    return tuple(found)


def _eye(env: TabletopEnv, camera: str, height: int, width: int) -> _Eye:
    """A camera of the running episode, wherever its world has put it."""
    env.spec.camera(camera)  # refuses an unknown name
    model, data = env.scene.model, env.scene.data
    number = model.camera(camera).id
    return _Eye(
        place=data.cam_xpos[number].copy(),
        axes=data.cam_xmat[number].reshape(3, 3).copy(),
        focal=0.5 * height / float(np.tan(np.radians(model.cam_fovy[number]) / 2)),
        height=height,
        width=width,
    )


def _segment(
    env: TabletopEnv, eye: _Eye, owners: np.ndarray, windows: dict[int, Window]
) -> Int[np.ndarray, "height width"]:
    """See `segment`, but `_OTHER` for what stands on the ground and is neither; rays only in the windows."""
    asked = np.zeros((eye.height, eye.width), bool)
    for left, top, right, bottom in windows.values():
        asked[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    pixels = np.full(asked.shape, -1)
    rows, columns = np.nonzero(asked)
    geoms = _cast(env, eye, rows, columns, _DRAWN)
    model = env.scene.model
    shown = owners[model.geom_bodyid[geoms]]
    ground = (geoms < 0) | (model.geom_type[geoms] == int(mujoco.mjtGeom.mjGEOM_PLANE))
    pixels[asked] = np.where(ground, -1, np.where(shown < 0, _OTHER, shown))
    return pixels


def _is_free(pixels: np.ndarray, window: Window, number: int) -> bool:
    """Whether nothing but the ground is seen around a thing, so that nothing can hide a part of it."""
    left, top, right, bottom = window
    if left < 0 or top < 0 or right > pixels.shape[1] or bottom > pixels.shape[0]:
        return False
    around = pixels[top:bottom, left:right]
    return bool(((around == number) | (around == -1)).all())


def _alone(env: TabletopEnv, eye: _Eye, owners: np.ndarray, number: int, window: Window) -> int:
    """Pixels that would show a thing if nothing stood before it and the picture had no edge."""
    left, top, right, bottom = window
    rows, columns = (index.ravel() for index in np.mgrid[top:bottom, left:right])
    model = env.scene.model
    own = _geoms(env, owners, number)
    before = model.geom_group[own].copy()
    model.geom_group[own] = _LONELY
    try:
        return int(np.sum(_cast(env, eye, rows, columns, _ALONE) >= 0))
    finally:
        model.geom_group[own] = before


def _cast(
    env: TabletopEnv, eye: _Eye, rows: np.ndarray, columns: np.ndarray, groups: np.ndarray
) -> Int[np.ndarray, " pixel"]:
    """The first geom of some groups that is met in each pixel, -1 for none."""
    count = len(rows)
    geoms, distances = np.full(count, -1, np.int32), np.empty(count)
    if count:
        model, data, rays = env.scene.model, env.scene.data, eye.rays(rows, columns).ravel()
        mujoco.mj_multiRay(
            model, data, eye.place, rays, groups, True, -1, geoms, distances, None, count, _FAR
        )
    return geoms


def _windows(env: TabletopEnv, eye: _Eye, owners: np.ndarray) -> dict[int, Window]:
    """Around what each thing could be seen in, or a little more; at most a picture's size beyond the edge."""
    model, data = env.scene.model, env.scene.data
    windows = {}
    for number in range(int(owners.max()) + 1):
        own = _geoms(env, owners, number)
        bounds = model.geom_aabb[own]
        corners = bounds[:, None, :3] + bounds[:, None, 3:] * _CORNERS  # geom corner 3
        corners = corners @ data.geom_xmat[own].reshape(-1, 3, 3).transpose(0, 2, 1)
        corners = (corners + data.geom_xpos[own, None] - eye.place).reshape(-1, 3) @ eye.axes
        depth = -corners[:, 2]
        if (depth < _NEAR).all():
            continue
        low, high = np.array([-eye.width, -eye.height]), 2 * np.array([eye.width, eye.height])
        if (depth >= _NEAR).all():
            flat = corners[:, :2] * (1, -1) * (eye.focal / depth)[:, None] + (eye.width / 2, eye.height / 2)
            low, high = (
                np.maximum(low, np.floor(flat.min(axis=0))),
                np.minimum(high, np.ceil(flat.max(axis=0))),
            )
        if (low < high).all():
            windows[number] = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    return windows


def _geoms(env: TabletopEnv, owners: np.ndarray, number: int) -> Int[np.ndarray, " geom"]:
    """The geoms of a thing that are drawn."""
    model = env.scene.model
    drawn: Bool[np.ndarray, " geom"] = (model.geom_group < 3) & (model.geom_rgba[:, 3] > 0)
    return np.flatnonzero(drawn & (owners[model.geom_bodyid] == number))
