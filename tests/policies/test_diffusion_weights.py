"""Released Diffusion Policies, here synthetic ones with the published names and shapes, load strictly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import unfilled
from visuomotor.policies.diffusion import DiffusionConfig, DiffusionPolicy
from visuomotor.policies.released.diffusion import load_released, released_stats
from visuomotor.types import Camera, Dimension, Spec

Shapes = dict[str, tuple[int, ...]]
RELEASED = DiffusionConfig(past=1, before="first")  # with pictures, by LeRobot and by the original
PUSHT = {"image": (3, 96, 96), "agent_pos": (2,)}  # what the original observes, in its order
CLASSES = {"original": ("blocks.0", "blocks.1", ".2.conv"), "lerobot": ("conv1", "conv2", ".2")}


def linear(name: str, out: int, into: int, *kernel: int) -> Shapes:
    return {f"{name}.weight": (out, into, *kernel), f"{name}.bias": (out,)}


def unet_shapes(prefix: str, kind: str, dims: tuple[int, ...], step: int, known: int, action: int) -> Shapes:
    first, second, resample = CLASSES[kind]

    def residual(name: str, into: int, out: int) -> Shapes:
        shapes = linear(f"{name}.{first}.block.0", out, into, 5) | linear(
            f"{name}.{second}.block.0", out, out, 5
        )
        for block in (first, second):
            shapes |= {f"{name}.{block}.block.1.{part}": (out,) for part in ("weight", "bias")}
        shapes |= linear(f"{name}.cond_encoder.1", 2 * out, step + known)
        return shapes | (linear(f"{name}.residual_conv", out, into, 1) if into != out else {})

    shapes = linear("diffusion_step_encoder.1", 4 * step, step)
    shapes |= linear("diffusion_step_encoder.3", step, 4 * step)
    for level, (into, out) in enumerate(zip((action, *dims[:-1]), dims, strict=True)):
        shapes |= residual(f"down_modules.{level}.0", into, out) | residual(
            f"down_modules.{level}.1", out, out
        )
        if level < len(dims) - 1:
            shapes |= linear(f"down_modules.{level}{resample}", out, out, 3)
    for middle in range(2):
        shapes |= residual(f"mid_modules.{middle}", dims[-1], dims[-1])
    for level, (out, into) in enumerate(zip(dims[-2::-1], dims[:0:-1], strict=True)):
        shapes |= residual(f"up_modules.{level}.0", 2 * into, out) | residual(
            f"up_modules.{level}.1", out, out
        )
        shapes |= linear(f"up_modules.{level}{resample}", out, out, 4)
    shapes |= linear("final_conv.0.block.0", dims[0], dims[0], 5)
    shapes |= {f"final_conv.0.block.1.{part}": (dims[0],) for part in ("weight", "bias")}
    shapes |= linear("final_conv.1", action, dims[0], 1)
    return {prefix + name: shape for name, shape in shapes.items()}


def resnet_shapes(prefix: str) -> Shapes:
    """A ResNet-18 as a sequence, with group norms."""
    shapes: Shapes = {}

    def add(name: str, norm: str, out: int, into: int, size: int) -> None:
        shapes[f"{prefix}{name}.weight"] = (out, into, size, size)
        for part in ("weight", "bias"):
            shapes[f"{prefix}{norm}.{part}"] = (out,)

    add("0", "1", 64, 3, 7)
    into = 64
    for stage, out in enumerate((64, 128, 256, 512), start=4):
        for block in range(2):
            start = f"{stage}.{block}."
            add(f"{start}conv1", f"{start}bn1", out, into, 3)
            add(f"{start}conv2", f"{start}bn2", out, out, 3)
            if into != out:
                add(f"{start}downsample.0", f"{start}downsample.1", out, into, 1)
            into = out
    return shapes


def lerobot_shapes(encoder: str = "diffusion.rgb_encoder.") -> Shapes:
    """lerobot/diffusion_pusht, of 2024: one encoder for all cameras, statistics among the weights."""
    known = 2 * (2 + 64)
    shapes = unet_shapes("diffusion.unet.", "lerobot", RELEASED.dims, 128, known, 2)
    shapes |= resnet_shapes(f"{encoder}backbone.") | linear(f"{encoder}out", 64, 64)
    shapes |= linear(f"{encoder}pool.nets", 32, 512, 1, 1) | {f"{encoder}pool.pos_grid": (9, 2)}
    shapes |= {f"normalize_inputs.buffer_observation_image.{part}": (3, 1, 1) for part in ("mean", "std")}
    for part in ("min", "max"):
        shapes[f"normalize_inputs.buffer_observation_state.{part}"] = (2,)
        shapes[f"normalize_targets.buffer_action.{part}"] = (2,)
        shapes[f"unnormalize_outputs.buffer_action.{part}"] = (2,)
    return shapes


def original_picture_shapes() -> Shapes:
    """`DiffusionUnetHybridImagePolicy` on PushT: a camera has two names for what it computes first."""
    eye = "obs_encoder.obs_nets.image."
    shapes = unet_shapes("model.", "original", RELEASED.dims, 128, 2 * (2 + 64), 2)
    shapes |= resnet_shapes(f"{eye}backbone.nets.") | resnet_shapes(f"{eye}nets.0.nets.")
    for pool in (f"{eye}pool", f"{eye}nets.1"):
        shapes |= linear(f"{pool}.nets", 32, 512, 1, 1)
        shapes |= {f"{pool}.temperature": (1,), f"{pool}.pos_x": (1, 9), f"{pool}.pos_y": (1, 9)}
    shapes |= linear(f"{eye}nets.3", 64, 64) | {
        "_dummy_variable": (0,),
        "mask_generator._dummy_variable": (0,),
    }
    for key, size in (("image", 1), ("agent_pos", 2), ("action", 2)):
        shapes |= {f"normalizer.params_dict.{key}.{part}": (size,) for part in ("scale", "offset")}
    return shapes


def transformer_shapes() -> Shapes:
    """`DiffusionTransformerLowdimPolicy` on PushT: 20 numbers of 2 ticks are seen, 16 actions answered."""
    width, shapes = (
        256,
        linear("head", 2, 256) | linear("input_emb", 256, 2) | linear("cond_obs_emb", 256, 20),
    )
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,), "_dummy_variable": (0,)}
    shapes |= {"pos_emb": (1, 16, width), "cond_pos_emb": (1, 3, width)}
    shapes |= {"mask": (16, 16), "memory_mask": (16, 3)}
    shapes |= linear("encoder.0", 4 * width, width) | linear("encoder.2", width, 4 * width)
    for layer in range(8):
        start = f"decoder.layers.{layer}."
        for attention in ("self_attn", "multihead_attn"):
            shapes[f"{start}{attention}.in_proj_weight"] = (3 * width, width)
            shapes[f"{start}{attention}.in_proj_bias"] = (3 * width,)
            shapes |= linear(f"{start}{attention}.out_proj", width, width)
        shapes |= linear(f"{start}linear1", 4 * width, width) | linear(f"{start}linear2", width, 4 * width)
        for norm in range(1, 4):
            shapes |= {f"{start}norm{norm}.{part}": (width,) for part in ("weight", "bias")}
    shapes = {f"model.{name}": shape for name, shape in shapes.items()}
    for key, size in (("obs", 20), ("action", 2)):
        shapes |= {f"normalizer.params_dict.{key}.{part}": (size,) for part in ("scale", "offset")}
    return shapes


def policy_of(
    config: DiffusionConfig, *, state: int = 2, cameras: tuple[str, ...] = ("image",)
) -> DiffusionPolicy:
    spec = Spec(
        embodiment="pusht",
        cameras=tuple(Camera(name=name, height=96, width=96) for name in cameras),
        state=tuple(Dimension(name=f"s{number}") for number in range(state)),
        action=tuple(Dimension(name=f"a{number}") for number in range(2)),
        rate=10.0,
    )
    with unfilled():
        policy = DiffusionPolicy(config, {"pusht": spec})
    return policy.to_empty(device="cpu")


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Each filled with a number of its own, which takes no memory; published for pictures."""
    found = {
        name: torch.tensor(number + 1.0).expand(shape) for number, (name, shape) in enumerate(shapes.items())
    }
    for name in found:
        if "image" in name and name.endswith((".mean", ".std", ".scale", ".offset")):
            value = {"mean": 0.5, "std": 0.5, "scale": 2.0, "offset": -1.0}[name.rpartition(".")[2]]
            found[name] = torch.full(shapes[name], value)
    return found


