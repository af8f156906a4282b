"""A trunk that reads the instruction itself, before the eyes look; without any published weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import armed_body, body

from visuomotor.backbones import llama
from visuomotor.backbones.language import Words
from visuomotor.backbones.language_model import LanguageModel
from visuomotor.data.collate import collate
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.trunk import Seen, SightTrunk, SightTrunkConfig
from visuomotor.policies.base import Policy
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.policies.pi05 import PI05, PI05Config
from visuomotor.recipes import get_recipe
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.testing.sentences import RandomSentenceEncoder
from visuomotor.text.sentences import SentenceCache
from visuomotor.text.tokenizer import byte_level_tokenizer
from visuomotor.training import run as training
from visuomotor.training.config import TrainConfig
from visuomotor.training.selection import choose_trained
from visuomotor.types import Batch

ONE = {"one": armed_body()}
WIDTH = 32  # of the tiny decoder


SENTENCES = SentenceCache(RandomSentenceEncoder(WIDTH))
"""In the place of SmolLM2's table: a row a word, which knows nothing of its neighbors."""


def reading(config: SightTrunkConfig, **sight: float) -> SightTrunkConfig:
    """A tiny trunk that reads."""
    return replace(
        config,
        language=replace(LanguageConfig.tiny(), reader="smollm2", width=WIDTH),
        sight=replace(config.sight, **sight),  # type: ignore[arg-type]
    )


def built(**sight: float) -> PI0:
    torch.manual_seed(0)
    return PI0(replace(PI0Config.tiny(), trunk=reading(SightTrunkConfig.tiny(), **sight)), ONE).eval()


def trunk_of(policy: PI0) -> SightTrunk:
    assert isinstance(policy.trunk, SightTrunk)
    return policy.trunk


def told(policy: Policy, *instructions: str) -> Batch:
    """The same observation with several instructions."""
    pipeline = policy.transforms("one", random_stats(ONE["one"]), SENTENCES)
    sample = random_sample(ONE["one"], policy.window, "one", 0)
    samples = [pipeline.apply(replace(sample, instruction=each)) for each in instructions]
    return collate(samples, policy.embodiments)


@pytest.mark.slow
def test_pi0_with_a_trunk_that_reads_keeps_the_contract() -> None:
    one_view = dict.fromkeys(
        ("trunk.sight.trust.weight", "trunk.sight.trust.bias"), "only one camera is calibrated"
    )
    config = replace(PI0Config.tiny(), trunk=reading(SightTrunkConfig.tiny()))
    bodies = {"one": body("arm"), "two": body("leg", 5, 2)}
    check_policy(lambda: PI0(config, bodies), sentences=SENTENCES, without_gradient=one_view)


def test_words_are_told_apart_by_their_order_and_steer_the_eyes() -> None:
    policy = built()
    batch = told(policy, "red in blue", "blue in red", "red in blue")
    with torch.no_grad():
        read, _ = trunk_of(policy)._read(batch)
        states, slots = read.sentence, trunk_of(policy).sight.read(read)
        seen = policy.trunk.observe(batch)
    assert states is not None
    torch.testing.assert_close(slots[0], slots[2])
    assert not torch.allclose(slots[0], slots[1], atol=1e-5)
    assert not torch.allclose(states[0, 3], states[1, 1], atol=1e-3)  # "blue" behind other words
    # The tokens of what was seen look back at the words, and actions at both.
    past = policy.remember(seen)
    assert [part.block for part in past] == [0, 0, 1]
    assert past[0].real is not None
    assert past[0].keys[0].shape[2] == 4  # a start and three words


def test_the_decoder_decides_what_the_eyes_hear() -> None:
    policy = built()
    batch = told(policy, "red in blue")
    with torch.no_grad():
        queries = []
        for factor in (1.0, 3.0):
            trunk_of(policy).decoder.levels[-1].down.weight.mul_(factor)
            read, _ = trunk_of(policy)._read(batch)
            queries.append(trunk_of(policy).sight(read).seen["front"].queries)
    assert not torch.allclose(queries[0], queries[1], atol=1e-5)


