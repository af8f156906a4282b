from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from visuomotor.envs.tabletop.camera import DEFAULT_LOOK, VIDEO_LOOK, Look, render

SCENE = """
<mujoco>
  <worldbody>
    <geom name="table" type="box" size=".4 .5 .02" pos=".5 0 -.02" rgba=".7 .6 .5 1"/>
    <geom name="floor" type="plane" size="3 3 .1" pos="0 0 -.5" rgba=".3 .3 .3 1"/>
    <camera name="front" pos="1.2 0 .7" xyaxes="0 1 0 -.6 0 .8" fovy="50"/>
    <body name="pillar" pos=".2 .1 0">
      <geom type="cylinder" size=".05 .1" pos="0 0 .1" euler="20 0 0" rgba=".9 .9 .9 1"/>
    </body>
    <body name="cube" pos=".5 -.1 .03"><freejoint/>
      <geom type="box" size=".03 .03 .03" rgba=".9 .1 .1 1"/></body>
    <body name="ball" pos=".6 .1 .03"><freejoint/><geom type="sphere" size=".03" rgba=".1 .2 .9 1"/></body>
    <body name="egg" pos=".4 .1 .05"><freejoint/>
      <geom type="ellipsoid" size=".02 .03 .05" rgba=".1 .8 .2 1"/></body>
    <body name="hand" pos=".5 0 .25" euler="0 170 15"><freejoint/>
      <geom type="box" size=".02 .1 .02" rgba=".8 .8 .8 1"/>
      <geom type="capsule" size=".01 .05" pos="0 .04 .05" rgba=".2 .2 .2 1"/>
      <geom type="sphere" size=".2" rgba="1 0 1 1" group="3"/>
      <geom type="sphere" size=".2" rgba="1 0 1 0"/>
      <camera name="wrist" pos=".05 0 0" euler="180 0 0" fovy="70"/>
    </body>
  </worldbody>
</mujoco>
"""
PLAIN = replace(DEFAULT_LOOK, checker=0.0)


@pytest.fixture
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    return make()


def make(xml: str = SCENE) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def slowly(
    model: mujoco.MjModel, data: mujoco.MjData, camera: str, height: int, width: int, look: Look
) -> np.ndarray:
    """The same picture pixel by pixel with `mj_ray`, without squares, highlights and soft edges."""
    groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    origin = data.camera(camera).xpos
    matrix = data.camera(camera).xmat.reshape(3, 3)
    focal = height / 2 / np.tan(np.radians(model.camera(camera).fovy[0]) / 2)
    picture = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            ray = matrix @ np.array([column + 0.5 - width / 2, height / 2 - row - 0.5, -focal])
            ray /= np.linalg.norm(ray)
            geom, normal = np.zeros(1, np.int32), np.zeros(3)
            distance = mujoco.mj_ray(model, data, origin, ray, groups, 1, -1, geom, normal)
            if geom[0] < 0:
                up = max(ray[2], 0)
                picture[row, column] = (1 - up) * np.array(look.horizon) + up * np.array(look.zenith)
                continue
            to_lamp = np.array(look.lamp) / np.linalg.norm(look.lamp)
            lit = max(normal @ to_lamp, 0)
            path = 8 * to_lamp - (origin + distance * ray)  # shadows as of a lamp 8 m away
            length = np.linalg.norm(path)
            met = np.zeros(1, np.int32)
            reach = mujoco.mj_ray(model, data, 8 * to_lamp, -path / length, groups, 1, 0, met)
            share = 1 - look.shadow if met[0] >= 0 and reach < length - 2e-3 else 1
            light = look.ambient + look.above * (1 + normal[2]) / 2 + look.facing * abs(normal @ ray)
            picture[row, column] = model.geom_rgba[geom[0], :3] * (light + look.diffuse * share * lit)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("camera", ["front", "wrist"])
@pytest.mark.parametrize("look", [PLAIN, replace(PLAIN, shadow=0.6)], ids=["plain", "shadow"])
def test_pictures_equal_those_drawn_ray_by_ray(scene, camera: str, look: Look) -> None:
    expected = slowly(*scene, camera, 30, 41, look)
    difference = np.abs(render(*scene, camera, 30, 41, look=look).astype(int) - expected).max(axis=-1)
    # Rounding may differ by one. A ray along an edge may meet either face: two pixels are forgiven.
    assert (difference > 1).sum() <= 2


@given(
    place=st.tuples(*[st.floats(-0.3, 0.3)] * 2, st.floats(0.0, 0.5)),
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda quat: np.linalg.norm(quat) > 0.1),
)
def test_rays_are_cast_wherever_something_stands(place, turn) -> None:
    model, data = make()
    start = model.jnt_qposadr[model.body("hand").jntadr[0]]
    data.qpos[start : start + 7] = (
        0.5 + place[0],
        place[1],
        place[2],
        *(np.array(turn) / np.linalg.norm(turn)),
    )
    mujoco.mj_forward(model, data)
    assume(data.camera("wrist").xpos[2] > 0.01)  # inside the table there is nothing to see
    for camera in ("front", "wrist"):
        difference = np.abs(
            render(model, data, camera, 12, 12, look=PLAIN).astype(int)
            - slowly(model, data, camera, 12, 12, PLAIN)
        ).max(axis=-1)
        assert (difference > 1).sum() <= 1  # a ray along an edge


def test_equal_scenes_give_equal_bits_whatever_was_drawn_before(scene) -> None:
    first = render(*scene, "front", 48, 64)
    other_model, other_data = make(SCENE.replace(".7 .6 .5 1", ".1 .6 .5 1"))
    assert not np.array_equal(render(other_model, other_data, "front", 48, 64), first)
    render(*scene, "wrist", 48, 64, look=VIDEO_LOOK)
    assert np.array_equal(render(*scene, "front", 48, 64), first)
    assert np.array_equal(render(*make(), "front", 48, 64), first)


