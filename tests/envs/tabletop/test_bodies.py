"""Every body plays the same scenes, and sees them alike."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.build import SIZES
from visuomotor.testing.envs import check_env

BODIES = ("so101", "widowx")


def seen(env: TabletopEnv, size: int) -> list[int]:
    """Pixels of the front view in which each object is seen."""
    picture = np.zeros((size, size), np.int32)
    model, data = env.scene.model, env.scene.data
    camera = model.camera("front").id
    focal = 0.5 * size / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    axes = data.cam_xmat[camera].reshape(3, 3)
    for row in range(size):
        for column in range(size):
            ray = axes @ [(column + 0.5 - size / 2) / focal, (size / 2 - row - 0.5) / focal, -1.0]
            geom = np.zeros(1, np.int32)
            mujoco.mj_ray(model, data, data.cam_xpos[camera], ray, None, 1, -1, geom)
            picture[row, column] = model.geom_bodyid[geom[0]]
    return [int(np.sum(picture == model.body(f"object{number}").id)) for number in range(4)]


def turned_back(point: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """`point` (3,) in the axes of a frame that is turned by a rotation vector (3,)."""
    quat, result = np.empty(4), np.empty(3)
    angle = float(np.linalg.norm(turn))
    mujoco.mju_axisAngle2Quat(quat, turn / angle if angle > 0 else np.array([0.0, 0.0, 1.0]), -angle)
    mujoco.mju_rotVecQuat(result, point, quat)
    return result


@pytest.mark.parametrize("body", BODIES)
def test_equal_seeds_give_the_same_layout_at_the_scale_of_the_body(body: str) -> None:
    env, franka = TabletopEnv(body, cameras={}), TabletopEnv(cameras={})
    for seed in range(5):
        env.reset(seed=seed)
        franka.reset(seed=seed)
        assert env.layout == franka.layout
        for number, thing in enumerate(env.layout.objects):
            np.testing.assert_allclose(env.scene.place(number), franka.scene.place(number), atol=1e-12)
            place = env.scene.to_base(env.scene.place(number))
            x, y = env.body.scale * np.array(thing.position) + env.body.origin
            np.testing.assert_allclose(place, [x, y, env.body.scale * SIZES[thing.shape][2]], atol=1e-12)
        assert env.scene.opening() == pytest.approx(franka.scene.opening(), abs=0.01)


@pytest.mark.parametrize("body", BODIES)
def test_every_object_covers_forty_pixels_of_the_front_view(body: str) -> None:
    env = TabletopEnv(body, cameras={})
    for seed in range(8):
        env.reset(seed=seed)
        assert min(seen(env, 96)) >= 40, f"seed {seed}: {seen(env, 96)}"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("view", ["front", "wrist"])
def test_projections_point_at_the_pixels_of_objects(body: str, view: str) -> None:
    """Of the camera on the hand by way of the measured pose, as a policy reads it from the state."""
    env = TabletopEnv(body, cameras={view: (120, 160)})
    met = 0
    for seed in range(5):
        observation = env.reset(seed=seed)
        matrix = np.reshape(env.spec.camera(view).projection, (3, 4))
        picture = observation.images[view][0].astype(float)
        names = [dimension.name for dimension in env.spec.state]
        start = names.index("measured_x")
        hand = observation.state[0, start : start + 6].astype(float)
        for number in range(4):
            place = env.scene.to_base(env.scene.place(number))
            if view == "wrist":
                place = turned_back(place - hand[:3], hand[3:])
            u, v, w = matrix @ [*place, 1.0]
            column, row = (u / w + 1) / 2 * 160 - 0.5, (v / w + 1) / 2 * 120 - 0.5
            if w > 0 and 0 <= column <= 159 and 0 <= row <= 100:  # below are the fingers
                color = picture[round(row), round(column)]
                assert color.max() - color.min() > 40
                met += 1
    assert met >= 5


@pytest.mark.parametrize("body", BODIES)
def test_contract(body: str) -> None:
    check_env(lambda: TabletopEnv(body, cameras={"front": 24, "wrist": 16}), ticks=15)


def test_a_body_brings_its_rate() -> None:
    assert TabletopEnv("widowx", cameras={}).spec.rate == 5.0
    assert TabletopEnv("widowx", cameras={}, rate=25).spec.rate == 25.0
    assert TabletopEnv(cameras={}).spec.rate == 10.0
