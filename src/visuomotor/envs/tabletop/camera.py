"""Pictures by casting rays: no OpenGL, no display, the same bits on every call.

`mj_multiRay` tells for each ray which geom it meets, how far away and with which normal; a lamp and
the geom's color do the rest in NumPy. The same C code runs in the browser, so that a policy can see
there what it saw in training.

Two things make it fast. The ground (planes, and boxes of the world body: table and floor) is solved
in NumPy for all pixels, once for a camera that stands still. Rays are cast only where the box
around another geom projects to.

Geom groups 0 to 2 are drawn, as in MuJoCo's viewer; collision-only shapes belong into group 3 or
get alpha 0. Other alphas count as opaque, textures are not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import UInt8

from visuomotor.errors import unknown_name

__all__ = ["DEFAULT_LOOK", "VIDEO_LOOK", "Look", "render"]

Array = np.ndarray
Triple = tuple[float, float, float]

_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)
_FAR = 50.0  # meters; nothing is seen behind it
_NEAR = 0.005  # meters; where boxes around geoms are clipped before they are projected
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_EDGES = np.array([(a, b) for a in range(8) for b in range(8) if (a ^ b).bit_count() == 1])  # both ways
_LAMP_DISTANCE = 8.0  # meters; shadow rays start there
_LAMP_CELLS = 192  # side of the lamp's own coarse picture, which tells where shadows are possible
_SHADOW_BIAS = 2e-3  # meters
_ROUGH = 16 / 255  # a pixel that differs from a neighbor by more is drawn with `Look.samples`


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a hit becomes a color.

    Attributes:
        lamp: Direction to the lamp, which is far away; any length.
        ambient: Light from everywhere, in [0, 1].
        above: Additional light from above: full on faces that look up, none on those that look down.
        diffuse: Light of the lamp on a face that looks at it.
        facing: Light from the camera on a face that looks at it; tells faces in the dark apart.
        specular: Strength of the highlight; 0 leaves it out.
        shininess: How small the highlight is.
        shadow: Share of the lamp's light that a shadow takes away; 0 casts no shadow rays.
        checker: Contrast of the squares on the ground, in [0, 1].
        square: Side of these squares, meters.
        zenith: Background color where a ray goes up, RGB in [0, 1].
        horizon: Background color where it goes level or down.
        samples: Rays a pixel and axis where a pixel differs from its neighbors; 1 is one ray a pixel.
    """

    lamp: Triple = (0.5, -0.6, 1.5)
    ambient: float = 0.40
    above: float = 0.18
    diffuse: float = 0.36
    facing: float = 0.14
    specular: float = 0.0
    shininess: int = 16
    shadow: float = 0.0
    checker: float = 0.07
    square: float = 0.05
    zenith: Triple = (0.55, 0.64, 0.74)
    horizon: Triple = (0.76, 0.80, 0.85)
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or self.square <= 0:
            raise ValueError(
                f"look: samples must be at least 1 and square positive, got {self.samples} and {self.square}."
            )


DEFAULT_LOOK = Look()
"""What policies see: one ray a pixel, no shadows."""

VIDEO_LOOK = replace(DEFAULT_LOOK, specular=0.25, shadow=0.75, samples=2)
"""For people: soft edges, highlights and shadows; several times dearer."""


class _View(NamedTuple):
    """A camera: position (3,), matrix (3, 3) whose columns are its axes, focal length in pixels, size."""

    position: Array
    matrix: Array
    focal: float
    height: int
    width: int


class _Layer(NamedTuple):
    """What rays see: distance (ray,), `inf` for nothing; color (3, ray); the lamp's part of it (3, ray)."""

    distance: Array
    color: Array
    lamp: Array


class _Scene(NamedTuple):
    """What can be seen: boxes (geom, 8, 3) around solids, colors (3, geom), ground, body that rays skip."""

    model: mujoco.MjModel
    data: mujoco.MjData
    boxes: Array
    color: Array
    ground: Array
    skipped_body: int