def test_drawing_leaves_the_world_as_it_is(scene) -> None:
    model, data = scene
    before = {
        name: np.array(getattr(data, name)) for name in ("qpos", "qvel", "geom_xpos", "cam_xmat", "qacc")
    }
    render(model, data, "front", 20, 20, look=VIDEO_LOOK)
    assert all(np.array_equal(getattr(data, name), value) for name, value in before.items())


def test_colors_of_objects_are_seen(scene) -> None:
    picture = render(*scene, "front", 96, 96).astype(int)
    red = (picture[..., 0] > 90) & (picture[..., 1] < 40)
    blue = (picture[..., 2] > 90) & (picture[..., 0] < 40)
    assert red.sum() > 15
    assert blue.sum() > 15


def test_hidden_groups_and_transparent_geoms_are_not_drawn(scene) -> None:
    for camera in ("front", "wrist"):
        picture = render(*scene, camera, 40, 40).astype(int)
        assert not ((picture[..., 0] > 100) & (picture[..., 1] < 20) & (picture[..., 2] > 100)).any()


def test_moving_an_object_moves_it_in_the_picture(scene) -> None:
    model, data = scene
    before = render(model, data, "front", 96, 96).astype(int)
    data.joint(model.body("cube").jntadr[0]).qpos[1] += 0.1
    mujoco.mj_forward(model, data)
    after = render(model, data, "front", 96, 96).astype(int)

    def middle(picture: np.ndarray) -> float:
        return float(np.nonzero((picture[..., 0] > 90) & (picture[..., 1] < 40))[1].mean())

    assert middle(after) > middle(before) + 5


def test_a_still_camera_sees_a_table_that_was_painted_anew(scene) -> None:
    model, data = scene
    before = render(model, data, "front", 32, 32)
    model.geom("table").rgba[:3] = (0.1, 0.1, 0.9)
    assert render(model, data, "front", 32, 32)[-1, 0, 2] > before[-1, 0, 2]


def test_materials_color_geoms() -> None:
    xml = SCENE.replace("<worldbody>", '<asset><material name="m" rgba="0 1 0 1"/></asset><worldbody>', 1)
    xml = xml.replace('rgba=".9 .1 .1 1"', 'material="m"')
    picture = render(*make(xml), "front", 96, 96).astype(int)
    assert not ((picture[..., 0] > 90) & (picture[..., 1] < 40)).any()


def test_a_world_body_with_other_shapes_is_drawn_too() -> None:
    xml = SCENE.replace(
        "<worldbody>", '<worldbody><geom type="sphere" size=".1" pos=".5 0 .1" rgba="1 0 1 1"/>', 1
    )
    expected = slowly(*make(xml), "front", 24, 24, PLAIN)
    picture = render(*make(xml), "front", 24, 24, look=PLAIN)
    assert (np.abs(picture.astype(int) - expected).max(axis=-1) > 1).sum() <= 2


def test_a_scene_of_ground_alone_is_drawn() -> None:
    world = '<geom type="plane" size="0 0 1" rgba="1 0 0 1"/><camera name="down" pos="0 0 1"/>'
    for look in (DEFAULT_LOOK, VIDEO_LOOK):
        picture = render(*make(f"<mujoco><worldbody>{world}</worldbody></mujoco>"), "down", 8, 8, look=look)
        assert (picture[..., 0] > 100).all()
        assert (picture[..., 1] < 100).all()


def test_a_box_of_the_ground_is_seen_from_every_side() -> None:
    for axes in ("0 1 0 0 0 1", "1 0 0 0 0 1", "0 1 0 -1 0 1", "-1 0 0 0 -1 0.2"):
        xml = f"""<mujoco><worldbody><geom type="box" size=".2 .3 .1" euler="10 20 30"/>
        <camera name="c" xyaxes="{axes}"/></worldbody></mujoco>"""
        model, data = make(xml)
        data.cam_xpos[0] = data.cam_xmat[0].reshape(3, 3)[:, 2]
        picture = render(model, data, "c", 16, 16, look=PLAIN).astype(int)
        assert (np.abs(picture - slowly(model, data, "c", 16, 16, PLAIN)).max(axis=-1) > 1).sum() <= 1


def test_video_look_softens_edges_and_casts_shadows(scene) -> None:
    hard = render(*scene, "front", 64, 64, look=replace(VIDEO_LOOK, samples=1))
    soft = render(*scene, "front", 64, 64, look=VIDEO_LOOK)
    assert len(np.unique(soft.reshape(-1, 3), axis=0)) > len(np.unique(hard.reshape(-1, 3), axis=0))
    light = render(*scene, "front", 64, 64, look=replace(VIDEO_LOOK, shadow=0.0))
    assert (soft.sum(axis=-1) < light.sum(axis=-1) - 20).sum() > 20


def test_unknown_cameras_and_empty_pictures_are_refused(scene) -> None:
    with pytest.raises(ValueError, match="Did you mean 'front'"):
        render(*scene, "fron", 8, 8)
    with pytest.raises(ValueError, match="cameras 0 to 1"):
        render(*scene, 2, 8, 8)
    with pytest.raises(ValueError, match="at least 1 x 1"):
        render(*scene, "front", 0, 8)
    with pytest.raises(ValueError, match="samples"):
        Look(samples=0)


def test_cameras_go_by_number_too(scene) -> None:
    model, data = scene
    assert np.array_equal(
        render(model, data, model.camera("wrist").id, 8, 12), render(model, data, "wrist", 8, 12)
    )
