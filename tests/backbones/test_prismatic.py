from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visuomotor.backbones import llama
from visuomotor.backbones.generation import generate
from visuomotor.backbones.prismatic import (
    Prismatic,
    PrismaticConfig,
    PrismaticVision,
    PrismaticVisionConfig,
    load_prismatic_weights,
    prismatic_vision_names,
    prismatic_vision_unused,
)
from visuomotor.backbones.siglip import SigLIPConfig
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import load_named, unfilled

TINY = PrismaticVisionConfig.tiny()
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def tower(front: str, width: int, layers: int, hidden: int, patch: int, tokens: int, scaled: bool) -> Shapes:
    """A vision transformer as timm names it, with OpenVLA's name for the scale of a branch."""
    shapes: Shapes = {"pos_embed": (1, tokens, width), "patch_embed.proj.weight": (width, 3, patch, patch)}
    shapes |= {"patch_embed.proj.bias": (width,), **norm("norm", width)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        shapes |= norm(f"{block}norm1", width) | norm(f"{block}norm2", width)
        shapes |= linear(f"{block}attn.qkv", 3 * width, width) | linear(f"{block}attn.proj", width, width)
        shapes |= linear(f"{block}mlp.fc1", hidden, width) | linear(f"{block}mlp.fc2", width, hidden)
        if scaled:
            shapes |= {f"{block}ls{place}.scale_factor": (width,) for place in (1, 2)}
    return {front + name: shape for name, shape in shapes.items()}


def openvla_shapes(config: PrismaticVisionConfig) -> Shapes:
    """What `openvla/openvla-7b` holds of the eyes."""
    first, second = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
    dino, siglip = config.dino, config.siglip
    shapes = tower(first, dino.width, dino.layers, dino.hidden, dino.patch, dino.side**2, True)
    shapes |= {f"{first}cls_token": (1, 1, dino.width), f"{first}reg_token": (1, dino.registers, dino.width)}
    shapes |= tower(second, siglip.width, siglip.layers, siglip.hidden, siglip.patch, siglip.tokens, False)
    pool, width = f"{second}attn_pool.", siglip.width
    shapes |= {f"{pool}latent": (1, 1, width), **norm(f"{pool}norm", width)}
    shapes |= linear(f"{pool}q", width, width) | linear(f"{pool}kv", 2 * width, width)
    shapes |= linear(f"{pool}proj", width, width)
    shapes |= linear(f"{pool}mlp.fc1", siglip.hidden, width) | linear(f"{pool}mlp.fc2", width, siglip.hidden)
    joined = dino.width + siglip.width
    return {
        **shapes,
        **linear("projector.fc1", 4 * joined, joined),
        **linear("projector.fc2", config.out, 4 * joined),
        **linear("projector.fc3", config.out, config.out),
    }


def count(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def load(network: PrismaticVision, weights: dict[str, Tensor]) -> None:
    config = network.config
    names, unused = prismatic_vision_names(config), prismatic_vision_unused(config)
    load_named(network, weights, where="here", names=names, unused=unused)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.2 for name, shape in openvla_shapes(TINY).items()}


def test_every_weight_of_openvla_finds_its_place() -> None:
    config = PrismaticVisionConfig.published()
    shapes = openvla_shapes(config)
    with unfilled():
        network = PrismaticVision(config)
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    table, unused = prismatic_vision_names(config), prismatic_vision_unused(config)
    own = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    assert set(table) == set(own)
    ends = ("vision_backbone.featurizer.blocks.23.", "vision_backbone.fused_featurizer.blocks.26.")
    last = [name for name in shapes if name.startswith(ends)]
    dead = {name for name in shapes if "attn_pool" in name} | set(last)
    # Whatever is not dead is used, and has the shape that is expected; only class positions are added.
    used = count({name: shape for name, shape in shapes.items() if name not in dead})
    assert count(own) == used + config.dino.width
    with pytest.raises(CheckpointError, match=r"1 weights are missing \('projector.fc2.bias'"):
        load_named(
            network,
            {name: weight for name, weight in weights.items() if name != "projector.fc2.bias"},
            where="here",
            names=table,
            unused=unused,
        )


def plain_tower(
    weights: dict[str, Tensor], front: str, pictures: Tensor, heads: int, patch: int, leading: list[Tensor]
) -> Tensor:
    """A tower written out from the weights as they are named on disk, up to the last layer but one."""
    w = {name.removeprefix(front): value for name, value in weights.items() if name.startswith(front)}
    layers = max(int(name.split(".")[1]) for name in w if name.startswith("blocks.")) + 1
    x = F.conv2d(pictures, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"]
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in leading), x], dim=1)
    width = x.shape[-1]
    for layer in range(layers - 1):
        b = {n.removeprefix(f"blocks.{layer}."): v for n, v in w.items() if n.startswith(f"blocks.{layer}.")}
        y = F.layer_norm(x, (width,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        qkv = F.linear(y, b["attn.qkv.weight"], b["attn.qkv.bias"])
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        seen = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1) @ v
        y = F.linear(seen.transpose(1, 2).flatten(2), b["attn.proj.weight"], b["attn.proj.bias"])
        x = x + y * b.get("ls1.scale_factor", torch.ones(()))
        y = F.layer_norm(x, (width,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        y = F.linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        x = x + y * b.get("ls2.scale_factor", torch.ones(()))
    return x[:, sum(token.shape[1] for token in leading) :]


def test_tokens_equal_those_written_out_from_the_file(weights: dict[str, Tensor]) -> None:
    network = PrismaticVision(TINY)
    load(network, weights)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    values = pixels.permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    first, second = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
    leading = [weights[f"{first}cls_token"], weights[f"{first}reg_token"]]
    standard = (values - mean[:, None, None]) / std[:, None, None]
    where = plain_tower(weights, first, standard, TINY.dino.heads, TINY.dino.patch, leading)
    what = plain_tower(weights, second, 2 * values - 1, TINY.siglip.heads, TINY.siglip.patch, [])
    x = torch.cat([where, what], dim=-1)
    for layer in (1, 2, 3):
        x = F.linear(x, weights[f"projector.fc{layer}.weight"], weights[f"projector.fc{layer}.bias"])
        x = F.gelu(x) if layer < 3 else x
    with torch.no_grad():
        found = network(pixels)
    assert found.shape == (2, TINY.tokens, TINY.out)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))  # sums in another order


def test_the_authors_names_are_the_same_network(weights: dict[str, Tensor]) -> None:
    renamed = {}
    for name, value in weights.items():
        name = name.replace(".featurizer.", ".dino_featurizer.").replace("scale_factor", "gamma")
        name = name.replace(".fused_featurizer.", ".siglip_featurizer.")
        for layer in (1, 2, 3):
            name = name.replace(f"projector.fc{layer}", f"projector.projector.{2 * layer - 2}")
        renamed[name] = value
    assert not renamed.keys() & weights.keys()
    one, other = PrismaticVision(TINY), PrismaticVision(TINY)
    load(one, weights)
    load(other, renamed)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


NAME = "vision_backbone.featurizer.blocks.0.ls1.scale_factor"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NAME), r"1 weights are missing"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 are unknown \('extra'"),
        (
            lambda w: w.update({NAME: torch.zeros(5)}),
            rf"'{NAME}': expected shape \(32,\), got \(5,\)",
        ),
        (
            lambda w: w.update({NAME.replace("blocks.0", "blocks.2"): torch.zeros(32)}),
            r"1 are unknown \('vision_backbone.featurizer.blocks.2.ls1.scale_factor'",
        ),
    ],
)
def test_planted_faults_are_found_and_named(
    weights: dict[str, Tensor], change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        load(PrismaticVision(TINY), weights)


def test_every_weight_but_the_last_norms_gets_a_gradient(weights: dict[str, Tensor]) -> None:
    network = PrismaticVision(TINY)
    load(network, weights)
    network(torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)).square().sum().backward()
    without = {name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()}
    keys = {f"{tower}.layers.0.attention.key.bias" for tower in ("dino", "siglip")}  # softmax cancels them
    norms = {f"{tower}.norm.{part}" for tower in ("dino", "siglip") for part in ("weight", "bias")}
    assert norms <= without <= norms | keys


