"""Rays meet planes where things are."""

from __future__ import annotations

import numpy as np
import torch

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.perception.geometry import matrices_now, on_plane
from visuomotor.transforms.hand import LocateHand
from visuomotor.types import Sample


def test_rays_through_both_cameras_meet_the_plane_where_the_thing_is() -> None:
    env = TabletopEnv()
    for seed in range(4):
        env.reset(seed=seed)
        env.step(np.array([0.02, 0.03, -0.05, 0.05, -0.08, 0.2, 0], np.float32))
        sample = LocateHand(env.spec).apply(Sample.from_observation(env.observe()))
        assert sample.hand is not None
        projection = torch.tensor([camera.projection for camera in env.spec.cameras]).reshape(1, 2, 3, 4)
        on_hand = torch.tensor([[camera.mount == "hand" for camera in env.spec.cameras]])
        matrices = matrices_now(projection, on_hand, torch.from_numpy(sample.hand)[None])
        place = torch.from_numpy(env.scene.place(env.wanted.object)).float()
        shown = matrices[0] @ torch.cat([place, torch.ones(1)])
        points = shown[None, :, None, :2] / shown[None, :, None, 2:]
        found = on_plane(matrices, points, place[2].reshape(1, 1))
        torch.testing.assert_close(found, place[:2].expand(1, 2, 1, 2), atol=1e-4, rtol=0)


def test_a_ray_along_the_plane_ends_far_away_and_is_finite() -> None:
    level = torch.tensor([[[[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]]])  # looks along x
    found = on_plane(level, torch.zeros(1, 1, 1, 2), torch.full((1, 1), 0.1))
    assert torch.isfinite(found).all()
