"""Gymnasium both ways: our environments as `gymnasium.Env`, and theirs behind our contract.

    import gymnasium
    from visuomotor.envs.gym import register

    register()
    env = gymnasium.make("visuomotor/TabletopPutIn-v0")

Needs the extra: `pip install visuomotor[gym]`. Importing this module registers nothing.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    import gymnasium
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "visuomotor.envs.gym needs gymnasium, which is not installed. Run: pip install visuomotor[gym]"
    ) from error

from visuomotor.envs.base import Env, Status
from visuomotor.errors import VisuomotorError
from visuomotor.types import Observation, Spec

__all__ = ["IDS", "FromGym", "GymEnv", "make_tabletop", "register"]

IDS: Mapping[str, str] = {
    "visuomotor/TabletopLift-v0": "lift",
    "visuomotor/TabletopPutIn-v0": "put_in",
    "visuomotor/TabletopPutBeside-v0": "put_beside",
    "visuomotor/TabletopStack-v0": "stack",
    "visuomotor/TabletopPush-v0": "push",
    "visuomotor/TabletopOpenDrawer-v0": "open_drawer",
    "visuomotor/TabletopCloseDrawer-v0": "close_drawer",
    "visuomotor/TabletopPress-v0": "press",
    "visuomotor/TabletopPassObstacle-v0": "pass_obstacle",
    "visuomotor/TabletopInsert-v0": "insert",
    "visuomotor/TabletopPutInDrawer-v0": "put_in_drawer",
    "visuomotor/TabletopPutTwo-v0": "put_two",
    "visuomotor/TabletopClear-v0": "clear",
    "visuomotor/TabletopHandOver-v0": "hand_over",
}
"""Gymnasium id to task."""

_BODIES = {"hand_over": "aloha2arm"}  # who plays what the default body cannot

_LONGEST_INSTRUCTION = 400
_MAX_SEED = 2**31 - 1
_PICTURE = 320


def register() -> None:
    """Make `gymnasium.make` know `IDS`; those it already knows stay as they are."""
    for name, task in IDS.items():
        if name not in gymnasium.registry:
            body = {"embodiment": _BODIES[task]} if task in _BODIES else {}
            gymnasium.register(
                id=name, entry_point="visuomotor.envs.gym:make_tabletop", kwargs={"task": task, **body}
            )


def make_tabletop(*, render_mode: str | None = None, **options: Any) -> GymEnv:
    """The table top as a `gymnasium.Env`; `options` go to `TabletopEnv`."""
    from visuomotor.envs.tabletop import TabletopEnv

    return GymEnv(TabletopEnv(**options), render_mode=render_mode)


class GymEnv(gymnasium.Env):
    """One of our environments as a `gymnasium.Env`.

    Observations are a dict: `images` (camera to uint8 height-width-channel), `state` (float32) and
    `instruction`. The reward is 1 on success, else 0. An episode that fails before its time is over
    is terminated, one that runs out of time truncated. `info` has `progress`, `success`, `failure`
    and the facts of the environment.

    Args:
        env: The environment to wrap.
        render_mode: None, or "rgb_array" if the environment can render.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, env: Env, *, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render mode: expected None or 'rgb_array', got {render_mode!r}.")
        spaces = gymnasium.spaces
        spec = env.spec
        self.env = env
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": spec.rate}
        self.observation_space = spaces.Dict(
            {
                "images": spaces.Dict(
                    {
                        camera.name: spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
                        for camera in spec.cameras
                    }
                ),
                "state": spaces.Box(-np.inf, np.inf, (len(spec.state),), np.float32),
                "instruction": spaces.Text(_LONGEST_INSTRUCTION, min_length=0, charset=string.printable),
            }
        )
        self.action_space = spaces.Box(
            np.array([dimension.low for dimension in spec.action], np.float32),
            np.array([dimension.high for dimension in spec.action], np.float32),
            dtype=np.float32,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; `options` are those of the wrapped environment."""
        super().reset(seed=seed)
        scene = int(self.np_random.integers(_MAX_SEED)) if seed is None else seed
        observation = self.env.reset(seed=scene, options=options)
        return self._plain(observation), {"instruction": observation.instruction, "seed": scene}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One tick."""
        status = self.env.step(action)
        observation = self._plain(self.env.observe())
        truncated = status.done and status.failure == "out of time"
        info = {
            "progress": status.progress,
            "success": status.success,
            "failure": status.failure,
            **status.facts,
        }
        return observation, float(status.success), status.done and not truncated, truncated, info

    def render(self) -> np.ndarray | None:
        """A picture uint8 (320, 320, 3) of the first camera, or None without a render mode."""
        if self.render_mode is None:
            return None
        camera = self.env.spec.cameras[0].name if self.env.spec.cameras else "front"
        draw = getattr(self.env, "render", None)
        if draw is None:
            return self.env.observe([camera]).images[camera][-1]
        return draw(camera, _PICTURE, _PICTURE)

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    def _plain(self, observation: Observation) -> dict[str, Any]:
        """An observation without its history axis, as nested dicts."""
        return {
            "images": {name: pictures[-1] for name, pictures in observation.images.items()},
            "state": observation.state[-1],
            "instruction": observation.instruction,
        }


class FromGym:
    """A `gymnasium.Env` behind our contract; it has no snapshots.

    Args:
        env: Its observations are dicts as those of `GymEnv`: "images" (may be missing if the spec has
            no camera), "state" and, where it has words, "instruction".
        spec: What its numbers mean. Gymnasium spaces do not tell, so it is never guessed.
        instruction: The words for an environment that brings none.
    """

    def __init__(self, env: gymnasium.Env, spec: Spec, *, instruction: str = "") -> None:
        self.env = env
        self.spec = spec
        self._instruction = instruction
        self._seen: Mapping[str, Any] | None = None
        self._ticks = 0
        self._done = False

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> Observation:
        """Start an episode."""
        self._seen, _ = self.env.reset(seed=seed, options=None if options is None else dict(options))
        self._ticks, self._done = 0, False
        return self.observe()

    def step(self, action: np.ndarray) -> Status:
        """Run one tick.

        Success is `info["success"]` or `info["is_success"]`; without either, a reward on the last tick.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (len(self.spec.action),) or not np.isfinite(action).all():
            raise ValueError(f"action: expected {len(self.spec.action)} finite numbers, got {action}.")
        self._seen, reward, terminated, truncated, info = self.env.step(action)
        self._ticks += 1
        told = info.get("success", info.get("is_success"))
        success = bool(terminated and float(reward) > 0 if told is None else told)
        self._done = bool(terminated or truncated)
        failed = self._done and not success
        progress = min(float(info.get("progress", 0.0)), 0.99)
        return Status(
            success=success,
            done=self._done,
            progress=1.0 if success else progress,
            failure=(info.get("failure") or ("out of time" if truncated else "terminated"))
            if failed
            else None,
            facts={
                key: value
                for key, value in info.items()
                if isinstance(value, str | int | float | bool | None)
            },
        )

    def observe(self, cameras: Sequence[str] | None = None) -> Observation:
        """What was seen last; Gymnasium draws every view at every step, so this only selects."""
        if self._seen is None:
            raise ValueError("gymnasium environment: no episode is running. Call reset(seed=...) first.")
        seen = self._seen
        names = [camera.name for camera in self.spec.cameras] if cameras is None else cameras
        for name in names:
            self.spec.camera(name)
        return Observation(
            images={name: np.array(seen["images"][name], np.uint8)[None] for name in names},
            state=np.array(seen["state"], np.float32)[None],
            instruction=str(seen.get("instruction", self._instruction)),
            embodiment=self.spec.embodiment,
            time=self._ticks / self.spec.rate,
        )

    def snapshot(self) -> bytes:
        """Always raises: Gymnasium has no snapshots."""
        raise VisuomotorError("a gymnasium environment has no snapshot. Use one of our environments instead.")

    def restore(self, snapshot: bytes) -> None:
        """Always raises: Gymnasium has no snapshots."""
        raise VisuomotorError(
            "a gymnasium environment cannot restore a snapshot. Use one of our environments."
        )

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()
