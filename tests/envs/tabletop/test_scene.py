"""The model of the table top: what can be held, what rests, what slides, what the fixed camera sees."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.build import BOWL_RADIUS, SIZES, SOCKET_HEIGHT, TIMESTEP, TOLERANCE
from visuomotor.envs.tabletop.layout import sample_layout
from visuomotor.envs.tabletop.scene import Scene
from visuomotor.envs.tabletop.tasks import playable
from visuomotor.envs.tabletop.things import BOWL_OUTER_RADIUS, COLORS, DRAWER, FENCE, FOOTPRINTS, Layout
from visuomotor.envs.tabletop.worlds import get_world
from visuomotor.experts.tabletop import TabletopExpert

ARM = FRANKA.arms[0]
HOME = np.tile(ARM.home, (100, 1))


def shapes_of(layout: Layout) -> tuple[str, ...]:
    return tuple(sorted(thing.shape for thing in layout.objects))


def built(task: str, seed: int = 0, body: str = "franka") -> Scene:
    """The scene of an episode at its start."""
    env = TabletopEnv(body, task=task, cameras={})
    env.reset(seed=seed)
    return env.scene


def pull(scene: Scene, number: int, travel: float) -> None:
    """Slide a drawer or press a button by force, in meters of the layout."""
    joint = scene.model.joint(f"fixture{number}")
    scene.data.qpos[joint.qposadr[0]] = travel * scene.body.scale
    mujoco.mj_forward(scene.model, scene.data)


def wait(scene: Scene, ticks: int = 100) -> None:
    arm = scene.body.arms[0]
    scene.advance(np.tile(arm.home, (ticks, 1)), arm.finger_travel)


@pytest.fixture(scope="module")
def scene() -> Scene:
    layout = sample_layout(0, task="lift")
    scene = Scene(FRANKA, shapes_of(layout), [fixture.kind for fixture in layout.fixtures])
    scene.reset(layout)
    return scene


# ---- objects ------------------------------------------------------------------------------------


def test_things_fit_the_room_that_layouts_give_them() -> None:
    for shape, (length, width) in FOOTPRINTS.items():
        assert SIZES[shape][0] <= length + 1e-9
        assert SIZES[shape][1] <= width + 1e-9
    assert BOWL_RADIUS < BOWL_OUTER_RADIUS
    assert all(2 * min(size) < 2 * ARM.finger_travel - 0.02 for size in SIZES.values())


@pytest.mark.parametrize("task", playable(1))
def test_reset_puts_everything_where_the_layout_has_it(task: str) -> None:
    env = TabletopEnv(task=task, cameras={})
    for seed in range(3):
        env.reset(seed=seed)
        scene, layout = env.scene, env.layout
        for number, thing in enumerate(layout.objects):
            x, y, z = scene.place(number)
            assert (x, y) == pytest.approx(thing.position)
            assert z == pytest.approx(SIZES[thing.shape][2])
            assert scene.bottom(number) == pytest.approx(0.0, abs=1e-8)
            yaw = np.arctan2(scene.rotation(number)[1, 0], scene.rotation(number)[0, 0])
            assert yaw == pytest.approx(thing.yaw)
        for number, fixture in enumerate(layout.fixtures):
            out = DRAWER.travel if fixture.open else 0.0
            assert scene.travel(number) == pytest.approx(out)
            x, y = fixture.position
            middle = (x + out * math.sin(fixture.yaw), y - out * math.cos(fixture.yaw), 0.0)
            if fixture.kind == "button":
                assert scene.fixture(number)[:2] == pytest.approx(middle[:2])
            else:
                np.testing.assert_allclose(scene.fixture(number), middle, atol=1e-9)
        np.testing.assert_allclose(scene.joints(), ARM.home)


def test_one_model_serves_every_layout_with_its_shapes(scene: Scene) -> None:
    first = sample_layout(0, task="lift")
    others = [sample_layout(seed, task="lift") for seed in range(1, 60)]
    for layout in [layout for layout in others if shapes_of(layout) == shapes_of(first)][:3]:
        scene.reset(layout)
        for number, thing in enumerate(layout.objects):
            assert scene.place(number)[:2] == pytest.approx(thing.position)
        for number, fixture in enumerate(layout.fixtures):
            assert scene.fixture(number)[:2] == pytest.approx(fixture.position)


@pytest.mark.parametrize("task", playable(1))
def test_things_and_fixtures_rest_until_touched(task: str) -> None:
    scene = built(task)
    before = [scene.place(number) for number in range(len(scene.layout.objects))]
    stood = [scene.fixture(number) for number in range(len(scene.layout.fixtures))]
    wait(scene)
    for number, place in enumerate(before):
        np.testing.assert_array_equal(scene.place(number), place)
    for number, place in enumerate(stood):
        np.testing.assert_allclose(scene.fixture(number), place, atol=1e-6)
        assert scene.travel(number) == pytest.approx(
            DRAWER.travel if scene.layout.fixtures[number].open else 0.0, abs=1e-6
        )
    if not any(fixture.kind == "drawer" for fixture in scene.layout.fixtures):
        assert scene.data.ntree_awake == 1  # the arm


def test_arm_keeps_its_home_against_gravity(scene: Scene) -> None:
    scene.reset(sample_layout(0, task="lift"))
    scene.advance(np.tile(ARM.home, (250, 1)), ARM.finger_travel)
    np.testing.assert_allclose(scene.joints(), ARM.home, atol=1e-4)


def test_models_have_the_friction_and_solver_that_hold_round_things(scene: Scene) -> None:
    option = scene.model.opt
    assert option.cone == mujoco.mjtCone.mjCONE_ELLIPTIC
    assert option.impratio == 10
    assert 0.002 <= option.timestep == TIMESTEP <= 0.004
    assert option.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP


@pytest.mark.parametrize("shape", sorted(SIZES))
def test_every_shape_stays_in_the_hand(shape: str) -> None:
    """All but one are still held after being lifted, moved to and fro and turned."""
    task, count = ("insert", 10) if shape == "peg" else ("lift", 25)
    env, expert = TabletopEnv(task=task, cameras={}), TabletopExpert()
    held = tried = seed = 0
    while tried < count:
        seed += 1
        layout = sample_layout(seed, task=task)
        chosen = [number for number, thing in enumerate(layout.objects) if thing.shape == shape]
        if not chosen:
            continue
        env.reset(seed=seed)
        goal = next(name for name in env.goals() if f":{layout.objects[chosen[0]].name}" in name)
        env.reset(seed=seed, options={"goal": goal})
        tried += 1
        while env.scene.bottom(env.wanted.object) < 0.07:
            if env.step(expert(env)).done:
                break
        for tick in range(12):
            env.step(np.array([0.0, 0.04 * (-1) ** (tick // 3), 0.01, 0.0, 0.0, 0.1, 1.0]))
        held += env.scene.holds(env.wanted.object)
    assert held >= count - 1


# ---- fixtures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["franka", "so101"])
def test_a_drawer_slides_within_its_chest_and_stays(body: str) -> None:
    scene = built("open_drawer", body=body)
    for number, fixture in enumerate(scene.layout.fixtures):
        if fixture.kind != "drawer":
            continue
        closed, handle = scene.fixture(number), scene.handle(number)
        out = np.array([math.sin(fixture.yaw), -math.cos(fixture.yaw), 0.0])
        assert (out[1] < 0) == (fixture.position[1] > 0)  # towards the middle of the table
        np.testing.assert_allclose(
            handle - closed, [*(DRAWER.handle * out)[:2], DRAWER.handle_height], atol=1e-9
        )
        for travel in (0.03, 0.07):
            pull(scene, number, travel)
            np.testing.assert_allclose(scene.fixture(number), closed + travel * out, atol=1e-9)
            np.testing.assert_allclose(scene.handle(number), handle + travel * out, atol=1e-9)
            wait(scene)
            assert scene.travel(number) == pytest.approx(travel, abs=5e-4)
        pull(scene, number, DRAWER.travel + 0.004)  # too far
        wait(scene)
        assert scene.travel(number) == pytest.approx(DRAWER.travel, abs=5e-3)


def test_only_the_drawers_of_close_drawer_begin_open() -> None:
    for task in playable(1):
        scene = built(task)
        for number, fixture in enumerate(scene.layout.fixtures):
            assert fixture.open == (task == "close_drawer" and fixture.kind == "drawer")
            assert scene.travel(number) == pytest.approx(DRAWER.travel if fixture.open else 0.0)


def test_a_button_springs_back() -> None:
    scene = built("press")
    for number, fixture in enumerate(scene.layout.fixtures):
        if fixture.kind == "button":
            pull(scene, number, 0.007)
            assert scene.travel(number) == pytest.approx(0.007)
            wait(scene, 150)
            assert scene.travel(number) < 0.0012  # its weight presses it by a millimeter


def test_what_does_not_move_has_no_travel() -> None:
    for task in ("put_in", "push", "insert", "pass_obstacle"):
        scene = built(task)
        assert [scene.travel(number) for number in range(len(scene.layout.fixtures))] == [0.0] * len(
            scene.layout.fixtures
        )


def test_posts_of_the_fence_know_when_they_are_touched() -> None:
    scene = built("pass_obstacle")
    (number,) = (number for number, fixture in enumerate(scene.layout.fixtures) if fixture.kind == "fence")
    assert not scene.touches(number)
    slot = scene._slots[scene._order[0]]
    x, y = scene.layout.fixtures[number].position
    scene.data.qpos[slot.qpos : slot.qpos + 3] = scene.to_base((x, y + FENCE.posts[0], 0.1))
    mujoco.mj_forward(scene.model, scene.data)
    assert scene.touches(number)


@pytest.mark.parametrize("tolerance", [0.002, TOLERANCE, 0.010])
def test_the_tolerance_is_the_room_around_a_peg_in_its_socket(tolerance: float) -> None:
    layout = sample_layout(0, task="insert")
    scene = Scene(FRANKA, ("peg", "peg"), ("socket", "socket"), tolerance=tolerance)
    scene.reset(layout)
    model, body = scene.model, scene.model.body("fixture0").id
    walls = [
        number
        for number in range(model.ngeom)
        if model.geom_bodyid[number] == body and model.geom_type[number] == mujoco.mjtGeom.mjGEOM_BOX
    ]
    inner = min(np.hypot(*model.geom_pos[wall][:2]) - model.geom_size[wall][0] for wall in walls)
    assert inner == pytest.approx(SIZES["peg"][0] + tolerance)
    assert max(model.geom_pos[wall][2] + model.geom_size[wall][2] for wall in walls) == pytest.approx(
        SOCKET_HEIGHT
    )


@pytest.mark.parametrize("task", playable(1))
@pytest.mark.parametrize("world", ["clean", "randomized"])
def test_everything_is_painted_in_its_color(task: str, world: str) -> None:
    """Parts of a fixture are brighter and darker versions of it; gray parts stay gray."""
    env = TabletopEnv(task=task, cameras={}, world=world)
    for seed in (2, 5):
        env.reset(seed=seed)
        scene, painted = env.scene, get_world(world, seed)
        for number, thing in enumerate(env.layout.objects):
            rgba = scene.model.geom_rgba[scene._slots[scene._order[number]].geom]
            np.testing.assert_allclose(rgba, (*painted.color(COLORS[thing.color]), 1.0), atol=1e-6)
        for number, fixture in enumerate(env.layout.fixtures):
            stand = scene._stands[number]
            assert (fixture.kind == "fence") == (len(stand.painted) == 0)
            for geom, tint in zip(stand.painted, stand.tints, strict=True):
                wanted = tint * painted.color(COLORS[fixture.color])
                np.testing.assert_allclose(scene.model.geom_rgba[geom, :3], wanted, atol=1e-6)
                assert scene.model.geom_rgba[geom, 3] == 1.0
            if len(stand.painted):
                assert stand.tints.max() == 1.0


# ---- snapshots ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", playable(1))
def test_restore_is_bit_equal_in_every_task(task: str) -> None:
    """In the middle of the work, in this environment and in another one that played something else."""
    expert = TabletopExpert()
    env, other = TabletopEnv(task=task, cameras={}), TabletopEnv(task="press", cameras={})
    env.reset(seed=4)
    other.reset(seed=1)
    for _ in range(9):
        env.step(expert(env))
    snapshot = env.snapshot()
    expected = []
    for _ in range(8):
        status = env.step(expert(env))
        expected.append((env.scene.data.qpos.copy(), env.scene.data.qvel.copy(), env.subtask, status))
    for world in (env, other):
        world.restore(snapshot)
        assert world.snapshot() == snapshot
        for qpos, qvel, subtask, status in expected:
            told = world.step(expert(world))
            np.testing.assert_array_equal(world.scene.data.qpos, qpos)
            np.testing.assert_array_equal(world.scene.data.qvel, qvel)
            assert (world.subtask, told) == (subtask, status)


# ---- the front view -----------------------------------------------------------------------------


def covered(env: TabletopEnv, size: int) -> tuple[list[int], list[int]]:
    """Pixels of the front view in which each object, and each fixture, is seen."""
    model, data = env.scene.model, env.scene.data
    camera = model.camera("front").id
    focal = 0.5 * size / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    row, column = np.mgrid[:size, :size] + 0.5 - size / 2
    rays = np.stack([column / focal, -row / focal, -np.ones_like(row)], axis=-1).reshape(-1, 3)
    rays = rays @ data.cam_xmat[camera].reshape(3, 3).T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    geoms, distances = np.zeros(len(rays), np.int32), np.zeros(len(rays))
    mujoco.mj_multiRay(
        model, data, data.cam_xpos[camera], rays.ravel(), None, 1, -1, geoms, distances, None, len(rays), 50.0
    )
    hit = np.where(geoms >= 0, model.geom_bodyid[geoms], -1)
    slots = [env.scene._slots[number].body for number in env.scene._order]
    stands = [env.scene._stands[number].bodies for number in range(len(env.layout.fixtures))]
    return [int(np.sum(hit == body)) for body in slots], [
        int(np.isin(hit, bodies).sum()) for bodies in stands
    ]


def test_every_object_covers_forty_pixels_of_the_front_view() -> None:
    env = TabletopEnv(cameras={})
    for seed in range(60):
        env.reset(seed=seed)
        objects, _ = covered(env, 96)
        assert min(objects) >= 40, f"seed {seed}: {objects}"


@pytest.mark.parametrize("task", playable(1))
def test_every_object_and_fixture_is_seen_in_the_front_view(task: str) -> None:
    """Pegs, and what stands behind a fence or beside the handle of a drawer, cover less."""
    env = TabletopEnv(task=task, cameras={})
    for seed in range(8):
        env.reset(seed=seed)
        objects, fixtures = covered(env, 96)
        assert min(objects) >= 25, f"seed {seed}: {objects}"
        assert min(fixtures) >= 40, f"seed {seed}: {fixtures}"
