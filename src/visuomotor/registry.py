"""Names of built-in parts, and how a name becomes an object.

A built-in is a line in `BUILT_IN`; it is imported when it is asked for. A third party registers an
entry point in the group `visuomotor.<kind>`, or passes an import path "package.module:Name".
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from visuomotor.errors import unknown_name

__all__ = ["BUILT_IN", "lookup", "names"]

BUILT_IN: dict[str, dict[str, str]] = {
    "policy": {
        "act": "visuomotor.policies.act:ACT",
        "bc": "visuomotor.policies.bc:BC",
        "compact": "visuomotor.policies.compact:Compact",
        "diffusion": "visuomotor.policies.diffusion:DiffusionPolicy",
        "pi0": "visuomotor.policies.pi0:PI0",
        "pi05": "visuomotor.policies.pi05:PI05",
        "pi0_fast": "visuomotor.policies.pi0_fast:PI0FAST",
    },
    "env": {
        "tabletop": "visuomotor.envs.tabletop:TabletopEnv",
    },
    "embodiment": {
        "aloha2arm": "visuomotor.embodiments.aloha2arm:ALOHA2ARM",
        "franka": "visuomotor.embodiments.franka:FRANKA",
        "so101": "visuomotor.embodiments.so101:SO101",
        "widowx": "visuomotor.embodiments.widowx:WIDOWX",
    },
    "backbone": {
        "dinov2": "visuomotor.backbones.dinov2:load_dinov2",
        "minilm": "visuomotor.backbones.minilm:load_minilm",
        "paligemma": "visuomotor.backbones.paligemma:load_paligemma",
        "prismatic": "visuomotor.backbones.prismatic:load_prismatic",
        "siglip": "visuomotor.backbones.siglip:load_siglip",
        "smolvlm": "visuomotor.backbones.smolvlm:load_smolvlm",
    },
    "expert": {
        "tabletop": "visuomotor.experts.tabletop:TabletopExpert",
    },
    "annotation": {
        "tabletop": "visuomotor.envs.tabletop.vision_language:annotate",
    },
    "codec": {
        "bins": "visuomotor.codecs.bins:UniformBins",
        "fast": "visuomotor.codecs.fast:FAST",
        "octo_bins": "visuomotor.codecs.bins:OctoBins",
        "openvla_bins": "visuomotor.codecs.bins:OpenVLABins",
        "rt1_bins": "visuomotor.codecs.bins:RT1Bins",
        "rt2_bins": "visuomotor.codecs.bins:RT2Bins",
    },
    "executor": {
        "asynchronous": "visuomotor.executors:Asynchronous",
        "open_loop": "visuomotor.executors:OpenLoop",
        "real_time": "visuomotor.executors:RealTime",
        "receding_horizon": "visuomotor.executors:RecedingHorizon",
        "temporal_ensemble": "visuomotor.executors:TemporalEnsemble",
        "trained_real_time": "visuomotor.executors:trained_real_time",
    },
    "recipe": {
        "demo": "visuomotor.recipes:demo",
        "demo-act": "visuomotor.recipes:demo_act",
        "demo-bc-l1": "visuomotor.recipes:demo_bc_l1",
        "demo-bc-mixture": "visuomotor.recipes:demo_bc_mixture",
        "demo-bc-mse": "visuomotor.recipes:demo_bc_mse",
        "demo-diffusion-transformer": "visuomotor.recipes:demo_diffusion_transformer",
        "demo-diffusion-unet": "visuomotor.recipes:demo_diffusion_unet",
        "demo-pi0": "visuomotor.recipes:demo_pi0",
        "demo-pi0-fast": "visuomotor.recipes:demo_pi0_fast",
        "demo-pi0-smollm2": "visuomotor.recipes:demo_pi0_smollm2",
        "demo-pi05": "visuomotor.recipes:demo_pi05",
        "demo-tiny": "visuomotor.recipes:demo_tiny",
        "lift": "visuomotor.recipes:lift",
        "post-train-pi05": "visuomotor.recipes:post_train_pi05",
        "pretrain-pi05": "visuomotor.recipes:pretrain_pi05",
        "tabletop-all": "visuomotor.recipes:tabletop_all",
        "tabletop-all-act": "visuomotor.recipes:tabletop_all_act",
        "tabletop-all-bc-mixture": "visuomotor.recipes:tabletop_all_bc_mixture",
        "two-stage-pi05": "visuomotor.recipes:two_stage_pi05",
        "two-stage-pi05-insulated": "visuomotor.recipes:two_stage_pi05_insulated",
        "two-stage-pi05-insulated-subtask": "visuomotor.recipes:two_stage_pi05_insulated_subtask",
        "two-stage-pi05-subtask": "visuomotor.recipes:two_stage_pi05_subtask",
    },
}


def names(kind: str) -> list[str]:
    """Every known name of `kind`, built-in and registered, sorted."""
    if kind not in BUILT_IN:
        raise unknown_name("kind of part", kind, BUILT_IN)
    registered = [entry.name for entry in entry_points(group=f"visuomotor.{kind}")]
    return sorted({*BUILT_IN[kind], *registered})


def lookup(kind: str, name: str) -> Any:
    """The class or function called `name`, imported now.

    Args:
        kind: A key of `BUILT_IN`.
        name: A built-in name, the name of an entry point, or "package.module:Name".

    Raises:
        ValueError: No such name, module or attribute; the message has the closest name.
    """
    known = names(kind)
    if name in BUILT_IN[kind]:
        path = BUILT_IN[kind][name]
    elif name in known:
        (entry,) = entry_points(group=f"visuomotor.{kind}", name=name)
        return entry.load()
    elif ":" in name:
        path = name
    else:
        raise unknown_name(kind, name, known)
    module, _, attribute = path.partition(":")
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{kind} {name!r}: cannot import {module!r} ({error}). Is it installed?") from error
    if not hasattr(home, attribute):
        closest = unknown_name("name", attribute, [known for known in vars(home) if known[0] != "_"])
        raise ValueError(f"{kind} {name!r}: no {attribute!r} there; {closest}")
    return getattr(home, attribute)