def render(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: str | int,
    height: int,
    width: int,
    *,
    look: Look = DEFAULT_LOOK,
) -> UInt8[Array, "height width 3"]:
    """The picture of `camera`. Leaves `model` and `data` as they are.

    Args:
        model: Decides shapes and colors.
        data: Positions as of the last `mj_forward` or `mj_step`.
        camera: Name or number.
        height: Pixels; the camera's `fovy` spans them.
        width: Pixels, square ones.
        look: Light and background.

    Raises:
        ValueError: Unknown camera, or a size below one pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(
            f"picture of camera {camera!r}: expected at least 1 x 1 pixels, got {height} x {width}."
        )
    number = _camera_id(model, camera)
    focal = 0.5 * height / float(np.tan(np.radians(model.cam_fovy[number]) / 2))
    view = _View(
        data.cam_xpos[number].copy(), data.cam_xmat[number].reshape(3, 3).copy(), focal, height, width
    )
    scene = _scene(model, data)
    if model.body_weldid[model.cam_bodyid[number]] == 0:
        key = (
            view.position.tobytes(),
            view.matrix.tobytes(),
            focal,
            height,
            width,
            scene.ground.tobytes(),
            look,
        )
        directions, backdrop = _still_backdrop(*key)
    else:
        directions = _directions(height, width, focal) @ view.matrix.T
        backdrop = _backdrop(view.position, directions, focal, scene.ground, look)
    cast = np.flatnonzero(_covered(view, scene.boxes))
    colors = _paint(scene, view.position, directions, cast, backdrop, look)
    if look.samples > 1:
        rough = np.flatnonzero(_rough(colors.reshape(3, height, width)))
        fine = _subpixels(rough, look.samples, view) @ view.matrix.T
        backdrop = _backdrop(view.position, fine, focal, scene.ground, look)
        drawn = _paint(scene, view.position, fine, np.arange(len(fine)), backdrop, look)
        colors[:, rough] = drawn.reshape(3, len(rough), look.samples**2).mean(axis=2)
    colors *= 255
    colors += 0.5
    picture = np.minimum(colors, 255, out=colors).astype(np.uint8)
    return np.ascontiguousarray(picture.T).reshape(height, width, 3)


def _camera_id(model: mujoco.MjModel, camera: str | int) -> int:
    """Number of a camera given by name or number."""
    if isinstance(camera, str):
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if number < 0:
            raise unknown_name("camera", camera, [model.camera(i).name for i in range(model.ncam)])
        return number
    if not 0 <= camera < model.ncam:
        raise ValueError(f"camera {camera}: the model has cameras 0 to {model.ncam - 1}.")
    return camera


@lru_cache(maxsize=32)
def _directions(height: int, width: int, focal: float) -> Array:
    """Unit directions (pixel, 3) through the middles of pixels in a camera's frame: x right, y up, z back."""
    rows, columns = np.mgrid[:height, :width]
    rays = _unit(columns + 0.5 - width / 2, height / 2 - rows - 0.5, -focal)
    rays.flags.writeable = False
    return rays