def values(policy: DiffusionPolicy) -> dict[str, float]:
    return {name: float(value.flatten()[0]) for name, value in policy.state_dict().items()}


def test_every_entry_of_lerobot_finds_its_place() -> None:
    weights, policy = tensors(lerobot_shapes()), policy_of(RELEASED)
    load_released(policy, weights, "lerobot")
    found = values(policy)
    left = [name for name in weights if "normalize" in name or name.endswith("pos_grid")]
    assert (
        len(set(found.values())) == len(found) == len(weights) - len(left) + 1
    )  # the temperatures, which are 1
    for theirs, ours in {
        "diffusion.unet.down_modules.0.2.weight": "network.down_modules.0.2.conv.weight",
        "diffusion.unet.up_modules.1.2.bias": "network.up_modules.1.2.conv.bias",
        "diffusion.unet.mid_modules.1.conv2.block.1.weight": "network.mid_modules.1.blocks.1.block.1.weight",
        "diffusion.unet.up_modules.0.0.cond_encoder.1.bias": "network.up_modules.0.0.cond_encoder.1.bias",
        "diffusion.unet.final_conv.0.block.0.weight": "network.final_conv.0.block.0.weight",
        "diffusion.rgb_encoder.backbone.7.0.bn2.weight": "eyes.image.resnet.layer4.0.bn2.weight",
        "diffusion.rgb_encoder.pool.nets.weight": "eyes.image.points.weight",
        "diffusion.rgb_encoder.out.bias": "eyes.image.leave.bias",
    }.items():
        assert found[ours] == float(weights[theirs].flatten()[0]), ours
    assert found["eyes.image.where.log_temperature"] == 0


