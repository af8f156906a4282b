"""The contract of every environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from visuomotor.envs.base import Env, Status
from visuomotor.types import Observation

__all__ = ["check_env"]

Act = Callable[[Env, np.random.Generator], np.ndarray]


def check_env(
    make_env: Callable[[], Env],
    *,
    ticks: int = 12,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    act: Act | None = None,
    snapshots: bool = True,
) -> None:
    """Raise `AssertionError` at the first rule of the environment contract that does not hold.

    The rules: observations fit the spec; only the views asked for are drawn; looking changes nothing
    and what was seen does not change later; equal seeds give bit-equal episodes, in one environment
    and in two; snapshots come back bit-equal; a wrong shape or NaN is refused and moves nothing; a
    status makes sense.

    Args:
        make_env: Builds the environment; called twice.
        ticks: Length of the episodes that are played.
        seed: Of the first episode.
        options: For `reset`.
        act: Chooses an action; random ones within the limits of the spec if None.
        snapshots: False for a robot, which has none.
    """
    env, other = make_env(), make_env()
    act = act or random_action
    try:
        _check_spec(env, env.reset(seed=seed, options=options))
        _check_looking(env, seed, options, act)
        _check_refusal(env)
        first = _play(env, seed, options, act, ticks)
        _check_equal(env, first, _play(env, seed, options, act, ticks), "episodes from equal seeds")
        _check_equal(
            env,
            first,
            _play(other, seed, options, act, ticks),
            "episodes from equal seeds in two environments",
        )
        _require(
            env,
            not _same(first[0], _play(env, seed + 1, options, act, 0)[0]),
            f"seeds {seed} and {seed + 1} give the same first observation.",
        )
        if snapshots:
            _check_snapshots(env, seed, options, act, ticks)
    finally:
        env.close()
        other.close()


def random_action(env: Env, generator: np.random.Generator) -> np.ndarray:
    """Uniform within the limits of the spec; where there are none, normal with a spread of 0.02."""
    answer = []
    for dimension in env.spec.action:
        if np.isfinite(dimension.low) and np.isfinite(dimension.high):
            answer.append(generator.uniform(dimension.low, dimension.high))
        else:
            answer.append(np.clip(0.02 * generator.standard_normal(), dimension.low, dimension.high))
    return np.array(answer, dtype=np.float32)


def _require(env: Env, condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"environment {type(env).__name__}: {message}")


def _check_spec(env: Env, observation: Observation) -> None:
    spec = env.spec
    _require(
        env,
        observation.embodiment == spec.embodiment,
        f"it observes the body {observation.embodiment!r}, its spec says {spec.embodiment!r}.",
    )
    expected = {camera.name for camera in spec.cameras}
    found = set(observation.images)
    _require(
        env, found == expected, f"it observes cameras {sorted(found)}, its spec says {sorted(expected)}."
    )
    for camera in spec.cameras:
        image, shape = observation.images[camera.name], (1, camera.height, camera.width, 3)
        _require(
            env,
            image.shape == shape and image.dtype == np.uint8,
            f"camera {camera.name!r}: expected uint8 {shape}, got {image.dtype} {image.shape}.",
        )
    state = observation.state
    _require(
        env,
        state.shape == (1, len(spec.state)) and state.dtype == np.float32,
        f"state: expected float32 {(1, len(spec.state))}, got {state.dtype} {state.shape}.",
    )
    _require(env, bool(np.isfinite(state).all()), "the state holds NaN or infinity.")


def _refuses_unknown_camera(env: Env) -> bool:
    try:
        env.observe(["no such camera"])
    except ValueError:
        return True
    return False


def _check_looking(env: Env, seed: int, options: Mapping[str, Any] | None, act: Act) -> None:
    env.reset(seed=seed, options=options)
    names = [camera.name for camera in env.spec.cameras]
    for asked in ([], names[:1], names):
        found = sorted(env.observe(asked).images)
        _require(env, found == sorted(asked), f"observe({asked}) gives views {found}.")
    _require(env, _refuses_unknown_camera(env), "observe() accepts an unknown camera; expected a ValueError.")
    first = env.observe()
    _require(env, _same(first, env.observe()), "looking twice shows two different worlds.")
    kept = {name: image.copy() for name, image in first.images.items()}, first.state.copy()
    env.step(act(env, np.random.default_rng(seed)))
    env.observe()
    _require(
        env,
        all(np.array_equal(kept[0][name], image) for name, image in first.images.items())
        and np.array_equal(kept[1], first.state),
        "an observation changes after it was given away; it must be a copy.",
    )


def _check_refusal(env: Env) -> None:
    before = env.observe()
    wrong = {
        "an action that is too long": np.zeros(len(env.spec.action) + 1, np.float32),
        "an action with an extra axis": np.zeros((1, len(env.spec.action)), np.float32),
        "NaN": np.full(len(env.spec.action), np.nan, np.float32),
    }
    for what, action in wrong.items():
        try:
            env.step(action)
        except ValueError:
            continue
        _require(env, False, f"step() accepts {what}; expected a ValueError.")
    _require(env, _same(before, env.observe()), "a refused action moves the world.")


def _play(
    env: Env, seed: int, options: Mapping[str, Any] | None, act: Act, ticks: int
) -> list[Observation | Status]:
    """Everything that was seen and said in an episode of at most `ticks` ticks."""
    return [env.reset(seed=seed, options=options), *_continue(env, np.random.default_rng(seed), act, ticks)]


def _continue(env: Env, generator: np.random.Generator, act: Act, ticks: int) -> list[Observation | Status]:
    history: list[Observation | Status] = []
    for _ in range(ticks):
        status = env.step(act(env, generator))
        _check_status(env, status)
        history += [status, env.observe()]
        if status.done:
            break
    return history


def _check_status(env: Env, status: Status) -> None:
    _require(env, 0 <= status.progress <= 1, f"progress must be in [0, 1], got {status.progress}.")
    _require(
        env,
        (status.progress == 1) == status.success,
        f"progress is 1 exactly on success, got {status.progress} with success {status.success}.",
    )
    failed = status.done and not status.success
    _require(
        env,
        (status.failure is not None) == failed,
        f"a reason for failure belongs to failed episodes and only to them, got {status}.",
    )


def _check_snapshots(env: Env, seed: int, options: Mapping[str, Any] | None, act: Act, ticks: int) -> None:
    _play(env, seed, options, act, ticks // 2)
    snapshot, seen = env.snapshot(), env.observe()
    _require(env, isinstance(snapshot, bytes), f"snapshot() must give bytes, got {type(snapshot).__name__}.")
    _require(env, _same(seen, env.observe()), "taking a snapshot changes the world.")
    first = _continue(env, np.random.default_rng(1), act, ticks)
    env.restore(snapshot)
    _require(env, _same(seen, env.observe()), "restore() shows another world than the snapshot was taken of.")
    _check_equal(
        env,
        first,
        _continue(env, np.random.default_rng(1), act, ticks),
        "what follows a snapshot and its restore",
    )
    env.reset(seed=seed + 1, options=options)
    env.restore(snapshot)
    _require(
        env, _same(seen, env.observe()), "restore() into another episode leaves something of that episode."
    )
    _check_equal(
        env,
        first,
        _continue(env, np.random.default_rng(1), act, ticks),
        "what follows a restore into another episode",
    )


def _check_equal(env: Env, one: list[Any], other: list[Any], what: str) -> None:
    _require(
        env, len(one) == len(other), f"{what} differ in length: {len(one) // 2} and {len(other) // 2} ticks."
    )
    for index, (first, second) in enumerate(zip(one, other)):
        difference = _difference(first, second)
        _require(env, not difference, f"{what} differ after {(index + 1) // 2} ticks in {difference}.")


def _same(one: Any, other: Any) -> bool:
    return not _difference(one, other)


def _difference(one: Any, other: Any) -> str:
    """Where two observations or two statuses are not equal to the last bit; empty if nowhere."""
    if isinstance(one, Status) or isinstance(other, Status):
        return "" if one == other else f"the status ({one} and {other})"
    for name in ("instruction", "embodiment", "time"):
        if getattr(one, name) != getattr(other, name):
            return name
    if not np.array_equal(one.state, other.state):
        return "the state"
    if set(one.images) != set(other.images):
        return "the cameras"
    return next(
        (
            f"camera {name!r}"
            for name in one.images
            if not np.array_equal(one.images[name], other.images[name])
        ),
        "",
    )
