"""SmolVLM against transformers' implementation: a random tiny model, written by it and read by ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visuomotor.backbones.generation import generate
from visuomotor.backbones.smolvlm import SmolVLM, SmolVLMConfig, load_smolvlm, smolvlm_names
from visuomotor.nn.weights import unfilled

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the oracle; it is in the test extra")

VOCABULARY, PLACE, PAD = 64, 63, 0
TEXT = {
    "model_type": "llama",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES: dict[str, Any] = {
    "text_config": TEXT,
    "vision_config": {**VISION, "image_size": 32, "patch_size": 8},  # 4 tokens of 2 x 2 patches
    "scale_factor": 2,
    "image_token_id": PLACE,
}
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}  # float32, sums in another order


def shaken(oracle: Any) -> Any:
    """Weights large enough that every one of them shows in the scores."""
    torch.manual_seed(0)
    for name, weight in oracle.named_parameters():
        torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.2)
    return oracle.eval()


def made(**more: Any) -> Any:
    return shaken(transformers.SmolVLMForConditionalGeneration(transformers.SmolVLMConfig(**SIZES | more)))


@pytest.fixture(scope="module", params=["SmolVLM", "Idefics3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, SmolVLM]:
    """The oracle and ours with its weights; SmolVLM 1 is published as an Idefics3."""
    folder = tmp_path_factory.mktemp("smolvlm")
    config = getattr(transformers, f"{request.param}Config")(**SIZES)
    oracle = shaken(getattr(transformers, f"{request.param}ForConditionalGeneration")(config))
    oracle.save_pretrained(folder)
    return oracle, load_smolvlm(folder)


def pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape))) * 2 - 1


def written(*pieces: int) -> Tensor:
    """Ids of one row: positive counts of words, negative counts of places for tokens of pictures."""
    generator = torch.Generator().manual_seed(7)
    parts = [
        torch.randint(3, 60, (count,), generator=generator) if count > 0 else torch.full((-count,), PLACE)
        for count in pieces
    ]
    return torch.cat(parts)[None]


def features(oracle: Any, frames: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Tokens of pictures behind the connector."""
    return torch.stack(list(oracle.get_image_features(frames, pixels).pooler_output))


def test_tokens_of_pictures_equal_the_oracle(pair: tuple[Any, SmolVLM]) -> None:
    oracle, ours = pair
    frames = pictures(3, 3, 32, 32)
    with torch.no_grad():
        expected, found = features(oracle, frames[:, None]), ours.see(frames)
    assert found.shape == (3, 4, 24)
    assert found.std() > 0.1  # not equal because both are nothing
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("size", [16, 35, 48, 64])
def test_pictures_of_other_sizes_share_the_positions(pair: tuple[Any, SmolVLM], size: int) -> None:
    oracle, ours = pair
    frames = pictures(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours.see(frames), features(oracle, frames[:, None]), **CLOSE)


def test_padding_of_a_picture_is_not_seen(pair: tuple[Any, SmolVLM]) -> None:
    oracle, ours = pair
    frames = pictures(3, 3, 48, 48)
    pixels = torch.zeros(3, 48, 48, dtype=torch.bool)
    for frame, (height, width) in enumerate(((48, 48), (21, 48), (32, 15))):
        pixels[frame, :height, :width] = True
    with torch.no_grad():
        found = ours.see(frames, pixels)
        torch.testing.assert_close(found, features(oracle, frames[:, None], pixels[:, None]), **CLOSE)
        assert not torch.allclose(found[1:], ours.see(frames)[1:], atol=1e-3)


@pytest.mark.parametrize(
    ("image", "sees", "shuffle"), [(54, 54, 3), (54, 42, 3), (54, 12, 3), (38, 38, 1), (38, 26, 1)]
)
def test_positions_are_rounded_as_in_the_oracle(tmp_path: Path, image: int, sees: int, shuffle: int) -> None:
    """Ninths are not exact in binary: the largest SmolVLM2 has 27 patches in a row, and at 19 it matters."""
    oracle = made(vision_config={**VISION, "image_size": image, "patch_size": 2}, scale_factor=shuffle)
    oracle.save_pretrained(tmp_path)
    frames = pictures(1, 3, sees, sees)
    with torch.no_grad():
        torch.testing.assert_close(
            load_smolvlm(tmp_path).see(frames), features(oracle, frames[:, None]), **CLOSE
        )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_scores_equal_the_oracle_with_so_many_pictures_a_row(pair: tuple[Any, SmolVLM], count: int) -> None:
    oracle, ours = pair
    frames = pictures(2, count, 3, 32, 32)
    ids = torch.cat([written(1, *([-4, 2] * count), 3), written(3, *([-4, 1] * count), count, 1)])
    with torch.no_grad():
        expected, found = oracle(input_ids=ids, pixel_values=frames).logits, ours(frames, ids)
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected, **CLOSE)


