from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from visuomotor.backbones.smolvlm import (
    SmolVLM,
    SmolVLMConfig,
    load_smolvlm,
    load_smolvlm_weights,
    patch_positions,
    shuffle_patches,
    smolvlm_names,
)
from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import unfilled

TINY = SmolVLMConfig.tiny()
PLACE = TINY.place
LAST = "model.text_model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def model() -> SmolVLM:
    torch.manual_seed(0)
    return SmolVLM(TINY).eval()


@pytest.fixture
def weights(model: SmolVLM) -> dict[str, Tensor]:
    """Those of the model, as they are named on disk."""
    names = smolvlm_names(TINY)
    return {str(names[name][0]): weight.clone() for name, weight in model.state_dict().items()}


def published(**more: object) -> dict[str, object]:
    """The config of the tiny model as it would be published."""
    vision, decoder = TINY.vision, TINY.language.decoder
    return {
        "model_type": "smolvlm",
        "vision_config": {
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.hidden,
            "image_size": vision.image,
            "patch_size": vision.patch,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": decoder.width,
            "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads,
            "num_key_value_heads": decoder.kv_heads,
            "intermediate_size": decoder.mlp_width,
            "rms_norm_eps": decoder.norm_eps,
            "vocab_size": TINY.language.vocabulary,
        },
        "scale_factor": TINY.shuffle,
        "image_token_id": PLACE,
        **more,
    }


def equal(one: SmolVLM, other: SmolVLM) -> bool:
    others = other.state_dict()
    return all(torch.equal(weight, others[name]) for name, weight in one.state_dict().items())


# Seeing


@pytest.mark.parametrize("side", [1, 2, 14, 16, 24, 27, 28, 32])
def test_as_many_patches_as_positions_stand_one_behind_the_other(side: int) -> None:
    everywhere = torch.ones(1, side, side, dtype=torch.bool)
    assert patch_positions(everywhere, side).tolist() == [list(range(side**2))]


def test_smaller_pictures_are_spread_over_all_positions_and_padding_takes_none() -> None:
    real = torch.zeros(1, 4, 4, dtype=torch.bool)
    real[:, :2, :4] = True  # two rows of four patches, of eight times eight positions
    expected = [[0, 2, 4, 6], [32, 34, 36, 38], [0] * 4, [0] * 4]
    assert patch_positions(real, 8).unflatten(1, (4, 4)).tolist() == [expected]


def test_a_block_of_patches_becomes_one_token_row_by_row() -> None:
    side, block = 6, 3
    tokens = torch.arange(side * side * 2).reshape(1, side * side, 2).float()
    found = shuffle_patches(tokens, block)
    assert found.shape == (1, 4, 18)
    for row in range(2):
        for column in range(2):
            patches = [
                tokens[0, (row * block + y) * side + column * block + x]
                for y in range(block)
                for x in range(block)
            ]
            assert torch.equal(found[0, row * 2 + column], torch.cat(patches))


@pytest.mark.parametrize("size", [(32, 40), (40, 40), (8, 8)])
def test_pictures_that_are_no_blocks_of_patches_are_refused(model: SmolVLM, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected square pictures, with a multiple of 2 patches of 8"):
        model.see(torch.zeros(1, 3, *size))


# Pictures among words


def test_pictures_take_the_places_kept_for_them_in_their_order(model: SmolVLM) -> None:
    pictures = torch.rand(2, 2, 3, 32, 32)
    ids = torch.tensor([[1, *[PLACE] * 4, 2, *[PLACE] * 4, 3], [*[PLACE] * 8, 1, 2, 3]])
    with torch.no_grad():
        tokens, seen = model.embed(pictures, ids), model.see(pictures.flatten(0, 1))
        assert torch.equal(tokens[0, 1:5], seen[0])
        assert torch.equal(tokens[0, 6:10], seen[1])
        assert torch.equal(tokens[1, :8], seen[2:].flatten(0, 1))
        words = ids != PLACE
        assert torch.equal(tokens[words], model.language.embed(ids)[words])


def test_a_batch_without_any_picture_is_words_alone(model: SmolVLM) -> None:
    ids, nothing = torch.tensor([[1, 2, 3]]), torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        words = model.language.embed(ids)
        assert torch.equal(model.embed(torch.zeros(1, 1, 3, 32, 32), ids, nothing), words)
        assert torch.equal(model.embed(torch.zeros(1, 0, 3, 32, 32), ids), words)


def test_rows_whose_places_do_not_fit_their_pictures_are_refused(model: SmolVLM) -> None:
    ids = torch.tensor([[1, *[PLACE] * 5], [1, 2, 3, *[PLACE] * 3]])  # as many together as there should be
    with pytest.raises(ValueError, match=r"have \[4, 4\] tokens, and its ids keep \[5, 3\] places"):
        model.embed(torch.zeros(2, 1, 3, 32, 32), ids)
    with pytest.raises(ValueError, match=r"have \[4, 0\] tokens, and its ids keep \[5, 3\] places"):
        model.embed(torch.zeros(2, 1, 3, 32, 32), ids, torch.tensor([[True], [False]]))


def test_every_weight_gets_a_gradient(model: SmolVLM) -> None:
    ids = torch.tensor([[1, *[PLACE] * 4, 2, 3]])
    model(torch.rand(1, 1, 3, 32, 32), ids).square().sum().backward()
    without = {name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-9}
    keys = {f"vision.layers.{layer}.attention.key.bias" for layer in range(2)}  # softmax cancels them
    assert without <= keys


# Loading


def test_a_folder_is_read_whole_or_with_its_first_layers(
    tmp_path: Path, model: SmolVLM, weights: dict[str, Tensor]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published()))
    save_file(weights, tmp_path / "model.safetensors")
    assert load_smolvlm(tmp_path).config == TINY
    assert equal(load_smolvlm(tmp_path), model)
    cut = load_smolvlm(tmp_path, layers=2, dtype=torch.bfloat16)
    assert cut.config == TINY.first(2)
    assert equal(cut, model.to(torch.bfloat16))
    with pytest.raises(ValueError, match="expected 1 to 3 layers, got 4"):
        load_smolvlm(tmp_path, layers=4)


