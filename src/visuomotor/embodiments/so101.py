"""SO-101, the Standard Open Arm of TheRobotStudio and Hugging Face, from capsules and boxes.

Kinematics and joint limits are those of the published model (`so101_new_calib` of the repository
TheRobotStudio/SO-ARM100, zero in the middle of each joint), torque and masses are rounded from it,
and the hand is its `gripperframe`. The velocity limit is the no-load speed of the STS3215 servos,
45 revolutions a minute; the model of the maker has a placeholder there.

Five joints: the hand points straight down over its workspace with any yaw up to 90 degrees to either
side, but it cannot lean sideways out of the vertical plane of the arm.

Differences from the real arm: the real gripper has one fixed jaw and one that turns; here two parallel
fingers as long as the jaws slide together. They open 32 mm, which is as much as leaves room beside
things of a scene; the real jaws open to more than 10 cm at the tips, and turn less than 0.4 rad
between closed and 32 mm. Gravity is compensated, servos have no backlash, shapes are our own, and
so is the camera on the hand.
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

__all__ = ["SO101"]

_PLASTIC = (0.92, 0.91, 0.88, 1.0)
_SERVO = (0.16, 0.16, 0.17, 1.0)

_Y = (0.0, 1.0, 0.0)

# In the zero pose every frame is that of the base: the upper arm points up, forearm and hand forward.
_LINKS = (
    Link(
        (0.0388353, 0, 0.0624),
        SAME,
        (Box((0.018, 0, 0.034), (0.024, 0.026, 0.034), 0.1, _SERVO),),
        False,
        (0.0, 0.0, -1.0),
    ),
    Link(
        (0.0303992, 0, 0.0542),
        SAME,
        (
            Capsule((0.002, 0, 0.02), (0.014, 0, 0.09), 0.018, 0.05, _PLASTIC),
            Box((0.017, 0, 0.113), (0.023, 0.024, 0.013), 0.053, _SERVO),
        ),
        False,
        _Y,
    ),
    Link(
        (0.028, 0, 0.11257),
        SAME,
        (
            Capsule((0.015, 0, 0), (0.095, 0, 0.003), 0.016, 0.05, _PLASTIC),
            Box((0.124, 0, 0.005), (0.023, 0.024, 0.013), 0.054, _SERVO),
        ),
        True,
        _Y,
    ),
    Link(
        (0.1349, 0, 0.0052), SAME, (Capsule((0.01, 0, 0), (0.042, 0, 0), 0.019, 0.079, _PLASTIC),), True, _Y
    ),
    Link((0.0611, -0.0001778, 0), SAME, (), True, (-1.0, 0.0, 0.0)),
)

_TWIST = 0.0486795  # the gripper sits on the last joint turned by this, radians
# z along x of the last link, y across the jaws
_HAND_TURN = tuple(
    0.5 * (math.cos(_TWIST / 2) + sign * math.sin(_TWIST / 2)) for sign in (-1.0, 1.0, -1.0, 1.0)
)
_ASIDE = (-0.000218121, -0.0079)  # gripperframe beside the axis of the last joint, along x and y of the hand
_TIP_OFFSET = 0.0981274  # and ahead of it
_FINGERS = Fingers(
    names=("finger1", "finger2"),
    height=0.045,
    gap=0.0,
    travel=0.016,
    speed=0.04,
    force=5.0,
    half=(0.005, 0.003, 0.0297),  # ends where the jaws do, as wide as their tips
    mass=0.012,
    rgba=_PLASTIC,
)

_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
_LOW = (-1.91986, -1.74533, -1.69, -1.65806, -2.74385)
_HIGH = (1.91986, 1.74533, 1.69, 1.65806, 2.84121)
_TORQUE = (2.94,) * 5
_STIFFNESS = (300.0, 400.0, 300.0, 150.0, 100.0)
_DAMPING = (10.0, 14.0, 10.0, 5.0, 4.0)
_ARMATURE = (0.028,) * 5


def _build_hand(world: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
    """Palm, fingers, the site between them and the camera, on the last link."""
    aside_x, aside_y = _ASIDE
    cosine, sine = math.cos(_TWIST), math.sin(_TWIST)
    pos = [0.0, aside_x * cosine - aside_y * sine, aside_x * sine + aside_y * cosine]  # hand -> link
    hand = body.add_body(name="hand", pos=pos, quat=_HAND_TURN, gravcomp=1)
    add_box(hand, Box((0, -aside_y, 0.024), (0.020, 0.030, 0.024), 0.047, _PLASTIC), touches=True)
    add_box(hand, Box((0, -aside_y, 0.028), (0.023, 0.013, 0.013), 0.04, _SERVO), touches=True)
    hand.add_site(name="hand", pos=[0, 0, _TIP_OFFSET])
    add_eye(hand, "wrist", pos=(0.045, 0, 0.045), tilt=math.radians(18), fovy=74)
    add_fingers(world, hand, _FINGERS)


def _build(world: mujoco.MjSpec) -> None:
    """Add the arm at the origin of `world`."""
    base = world.worldbody.add_body(name="base", gravcomp=1)
    add_box(base, Box((0, 0, 0.006), (0.055, 0.055, 0.006), 0.07, _PLASTIC), touches=False)
    add_box(base, Box((0.028, 0, 0.037), (0.034, 0.028, 0.026), 0.077, _PLASTIC), touches=False)
    servos = [
        Servo(*numbers)
        for numbers in zip(_JOINTS, _LOW, _HIGH, _STIFFNESS, _DAMPING, _TORQUE, _ARMATURE, strict=True)
    ]
    _build_hand(world, add_chain(world, base, servos, _LINKS))


_ARM = Arm(
    joints=_JOINTS,
    home=(0.0686018, -0.71390111, 0.69898551, 1.58571192, -1.45351503),
    low=_LOW,
    high=_HIGH,
    speed=(4.71,) * 5,
    stiffness=_STIFFNESS,
    damping=_DAMPING,
    fingers=_FINGERS.names,
    finger_travel=_FINGERS.travel,
    hand="hand",
    down=(0.0, math.sqrt(0.5), math.sqrt(0.5), 0.0),
    reach=((0.08, -0.20, 0.0085), (0.33, 0.20, 0.20)),
    span=0.30,
    turn=math.pi / 2,  # a grip is the same after half a turn, so that a yaw never has to go round its end
    move_limit=0.2,
    turn_limit=2.5,
    wrist="wrist",
    build=_build,
    gap=_FINGERS.gap,
)

SO101 = Body(name="so101", arms=(_ARM,), scale=0.4, origin=(-0.009, 0.0))
