"""Weights of Diffusion Policy as LeRobot and the code released with the paper write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from visuomotor.errors import CheckpointError, unknown_name
from visuomotor.nn.weights import Made, Spelling, load_named
from visuomotor.perception.points import POINTS, SEEN
from visuomotor.policies.diffusion import DiffusionPolicy
from visuomotor.types import Stats, Summary

__all__ = ["Layout", "Observations", "load_released", "released_names", "released_stats"]

Layout = Literal["lerobot", "original"]
"""Whose state dicts: LeRobot's `DiffusionPolicy`, or those of the code released with the paper."""
Observations = Mapping[str, Sequence[int]]
"""Name to shape of what a released policy observes, in its order; pictures have three axes."""
EYE: dict[Layout, tuple[tuple[str, str], ...]] = {
    "lerobot": (
        ("resnet.conv1.", "backbone.0."),
        ("resnet.bn1.", "backbone.1."),
        *((f"resnet.layer{stage}.", f"backbone.{stage + 3}.") for stage in range(1, 5)),
        ("points.", "pool.nets."),
        ("leave.", "out."),
    ),
    "original": (
        ("resnet.conv1.", "backbone.nets.0."),
        ("resnet.bn1.", "backbone.nets.1."),
        *((f"resnet.layer{stage}.", f"backbone.nets.{stage + 3}.") for stage in range(1, 5)),
        ("points.", "pool.nets."),
        ("leave.", "nets.3."),
    ),
}
"""How entries of an eye begin, and how the same entries begin in a released state dict, behind its camera."""
UNET: tuple[tuple[str, str], ...] = (
    (".blocks.0.", ".conv1."),
    (".blocks.1.", ".conv2."),
    (".2.conv.", ".2."),
)
"""What LeRobot calls otherwise in the U-Net, whose entries have the names of the original here."""
TRANSFORMER: tuple[tuple[str, str], ...] = (
    ("enter.", "input_emb."),
    ("observation.", "cond_obs_emb."),
    ("memory.", "encoder."),
    ("norm.", "ln_f."),
    ("leave.", "head."),
)
"""How entries of a `DiffusionTransformer` begin, and how the same entries begin in the original."""
BLOCK: tuple[tuple[str, str], ...] = (
    ("attention.out.", "self_attn.out_proj."),
    ("cross.out.", "multihead_attn.out_proj."),
    *((f"norms.{place}.", f"norm{place + 1}.") for place in range(3)),
    ("feed.0.", "linear1."),
    ("feed.2.", "linear2."),
)
"""The same within one of its blocks."""
UNUSED: dict[Layout, tuple[str, ...]] = {
    # Statistics, which belong into a pipeline; fixed places; counters.
    "lerobot": ("normalize_*", "unnormalize_*", "*.pool.pos_grid", "*.num_batches_tracked"),
    # The same, masks, and weights without a number.
    "original": (
        *("normalizer.*", "mask_generator.*", "*_dummy_variable", "model.mask", "model.memory_mask"),
        "*.num_batches_tracked",
    ),
}
"""Entries of released state dicts that carry nothing to be loaded."""


def load_released(
    policy: DiffusionPolicy,
    weights: Mapping[str, Tensor],
    layout: Layout,
    *,
    observations: Observations | None = None,
    where: str = "Diffusion Policy",
) -> None:
    """Copy a released state dict into a policy of the same configuration, with `past` 1 and `before` "first".

    Statistics in it are not loaded but checked, if they are of pictures; see `released_stats` for the others.

    Args:
        policy: Built for the same sizes, with cameras in the order of the checkpoint.
        weights: What a safetensors file holds; pickled ones go through `scripts/convert_diffusion.py` first.
        layout: Whose names these are.
        observations: Of the original layout with pictures: what is observed, in its order. Pictures are
            called as the camera or with "_image" behind, the rest is the state, in this order.
        where: Path of the file, for messages.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape, with the closest names; or pictures
            were normalized in another way.
    """
    names = released_names(policy, layout, observations=observations, where=where)
    if policy.config.past != 1:
        raise CheckpointError(
            f"{where}: released weights answer from one tick ago on: build the policy with past=1, got "
            f"{policy.config.past}."
        )
    _check_pictures(policy, weights, layout, observations, where)
    unused = list(UNUSED[layout])
    if layout == "original" and policy.eyes:  # second names of what has one, and fixed places
        for picture in _pictures(policy, observations, where).values():
            eye = f"obs_encoder.obs_nets.{picture}."
            unused += [f"{eye}nets.0.*", f"{eye}nets.1.*", f"{eye}pool.pos_?"]
    load_named(policy, weights, where=where, names=names, unused=unused)