def test_every_entry_of_the_original_with_pictures_finds_its_place() -> None:
    weights, policy = tensors(original_picture_shapes()), policy_of(RELEASED)
    reading = "model.down_modules.0.0.cond_encoder.1.weight"
    weights[reading] = torch.arange(128.0 + 2 * 66).expand(1024, -1)
    load_released(policy, weights, "original", observations=PUSHT)
    found, eye = values(policy), "obs_encoder.obs_nets.image."
    for theirs, ours in {
        "model.down_modules.0.2.conv.weight": "network.down_modules.0.2.conv.weight",
        "model.mid_modules.1.blocks.1.block.1.weight": "network.mid_modules.1.blocks.1.block.1.weight",
        f"{eye}backbone.nets.7.0.downsample.1.weight": "eyes.image.resnet.layer4.0.downsample.1.weight",
        f"{eye}pool.nets.weight": "eyes.image.points.weight",
        f"{eye}nets.3.bias": "eyes.image.leave.bias",
    }.items():
        assert found[ours] == float(weights[theirs].flatten()[0]), ours
    heat = float(weights[f"{eye}pool.temperature"])
    assert found["eyes.image.where.log_temperature"] == pytest.approx(np.log(heat))
    row = policy.state_dict()["network.down_modules.0.0.cond_encoder.1.weight"][0].tolist()
    # theirs: step, then of both ticks the picture and the state; here the state comes first
    first, second = range(128, 194), range(194, 260)
    order = [*range(128), *first[-2:], *first[:-2], *second[-2:], *second[:-2]]
    assert row == order


