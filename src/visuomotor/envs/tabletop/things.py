"""The nouns of the table top, as plain values: things, fixtures, goals, layouts.

World frame: base of the robot at the origin, x forward, y left, z up, table top at z = 0. Meters
and radians. Left, right, in front and behind are meant as the robot sees them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "BESIDE_SPOT",
    "BOWL_OUTER_RADIUS",
    "BUTTON_RADIUS",
    "COLORS",
    "DRAWER",
    "FENCE",
    "FIXTURES",
    "FOOTPRINTS",
    "GRIPPER_REACH",
    "HANDS",
    "HELD_OUT_PAIRS",
    "SHAPES",
    "SIDES",
    "SOCKET_OUTER_RADIUS",
    "SPLITS",
    "WORKSPACE",
    "ZONE_RADIUS",
    "Fixture",
    "Goal",
    "Layout",
    "Thing",
    "Workspace",
    "gap",
    "of_kind",
]

Split = Literal["train", "positions", "pairs", "phrasing", "words", "free"]

SPLITS: tuple[str, ...] = get_args(Split)
"""Where the seed's scene and sentence come from; all but "train" hold something that training never shows."""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.08, 0.08),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.10, 0.62, 0.16),
    "cyan": (0.10, 0.82, 0.88),
    "blue": (0.08, 0.20, 0.85),
    "purple": (0.46, 0.12, 0.66),
    "pink": (1.00, 0.55, 0.76),
}
"""RGB in [0, 1] of things and fixtures."""

SHAPES = ("cube", "cylinder", "ball", "bar")
"""Shapes of most tasks; `insert` has pegs instead."""

FOOTPRINTS: dict[str, tuple[float, float]] = {
    "cube": (0.025, 0.025),
    "cylinder": (0.025, 0.025),
    "ball": (0.027, 0.027),
    "bar": (0.055, 0.018),
    "peg": (0.017, 0.017),
}
"""Half extents on the table that a shape may have at most; cylinder, ball and peg are round."""

HELD_OUT_PAIRS = frozenset({("red", "ball"), ("yellow", "bar"), ("blue", "cube"), ("purple", "cylinder")})
"""Colors and shapes that training never shows together, though it shows each with others."""

BOWL_OUTER_RADIUS = 0.078
"""Farthest a bowl reaches from its middle, meters."""

ZONE_RADIUS = 0.06
"""Of a colored disc on the table, meters."""

BUTTON_RADIUS = 0.03
"""Of the foot of a button, meters."""

SOCKET_OUTER_RADIUS = 0.034
"""Farthest a socket reaches from its middle, meters."""

GRIPPER_REACH = 0.066
"""Around the middle of an object nothing else stands: half the width of the open gripper, and a little."""

SIDES: dict[str, tuple[int, int]] = {"left": (0, 1), "right": (0, -1), "front": (-1, 0), "behind": (1, 0)}
"""Side of a fixture, as the robot sees it, to the direction (x, y) there."""

HANDS = ("left", "right")
"""Hands of a body that has two, as the robot sees them."""

BESIDE_SPOT = BOWL_OUTER_RADIUS + 0.045
"""From the middle of a bowl to the middle of the room beside it, meters."""

_GRID = (4, 6)  # cells of the workspace along x and y
_HELD_OUT_CELLS = frozenset({(0, 1), (0, 5), (1, 3), (2, 1), (2, 5), (3, 3)})


@dataclass(frozen=True, kw_only=True)
class _Drawer:
    """Measures of a chest with one drawer, meters; it opens along its own -y."""

    half: tuple[float, float] = (0.070, 0.065)  # of the chest on the table
    height: float = 0.050
    inner: tuple[float, float] = (0.060, 0.052)  # half size of the room in the drawer
    wall: float = 0.003  # half thickness
    travel: float = 0.10
    handle: float = 0.085  # from the middle of the closed drawer to that of its handle
    handle_radius: float = 0.011
    handle_height: float = 0.095


@dataclass(frozen=True, kw_only=True)
class _Fence:
    """Measures of a row of posts, meters."""

    posts: tuple[float, ...] = (-0.06, 0.0, 0.06)
    radius: float = 0.009
    height: float = 0.18


DRAWER = _Drawer()
"""A chest with one drawer."""

FENCE = _Fence()
"""The obstacle of `pass_obstacle`."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: color, shape, where its middle stands on the table, and how it is turned about z."""

    color: str
    shape: str
    position: tuple[float, float]
    yaw: float

    @property
    def name(self) -> str:
        """Its plain name: "red cube"."""
        return f"{self.color} {self.shape}"