def released_names(
    policy: DiffusionPolicy,
    layout: Layout,
    *,
    observations: Observations | None = None,
    where: str = "Diffusion Policy",
) -> dict[str, tuple[Spelling, ...]]:
    """Each entry of a policy's state dict -> where it is in a released layout; see `load_released`."""
    if layout not in get_args(Layout):
        raise unknown_name("layout of Diffusion Policy", layout, get_args(Layout))
    if layout == "lerobot" and policy.config.network == "transformer":
        raise CheckpointError(f'{where}: LeRobot has no transformer. Use network="unet".')
    found: dict[str, tuple[Spelling, ...]] = {}
    for ours in policy.state_dict():
        part, _, rest = ours.partition(".")
        if part == "network":
            found[ours] = (_network_name(policy, rest, layout, observations, where),)
        elif part == "eyes":
            camera, _, rest = rest.partition(".")
            found[ours] = _eye_names(policy, camera, rest, layout, observations, where)
        else:
            raise CheckpointError(
                f"{where}: the layout {layout!r} has no place for {ours!r}. Load it into a policy without "
                'that part: language "none", vision "resnet18" or "none", one body.'
            )
    return found


def _network_name(
    policy: DiffusionPolicy, name: str, layout: Layout, observations: Observations | None, where: str
) -> Spelling:
    """Where an entry of the network is."""
    if policy.config.network == "transformer":
        return _transformer_name(policy, name, observations, where)
    if layout == "lerobot":
        for ours, theirs in UNET:
            name = name.replace(ours, theirs)
        return f"diffusion.unet.{name}"
    if not name.endswith("cond_encoder.1.weight") or not policy.eyes:
        return f"model.{name}"
    tick, ahead = _columns(policy, observations, where), policy.config.step_width
    columns = [*range(ahead)]
    for number in range(len(policy.config.history)):
        columns += [ahead + number * len(tick) + column for column in tick]
    return Made((f"model.{name}",), lambda weight: weight[:, columns])


def _transformer_name(
    policy: DiffusionPolicy, name: str, observations: Observations | None, where: str
) -> Spelling:
    """Where an entry of the transformer is in the original."""
    if name in ("ticks", "places"):
        theirs = "pos_emb" if name == "ticks" else "cond_pos_emb"
        return Made((f"model.{theirs}",), lambda weight: weight.squeeze(0))
    if name == "observation.weight" and policy.eyes:
        columns = _columns(policy, observations, where)
        return Made(("model.cond_obs_emb.weight",), lambda weight: weight[:, columns])
    if not name.startswith("blocks."):
        return "model." + _renamed(name, TRANSFORMER)
    _, number, rest = name.split(".", 2)
    block = f"model.decoder.layers.{number}."
    attention, *inner = rest.split(".")
    if inner[0] not in ("query", "key", "value"):
        return block + _renamed(rest, BLOCK)
    theirs = "self_attn" if attention == "attention" else "multihead_attn"
    third = ("query", "key", "value").index(inner[0])
    return Made((f"{block}{theirs}.in_proj_{inner[1]}",), lambda weight: weight.chunk(3)[third])


def _eye_names(
    policy: DiffusionPolicy,
    camera: str,
    name: str,
    layout: Layout,
    observations: Observations | None,
    where: str,
) -> tuple[Spelling, ...]:
    """Where an entry of an eye may be."""
    if layout == "lerobot":
        if name == "where.log_temperature":
            return (Made((), lambda: torch.zeros(POINTS)),)  # a temperature of 1
        theirs, number = _renamed(name, EYE[layout]), list(policy.eyes).index(camera)
        return (f"diffusion.rgb_encoder.{number}.{theirs}", f"diffusion.rgb_encoder.{theirs}")
    start = f"obs_encoder.obs_nets.{_pictures(policy, observations, where)[camera]}."
    if name == "where.log_temperature":
        return (Made((f"{start}pool.temperature",), lambda heat: heat.log().expand(POINTS)),)
    return (start + _renamed(name, EYE[layout]),)


def _renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    return next(theirs + name.removeprefix(ours) for ours, theirs in table if name.startswith(ours))


def _pictures(policy: DiffusionPolicy, observations: Observations | None, where: str) -> dict[str, str]:
    """Camera -> name of its pictures in a checkpoint of the original."""
    known = [name for name, shape in (observations or {}).items() if len(shape) == 3]
    found = {camera: name for camera in policy.eyes for name in known if name in (camera, f"{camera}_image")}
    missing = [camera for camera in policy.eyes if camera not in found]
    if missing:
        raise CheckpointError(f"{where}: observations: {unknown_name('camera', missing[0], known)}")
    unseen = sorted(set(known) - set(found.values()))
    if unseen:
        raise CheckpointError(f"{where}: the checkpoint sees {unseen}, and the policy has no such camera.")
    return found


