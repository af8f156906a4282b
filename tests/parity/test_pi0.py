"""pi0 against transformers' implementation: a random tiny model, written by it and read by ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.backbones.siglip import SigLIPConfig
from visuomotor.errors import CheckpointError
from visuomotor.generative import flow
from visuomotor.perception.augmentation import AugmentationConfig
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig
from visuomotor.policies.pi0 import PI0, PI0Config, load_released
from visuomotor.types import Batch, Camera, Dimension, Spec, Tokens

transformers = pytest.importorskip("transformers", reason="the oracle; it is in the test extra")

VOCABULARY, IMAGE, PROMPT = 64, 63, 6
WIDTH, HORIZON, NUMBERS, STEPS = 24, 5, 6, 4
ATTENTION = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
SIZES: dict[str, Any] = {
    "vlm_config": {
        "model_type": "paligemma",
        "text_config": {
            "model_type": "gemma",
            "hidden_size": WIDTH,
            "intermediate_size": 40,
            "vocab_size": VOCABULARY,
            **ATTENTION,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        "projection_dim": WIDTH,
        "image_token_id": IMAGE,
    },
    "dit_config": {"model_type": "gemma", "hidden_size": 16, "intermediate_size": 32, **ATTENTION},
    "chunk_size": HORIZON,
    "max_state_dim": NUMBERS,
    "max_action_dim": NUMBERS,
    "num_inference_steps": STEPS,
}
CONFIG = replace(
    PI0Config.published(),
    horizon=HORIZON,
    trunk=PaliGemmaTrunkConfig(
        paligemma=PaliGemmaConfig(
            vision=SigLIPConfig.tiny(), language=PaliGemmaConfig.tiny(VOCABULARY).language
        ),
        max_tokens=PROMPT,
        state=NUMBERS,
        action=NUMBERS,
        augmentation=AugmentationConfig.none(),
    ),
    expert_width=16,
    expert_mlp_width=32,
    steps=STEPS,
)
BODY = Spec(
    embodiment="arm",
    cameras=(Camera(name="front", height=32, width=32), Camera(name="wrist", height=32, width=32)),
    state=tuple(Dimension(name=f"s{i}") for i in range(4)),
    action=tuple(Dimension(name=f"a{i}") for i in range(4)),
    rate=10.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pi0")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    torch.manual_seed(0)
    model = transformers.PI0ForConditionalGeneration(transformers.PI0Config(**SIZES)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def policy(oracle: Any, folder: Path) -> PI0:
    made = PI0(CONFIG, {"one": BODY}).eval()
    load_released(made, load_file(folder / "model.safetensors"), where=str(folder))
    return made


@pytest.fixture
def batch() -> Batch:
    """Two samples; the second lacks the wrist camera and has a shorter prompt."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 2, 1, 32, 32, 3), generator=generator, dtype=torch.uint8)
    ids = torch.randint(0, 60, (2, PROMPT), generator=generator)
    attend = torch.tensor([[True] * PROMPT, [True] * 4 + [False] * 2])
    nothing = torch.zeros_like(attend)
    yes = torch.ones(2, 1, dtype=torch.bool)
    real = torch.ones(2, NUMBERS, dtype=torch.bool)
    return Batch(
        images={"front": pixels[0], "wrist": pixels[1]},
        image_mask={"front": yes, "wrist": torch.tensor([[True], [False]])},
        state=torch.randn(2, 1, NUMBERS, generator=generator),
        history_mask=yes,
        state_mask=real,
        embodiment=torch.zeros(2, dtype=torch.long),
        actions=torch.randn(2, HORIZON, NUMBERS, generator=generator),
        horizon_mask=torch.ones(2, HORIZON, dtype=torch.bool),
        action_mask=real,
        has_actions=torch.ones(2, dtype=torch.bool),
        tokens=Tokens(ids=ids, attend=attend, loss=nothing, segment=nothing.long()),
    )


