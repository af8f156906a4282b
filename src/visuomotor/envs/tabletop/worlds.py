"""What the table top looks like and how it behaves: one world out of many, decided by a name and a seed.

"clean" is the world as it was built. "randomized" draws another one for every seed, to train in.
"shifted" is a single world that training never sees, a stand-in for reality: lamp, table, camera,
friction, mass and noise lie beyond what "randomized" draws at strength 1, and actions come a tick late.

A world changes neither the scene nor the goal nor the sentence of a seed. Cameras move, but the
projections in the spec stay as they are: a calibration is a little wrong on a real robot, too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np

from visuomotor.envs.tabletop.camera import DEFAULT_LOOK, VIDEO_LOOK, Look
from visuomotor.envs.tabletop.things import COLORS
from visuomotor.errors import unknown_name

__all__ = [
    "CLEAN",
    "SHIFTED",
    "TABLE_COLOR",
    "WORLDS",
    "Mount",
    "World",
    "get_world",
    "noisy",
    "originals",
    "write",
]

Triple = tuple[float, float, float]

WORLDS: Mapping[str, str] = {
    "clean": "as built: no noise, no delay, exact cameras; equal for all seeds",
    "randomized": "other looks, cameras, friction, mass, noise and delay for each seed",
    "shifted": "one fixed stand-in for reality beyond what randomized draws; only its noise has a seed",
}
"""Names of worlds with what they are; "randomized" takes a strength up to 2, as in "randomized:0.5"."""

TABLE_COLOR: Triple = (0.80, 0.74, 0.66)
"""RGB of the table in the clean world."""

_MAX_STRENGTH = 2.0
_WORLD, _NOISE = 3, 4  # streams of random numbers; the layout has 0 to 2
_AWAY = 1.6  # meters from the fixed camera to what it looks at
_TOUCHED = (
    *("cam_pos", "cam_quat", "cam_fovy", "geom_rgba", "geom_friction"),
    *("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0"),
)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """How far a camera is off its nominal place, in its own axes: right, up, backwards.

    Attributes:
        move: Meters.
        turn: Rotation vector, radians.
        zoom: Factor of its vertical field of view.
    """

    move: Triple = (0.0, 0.0, 0.0)
    turn: Triple = (0.0, 0.0, 0.0)
    zoom: float = 1.0


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that may differ between two worlds with the same scene; the defaults are the clean one.

    Attributes:
        name: What it was asked for as.
        shades: What is added to the RGB of each of `COLORS`, in their order.
        table: RGB of the table.
        look: Light, highlights, shadows, squares on the table and background.
        front: Where the fixed camera really is.
        wrist: Where the camera on the hand really is; with several hands, that on each.
        friction: Factor of all friction.
        mass: Factor of the mass of everything that is free to move.
        joint_noise: Standard deviation of the measured arm joints, rad. The measured hand pose is
            computed from the noisy joints, as by a real robot.
        grip_noise: Standard deviation of the measured gripper, 0 open to 1 closed.
        pixel_noise: Standard deviation of each channel of each pixel, of 255.
        delay: Ticks by which an action comes late.
    """

    name: str = "clean"
    shades: tuple[Triple, ...] = ((0.0, 0.0, 0.0),) * len(COLORS)
    table: Triple = TABLE_COLOR
    look: Look = DEFAULT_LOOK
    front: Mount = field(default_factory=Mount)
    wrist: Mount = field(default_factory=Mount)
    friction: float = 1.0
    mass: float = 1.0
    joint_noise: float = 0.0
    grip_noise: float = 0.0
    pixel_noise: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        factors = (self.friction, self.mass, self.front.zoom, self.wrist.zoom)
        if not all(value > 0 for value in factors):
            raise ValueError(
                f"world {self.name!r}: expected positive factors of friction, mass and zooms, got {factors}."
            )
        noises = (self.joint_noise, self.grip_noise, self.pixel_noise, self.delay)
        if not all(value >= 0 for value in noises) or len(self.shades) != len(COLORS):
            raise ValueError(
                f"world {self.name!r}: expected noise and delay of 0 or more and {len(COLORS)} shades, "
                f"got {noises} and {len(self.shades)}."
            )

    def color(self, rgb: Triple) -> Triple:
        """This world's version of a color: it moves as the named color next to it does."""
        number = min(enumerate(COLORS.values()), key=lambda named: math.dist(named[1], rgb))[0]
        return _rgb(*(channel + change for channel, change in zip(rgb, self.shades[number], strict=True)))

    @property
    def video_look(self) -> Look:
        """This world's light with the shadows, highlights and soft edges of videos."""
        specular = max(self.look.specular, VIDEO_LOOK.specular)
        return replace(self.look, specular=specular, shadow=VIDEO_LOOK.shadow, samples=VIDEO_LOOK.samples)


