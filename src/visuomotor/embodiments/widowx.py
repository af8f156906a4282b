"""WidowX 250 with six joints (Interbotix X-series, wx250s), from capsules and boxes.

Kinematics, limits of joints, velocities, efforts and fingers are those that the maker publishes
(Trossen Robotics, "WidowX-250 6DOF" in the documentation of the Interbotix X-Series arms, with its
product of exponentials; `wx250s.urdf.xacro` of interbotix_xsarm_descriptions). The hand is its
`ee_gripper_link`. Masses are rounded from the same file, and the fingers have the faces of its meshes.

Differences from the real arm: gravity is compensated, a servo does not sag; servos are stiffer than
position control of a Dynamixel; shapes are our own, and so is the camera on the hand.
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

__all__ = ["WIDOWX"]

_BLACK = (0.16, 0.16, 0.18, 1.0)
_SERVO = (0.26, 0.27, 0.30, 1.0)
_METAL = (0.45, 0.46, 0.50, 1.0)

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

# In the zero pose every frame is that of the base: the upper arm points up, the forearm forward.
_LINKS = (
    Link((0, 0, 0.072), SAME, (Box((0, 0, 0.027), (0.03, 0.05, 0.022), 0.48, _SERVO),), False, _Z),
    Link(
        (0, 0, 0.03865),
        SAME,
        (
            Capsule((0, 0, 0.02), (0, 0, 0.235), 0.017, 0.25, _BLACK),
            Box((0.025, 0, 0.25), (0.045, 0.05, 0.020), 0.18, _SERVO),
        ),
        False,
        _Y,
    ),
    Link((0.04975, 0, 0.25), SAME, (Capsule((0.03, 0, 0), (0.145, 0, 0), 0.017, 0.235, _BLACK),), False, _Y),
    Link((0.175, 0, 0), SAME, (Capsule((-0.01, 0, 0), (0.055, 0, 0), 0.024, 0.22, _SERVO),), True, _X),
    Link((0.075, 0, 0), SAME, (Capsule((0, 0, 0), (0.045, 0, 0), 0.020, 0.085, _METAL),), True, _Y),
    Link((0.065, 0, 0), SAME, (Capsule((-0.005, 0, 0), (0.02, 0, 0), 0.022, 0.073, _SERVO),), True, _X),
)

_HAND_TURN = (0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5))  # z along x of the last link, y against its y
_TIP_OFFSET = 0.043 + 0.023 + 0.027575  # ee_gripper_link, from the last joint
_FINGERS = Fingers(
    names=("left_finger", "right_finger"),
    height=0.061,  # joints at 0.066, and the pads begin 5 mm before them
    gap=0.012,  # joints end at 0.015 from the middle, and the pads stand 9 mm further in
    travel=0.022,  # joints go from 0.015 to 0.037
    speed=0.044,  # 3.14 rad/s of the servo on its published horn of 14 mm
    force=5.0,
    half=(0.013, 0.0025, 0.0241),
    mass=0.016,
    rgba=_METAL,
)

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_TURN = math.pi - 0.00001
_LOW = (-_TURN, math.radians(-108), math.radians(-123), -_TURN, math.radians(-100), -_TURN)
_HIGH = (_TURN, math.radians(114), math.radians(92), _TURN, math.radians(123), _TURN)
_TORQUE = (10.0, 20.0, 15.0, 2.0, 5.0, 1.0)
_STIFFNESS = (400.0, 600.0, 400.0, 80.0, 120.0, 40.0)
_DAMPING = (20.0, 30.0, 20.0, 3.0, 4.0, 2.0)
_ARMATURE = (0.02,) * 6


def _build(world: mujoco.MjSpec) -> None:
    """Add the arm at the origin of `world`."""
    base = world.worldbody.add_body(name="base", gravcomp=1)
    add_box(base, Box((-0.03, 0, 0.005), (0.11, 0.075, 0.005), 0.1, _BLACK), touches=False)
    base.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[0.051, 0.031, 0],
        pos=[0, 0, 0.041],
        rgba=_BLACK,
        contype=0,
        conaffinity=0,
    )
    servos = [
        Servo(*numbers)
        for numbers in zip(_JOINTS, _LOW, _HIGH, _STIFFNESS, _DAMPING, _TORQUE, _ARMATURE, strict=True)
    ]
    last = add_chain(world, base, servos, _LINKS)
    hand = last.add_body(name="hand", quat=_HAND_TURN, gravcomp=1)
    add_box(hand, Box((0, 0, 0.047), (0.013, 0.05, 0.013), 0.034, _BLACK), touches=True)
    hand.add_site(name="hand", pos=[0, 0, _TIP_OFFSET])
    add_eye(hand, "wrist", pos=(0.05, 0.0, 0.053), tilt=math.radians(28), fovy=74)
    add_fingers(world, hand, _FINGERS)


_ARM = Arm(
    joints=_JOINTS,
    home=(0.0, -0.2529972, 0.4648561, 0.0, math.pi / 2 - 0.2118589, 0.0),
    low=_LOW,
    high=_HIGH,
    speed=(math.pi,) * 6,
    stiffness=_STIFFNESS,
    damping=_DAMPING,
    fingers=_FINGERS.names,
    finger_travel=_FINGERS.travel,
    hand="hand",
    down=(0.0, 1.0, 0.0, 0.0),
    reach=((0.12, -0.30, 0.018), (0.48, 0.30, 0.30)),
    span=0.49,
    turn=2.2,
    move_limit=0.4,
    turn_limit=3.0,
    wrist="wrist",
    build=_build,
    gap=_FINGERS.gap,
)

WIDOWX = Body(name="widowx", arms=(_ARM,), rate=5.0, scale=0.7, origin=(-0.05, 0.0))
