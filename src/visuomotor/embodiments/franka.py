"""Franka Emika Panda with its hand, from capsules and boxes.

Kinematics, joint position and velocity limits and torque limits are the published ones ("Robot and
interface specifications", Franka Control Interface documentation; modified Denavit-Hartenberg
parameters of Craig). Masses are rounded from the identified model of Gaz et al. (2019),
"Dynamic identification of the Franka Emika Panda robot with retrieval of feasible parameters".
Shapes are our own: few primitives, because the cost of a picture grows with their number.
"""

from __future__ import annotations

import math

import mujoco

from visuomotor.embodiments.base import Arm, Body
from visuomotor.embodiments.parts import (
    SAME,
    Box,
    Capsule,
    Fingers,
    Link,
    Servo,
    add_box,
    add_chain,
    add_eye,
    add_fingers,
)

__all__ = ["FRANKA"]

_WHITE = (0.93, 0.93, 0.95, 1.0)
_GRAY = (0.32, 0.34, 0.38, 1.0)
_LIGHT = (0.72, 0.74, 0.78, 1.0)

_HALF = math.sqrt(0.5)
_PLUS = (_HALF, _HALF, 0.0, 0.0)  # quarter turn about x
_MINUS = (_HALF, -_HALF, 0.0, 0.0)

_LINKS = (
    Link((0, 0, 0.333), SAME, (Capsule((0, 0, -0.20), (0, 0, -0.03), 0.065, 4.97, _WHITE),), False),
    Link((0, 0, 0), _MINUS, (Capsule((0, -0.06, 0), (0, -0.16, 0), 0.065, 0.65, _WHITE),), False),
    Link(
        (0, -0.316, 0),
        _PLUS,
        (
            Capsule((0, 0, -0.10), (0.0, 0, -0.03), 0.062, 1.6, _WHITE),
            Capsule((0.0825, -0.04, 0), (0.0825, 0.04, 0), 0.060, 1.6, _LIGHT),
        ),
        False,
    ),
    Link((0.0825, 0, 0), _PLUS, (Capsule((-0.05, 0.04, 0), (-0.0825, 0.12, 0), 0.058, 3.59, _WHITE),), False),
    Link(
        (-0.0825, 0.384, 0),
        _MINUS,
        (
            Capsule((0, 0, -0.21), (0, 0.06, -0.09), 0.046, 0.8, _WHITE),
            Capsule((0, 0.06, -0.07), (0, 0.01, 0), 0.042, 0.43, _WHITE),
        ),
        True,
    ),
    Link((0, 0, 0), _PLUS, (Capsule((0, 0, 0.0), (0.088, 0.0, 0), 0.042, 1.67, _LIGHT),), True),
    Link((0.088, 0, 0), _PLUS, (Capsule((0, 0, 0.02), (0, 0, 0.06), 0.036, 0.73, _WHITE),), True),
)

_HAND_OFFSET = 0.107  # flange, from joint 7
_HAND_TURN = (math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8))  # -45 degrees about z
_TIP_OFFSET = 0.1034  # point between the finger pads, from the hand
_FINGERS = Fingers(
    names=("finger1", "finger2"),
    height=0.0584,
    gap=0.0,
    travel=0.04,
    speed=0.05,  # published
    force=20.0,  # below the published continuous 70 N; enough for the light objects of a table top
    half=(0.0105, 0.006, 0.027),
    mass=0.05,
    rgba=_GRAY,
)

_JOINTS = tuple(f"joint{number}" for number in range(1, 8))
_LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
_HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
_TORQUE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_DAMPING = (250.0, 250.0, 200.0, 200.0, 60.0, 60.0, 40.0)
_ARMATURE = (0.1,) * 7


def _build_hand(world: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
    """Palm, fingers, the site between them and the camera, on the last link."""
    hand = body.add_body(name="hand", pos=[0, 0, _HAND_OFFSET], quat=_HAND_TURN, gravcomp=1)
    add_box(hand, Box((0, 0, 0.03), (0.02, 0.06, 0.028), 0.73, _WHITE), touches=True)
    hand.add_site(name="hand", pos=[0, 0, _TIP_OFFSET])
    # 28 degrees off the hand's axis: the tips of the fingers stay in the lower half of the picture.
    add_eye(hand, "wrist", pos=(0.07, 0, 0.045), tilt=math.radians(28), fovy=74)
    add_fingers(world, hand, _FINGERS)


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
    servos = [
        Servo(*numbers)
        for numbers in zip(_JOINTS, _LOW, _HIGH, _STIFFNESS, _DAMPING, _TORQUE, _ARMATURE, strict=True)
    ]
    _build_hand(world, add_chain(world, body, servos, _LINKS))


_ARM = Arm(
    joints=_JOINTS,
    home=(0.0, -0.2768435, 0.0, -2.6821097, 0.0, 2.4052662, math.pi / 4),
    low=_LOW,
    high=_HIGH,
    speed=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    stiffness=_STIFFNESS,
    damping=_DAMPING,
    fingers=_FINGERS.names,
    finger_travel=_FINGERS.travel,
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

FRANKA = Body(name="franka", arms=(_ARM,))
