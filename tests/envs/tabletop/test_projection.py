"""The spec tells where the fixed camera shows a place, as the drawn picture does."""

from __future__ import annotations

import numpy as np

from visuomotor.envs.tabletop import TabletopEnv


def test_projection_points_at_the_pixels_of_each_object() -> None:
    env = TabletopEnv(cameras={"front": (120, 160)})
    for seed in range(5):
        env.reset(seed=seed)
        camera = env.spec.camera("front")
        assert camera.projection is not None
        matrix = np.reshape(camera.projection, (3, 4))
        picture = env.observe().images["front"][0].astype(float)
        for number, thing in enumerate(env.layout.objects):
            u, v, w = matrix @ [*env.scene.place(number), 1.0]
            assert w > 0
            column, row = (u / w + 1) / 2 * 160 - 0.5, (v / w + 1) / 2 * 120 - 0.5
            color = picture[round(row), round(column)]
            spread = color.max() - color.min()
            assert spread > 40, f"{thing.name}: table instead of the object at its own place"
