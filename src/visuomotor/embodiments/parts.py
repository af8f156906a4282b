"""What robot bodies are built from: capsules, boxes, servos and a pair of sliding fingers.

Few primitives and no meshes: the cost of a picture grows with their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mujoco

__all__ = [
    "ARM_MEETS",
    "SAME",
    "Box",
    "Capsule",
    "Color",
    "Fingers",
    "Link",
    "Meets",
    "Point",
    "Quat",
    "Servo",
    "add_box",
    "add_chain",
    "add_eye",
    "add_fingers",
    "add_servo",
]

Point = tuple[float, float, float]
Quat = tuple[float, float, float, float]
Color = tuple[float, float, float, float]

SAME: Quat = (1.0, 0.0, 0.0, 0.0)
"""No rotation."""


class Meets(NamedTuple):
    """MuJoCo's bits of what collides: two geoms do where one's contype meets the other's conaffinity."""

    contype: int
    conaffinity: int


ARM_MEETS = Meets(2, 1)
"""What an arm collides with: table, fixtures (bit 1 of theirs) and objects, but not with its own links."""


class Capsule(NamedTuple):
    """A piece of a link between two points of its frame, meters and kilograms."""

    start: Point
    end: Point
    radius: float
    mass: float
    rgba: Color


class Box(NamedTuple):
    """A piece of a link along the axes of its frame: middle and half extents in meters, kilograms."""

    middle: Point
    half: Point
    mass: float
    rgba: Color


class Link(NamedTuple):
    """Frame of a joint in the frame of the one before, and what hangs on it."""

    pos: Point
    quat: Quat
    pieces: tuple[Capsule | Box, ...]
    touches: bool
    """Whether it collides with table and objects; upper links never get near them."""
    axis: Point = (0.0, 0.0, 1.0)


class Servo(NamedTuple):
    """A joint with its position actuator: force = stiffness * (target - position) - damping * velocity."""

    name: str
    low: float
    high: float
    stiffness: float
    damping: float
    torque: float
    armature: float


class Fingers(NamedTuple):
    """Two pads that slide towards each other along y of the hand; the joints are 0 when closed.

    Attributes:
        names: Of the joints.
        height: Of the joints' frames above the origin of the hand, meters.
        gap: Between the pads when closed, meters.
        travel: Way of one pad, meters.
        speed: Of one pad, m/s.
        force: Of one pad, N.
        half: Half extents of one pad; it begins at the joint's frame, meters.
        mass: Of one pad, kg.
        rgba: Color.
    """

    names: tuple[str, str]
    height: float
    gap: float
    travel: float
    speed: float
    force: float
    half: Point
    mass: float
    rgba: Color


_TURNED: Quat = (0.0, 0.0, 0.0, 1.0)  # half a turn about z
_FINGER_GAIN = 20_000.0  # N/m


def add_chain(
    world: mujoco.MjSpec,
    body: mujoco.MjsBody,
    servos: Sequence[Servo],
    links: Sequence[Link],
    *,
    prefix: str = "",
    meets: Meets = ARM_MEETS,
) -> mujoco.MjsBody:
    """Hang links on `body`, one behind the other, each with its joint and servo; returns the last.

    Their names begin with `prefix`; those that touch things collide as `meets` has it.
    """
    for number, (servo, link) in enumerate(zip(servos, links, strict=True)):
        body = body.add_body(name=f"{prefix}link{number + 1}", pos=link.pos, quat=link.quat, gravcomp=1)
        body.add_joint(
            name=servo.name,
            axis=link.axis,
            range=[servo.low, servo.high],
            limited=True,
            armature=servo.armature,
        )
        for piece in link.pieces:
            if isinstance(piece, Capsule):
                _add_capsule(body, piece, link.touches, meets)
            else:
                add_box(body, piece, link.touches, meets)
        span = (servo.low, servo.high)
        add_servo(world, servo.name, servo.stiffness, servo.damping, servo.torque, span)
    return body


def _add_capsule(body: mujoco.MjsBody, piece: Capsule, touches: bool, meets: Meets) -> None:
    """One capsule of a link."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[*piece.start, *piece.end],
        size=[piece.radius, 0, 0],
        mass=piece.mass,
        rgba=piece.rgba,
        contype=meets.contype if touches else 0,
        conaffinity=meets.conaffinity if touches else 0,
    )


def add_box(body: mujoco.MjsBody, piece: Box, touches: bool, meets: Meets = ARM_MEETS) -> None:
    """One box of a link."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=piece.half,
        pos=piece.middle,
        mass=piece.mass,
        rgba=piece.rgba,
        contype=meets.contype if touches else 0,
        conaffinity=meets.conaffinity if touches else 0,
    )


def add_servo(
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


def add_eye(hand: mujoco.MjsBody, name: str, *, pos: Point, tilt: float, fovy: float) -> None:
    """A camera on `hand` that looks along its z axis, turned by `tilt` radians towards -x.

    In the picture y of the hand points to the right.

    Args:
        hand: What it sits on.
        name: Of the camera.
        pos: In the frame of the hand, meters.
        tilt: Radians.
        fovy: Vertical field of view, degrees.
    """
    camera = hand.add_camera(name=name, pos=pos, fovy=fovy)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [0, 1, 0, math.cos(tilt), 0, math.sin(tilt)]


def add_fingers(
    world: mujoco.MjSpec, hand: mujoco.MjsBody, fingers: Fingers, *, meets: Meets = ARM_MEETS
) -> None:
    """Two pads on `hand` with their joints and servos; they collide as `meets` has it."""
    for name, turn, side in zip(fingers.names, (SAME, _TURNED), (0.5, -0.5), strict=True):
        pos = [0, side * fingers.gap, fingers.height]
        finger = hand.add_body(name=name, pos=pos, quat=turn, gravcomp=1)
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, 1, 0],
            range=[0, fingers.travel],
            limited=True,
            armature=0.1,
            # The damping alone sets the speed: force / damping.
            damping=fingers.force / fingers.speed,
        )
        finger.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=fingers.half,
            pos=[0, fingers.half[1], fingers.half[2]],
            mass=fingers.mass,
            rgba=fingers.rgba,
            contype=meets.contype,
            conaffinity=meets.conaffinity,
            condim=4,
            friction=[1.2, 0.02, 0.001],
            solref=[0.01, 1],
            solimp=[0.95, 0.99, 0.001, 0.5, 2],
        )
    for name in fingers.names:
        add_servo(world, name, _FINGER_GAIN, 0.0, fingers.force, (0.0, fingers.travel))