def test_padding_of_a_sentence_takes_no_place() -> None:
    policy = built()
    alone, beside = told(policy, "lift it"), told(policy, "lift it", "put the red cube in the blue bowl")
    with torch.no_grad():
        noise = torch.zeros(2, 4, policy.action_width)
        one, two = policy.act(alone, noise=noise[:1]), policy.act(beside, noise=noise)
    torch.testing.assert_close(one.actions[0], two.actions[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blank", [0.0, 1.0])
def test_a_sentence_that_the_eyes_lose_in_training_is_lost_to_everyone(blank: float) -> None:
    policy = built(blank=blank)
    batch = told(policy, "lift it", "put the red cube in the blue bowl")
    assert batch.blind is None
    blind = replace(batch, images={}, image_mask={})
    batch = replace(batch, blind=blind)
    seen: Seen = policy.trunk.learn(batch, torch.Generator().manual_seed(0))
    (past,) = seen.past
    assert past.real is not None
    assert past.real.shape[0] == len(seen.state) == 2 * len(batch)
    assert bool(past.real.any(1).all()) is (blank == 0.0)
    assert bool(past.real.any()) is (blank == 0.0)


@torch.no_grad()
def test_pi05_reads_first_too() -> None:
    torch.manual_seed(0)
    config = PI05Config.tiny()
    assert isinstance(config.trunk, SightTrunkConfig)
    policy = PI05(replace(config, trunk=reading(config.trunk)), ONE)
    seen = policy.trunk.observe(told(policy, "lift it"))
    words, prefix = policy.remember(seen)
    assert words is seen.past[0]
    (alone,) = policy.remember(seen._replace(past=()))
    assert not torch.allclose(prefix.keys[-1], alone.keys[-1], atol=1e-5)


@torch.no_grad()
def test_pi0_fast_writes_behind_words_that_it_has_read() -> None:
    torch.manual_seed(0)
    tiny = PI0FASTConfig.tiny()
    assert isinstance(tiny.trunk, SightTrunkConfig)
    unfitted = PI0FAST(replace(tiny, trunk=reading(tiny.trunk)), ONE)
    spec = ONE["one"]
    pipeline = unfitted.transforms("one", random_stats(spec), SENTENCES)
    chunks = [pipeline.apply(random_sample(spec, unfitted.window, "one", n)).actions for n in range(40)]
    policy = PI0FAST(unfitted.fitted(np.stack(chunks)), ONE)  # type: ignore[arg-type]
    one, other = (
        policy.loss(told(policy, text), generator=torch.Generator().manual_seed(0)).terms["token"].sum
        for text in ("lift it", "drop it")
    )
    assert abs(float(one - other)) > 1e-5  # the vector of what is seen knows no words yet
    acted = policy.act(told(policy, "lift it"))
    assert bool(torch.isfinite(acted.actions).all())


# Published layers


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A model in the place of SmolLM2, with its conventions, as wide as the tiny decoder."""
    torch.manual_seed(3)
    model = LanguageModel(replace(llama.smollm2_135m(), decoder=SMALL))
    monkeypatch.setattr(
        "visuomotor.perception.trunk.load_smollm2",
        lambda layers: (first(model, layers), None),
    )
    return model


SMALL = replace(
    llama.smollm2_135m().decoder, width=WIDTH, layers=3, heads=4, kv_heads=2, head_width=8, mlp_width=40
)


def first(model: LanguageModel, layers: int) -> LanguageModel:
    part = LanguageModel(model.config.first(layers))
    whole = model.state_dict()
    part.load_state_dict({name: whole[name] for name in part.state_dict()})
    return part


def pretrained(layers: int = 2) -> PI0Config:
    trunk = reading(replace(SightTrunkConfig.tiny(), decoder=replace(SMALL, layers=layers)))
    return replace(PI0Config.tiny(), trunk=replace(trunk, pretrained="smollm2"))


def test_training_begins_with_published_layers_and_keeps_them_if_frozen(published: LanguageModel) -> None:
    policy = training.build_policy("pi0", pretrained(), ONE, seed=0)
    assert isinstance(policy, PI0)
    theirs = first(published, 2).decoder.state_dict()
    decoder = policy.trunk.decoder
    assert all(torch.equal(weight, theirs[name]) for name, weight in decoder.state_dict().items())
    choose_trained(policy, TrainConfig(freeze=("trunk.decoder",)))
    batch = told(policy, "lift it")
    policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms["flow"].sum.backward()
    assert all(weight.grad is None for weight in decoder.parameters())
    trunk = trunk_of(policy)
    assert trunk.enter.weight.grad is not None  # through the frozen layers
    assert bool(trunk.enter.weight.grad.any())


def test_a_new_policy_that_is_not_trained_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visuomotor.perception.trunk.load_smollm2", lambda layers: 1 / 0)
    PI0(pretrained(), ONE)  # as a checkpoint is read


def test_published_layers_of_other_sizes_are_refused(published: LanguageModel) -> None:
    other = pretrained()
    assert isinstance(other.trunk, SightTrunkConfig)
    narrow = replace(other.trunk.decoder, mlp_width=48)
    with pytest.raises(ValueError, match=r"Begin with SightTrunkConfig\.smollm2"):
        training.build_policy("pi0", replace(other, trunk=replace(other.trunk, decoder=narrow)), ONE, seed=0)


def test_words_that_a_decoder_cannot_read_are_refused() -> None:
    with pytest.raises(ValueError, match="reads words as wide as itself, got 384"):
        replace(SightTrunkConfig.tiny(), language=LanguageConfig(reader="smollm2"))
    with pytest.raises(ValueError, match="neither hears words nor writes texts"):
        replace(reading(SightTrunkConfig.tiny()), hears=True)
    with pytest.raises(ValueError, match=r"unknown pretrained decoder 'smollm3'.*Did you mean 'smollm2'"):
        replace(SightTrunkConfig.tiny(), pretrained="smollm3")


def test_a_table_of_words_is_looked_up_and_cached_as_it_is() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    words = Words(table, byte_level_tokenizer(["a", "b", "c", "d"], []), "hash")
    assert np.array_equal(SentenceCache(words).encode("bad"), table[[1, 0, 3]])
    assert words.width == 3


def test_the_recipe_has_attention_of_equal_shape_and_freezes_what_is_published() -> None:
    recipe = get_recipe("demo-pi0-smollm2")
    config: PI0Config = recipe.policy
    trunk, expert = config.trunk.decoder, config.expert
    assert (trunk.width, trunk.layers, trunk.heads, trunk.kv_heads, trunk.head_width) == (576, 2, 9, 3, 64)
    assert replace(expert, width=576, mlp_width=1536) == trunk
    assert recipe.training.freeze == ("trunk.decoder",)
    assert replace(recipe.training, freeze=(), precision="auto") == get_recipe("demo-pi0").training
