"""Geometry that is computed and not learned: rays through pictures, planes, and ways in space.

The ray through a place in a picture, of a camera on the base or on the hand, meets the level of a thing
where the thing is. A way is described so that motion is nearly linear in the description.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visuomotor.types import Camera, Spec

__all__ = [
    "DESCRIBED",
    "calibrated",
    "calibration",
    "described",
    "every_camera",
    "matrices_now",
    "on_plane",
]

NEARNESS = (0.015, 0.05, 0.2)  # meters; distances at which a way is near, nearer, far
DESCRIBED = len(NEARNESS) * 9  # numbers that describe a way
FLAT = 0.05  # least determinant of a ray and a plane; the camera's own, looking down, is about 1 to 25


def matrices_now(
    projection: Float[Tensor, "batch camera 3 4"],
    on_hand: Bool[Tensor, "batch camera"],
    hand: Float[Tensor, "batch 3 4"],
) -> Float[Tensor, "batch camera 3 4"]:
    """Projections from the frame of the body, wherever the hand has carried its cameras."""
    turn, place = hand[:, None, :, :3], hand[:, None, :, 3:]
    turned = projection[..., :3] @ turn.transpose(-1, -2)
    moved = torch.cat([turned, projection[..., 3:] - turned @ place], dim=-1)
    return torch.where(on_hand[..., None, None], moved, projection)


def described(ways: Float[Tensor, "batch keypoint 3"]) -> Float[Tensor, "batch keypoint feature"]:
    """Ways in meters as numbers in [-1, 1] from which motion is nearly linear, at three scales.

    A hand moves straight, at full speed when far and slower when near: so the direction, which fades
    within a distance, in space and on the level; and how far it is, on the level and in each axis.
    """
    level = ways[..., :2]
    space_length, level_length = (
        part.square().sum(-1, keepdim=True).add(1e-12).sqrt() for part in (ways, level)
    )
    parts = []
    for scale in NEARNESS:
        parts += [ways / (space_length + scale), level / (level_length + scale)]
        parts += [torch.tanh(level_length / scale), torch.tanh(ways / scale)]
    return torch.cat(parts, dim=-1)


def on_plane(
    matrices: Float[Tensor, "batch camera 3 4"],
    points: Float[Tensor, "batch camera keypoint 2"],
    heights: Float[Tensor, "batch keypoint"],
) -> Float[Tensor, "batch camera keypoint 2"]:
    """Where, in x and y, the ray through a point of a picture meets the plane at a height; all meters.

    From (u w, v w, w) = matrix (x, y, z, 1): two linear equations, solved by Cramer's rule. A ray along
    the plane ends somewhere far away instead of nowhere.
    """
    matrices = matrices[:, :, None]
    rows = matrices[..., :2, :] - points[..., None] * matrices[..., 2:, :]  # times (x, y, z, 1) is 0
    right = -(rows[..., 2] * heights[:, None, :, None] + rows[..., 3])
    (a, b), (c, d) = (rows[..., row, :2].unbind(-1) for row in range(2))
    area = a * d - b * c
    area = torch.where(area < 0, area.clamp(max=-FLAT), area.clamp(min=FLAT))
    first, second = right.unbind(-1)
    return torch.stack([first * d - b * second, a * second - c * first], dim=-1) / area[..., None]


def every_camera(specs: Iterable[Spec]) -> tuple[Camera, ...]:
    """The cameras of all bodies; those of one name are of one size."""
    found: dict[str, Camera] = {}
    for spec in specs:
        for camera in spec.cameras:
            other = found.setdefault(camera.name, camera)
            if (other.height, other.width) != (camera.height, camera.width):
                raise ValueError(
                    f"camera {camera.name!r} has {camera.height} x {camera.width} pixels at "
                    f"{spec.embodiment!r}, and {other.height} x {other.width} elsewhere. Rename one of them, "
                    "or record both in one size."
                )
    return tuple(found.values())


def calibrated(spec: Spec) -> bool:
    """Whether it is known where any camera of a body stands, or that its one hand carries it."""
    return any(camera.projection is not None and camera.mount in ("base", "hand") for camera in spec.cameras)


def calibration(
    bodies: Iterable[Spec], embodiments: Sequence[str], cameras: Sequence[str]
) -> tuple[Float[Tensor, "body camera 3 4"], Bool[Tensor, "body camera"]]:
    """Projection of each camera of each body, zeros if unknown, and whether the hand carries it.

    Raises:
        ValueError: Two specs of one body disagree about where a camera stands.
    """
    found = torch.zeros(len(embodiments), len(cameras), 3, 4)
    on_hand = torch.zeros(len(embodiments), len(cameras), dtype=torch.bool)
    known: dict[tuple[int, int], tuple[float, ...]] = {}
    for spec in bodies:
        for camera in spec.cameras:
            place = embodiments.index(spec.embodiment), cameras.index(camera.name)
            if camera.projection is not None and camera.mount in ("base", "hand"):
                if known.setdefault(place, camera.projection) != camera.projection:
                    raise ValueError(
                        f"data sets of {spec.embodiment!r} disagree about where camera "
                        f"{camera.name!r} stands. Rename a body, or drop the projections."
                    )
                found[place] = torch.tensor(camera.projection).reshape(3, 4)
                on_hand[place] = camera.mount == "hand"
    return found, on_hand