CLEAN = World()
"""The world as it was built."""

SHIFTED = World(
    name="shifted",
    # Faded: 14 % of the way to gray, at most 0.12 away.
    shades=tuple((0.14 * (0.5 - r), 0.14 * (0.5 - g), 0.14 * (0.5 - b)) for r, g, b in COLORS.values()),
    table=(0.36, 0.40, 0.44),
    look=replace(
        DEFAULT_LOOK,
        lamp=(-0.7, 0.5, 0.9),
        ambient=0.34,
        above=0.12,
        diffuse=0.48,
        facing=0.08,
        specular=0.30,
        shininess=30,
        shadow=0.5,
        checker=0.25,
        square=0.08,
        zenith=(0.30, 0.32, 0.36),
        horizon=(0.42, 0.40, 0.38),
    ),
    front=Mount(move=(0.09, -0.07, 0.05), turn=(0.05, 0.05, 0.02), zoom=1.04),
    wrist=Mount(move=(0.004, -0.003, 0.002), turn=(0.03, -0.02, 0.03), zoom=1.03),
    friction=0.7,
    mass=1.7,
    joint_noise=0.0025,
    grip_noise=0.012,
    pixel_noise=5.0,
    delay=1,
)
"""The stand-in for reality; nothing is trained in it, and nothing may be tuned on it."""


def get_world(name: str, seed: int) -> World:
    """The world that a name and the seed of an episode decide.

    Args:
        name: "clean", "shifted", "randomized", or with a strength in (0, 2] "randomized:0.5".
        seed: Not negative; matters for "randomized" only.

    Raises:
        ValueError: Unknown name, with the closest one; a strength out of range or where there is none.
    """
    kind, colon, text = name.partition(":")
    if kind not in WORLDS:
        raise unknown_name("world", name, WORLDS)
    if kind != "randomized":
        if colon:
            raise ValueError(f"world {name!r}: only 'randomized' takes a strength. Write {kind!r}.")
        return CLEAN if kind == "clean" else SHIFTED
    try:
        strength = float(text) if colon else 1.0
    except ValueError:
        strength = math.nan
    if not 0.0 < strength <= _MAX_STRENGTH:
        raise ValueError(
            f"world {name!r}: expected a strength in (0, {_MAX_STRENGTH:g}], got {text!r}. "
            "Write 'randomized' for 1, or 'randomized:0.5'."
        )
    return _randomized(name, _Draws(strength, np.random.default_rng([seed, _WORLD])))


class _Draws:
    """Random ways from a middle, as long as the strength has it; equal streams go in equal directions."""

    def __init__(self, strength: float, stream: np.random.Generator) -> None:
        self.strength = strength
        self.stream = stream

    def around(self, width: float) -> float:
        """Evenly from -width to width."""
        return self.strength * width * float(self.stream.uniform(-1, 1))

    def upto(self, width: float) -> float:
        """Evenly from 0 to width."""
        return self.strength * width * float(self.stream.random())

    def triple(self, width: float) -> Triple:
        """Three times `around`."""
        return self.around(width), self.around(width), self.around(width)


def _randomized(name: str, draw: _Draws) -> World:
    """A random world; docs/tabletop.md has the ranges."""
    shades = tuple(draw.triple(0.04) for _ in COLORS)  # at most 0.14 away at strength 2; colors are 0.4 apart
    bright, tint = 1 + draw.around(0.25), draw.triple(0.04)
    right, up, back = draw.triple(0.06)
    return World(
        name=name,
        shades=shades,
        table=_rgb(*(bright * channel + change for channel, change in zip(TABLE_COLOR, tint))),
        look=_look(draw),
        front=Mount(
            move=(right, up, back),
            # Whoever moves a camera turns it back to the table, more or less.
            turn=(draw.around(0.008) - up / _AWAY, draw.around(0.008) + right / _AWAY, draw.around(0.02)),
            zoom=math.exp(draw.around(0.03)),
        ),
        wrist=Mount(move=draw.triple(0.003), turn=draw.triple(0.02), zoom=math.exp(draw.around(0.02))),
        friction=math.exp(draw.around(0.25)),
        mass=math.exp(draw.around(0.4)),
        joint_noise=draw.upto(0.002),
        grip_noise=draw.upto(0.01),
        pixel_noise=draw.upto(4.0),
        delay=int((1 + draw.strength) * draw.stream.random()),
    )