def _subpixels(pixels: Array, samples: int, view: _View) -> Array:
    """Unit directions (pixel * samples * samples, 3) spread evenly over each of `pixels`."""
    offset = (np.arange(samples) + 0.5) / samples
    across = (pixels % view.width)[:, None, None] + offset[None, None, :] - view.width / 2
    up = view.height / 2 - (pixels // view.width)[:, None, None] - offset[None, :, None]
    return _unit(across, up, -view.focal)


def _unit(x: Array, y: Array, z: float) -> Array:
    """Vectors (ray, 3) of length 1 from components that broadcast."""
    vectors = np.stack(np.broadcast_arrays(x, y, z), axis=-1).reshape(-1, 3)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rough(colors: Array) -> Array:
    """Mask (pixel,) of the pixels that differ from a direct neighbor; `colors` (3, height, width)."""
    rough = np.zeros(colors.shape[1:], bool)
    down = (np.abs(np.diff(colors, axis=1)) > _ROUGH).any(axis=0)
    across = (np.abs(np.diff(colors, axis=2)) > _ROUGH).any(axis=0)
    rough[:-1] |= down
    rough[1:] |= down
    rough[:, :-1] |= across
    rough[:, 1:] |= across
    return rough.ravel()


def _scene(model: mujoco.MjModel, data: mujoco.MjData) -> _Scene:
    """Sorts the visible geoms into ground and solids."""
    rgba = model.geom_rgba
    if model.nmat:
        materials = model.geom_matid
        rgba = np.where((materials >= 0)[:, None], model.mat_rgba[materials], rgba)
    kind, position, matrix = model.geom_type, data.geom_xpos, data.geom_xmat
    visible = (rgba[:, 3] > 0) & (model.geom_group < 3)
    in_world = model.geom_bodyid == 0
    plane = kind == int(mujoco.mjtGeom.mjGEOM_PLANE)
    flat = visible & (plane | (in_world & (kind == int(mujoco.mjtGeom.mjGEOM_BOX))))
    solid = visible & ~flat
    skipped_body = -1 if (solid & in_world).any() else 0  # no ray needs to try a world body of ground alone

    bounds = model.geom_aabb[solid]
    corners = bounds[:, None, :3] + bounds[:, None, 3:] * _CORNERS
    boxes = corners @ matrix[solid].reshape(-1, 3, 3).transpose(0, 2, 1) + position[solid, None]
    size = np.where(plane[:, None], model.geom_size * (1, 1, 0), model.geom_size)[flat]
    ground = np.concatenate(
        [plane[flat, None], size, position[flat], matrix[flat], rgba[flat, :3]], axis=1, dtype=np.float64
    )
    return _Scene(model, data, boxes, rgba[:, :3].T, ground, skipped_body)


def _covered(view: _View, boxes: Array) -> Array:
    """Mask (pixel,) of the pixels on which something in `boxes` (geom, 8, 3) can be seen, or a few more."""
    corners = (boxes - view.position) @ view.matrix  # world -> camera
    depth = -corners[..., 2]
    ahead = depth >= _NEAR
    whole = ahead.all(axis=1)
    rectangles = [_rectangles(corners[whole], ahead[whole], view)]
    cut = ahead.any(axis=1) & ~whole
    if cut.any():
        start, end = corners[cut][:, _EDGES[:, 0]], corners[cut][:, _EDGES[:, 1]]  # geom edge 3
        near, far = -start[..., 2], -end[..., 2]
        crosses = (near < _NEAR) & (far > _NEAR)
        share = np.where(crosses, (_NEAR - near) / np.where(crosses, far - near, 1), 0)
        rectangles.append(
            _rectangles(start + share[..., None] * (end - start), crosses | (near >= _NEAR), view)
        )
    mask = np.zeros((view.height, view.width), bool)
    for left, top, right, bottom in np.concatenate(rectangles).tolist():
        mask[top:bottom, left:right] = True
    return mask.ravel()


def _rectangles(points: Array, ahead: Array, view: _View) -> Array:
    """Pixel bounds (geom, 4) left, top, right, bottom of those points (geom, point, 3) that are `ahead`."""
    scale = view.focal / np.where(ahead, -points[..., 2], 1)
    flat = points[..., :2] * (scale[..., None] * (1, -1)) + (view.width / 2, view.height / 2)
    if not ahead.all():
        low, high = np.where(ahead[..., None], flat, np.inf), np.where(ahead[..., None], flat, -np.inf)
    else:
        low = high = flat
    bounds = np.concatenate([np.floor(low.min(axis=1)), np.ceil(high.max(axis=1))], axis=1)
    return np.minimum(np.maximum(bounds, 0), max(view.height, view.width)).astype(int)


def _paint(
    scene: _Scene, origin: Array, directions: Array, cast: Array, backdrop: _Layer, look: Look
) -> Array:
    """Colors (3, ray), 0 to about 1: the backdrop, before it the solids that the rays `cast` meet."""
    colors = backdrop.color.copy()
    geom, distance, normal = _cast(scene, origin, directions.take(cast, axis=0))
    met = np.flatnonzero((geom >= 0) & (distance < backdrop.distance.take(cast)))
    front = cast.take(met)
    solid, lamp = _shade(
        _components(directions.take(front, axis=0)),
        _components(normal.take(met, axis=0)),
        scene.color.take(geom.take(met), axis=1),
        look,
    )
    for channel in range(3):
        colors[channel][front] = solid[channel]
    if look.shadow > 0:
        reach, lamps = backdrop.distance.copy(), backdrop.lamp.copy()
        reach[front], lamps[:, front] = distance[met], lamp
        dark = _in_shadow(scene, origin, directions, _Layer(reach, colors, lamps), look)
        colors[:, dark] -= look.shadow * lamps[:, dark]
    return colors


def _components(vectors: Array) -> Array:
    """Vectors (ray, 3) as (3, ray): NumPy is fast along the last axis."""
    return np.ascontiguousarray(vectors.T)


def _cast(scene: _Scene, origin: Array, directions: Array) -> tuple[Array, Array, Array]:
    """Geom (ray,) or -1, distance (ray,) and normal (ray, 3) of the first solid on each ray."""
    count = len(directions)
    geom, distance, normal = np.full(count, -1, np.int32), np.full(count, -1.0), np.zeros((count, 3))
    if count:
        model, data, skip = scene.model, scene.data, scene.skipped_body
        rays, normals = directions.ravel(), normal.ravel()
        mujoco.mj_multiRay(
            model, data, origin, rays, _GROUPS, True, skip, geom, distance, normals, count, _FAR
        )
    return geom, distance, normal


def _shade(directions: Array, normals: Array, colors: Array, look: Look) -> tuple[Array, Array]:
    """Lit colors (3, ray) of faces, and the lamp's part of them; all arguments (3, ray)."""
    to_lamp = _to_lamp(look)
    lit = np.maximum(to_lamp @ normals, 0)
    lamp = colors * (look.diffuse * lit)
    if look.specular > 0:
        half = to_lamp[:, None] - directions
        shine = np.maximum(_dot(normals, half) / np.sqrt(_dot(half, half)), 0) ** look.shininess
        lamp += look.specular * (lit > 0) * shine
    light = look.facing * np.abs(_dot(normals, directions))
    light += (0.5 * look.above) * normals[2] + (look.ambient + 0.5 * look.above)
    return colors * light + lamp, lamp


def _dot(first: Array, second: Array) -> Array:
    """Inner products (ray,) of vectors (3, ray)."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _to_lamp(look: Look) -> Array:
    """Unit direction (3,) to the lamp, which is far away."""
    return np.array(look.lamp) / np.linalg.norm(look.lamp)


@lru_cache(maxsize=8)
def _still_backdrop(
    position: bytes, matrix: bytes, focal: float, height: int, width: int, ground: bytes, look: Look
) -> tuple[Array, _Layer]:
    """Directions and `_backdrop` of a camera that stands still; the arguments are all that decides it."""
    directions = _directions(height, width, focal) @ np.frombuffer(matrix).reshape(3, 3).T
    return directions, _backdrop(
        np.frombuffer(position), directions, focal, np.frombuffer(ground).reshape(-1, 19), look
    )


def _backdrop(origin: Array, directions: Array, focal: float, ground: Array, look: Look) -> _Layer:
    """The ground and the sky behind it.

    Args:
        origin: Where the rays start (3,).
        directions: Of the rays (ray, 3).
        focal: Focal length in pixels.
        ground: Rows of: is it a plane, half size (3,), position (3,), matrix (9,), color (3,).
        look: Light, squares and background.
    """
    count = len(directions)
    distance, facing, face = np.full(count, np.inf), np.zeros(count), np.zeros(count, np.intp)
    normals, colors = [np.zeros(3)], [np.zeros(3)]
    for row in ground:
        plane, size, position, matrix, color = row[0], row[1:4], row[4:7], row[7:16].reshape(3, 3), row[16:19]
        start, rays = (origin - position) @ matrix, matrix.T @ directions.T  # world -> geom
        for axis in (2,) if plane else (0, 1, 2):
            side = 1.0 if plane else float(np.sign(start[axis]))
            reach = _meet_face(start, rays, size, axis, side, endless=bool(plane))
            if reach is not None:
                nearer = reach < np.minimum(distance, _FAR)
                np.copyto(distance, reach, where=nearer)
                np.copyto(facing, np.abs(rays[axis]), where=nearer)
                np.copyto(face, len(normals), where=nearer)
                normals.append(side * matrix[:, axis])
                colors.append(color)
    table = np.array(normals)
    up, lit = table[:, 2], np.maximum(table @ _to_lamp(look), 0)
    light = (look.ambient + 0.5 * look.above * (1 + up) + look.diffuse * lit).take(
        face
    ) + look.facing * facing
    checker = _checker(origin, directions, focal, distance, (up > 0.99).take(face), look)
    plain = np.transpose(colors).take(face, axis=1)
    layer = _Layer(distance, plain * (light * checker), np.empty((3, 0)))
    sky = np.flatnonzero(face == 0)
    if len(sky):
        share = np.maximum(directions[sky, 2], 0)
        layer.color[:, sky] = np.outer(look.horizon, 1 - share) + np.outer(look.zenith, share)
    if look.shadow > 0:
        layer = layer._replace(lamp=plain * (look.diffuse * lit.take(face) * checker))
    return layer


def _meet_face(
    start: Array, rays: Array, size: Array, axis: int, side: float, *, endless: bool
) -> Array | None:
    """Distance (ray,), `inf` for none, to the face of a box in its frame, or None if its back is seen.

    Args:
        start: Where the rays start (3,).
        rays: Directions (3, ray).
        size: Half sizes (3,).
        axis: Axis on which the face stands.
        side: -1 or 1, at which end of it.
        endless: A half size of 0 across the face means no end, as in MuJoCo's planes.
    """
    height = side * start[axis] - size[axis]
    if height <= 0:
        return None
    closing = np.maximum(-side * rays[axis], 1e-12)  # speed towards the face
    distance = height / closing
    inside = closing > 1e-12
    for other in {0, 1, 2} - {axis}:
        if size[other] > 0 or not endless:
            inside &= np.abs(start[other] + distance * rays[other]) <= size[other]
    distance[~inside] = np.inf
    return distance


def _checker(
    origin: Array, directions: Array, focal: float, distance: Array, flat: Array, look: Look
) -> Array:
    """Factor (ray,) around 1 of the squares on `flat` faces; they fade where they are a few pixels small."""
    distance = np.where(flat, distance, 1)
    x, y, slant = directions.T / look.square
    column = np.floor(origin[0] / look.square + x * distance).astype(np.int64)
    row = np.floor(origin[1] / look.square + y * distance).astype(np.int64)
    pixels = (focal * look.square**2) * np.abs(slant) / distance  # height of a square in the picture
    fade = np.minimum(np.maximum(0.4 * pixels - 0.6, 0), 1)  # 0 at 1.5 pixels, 1 at 4
    return 1 + look.checker * (((column + row) & 1) - 0.5) * fade * flat


def _in_shadow(scene: _Scene, origin: Array, directions: Array, layer: _Layer, look: Look) -> Array:
    """Numbers of the rays whose hit a solid hides from the lamp: a ray from the lamp ends before it."""
    lit = np.flatnonzero(layer.lamp.any(axis=0))
    lamp = _LAMP_DISTANCE * _to_lamp(look)
    paths = origin - lamp + directions.take(lit, axis=0) * layer.distance[lit, None]
    length = np.linalg.norm(paths, axis=1)
    possible = np.flatnonzero(_lamp_mask(lamp, paths.T, scene.boxes))
    geom, distance, _ = _cast(scene, lamp, paths[possible] / length[possible, None])
    return lit[possible[(geom >= 0) & (distance < length[possible] - _SHADOW_BIAS)]]


def _lamp_mask(lamp: Array, paths: Array, boxes: Array) -> Array:
    """Mask (ray,) of the paths (3, ray) from the lamp on which `boxes` may stand, or a few more."""
    if not len(boxes):
        return np.zeros(paths.shape[1], bool)
    back = lamp - boxes.mean(axis=(0, 1))
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0] if abs(back[1]) < 0.9 else [1.0, 0.0, 0.0], back)
    right /= np.linalg.norm(right)
    matrix = np.stack([right, np.cross(back, right), back], axis=1)
    view = _View(lamp, matrix, 4.0 * _LAMP_CELLS, _LAMP_CELLS, _LAMP_CELLS)  # 14 degrees wide
    across, up, behind = matrix.T @ paths
    scale = view.focal / np.maximum(-behind, 1e-9)
    column, row = across * scale + _LAMP_CELLS / 2, _LAMP_CELLS / 2 - up * scale
    inside = (behind < 0) & (column >= 0) & (column < _LAMP_CELLS) & (row >= 0) & (row < _LAMP_CELLS)
    cell = np.where(inside, row, 0).astype(int) * _LAMP_CELLS + np.where(inside, column, 0).astype(int)
    return ~inside | _covered(view, boxes)[cell]
