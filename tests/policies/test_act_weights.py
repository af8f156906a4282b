"""Released ACT state dicts, here synthetic ones with the published names and shapes, load strictly."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import body
from torch import Tensor

from visuomotor.errors import CheckpointError
from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD
from visuomotor.policies.act import ACT, ACTConfig, Network, load_released, released_stats
from visuomotor.testing.samples import random_sample
from visuomotor.types import Camera, Dimension, Spec, Window

WIDTH, FEED, LATENT, HORIZON, SIZE = 512, 3200, 32, 100, 14  # of both releases
DEAD = re.compile(r"model\.transformer\.decoder\.layers\.[1-6]\.")  # layers that are never computed


def resnet_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """torchvision's names, norms frozen, without the classifier."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, norm: str, out: int, into: int, size: int) -> None:
        shapes[f"{prefix}{name}.weight"] = (out, into, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}{norm}.{part}"] = (out,)

    add("conv1", "bn1", 64, 3, 7)
    into = 64
    for stage, out in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            start = f"layer{stage}.{block}."
            add(f"{start}conv1", f"{start}bn1", out, into, 3)
            add(f"{start}conv2", f"{start}bn2", out, out, 3)
            if into != out:
                add(f"{start}downsample.0", f"{start}downsample.1", out, into, 1)
            into = out
    return shapes


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def layer_shapes(prefix: str, *, decoder: bool = False) -> dict[str, tuple[int, ...]]:
    shapes = linear(f"{prefix}linear1", FEED, WIDTH) | linear(f"{prefix}linear2", WIDTH, FEED)
    for attention in ("self_attn", "multihead_attn") if decoder else ("self_attn",):
        shapes[f"{prefix}{attention}.in_proj_weight"] = (3 * WIDTH, WIDTH)
        shapes[f"{prefix}{attention}.in_proj_bias"] = (3 * WIDTH,)
        shapes |= linear(f"{prefix}{attention}.out_proj", WIDTH, WIDTH)
    for norm in range(1, 4 if decoder else 3):
        shapes |= {f"{prefix}norm{norm}.weight": (WIDTH,), f"{prefix}norm{norm}.bias": (WIDTH,)}
    return shapes


def lerobot_shapes() -> dict[str, tuple[int, ...]]:
    """LeRobot's `ACTPolicy` for ALOHA, with the statistics that checkpoints of 2024 carry."""
    shapes = resnet_shapes("model.backbone.")
    for number in range(4):
        shapes |= layer_shapes(f"model.vae_encoder.layers.{number}.")
        shapes |= layer_shapes(f"model.encoder.layers.{number}.")
    shapes |= layer_shapes("model.decoder.layers.0.", decoder=True)
    shapes |= {"model.decoder.norm.weight": (WIDTH,), "model.decoder.norm.bias": (WIDTH,)}
    for name in ("vae_encoder_robot_state", "vae_encoder_action", "encoder_robot_state"):
        shapes |= linear(f"model.{name}_input_proj", WIDTH, SIZE)
    shapes |= linear("model.vae_encoder_latent_output_proj", 2 * LATENT, WIDTH)
    shapes |= linear("model.encoder_latent_input_proj", WIDTH, LATENT)
    shapes |= linear("model.action_head", SIZE, WIDTH)
    return shapes | {
        "model.vae_encoder_cls_embed.weight": (1, WIDTH),
        "model.vae_encoder_pos_enc": (1, HORIZON + 2, WIDTH),
        "model.encoder_img_feat_input_proj.weight": (WIDTH, 512, 1, 1),
        "model.encoder_img_feat_input_proj.bias": (WIDTH,),
        "model.encoder_1d_feature_pos_embed.weight": (2, WIDTH),
        "model.decoder_pos_embed.weight": (HORIZON, WIDTH),
        "normalize_inputs.buffer_observation_state.mean": (SIZE,),
        "normalize_targets.buffer_action.std": (SIZE,),
        "unnormalize_outputs.buffer_action.mean": (SIZE,),
    }