def _look(draw: _Draws) -> Look:
    """Random light, squares on the table and background; half of the looks have shadows."""
    base = DEFAULT_LOOK
    x, y, z = base.lamp
    azimuth = math.atan2(y, x) + draw.around(1.0)
    elevation = math.atan2(z, math.hypot(x, y)) + draw.around(0.2)
    ambient, above = base.ambient + draw.around(0.08), base.above + draw.around(0.05)
    diffuse, facing = base.diffuse + draw.around(0.10), base.facing + draw.around(0.05)
    # The sum decides how bright the picture is; too bright, orange would turn yellow.
    bright = 1 + draw.around(0.12)
    scale = bright * _brightness(base) / (ambient + above + diffuse + facing)
    gray = draw.around(0.10)
    return replace(
        base,
        lamp=(math.cos(azimuth) / math.tan(elevation), math.sin(azimuth) / math.tan(elevation), 1.0),
        ambient=scale * ambient,
        above=scale * above,
        diffuse=scale * diffuse,
        facing=scale * facing,
        specular=draw.upto(0.25),
        shininess=round(base.shininess * math.exp(draw.around(0.7))),
        shadow=max(0.0, draw.around(0.5)),
        checker=max(0.0, base.checker + draw.around(0.10)),
        square=base.square * math.exp(draw.around(0.5)),
        horizon=_rgb(*(channel + gray + draw.around(0.04) for channel in base.horizon)),
    )


def _rgb(red: float, green: float, blue: float) -> Triple:
    """A color with each channel within 0 and 1."""
    return min(max(red, 0.0), 1.0), min(max(green, 0.0), 1.0), min(max(blue, 0.0), 1.0)


def _brightness(look: Look) -> float:
    """Light on a face that looks at everything at once."""
    return look.ambient + look.above + look.diffuse + look.facing


def originals(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Copies of everything in a fresh model that `write` may change."""
    return {name: getattr(model, name).copy() for name in _TOUCHED}


def write(world: World, model: mujoco.MjModel, base: Mapping[str, np.ndarray], wrists: Sequence[str]) -> None:
    """Make `model` the one of a world, whatever it was before; things are colored by whoever places them.

    Args:
        world: The world.
        model: Its geom "table", camera "front" and friction, mass and cameras are written.
        base: From `originals`.
        wrists: Names of the cameras on the hands.
    """
    for name, values in base.items():
        getattr(model, name)[:] = values
    if world is CLEAN:
        return
    model.geom("table").rgba[:3] = world.table
    model.geom_friction[:] *= world.friction
    _weigh(model, world.mass)
    for camera, mount in (("front", world.front), *((wrist, world.wrist) for wrist in wrists)):
        _move(model, model.camera(camera).id, mount)


def _weigh(model: mujoco.MjModel, factor: float) -> None:
    """Scale the mass of everything that hangs on a free joint, with what the compiler derives from it."""
    free = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE))
    bodies, dofs = model.jnt_bodyid[free], (model.jnt_dofadr[free][:, None] + np.arange(6)).ravel()
    model.body_mass[bodies] *= factor
    model.body_inertia[bodies] *= factor
    model.body_subtreemass[bodies] *= factor
    model.body_invweight0[bodies] /= factor
    model.dof_invweight0[dofs] /= factor


def _move(model: mujoco.MjModel, camera: int, mount: Mount) -> None:
    """Move, turn and zoom a camera."""
    quat, way = model.cam_quat[camera].copy(), np.zeros(3)
    mujoco.mju_rotVecQuat(way, np.array(mount.move), quat)
    model.cam_pos[camera] += way
    mujoco.mju_quatIntegrate(quat, np.array(mount.turn), 1.0)
    model.cam_quat[camera] = quat
    model.cam_fovy[camera] *= mount.zoom


def noisy(values: np.ndarray, deviation: float, *, seed: int, tick: int, sensor: str) -> np.ndarray:
    """`values` as a sensor reads them: with normal noise that is the same whenever that tick is read.

    Args:
        values: Any shape; pictures (uint8) are rounded and stay within 0 and 255.
        deviation: Standard deviation; 0 returns `values` themselves.
        seed: Of the episode.
        tick: Of the reading.
        sensor: Its name; each has noise of its own.
    """
    if deviation == 0:
        return values
    stream = np.random.default_rng([seed, _NOISE, tick, zlib.crc32(sensor.encode())])
    read = values + deviation * stream.standard_normal(values.shape, np.float32)
    return np.clip(np.rint(read), 0, 255).astype(np.uint8) if values.dtype == np.uint8 else read
