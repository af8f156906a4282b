"""Our Diffusion Policy beside that of lerobot 0.6.1: equal weights and inputs, equal predictions and chunks.

The files are made by make_lerobot_diffusion.py, which says what is in them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import seeded, seeded_weights
from torch import Tensor

from visuomotor.generative import diffusion
from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD
from visuomotor.nn.weights import Made
from visuomotor.policies.diffusion import DiffusionConfig, DiffusionPolicy
from visuomotor.policies.released.diffusion import load_released, released_names
from visuomotor.types import Batch, Camera, Dimension, Spec

GOLDEN = Path(__file__).parent / "lerobot_diffusion"
CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 72, 81
SMALL = DiffusionConfig(
    horizon=8, past=1, before="first", vision="none", dims=(16, 32), step_width=16, train_steps=20, steps=20
)
SEEING = replace(SMALL, vision="resnet18", crop=8 / 9.0)
COLORED = replace(SEEING, norm="frozen", picture_mean=IMAGENET_MEAN, picture_std=IMAGENET_STD)
# Both compute in float32; products with all ticks add in another order than convolutions do.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def policy_of(config: DiffusionConfig, golden: dict[str, Tensor]) -> DiffusionPolicy:
    seen = config.vision != "none"
    spec = Spec(
        embodiment="arm",
        cameras=tuple(Camera(name=name, height=HEIGHT, width=WIDTH) for name in CAMERAS if seen),
        state=tuple(Dimension(name=f"s{number}") for number in range(5 if seen else 12)),
        action=tuple(Dimension(name=f"a{number}") for number in range(3)),
        rate=10.0,
    )
    policy = DiffusionPolicy(config, {"one": spec}).eval()
    weights = {
        name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")
    }
    if not weights:
        shapes = lerobot_shapes(policy, shared=config.norm == "frozen")
        weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes).items()}
    load_released(policy, weights, "lerobot", where="golden")
    return policy


def lerobot_shapes(policy: DiffusionPolicy, *, shared: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes in lerobot's layout: each our entry under its released name."""
    own = policy.state_dict()
    names = {ours: theirs[-1 if shared else 0] for ours, theirs in released_names(policy, "lerobot").items()}
    return {theirs: tuple(own[ours].shape) for ours, theirs in names.items() if not isinstance(theirs, Made)}


def batch_of(policy: DiffusionPolicy, golden: dict[str, Tensor]) -> Batch:
    there = torch.ones(2, 2, dtype=torch.bool)
    state = [
        golden[name] for name in ("observation.state", "observation.environment_state") if name in golden
    ]
    return Batch(
        images={camera.name: pictures(camera.name) for camera in policy.views},
        image_mask={camera.name: there for camera in policy.views},
        state=torch.cat(state, dim=-1),
        history_mask=there,
        state_mask=torch.ones(2, policy.state_width, dtype=torch.bool),
        embodiment=torch.zeros(2, dtype=torch.int64),
        has_actions=torch.ones(2, dtype=torch.bool),
        action_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def pictures(name: str) -> Tensor:
    """uint8 (batch, history, height, width, 3)."""
    pixels = seeded(name, (2, 2, 3, HEIGHT, WIDTH), 0, 256).astype(np.uint8)
    return torch.from_numpy(pixels).permute(0, 1, 3, 4, 2)


@pytest.mark.parametrize(
    ("name", "config"),
    [("state", SMALL), ("group", SEEING), ("batch", COLORED)],
    ids=["state", "group", "batch"],
)
def test_policies_predict_lose_and_draw_like_lerobots(
    name: str, config: DiffusionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load_file(GOLDEN / f"{name}.safetensors")
    policy = policy_of(config, golden)
    batch, real = batch_of(policy, golden), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        known = policy.known(batch, None, learning=False)
        torch.testing.assert_close(known.flatten(1), golden["known"], **CLOSE)

        def predict(points: Tensor, step: Tensor) -> Tensor:
            return policy.predict(points, step, known, real)

        torch.testing.assert_close(predict(golden["noise"], golden["step"]), golden["predicted"], **CLOSE)
        total, count = diffusion.loss(
            predict,
            policy.schedule,
            golden["action"],
            generator=None,
            noise=golden["noise"],
            step=golden["step"],
        )
        torch.testing.assert_close(total / count, golden["loss"], **CLOSE)
        for sampler, steps in (("ddpm", 20), ("ddim", 5)):
            drawn = [golden["noise"], *golden["fresh"]]
            other = policy_of(replace(config, sampler=sampler, steps=steps), golden)  # type: ignore[arg-type]
            with monkeypatch.context() as patched:
                patched.setattr(torch, "randn", lambda *_, left=drawn, **__: left.pop(0))
                chunk = other.act(batch).actions
            assert len(drawn) == (1 if sampler == "ddpm" else 20)  # fresh noise for all steps but the last
            # The first steps divide by the root of the signal, 1e-4, before they clip.
            torch.testing.assert_close(chunk, golden[sampler], rtol=1e-3, atol=1e-3)


def test_the_first_tick_of_an_episode_is_seen_twice_as_lerobot_fills_its_queue() -> None:
    golden = load_file(GOLDEN / "state.safetensors")
    policy = policy_of(SMALL, golden)
    batch = batch_of(policy, golden)
    begun = replace(batch, history_mask=torch.tensor([[False, True], [True, True]]))
    twice = replace(batch, state=torch.stack([batch.state[[0, 0], [1, 1]], batch.state[1]]))
    with torch.no_grad():
        one, other, free = (
            policy.act(seen, generator=torch.Generator().manual_seed(0)).actions
            for seen in (begun, twice, batch)
        )
    assert torch.equal(one, other)
    assert not torch.equal(one, free)
    plain = policy_of(replace(SMALL, before="nothing"), golden)
    assert not plain.known(begun, None, learning=False)[0, 0].any()


def test_pictures_normalized_otherwise_are_refused() -> None:
    from visuomotor.errors import CheckpointError

    golden = load_file(GOLDEN / "batch.safetensors")
    policy = policy_of(COLORED, golden)
    weights = {
        name: torch.from_numpy(value)
        for name, value in seeded_weights(lerobot_shapes(policy, shared=True)).items()
    }
    image = "normalize_inputs.buffer_observation_images_front."
    half = {f"{image}mean": torch.full((3, 1, 1), 0.5), f"{image}std": torch.full((3, 1, 1), 0.5)}
    with pytest.raises(CheckpointError, match=r"picture_mean=\(0.5, 0.5, 0.5\)"):
        load_released(policy, weights | half, "lerobot")
