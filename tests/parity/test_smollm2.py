"""The real weights of SmolLM2-135M: ours against transformers filled from the package gguf."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
import torch
from calibrated import armed_body

from visuomotor.agent.folder import open_sentences
from visuomotor.backbones.generation import generate
from visuomotor.backbones.language import load_smollm2, smollm2_file
from visuomotor.backbones.llama import smollm2_135m
from visuomotor.data.collate import collate
from visuomotor.errors import CheckpointError
from visuomotor.policies.pi0 import PI0Config
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.training.run import build_policy

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="needs the extra [test]")
gguf = pytest.importorskip("gguf", reason="needs the extra [test]")

pytestmark = [pytest.mark.slow, pytest.mark.smollm2]
PROMPT = "<|im_start|>user\nHow do I put the red cube into the blue bowl?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def path():
    try:
        return smollm2_file()
    except CheckpointError as error:
        pytest.skip(f"THE REAL WEIGHTS WERE NOT TESTED. {error}")


@pytest.fixture(scope="module")
def ours(path):
    return load_smollm2()


def independent(path) -> torch.nn.Module:
    """Llama of transformers with the weights as the package gguf unpacks them."""
    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.get_field(key).contents()

    config = transformers.LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        intermediate_size=value("llama.feed_forward_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        network = transformers.LlamaForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    theirs = {names.get_name(name, try_suffixes=(".weight",)): name for name in network.state_dict()}
    state = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        if re.search(r"attn_[qk]\.", tensor.name):
            heads = config.num_attention_heads if "attn_q" in tensor.name else config.num_key_value_heads
            rows, columns = values.shape
            values = (
                values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            )
        state[theirs.get(tensor.name, tensor.name)] = values
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    network.load_state_dict(state, strict=True, assign=True)
    network.model.rotary_emb = type(network.model.rotary_emb)(config)  # its buffer was made without values
    return network.eval()


@torch.no_grad()
def test_real_weights_write_the_same_tokens_as_an_independent_implementation(path, ours) -> None:
    model, tokenizer = ours
    assert model.config == smollm2_135m()
    ids = torch.tensor([tokenizer.encode(PROMPT, specials=True)])
    oracle = independent(path)
    expected = oracle.generate(
        ids, max_new_tokens=24, do_sample=False, eos_token_id=tokenizer.eos, pad_token_id=tokenizer.eos
    )[0, ids.shape[1] :]
    written = generate(model, model.embed(ids), limit=24, stop=[tokenizer.eos])
    assert written.rows()[0] == expected.tolist()
    text = tokenizer.decode(expected.tolist())
    assert re.search(r"\b(cube|bowl)\b", text), text
    scores, theirs = model(ids), oracle(input_ids=ids).logits
    # float32 through 30 layers, sums in another order
    torch.testing.assert_close(scores, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_the_tokenizer_inside_agrees_with_transformers_on_text_without_digits(ours) -> None:
    """Theirs takes the rule of GPT-2 for words, and SmolLM2 has one more: digits stand alone."""
    _, tokenizer = ours
    folder, name = smollm2_file().parent, smollm2_file().name
    oracle = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for text in ("Put the red cube in the blue bowl!", "  two  spaces\n\tand a tab", "año, 你好 🤖", PROMPT):
        assert tokenizer.encode(text, specials=True) == oracle.encode(text), text
    assert [tokenizer.token(place) for place in tokenizer.encode("in 204")] == ["in", "Ġ", "2", "0", "4"]
    assert (tokenizer.bos, tokenizer.eos) == (oracle.bos_token_id, oracle.eos_token_id)


@torch.no_grad()
def test_the_first_layers_are_the_trunk_of_a_small_policy(ours) -> None:
    """The recipe's trunk, with the words that its pipeline looks up, reads as the whole model does."""
    model, tokenizer = ours
    body = armed_body()
    policy = build_policy("pi0", PI0Config.smollm2(2), {"one": body}, seed=0)
    sentences = open_sentences(policy)
    sample = random_sample(body, policy.window, "one", 0)
    sample = replace(sample, instruction="put the red cube in the blue bowl")
    pipeline = policy.transforms("one", random_stats(body), sentences)
    batch = collate([pipeline.apply(sample)], policy.embodiments)
    states = policy.trunk._read(batch)[0].sentence
    ids = torch.tensor([tokenizer.encode(sample.instruction)])
    behind: list[torch.Tensor] = []  # what goes into the third layer
    third = model.decoder.layers[2].attention_norm
    handle = third.register_forward_pre_hook(lambda _, given: behind.append(given[0]))
    model(ids)
    handle.remove()
    expected = model.decoder.norm(behind[0])
    # float32 through two layers, sums in another order
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_sense_is_likelier_than_nonsense(ours) -> None:
    """Interleaved rows that are not put back, or a wrong base of angles, make both alike."""
    model, tokenizer = ours
    losses = []
    for text in ("The robot puts the red cube into the bowl.", "bowl the The into cube puts robot red the."):
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            scores = model(ids)
        losses.append(float(torch.nn.functional.cross_entropy(scores[0, :-1], ids[0, 1:])))
    assert losses[0] < 6  # 5.54; nats a token
    assert losses[1] > losses[0] + 3  # 9.88