def told(batch: Batch) -> dict[str, Any]:
    """The batch as the oracle takes it: tokens that stand for pictures first, pixels as floats."""
    pixels = torch.stack([batch.images[name][:, 0] for name in ("front", "wrist")], dim=1)
    there = torch.stack([batch.image_mask[name][:, 0] for name in ("front", "wrist")], dim=1)
    seen = there.repeat_interleave(16, dim=1)
    return {
        "input_ids": torch.cat([torch.full((2, 32), IMAGE), batch.tokens.ids], dim=1),
        "attention_mask": torch.cat([seen, batch.tokens.attend], dim=1).long(),
        "pixel_values": pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        "pixel_attention_mask": there,
        "state": batch.state[:, 0],
    }


def test_the_loss_at_given_noise_and_time_equals_the_oracle(
    oracle: Any, policy: PI0, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a body of 4 numbers: the other 2 are zeros, which are noised and learned, as released."""
    noise, time = torch.randn(2, HORIZON, NUMBERS), torch.tensor([0.3, 0.8])
    assert batch.actions is not None
    real = (torch.arange(NUMBERS) < len(BODY.action)).expand(2, -1)
    batch = replace(batch, actions=batch.actions * real[:, None], action_mask=real)
    monkeypatch.setattr(flow, "sample_noise", lambda *_, **__: noise)
    monkeypatch.setattr(flow, "sample_time", lambda *_, **__: time)
    with torch.no_grad():
        expected = oracle(**told(batch), actions=batch.actions, noise=noise, timestep=1 - time).loss
        loss = policy.loss(batch, generator=None)
    assert set(loss.terms) == {"flow"}
    assert float(loss.terms["flow"].count) == batch.actions.numel()
    torch.testing.assert_close(loss.total(), expected, rtol=1e-4, atol=1e-5)  # float32, sums in another order


def test_actions_from_given_noise_equal_the_oracle(oracle: Any, policy: PI0, batch: Batch) -> None:
    noise = torch.randn(2, HORIZON, NUMBERS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = oracle.sample_actions(**told(batch), noise=noise)
        found = policy.act(batch, noise=noise).actions
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_dropped_changes_nothing(policy: PI0, batch: Batch) -> None:
    """One sample alone has no camera or padding that is masked; beside another it does."""
    noise = torch.randn(2, HORIZON, NUMBERS)
    alone = batch.map(lambda tensor: tensor[1:])
    with torch.no_grad():
        assert policy.trunk.observe(alone).prefix.real is None
        assert policy.trunk.observe(batch).prefix.real is not None
        together = policy.act(batch, noise=noise).actions[1:]
        single = policy.act(alone, noise=noise[1:]).actions
    torch.testing.assert_close(single, together, rtol=1e-5, atol=1e-5)


def test_the_layouts_of_lerobot_and_of_a_tied_head_are_read(oracle: Any, policy: PI0, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    assert "paligemma_with_expert.gemma_expert.lm_head.weight" in weights  # dead, and known to be
    words = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights["paligemma_with_expert.paligemma.lm_head.weight"] = weights.pop(words)
    other = PI0(CONFIG, {"one": BODY}).eval()
    load_released(other, {f"model.{name}": weight for name, weight in weights.items()})
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_missing_weight_is_named(folder: Path, oracle: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["action_in_project.weight"] = weights.pop("action_in_proj.weight")
    with pytest.raises(CheckpointError, match=r"action_in_proj\.weight"):
        load_released(PI0(CONFIG, {"one": BODY}), weights)


def test_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        made = PI0(PI0Config.published(), {"one": BODY})
    assert sum(weight.numel() for weight in made.parameters()) == 3_238_048_528


def test_more_cameras_than_slots_are_refused() -> None:
    cameras = tuple(Camera(name=f"view{i}", height=32, width=32) for i in range(4))
    with pytest.raises(ValueError, match="4 cameras"):
        PI0(CONFIG, {"one": replace(BODY, cameras=cameras)})