def original_shapes(resnets: int = 1) -> dict[str, tuple[int, ...]]:
    """The code released with the paper: `ACTPolicy.state_dict()`, with one ResNet whatever it sees."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(resnets):
        shapes |= resnet_shapes(f"model.backbones.{number}.0.body.")
    for number in range(4):
        shapes |= layer_shapes(f"model.encoder.layers.{number}.")
        shapes |= layer_shapes(f"model.transformer.encoder.layers.{number}.")
    for number in range(7):
        shapes |= layer_shapes(f"model.transformer.decoder.layers.{number}.", decoder=True)
    for name in ("encoder_action_proj", "encoder_joint_proj", "input_proj_robot_state"):
        shapes |= linear(f"model.{name}", WIDTH, SIZE)
    shapes |= linear("model.latent_proj", 2 * LATENT, WIDTH) | linear("model.latent_out_proj", WIDTH, LATENT)
    shapes |= linear("model.action_head", SIZE, WIDTH) | linear("model.is_pad_head", 1, WIDTH)
    return shapes | {
        "model.transformer.decoder.norm.weight": (WIDTH,),
        "model.transformer.decoder.norm.bias": (WIDTH,),
        "model.query_embed.weight": (HORIZON, WIDTH),
        "model.input_proj.weight": (WIDTH, 512, 1, 1),
        "model.input_proj.bias": (WIDTH,),
        "model.cls_embed.weight": (1, WIDTH),
        "model.additional_pos_embed.weight": (2, WIDTH),
        "model.pos_table": (1, HORIZON + 2, WIDTH),
    }


def network(config: ACTConfig, cameras: int = 1) -> Network:
    names = tuple(f"joint{number}" for number in range(SIZE))
    spec = Spec(
        embodiment="aloha",
        cameras=tuple(Camera(name=f"camera{number}", height=480, width=640) for number in range(cameras)),
        state=tuple(Dimension(name=name) for name in names),
        action=tuple(Dimension(name=name) for name in names),
        rate=50.0,
    )
    with torch.device("meta"):
        policy = ACT(config, {"aloha": spec})
    return policy.network.to_empty(device="cpu")


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Each filled with a number of its own."""
    return {name: torch.full(shape, number + 1.0) for number, (name, shape) in enumerate(shapes.items())}


def values(network: Network) -> dict[float, str]:
    """The number that fills each entry -> its name."""
    return {float(value.flatten()[0]): name for name, value in network.state_dict().items()}


def test_every_entry_of_lerobot_finds_its_place() -> None:
    weights, loaded = tensors(lerobot_shapes()), network(ACTConfig.lerobot())
    load_released(loaded, weights, "lerobot")
    found, number = values(loaded), {name: float(value.flatten()[0]) for name, value in weights.items()}
    assert len(found) == len(loaded.state_dict()) == len(weights) - 4  # waves and statistics stay behind
    for theirs, ours in {
        "model.vae_encoder_cls_embed.weight": "posterior.start.weight",
        "model.vae_encoder_robot_state_input_proj.bias": "posterior.state.bias",
        "model.vae_encoder.layers.3.norm2.weight": "posterior.layers.3.norm2.weight",
        "model.encoder.layers.2.self_attn.in_proj_weight": "encoder.2.self_attn.in_proj_weight",
        "model.decoder.layers.0.multihead_attn.out_proj.bias": "decoder.0.multihead_attn.out_proj.bias",
        "model.decoder.norm.weight": "norm.weight",
        "model.backbone.layer3.0.downsample.1.running_var": "eyes.0.layer3.0.downsample.1.running_var",
        "model.encoder_robot_state_input_proj.weight": "from_state.weight",
        "model.action_head.weight": "leave.weight",
    }.items():
        assert found[number[theirs]] == ours


def test_every_entry_of_the_original_finds_its_place() -> None:
    weights, loaded = tensors(original_shapes()), network(ACTConfig.published(), cameras=2)
    load_released(loaded, weights, "original")
    found, number = values(loaded), {name: float(value.flatten()[0]) for name, value in weights.items()}
    assert len(found) == len(loaded.state_dict()) == len(weights) - 3  # waves and the head of padding
    for theirs, ours in {
        "model.encoder.layers.1.linear1.bias": "posterior.layers.1.linear1.bias",
        "model.encoder_joint_proj.weight": "posterior.state.weight",
        "model.transformer.encoder.layers.1.linear1.bias": "encoder.1.linear1.bias",
        "model.transformer.decoder.layers.6.norm3.bias": "decoder.6.norm3.bias",
        "model.backbones.0.0.body.conv1.weight": "eyes.0.conv1.weight",
        "model.query_embed.weight": "ticks.weight",
        "model.latent_out_proj.weight": "from_latent.weight",
        "model.latent_proj.weight": "posterior.leave.weight",
    }.items():
        assert found[number[theirs]] == ours


def test_a_resnet_for_each_camera_is_a_variant_of_the_original() -> None:
    config = replace(ACTConfig.published(), backbones="each", decoder_layers=1)
    weights = tensors(original_shapes(resnets=2))
    weights = {name: value for name, value in weights.items() if not DEAD.match(name)}
    loaded = network(config, cameras=2)
    load_released(loaded, weights, "original")
    for camera in range(2):
        theirs = weights[f"model.backbones.{camera}.0.body.layer1.0.conv1.weight"]
        assert torch.equal(loaded.state_dict()[f"eyes.{camera}.layer1.0.conv1.weight"], theirs)
    shared = network(replace(config, backbones="shared"), cameras=2)
    with pytest.raises(CheckpointError, match=r"unknown.*backbones.1.0.body"):
        load_released(shared, weights, "original")


