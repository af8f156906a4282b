"""Our ACT beside that of lerobot 0.6.1: equal weights and inputs give equal chunks and losses.

The files are made by make_lerobot_act.py, which says what is in them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import seeded, seeded_weights
from torch import Tensor

from visuomotor.generative import cvae
from visuomotor.policies.act import ACT, ACTConfig, Network, Scene, load_released, released_names
from visuomotor.types import Batch, Camera, Dimension, Spec

GOLDEN = Path(__file__).parent / "lerobot_act"
CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 64, 96
# Both compute in float32. Fused attention, norms within convolutions and one matrix for queries and keys
# add in another order; over a ResNet and five layers that makes differences up to 2e-6 of numbers around 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def config() -> ACTConfig:
    return ACTConfig(
        horizon=6,
        seen_tokens=1,
        width=16,
        heads=2,
        feed=32,
        dropout=0.0,
        posterior_layers=1,
        encoder_layers=2,
        decoder_layers=2,
        latent=4,
    )


def test_a_network_without_pictures_answers_and_loses_like_lerobots() -> None:
    golden = load_file(GOLDEN / "state.safetensors")
    weights = {name.removeprefix("weights/"): golden[name] for name in golden if name.startswith("weights/")}
    network = Network(config(), state=5, action=3, seen=7)
    load_released(network, weights, "lerobot", where="state.safetensors")
    state, actions = golden["observation.state"], golden["action"]
    scene, token = Scene(vector=golden["observation.environment_state"]), network.from_state(state)
    with torch.no_grad():
        torch.testing.assert_close(network(token, torch.zeros(2, 4), scene), golden["chunk"], **CLOSE)
        real = ~golden["action_is_pad"][..., None].expand_as(actions)
        mean, log_variance = network.posterior(state, actions, real)
        latent = cvae.draw(mean, log_variance, generator=None, noise=golden["noise"])
        error = (network(token, latent, scene) - actions).abs()[real].mean()
    torch.testing.assert_close(cvae.divergence(mean, log_variance).mean(), golden["divergence"], **CLOSE)
    torch.testing.assert_close(error, golden["l1"], **CLOSE)


def policy_with_pictures() -> ACT:
    spec = Spec(
        embodiment="arm",
        cameras=tuple(Camera(name=name, height=HEIGHT, width=WIDTH) for name in CAMERAS),
        state=tuple(Dimension(name=f"s{number}") for number in range(5)),
        action=tuple(Dimension(name=f"a{number}") for number in range(3)),
        rate=50.0,
    )
    policy = ACT(config(), {"one": spec})
    weights = seeded_weights(lerobot_shapes(policy.network))
    load_released(
        policy.network, {name: torch.from_numpy(value) for name, value in weights.items()}, "lerobot"
    )
    return policy


def lerobot_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Names and shapes in lerobot's layout: each our entry under its released name."""
    own = network.state_dict()
    return {theirs: tuple(own[ours].shape) for ours, theirs in released_names(network, "lerobot").items()}


def pictures(name: str) -> Tensor:
    """uint8 (batch, history, height, width, 3)."""
    pixels = seeded(name, (2, 3, HEIGHT, WIDTH), 0, 256).astype(np.uint8)
    return torch.from_numpy(pixels).permute(0, 2, 3, 1)[:, None]


def test_a_policy_with_two_cameras_answers_and_loses_like_lerobots(monkeypatch: pytest.MonkeyPatch) -> None:
    golden, policy = load_file(GOLDEN / "images.safetensors"), policy_with_pictures()
    there = torch.ones(2, 1, dtype=torch.bool)
    batch = Batch(
        images={name: pictures(name) for name in CAMERAS},
        image_mask=dict.fromkeys(CAMERAS, there),
        state=golden["observation.state"][:, None],
        history_mask=there,
        state_mask=torch.ones(2, 5, dtype=torch.bool),
        embodiment=torch.zeros(2, dtype=torch.int64),
        has_actions=torch.ones(2, dtype=torch.bool),
        actions=golden["action"],
        horizon_mask=~golden["action_is_pad"],
        action_mask=torch.ones(2, 3, dtype=torch.bool),
    )
    monkeypatch.setattr(cvae, "draw", partial(cvae.draw, noise=golden["noise"]))
    with torch.no_grad():
        torch.testing.assert_close(policy.act(batch).actions, golden["chunk"], **CLOSE)
        found = policy.train().loss(batch, generator=None)
    for name in ("l1", "divergence"):
        term = found.terms[name]
        torch.testing.assert_close(term.sum / term.count, golden[name], **CLOSE)
    total = golden["l1"] + 10 * golden["divergence"]
    torch.testing.assert_close(found.total(), total, **CLOSE)