FIXTURES = ("bowl", "zone", "drawer", "button", "socket", "fence")
"""Kinds of what stands fast."""


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """What stands fast: one of `FIXTURES`, where its middle is, how it is turned, whether it begins open."""

    kind: str
    color: str
    position: tuple[float, float]
    yaw: float = 0.0
    open: bool = False

    @property
    def name(self) -> str:
        """Its plain name: "blue bowl"."""
        return f"{self.color} {self.kind}"

    @property
    def out(self) -> tuple[float, float]:
        """Direction on the table (x, y) in which a drawer opens."""
        return math.sin(self.yaw), -math.cos(self.yaw)

    def local(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point of the table in the frame of this fixture."""
        x, y = point[0] - self.position[0], point[1] - self.position[1]
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        return cosine * x + sine * y, cosine * y - sine * x

    def gap(self, point: tuple[float, float]) -> float:
        """Distance from a point of the table to everything that this fixture may ever cover; 0 inside."""
        if self.kind in _RADII:
            return max(0.0, math.dist(point, self.position) - _RADII[self.kind])
        x, y = self.local(point)
        if self.kind == "fence":
            return math.hypot(max(abs(x) - FENCE.radius, 0), max(abs(y) - FENCE.posts[-1], 0))
        front = -DRAWER.handle - DRAWER.travel - DRAWER.handle_radius
        return math.hypot(max(abs(x) - DRAWER.half[0], 0), max(y - DRAWER.half[1], front - y, 0))


_RADII = {
    "bowl": BOWL_OUTER_RADIUS,
    "zone": ZONE_RADIUS,
    "button": BUTTON_RADIUS,
    "socket": SOCKET_OUTER_RADIUS,
}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is asked: a task and the numbers of the objects and fixtures that its sentence names.

    Attributes:
        task: Name of the task.
        objects: In the order of the sentence; for `stack` what is moved, then what it comes upon.
        fixtures: Where each object goes, or what is moved itself (drawers and buttons).
        side: For `put_beside`, a key of `SIDES`.
        hand: For `hand_over`, one of `HANDS`.
    """

    task: str
    objects: tuple[int, ...] = ()
    fixtures: tuple[int, ...] = ()
    side: str | None = None
    hand: str | None = None

    @property
    def object(self) -> int:
        """The first object."""
        return self.objects[0]

    @property
    def fixture(self) -> int:
        """The first fixture."""
        return self.fixtures[0]

    def name(self, layout: Layout) -> str:
        """The goal in plain words: "lift:red cube", "put_in:red cube>blue bowl"."""
        things = [layout.objects[number].name for number in self.objects]
        fixtures = [layout.fixtures[number].name for number in self.fixtures]
        if self.side is not None:
            fixtures = [f"{_SIDE_NAMES[self.side]} {name}" for name in fixtures]
        if self.task == "stack":
            things, fixtures = things[:1], things[1:]
        if self.hand is not None:
            fixtures = [f"{self.hand} hand"]
        if not things or not fixtures:
            return f"{self.task}:{(things or fixtures)[0]}"
        pairs = ",".join(f"{thing}>{fixture}" for thing, fixture in zip(things, fixtures, strict=True))
        return f"{self.task}:{pairs}"


_SIDE_NAMES = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A scene with what is asked in it.

    Attributes:
        objects: No two alike.
        fixtures: No two of one kind have the same color.
        goal: What is asked.
        instruction: The sentence that asks it.
        split: One of `SPLITS`.
        rival: Every object has a rival; otherwise none has.
        seed: What decided all this.
    """

    objects: tuple[Thing, ...]
    fixtures: tuple[Fixture, ...]
    goal: Goal
    instruction: str
    split: str
    rival: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Bounds of the middles of objects and fixtures.

    Attributes:
        x: Of both.
        y: Of objects.
        bowl_y: Of bowls and zones, which are larger and shall be seen whole.
    """

    x: tuple[float, float] = (0.34, 0.66)
    y: tuple[float, float] = (-0.27, 0.27)
    bowl_y: tuple[float, float] = (-0.235, 0.235)

    def cell(self, position: tuple[float, float]) -> tuple[int, int]:
        """Which cell of the grid of held-out positions a point lies in."""
        shares = [(value - low) / (high - low) for value, (low, high) in zip(position, (self.x, self.y))]
        first, second = (min(max(int(share * n), 0), n - 1) for share, n in zip(shares, _GRID))
        return first, second

    def held_out(self, position: tuple[float, float]) -> bool:
        """Whether training never puts an object there."""
        return self.cell(position) in _HELD_OUT_CELLS

    def holds(self, position: tuple[float, float]) -> bool:
        """Whether an object may stand there."""
        (low_x, high_x), (low_y, high_y) = self.x, self.y
        return low_x <= position[0] <= high_x and low_y <= position[1] <= high_y


WORKSPACE = Workspace()


def of_kind(fixtures: Sequence[Fixture], kind: str) -> list[int]:
    """Numbers of the fixtures of a kind."""
    return [number for number, fixture in enumerate(fixtures) if fixture.kind == kind]


def gap(point: tuple[float, float], thing: Thing) -> float:
    """Distance from a point of the table to the footprint of an object."""
    x, y = (a - b for a, b in zip(point, thing.position))
    long, wide = FOOTPRINTS[thing.shape]
    if thing.shape in ("cylinder", "ball", "peg"):
        return math.hypot(x, y) - long
    cosine, sine = math.cos(thing.yaw), math.sin(thing.yaw)
    along, across = cosine * x + sine * y, cosine * y - sine * x  # world -> thing
    return math.hypot(max(abs(along) - long, 0), max(abs(across) - wide, 0))
