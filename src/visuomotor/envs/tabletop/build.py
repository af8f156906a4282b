"""The table top as a MuJoCo model: an arm, things to hold, fixtures, two cameras.

Everything is made of few primitives, because the cost of a picture grows with their number. Things
that move on joints of their own (drawers and buttons) meet objects and arm, but not what they slide in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import mujoco
import numpy as np

from visuomotor.embodiments.base import Body
from visuomotor.envs.tabletop.things import BUTTON_RADIUS, DRAWER, FENCE, ZONE_RADIUS
from visuomotor.envs.tabletop.worlds import TABLE_COLOR
from visuomotor.types import Camera, Mount

__all__ = [
    "BOWL_HEIGHT",
    "BOWL_RADIUS",
    "SIZES",
    "SOCKET_HEIGHT",
    "TABLE",
    "TIMESTEP",
    "TOLERANCE",
    "calibrated",
    "compile_scene",
]

TIMESTEP = 0.004
"""Seconds of one physics step."""

SIZES: dict[str, tuple[float, float, float]] = {
    "cube": (0.025, 0.025, 0.025),
    "cylinder": (0.022, 0.022, 0.035),
    "ball": (0.027, 0.027, 0.027),
    "bar": (0.050, 0.017, 0.017),
    "peg": (0.017, 0.017, 0.040),
}
"""Half extents of each shape in meters, along its own axes; cylinder and peg stand on their z axis."""

BOWL_RADIUS = 0.066
"""Inner radius of a bowl, meters."""

BOWL_HEIGHT = 0.042
"""Height of the rim above the table, meters."""

TABLE = ((-0.25, -0.50), (0.82, 0.50))
"""Corners of the table top (x, y) in meters."""

TOLERANCE = 0.004
"""How much wider the radius of a socket is than that of a peg, if nothing else is asked for, meters."""

SOCKET_HEIGHT = 0.035
"""Of a socket's rim above the table, meters."""

_DENSITY = 600.0  # kg/m3, wood: 0.04 to 0.08 kg a thing
_AIM = (0.405, 0.0, 0.0)  # where the fixed camera looks, meters
_DISTANCE = 1.6  # meters
_ELEVATION = math.radians(52)
_FOVY_DEG = 23.0
_SHAFT_DENSITY = 200.0  # kg/m3, balsa: a peg is light above ...
_FOOT_DENSITY = 11300.0  # kg/m3, lead: ... and heavy in its round foot
_FOOT_FRICTION = (0.7, 0.005, 0.0006)  # sliding, turning, rolling, of a peg's foot on whatever it touches
_TABLE_FRICTION = (
    0.9,
    0.01,
    0.003,
)  # sliding, turning, rolling: a cloth, on which a ball stops within centimeters
_WALLS = 8
_SOCKET_WALL = 0.0045  # half thickness of a socket's wall, meters
_WALL = 0.003  # half thickness of a bowl's wall, meters
_TYPES = {
    "cube": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ball": mujoco.mjtGeom.mjGEOM_SPHERE,
    "bar": mujoco.mjtGeom.mjGEOM_BOX,
    "peg": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
_BUTTON_TRAVEL = 0.008  # meters
_MEETS_ALL = {"contype": 9, "conaffinity": 3}  # bits: 1 what stands, 2 arms, 8 objects
_MEETS_LOOSE = {"contype": 0, "conaffinity": 10}  # only objects and arms
_UNTOUCHED = {"contype": 0, "conaffinity": 0}
_STANDS = {"contype": 1, "conaffinity": 3}
_OWN = {"rgba": (0.45, 0.46, 0.50, 1.0), "group": 1}  # gray parts; group 0 is painted, tinted by its color


def _tint(share: float) -> tuple[float, float, float, float]:
    """How bright a painted part is."""
    return share, share, share, 1.0


def calibrated(camera: Camera, body: Body) -> Camera:
    """The same view with its projection, of the fixed camera or of one on a hand of `body`."""
    if camera.name == "front":
        place, axes = _front(body)
        return replace(camera, projection=_projection(place, axes, _FOVY_DEG, camera), mount="base")
    arm = next(arm for arm in body.arms if arm.wrist == camera.name)
    world = mujoco.MjSpec()
    world.compiler.degree = False
    arm.build(world)
    model = world.compile()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)
    eye, hand = model.camera(arm.wrist).id, model.site(arm.hand).id
    down = np.empty(9)
    mujoco.mju_quat2Mat(down, np.array(arm.down))
    # site frame -> frame of the hand pose in the state, whose rotation is 0 looking down
    turn = down.reshape(3, 3) @ data.site_xmat[hand].reshape(3, 3).T
    place = turn @ (data.cam_xpos[eye] - data.site_xpos[hand])
    axes = (turn @ data.cam_xmat[eye].reshape(3, 3)).T
    return replace(
        camera,
        projection=_projection(place, axes, float(model.cam_fovy[eye]), camera),
        mount=cast(Mount, f"{arm.prefix}hand"),
    )


