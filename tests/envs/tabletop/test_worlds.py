"""Worlds change looks and dynamics, the same way every time; the clean one changes nothing."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop import TabletopEnv, build
from visuomotor.envs.tabletop.camera import DEFAULT_LOOK, VIDEO_LOOK, render
from visuomotor.envs.tabletop.layout import sample_layout
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.things import COLORS
from visuomotor.envs.tabletop.worlds import CLEAN, SHIFTED, WORLDS, Mount, World, get_world, noisy
from visuomotor.experts.tabletop import TabletopExpert
from visuomotor.testing.envs import check_env

SMALL = {"front": 32, "wrist": 24}


def numbers(world: World) -> np.ndarray:
    """Every number of a world in a row."""

    def flat(value: Any) -> list[float]:
        if isinstance(value, (tuple, list)):
            return [number for part in value for number in flat(part)]
        if hasattr(value, "__dataclass_fields__"):
            return [number for part in fields(value) for number in flat(getattr(value, part.name))]
        return [] if isinstance(value, str) else [float(value)]

    return np.array(flat(world))


def play(env: TabletopEnv, seed: int, world: str, ticks: int = 15) -> list[np.ndarray]:
    """What is seen and felt in an episode with the expert, and the physics behind it."""
    expert, seen = TabletopExpert(), []
    observation = env.reset(seed=seed, options={"world": world})
    for _ in range(ticks):
        seen += [*observation.images.values(), observation.state, env.scene.data.qpos.copy()]
        env.step(expert(env))
        observation = env.observe()
    return seen


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def fresh(seed: int) -> Scene:
    """A scene that has seen no world."""
    layout = sample_layout(seed, task="put_in")
    shapes = tuple(sorted(thing.shape for thing in layout.objects))
    return Scene(FRANKA, shapes, [fixture.kind for fixture in layout.fixtures])


# ---- the clean world ----------------------------------------------------------------------------


def test_clean_is_no_world_at_all() -> None:
    """Nothing of the compiled model but places and named colors is touched, and sensors read the truth."""
    env, other = TabletopEnv(cameras=SMALL), fresh(4)
    for world in ("randomized:2", "shifted", "clean"):
        observation = env.reset(seed=4, options={"world": world})
    model, data = env.scene.model, env.scene.data
    untouched = set(dir(model)) - {"geom_rgba", "qpos0", "body_pos"}
    for name in untouched:
        if isinstance(values := getattr(model, name), np.ndarray):
            np.testing.assert_array_equal(values, getattr(other.model, name), err_msg=name)
    for body, color in (
        (f"object{n}", thing.color) for n, thing in zip(env.scene._order, env.layout.objects)
    ):
        rgba = model.geom_rgba[model.body(body).geomadr[0]]
        np.testing.assert_array_equal(rgba, np.array((*COLORS[color], 1.0), np.float32))
    for name, size in SMALL.items():
        picture = render(model, data, name, size, size, look=DEFAULT_LOOK)
        np.testing.assert_array_equal(observation.images[name][0], picture)
    np.testing.assert_array_equal(observation.state[0, :7], env.scene.joints().astype(np.float32))
    np.testing.assert_array_equal(observation.state[0, 8:11], env.scene.hand()[0].astype(np.float32))
    assert CLEAN.video_look == VIDEO_LOOK
    assert get_world("clean", 1) == get_world("clean", 2) == World()


def test_an_environment_is_clean_unless_asked() -> None:
    first = play(TabletopEnv(cameras=SMALL, world="clean"), 1, "clean")
    env = TabletopEnv(cameras=SMALL, world="shifted")
    assert equal(first, play(env, 1, "clean"))
    assert TabletopEnv(cameras={}).reset(seed=1).state.tolist() == first[2].tolist()
    env.reset(seed=1)
    assert env.scene.world == SHIFTED


@pytest.mark.parametrize("world", ["clean", "randomized", "shifted"])
def test_what_was_played_before_does_not_matter(world: str) -> None:
    env = TabletopEnv(cameras=SMALL)
    first = play(TabletopEnv(cameras=SMALL), 0, world)
    for before in ("randomized:2", "shifted", "clean"):
        play(env, 0, before, ticks=3)
        assert equal(first, play(env, 0, world))


# ---- random worlds ------------------------------------------------------------------------------


def test_a_seed_decides_a_world() -> None:
    worlds = [get_world("randomized", seed) for seed in range(50)]
    assert worlds == [get_world("randomized", seed) for seed in range(50)]
    assert get_world("randomized:1", 3) == replace(worlds[3], name="randomized:1")
    table = np.array([numbers(world) for world in worlds])
    # Not even two numbers that are drawn from a range meet; shadow, checker and delay have common values.
    assert (np.array([len(np.unique(column)) for column in table.T]) == 50).mean() > 0.8


def test_random_worlds_leave_scene_goal_and_sentence_alone() -> None:
    env = TabletopEnv(cameras={})
    env.reset(seed=8)
    layout = env.layout
    for world in WORLDS:
        env.reset(seed=8, options={"world": world})
        assert env.layout == layout


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_random_worlds_keep_to_their_ranges(strength: float) -> None:
    """The ranges of docs/tabletop.md, and most of each range is used."""
    worlds = [get_world(f"randomized:{strength}", seed) for seed in range(200)]
    base = DEFAULT_LOOK

    def check(values: list[float], low: float, high: float) -> None:
        assert low - 1e-9 <= min(values) <= low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) <= max(values) <= high + 1e-9

    for field, width in (("friction", 0.25), ("mass", 0.4)):
        check([math.log(getattr(world, field)) for world in worlds], -width * strength, width * strength)
    for field, width in (("joint_noise", 0.002), ("grip_noise", 0.01), ("pixel_noise", 4.0)):
        check([getattr(world, field) for world in worlds], 0.0, width * strength)
    check([world.front.move[0] for world in worlds], -0.06 * strength, 0.06 * strength)
    check([world.front.turn[2] for world in worlds], -0.02 * strength, 0.02 * strength)
    check([world.wrist.turn[2] for world in worlds], -0.02 * strength, 0.02 * strength)
    check([math.log(world.front.zoom) for world in worlds], -0.03 * strength, 0.03 * strength)
    check([world.shades[0][0] for world in worlds], -0.04 * strength, 0.04 * strength)
    check([math.log(world.look.square / base.square) for world in worlds], -0.5 * strength, 0.5 * strength)
    check([world.look.shadow for world in worlds], 0.0, 0.5 * strength)
    check([float(world.delay) for world in worlds], 0.0, {0.5: 1.0, 1.0: 1.0, 2.0: 2.0}[strength])
    for look in (world.look for world in worlds):
        assert min(look.ambient, look.above, look.diffuse, look.facing, look.lamp[2]) > 0
        bright = (look.ambient + look.above + look.diffuse + look.facing) / 1.08
        assert abs(bright - 1) < 0.12 * strength + 1e-9


def test_strength_scales_the_way_from_clean() -> None:
    for seed in range(20):
        mild, plain = get_world("randomized:0.5", seed), get_world("randomized", seed)
        for pick in (
            lambda world: np.array(world.shades),
            lambda world: np.array([*world.front.move, *world.front.turn, *world.wrist.move]),
            lambda world: np.log(
                [world.friction, world.mass, world.front.zoom, world.look.square / DEFAULT_LOOK.square]
            ),
            lambda world: np.array([world.joint_noise, world.pixel_noise, world.look.specular]),
        ):
            np.testing.assert_allclose(2 * pick(mild), pick(plain), atol=1e-12)


def test_colors_stay_nearest_to_their_names() -> None:
    named = np.array(list(COLORS.values()))
    worlds = [get_world("randomized:2", seed) for seed in range(300)]
    for world in (SHIFTED, *worlds):
        colors = np.array([world.color(rgb) for rgb in COLORS.values()])
        assert colors.min() >= 0
        assert colors.max() <= 1
        distances = np.linalg.norm(colors[:, None] - named, axis=-1)  # color name
        assert (distances.argmin(axis=1) == np.arange(len(named))).all()
        assert distances.diagonal().max() < 0.4 / 2  # half the way between the nearest two names


def test_other_colors_move_with_the_one_next_to_them() -> None:
    world = World(shades=((0.1, 0.0, 0.0), *[(0.0, 0.0, 0.0)] * 7))
    assert world.color((0.7, 0.1, 0.1)) == pytest.approx((0.8, 0.1, 0.1))
    assert world.color((0.1, 0.2, 0.8)) == (0.1, 0.2, 0.8)


@pytest.mark.parametrize("world", ["randomized", "shifted"])
def test_things_stay_in_the_picture(world: str) -> None:
    """The middle of every object lies in the front view."""
    env = TabletopEnv(cameras={})
    for seed in range(60):
        env.reset(seed=seed, options={"world": world})
        model, data = env.scene.model, env.scene.data
        camera = model.camera("front").id
        for number in range(4):
            seen = (env.scene.place(number) - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
            slope = math.tan(math.radians(model.cam_fovy[camera]) / 2)
            assert np.abs(seen[:2]).max() < slope * -seen[2]


# ---- the shifted world --------------------------------------------------------------------------


def test_shifted_is_one_world_that_training_never_sees() -> None:
    assert get_world("shifted", 0) is get_world("shifted", 10**9) is SHIFTED
    drawn = np.array([numbers(get_world("randomized", seed)) for seed in range(300)])
    outside = (numbers(SHIFTED) < drawn.min(axis=0)) | (numbers(SHIFTED) > drawn.max(axis=0))
    assert outside.mean() > 0.5
    assert not any(get_world("randomized", seed).friction < SHIFTED.friction for seed in range(300))
    assert not any(get_world("randomized", seed).mass > SHIFTED.mass for seed in range(300))


def test_only_noise_tells_the_seeds_of_shifted_apart() -> None:
    env = TabletopEnv(cameras={"front": 32})
    pictures = [env.reset(seed=seed, options={"world": "shifted"}).images["front"] for seed in (0, 1)]
    layout = env.layout
    assert not np.array_equal(*pictures)
    models = []
    for _ in range(2):
        env.scene.reset(layout, SHIFTED)
        models.append(env.scene.model.geom_rgba.copy())
    np.testing.assert_array_equal(*models)


# ---- sensors and delay --------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "world"), [("ee_delta", "shifted"), ("joint", "randomized:2")])
def test_contract_with_noise_and_delay(control: Any, world: str) -> None:
    check_env(lambda: TabletopEnv(control=control, cameras={"front": 16}, world=world), ticks=12)


def test_restore_is_bit_equal_with_delay_and_noise() -> None:
    expert = TabletopExpert()
    env, other = TabletopEnv(cameras=SMALL, world="shifted"), TabletopEnv(cameras=SMALL)
    env.reset(seed=7)
    for _ in range(9):
        env.step(expert(env))
    snapshot, expected = env.snapshot(), []
    for _ in range(12):
        env.step(expert(env))
        expected.append((env.scene.data.qpos.copy(), env.observe()))
    other.reset(seed=1)
    for restored in (env, other):
        restored.restore(snapshot)
        assert restored.snapshot() == snapshot
        for qpos, observation in expected:
            restored.step(expert(restored))
            np.testing.assert_array_equal(restored.scene.data.qpos, qpos)
            again = restored.observe()
            np.testing.assert_array_equal(again.state, observation.state)
            for name in SMALL:
                np.testing.assert_array_equal(again.images[name], observation.images[name])


def test_a_reading_is_the_same_whenever_it_is_read() -> None:
    env = TabletopEnv(cameras=SMALL, world="shifted")
    env.reset(seed=3)
    first = env.observe()
    np.testing.assert_array_equal(env.observe(["wrist"]).images["wrist"], first.images["wrist"])
    np.testing.assert_array_equal(env.state(), first.state[0])
    env.step(np.zeros(7))
    assert not np.array_equal(env.observe().state, first.state)


def test_noise_has_the_deviation_it_says() -> None:
    gray = np.full((100, 100, 3), 128, np.uint8)
    read = noisy(gray, 5.0, seed=0, tick=0, sensor="front")
    assert read.dtype == np.uint8
    assert read.std() == pytest.approx(5.0, rel=0.05)  # 30000 draws: 0.4 % of error
    assert noisy(gray, 0.0, seed=0, tick=0, sensor="front") is gray
    for other in ({"seed": 1}, {"tick": 1}, {"sensor": "wrist"}):
        different = noisy(gray, 5.0, **{"seed": 0, "tick": 0, "sensor": "front", **other})
        assert np.corrcoef(read.ravel(), different.ravel())[0, 1] < 0.05
    white = noisy(np.full((50, 50, 3), 255, np.uint8), 5.0, seed=0, tick=0, sensor="front")
    assert white.min() > 200


def test_the_measured_hand_is_where_the_measured_joints_put_it() -> None:
    env = TabletopEnv(cameras={}, world="shifted")
    env.reset(seed=2)
    for _ in range(3):
        env.step(np.array([0.03, 0.02, -0.02, 0.0, 0.0, 0.1, 0.0]))
    state = env.state()
    position, quat = env.controllers[0].hand(state[:7].astype(np.float64))
    np.testing.assert_allclose(state[8:11], position, atol=1e-6)
    np.testing.assert_allclose(state[11:14], env.controllers[0].describe(quat), atol=1e-5)
    assert 1e-5 < np.linalg.norm(state[8:11] - env.scene.hand()[0]) < 0.02


@pytest.mark.parametrize("control", ["ee_delta", "joint"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_delay_really_delays(control: Any, seed: int) -> None:
    """With the delay taken out, the same actions lead to the same hand so many ticks earlier."""
    env = TabletopEnv(cameras={}, control=control, world="randomized:2")
    late = [seed for seed in range(20) if get_world("randomized:2", seed).delay == 2][seed]
    env.reset(seed=late)
    if control == "joint":
        actions = [np.append(np.add(env.body.arms[0].home, 0.02 * tick), 0.5) for tick in range(1, 6)]
    else:
        actions = [np.array([0.02, -0.01, -0.01, 0.0, 0.0, 0.1, 0.5])] * 5
    delayed = []
    for action in actions:
        env.step(action)
        delayed.append(np.append(env.controllers[0].position, env.controllers[0].grip))
    env.reset(seed=late)
    env._late.clear()
    for tick, action in enumerate(actions[:3]):
        env.step(action)
        # The hand rests a little below its commands at first, so that these follow it only to 1e-4 m.
        command = np.append(env.controllers[0].position, env.controllers[0].grip)
        np.testing.assert_allclose(delayed[tick + 2], command, atol=1e-4)
    home, _ = env.controllers[0].hand(np.array(env.body.arms[0].home))
    np.testing.assert_allclose(delayed[1], [*home, 0.0], atol=1e-6)


# ---- physics ------------------------------------------------------------------------------------


def test_mass_and_friction_are_what_the_compiler_would_have_made(monkeypatch) -> None:
    layout = sample_layout(0, task="put_in")
    written = fresh(0)
    written.reset(layout, World(mass=2.0, friction=0.5))
    plain = fresh(0).model
    monkeypatch.setattr(build, "_DENSITY", 2 * build._DENSITY)
    compiled = fresh(0).model
    np.testing.assert_allclose(written.model.geom_friction, 0.5 * plain.geom_friction)
    assert compiled.body_mass.sum() > plain.body_mass.sum()
    for name in ("body_mass", "body_inertia", "body_invweight0", "dof_invweight0"):
        np.testing.assert_allclose(
            getattr(written.model, name), getattr(compiled, name), rtol=1e-6, atol=1e-9
        )
    # Of the world body it is the sum of everything, which nothing reads.
    np.testing.assert_allclose(written.model.body_subtreemass[1:], compiled.body_subtreemass[1:], rtol=1e-6)


def test_cameras_move_in_their_own_axes() -> None:
    played, layout = fresh(0), sample_layout(0, task="put_in")
    camera = played.data.camera("front")
    played.reset(layout)
    place, axes = camera.xpos.copy(), camera.xmat.reshape(3, 3).copy()
    played.reset(layout, World(front=Mount(move=(0.1, 0.0, 0.0), turn=(0.0, 0.1, 0.0), zoom=1.1)))
    moved, turned = camera.xpos, camera.xmat.reshape(3, 3)
    np.testing.assert_allclose(moved - place, 0.1 * axes[:, 0], atol=1e-9)
    np.testing.assert_allclose(turned[:, 1], axes[:, 1], atol=1e-9)  # turned about its own up
    assert turned[:, 2] @ axes[:, 0] == pytest.approx(math.sin(0.1))  # so it looks to the left
    assert played.model.camera("front").fovy[0] == pytest.approx(1.1 * 23.0)


@pytest.mark.parametrize(
    ("world", "control"), [("randomized", "ee_delta"), ("shifted", "ee_delta"), ("shifted", "joint")]
)
def test_the_expert_solves_other_worlds(world: str, control: Any) -> None:
    env, expert = TabletopEnv(cameras={}, world=world, control=control), TabletopExpert()
    solved = 0
    for seed in range(12):
        env.reset(seed=seed)
        while not (status := env.step(expert(env))).done:
            pass
        solved += status.success
    assert solved >= 11


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("randomised", "Did you mean 'randomized'"),
        ("shift", "Did you mean 'shifted'"),
        ("", "Known: clean"),
        ("randomized:", r"strength in \(0, 2\], got ''"),
        ("randomized:0", "strength in"),
        ("randomized:2.1", "strength in"),
        ("randomized:nan", "strength in"),
        ("randomized:much", "got 'much'"),
        ("shifted:1", "Write 'shifted'"),
        ("clean:", "Write 'clean'"),
    ],
)
def test_wrong_names_are_refused_everywhere(name: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        get_world(name, 0)
    with pytest.raises(ValueError, match=hint):
        TabletopEnv(cameras={}, world=name)
    with pytest.raises(ValueError, match=hint):
        TabletopEnv(cameras={}).reset(seed=0, options={"world": name})


@pytest.mark.parametrize(
    "wrong",
    [{"mass": 0.0}, {"friction": -1.0}, {"delay": -1}, {"pixel_noise": float("nan")}, {"shades": ()}],
)
def test_impossible_worlds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="world 'clean'"):
        World(**wrong)