def test_every_entry_of_the_originals_transformer_finds_its_place() -> None:
    weights = tensors(transformer_shapes())
    policy = policy_of(replace(DiffusionConfig.transformer(), past=1), state=20, cameras=())
    block = "model.decoder.layers.5."
    for name, size in (("in_proj_weight", (768, 256)), ("in_proj_bias", (768,))):
        weights[f"{block}multihead_attn.{name}"] = (
            torch.arange(768.0).reshape(-1, *[1] * (len(size) - 1)).expand(size)
        )
    load_released(policy, weights, "original")
    found, theirs = (
        values(policy),
        {name: float(value.flatten()[0]) for name, value in weights.items() if value.numel()},
    )
    ours = "network.blocks.5."
    assert [found[f"{ours}cross.{part}.weight"] for part in ("query", "key", "value")] == [0, 256, 512]
    assert [found[f"{ours}cross.{part}.bias"] for part in ("query", "key", "value")] == [0, 256, 512]
    for name, other in {
        "network.enter.weight": "model.input_emb.weight",
        "network.ticks": "model.pos_emb",
        "network.places": "model.cond_pos_emb",
        "network.observation.bias": "model.cond_obs_emb.bias",
        "network.memory.2.bias": "model.encoder.2.bias",
        f"{ours}attention.out.bias": f"{block}self_attn.out_proj.bias",
        f"{ours}norms.1.weight": f"{block}norm2.weight",
        f"{ours}norms.2.bias": f"{block}norm3.bias",
        f"{ours}feed.0.weight": f"{block}linear1.weight",
        f"{ours}feed.2.weight": f"{block}linear2.weight",
        "network.norm.weight": "model.ln_f.weight",
        "network.leave.bias": "model.head.bias",
    }.items():
        assert found[name] == theirs[other], name


