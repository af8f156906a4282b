"""Franka Emika Panda with its hand, from capsules and boxes.

Kinematics, joint position and velocity limits and torque limits are the published ones ("Robot and
interface specifications", Franka Control Interface documentation; modified Denavit-Hartenberg
parameters of Craig). Masses are rounded from the identified model of Gaz et al. (2019),
"Dynamic identification of the Franka Emika Panda robot with retrieval of feasible parameters".
Shapes are our own: few primitives, because the cost of a picture grows with their number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mujoco

from visuomotor.embodiments.base import Arm

__all__ = ["FRANKA"]

_WHITE = (0.93, 0.93, 0.95, 1.0)
_GRAY = (0.32, 0.34, 0.38, 1.0)
_LIGHT = (0.72, 0.74, 0.78, 1.0)

_HALF = math.sqrt(0.5)
_PLUS = (_HALF, _HALF, 0.0, 0.0)  # quarter turn about x
_MINUS = (_HALF, -_HALF, 0.0, 0.0)
_SAME = (1.0, 0.0, 0.0, 0.0)

Point = tuple[float, float, float]


class _Capsule(NamedTuple):
    """A piece of a link between two points of its frame, meters and kilograms."""

    start: Point
    end: Point
    radius: float
    mass: float
    rgba: tuple[float, float, float, float] = _WHITE


class _Link(NamedTuple):
    """Frame of a joint in the frame of the one before, and what hangs on it."""

    pos: Point
    quat: tuple[float, float, float, float]
    capsules: tuple[_Capsule, ...]
    touches: bool
    """Whether it collides with table and objects; upper links never get near them."""


_LINKS = (
    _Link((0, 0, 0.333), _SAME, (_Capsule((0, 0, -0.20), (0, 0, -0.03), 0.065, 4.97),), False),
    _Link((0, 0, 0), _MINUS, (_Capsule((0, -0.06, 0), (0, -0.16, 0), 0.065, 0.65),), False),
    _Link(
        (0, -0.316, 0),
        _PLUS,
        (
            _Capsule((0, 0, -0.10), (0.0, 0, -0.03), 0.062, 1.6),
            _Capsule((0.0825, -0.04, 0), (0.0825, 0.04, 0), 0.060, 1.6, _LIGHT),
        ),
        False,
    ),
    _Link((0.0825, 0, 0), _PLUS, (_Capsule((-0.05, 0.04, 0), (-0.0825, 0.12, 0), 0.058, 3.59),), False),
    _Link(
        (-0.0825, 0.384, 0),
        _MINUS,
        (
            _Capsule((0, 0, -0.21), (0, 0.06, -0.09), 0.046, 0.8),
            _Capsule((0, 0.06, -0.07), (0, 0.01, 0), 0.042, 0.43),
        ),
        True,
    ),
    _Link((0, 0, 0), _PLUS, (_Capsule((0, 0, 0.0), (0.088, 0.0, 0), 0.042, 1.67, _LIGHT),), True),
    _Link((0.088, 0, 0), _PLUS, (_Capsule((0, 0, 0.02), (0, 0, 0.06), 0.036, 0.73),), True),
)

_HAND_OFFSET = 0.107  # flange, from joint 7
_HAND_TURN = (math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8))  # -45 degrees about z
_FINGER_OFFSET = 0.0584  # finger joints, from the hand
_TIP_OFFSET = 0.1034  # point between the finger pads, from the hand
_TRAVEL = 0.04
_FINGER_SPEED = 0.05  # m/s, published
_FINGER_FORCE = 20.0  # N, below the published continuous 70 N; enough for the light objects of a table top

_JOINTS = tuple(f"joint{number}" for number in range(1, 8))
_FINGERS = ("finger1", "finger2")
_LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
_HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
_TORQUE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_DAMPING = (250.0, 250.0, 200.0, 200.0, 60.0, 60.0, 40.0)


def _capsule(body: mujoco.MjsBody, piece: _Capsule, touches: bool) -> None:
    """One capsule of a link. Arm geoms carry bit 2: they meet the world (bit 1), not one another."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[*piece.start, *piece.end],
        size=[piece.radius, 0, 0],
        mass=piece.mass,
        rgba=piece.rgba,
        contype=2 if touches else 0,
        conaffinity=1 if touches else 0,
    )


