"""The table-top environment: a robot, things of many colors and shapes, and a sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visuomotor.embodiments.base import Body, Control
from visuomotor.envs.base import Status
from visuomotor.envs.tabletop.build import TIMESTEP, TOLERANCE, calibrated
from visuomotor.envs.tabletop.camera import Look, render
from visuomotor.envs.tabletop.catalog import catalog
from visuomotor.envs.tabletop.control import Controller
from visuomotor.envs.tabletop.goals import meaning, stages
from visuomotor.envs.tabletop.layout import goals, instructions, sample_layout, splits
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.sentences import plain
from visuomotor.envs.tabletop.tasks import SUITES, TASKS, Task, blame, playable, stage
from visuomotor.envs.tabletop.things import SPLITS, Goal, Layout
from visuomotor.envs.tabletop.turns import whose_turn
from visuomotor.envs.tabletop.worlds import get_world, noisy
from visuomotor.errors import unknown_name
from visuomotor.registry import lookup
from visuomotor.types import Camera, Observation, Spec

__all__ = ["TabletopEnv"]

_OPTIONS = ("task", "split", "rival", "goal", "instruction", "world")
_MODELS = 64  # compiled models kept; more sets of shapes than the train split has
_CARRIED = 0.1  # meters; what has been this high was in the hand
_MAGIC = b"tabletop2"
_SIZES = struct.Struct("<3q")  # lengths of the parts of a snapshot


class TabletopEnv:
    """A world with one robot in which the sentence decides what is right.

    Args:
        embodiment: Name of the body, or a `Body`.
        task: Task of episodes whose reset does not name one; or one of `tasks.SUITES`, whose tasks take
            turns with the seeds, those without the split of the episode left out.
        control: "ee_delta" or "joint", see `Body.spec`.
        cameras: Views and their sizes in pixels: name to one number or (height, width); `Body.views` if None.
        rate: Ticks a second; None takes the body's own.
        max_ticks: Length of an episode that does not end before; by its task if None.
        tolerance: How much wider the radius of a socket is than that of a peg, meters (task `insert`).
        world: Look and dynamics of episodes whose reset does not name them, see `worlds.WORLDS`.

    Raises:
        ValueError: Unknown embodiment, task, control, camera or world; a task that the body cannot do; a rate
            that physics cannot keep.
    """

    def __init__(
        self,
        embodiment: str | Body = "franka",
        *,
        task: str = "put_in",
        control: Control = "ee_delta",
        cameras: Mapping[str, int | tuple[int, int]] | None = None,
        rate: float | None = None,
        max_ticks: int | None = None,
        world: str = "clean",
        tolerance: float = TOLERANCE,
    ) -> None:
        self.body: Body = lookup("embodiment", embodiment) if isinstance(embodiment, str) else embodiment
        rate = self.body.rate if rate is None else rate
        views: Mapping[str, int | tuple[int, int]] = self.body.views() if cameras is None else cameras
        self._default_task = self._can(task)
        self._task: Task = TASKS[SUITES.get(task, (task,))[0]]
        get_world(world, 0)  # refuses an unknown name before the first episode does
        self._default_world = world
        for camera in views:
            _known("camera", camera, self.body.views())
        self._steps = round(1.0 / (rate * TIMESTEP))
        if self._steps < 1 or abs(self._steps * rate * TIMESTEP - 1.0) > 1e-6:
            raise ValueError(
                f"tabletop: a tick must be a multiple of {TIMESTEP} s, got rate {rate}. Use 10, 25 or 50."
            )
        if max_ticks is not None and max_ticks < 1:
            raise ValueError(f"tabletop: max_ticks must be at least 1, got {max_ticks}.")
        spec: Spec = self.body.spec(control=control, cameras=views, rate=rate)
        self.spec = replace(spec, cameras=tuple(calibrated(camera, self.body) for camera in spec.cameras))
        self._most_ticks = max_ticks
        self._tolerance = tolerance
        self.controllers = tuple(Controller(arm, control, rate) for arm in self.body.arms)
        stay = [controller.stay() for controller in self.controllers]
        self._stay, ends = np.concatenate(stay), np.cumsum([len(part) for part in stay])
        self._parts = tuple(
            slice(end - len(part), end) for part, end in zip(stay, ends.tolist(), strict=True)
        )
        self._scenes: dict[tuple[tuple[str, ...], tuple[str, ...]], Scene] = {}
        self._scene: Scene | None = None

    @staticmethod
    def catalog() -> dict[str, Any]:
        """What can be asked for, see `visuomotor.envs.tabletop.catalog`."""
        return catalog()

    # ---- the episode -------------------------------------------------------------------------

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        """Start an episode; equal seed and options give bit-equal episodes.

        Args:
            seed: Decides the scene, the goal and the words.
            options: "task" or suite; "split" of the scenes and sentences; "rival" (True or False forces a
                rival, None draws); "goal" (name of another goal of the same scene); "instruction" (other
                words); "world".
        """
        self._start(int(seed), dict(options or {}))
        return self.observe()

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        """Build the scene of an episode and forget the one before."""
        for option in options:
            _known("option", option, _OPTIONS)
        asked = self._can(options.get("task", self._default_task))
        split = _known("split", options.get("split", "train"), SPLITS)
        turns = [task for task in SUITES.get(asked, ()) if split in splits(task)] or [asked]
        name = turns[seed % len(turns)]
        rival = None if options.get("rival") is None else bool(options["rival"])
        layout = sample_layout(seed, task=name, split=split, rival=rival, goal=options.get("goal"))
        world_name = str(options.get("world", self._default_world))
        world = get_world(world_name, seed)
        self._episode = (seed, {**options, "task": name, "rival": rival, "world": world_name})
        self._late = [self._stay] * world.delay  # actions that were given and have not run yet
        self._goals = tuple(goals(layout))
        self._task = TASKS[name]
        told = options.get("instruction")
        self._instruction = layout.instruction if told is None else str(told)
        self._held = [0] * len(self._goals)  # ticks in a row for which each goal was reached
        self._tick = 0
        self._carried = False
        self._verdict: Status | None = None
        shapes = tuple(sorted(thing.shape for thing in layout.objects))
        self._scene = self._compiled(shapes, tuple(fixture.kind for fixture in layout.fixtures))
        self._scene.reset(layout, world)
        for controller in self.controllers:
            controller.reset()

    def _can(self, task: str) -> str:
        """`task` (or a suite) if the body can do it."""
        names = SUITES.get(_known("task", task, (*TASKS, *SUITES)), (task,))
        able = playable(len(self.body.arms))
        if not set(names) <= set(able):
            suites = [name for name, tasks in SUITES.items() if set(tasks) <= set(able)]
            raise ValueError(
                f"tabletop: {self.body.name!r} cannot do {task!r}. It can do {', '.join(able)}; "
                f"and the suite{'s'[: len(suites) > 1]} {', '.join(suites)}. "
                "`visuomotor envs` tells which body can do what."
            )
        return task

    def _compiled(self, shapes: tuple[str, ...], kinds: tuple[str, ...]) -> Scene:
        """The scene of these shapes and fixtures, compiled if it is not kept."""
        key = (shapes, kinds)
        scene = self._scenes.pop(key, None) or Scene(self.body, shapes, kinds, tolerance=self._tolerance)
        if len(self._scenes) >= _MODELS:
            del self._scenes[next(iter(self._scenes))]
        self._scenes[key] = scene
        return scene

    def step(self, action: np.ndarray) -> Status:
        """Run one tick with `action` (action,); numbers beyond the limits of the spec are clipped.

        The verdict of a finished episode stays; the world goes on.

        Raises:
            ValueError: A wrong shape, or NaN.
        """
        scene = self.scene
        action = np.asarray(action, np.float64)
        if action.shape != (len(self.spec.action),):
            raise ValueError(
                f"tabletop: expected an action of shape ({len(self.spec.action)},) "
                f"({', '.join(d.name for d in self.spec.action)}), got {action.shape}."
            )
        if not np.isfinite(action).all():
            raise ValueError(f"tabletop: expected finite numbers in the action, got {action}.")
        self._late.append(action.copy())
        targets, fingers = [], []
        given = self._late.pop(0)
        for hand, controller in enumerate(self.controllers):
            targets.append(controller.command(given[self._parts[hand]], *scene.hand_pose(hand), self._steps))
            fingers.append(self.body.arms[hand].finger_target(controller.grip))
        scene.advance(np.concatenate(targets, axis=1), *fingers)
        self._tick += 1
        return self._judge()

    def _judge(self) -> Status:
        """How the episode stands now; counts ticks, so once a tick."""
        if self._verdict is not None:
            return self._verdict
        scene, task = self.scene, self._task
        for number, goal in enumerate(self._goals):
            self._held[number] = self._held[number] + 1 if task.reached(scene, goal) else 0
        reached = [goal for goal, ticks in zip(self._goals, self._held, strict=True) if ticks >= task.hold]
        wanted = self.wanted
        achieved = wanted if wanted in reached else (reached[0] if reached else None)
        if wanted.objects:
            self._carried = self._carried or bool(scene.place(wanted.object)[2] > _CARRIED)
        success = achieved == wanted
        failure = None if success else self._failure(achieved, wanted)
        status = Status(
            success=success,
            done=success or failure is not None,
            progress=1.0 if success else min(0.99, task.far(scene, wanted)),
            failure=failure,
            facts={"goal": self.goal, "achieved": achieved and achieved.name(self.layout)},
        )
        if status.done:
            self._verdict = status
        return status

    def _failure(self, achieved: Goal | None, wanted: Goal) -> str | None:
        """Why the episode is over without success, or None while it runs."""
        scene, task = self.scene, self._task
        if achieved is not None:
            return blame(wanted, achieved)
        if task.breach is not None and (breach := task.breach(scene, wanted)) is not None:
            return breach
        if any(scene.lost(number) for number in wanted.objects):
            return "dropped"
        if self._tick < self.max_ticks:
            return None
        held = any(scene.holders(number) for number in wanted.objects)
        return "dropped" if self._carried and not held else "out of time"

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        """What can be seen now; only the named views are drawn, all of the spec's if None."""
        names = [camera.name for camera in self.spec.cameras] if cameras is None else cameras
        views = [self.spec.camera(name) for name in names]
        return Observation(
            images={view.name: self._picture(view)[None] for view in views},
            state=self.state()[None],
            instruction=self._instruction,
            embodiment=self.spec.embodiment,
            time=self._tick / self.spec.rate,
        )

    def _picture(self, view: Camera) -> np.ndarray:
        """What a camera of the spec sees, uint8 (height, width, 3)."""
        scene, world = self.scene, self.scene.world
        picture = render(scene.model, scene.data, view.name, view.height, view.width, look=world.look)
        return self._noisy(picture, world.pixel_noise, view.name)

    def _noisy(self, values: np.ndarray, deviation: float, sensor: str) -> np.ndarray:
        """`values` as a sensor reads them at this tick."""
        return noisy(values, deviation, seed=self._episode[0], tick=self._tick, sensor=sensor)

    def state(self) -> np.ndarray:
        """State float32 (state,), see `Body.spec`; a hand is where the measured joints put it."""
        scene, world = self.scene, self.scene.world
        numbers: list[np.ndarray] = []
        for hand, (arm, controller) in enumerate(zip(self.body.arms, self.controllers, strict=True)):
            joints = self._noisy(scene.joints(hand), world.joint_noise, f"{arm.prefix}joints")
            position, quat = controller.hand(joints) if world.joint_noise else scene.hand_pose(hand)
            grip = self._noisy(np.array([scene.grip(hand)]), world.grip_noise, f"{arm.prefix}gripper")
            numbers += [joints, grip, position, controller.describe(quat), controller.pose()]
        return np.concatenate(numbers).astype(np.float32)

    def render(self, camera: str, height: int, width: int, *, look: Look | None = None) -> np.ndarray:
        """A picture of any size for people, uint8 (height, width, 3), from any camera of the body.

        Without `look` it has the light of the episode's world, with shadows and soft edges.
        """
        _known("camera", camera, self.body.views())
        look = look or self.scene.world.video_look
        return render(self.scene.model, self.scene.data, camera, height, width, look=look)

    def close(self) -> None:
        """Forget every compiled model."""
        self._scenes.clear()
        self._scene = None

    # ---- what tasks, experts and probes read ---------------------------------------------------

    @property
    def scene(self) -> Scene:
        """The physical world of this episode."""
        if self._scene is None:
            raise ValueError("tabletop: no episode is running. Call reset(seed=...) first.")
        return self._scene

    @property
    def layout(self) -> Layout:
        """Things, fixtures, goal and words of this episode."""
        return self.scene.layout

    @property
    def wanted(self) -> Goal:
        """The goal of this episode."""
        return self.layout.goal

    @property
    def max_ticks(self) -> int:
        """Length of an episode of the present task that does not end before."""
        seconds = self._task.ticks / 10.0
        return round(seconds * self.spec.rate) if self._most_ticks is None else self._most_ticks

    @property
    def stage(self) -> Goal:
        """What to do now: the goal, or the first of its stages that is not done."""
        return stages(self.wanted)[stage(self.scene, self.wanted)]

    @property
    def subtask(self) -> str:
        """What to do now, in plain words: first to pick up what is not held yet.

        With two hands it says which one picks up; what that hand cannot finish it puts down in the middle.
        """
        part, scene = self.stage, self.scene
        sentence = plain(part.task, meaning(self.layout, part))
        if not part.objects or part.task in ("push", "lift") or TASKS[part.task].reached(scene, part):
            return sentence
        thing, turn = self.layout.objects[part.object].name, whose_turn(scene, part)
        hand = self.body.arms[turn.hand].name
        if not scene.holders(part.object):
            return f"pick up the {thing} with the {hand} hand" if hand else f"pick up the {thing}"
        return sentence if turn.finishes else f"put the {thing} down in the middle"

    @property
    def goal(self) -> str:
        """Name of the goal of this episode."""
        return self.wanted.name(self.layout)

    def goals(self) -> tuple[str, ...]:
        """Names of every goal of the task in this scene."""
        return tuple(goal.name(self.layout) for goal in goals(self.layout))

    def instructions(self, count: int) -> tuple[str, ...]:
        """`count` wordings of the goal of this episode, the observed one first; one if it was given."""
        if self._instruction != self.layout.instruction:
            return (self._instruction,)
        return instructions(self.layout, count)

    # ---- snapshot ----------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """The whole state of the world; `restore` brings it back bit-equal."""
        seed, options = self._episode
        facts = {
            "seed": seed,
            "options": options,
            "held": self._held,
            "tick": self._tick,
            "carried": self._carried,
            "late": [action.tolist() for action in self._late],
            "verdict": None if self._verdict is None else vars(self._verdict),
        }
        controllers = b"".join(controller.snapshot() for controller in self.controllers)
        parts = [json.dumps(facts).encode(), controllers, self.scene.snapshot()]
        return _MAGIC + _SIZES.pack(*map(len, parts)) + b"".join(parts)

    def restore(self, snapshot: bytes) -> None:
        """Go back to a snapshot of this environment, of any of its episodes."""
        head = len(_MAGIC) + _SIZES.size
        sizes = _SIZES.unpack_from(snapshot, len(_MAGIC)) if len(snapshot) >= head else (0, 0, 0)
        if not snapshot.startswith(_MAGIC) or len(snapshot) != head + sum(sizes):
            raise ValueError("tabletop: expected bytes from TabletopEnv.snapshot, got something else.")
        first, second = head + sizes[0], head + sizes[0] + sizes[1]
        parts = (snapshot[head:first], snapshot[first:second], snapshot[second:])
        facts = json.loads(parts[0])
        self._start(facts["seed"], facts["options"])
        self._held, self._tick, self._carried = facts["held"], facts["tick"], facts["carried"]
        self._late = [np.array(action) for action in facts["late"]]
        self._verdict = None if facts["verdict"] is None else Status(**facts["verdict"])
        for controller in self.controllers:
            size = len(controller.snapshot())
            controller.restore(parts[1][:size])
            parts = (parts[0], parts[1][size:], parts[2])
        self.scene.restore(parts[2])


def _known(kind: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """`name` if it is known, else a `ValueError` with the closest one."""
    if name not in known:
        raise unknown_name(kind, str(name), known)
    return name