def _projection(place: np.ndarray, axes: np.ndarray, fovy: float, camera: Camera) -> tuple[float, ...]:
    """Where a camera shows a place, see `visuomotor.types.Camera.projection`.

    Args:
        place: Of the camera (3,), meters.
        axes: To the right, up and backwards, as rows (3, 3).
        fovy: Vertical field of view, degrees.
        camera: Its size decides the aspect.
    """
    focal = 1 / math.tan(math.radians(fovy) / 2)  # in half heights
    rows = np.stack([axes[0] * focal * camera.height / camera.width, -axes[1] * focal, -axes[2]])
    return tuple(np.column_stack([rows, -rows @ place]).ravel().tolist())


def compile_scene(
    body: Body, shapes: Sequence[str], kinds: Sequence[str], tolerance: float
) -> mujoco.MjModel:
    """The model of a body, a table, things and fixtures; colors and places come later.

    Args:
        body: Who works at the table.
        shapes: Of the objects "object0", "object1" ...
        kinds: Of the fixtures "fixture0", "fixture1" ...
        tolerance: Of sockets, see `TOLERANCE`.
    """
    world = mujoco.MjSpec()
    world.modelname = f"tabletop-{body.name}"
    world.compiler.degree = False
    world.memory = 4 << 20  # bytes of working memory; a busy scene takes a tenth of it
    option = world.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    option.iterations = 30
    option.enableflags = mujoco.mjtEnableBit.mjENBL_SLEEP
    _add_room(world, body)
    body.build(world)
    fixed = len(world.bodies)
    for number, shape in enumerate(shapes):
        _add_thing(world, f"object{number}", shape, number)
    for number, kind in enumerate(kinds):
        name = f"fixture{number}"
        fixture = world.worldbody.add_body(name=name, pos=[0.6, 0.2 * number, 0])
        if kind == "socket":
            _add_ring(fixture, SIZES["peg"][0] + tolerance, SOCKET_HEIGHT, _SOCKET_WALL)
        else:
            _ADD[kind](fixture)
    for part in world.bodies[fixed:]:
        _resize(part, body.scale)
    return world.compile()


def _resize(body: mujoco.MjsBody, scale: float) -> None:
    """Make a thing `scale` times as large: what it consists of, and how far its joints slide."""
    for part in (body, *body.geoms, *body.sites, *body.joints):
        part.pos = part.pos * scale
    for part in (*body.geoms, *body.sites):
        part.size = part.size * scale
    for joint in body.joints:
        if joint.type == mujoco.mjtJoint.mjJNT_SLIDE:
            joint.range = joint.range * scale


def _add_room(world: mujoco.MjSpec, body: Body) -> None:
    """Table, light and the fixed camera."""
    (low_x, low_y), (high_x, high_y) = np.array(body.origin) + body.scale * np.array(TABLE)
    world.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[(high_x - low_x) / 2, (high_y - low_y) / 2, 0.05],
        pos=[(high_x + low_x) / 2, (high_y + low_y) / 2, 0],
        rgba=(*TABLE_COLOR, 1.0),
        contype=1,
        conaffinity=3,
        friction=_TABLE_FRICTION,
    )
    world.worldbody.add_light(pos=[0.9, -0.7, 1.7], dir=[-0.3, 0.4, -1])
    # From the far side of the table, where the arm stands behind the things instead of before them;
    # far away and narrow, so that near and far things are drawn in nearly the same size.
    place, _ = _front(body)
    camera = world.worldbody.add_camera(name="front", pos=place, fovy=_FOVY_DEG)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [0, 1, 0, -math.sin(_ELEVATION), 0, math.cos(_ELEVATION)]