def test_rows_may_have_different_numbers_of_pictures_and_words(pair: tuple[Any, SmolVLM]) -> None:
    oracle, ours = pair
    frames = pictures(3, 2, 3, 32, 32)
    there = torch.tensor([[True, False], [True, True], [False, False]])
    frames = frames * there[:, :, None, None, None]  # what the oracle takes for no picture
    rows = [written(2, -4, 2)[0], written(1, -4, 1, -4, 3)[0], written(5)[0]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(row) for row in rows], batch_first=True, padding_value=0
    ).bool()
    with torch.no_grad():
        expected = oracle(input_ids=ids, pixel_values=frames, attention_mask=mask.long()).logits
        found = ours(frames, ids, mask, there)
    torch.testing.assert_close(found[mask], expected[mask], **CLOSE)


def test_what_is_written_equals_the_oracle(pair: tuple[Any, SmolVLM]) -> None:
    oracle, ours = pair
    frames = pictures(2, 2, 3, 32, 32)
    long, short = written(2, -4, 2, -4, 3), written(1, -4, 1, -4, 1)
    padding = long.shape[1] - short.shape[1]
    ids = torch.cat([long, torch.nn.functional.pad(short, (padding, 0), value=PAD)])
    mask = ids != PAD
    with torch.no_grad():
        expected = oracle.generate(
            input_ids=ids,
            pixel_values=frames,
            attention_mask=mask.long(),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
        )
        found = generate(ours.language, ours.embed(frames, ids), mask, limit=8).ids
    assert len(set(found.flatten().tolist())) > 2  # more than one word again and again
    assert found.tolist() == expected[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_layers_are_the_cut_oracle(tmp_path: Path, layers: int) -> None:
    whole = made()
    whole.save_pretrained(tmp_path)
    cut = made(text_config={**TEXT, "num_hidden_layers": layers})
    cut.load_state_dict(whole.state_dict(), strict=False)
    ours = load_smolvlm(tmp_path, layers=layers)
    frames, ids = pictures(1, 1, 3, 32, 32), written(2, -4, 3)
    with torch.no_grad():
        expected = cut(input_ids=ids, pixel_values=frames, output_hidden_states=True)
        states, _ = ours.language.read(ours.embed(frames, ids))
        torch.testing.assert_close(states, expected.hidden_states[-1], **CLOSE)
        torch.testing.assert_close(ours(frames, ids), expected.logits, **CLOSE)
        assert not torch.allclose(expected.logits, whole(input_ids=ids, pixel_values=frames).logits, atol=0.1)


def test_a_model_in_several_files_is_the_same(tmp_path: Path) -> None:
    oracle = made()
    oracle.save_pretrained(tmp_path / "one")
    oracle.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load_smolvlm(tmp_path / "one").state_dict(), load_smolvlm(tmp_path / "many").state_dict()
    assert one.keys() == many.keys()
    assert all(torch.equal(weight, many[name]) for name, weight in one.items())


def test_a_tied_table_of_words_scores_them_too(tmp_path: Path) -> None:
    oracle = made(tie_word_embeddings=True)
    oracle.save_pretrained(tmp_path)
    ours = load_smolvlm(tmp_path)
    assert ours.language.head is None
    frames, ids = pictures(1, 1, 3, 32, 32), written(2, -4, 3)
    with torch.no_grad():
        expected = oracle(input_ids=ids, pixel_values=frames).logits
        torch.testing.assert_close(ours(frames, ids), expected, **CLOSE)


BASE = {"hidden_size": 768, "image_size": 512, "num_attention_heads": 12, "patch_size": 16}
SO400M = {
    "hidden_size": 1152,
    "image_size": 384,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "intermediate_size": 4304,
}
PUBLISHED = {  # what matters in the published configs; what they leave out is left out here, too
    "256m": {
        "vision_config": BASE,
        "text_config": {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "rope_theta": 100_000,
        },
        "scale_factor": 4,
    },
    "500m": {
        "vision_config": BASE,
        "text_config": {
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "rope_theta": 100_000,
        },
        "scale_factor": 4,
    },
    "2_2b": {
        "vision_config": SO400M,
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "rope_theta": 130_000,
        },
        "scale_factor": 3,
    },
}


@pytest.mark.parametrize(
    ("name", "weights", "tensors", "tokens"),
    [("256m", 256_484_928, 471, 64), ("500m", 507_482_304, 489, 64), ("2_2b", 2_246_784_880, 657, 81)],
)
def test_published_sizes_have_the_published_weights_and_names(
    name: str, weights: int, tensors: int, tokens: int
) -> None:
    data: dict[str, Any] = {**PUBLISHED[name], "image_token_id": 49_190}
    data["text_config"] |= {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 49_280}
    with torch.device("meta"):
        oracle = transformers.SmolVLMForConditionalGeneration(transformers.SmolVLMConfig(**data))
    config = SmolVLMConfig.from_published({"model_type": "smolvlm", **data})
    assert config == getattr(SmolVLMConfig, f"smolvlm2_{name}")()
    assert config.tokens == tokens
    with unfilled():
        ours = SmolVLM(config)
    for network in (oracle, ours):
        assert sum(weight.numel() for weight in network.parameters()) == weights
    named = {key: spellings[0] for key, spellings in smolvlm_names(config).items()}
    shapes = {key: weight.shape for key, weight in oracle.state_dict().items()}
    assert {named[key]: weight.shape for key, weight in ours.state_dict().items()} == shapes
    assert len(shapes) == tensors
