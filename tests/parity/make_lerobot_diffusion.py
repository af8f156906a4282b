"""Makes tests/parity/lerobot_diffusion: what Diffusion Policy of lerobot 0.6.1 answers, for weights of ours.

lerobot gets an environment of its own (it cannot share one with the newest torch):

    python3.12 -m venv /tmp/lerobot-env
    /tmp/lerobot-env/bin/pip install "lerobot[diffusion]==0.6.1"
    /tmp/lerobot-env/bin/python tests/parity/make_lerobot_diffusion.py

Each file has the inputs, what the U-Net predicts of a noisy chunk, the loss, and the chunks that DDPM and
DDIM draw. `state.safetensors` is a network without pictures, with its weights. `group.safetensors` has two
cameras with a ResNet-18 each; `batch.safetensors` one ResNet-18 with batch norms for both, its pictures
normalized as for ImageNet. Their weights are not in the file, but made by `seeded_weights` on both sides.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy, _make_noise_scheduler
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeded_weights import seeded, seeded_weights

GOLDEN = Path(__file__).parent / "lerobot_diffusion"
BATCH, STATE, ACTION, AROUND, HORIZON, OBSERVED = 2, 5, 3, 7, 8, 2
HEIGHT, WIDTH, CROP = 72, 81, (64, 72)
CAMERAS = ("front", "wrist")
HALF = (torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5))
IMAGENET = tuple(
    torch.tensor(numbers)[:, None, None] for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def build(cameras: tuple[str, ...], **options: Any) -> DiffusionPolicy:
    """A small network that answers; weights by their names."""
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    for camera in cameras:
        features[f"observation.images.{camera}"] = PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH))
    if not cameras:
        features["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (AROUND,))
    config = DiffusionConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        n_obs_steps=OBSERVED,
        horizon=HORIZON,
        n_action_steps=HORIZON - OBSERVED + 1,
        down_dims=(16, 32),
        diffusion_step_embed_dim=16,
        num_train_timesteps=20,
        pretrained_backbone_weights=None,
        crop_shape=CROP if cameras else None,
        device="cpu",
        **options,
    )
    policy = DiffusionPolicy(config).eval()
    own = policy.state_dict()
    fixed = [name for name in own if name.endswith(("pos_grid", "num_batches_tracked"))]
    weights = seeded_weights({name: tuple(value.shape) for name, value in own.items() if name not in fixed})
    policy.load_state_dict(
        {name: torch.from_numpy(value) for name, value in weights.items()}
        | {name: own[name] for name in fixed}
    )
    return policy


def inputs(cameras: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A batch; pictures are uint8."""
    batch = {
        "observation.state": torch.from_numpy(seeded("state", (BATCH, OBSERVED, STATE))),
        "action": torch.from_numpy(seeded("action", (BATCH, HORIZON, ACTION))),
        "action_is_pad": torch.zeros(BATCH, HORIZON, dtype=torch.bool),
    }
    if not cameras:
        batch["observation.environment_state"] = torch.from_numpy(seeded("around", (BATCH, OBSERVED, AROUND)))
    for camera in cameras:
        pixels = torch.from_numpy(seeded(camera, (BATCH, OBSERVED, 3, HEIGHT, WIDTH), 0, 256))
        batch[f"observation.images.{camera}"] = pixels.to(torch.uint8)
    return batch


def answer(
    cameras: tuple[str, ...], colors: tuple[torch.Tensor, ...], keep_weights: bool, **options: Any
) -> dict[str, torch.Tensor]:
    """Everything that goes into a file."""
    policy, batch = build(cameras, **options), inputs(cameras)
    found = {name: value for name, value in batch.items() if "images" not in name}
    mean, std = colors
    seen = {
        name: (value / 255 - mean) / std if value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
    noise = torch.from_numpy(seeded("noise", (BATCH, HORIZON, ACTION), -2, 2))
    step = torch.tensor([3, 17])
    with (
        torch.no_grad(),
        mock.patch.object(torch, "randn", return_value=noise),
        mock.patch.object(torch, "randint", return_value=step),
    ):
        found["loss"] = policy.forward(dict(seen))[0]
    # Fresh noise on the way is that of a generator with a seed, drawn by diffusers in the order of steps.
    draws = [
        torch.from_numpy(seeded(f"fresh {number}", (BATCH, HORIZON, ACTION), -2, 2)) for number in range(20)
    ]
    acting = {name: value for name, value in seen.items() if not name.startswith("action")}
    for name, steps in (("DDPM", 20), ("DDIM", 5)):
        model = policy.diffusion
        model.noise_scheduler = _make_noise_scheduler(
            name,
            num_train_timesteps=20,
            beta_schedule="squaredcos_cap_v2",
            clip_sample=True,
            clip_sample_range=1.0,
            prediction_type="epsilon",
        )
        model.num_inference_steps = steps
        place = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
        with mock.patch(place, side_effect=lambda *_, left=list(draws), **__: left.pop(0)):
            found[name.lower()] = policy.predict_action_chunk(dict(acting), noise=noise)
    with torch.no_grad():
        images = [seen[f"observation.images.{camera}"] for camera in cameras]
        everything = {**seen, "observation.images": torch.stack(images, dim=-4)} if cameras else seen
        known = policy.diffusion._prepare_global_conditioning(everything)
        found["predicted"] = policy.diffusion.unet(noise, step, global_cond=known)
        found["known"] = known
    found |= {"noise": noise, "step": step, "fresh": torch.stack(draws)}
    if keep_weights:
        found |= {f"weights/{name}": value for name, value in policy.state_dict().items()}
    return {name: value.contiguous() for name, value in found.items()}


def main() -> None:
    """Write the files."""
    GOLDEN.mkdir(exist_ok=True)
    save_file(answer((), HALF, keep_weights=True), GOLDEN / "state.safetensors")
    save_file(answer(CAMERAS, HALF, keep_weights=False, use_group_norm=True), GOLDEN / "group.safetensors")
    shared = answer(CAMERAS, IMAGENET, keep_weights=False, use_separate_rgb_encoder_per_camera=False)
    save_file(shared, GOLDEN / "batch.safetensors")
    for path in sorted(GOLDEN.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
