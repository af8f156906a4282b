"""The physical world of an episode: what the model holds, and the facts that tasks and experts read.

A model is compiled once for each set of shapes and fixtures. Everything else of a layout (colors,
places) is written into the compiled model, so that a reset takes no compilation, and every reset
starts from fresh `MjData`, so that an episode does not depend on what was played before.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from visuomotor.embodiments.base import Arm, Body
from visuomotor.envs.tabletop.build import SIZES, TOLERANCE, compile_scene
from visuomotor.envs.tabletop.things import COLORS, DRAWER, Layout
from visuomotor.envs.tabletop.worlds import CLEAN, World, originals, write

__all__ = ["Scene"]

_PRESSED = 0.004  # meters by which pressing fingers stay open, and may be away from what they touch
_BETWEEN = 0.012  # meters; what is held is no farther from the middle of the fingers
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
_DOWN = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """Where a movable thing lives in the model."""

    body: int
    geom: int
    qpos: int
    dof: int


@dataclass(frozen=True, kw_only=True)
class _Stand:
    """Where a fixture lives in the model: its body, what is painted and how bright, and its joint."""

    body: int
    painted: np.ndarray
    tints: np.ndarray
    qpos: int | None
    bodies: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Limb:
    """Where an arm lives in the model: its hand, its joints and fingers, and their servos."""

    site: int
    qpos: np.ndarray
    control: np.ndarray
    finger_qpos: np.ndarray
    finger_control: np.ndarray


def _limb(model: mujoco.MjModel, arm: Arm) -> _Limb:
    return _Limb(
        site=model.site(arm.hand).id,
        qpos=np.array([model.joint(name).qposadr[0] for name in arm.joints]),
        control=np.array([model.actuator(name).id for name in arm.joints]),
        finger_qpos=np.array([model.joint(name).qposadr[0] for name in arm.fingers]),
        finger_control=np.array([model.actuator(name).id for name in arm.fingers]),
    )


class Scene:
    """A compiled model with its data, and the physical facts that tasks and experts read.

    Objects and fixtures are numbered as in the layout, hands as the arms of the body. A small body plays
    a layout at a smaller scale (`Body.scale`, `Body.origin`): facts are told in frame and meters of the
    layout, so that tasks and experts are the same for every body; joints, fingers and `hand_pose` are the
    body's own.

    Args:
        body: Who works at the table.
        shapes: Shape of each slot; a layout must bring the same shapes in any order.
        kinds: Kind of each fixture, in the order of the layout.
        tolerance: How much wider the radius of a socket is than that of a peg, meters.
    """

    def __init__(
        self, body: Body, shapes: Sequence[str], kinds: Sequence[str], *, tolerance: float = TOLERANCE
    ) -> None:
        self.body = body
        self._scale, self._origin = body.scale, np.array([*body.origin, 0.0])
        self.tolerance = tolerance
        self.shapes = tuple(shapes)
        self.model = compile_scene(body, self.shapes, kinds, tolerance)
        self.data = mujoco.MjData(self.model)
        self.layout: Layout
        self.world = CLEAN
        self._originals = originals(self.model)
        model = self.model
        self._slots = tuple(self._slot(f"object{number}") for number in range(len(shapes)))
        self._stands = tuple(self._stand(f"fixture{number}") for number in range(len(kinds)))
        self._order: tuple[int, ...] = tuple(range(len(shapes)))
        self._limbs = tuple(_limb(model, arm) for arm in body.arms)
        self._arm_control = np.concatenate([limb.control for limb in self._limbs])
        # Views of MuJoCo's memory; asking `data` for them anew costs more than reading a number.
        self._qpos, self._qvel, self._xmat = self.data.qpos, self.data.qvel, self.data.xmat
        self._site_xpos, self._site_xmat = self.data.site_xpos, self.data.site_xmat
        self._control, self._xpos = self.data.ctrl, self.data.xpos

    def _slot(self, name: str) -> _Slot:
        body = self.model.body(name)
        joint = self.model.joint(int(body.jntadr[0]))
        return _Slot(
            body=body.id, geom=int(body.geomadr[0]), qpos=int(joint.qposadr[0]), dof=int(joint.dofadr[0])
        )

    def _stand(self, name: str) -> _Stand:
        model = self.model
        body, joint = model.body(name).id, mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
        bodies = [body] if joint < 0 else [body, int(model.jnt_bodyid[joint])]
        painted = np.flatnonzero(np.isin(model.geom_bodyid, bodies) & (model.geom_group == 0))
        return _Stand(
            body=body,
            painted=painted,
            tints=model.geom_rgba[painted, :3].copy(),
            qpos=None if joint < 0 else int(model.jnt_qposadr[joint]),
            bodies=tuple(bodies),
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
        write(world, model, self._originals, [arm.wrist for arm in self.body.arms])
        for thing, number in zip(layout.objects, order, strict=True):
            slot = self._slots[number]
            model.geom_rgba[slot.geom] = (*world.color(COLORS[thing.color]), 1.0)
            half = SIZES[thing.shape][2]
            turn = (math.cos(thing.yaw / 2), 0.0, 0.0, math.sin(thing.yaw / 2))
            model.qpos0[slot.qpos : slot.qpos + 7] = (*self.to_base((*thing.position, half)), *turn)
        for fixture, stand in zip(layout.fixtures, self._stands, strict=True):
            model.body_pos[stand.body] = self.to_base((*fixture.position, 0.0))
            model.body_quat[stand.body] = (math.cos(fixture.yaw / 2), 0.0, 0.0, math.sin(fixture.yaw / 2))
            if len(stand.painted):
                color = np.array(world.color(COLORS[fixture.color]))
                model.geom_rgba[stand.painted, :3] = stand.tints * color
        mujoco.mj_resetData(model, data)
        for arm, limb in zip(self.body.arms, self._limbs, strict=True):
            self._qpos[limb.qpos] = self._control[limb.control] = arm.home
            self._qpos[limb.finger_qpos] = self._control[limb.finger_control] = arm.finger_travel
        for fixture, stand in zip(layout.fixtures, self._stands, strict=True):
            if fixture.open and stand.qpos is not None:
                self._qpos[stand.qpos] = DRAWER.travel * self._scale
        mujoco.mj_forward(model, data)

    def advance(self, targets: np.ndarray, *fingers: float) -> None:
        """Run a physics step for each row of joint targets (step, joint), and one finger target a hand.

        The joints are those of all arms, one arm after the other.
        Poses of bodies and cameras are brought up to the new state.
        """
        model, data = self.model, self.data
        for limb, opening in zip(self._limbs, fingers, strict=True):
            self._control[limb.finger_control] = opening
        for target in targets:
            self._control[self._arm_control] = target
            mujoco.mj_step(model, data)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)

    # ---- facts -------------------------------------------------------------------------------

    def to_base(self, point: Sequence[float] | np.ndarray) -> np.ndarray:
        """A point (3,) of the layout in the frame of the body, meters."""
        return self._origin + self._scale * np.asarray(point)

    def to_layout(self, point: np.ndarray) -> np.ndarray:
        """Inverse of `to_base`."""
        return (point - self._origin) / self._scale

    def joints(self, hand: int = 0) -> np.ndarray:
        """Measured arm joints (joint,), rad."""
        return self._qpos[self._limbs[hand].qpos]

    def fingers(self, hand: int = 0) -> np.ndarray:
        """Measured finger joints (finger,), meters."""
        return self._qpos[self._limbs[hand].finger_qpos]

    def grip(self, hand: int = 0) -> float:
        """How far the fingers are closed: 0 open to 1 closed."""
        return self.body.arms[hand].grip(self.fingers(hand))

    def hand(self, hand: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) of the point between the finger pads, and rotation matrix (3, 3) of the hand."""
        site = self._limbs[hand].site
        return self.to_layout(self._site_xpos[site]), self._site_xmat[site].reshape(3, 3).copy()

    def hand_pose(self, hand: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and quaternion (4,) of the hand in the frame of the base."""
        site, quat = self._limbs[hand].site, np.empty(4)
        mujoco.mju_mat2Quat(quat, self._site_xmat[site])
        return self._site_xpos[site].copy(), quat

    def place(self, number: int) -> np.ndarray:
        """Center (3,) of an object."""
        start = self._slots[self._order[number]].qpos
        return self.to_layout(self._qpos[start : start + 3])

    def rotation(self, number: int) -> np.ndarray:
        """Rotation matrix (3, 3) of an object; columns are its axes."""
        return self._xmat[self._slots[self._order[number]].body].reshape(3, 3).copy()

    def speed(self, number: int) -> float:
        """Speed of an object's center, m/s."""
        start = self._slots[self._order[number]].dof
        return math.hypot(*self._qvel[start : start + 3].tolist()) / self._scale

    def fixture(self, number: int) -> np.ndarray:
        """Where the middle of a fixture is on the table (3,); of a drawer, what is in it comes along."""
        return self.to_layout(self._xpos[self._stands[number].bodies[-1]])

    def travel(self, number: int) -> float:
        """How far a drawer is pulled out or a button pressed, meters; 0 for what does not move."""
        start = self._stands[number].qpos
        return 0.0 if start is None else float(self._qpos[start]) / self._scale

    def handle(self, number: int) -> np.ndarray:
        """Upper end (3,) of the handle of a drawer."""
        ahead, aside = self.layout.fixtures[number].out
        x, y, _ = self.fixture(number).tolist()
        return np.array([x + DRAWER.handle * ahead, y + DRAWER.handle * aside, DRAWER.handle_height])

    def owners(self) -> np.ndarray:
        """What each body of the model belongs to (body,).

        The number of an object; the count of objects plus the number of a fixture; -1 for arm and table.
        """
        owners = np.full(self.model.nbody, -1)
        for number, slot in enumerate(self._order):
            owners[self._slots[slot].body] = number
        for number, stand in enumerate(self._stands):
            owners[list(stand.bodies)] = len(self._order) + number
        return owners

    def touches(self, number: int) -> bool:
        """Whether anything touches a fixture."""
        data, body = self.data, self._stands[number].body
        pairs = self.model.geom_bodyid[data.contact.geom] if data.ncon else np.empty((0, 2), int)
        return bool((pairs == body).any())

    def extent(self, number: int, direction: np.ndarray) -> float:
        """Half the width of an object along a unit vector (3,) of the world, meters."""
        shape = self.shapes[self._order[number]]
        half = SIZES[shape]
        if shape == "ball":
            return half[0]
        along = np.abs(direction @ self.rotation(number))
        if shape in ("cylinder", "peg"):
            return float(half[2] * along[2] + half[0] * math.sqrt(max(0.0, 1.0 - along[2] ** 2)))
        return float(along @ half)

    def between(self, number: int, hand: int = 0) -> np.ndarray:
        """Center (3,) of an object from the point between the finger pads, in axes of the hand.

        x points along the pads, y is the direction in which they close, z points out of the hand.
        """
        position, rotation = self.hand(hand)
        return (self.place(number) - position) @ rotation

    def opening(self, hand: int = 0) -> float:
        """Distance between the finger pads, meters."""
        return (float(np.sum(self.fingers(hand))) + self.body.arms[hand].gap) / self._scale

    def presses(self, hand: int = 0) -> bool:
        """Whether the fingers are told to close further than they are."""
        told = self._control[self._limbs[hand].finger_control]
        return float(np.sum(self.fingers(hand) - told)) > _PRESSED * self._scale

    def holds(self, number: int, hand: int = 0) -> bool:
        """Whether the fingers of a hand press on an object from both sides."""
        if not self.presses(hand):
            return False
        along, across, ahead = np.abs(self.between(number, hand)).tolist()
        if along > 0.05 or across > _BETWEEN or ahead > 0.03:
            return False
        _, rotation = self.hand(hand)
        reach = self.extent(number, rotation[:, 0])
        return along < reach and self.opening(hand) < 2 * self.extent(number, rotation[:, 1]) + _PRESSED

    def holders(self, number: int) -> list[int]:
        """The hands that hold an object."""
        return [hand for hand in range(len(self._limbs)) if self.holds(number, hand)]

    def grips(self, point: np.ndarray, width: float, hand: int = 0) -> bool:
        """Whether the fingers of a hand press on something of that width at a point (3,), meters."""
        position, rotation = self.hand(hand)
        along, across, ahead = np.abs((point - position) @ rotation).tolist()
        near = along < 0.02 and across < _BETWEEN and ahead < 0.035
        return near and self.presses(hand) and self.opening(hand) < width + _PRESSED

    def bottom(self, number: int) -> float:
        """Height of the lower side of an object, meters."""
        return float(self.place(number)[2]) - self.extent(number, _DOWN)

    def reaches(self, point: np.ndarray, hand: int = 0) -> bool:
        """Whether a hand may be commanded over a point (2,) or (3,) of the layout."""
        arm = self.body.arms[hand]
        x, y = (self._origin[:2] + self._scale * point[:2]).tolist()
        (low_x, low_y, _), (high_x, high_y, _) = arm.reach
        within = math.hypot(x - arm.at[0], y - arm.at[1]) <= arm.span
        return within and low_x <= x <= high_x and low_y <= y <= high_y

    def lost(self, number: int) -> bool:
        """Whether an object's center left the reach of every hand, and with it the table top."""
        place = self.place(number)
        return place[2] < 0.0 or not any(self.reaches(place, hand) for hand in range(len(self._limbs)))

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
