"""Released files of the pi family and PaliGemma, name by name at published size, without values.

Names and shapes are written down here by hand: those of openpi's and LeRobot's safetensors, and of
transformers' PaliGemma. Nothing of the library says what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from calibrated import armed_body
from torch import Tensor, nn

from visuomotor.backbones.gemma import gemma_2b
from visuomotor.backbones.paligemma import PaliGemma, PaliGemmaConfig, paligemma_names
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import Made, Names, load_named, unfilled
from visuomotor.policies import pi0, pi05

Shapes = dict[str, tuple[int, ...]]
WORDS = 257_152


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def under(front: str, shapes: Shapes) -> Shapes:
    return {front + name: shape for name, shape in shapes.items()}


def tower() -> Shapes:
    """SigLIP So400m/14 at 224 pixels."""
    shapes: Shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.patch_embedding.bias": (1152,),
        "embeddings.position_embedding.weight": (256, 1152),
        **norm("post_layernorm", 1152),
    }
    for i in range(27):
        layer = f"encoder.layers.{i}."
        shapes |= norm(f"{layer}layer_norm1", 1152) | norm(f"{layer}layer_norm2", 1152)
        shapes |= linear(f"{layer}mlp.fc1", 4304, 1152) | linear(f"{layer}mlp.fc2", 1152, 4304)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{part}", 1152, 1152)
    return shapes


def gemma(width: int, hidden: int, *, steered: bool = False) -> Shapes:
    """18 layers of 8 heads of 256, with one of keys and values; steered norms have a layer in their place."""
    shapes: Shapes = {}
    norms = ["norm"]
    for i in range(18):
        layer = f"layers.{i}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (2048, width),
            f"{layer}self_attn.k_proj.weight": (256, width),
            f"{layer}self_attn.v_proj.weight": (256, width),
            f"{layer}self_attn.o_proj.weight": (width, 2048),
            f"{layer}mlp.gate_proj.weight": (hidden, width),
            f"{layer}mlp.up_proj.weight": (hidden, width),
            f"{layer}mlp.down_proj.weight": (width, hidden),
        }
        norms += [f"{layer}input_layernorm", f"{layer}post_attention_layernorm"]
    for name in norms:
        shapes |= linear(f"{name}.dense", 3072, 1024) if steered else {f"{name}.weight": (width,)}
    return shapes


def released(family: str, *, lerobot: bool) -> Shapes:
    """A file of openpi or LeRobot, with the tables of scores that nobody needs.

    openpi has one table of words, which stands under the name of the scores; LeRobot keeps both.
    """
    both, table = "paligemma_with_expert.", (WORDS, 2048)
    trunk, expert = f"{both}paligemma.model.", f"{both}gemma_expert.model."
    shapes = {
        **under(f"{trunk}vision_tower.vision_model.", tower()),
        **linear(f"{trunk}multi_modal_projector.linear", 2048, 1152),
        **under(f"{trunk}language_model.", gemma(2048, 16384)),
        f"{both}paligemma.lm_head.weight": table,
        **under(expert, gemma(1024, 4096, steered=family == "pi0.5")),
        f"{both}gemma_expert.lm_head.weight": (WORDS, 1024),
        **linear("action_in_proj", 1024, 32),
        **linear("action_out_proj", 32, 1024),
    }
    if lerobot:
        shapes[f"{trunk}language_model.embed_tokens.weight"] = table
    if family == "pi0.5":
        shapes |= linear("time_mlp_in", 1024, 1024) | linear("time_mlp_out", 1024, 1024)
    else:
        shapes |= linear("state_proj", 1024, 32)
        shapes |= linear("action_time_mlp_in", 1024, 2048) | linear("action_time_mlp_out", 1024, 1024)
    return under("model." if lerobot else "", shapes)


def hub() -> Shapes:
    """`google/paligemma-3b-pt-224`, whose table has 64 rows for alignment."""
    return {
        **under("vision_tower.vision_model.", tower()),
        **linear("multi_modal_projector.linear", 2048, 1152),
        **under("language_model.model.", gemma(2048, 16384)),
        "language_model.model.embed_tokens.weight": (WORDS + 64, 2048),
    }


Layout = tuple[nn.Module, Names, tuple[str, ...], Shapes]
LAYOUTS = ("pi0 openpi", "pi0 lerobot", "pi0.5 openpi", "pi0.5 lerobot", "paligemma")


@cache
def layout(name: str) -> Layout:
    """A network of published size without values, its table of names, names without use, and the file."""
    with unfilled():
        if name == "paligemma":
            config = PaliGemmaConfig(language=gemma_2b(WORDS + 64))
            return PaliGemma(config), paligemma_names(config), (), hub()
        family, _, kind = name.partition(" ")
        bodies, file = {"one": armed_body()}, released(family, lerobot=kind == "lerobot")
        if family == "pi0":
            first = pi0.PI0(pi0.PI0Config.published(), bodies)
            return first, pi0.released_names(first.config), pi0.UNUSED, file
        second = pi05.PI05(pi05.PI05Config.published(), bodies)
        return second, pi05.released_names(second.config), (*pi05.UNUSED, *pi05.SCORES), file


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def alive(name: str) -> Shapes:
    """The weights of a file that are of use."""
    dead = ["gemma_expert.lm_head.weight"]
    if name.endswith("lerobot"):
        dead.append("paligemma.lm_head.weight")
    return {theirs: shape for theirs, shape in layout(name)[3].items() if not theirs.endswith(tuple(dead))}


def load(name: str, change: Callable[[dict[str, Tensor]], Any] = lambda weights: None) -> None:
    """Load a file without values, after a change."""
    network, names, unused, file = layout(name)
    weights = {theirs: torch.empty(shape, device="meta") for theirs, shape in file.items()}
    change(weights)
    load_named(network, weights, where="here", names=names, unused=unused, device="meta")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_weight_of_a_released_file_has_its_place_and_its_shape(name: str) -> None:
    network, names, _, file = layout(name)
    own = {ours: tuple(weight.shape) for ours, weight in network.named_parameters()}
    assert set(names) == set(own)
    found: Shapes = {}
    for ours, entry in names.items():
        spellings = (entry,) if isinstance(entry, str | Made) else entry
        theirs = [one if isinstance(one, str) else one.of[0] for one in spellings]
        there = [one for one in theirs if one in file]
        assert there, ours
        assert there[0] not in found
        found[there[0]] = own[ours]  # what is made of another weight has its shape: signs change alone
    assert found == alive(name)
    load(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pi0 openpi", 3_238_048_528), ("pi0.5 lerobot", 3_353_433_872), ("paligemma", 2_923_466_480)],
)
def test_the_files_as_written_down_have_the_published_count(name: str, expected: int) -> None:
    """2,923,335,408 for PaliGemma without the rows for alignment."""
    assert count(alive(name)) == expected


PLANTED = {
    "pi0.5 openpi": "paligemma_with_expert.gemma_expert.model.layers.17.input_layernorm.dense.bias",
    "pi0.5 lerobot": "model.paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.up_proj.weight",
    "paligemma": "vision_tower.vision_model.encoder.layers.26.self_attn.out_proj.bias",
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_and_named(name: str) -> None:
    weight = PLANTED[name]

    def fails(change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            load(name, change)

    said = weight.replace(".", r"\.")
    fails(lambda w: w.pop(weight), rf"1 weights are missing \('{said}'.*; 0 are unknown")
    fails(
        lambda w: w.update({"lora_a": torch.empty(1, device="meta")}),
        r"0 .* missing; 1 are unknown \('lora_a'",
    )
    wrong = weight[:-1] + "d"
    fails(
        lambda w: w.update({wrong: w.pop(weight)}),
        rf"1 weights are missing \('{said}' \(closest: '{wrong}'\)\); 1 are unknown \('{wrong}' \(closest",
    )
    fails(
        lambda w: w.update({weight: torch.empty(5, device="meta")}),
        rf"'{said}': expected shape .*, got \(5,\)",
    )
    behind = weight.replace(".17.", ".18.").replace(".0.", ".99.").replace(".26.", ".27.")
    fails(lambda w: w.update({behind: w[weight]}), rf"1 are unknown \('{behind}'")