def test_what_does_not_fit_is_an_error_with_the_closest_name() -> None:
    weights, loaded = tensors(lerobot_shapes()), network(ACTConfig.lerobot())
    renamed = dict(weights)
    renamed["model.action_heads.bias"] = renamed.pop("model.action_head.bias")
    with pytest.raises(
        CheckpointError, match=r"'model.action_head.bias' \(closest: 'model.action_heads.bias'\)"
    ):
        load_released(loaded, renamed, "lerobot", where="model.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder.layers.1.*are unknown|are unknown.*decoder.layers.1"):
        load_released(
            loaded, weights | tensors(layer_shapes("model.decoder.layers.1.", decoder=True)), "lerobot"
        )
    with pytest.raises(CheckpointError, match=r"decoder_pos_embed.weight.*\(100, 512\), got \(50, 512\)"):
        load_released(loaded, weights | {"model.decoder_pos_embed.weight": torch.zeros(50, 512)}, "lerobot")
    with pytest.raises(ValueError, match="Did you mean 'lerobot'"):
        load_released(loaded, weights, "lerobots")  # type: ignore[arg-type]


def test_a_layout_without_a_place_for_a_part_says_so() -> None:
    two = network(replace(ACTConfig.published(), backbones="each"), cameras=2)
    with pytest.raises(CheckpointError, match=r"no place for 'eyes.1.conv1.weight'"):
        load_released(two, tensors(lerobot_shapes()), "lerobot")


def test_statistics_come_from_old_checkpoints_new_ones_and_the_original() -> None:
    mean, std = torch.arange(3.0), torch.tensor([1.0, 1e-3, 0.0])
    old = {f"normalize_inputs.buffer_observation_state.{name}": mean for name in ("mean", "std")}
    old |= {f"unnormalize_outputs.buffer_action.{name}": mean for name in ("mean", "std")}
    new = {
        f"{feature}.{name}": mean for feature in ("observation.state", "action") for name in ("mean", "std")
    }
    original = {
        f"stats.{feature}.{name}": mean for feature in ("state", "action") for name in ("mean", "std")
    }
    for weights, layout in ((old, "lerobot"), (new, "lerobot"), (original, "original")):
        given = {name: std if name.endswith("std") else value for name, value in weights.items()}
        found = released_stats(given, layout)  # type: ignore[arg-type]
        for feature in ("state", "action"):
            assert found[feature].mean.tolist() == [0, 1, 2]
            assert found[feature].std.tolist() == pytest.approx([1, 1e-3, 0])
    with pytest.raises(CheckpointError, match="no statistics of the state"):
        released_stats({}, "lerobot")
    with pytest.raises(CheckpointError, match="no statistics of the action"):
        released_stats({name: mean for name in new if "state" in name}, "lerobot")


def test_released_statistics_normalize_as_each_code_does() -> None:
    spec = body("arm")
    state, spread = np.float32([[0.5, -1.0, 2.0]]), np.array([2.0, 1e-3, 0.0])
    sample = random_sample(spec, Window(horizon=100), "one", 0)
    floors = {"lerobot": 1e-8, "original": 1e-2}  # added to a spread there; the least one here
    for layout, floor in floors.items():
        starts = ("observation.state", "action") if layout == "lerobot" else ("stats.state", "stats.action")
        weights = {f"{start}.mean": torch.from_numpy(state[0]) for start in starts}
        weights |= {f"{start}.std": torch.from_numpy(spread) for start in starts}
        config = getattr(ACTConfig, "published" if layout == "original" else layout)()
        with torch.device("meta"):
            policy = ACT(config, {"one": spec})
        pipeline = policy.transforms("one", released_stats(weights, layout))  # type: ignore[arg-type]
        moved = pipeline.apply(replace(sample, state=state + np.float32([1.0, 0.5, 0.0])))
        expected = np.array([1.0, 0.5, 0.0]) / np.maximum(spread, floor)
        np.testing.assert_allclose(moved.state[0], expected, rtol=1e-4)


def test_pictures_that_were_not_normalized_as_for_imagenet_are_refused() -> None:
    loaded = network(replace(ACTConfig.lerobot(), width=8, heads=1, feed=8, decoder_layers=1))
    for start in ("normalize_inputs.buffer_observation_images_top", "observation.images.top"):
        pair = {f"{start}.mean": torch.tensor(IMAGENET_MEAN)[:, None, None], f"{start}.std": None}
        for spread, fits in ((IMAGENET_STD, True), ((0.5, 0.5, 0.5), False)):
            pair[f"{start}.std"] = torch.tensor(spread)[:, None, None]
            with pytest.raises(CheckpointError, match="no statistics|missing" if fits else "as for ImageNet"):
                released_stats(pair, "lerobot")
            with pytest.raises(CheckpointError, match="no statistics|missing" if fits else "as for ImageNet"):
                load_released(loaded, pair, "lerobot")
