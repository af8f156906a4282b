"""Makes tests/parity/lerobot_act: what ACT of lerobot 0.6.1 answers, with weights that ours can have, too.

lerobot gets an environment of its own (it cannot share one with the newest torch):

    python3.12 -m venv /tmp/lerobot-env
    /tmp/lerobot-env/bin/pip install "lerobot==0.6.1"
    /tmp/lerobot-env/bin/python tests/parity/make_lerobot_act.py

`state.safetensors`: weights, inputs, chunk and losses of a small network that sees the state and an
"environment state". `images.safetensors`: the same with two cameras. Its ResNet-18 has 11 million
weights, so there the weights are not in the file, but made by `seeded_weights` on both sides.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeded_weights import seeded, seeded_weights

GOLDEN = Path(__file__).parent / "lerobot_act"
BATCH, STATE, ACTION, AROUND, HORIZON, LATENT = 2, 5, 3, 7, 6, 4
HEIGHT, WIDTH = 64, 96
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # of ImageNet, as lerobot normalizes pictures
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def build(cameras: tuple[str, ...]) -> ACTPolicy:
    """A small network in training mode, where it computes its latent; nothing is dropped."""
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    if cameras:
        for camera in cameras:
            features[f"observation.images.{camera}"] = PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH))
    else:
        features["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (AROUND,))
    config = ACTConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        chunk_size=HORIZON,
        n_action_steps=HORIZON,
        pretrained_backbone_weights=None,
        dim_model=16,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=2,
        n_decoder_layers=2,
        n_vae_encoder_layers=1,
        latent_dim=LATENT,
        dropout=0.0,
        device="cpu",
    )
    policy = ACTPolicy(config).train()
    own = policy.state_dict()
    waves = "model.vae_encoder_pos_enc"
    weights = seeded_weights({name: tuple(value.shape) for name, value in own.items() if name != waves})
    policy.load_state_dict(
        {name: torch.from_numpy(value) for name, value in weights.items()} | {waves: own[waves]}
    )
    return policy


def inputs(cameras: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A batch; the last two ticks of its second sample are padded."""
    padded = torch.zeros(BATCH, HORIZON, dtype=torch.bool)
    padded[1, -2:] = True
    batch = {
        "observation.state": torch.from_numpy(seeded("state", (BATCH, STATE))),
        "action": torch.from_numpy(seeded("action", (BATCH, HORIZON, ACTION))),
        "action_is_pad": padded,
    }
    if not cameras:
        batch["observation.environment_state"] = torch.from_numpy(seeded("around", (BATCH, AROUND)))
    for camera in cameras:
        pixels = torch.from_numpy(seeded(camera, (BATCH, 3, HEIGHT, WIDTH), 0, 256)).to(torch.uint8)
        batch[f"observation.images.{camera}"] = pixels
    return batch


def answer(cameras: tuple[str, ...], keep_weights: bool) -> dict[str, torch.Tensor]:
    """Everything that goes into a file."""
    policy, batch = build(cameras), inputs(cameras)
    found = {name: value for name, value in batch.items() if "images" not in name}
    seen = {
        name: (value / 255 - MEAN) / STD if value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
    noise = torch.from_numpy(seeded("noise", (BATCH, LATENT)))
    with torch.no_grad(), mock.patch.object(torch, "randn_like", return_value=noise):
        _, terms = policy.forward(dict(seen))
    found["l1"], found["divergence"] = (torch.tensor(terms[name]) for name in ("l1_loss", "kld_loss"))
    acting = {name: value for name, value in seen.items() if not name.startswith("action")}
    found["chunk"] = policy.predict_action_chunk(acting)
    found["noise"] = noise
    if keep_weights:
        found |= {f"weights/{name}": value for name, value in policy.state_dict().items()}
    return {name: value.contiguous() for name, value in found.items()}


def main() -> None:
    """Write both files."""
    GOLDEN.mkdir(exist_ok=True)
    save_file(answer((), keep_weights=True), GOLDEN / "state.safetensors")
    save_file(answer(("front", "wrist"), keep_weights=False), GOLDEN / "images.safetensors")
    for path in sorted(GOLDEN.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