def _front(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Place of the fixed camera before a body, and its axes to the right, up and backwards as rows."""
    backwards = np.array([math.cos(_ELEVATION), 0.0, math.sin(_ELEVATION)])
    axes = np.array([[0, 1, 0], [-math.sin(_ELEVATION), 0, math.cos(_ELEVATION)], backwards])
    return np.array([*body.origin, 0.0]) + body.scale * (
        np.array(_AIM) + body.sight * _DISTANCE * backwards
    ), axes


def _add_thing(world: mujoco.MjSpec, name: str, shape: str, number: int) -> None:
    """A free object, asleep until touched; it waits in a row until a layout places it."""
    size = SIZES[shape]
    foot = size[0] / 2 if shape == "peg" else 0.0
    body = world.worldbody.add_body(
        name=name, pos=[0.3, 0.15 * number, size[2]], sleep=mujoco.mjtSleepPolicy.mjSLEEP_INIT
    )
    body.add_freejoint()
    body.add_geom(
        type=_TYPES[shape],
        size=[size[0], size[2] - foot, 0] if shape in ("cylinder", "peg") else size,
        pos=[0, 0, foot],
        density=_SHAFT_DENSITY if foot else _DENSITY,
        **_MEETS_ALL,
        condim=6 if shape in ("ball", "cylinder", "peg") else 4,
        friction=[0.9, 0.01, 0.001],
        solref=[0.01, 1],
        solimp=[0.95, 0.99, 0.001, 0.5, 2],
    )
    if foot:
        _add_foot(body, size)


def _add_foot(body: mujoco.MjsBody, peg: tuple[float, float, float]) -> None:
    """The round end of a peg, smooth, and so heavy that a peg that fell over stands up again."""
    radius, middle = peg[0], peg[0] - peg[2]
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[radius, 0, 0],
        pos=[0, 0, middle],
        density=0.0,
        friction=_FOOT_FRICTION,
        priority=1,
        condim=6,
        solref=[0.01, 1],
        solimp=[0.95, 0.99, 0.001, 0.5, 2],
        **_OWN,
        **_MEETS_ALL,
    )
    body.add_geom(  # a ball with volume and center of the lower half of the foot
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[radius / 2 ** (1 / 3), 0, 0],
        pos=[0, 0, middle - 3 / 8 * radius],
        density=_FOOT_DENSITY,
        rgba=(0.0, 0.0, 0.0, 0.0),
        **_UNTOUCHED,
    )


def _add_bowl(body: mujoco.MjsBody) -> None:
    """A ring of boxes, and a floor that is only seen."""
    _add_ring(body, BOWL_RADIUS, BOWL_HEIGHT, _WALL)


def _add_ring(body: mujoco.MjsBody, radius: float, height: float, wall: float) -> None:
    """Boxes around an inner radius, and a floor that is only seen."""
    middle = radius + wall
    for number in range(_WALLS):
        angle = 2 * math.pi * number / _WALLS
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[wall, (radius + 2 * wall) * math.tan(math.pi / _WALLS), height / 2],
            pos=[middle * math.cos(angle), middle * math.sin(angle), height / 2],
            quat=[math.cos(angle / 2), 0, 0, math.sin(angle / 2)],
            friction=[0.5, 0.01, 0.0005],
            rgba=_tint(1.0),
            **_STANDS,
        )
    _add_disc(body, radius + 2 * wall, 0.75)  # the floor is darker than the wall


def _add_disc(body: mujoco.MjsBody, radius: float, tint: float) -> None:
    """A colored disc that is only seen."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[radius, 0.001, 0],
        pos=[0, 0, 0.001],
        rgba=_tint(tint),
        **_UNTOUCHED,
    )


