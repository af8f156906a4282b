"""What every agent speaks, and agents without a network. Nothing here imports torch.

An agent turns a raw observation into a raw chunk and remembers nothing between calls: history, the
previous chunk and the random numbers are the session's, which hands them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from visuomotor.types import Chunk, Observation, Spec, Window

if TYPE_CHECKING:
    from visuomotor.policies.base import Context

__all__ = ["Agent", "RandomAgent", "RecordedAgent", "ScriptedAgent", "check_observation"]


@runtime_checkable
class Agent(Protocol):
    """Raw observation to raw chunk: a policy here or far away, a script, a recording, chance."""

    spec: Spec
    window: Window

    def act(
        self,
        observation: Observation,
        *,
        generator: np.random.Generator | None = None,
        context: Context | None = None,
        prefix: Float[np.ndarray, "prefix action"] | None = None,
        delay: int = 0,
    ) -> Chunk:
        """The actions from the tick of `observation` on, in robot units.

        Args:
            observation: Raw, with the history that `window` asks for.
            generator: Source of randomness; None draws the same numbers at every call.
            context: What `think` returned earlier, for agents with a slow part.
            prefix: Actions for the ticks from `observation` on, in robot units, that the new chunk has to
                continue: the first `delay` of them exactly, the others less and less (see
                `visuomotor.generative.prefix`).
            delay: Ticks that pass before the answer can be used; the prefix is executed until then.
        """
        ...

    def think(
        self, observation: Observation, *, generator: np.random.Generator | None = None
    ) -> Context | None:
        """The slow part, for `act` at later ticks; None for an agent that has none."""
        ...


def check_observation(
    observation: Observation, spec: Spec, window: Window, *, what: str = "observation"
) -> Observation:
    """`observation` with exactly the cameras of `spec`, in their order, and a float32 state.

    Cameras that the spec does not name are left out: an environment may have more views than the
    policy was trained with.

    Raises:
        ValueError: Another body, a missing camera or a picture of the wrong size, a state of the
            wrong width, a history of the wrong length, or a state that is not finite.
    """
    if observation.embodiment != spec.embodiment:
        raise ValueError(
            f"{what}: expected embodiment {spec.embodiment!r}, got {observation.embodiment!r}. "
            "Act with an agent that was trained for this body (load_agent(folder, key=...))."
        )
    history = len(window.history)
    state = np.asarray(observation.state)
    _check_state(state, spec, history, what)
    images = {}
    for camera in spec.cameras:
        if camera.name not in observation.images:
            raise ValueError(
                f"{what}: camera {camera.name!r} is missing, got {sorted(observation.images) or 'none'}. "
                f"Ask the environment for observe(cameras={[view.name for view in spec.cameras]})."
            )
        picture = np.asarray(observation.images[camera.name])
        expected = (history, camera.height, camera.width, 3)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise ValueError(
                f"{what}: camera {camera.name!r}: expected uint8 pictures of shape {expected} "
                f"(history height width 3), got {picture.dtype} {picture.shape}. "
                "Draw at the size that the agent was trained with."
            )
        images[camera.name] = picture
    masks = {
        "history": observation.history_mask,
        **{name: observation.image_mask.get(name) for name in images},
    }
    for name, mask in masks.items():
        if mask is not None and np.shape(mask) != (history,):
            raise ValueError(f"{what}: mask of {name!r}: expected shape ({history},), got {np.shape(mask)}.")
    if not isinstance(observation.instruction, str):
        raise ValueError(f"{what}: expected the instruction as a str, got {observation.instruction!r}.")
    return replace(observation, images=images, state=state.astype(np.float32, copy=False))


def _check_state(state: np.ndarray, spec: Spec, history: int, what: str) -> None:
    """Raise `ValueError` unless `state` is (history, state) and finite."""
    width = len(spec.state)
    if state.ndim != 2 or state.shape[1] != width or not np.issubdtype(state.dtype, np.floating):
        raise ValueError(
            f"{what}: state: expected floats of shape (history, {width}) for embodiment {spec.embodiment!r} "
            f"({', '.join(dimension.name for dimension in spec.state)}), got {state.dtype} {state.shape}."
        )
    if len(state) != history:
        raise ValueError(
            f"{what}: expected history {history}, got {len(state)}. "
            "Act through a Session: it keeps the history that the agent's window asks for."
        )
    if not np.isfinite(state).all():
        bad = [spec.state[i].name for i in np.flatnonzero(~np.isfinite(state).all(axis=0))]
        raise ValueError(
            f"{what}: state is not finite in {', '.join(bad)}. Check the sensor or the simulation."
        )


class _Thoughtless:
    """Agents without a slow part."""

    def think(self, observation: Observation, *, generator: np.random.Generator | None = None) -> None:
        """Nothing to think about."""
        return None


class RandomAgent(_Thoughtless):
    """Uniform actions within the limits of the body: what chance achieves.

    Args:
        spec: Every action needs finite limits.
        horizon: Actions in a chunk.
    """

    def __init__(self, spec: Spec, *, horizon: int = 1) -> None:
        self.spec = spec
        self.window = Window(horizon=horizon)
        self._low = np.array([dimension.low for dimension in spec.action])
        self._high = np.array([dimension.high for dimension in spec.action])
        endless = [d.name for d in spec.action if not np.isfinite([d.low, d.high]).all()]
        if endless:
            raise ValueError(
                f"random agent: actions {', '.join(endless)} of {spec.embodiment!r} have no limits. "
                "Give their Dimension a low and a high."
            )

    def act(
        self,
        observation: Observation,
        *,
        generator: np.random.Generator | None = None,
        context: Context | None = None,
        prefix: Float[np.ndarray, "prefix action"] | None = None,
        delay: int = 0,
    ) -> Chunk:
        """Actions drawn between the limits; the observation is not looked at."""
        generator = generator or np.random.default_rng(0)
        actions = generator.uniform(self._low, self._high, size=(self.window.horizon, len(self._low)))
        return Chunk(actions=actions.astype(np.float32), rate=self.spec.rate, time=observation.time)


class RecordedAgent(_Thoughtless):
    """Plays recorded actions, found by the time of the observation; holds when they are over.

    Args:
        spec: Body of the recording.
        actions: One episode, (tick, action), in robot units.
        horizon: Actions in a chunk.
    """

    def __init__(self, spec: Spec, actions: Float[np.ndarray, "tick action"], *, horizon: int = 1) -> None:
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != len(spec.action):
            raise ValueError(
                f"recorded agent: expected actions (tick, {len(spec.action)}) of {spec.embodiment!r}, "
                f"got {actions.shape}."
            )
        self.spec = spec
        self.window = Window(horizon=horizon)
        self.actions = actions

    def act(
        self,
        observation: Observation,
        *,
        generator: np.random.Generator | None = None,
        context: Context | None = None,
        prefix: Float[np.ndarray, "prefix action"] | None = None,
        delay: int = 0,
    ) -> Chunk:
        """The recording from the tick of `observation` on; masked where it is over."""
        first = round(observation.time * self.spec.rate)
        ticks = np.arange(first, first + self.window.horizon)
        real = ticks < len(self.actions)
        actions = self.actions[np.minimum(ticks, len(self.actions) - 1)]
        actions[~real] = self.spec.hold(self.actions[-1])
        return Chunk(actions=actions, rate=self.spec.rate, time=observation.time, mask=real)


class ScriptedAgent(_Thoughtless):
    """A function of the observation as an agent: a hand-written policy, or an expert and its environment.

    Args:
        spec: The body.
        script: Observation to actions (horizon, action), or to one action (action,), in robot units.
        horizon: Actions in a chunk.
    """

    def __init__(self, spec: Spec, script: Callable[[Observation], np.ndarray], *, horizon: int = 1) -> None:
        self.spec = spec
        self.window = Window(horizon=horizon)
        self.script = script

    def act(
        self,
        observation: Observation,
        *,
        generator: np.random.Generator | None = None,
        context: Context | None = None,
        prefix: Float[np.ndarray, "prefix action"] | None = None,
        delay: int = 0,
    ) -> Chunk:
        """What the script says. Raises `ValueError` if its answer has the wrong shape."""
        actions = np.atleast_2d(np.asarray(self.script(observation), np.float32))
        expected = (self.window.horizon, len(self.spec.action))
        if actions.shape != expected:
            raise ValueError(f"scripted agent: expected actions of shape {expected}, got {actions.shape}.")
        return Chunk(actions=actions, rate=self.spec.rate, time=observation.time)