def test_published_sizes_have_so_many_tokens() -> None:
    assert PrismaticVisionConfig() == PrismaticVisionConfig.published()
    assert PrismaticVisionConfig.published().tokens == 256
    assert PrismaticVisionConfig.published(384).tokens == 729
    assert PrismaticVisionConfig.published().features == 2176


def test_towers_that_see_other_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="as many patches of the same picture"):
        replace(TINY, siglip=SigLIPConfig.tiny(40))
    with pytest.raises(ValueError, match="at least two layers"):
        replace(TINY, siglip=replace(TINY.siglip, layers=1))


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pictures of 32 x 32"):
        PrismaticVision(TINY)(torch.zeros(1, 32, 40, 3, dtype=torch.uint8))


# With the language model


def llama_shapes(config: llama.LanguageModelConfig) -> Shapes:
    """Llama as OpenVLA's files name it."""
    front, sizes = "language_model.model.", config.decoder
    keys = sizes.kv_heads * sizes.head_width
    shapes: Shapes = {f"{front}embed_tokens.weight": (config.vocabulary, sizes.width)}
    shapes |= {f"{front}norm.weight": (sizes.width,)}
    shapes |= {"language_model.lm_head.weight": (config.vocabulary, sizes.width)}
    for level in range(sizes.layers):
        layer = f"{front}layers.{level}."
        shapes |= {f"{layer}{name}_layernorm.weight": (sizes.width,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (sizes.width, sizes.width) for name in "qo"}
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (keys, sizes.width) for name in "kv"}
        shapes |= {
            f"{layer}mlp.{name}_proj.weight": (sizes.mlp_width, sizes.width) for name in ("gate", "up")
        }
        shapes |= {f"{layer}mlp.down_proj.weight": (sizes.width, sizes.mlp_width)}
    return shapes


