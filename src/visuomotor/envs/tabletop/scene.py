"""The table top as a MuJoCo model: an arm, things to hold, bowls to put them in, two cameras.

A model is compiled once for each set of shapes and number of bowls. Everything else of a layout
(colors, places) is written into the compiled model, so that a reset takes no compilation, and every
reset starts from fresh `MjData`, so that an episode does not depend on what was played before.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from visuomotor.embodiments.base import Arm
from visuomotor.envs.tabletop.layout import COLORS, Layout
from visuomotor.envs.tabletop.worlds import CLEAN, TABLE_COLOR, World, originals, write
from visuomotor.types import Camera

__all__ = ["BOWL_HEIGHT", "BOWL_RADIUS", "SIZES", "TABLE", "TIMESTEP", "Scene", "calibrated"]

TIMESTEP = 0.004
"""Seconds of one physics step."""

SIZES: dict[str, tuple[float, float, float]] = {
    "cube": (0.025, 0.025, 0.025),
    "cylinder": (0.022, 0.022, 0.035),
    "ball": (0.027, 0.027, 0.027),
    "bar": (0.050, 0.017, 0.017),
}
"""Half extents of each shape in meters, along its own axes; the cylinder stands on its z axis."""

BOWL_RADIUS = 0.066
"""Inner radius of a bowl, meters."""

BOWL_HEIGHT = 0.042
"""Height of the rim above the table, meters."""

TABLE = ((-0.25, -0.50), (0.82, 0.50))
"""Corners of the table top (x, y) in meters."""

_DENSITY = 600.0  # kg/m3, wood: 0.04 to 0.08 kg a thing
_AIM = (0.405, 0.0, 0.0)  # where the fixed camera looks, meters
_DISTANCE = 1.6  # meters
_ELEVATION = math.radians(52)
_FOVY_DEG = 23.0
_TABLE_FRICTION = (
    0.9,
    0.01,
    0.003,
)  # sliding, turning, rolling: a cloth, on which a ball stops within centimeters
_WALLS = 8
_WALL = 0.003  # half thickness of a bowl's wall, meters
_PRESSED = 0.004  # meters by which pressing fingers stay open, and may be away from what they touch
_BETWEEN = 0.012  # meters; what is held is no farther from the middle of the fingers
_TYPES = {
    "cube": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ball": mujoco.mjtGeom.mjGEOM_SPHERE,
    "bar": mujoco.mjtGeom.mjGEOM_BOX,
}
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_SLEEP_ARRAYS = (
    "tree_asleep",
    "tree_awake",
    "body_awake",
    "body_awake_ind",
    "parent_awake_ind",
    "dof_awake_ind",
)
_SLEEP_COUNTS = ("ntree_awake", "nbody_awake", "nparent_awake", "nv_awake")


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """Where a movable thing lives in the model."""

    body: int
    geom: int
    qpos: int
    dof: int


class Scene:
    """A compiled model with its data, and the physical facts that tasks and experts read.

    Objects and bowls are numbered as in the layout.

    Args:
        arm: The body that works at the table.
        shapes: Shape of each slot; a layout must bring the same shapes in any order.
        bowls: Number of bowls.
    """

    def __init__(self, arm: Arm, shapes: Sequence[str], bowls: int) -> None:
        self.arm = arm
        self.shapes = tuple(shapes)
        self.model = _compile(arm, self.shapes, bowls)
        self.data = mujoco.MjData(self.model)
        self.layout: Layout
        self.world = CLEAN
        self._originals = originals(self.model)
        model = self.model
        self._slots = tuple(self._slot(f"object{number}") for number in range(len(shapes)))
        self._bowls = tuple(model.body(f"bowl{number}").id for number in range(bowls))
        self._order: tuple[int, ...] = tuple(range(len(shapes)))
        self._hand = model.site(arm.hand).id
        self._arm_qpos = np.array([model.joint(name).qposadr[0] for name in arm.joints])
        self._finger_qpos = np.array([model.joint(name).qposadr[0] for name in arm.fingers])
        self._arm_control = np.array([model.actuator(name).id for name in arm.joints])
        self._finger_control = np.array([model.actuator(name).id for name in arm.fingers])
        # Views of MuJoCo's memory; asking `data` for them anew costs more than reading a number.
        self._qpos, self._qvel, self._xmat = self.data.qpos, self.data.qvel, self.data.xmat
        self._site_xpos, self._site_xmat = self.data.site_xpos, self.data.site_xmat
        self._control, self._body_pos = self.data.ctrl, model.body_pos

    def _slot(self, name: str) -> _Slot:
        body = self.model.body(name)
        joint = self.model.joint(int(body.jntadr[0]))
        return _Slot(
            body=body.id, geom=int(body.geomadr[0]), qpos=int(joint.qposadr[0]), dof=int(joint.dofadr[0])
        )

    def reset(self, layout: Layout, world: World = CLEAN) -> None:
        """Put everything where `layout` has it, the arm in its home pose, all at rest, in a world."""
        free = list(range(len(self.shapes)))
        order = []
        for thing in layout.objects:
            number = next(number for number in free if self.shapes[number] == thing.shape)
            free.remove(number)
            order.append(number)
        self.layout, self.world, self._order = layout, world, tuple(order)
        model, data = self.model, self.data
        write(world, model, self._originals, self.arm.wrist)
        for thing, number in zip(layout.objects, order, strict=True):
            slot = self._slots[number]
            model.geom_rgba[slot.geom] = (*world.color(COLORS[thing.color]), 1.0)
            half = SIZES[thing.shape][2]
            pose = (*thing.position, half, math.cos(thing.yaw / 2), 0.0, 0.0, math.sin(thing.yaw / 2))
            model.qpos0[slot.qpos : slot.qpos + 7] = pose
        for bowl, body in zip(layout.bowls, self._bowls, strict=True):
            model.body_pos[body] = (*bowl.position, 0.0)
            start, count = model.body_geomadr[body], model.body_geomnum[body]
            color = np.array(world.color(COLORS[bowl.color]))
            model.geom_rgba[start : start + count] = (*color, 1.0)
            model.geom_rgba[start + count - 1] = (*(0.75 * color), 1.0)  # the floor is darker than the wall
        mujoco.mj_resetData(model, data)
        self._qpos[self._arm_qpos] = self._control[self._arm_control] = self.arm.home
        self._qpos[self._finger_qpos] = self._control[self._finger_control] = self.arm.finger_travel
        mujoco.mj_forward(model, data)

    def advance(self, targets: np.ndarray, fingers: float) -> None:
        """Run a physics step for each row of joint targets (step, joint), with one target for all fingers.

        Poses of bodies and cameras are brought up to the new state.
        """
        model, data = self.model, self.data
        self._control[self._finger_control] = fingers
        for target in targets:
            self._control[self._arm_control] = target
            mujoco.mj_step(model, data)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)

    # ---- facts -------------------------------------------------------------------------------

    def joints(self) -> np.ndarray:
        """Measured arm joints (joint,), rad."""
        return self._qpos[self._arm_qpos]

    def fingers(self) -> np.ndarray:
        """Measured finger joints (finger,), meters."""
        return self._qpos[self._finger_qpos]

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) of the point between the finger pads, and rotation matrix (3, 3) of the hand."""
        return self._site_xpos[self._hand].copy(), self._site_xmat[self._hand].reshape(3, 3).copy()

    def hand_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and quaternion (4,) of the hand."""
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, self._site_xmat[self._hand])
        return self._site_xpos[self._hand].copy(), quat

    def place(self, number: int) -> np.ndarray:
        """Center (3,) of an object."""
        start = self._slots[self._order[number]].qpos
        return self._qpos[start : start + 3].copy()

    def rotation(self, number: int) -> np.ndarray:
        """Rotation matrix (3, 3) of an object; columns are its axes."""
        return self._xmat[self._slots[self._order[number]].body].reshape(3, 3).copy()

    def speed(self, number: int) -> float:
        """Speed of an object's center, m/s."""
        start = self._slots[self._order[number]].dof
        return math.hypot(*self._qvel[start : start + 3].tolist())

    def bowl(self, number: int) -> np.ndarray:
        """Center (3,) of a bowl's floor."""
        return self._body_pos[self._bowls[number]].copy()

    def extent(self, number: int, direction: np.ndarray) -> float:
        """Half the width of an object along a unit vector (3,) of the world, meters."""
        shape = self.shapes[self._order[number]]
        half = SIZES[shape]
        if shape == "ball":
            return half[0]
        along = np.abs(direction @ self.rotation(number))
        if shape == "cylinder":
            return float(half[2] * along[2] + half[0] * math.sqrt(max(0.0, 1.0 - along[2] ** 2)))
        return float(along @ half)

    def between(self, number: int) -> np.ndarray:
        """Center (3,) of an object from the point between the finger pads, in axes of the hand.

        x points along the pads, y is the direction in which they close, z points out of the hand.
        """
        position, rotation = self.hand()
        return (self.place(number) - position) @ rotation

    def opening(self) -> float:
        """Distance between the finger pads, meters."""
        return float(np.sum(self.fingers()))

    def presses(self) -> bool:
        """Whether the fingers are told to close further than they are."""
        return float(np.sum(self.fingers() - self._control[self._finger_control])) > _PRESSED

    def holds(self, number: int) -> bool:
        """Whether the fingers press on an object from both sides."""
        if not self.presses():
            return False
        along, across, ahead = np.abs(self.between(number)).tolist()
        if along > 0.05 or across > _BETWEEN or ahead > 0.03:
            return False
        _, rotation = self.hand()
        reach = self.extent(number, rotation[:, 0])
        return along < reach and self.opening() < 2 * self.extent(number, rotation[:, 1]) + _PRESSED

    def lost(self, number: int) -> bool:
        """Whether an object's center left the arm's reach, and with it the table top."""
        x, y, z = self.place(number).tolist()
        (low_x, low_y, _), (high_x, high_y, _) = self.arm.reach
        inside = low_x <= x <= high_x and low_y <= y <= high_y and math.hypot(x, y) <= self.arm.span
        return not inside or z < 0.0

    # ---- snapshot ----------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """State of the physics, with what sleeps.

        MuJoCo's state vector leaves out which trees sleep, and setting it wakes them all.
        """
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        arrays = [np.asarray(getattr(self.data, name), np.int32).tobytes() for name in _SLEEP_ARRAYS]
        counts = struct.pack(f"<{len(_SLEEP_COUNTS)}i", *(getattr(self.data, name) for name in _SLEEP_COUNTS))
        return b"".join([state.tobytes(), *arrays, counts])

    def restore(self, snapshot: bytes) -> None:
        """Go back to a snapshot of this scene with the same layout."""
        model, data = self.model, self.data
        size = mujoco.mj_stateSize(model, _STATE)
        state = np.frombuffer(snapshot, np.float64, size)
        mujoco.mj_resetData(model, data)
        mujoco.mj_setState(model, data, state, _STATE)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, _STATE)  # mj_forward leaves its own warm start
        start = 8 * size
        for name in _SLEEP_ARRAYS:
            array = getattr(data, name)
            array[:] = np.frombuffer(snapshot, np.int32, array.size, start)
            start += 4 * array.size
        for name, count in zip(
            _SLEEP_COUNTS, struct.unpack_from(f"<{len(_SLEEP_COUNTS)}i", snapshot, start), strict=True
        ):
            setattr(data, name, count)


# ---- building -----------------------------------------------------------------------------------


def _compile(arm: Arm, shapes: Sequence[str], bowls: int) -> mujoco.MjModel:
    """The model of an arm, a table, things and bowls."""
    world = mujoco.MjSpec()
    world.modelname = f"tabletop-{arm.name}"
    world.compiler.degree = False
    world.memory = 4 << 20  # bytes of working memory; a busy scene takes a tenth of it
    option = world.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    option.iterations = 30
    option.enableflags = mujoco.mjtEnableBit.mjENBL_SLEEP
    _add_room(world)
    arm.build(world)
    for number, shape in enumerate(shapes):
        _add_thing(world, f"object{number}", shape, number)
    for number in range(bowls):
        _add_bowl(world, f"bowl{number}", number)
    return world.compile()


def _add_room(world: mujoco.MjSpec) -> None:
    """Table, light and the fixed camera."""
    (low_x, low_y), (high_x, high_y) = TABLE
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
    place, _ = _front()
    camera = world.worldbody.add_camera(name="front", pos=place, fovy=_FOVY_DEG)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [0, 1, 0, -math.sin(_ELEVATION), 0, math.cos(_ELEVATION)]


def _front() -> tuple[np.ndarray, np.ndarray]:
    """Place of the fixed camera, and its axes to the right, up and backwards as rows."""
    backwards = np.array([math.cos(_ELEVATION), 0.0, math.sin(_ELEVATION)])
    axes = np.array([[0, 1, 0], [-math.sin(_ELEVATION), 0, math.cos(_ELEVATION)], backwards])
    return np.array(_AIM) + _DISTANCE * backwards, axes


def calibrated(camera: Camera, arm: Arm) -> Camera:
    """The same view with its projection, of the fixed camera or of the one on the hand of `arm`."""
    if camera.name == "front":
        place, axes = _front()
        return replace(camera, projection=_projection(place, axes, _FOVY_DEG, camera), mount="base")
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
        camera, projection=_projection(place, axes, float(model.cam_fovy[eye]), camera), mount="hand"
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


def _add_thing(world: mujoco.MjSpec, name: str, shape: str, number: int) -> None:
    """A free object, asleep until touched; it waits in a row until a layout places it."""
    size = SIZES[shape]
    body = world.worldbody.add_body(
        name=name, pos=[0.3, 0.15 * number, size[2]], sleep=mujoco.mjtSleepPolicy.mjSLEEP_INIT
    )
    body.add_freejoint()
    body.add_geom(
        type=_TYPES[shape],
        size=[size[0], size[2], 0] if shape == "cylinder" else size,
        density=_DENSITY,
        contype=1,
        conaffinity=3,
        condim=6 if shape in ("ball", "cylinder") else 4,
        friction=[0.9, 0.01, 0.001],
        solref=[0.01, 1],
        solimp=[0.95, 0.99, 0.001, 0.5, 2],
    )


def _add_bowl(world: mujoco.MjSpec, name: str, number: int) -> None:
    """A bowl that stands fast: a ring of boxes, and a floor that is only seen."""
    body = world.worldbody.add_body(name=name, pos=[0.6, 0.2 * number, 0])
    middle = BOWL_RADIUS + _WALL
    for wall in range(_WALLS):
        angle = 2 * math.pi * wall / _WALLS
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[_WALL, (BOWL_RADIUS + 2 * _WALL) * math.tan(math.pi / _WALLS), BOWL_HEIGHT / 2],
            pos=[middle * math.cos(angle), middle * math.sin(angle), BOWL_HEIGHT / 2],
            quat=[math.cos(angle / 2), 0, 0, math.sin(angle / 2)],
            contype=1,
            conaffinity=3,
            friction=[0.5, 0.01, 0.0005],
        )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[BOWL_RADIUS + 2 * _WALL, 0.001, 0],
        pos=[0, 0, 0.001],
        contype=0,
        conaffinity=0,
    )
