"""Two ViperX 300 with six joints (Interbotix X-series, vx300s) that face each other, from capsules and boxes.

The followers of ALOHA (Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost
Hardware", arXiv:2304.13705): one stands to the left of the table and one to the right, 94 cm apart, and
they are commanded 50 times a second. The frame of the body lies on the table between them: x from where
a person would sit who looks at the table, y to the left.

Kinematics and limits of joints are those that the maker publishes (Trossen Robotics, "ViperX-300 6DOF" in
the documentation of the Interbotix X-Series Arms, with its product of exponentials); velocities, efforts
and the way of the fingers are those of `vx300s.urdf.xacro` of interbotix_xsarm_descriptions. The hand is
its `ee_gripper_link`. Masses are rounded from the same file, and the fingers have the faces of its meshes.

Differences from the real arms: gravity is compensated, servos do not sag; servos are stiffer than position
control of a Dynamixel; fingers are 26 mm wide, not 61 mm (ALOHA has fingers of its own, too); shapes are our
own, and so are the cameras on the hands. Two of ALOHA's four cameras are left out.
"""

from __future__ import annotations

import math
from functools import partial

import mujoco

from visuomotor.embodiments.base import Arm, Body
from visuomotor.embodiments.parts import (
    ARM_MEETS,
    SAME,
    Box,
    Capsule,
    Fingers,
    Link,
    Meets,
    Servo,
    add_box,
    add_chain,
    add_eye,
    add_fingers,
)

__all__ = ["ALOHA2ARM"]

_BLACK = (0.16, 0.16, 0.18, 1.0)
_SERVO = (0.26, 0.27, 0.30, 1.0)
_METAL = (0.45, 0.46, 0.50, 1.0)

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_APART = 0.469  # meters from the middle between the arms to the axis of each

# In the zero pose every frame is that of the base: the upper arm points up, the forearm forward.
_LINKS = (
    Link((0, 0, 0.079), SAME, (Box((0, 0, 0.031), (0.036, 0.052, 0.031), 0.80, _SERVO),), False, _Z),
    Link(
        (0, 0, 0.04805),
        SAME,
        (
            Capsule((0, 0, 0.02), (0, 0, 0.28), 0.020, 0.45, _BLACK),
            Box((0.03, 0, 0.30), (0.05, 0.05, 0.020), 0.34, _SERVO),
        ),
        False,
        _Y,
    ),
    Link((0.05955, 0, 0.3), SAME, (Capsule((0.03, 0, 0), (0.17, 0, 0), 0.019, 0.32, _BLACK),), True, _Y),
    Link((0.2, 0, 0), SAME, (Capsule((-0.01, 0, 0), (0.08, 0, 0), 0.025, 0.415, _SERVO),), True, _X),
    Link((0.1, 0, 0), SAME, (Capsule((0, 0, 0), (0.05, 0, 0), 0.021, 0.115, _METAL),), True, _Y),
    Link((0.069744, 0, 0), SAME, (Capsule((-0.005, 0, 0), (0.02, 0, 0), 0.023, 0.098, _SERVO),), True, _X),
)

_HAND_TURN = (0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5))  # z along x of the last link, y against its y
_FINGERS_OFFSET = 0.042825 + 0.025875  # fingers_link, from the last joint
_TIP_OFFSET = _FINGERS_OFFSET + 0.0385  # ee_gripper_link

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_TURN = math.pi - 0.00001
_LOW = (-_TURN, math.radians(-101), math.radians(-101), -_TURN, math.radians(-107), -_TURN)
_HIGH = (_TURN, math.radians(101), math.radians(92), _TURN, math.radians(130), _TURN)
_TORQUE = (10.0, 20.0, 15.0, 2.0, 5.0, 1.0)
_STIFFNESS = (500.0, 800.0, 500.0, 80.0, 120.0, 40.0)
_DAMPING = (25.0, 40.0, 25.0, 3.0, 4.0, 2.0)
_ARMATURE = (0.03, 0.03, 0.03, 0.02, 0.02, 0.02)