def _add_zone(body: mujoco.MjsBody) -> None:
    """A disc on the table."""
    _add_disc(body, ZONE_RADIUS, 1.0)


def _add_button(body: mujoco.MjsBody) -> None:
    """A cap on a spring in a foot."""
    cap = body.add_body(
        name=f"{body.name}/moving", pos=[0, 0, 0.014], sleep=mujoco.mjtSleepPolicy.mjSLEEP_INIT
    )
    cap.add_joint(
        name=body.name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, 0, -1],
        range=[0, _BUTTON_TRAVEL],
        limited=True,
        stiffness=[200.0, 0, 0],
        springref=0.0,
        damping=[8.0, 0, 0],
        armature=0.05,
    )
    cap.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[0.021, 0.010, 0],
        pos=[0, 0, 0.008],
        mass=0.02,
        rgba=_tint(1.0),
        **_MEETS_LOOSE,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[BUTTON_RADIUS, 0.006, 0],
        pos=[0, 0, 0.006],
        **_OWN,
        **_UNTOUCHED,
    )


def _add_drawer(body: mujoco.MjsBody) -> None:
    """A chest of four boxes, and in it a drawer with a post as handle, which reaches above the chest."""
    (half_x, half_y), height, wall = DRAWER.half, DRAWER.height, DRAWER.wall
    box = mujoco.mjtGeom.mjGEOM_BOX
    tray = body.add_body(name=f"{body.name}/moving")
    tray.add_joint(
        name=body.name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, -1, 0],
        range=[0, DRAWER.travel],
        limited=True,
        damping=[6.0, 0, 0],
        frictionloss=0.6,
        armature=0.1,
    )
    x, y = DRAWER.inner
    top = height - 0.012  # of the walls of the drawer
    loose = {"friction": [0.6, 0.01, 0.001], "rgba": _tint(1.0), **_MEETS_LOOSE}
    floor = {**loose, "rgba": _tint(0.6)}
    tray.add_geom(type=box, size=[x, y, 0.002], pos=[0, 0, 0.004], mass=0.1, **floor)
    for side in (-1, 1):
        tray.add_geom(
            type=box,
            size=[wall, y + 2 * wall, top / 2],
            pos=[side * (x + wall), 0, top / 2],
            mass=0.03,
            **loose,
        )
        tray.add_geom(
            type=box, size=[x, wall, top / 2], pos=[0, side * (y + wall), top / 2], mass=0.03, **loose
        )
    bar, foot = DRAWER.handle_height - 0.02, -(y + 2 * wall)
    tray.add_geom(
        type=box,
        size=[0.006, (DRAWER.handle + foot) / 2, 0.005],
        pos=[0, (foot - DRAWER.handle) / 2, 0.025],
        mass=0.01,
        **loose,
    )
    tray.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[DRAWER.handle_radius, bar / 2, 0],
        pos=[0, -DRAWER.handle, 0.02 + bar / 2],
        mass=0.03,
        condim=4,
        **{**loose, "friction": [1.0, 0.02, 0.001]},
    )
    chest = {"rgba": _tint(0.8), **_STANDS}
    low = height / 2 - wall
    body.add_geom(type=box, size=[half_x, half_y, wall], pos=[0, 0, height - wall], **chest)
    body.add_geom(type=box, size=[half_x, wall, low], pos=[0, half_y - wall, low], **chest)
    for side in (-1, 1):
        body.add_geom(
            type=box, size=[wall / 2, half_y, low], pos=[side * (half_x - wall / 2), 0, low], **chest
        )


def _add_fence(body: mujoco.MjsBody) -> None:
    """A row of posts."""
    for post in FENCE.posts:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[FENCE.radius, FENCE.height / 2, 0],
            pos=[0, post, FENCE.height / 2],
            **_OWN,
            **_STANDS,
        )


_ADD: dict[str, Callable[[mujoco.MjsBody], None]] = {
    "bowl": _add_bowl,
    "zone": _add_zone,
    "drawer": _add_drawer,
    "button": _add_button,
    "fence": _add_fence,
}