def _columns(policy: DiffusionPolicy, observations: Observations | None, where: str) -> list[int]:
    """Where the original has what is known of a tick here: the state, then each camera."""
    pictures = _pictures(policy, observations, where)
    columns: dict[str, list[int]] = {}
    width = 0
    for name, shape in (observations or {}).items():
        count = SEEN if len(shape) == 3 else int(np.prod(shape))
        columns[name], width = [*range(width, width + count)], width + count
    order = [name for name in columns if name not in pictures.values()] + list(pictures.values())
    return [column for name in order for column in columns[name]]


def _check_pictures(
    policy: DiffusionPolicy,
    weights: Mapping[str, Tensor],
    layout: Layout,
    observations: Observations | None,
    where: str,
) -> None:
    """Raise `CheckpointError` if a checkpoint says that its pictures were normalized in another way."""
    ours = torch.tensor([policy.config.picture_mean, policy.config.picture_std])
    found: dict[str, Tensor] = {}
    if layout == "lerobot":
        for name in weights:
            if name.startswith("normalize_inputs.buffer_observation_image") and name.endswith(".mean"):
                spread = weights[name.removesuffix("mean") + "std"]
                found[name] = torch.stack([weights[name].flatten(), spread.flatten()])
    else:
        for picture in _pictures(policy, observations, where).values() if policy.eyes else ():
            name = f"normalizer.params_dict.{picture}."
            if f"{name}scale" in weights:  # numbers for all colors, or one
                scale, offset = weights[f"{name}scale"], weights[f"{name}offset"]
                found[name] = torch.stack([-offset / scale, 1 / scale]).expand(2, 3)
    for name, theirs in found.items():
        if not torch.allclose(theirs.float(), ours, atol=1e-4):
            mean, std = (tuple(round(number, 4) for number in row) for row in theirs.tolist())
            raise CheckpointError(
                f"{where}: {name!r}: pictures were normalized by mean {mean} and spread {std}, and the "
                f"policy does it otherwise. Build it with picture_mean={mean}, picture_std={std}."
            )


def released_stats(
    weights: Mapping[str, Tensor],
    layout: Layout,
    *,
    observations: Observations | None = None,
    where: str = "Diffusion Policy",
) -> Stats:
    """Minimum and maximum of states and actions in a released file, for `DiffusionPolicy.transforms`.

    What such files do not tell is NaN. A body that gives limits of its actions overrules them, so give none.

    Args:
        weights: LeRobot's: the checkpoint itself up to version 0.3, later the safetensors file beside it
            whose name ends in "normalizer_processor". The original: the checkpoint.
        layout: Whose names these are.
        observations: As for `load_released`; without pictures the original calls the state "obs".
        where: Path of the file, for messages.

    Raises:
        CheckpointError: There are no statistics.
    """
    if layout not in get_args(Layout):
        raise unknown_name("layout of Diffusion Policy", layout, get_args(Layout))
    if layout == "lerobot":
        limits = {
            "state": [
                _lerobot_limits(weights, name)
                for name in ("observation.state", "observation.environment_state")
            ],
            "action": [_lerobot_limits(weights, "action")],
        }
    else:
        names = [name for name, shape in (observations or {"obs": ()}).items() if len(shape) != 3]
        limits = {
            "state": [_original_limits(weights, name) for name in names],
            "action": [_original_limits(weights, "action")],
        }
    features = {}
    for feature, parts in limits.items():
        there = [part for part in parts if part is not None]
        if not there or (layout == "original" and len(there) < len(parts)):
            raise CheckpointError(
                f"{where}: no statistics of the {feature}. Newer checkpoints of LeRobot keep them beside the "
                "weights, in policy_preprocessor_step_*_normalizer_processor.safetensors: pass its tensors."
            )
        low, high = (np.concatenate(side) for side in zip(*there, strict=True))
        if layout == "lerobot" and feature == "state":  # there what never moves is -1 in model space
            high = np.where(high == low, low + 2, high)
        unknown = np.full_like(low, np.nan)
        features[feature] = Summary(
            mean=unknown, std=unknown, min=low, max=high, q01=unknown, q99=unknown, count=0
        )
    return Stats(source=where, features=features)


def _lerobot_limits(weights: Mapping[str, Tensor], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    buffer = "buffer_" + name.replace(".", "_")
    for start in (name, f"normalize_inputs.{buffer}", f"unnormalize_outputs.{buffer}"):
        if f"{start}.min" in weights:
            low, high = (weights[f"{start}.{side}"].double().flatten().numpy() for side in ("min", "max"))
            return low, high
    return None


def _original_limits(weights: Mapping[str, Tensor], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What becomes -1 and 1 by `scale x + offset`."""
    start = f"normalizer.params_dict.{name}."
    if f"{start}scale" not in weights:
        return None
    scale, offset = (weights[start + part].double().flatten().numpy() for part in ("scale", "offset"))
    return (-1 - offset) / scale, (1 - offset) / scale