def _fingers(name: str) -> Fingers:
    """Those of one hand."""
    return Fingers(
        names=(f"{name}_finger1", f"{name}_finger2"),
        height=_FINGERS_OFFSET,
        gap=0.015,  # carriages end at 0.021 from the middle, and the faces stand 13.5 mm further in
        travel=0.036,  # carriages go from 0.021 to 0.057
        speed=0.069,  # 3.14 rad/s of the servo on its published horn of 22 mm
        force=5.0,
        half=(0.013, 0.003, 0.0339),  # ends where the maker's fingers do
        mass=0.035,
        rgba=_METAL,
    )


def _build(world: mujoco.MjSpec, name: str, y: float, turn: float, meets: Meets) -> None:
    """Add the arm of a hand to `world`, at `y` meters to the left, its front turned by `turn` radians."""
    base = world.worldbody.add_body(
        name=f"{name}_base", pos=[0, y, 0], quat=[math.cos(turn / 2), 0, 0, math.sin(turn / 2)], gravcomp=1
    )
    add_box(base, Box((-0.04, 0, 0.006), (0.12, 0.09, 0.006), 0.2, _BLACK), touches=False)
    base.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[0.058, 0.034, 0],
        pos=[0, 0, 0.045],
        rgba=_BLACK,
        contype=0,
        conaffinity=0,
    )
    joints = [f"{name}_{joint}" for joint in _JOINTS]
    servos = [
        Servo(*numbers)
        for numbers in zip(joints, _LOW, _HIGH, _STIFFNESS, _DAMPING, _TORQUE, _ARMATURE, strict=True)
    ]
    last = add_chain(world, base, servos, _LINKS, prefix=f"{name}_", meets=meets)
    hand = last.add_body(name=f"{name}_hand", quat=_HAND_TURN, gravcomp=1)
    add_box(hand, Box((0, 0, 0.048), (0.018, 0.062, 0.018), 0.25, _BLACK), touches=True, meets=meets)
    hand.add_site(name=f"{name}_hand", pos=[0, 0, _TIP_OFFSET])
    add_eye(hand, f"{name}_wrist", pos=(0.055, 0.0, 0.055), tilt=math.radians(28), fovy=74)
    add_fingers(world, hand, _fingers(name), meets=meets)


def _arm(name: str, side: float, meets: Meets) -> Arm:
    """The arm of a hand.

    Args:
        name: Of the hand.
        side: 1 for the one on the left, which looks to the right; -1 for the other.
        meets: What its links collide with.
    """
    turn = -side * math.pi / 2
    fingers = _fingers(name)
    near, far = sorted((-side * 0.05, side * 0.38))  # a hand reaches 5 cm beyond the middle of the table
    return Arm(
        joints=tuple(f"{name}_{joint}" for joint in _JOINTS),
        home=_HOME,
        low=_LOW,
        high=_HIGH,
        speed=(math.pi,) * 6,
        stiffness=_STIFFNESS,
        damping=_DAMPING,
        fingers=fingers.names,
        finger_travel=fingers.travel,
        hand=f"{name}_hand",
        down=(0.0, math.cos(turn / 2), math.sin(turn / 2), 0.0),
        reach=((-0.30, near, 0.032), (0.30, far, 0.32)),
        span=0.56,
        turn=2.2,
        move_limit=0.6,
        turn_limit=3.0,
        wrist=f"{name}_wrist",
        build=partial(_build, name=name, y=side * _APART, turn=turn, meets=meets),
        gap=fingers.gap,
        name=name,
        at=(0.0, side * _APART),
    )


_HOME = (0.0, -0.7475910, 0.8162822, 0.0, math.pi / 2 - 0.0686912, 0.0)

# Arms meet what stands (bit 1) and objects as every arm does (bit 2), and one the other (bit 4).
_LEFT = _arm("left", 1.0, Meets(ARM_MEETS.contype | 4, ARM_MEETS.conaffinity))
_RIGHT = _arm("right", -1.0, Meets(ARM_MEETS.contype, ARM_MEETS.conaffinity | 4))

ALOHA2ARM = Body(name="aloha2arm", arms=(_LEFT, _RIGHT), rate=50.0, origin=(-0.5, 0.0), sight=1.25)