def tiny_config() -> PrismaticConfig:
    return PrismaticConfig(vision=TINY, language=replace(llama.tiny(), tied=False))


@pytest.fixture
def model() -> Prismatic:
    torch.manual_seed(0)
    config = tiny_config()
    shapes = openvla_shapes(config.vision) | llama_shapes(config.language)
    network = Prismatic(config)
    load_prismatic_weights(network, {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()})
    return network.eval()


def test_openvla_has_as_many_weights_as_its_index_says() -> None:
    config = PrismaticConfig()
    shapes = openvla_shapes(config.vision) | llama_shapes(config.language)
    assert count(shapes) == 15_082_474_368 // 2  # bytes, of two-byte numbers


def test_pictures_stand_behind_the_first_word(model: Prismatic) -> None:
    pixels = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    ids = torch.tensor([[1, 5, 6], [1, 7, 8]])
    with torch.no_grad():
        tokens, words = model.embed(pixels, ids), model.language.embed(ids)
        assert tokens.shape == (2, 3 + 2 * TINY.tokens, 24)
        assert torch.equal(tokens[:, 0], words[:, 0])
        assert torch.equal(tokens[:, -2:], words[:, 1:])
        second = model.vision(pixels[:, 1])
        torch.testing.assert_close(tokens[:, 1 + TINY.tokens : 1 + 2 * TINY.tokens], second)


def test_padding_changes_no_score_of_a_real_word(model: Prismatic) -> None:
    pixels = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        plain = model(pixels, torch.tensor([[1, 5, 6]]))
        mask = torch.tensor([[True, True, False, True, False]])
        padded = model(pixels, torch.tensor([[1, 5, 9, 6, 9]]), mask)
    real = [*range(2 + TINY.tokens), 3 + TINY.tokens]
    torch.testing.assert_close(padded[:, real], plain, rtol=1e-5, atol=1e-5)


def test_words_are_written_behind_pictures(model: Prismatic) -> None:
    pixels = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        written = generate(model.language, model.embed(pixels, ids), limit=4).ids
        for _ in range(4):  # without keeping anything
            ids = torch.cat([ids, model(pixels, ids)[:, -1:].argmax(-1)], dim=1)
    assert ids[:, 3:].tolist() == written.tolist()


def test_configs_of_openvla_are_read() -> None:
    published = {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
    }
    config = PrismaticConfig.from_published(published)
    assert config.language.decoder.norm_eps == 1e-6  # as the released code runs it
    decoder = replace(config.language.decoder, norm_eps=1e-5)
    assert replace(config, language=replace(config.language, decoder=decoder)) == PrismaticConfig()
    with pytest.raises(CheckpointError, match="Choose a model with the eyes of OpenVLA"):
        PrismaticConfig.from_published({**published, "vision_backbone_id": "clip-vit-l"})
    with pytest.raises(CheckpointError, match="expected model_type 'llama', got 'mistral'"):
        PrismaticConfig.from_published({**published, "text_config": {"model_type": "mistral"}})
    with pytest.raises(ValueError, match="the eyes give tokens of width 8"):
        replace(tiny_config(), vision=PrismaticVisionConfig.tiny(8))