def test_the_originals_transformer_computes_what_torchs_layers_do() -> None:
    torch.manual_seed(0)
    config = replace(DiffusionConfig.transformer(), past=1, layers=2, width=16, heads=2, horizon=6)
    policy = policy_of(config, state=3, cameras=()).to(torch.float64).eval()
    layer = torch.nn.TransformerDecoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    decoder = torch.nn.TransformerDecoder(layer, 2)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    weights = {f"model.decoder.{name}": value for name, value in decoder.state_dict().items()}
    shapes = {
        "enter": (16, 2),
        "observation": (16, 3),
        "memory.0": (64, 16),
        "memory.2": (16, 64),
        "leave": (2, 16),
    }
    names = {"enter": "input_emb", "observation": "cond_obs_emb", "leave": "head", "memory.0": "encoder.0"}
    for ours, (out, into) in shapes.items():
        theirs = names.get(ours, "encoder.2")
        weights[f"model.{theirs}.weight"] = torch.randn(out, into, dtype=torch.float64)
        weights[f"model.{theirs}.bias"] = torch.randn(out, dtype=torch.float64)
    weights |= {
        "model.ln_f.weight": torch.rand(16).double() + 0.5,
        "model.ln_f.bias": torch.randn(16).double(),
    }
    weights |= {
        "model.pos_emb": torch.randn(1, 6, 16).double(),
        "model.cond_pos_emb": torch.randn(1, 3, 16).double(),
    }
    load_released(policy, weights, "original")
    network = policy.network
    tick = torch.arange(6)
    network.earlier = tick[:, None] >= tick[None]  # which the meta device has no values of
    network.visible = tick[:, None] >= torch.arange(3)[None] - 1
    chunk, known = torch.randn(2, 6, 2, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    step = torch.tensor([3, 40])
    linear = torch.nn.functional.linear

    def by(name: str, value: Tensor) -> Tensor:
        return linear(value, weights[f"model.{name}.weight"], weights[f"model.{name}.bias"])

    memory = torch.cat([network.waves(step)[:, None].double(), by("cond_obs_emb", known)], dim=1)
    memory = by(
        "encoder.2", torch.nn.functional.mish(by("encoder.0", memory + weights["model.cond_pos_emb"]))
    )
    tokens = decoder(
        by("input_emb", chunk) + weights["model.pos_emb"],
        memory,
        tgt_mask=~network.earlier,
        memory_mask=~network.visible,
    )
    tokens = torch.nn.functional.layer_norm(
        tokens, (16,), weights["model.ln_f.weight"], weights["model.ln_f.bias"]
    )
    # float64 but for the waves, which both compute in float32
    torch.testing.assert_close(network(chunk, step, known), by("head", tokens), atol=1e-6, rtol=1e-6)


def test_what_does_not_fit_is_an_error_with_the_closest_name() -> None:
    policy = policy_of(replace(RELEASED, dims=(32, 64), groups=4))
    shapes = unet_shapes("diffusion.unet.", "lerobot", (32, 64), 128, 132, 2)
    shapes |= {name: shape for name, shape in lerobot_shapes().items() if ".unet." not in name}
    weights = tensors(shapes)
    renamed = dict(weights)
    renamed["diffusion.rgb_encoder.outer.bias"] = renamed.pop("diffusion.rgb_encoder.out.bias")
    with pytest.raises(CheckpointError, match=r"out.bias' \(closest: 'diffusion.rgb_encoder.outer.bias'\)"):
        load_released(policy, renamed, "lerobot", where="model.safetensors")
    with pytest.raises(CheckpointError, match="1 are unknown"):
        load_released(policy, weights | {"diffusion.unet.local_cond_encoder.0": torch.zeros(1)}, "lerobot")
    with pytest.raises(CheckpointError, match=r"expected shape \(64, 64\), got \(65, 64\)"):
        load_released(policy, weights | {"diffusion.rgb_encoder.out.weight": torch.zeros(65, 64)}, "lerobot")
    colored = {
        "normalize_inputs.buffer_observation_image.mean": torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    }
    with pytest.raises(CheckpointError, match=r"picture_mean=\(0.485, 0.456, 0.406\)"):
        load_released(policy, weights | colored, "lerobot")
    with pytest.raises(ValueError, match="Did you mean 'lerobot'"):
        load_released(policy, weights, "lerobots")  # type: ignore[arg-type]
    load_released(policy, weights, "lerobot")


def test_a_part_without_a_place_and_an_unseen_camera_are_named() -> None:
    small = replace(RELEASED, dims=(32, 64), groups=4)
    weights: dict[str, Any] = {}
    with pytest.raises(CheckpointError, match="has no place for 'sight"):
        load_released(DiffusionPolicy(DiffusionConfig.tiny(), {"one": _sighted()}), weights, "original")
    with pytest.raises(CheckpointError, match="LeRobot has no transformer"):
        load_released(policy_of(replace(small, network="transformer")), weights, "lerobot")
    with pytest.raises(CheckpointError, match="unknown camera 'front'"):
        load_released(policy_of(small, cameras=("front",)), weights, "original", observations=PUSHT)
    observations = {**PUSHT, "wrist_image": (3, 96, 96)}
    with pytest.raises(CheckpointError, match="the checkpoint sees"):
        load_released(policy_of(small), weights, "original", observations=observations)


def _sighted() -> Spec:
    from calibrated import armed_body

    return armed_body()


def test_statistics_come_from_old_checkpoints_new_ones_and_the_original() -> None:
    low, high = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0])
    old = {
        "normalize_inputs.buffer_observation_state.min": low,
        "normalize_inputs.buffer_observation_state.max": high,
        "unnormalize_outputs.buffer_action.min": low,
        "unnormalize_outputs.buffer_action.max": high,
    }
    new = {"observation.state.min": low, "observation.state.max": high, "action.min": low, "action.max": high}
    for weights in (old, new):
        found = released_stats(weights, "lerobot")
        # what never moves is -1 there: the state 5 is the lower end of 5 to 7
        assert found["state"].min.tolist() == [1, 5]
        assert found["state"].max.tolist() == [3, 7]
        assert found["action"].max.tolist() == [3, 5]
    start = "normalizer.params_dict."
    original = {
        f"{start}obs.scale": torch.tensor([1.0, 2.0]),
        f"{start}obs.offset": torch.tensor([-2.0, 1.0]),
    }
    original |= {f"{start}action.scale": torch.tensor([0.5]), f"{start}action.offset": torch.tensor([0.0])}
    found = released_stats(original, "original")
    assert found["state"].min.tolist() == [1, -1]
    assert found["state"].max.tolist() == [3, 0]
    assert found["action"].min.tolist() == [-2]
    parts = {"b": (1,), "front": (3, 8, 8), "a": (1,)}
    original |= {
        f"{start}{name}.{part}": torch.tensor([2.0]) for name in "ab" for part in ("scale", "offset")
    }
    assert released_stats(original, "original", observations=parts)["state"].min.tolist() == [-1.5, -1.5]
    with pytest.raises(CheckpointError, match="no statistics of the state"):
        released_stats({}, "lerobot")