def _position_actuator(
    world: mujoco.MjSpec, joint: str, gain: float, damping: float, force: float, span: tuple[float, float]
) -> None:
    """A servo: force = gain * (target - position) - damping * velocity."""
    world.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        gainprm=[gain, *[0] * 9],
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0, -gain, -damping, *[0] * 7],
        forcerange=[-force, force],
        forcelimited=True,
        ctrlrange=span,
        ctrllimited=False,
    )


def _build_hand(body: mujoco.MjsBody) -> None:
    """Palm, fingers, the site between them and the camera, on the last link."""
    hand = body.add_body(name="hand", pos=[0, 0, _HAND_OFFSET], quat=_HAND_TURN, gravcomp=1)
    hand.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.02, 0.06, 0.028],
        pos=[0, 0, 0.03],
        mass=0.73,
        rgba=_WHITE,
        contype=2,
        conaffinity=1,
    )
    hand.add_site(name="hand", pos=[0, 0, _TIP_OFFSET])
    # 28 degrees off the hand's axis: the tips of the fingers stay in the lower half of the picture.
    tilt = math.radians(28)
    camera = hand.add_camera(name="wrist", pos=[0.07, 0, 0.045], fovy=74)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [0, 1, 0, math.cos(tilt), 0, math.sin(tilt)]
    for name, turn in zip(_FINGERS, (_SAME, (0.0, 0.0, 0.0, 1.0)), strict=True):
        finger = hand.add_body(name=name, pos=[0, 0, _FINGER_OFFSET], quat=turn, gravcomp=1)
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, 1, 0],
            range=[0, _TRAVEL],
            limited=True,
            armature=0.1,
            # The damping alone sets the published speed: force / damping.
            damping=_FINGER_FORCE / _FINGER_SPEED,
        )
        finger.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.0105, 0.006, 0.027],
            pos=[0, 0.006, 0.027],
            mass=0.05,
            rgba=_GRAY,
            contype=2,
            conaffinity=1,
            condim=4,
            friction=[1.2, 0.02, 0.001],
            solref=[0.01, 1],
            solimp=[0.95, 0.99, 0.001, 0.5, 2],
        )


def _build(world: mujoco.MjSpec) -> None:
    """Add the arm at the origin of `world`."""
    body = world.worldbody.add_body(name="base", gravcomp=1)
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.10, 0.08, 0.05],
        pos=[-0.03, 0, 0.05],
        rgba=_LIGHT,
        contype=0,
        conaffinity=0,
    )
    for number, (name, link) in enumerate(zip(_JOINTS, _LINKS, strict=True)):
        body = body.add_body(name=f"link{number + 1}", pos=link.pos, quat=link.quat, gravcomp=1)
        body.add_joint(
            name=name, axis=[0, 0, 1], range=[_LOW[number], _HIGH[number]], limited=True, armature=0.1
        )
        for piece in link.capsules:
            _capsule(body, piece, link.touches)
        _position_actuator(
            world, name, _STIFFNESS[number], _DAMPING[number], _TORQUE[number], (_LOW[number], _HIGH[number])
        )
    _build_hand(body)
    for name in _FINGERS:
        _position_actuator(world, name, 20_000.0, 0.0, _FINGER_FORCE, (0.0, _TRAVEL))


FRANKA = Arm(
    name="franka",
    joints=_JOINTS,
    home=(0.0, -0.2768435, 0.0, -2.6821097, 0.0, 2.4052662, math.pi / 4),
    low=_LOW,
    high=_HIGH,
    speed=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    stiffness=_STIFFNESS,
    damping=_DAMPING,
    fingers=_FINGERS,
    finger_travel=_TRAVEL,
    hand="hand",
    down=(0.0, 1.0, 0.0, 0.0),
    reach=((0.24, -0.42, 0.012), (0.76, 0.42, 0.45)),
    span=0.77,
    turn=2.2,
    move_limit=0.6,
    turn_limit=3.0,
    wrist="wrist",
    build=_build,
)