def test_names_without_what_stands_before_them_are_the_same_model(
    model: SmolVLM, weights: dict[str, Tensor]
) -> None:
    other = SmolVLM(TINY)
    load_smolvlm_weights(other, {name.removeprefix("model."): weight for name, weight in weights.items()})
    assert equal(other, model)


def test_a_tied_table_may_stand_under_the_name_of_the_scores(weights: dict[str, Tensor]) -> None:
    tied = SmolVLM(replace(TINY, language=replace(TINY.language, tied=True)))
    table = weights.pop("model.text_model.embed_tokens.weight")
    weights["lm_head.weight"] = table
    load_smolvlm_weights(tied, weights)
    assert torch.equal(tied.language.words.weight, table)


def test_what_is_known_to_be_of_no_use_is_left(model: SmolVLM, weights: dict[str, Tensor]) -> None:
    weights["model.vision_model.embeddings.position_ids"] = torch.arange(16)[None]
    weights["model.text_model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)
    weights["model.text_model.layers.3.mlp.up_proj.weight"] = torch.zeros(1)  # behind the last layer
    other = SmolVLM(TINY)
    load_smolvlm_weights(other, weights, depth=4)
    assert equal(other, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(LAST), rf"1 weights are missing \('{LAST}'"),
        (lambda w: w.pop("lm_head.weight"), r"1 weights are missing \('lm_head.weight'"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 are unknown \('extra'"),
        (
            lambda w: w.update({LAST.replace(".2.", ".3."): torch.zeros(40, 24)}),
            r"1 are unknown \('model.text_model.layers.3.mlp.up_proj.weight'",
        ),
        (
            lambda w: w.update({LAST.replace("up_proj", "up_projection"): w.pop(LAST)}),
            rf"'{LAST}' \(closest: 'model.text_model.layers.2.mlp.up_projection.weight'\)",
        ),
        (
            lambda w: w.update({"model.connector.modality_projection.proj.weight": torch.zeros(24, 32)}),
            r"'model.connector.modality_projection.proj.weight': expected shape \(24, 128\), got \(24, 32\)",
        ),
    ],
)
def test_planted_faults_are_found_and_named(
    model: SmolVLM, weights: dict[str, Tensor], change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        load_smolvlm_weights(model, weights)


def test_configs_of_other_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="expected model_type 'smolvlm' or 'idefics3', got 'llava'"):
        SmolVLMConfig.from_published(published(model_type="llava"))
    with pytest.raises(CheckpointError, match="vision_config: expected hidden_act 'gelu_pytorch_tanh'"):
        SmolVLMConfig.from_published(published(vision_config={"hidden_act": "gelu"}))
    with pytest.raises(CheckpointError, match="text_config: expected model_type 'llama', got 'qwen2'"):
        SmolVLMConfig.from_published(published(text_config={"model_type": "qwen2"}))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a shuffle that divides 4 patches"):
        replace(TINY, shuffle=3)
    with pytest.raises(ValueError, match="expected a place among 64 words, got 64"):
        replace(TINY, place=64)


def test_the_first_16_layers_of_the_500m_are_those_of_smolvla() -> None:
    with unfilled():
        cut = SmolVLM(SmolVLMConfig.smolvlm2_500m().first(16))
    count = sum(weight.numel() for weight in cut.parameters())
    layer = 960 * 64 * (15 + 2 * 5 + 15) + 3 * 960 * 2560 + 2 * 960
    assert count == 507_482_304 - 16 * layer
