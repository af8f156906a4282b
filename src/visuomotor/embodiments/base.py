"""What an environment needs to know of a robot body: arms with parallel grippers, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from visuomotor.errors import unknown_name
from visuomotor.types import Camera, Dimension, Kind, Spec

if TYPE_CHECKING:
    import mujoco

__all__ = ["Arm", "Body", "Control"]

Control = Literal["ee_delta", "joint"]
"""How actions move the arm: by deltas of the commanded hand pose, or by absolute joint targets."""

_AXES = ("x", "y", "z")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm with its hand: how it is built, named, limited and commanded.

    Places are told in the frame of the body.

    Attributes:
        joints: Joint names from base to hand; each has a position actuator of the same name.
        home: Joint positions at the start of an episode, looking straight down, rad.
        low: Lower joint limits, rad.
        high: Upper joint limits, rad.
        speed: Joint velocity limits, rad/s.
        stiffness: Gain of each position actuator, N m/rad.
        damping: Velocity gain of each position actuator, N m s/rad.
        fingers: Names of the finger joints, 0 closed to `finger_travel` open; an actuator each.
        finger_travel: Way of one finger, m.
        hand: Site between the finger pads; its z axis points out of the hand, the fingers close along y.
        down: Quaternion (w, x, y, z) of the hand site looking straight down, where the rotation vector is 0;
            the last joint can turn from there to both sides.
        reach: Lower and upper corner of the box that the hand may be commanded to, m.
        span: Farthest from `at` that the hand may be commanded to, m.
        turn: Largest angle between the commanded hand and `down`, rad.
        move_limit: Largest commanded way along one axis in a second, m/s.
        turn_limit: Largest commanded rotation about one axis in a second, rad/s.
        wrist: Name of the camera on the hand.
        build: Adds bodies, actuators and the wrist camera to a world.
        gap: Distance between the closed fingers, m.
        name: Of its hand; empty for the only arm of a body.
        at: Where (x, y) the axis of its first joint stands, m.
    """

    joints: tuple[str, ...]
    home: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    speed: tuple[float, ...]
    stiffness: tuple[float, ...]
    damping: tuple[float, ...]
    fingers: tuple[str, ...]
    finger_travel: float
    hand: str
    down: tuple[float, float, float, float]
    reach: tuple[tuple[float, float, float], tuple[float, float, float]]
    span: float
    turn: float
    move_limit: float
    turn_limit: float
    wrist: str
    build: Callable[[mujoco.MjSpec], None]
    gap: float = 0.0
    name: str = ""
    at: tuple[float, float] = (0.0, 0.0)

    def grip(self, fingers: np.ndarray) -> float:
        """Gripper state from the finger joints (finger,): 0 open to 1 closed."""
        return 1.0 - float(np.sum(fingers)) / (self.finger_travel * len(self.fingers))

    def finger_target(self, grip: float) -> float:
        """Target of each finger joint in meters for a gripper command, 0 open to 1 closed."""
        return self.finger_travel * (1.0 - grip)

    @property
    def prefix(self) -> str:
        """What begins the names of its numbers: "" for the only arm, else such as "left_"."""
        return f"{self.name}_" if self.name else ""

    def state(self) -> tuple[Dimension, ...]:
        """Joint positions, gripper, measured hand pose, commanded hand pose, see `Body.spec`."""
        return (
            *self._joint_dimensions("joint"),
            self._gripper(),
            *_pose_dimensions(f"{self.prefix}measured"),
            *_pose_dimensions(f"{self.prefix}commanded"),
        )

    def action(self, control: Control, rate: float) -> tuple[Dimension, ...]:
        """What it is told each tick, see `Body.spec`."""
        return (
            *(self._joint_dimensions("joint") if control == "joint" else self._delta_dimensions(rate)),
            self._gripper(),
        )

    def _gripper(self) -> Dimension:
        return Dimension(name=f"{self.prefix}gripper", kind="gripper", low=0.0, high=1.0)

    def _joint_dimensions(self, kind: Kind) -> tuple[Dimension, ...]:
        """One dimension a joint, with its limits."""
        return tuple(
            Dimension(name=name, unit="rad", kind=kind, low=low, high=high)
            for name, low, high in zip(self.joints, self.low, self.high, strict=True)
        )

    def _delta_dimensions(self, rate: float) -> tuple[Dimension, ...]:
        """Way and rotation of one tick, with their limits."""
        return (
            *self._deltas(_AXES, "m", self.move_limit / rate),
            *self._deltas([f"r{axis}" for axis in _AXES], "rad", self.turn_limit / rate),
        )

    def _deltas(self, names: Sequence[str], unit: str, most: float) -> tuple[Dimension, ...]:
        return tuple(
            Dimension(name=self.prefix + name, unit=unit, kind="ee_delta", low=-most, high=most)
            for name in names
        )


@dataclass(frozen=True, kw_only=True)
class Body:
    """A robot: one arm or several, and the table that they work at.

    Attributes:
        name: Name of the embodiment.
        arms: Each with a name of its own if there are several.
        rate: Ticks a second by default.
        scale: Size of the things that it works with, relative to those of a layout.
        origin: Where (x, y) the origin of a layout lies for it, m.
        sight: How many times as far as usual the fixed camera stands, to see arms at the sides, too.
    """

    name: str
    arms: tuple[Arm, ...]
    rate: float = 10.0
    scale: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)
    sight: float = 1.0

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names) or (len(names) > 1) != all(names):
            raise ValueError(
                f"body {self.name!r}: expected one arm without a name, or several with names of their own, "
                f"got {names}."
            )

    def build(self, world: mujoco.MjSpec) -> None:
        """Add every arm to a world."""
        for arm in self.arms:
            arm.build(world)

    def views(self) -> dict[str, int]:
        """The cameras that there are, with their size in pixels by default."""
        return {"front": 96, **{arm.wrist: 64 for arm in self.arms}}

    def spec(self, *, control: Control, cameras: Mapping[str, int | tuple[int, int]], rate: float) -> Spec:
        """State and action of this body: those of its arms, one after the other.

        State of an arm: joint positions, gripper, measured hand pose, commanded hand pose. A pose is a
        position in the frame of the base and a rotation vector (axis times angle, base frame) from looking
        straight down, so that it is far from its wrap-around wherever the hand points to the table.
        With several arms the names of all numbers begin with those of their hands.

        Args:
            control: "ee_delta" (way, rotation vector and gripper) or "joint" (targets and gripper).
            cameras: Name to size in pixels, one number for a square picture or (height, width).
            rate: Ticks a second.
        """
        if control not in get_args(Control):
            raise unknown_name("control", control, get_args(Control))
        sizes = {
            name: (size, size) if isinstance(size, int) else tuple(size) for name, size in cameras.items()
        }
        return Spec(
            embodiment=self.name,
            cameras=tuple(Camera(name=name, height=size[0], width=size[1]) for name, size in sizes.items()),
            state=tuple(number for arm in self.arms for number in arm.state()),
            action=tuple(number for arm in self.arms for number in arm.action(control, rate)),
            rate=rate,
        )


def _pose_dimensions(which: str) -> tuple[Dimension, ...]:
    """Position and rotation vector from looking straight down, base frame."""
    return (
        *(Dimension(name=f"{which}_{a}", unit="m", kind="ee") for a in _AXES),
        *(Dimension(name=f"{which}_r{a}", unit="rad", kind="ee") for a in _AXES),
    )
