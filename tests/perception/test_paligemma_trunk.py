"""PaliGemma as a trunk: the contract with a tokenizer that the test makes, and prompts to the letter."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from byte_tokenizer import save_byte_tokenizer
from calibrated import armed_body, random_batch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from visuomotor.agent import PolicyAgent, load_policy, save_agent
from visuomotor.agent.compiled import CompiledAct
from visuomotor.backbones.gemma import gemma_2b
from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.backbones.siglip import SigLIPConfig
from visuomotor.errors import CheckpointError, DataError
from visuomotor.nn.mixture import Segment, run
from visuomotor.nn.weights import unfilled
from visuomotor.perception.augmentation import AugmentationConfig
from visuomotor.perception.paligemma_trunk import (
    PACK,
    PaliGemmaTrunkConfig,
    binned,
    written,
    written_with_state,
)
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.policies.pi05 import PI05, PI05Config
from visuomotor.testing import check_policy
from visuomotor.testing.policies import shape_checks_off
from visuomotor.testing.samples import random_observation, random_sample, random_stats
from visuomotor.text.tokenizer import load_tokenizer
from visuomotor.training.begin import begin_from
from visuomotor.types import Batch, Sample, Window

VOCABULARY = 300


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One id a byte, and marks for begin and end."""
    return save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), VOCABULARY)


def published(folder: Path, *, gemma: bool = False) -> str:
    """As the hub has it: PaliGemma's 257,152 ids, and "<image>" behind them; or Gemma's own.

    Its pieces are bytes and others that no text becomes.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {letter: 3 + n for n, letter in enumerate(letters)}
    words |= {f"<unused{n}>": n for n in range(len(words), 256_000)}
    if not gemma:
        words |= {f"<loc{n:04}>": 256_000 + n for n in range(1024)}
        words |= {f"<seg{n:03}>": 257_024 + n for n in range(128)}
    table = Tokenizer(models.BPE(words, []))
    table.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    table.decoder = decoders.ByteLevel()
    table.add_special_tokens(["<pad>", "<eos>", "<bos>"] if gemma else ["<pad>", "<eos>", "<bos>", "<image>"])
    folder.mkdir()
    table.save(str(folder / "tokenizer.json"), pretty=False)
    return str(folder)


def test_the_tokenizer_on_the_hub_is_that_of_the_published_policy(tmp_path: Path) -> None:
    """transformers put "<image>" behind the table; nothing that people write becomes it."""
    spec, config = armed_body(), PI0Config.published()
    with unfilled():
        policy = PI0(config, {"one": spec})
    policy.trunk.tokenizer = published(tmp_path / "hub")
    table = load_tokenizer(tmp_path / "hub")
    assert table.id_of("<image>") == config.trunk.paligemma.language.vocabulary  # type: ignore[union-attr]
    pipeline = policy.transforms("one", random_stats(spec))
    said = "<image><eos> lift it"
    tokens = pipeline.apply(replace(random_sample(spec, policy.window, "one", 0), instruction=said)).tokens
    assert tokens is not None
    ids = tokens.ids[tokens.attend].tolist()
    assert ids[0] == 2
    assert set(ids[1:]).isdisjoint((1, table.id_of("<image>")))
    assert table.decode(ids[1:]) == said + "\n"
    policy.trunk.tokenizer = published(tmp_path / "gemma", gemma=True)  # of fitting size
    with pytest.raises(CheckpointError, match="expected id 256000 for '<loc0000>', got None"):
        policy.transforms("one", random_stats(spec))


def test_marks_have_the_ids_that_the_model_was_trained_with(tokenizer: str, tmp_path: Path) -> None:
    words = json.loads((Path(tokenizer) / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["<eos>"], vocabulary["<bos>"] = vocabulary["<bos>"], vocabulary["<eos>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    policy = PI0(replace(PI0Config.tiny(), trunk=trunk(str(tmp_path))), {"one": armed_body()})
    with pytest.raises(CheckpointError, match="expected id 1 for '<eos>', got 2"):
        policy.transforms("one", random_stats(armed_body()))


def trunk(tokenizer: str, **changes: object) -> PaliGemmaTrunkConfig:
    language = PaliGemmaConfig.tiny(VOCABULARY).language
    sizes = PaliGemmaConfig(vision=SigLIPConfig.tiny(), language=language)
    config = PaliGemmaTrunkConfig(
        paligemma=sizes, tokenizer=tokenizer, max_tokens=160, cameras=2, state=8, action=8
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_pi0_with_paligemma_keeps_the_contract(tokenizer: str) -> None:
    config = replace(PI0Config.tiny(), trunk=trunk(tokenizer), temperature=1.0)
    check_policy(lambda: PI0(config, {"one": armed_body()}), samples=3, compiles=False)


@pytest.mark.slow
def test_a_compiled_call_leaves_out_what_is_not_there(tokenizer: str) -> None:
    config = replace(PI0Config.tiny(), trunk=trunk(tokenizer), steps=2)
    torch.manual_seed(0)
    policy = PI0(config, {"one": armed_body()}).eval()
    batch = random_batch(policy, 2)
    assert batch.tokens is not None
    columns = batch.tokens.ids.shape[1]
    nowhere = torch.zeros_like(batch.image_mask["wrist"])
    batch = replace(batch, image_mask={**batch.image_mask, "wrist": nowhere})
    packed = policy.packed(batch)
    assert packed.tokens is not None
    longest = int(batch.tokens.attend.sum(1).max())
    assert columns == 160 > packed.tokens.ids.shape[1] >= longest
    assert packed.tokens.ids.shape[1] % PACK == 0
    assert list(packed.images) == ["front"]
    with torch.no_grad(), shape_checks_off():
        plain = policy.act(batch, generator=torch.Generator().manual_seed(0)).actions
        quick = CompiledAct(policy, backend="eager")
        given: list[Batch] = []
        call = quick._call
        quick._call = lambda batch, **rest: (given.append(batch), call(batch, **rest))[1]
        found = quick(batch, torch.Generator().manual_seed(0)).actions
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert list(given[0].images) == ["front"]


def test_pictures_are_augmented_while_learning_and_not_while_acting(tokenizer: str) -> None:
    """Wrist views keep their place; with colors left alone they are as they were."""
    turns = replace(AugmentationConfig.none(), turn_deg=20.0)
    config = replace(PI0Config.tiny(), trunk=trunk(tokenizer, augmentation=turns))
    policy = PI0(config, {"one": armed_body()}).eval()
    batch = random_batch(policy)

    def learned(seed: int) -> torch.Tensor:
        return policy.trunk.learn(batch, torch.Generator().manual_seed(seed)).prefix.tokens

    with torch.no_grad():
        acting, learning = policy.trunk.observe(batch).prefix.tokens, learned(0)
        front, wrist = (
            slice(config.trunk.paligemma.vision.tokens),
            slice(config.trunk.paligemma.vision.tokens, None),
        )
        assert not torch.equal(acting[:, front], learning[:, front])
        assert torch.equal(acting[:, wrist], learning[:, wrist])
        assert torch.equal(learning, learned(0))
        assert not torch.equal(learning, learned(1))


def test_without_flow_and_guess_a_chunk_is_a_failure(tokenizer: str) -> None:
    sizes = trunk(tokenizer, prompt="before_tokens", normalize="quantile", max_tokens=220)
    config = replace(PI05Config.tiny(), trunk=sizes, insulated=True, vocabulary=100, weight=0.0)
    policy = PI05(config, {"one": armed_body()}).eval()
    with torch.no_grad():
        acted = policy.act(random_batch(policy))
    assert acted.failures is not None
    assert all("weight above 0" in str(reason) for reason in acted.failures)
    assert acted.mask is not None
    assert not acted.mask.any()


def test_the_prompts_are_those_of_the_released_code(tokenizer: str) -> None:
    sample = random_sample(armed_body(), Window(horizon=4), "one", 0)
    sample = replace(sample, instruction=" put_it\nthere ", state=np.array([[-2.0, 0.0, 1.0]], np.float32))
    assert written(sample) == ("put it there", "\n")
    assert written_with_state(sample) == ("Task: put it there, State: -1 128 255;\nAction: ",)


def test_published_policies_normalize_as_released(tokenizer: str) -> None:
    trunks = [config.published().trunk for config in (PI0Config, PI05Config, PI0FASTConfig)]
    assert [one.normalize for one in trunks] == ["openpi_mean_std", *["openpi_quantile"] * 2]  # type: ignore[union-attr]
    assert trunk(tokenizer, normalize="quantile").released().released().normalize == "openpi_quantile"
    with pytest.raises(ValueError, match="unknown normalization that was released 'min_max'"):
        trunk(tokenizer, normalize="min_max").released()
    spec, chosen = armed_body(), trunk(tokenizer, prompt="instruction_and_state", normalize="quantile")
    policy = PI05(replace(PI05Config.tiny(), trunk=chosen.released()), {"one": spec})
    stats = random_stats(spec)
    low, high = stats["state"].q01, stats["state"].q99.copy()
    high[0] = low[0] + 1e-5  # a constant, but for noise
    still = replace(stats["state"], q99=high)
    sample = random_sample(spec, policy.window, "one", 0)
    pipeline = policy.transforms("one", replace(stats, features={**stats.features, "state": still}))
    expected = 2 * (sample.state[0, 0] - low[0]) / 1.1e-5 - 1
    np.testing.assert_allclose(pipeline.apply(sample).state[0, 0], expected, rtol=1e-4)


def test_the_state_in_the_prompt_is_normalized_and_not_padded(tokenizer: str) -> None:
    spec = armed_body()
    config = replace(
        PI05Config.tiny(), trunk=trunk(tokenizer, prompt="instruction_and_state", normalize="quantile")
    )
    policy = PI05(config, {"one": spec})
    sample = policy.transforms("one", random_stats(spec)).apply(random_sample(spec, policy.window, "one", 0))
    assert sample.tokens is not None
    ids = sample.tokens.ids[sample.tokens.attend]
    assert ids[0] == 2
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # one id a byte
    text = "".join(alphabet[place - 3] for place in ids[1:]).replace("\u0120", " ").replace("\u010a", "\n")
    numbers = " ".join(str(number) for number in binned(sample.state[0, : len(spec.state)]))
    assert text == f"Task: {sample.instruction}, State: {numbers};\nAction: "
    raw = random_sample(spec, policy.window, "one", 0).state[-1]
    assert binned(raw).tolist() != binned(sample.state[0, : len(spec.state)]).tolist()
    assert sample.state.shape == (1, 8)  # padded, but not in the prompt


def test_a_pi05_without_state_is_declared_and_answers_alike_wherever_it_is(tokenizer: str) -> None:
    spec, silent = armed_body(), trunk(tokenizer, prompt="instruction", normalize="openpi_quantile")
    config = replace(PI05Config.tiny(), trunk=silent, reads_state=False)
    published = PI05Config.published_libero()
    assert (published.reads_state, published.horizon, published.trunk.prompt) == (False, 10, "instruction")  # type: ignore[union-attr]
    torch.manual_seed(0)
    policy = PI05(config, {"one": spec})
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    agent = PolicyAgent(policy, policy.transforms("one", random_stats(spec)), key="one")
    seen = random_observation(spec, np.random.default_rng(0))
    answers = [
        agent.act(replace(seen, state=state, instruction=words)).actions
        for state, words in ((seen.state, "go"), (seen.state + 0.5, "go"), (seen.state, "stop now"))
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[2]).max() > 1e-3
    for changes, match in (
        ({"reads_state": True}, "never reads the state"),
        ({"trunk": replace(silent, prompt="instruction_and_state")}, "tells the state, which this policy"),
        ({"trunk": PI05Config.tiny().trunk}, "the shared sight always reads the state"),
    ):
        with pytest.raises(ValueError, match=match):
            replace(config, **changes)


def test_a_prompt_that_is_too_long_is_refused(tokenizer: str) -> None:
    spec = armed_body()
    policy = PI0(replace(PI0Config.tiny(), trunk=trunk(tokenizer, max_tokens=4)), {"one": spec})
    pipeline = policy.transforms("one", random_stats(spec))
    with pytest.raises(DataError, match="reads at most 4"):
        pipeline.apply(random_sample(spec, policy.window, "one", 0))


def test_a_tokenizer_of_another_model_is_refused(tokenizer: str) -> None:
    spec = armed_body()
    language = PaliGemmaConfig.tiny(64).language
    sizes = PaliGemmaConfig(vision=SigLIPConfig.tiny(), language=language)
    policy = PI0(replace(PI0Config.tiny(), trunk=trunk(tokenizer, paligemma=sizes)), {"one": spec})
    with pytest.raises(CheckpointError, match="300 ids, the model 64"):
        policy.transforms("one", random_stats(spec))


def test_a_checkpoint_reads_with_a_tokenizer_of_its_own(tokenizer: str, tmp_path: Path) -> None:
    original, body = tmp_path / "original", armed_body()
    shutil.copytree(tokenizer, original)
    config = replace(PI0Config.tiny(), trunk=trunk(str(original)))
    first = save_agent(tmp_path / "first", PI0(config, {"one": body}), {"one": random_stats(body)})
    shutil.rmtree(original)
    loaded = load_policy(first)
    assert loaded.policy.config == config  # which still says where the tokenizer came from
    again = save_agent(tmp_path / "again", loaded.policy, loaded.stats)
    shutil.rmtree(first)
    load_policy(again)
    other = PI0(config, {"one": body})
    begin_from(other, again)
    other.transforms("one", loaded.stats["one"])
    planted = again / "tokenizer" / "special_tokens_map.json"
    planted.write_text("{}")
    with pytest.raises(CheckpointError, match="is not listed"):
        load_policy(again)
    planted.unlink()
    file = again / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(CheckpointError, match="damaged or was changed"):
        load_policy(again)


def test_a_state_that_is_too_wide_is_refused(tokenizer: str) -> None:
    with pytest.raises(ValueError, match="Choose a larger padded state"):
        PI0(replace(PI0Config.tiny(), trunk=trunk(tokenizer, state=1)), {"one": armed_body()})


@pytest.mark.slow
def test_pi0_fast_over_paligemma_keeps_the_contract(tokenizer: str) -> None:
    spec = armed_body()
    sizes = {"prompt": "before_tokens", "normalize": "quantile", "max_tokens": 220}
    config = PI0FASTConfig(horizon=4, trunk=trunk(tokenizer, **sizes), vocabulary=160)
    unfitted = PI0FAST(config, {"one": spec})
    pipeline = unfitted.transforms("one", random_stats(spec))
    chunks = [pipeline.apply(random_sample(spec, unfitted.window, "one", n)).actions for n in range(40)]
    made = unfitted.fitted(np.stack(chunks))  # type: ignore[arg-type]
    check_policy(lambda: PI0FAST(made, {"one": spec}), samples=3, compiles=False)


def speaking(tokenizer: str, **changes: object) -> PI05Config:
    """pi0.5 that writes, over PaliGemma."""
    sizes = trunk(tokenizer, prompt="before_tokens", normalize="quantile", max_tokens=220)
    return replace(PI05Config.tiny(), trunk=sizes, subtasks=True, answers=True, text_tokens=48, **changes)


@pytest.mark.slow
def test_pi05_that_writes_over_paligemma_keeps_the_contract(tokenizer: str) -> None:
    config = speaking(tokenizer, temperature=1.0)
    check_policy(lambda: PI05(config, {"one": armed_body()}), samples=3, compiles=False)


@pytest.fixture(scope="module", params=["instruction_and_state", "before_tokens"])
def insulated(request: pytest.FixtureRequest, tokenizer: str) -> PI05Config:
    """pi0.5 with knowledge insulation over PaliGemma, and with a codec for the samples that tests make."""
    sizes = trunk(tokenizer, prompt=request.param, normalize="quantile", max_tokens=220)
    config = replace(PI05Config.tiny(), trunk=sizes, insulated=True, vocabulary=160, temperature=1.0)
    unfitted, spec = PI05(config, {"one": armed_body()}), armed_body()
    pipeline = unfitted.transforms("one", random_stats(spec))
    chunks = [pipeline.apply(random_sample(spec, unfitted.window, "one", n)).actions for n in range(40)]
    return unfitted.fitted(np.stack(chunks))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("insulated", ["instruction_and_state"], indirect=True)
def test_an_insulated_policy_over_paligemma_keeps_the_contract(insulated: PI05Config) -> None:
    check_policy(lambda: PI05(insulated, {"one": armed_body()}), samples=3, compiles=False)


def test_actions_are_announced_once(insulated: PI05Config, tokenizer: str) -> None:
    spec, table = armed_body(), load_tokenizer(tokenizer)
    policy = PI05(insulated, {"one": spec})
    sample = random_sample(spec, policy.window, "one", 0)
    tokens = policy.transforms("one", random_stats(spec)).apply(sample).tokens
    assert tokens is not None
    assert policy.codec is not None
    ids = tokens.ids[tokens.attend]
    end = len(ids) - len("|") - 1
    start = end - len(policy.codec.encode(policy_actions(policy, sample)))
    assert table.decode(ids[:start].tolist()).endswith(";\nAction: ")
    assert table.decode(ids[:start].tolist()).count("Action:") == 1
    assert tokens.loss[tokens.attend][start:].all()  # the first token of the chunk, too
    with pytest.raises(ValueError, match=r'pi0-FAST.*expected trunk\.prompt="before_tokens"'):
        PI0FASTConfig(trunk=trunk(tokenizer, prompt="instruction_and_state"), vocabulary=160)


def policy_actions(policy: PI05, sample: Sample) -> np.ndarray:
    """The chunk that is written: normalized, padded; behind the end of an episode its last action stands."""
    actions = policy.transforms("one", random_stats(armed_body())).apply(sample).actions
    assert actions is not None
    assert sample.horizon_mask is not None
    reached = int(sample.horizon_mask.sum())
    return actions[np.minimum(np.arange(len(actions)), reached - 1)]


def test_each_token_of_an_insulated_chunk_is_predicted_from_all_before_it(insulated: PI05Config) -> None:
    """The first from the prompt's last state, if that announces it; each row alone, in one pass."""
    torch.manual_seed(0)
    still = replace(insulated.trunk, augmentation=AugmentationConfig.none())  # to be seen again, as it was
    policy = PI05(replace(insulated, trunk=still), {"one": armed_body()})
    batch, width = random_batch(policy, 3), policy.trunk.prompt_width
    assert batch.tokens is not None
    with torch.no_grad():
        term = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms["token"]
        total, count = 0.0, 0
        for row in range(3):
            one = batch.map(lambda tensor, row=row: tensor[row : row + 1])
            ids = batch.tokens.ids[row, width:][batch.tokens.attend[row, width:]]
            text = Segment(tokens=policy.trunk.embed(ids[None]), block=1, causal=True)
            (seen, end), _ = run([policy.trunk.decoder], [policy.trunk.observe(one).prefix, text])
            states = torch.cat([seen[:, -1:], end[:, :-1]], dim=1)[0]
            skip = 0 if insulated.trunk.announces else 1  # type: ignore[union-attr]
            scores = policy.trunk.score(states[None])[0]
            total += float(F.cross_entropy(scores[skip:], ids[skip:], reduction="sum"))
            count += len(ids) - skip
    assert float(term.count) == count
    assert float(term.sum) == pytest.approx(total, rel=1e-4)  # float32, sums in another order


def test_the_flow_of_an_insulated_policy_teaches_paligemma_nothing(insulated: PI05Config) -> None:
    torch.manual_seed(0)
    policy = PI05(insulated, {"one": armed_body()})
    for parameter in policy.expert.parameters():  # fresh norms are steered by nothing
        torch.nn.init.normal_(parameter, std=0.3)
    loss = policy.loss(random_batch(policy), generator=torch.Generator().manual_seed(0))
    loss.terms["flow"].sum.backward(retain_graph=True)
    assert all(weight.grad is None for weight in policy.trunk.parameters())
    assert all(weight.grad is not None for weight in policy.expert.levels[0].parameters())
    loss.terms["token"].sum.backward()
    assert all(weight.grad is not None for weight in policy.trunk.parameters())


def test_texts_are_spelled_in_the_words_of_the_tokenizer(tokenizer: str) -> None:
    spec = armed_body()
    policy = PI05(speaking(tokenizer), {"one": spec})
    assert not policy.unfitted
    pipeline = policy.transforms("one", random_stats(spec))
    sample = random_sample(spec, policy.window, "one", 0)
    table = load_tokenizer(tokenizer)

    def texts(sample: Sample) -> tuple[str, str, str]:
        """Prompt, what announces, and what is learned."""
        tokens = pipeline.apply(sample).tokens
        assert tokens is not None
        prompt = np.arange(len(tokens.ids)) < 220
        parts = (prompt & tokens.attend, ~prompt & tokens.attend & ~tokens.loss, tokens.loss)
        return tuple(table.decode(tokens.ids[part].tolist(), specials=True) for part in parts)  # type: ignore[return-value]

    _, announced, learned = texts(sample)
    assert (announced, learned) == ("Subtask: ", "pick up the red cube<eos>")
    asked = replace(
        sample,
        instruction="How many?",
        answer="two",
        state_mask=np.zeros_like(sample.state_mask),
        actions=None,
        horizon_mask=None,
        action_mask=None,
    )
    assert texts(asked) == ("<bos>Task: how many?;\n", "Answer: ", "two<eos>")
    with pytest.raises(ValueError, match=r'expected trunk\.prompt="before_tokens"'):
        replace(speaking(tokenizer), trunk=trunk(tokenizer, prompt="instruction_and_state"))


def test_ids_of_actions_are_counted_down_from_before_the_codes(tokenizer: str) -> None:
    spec = armed_body()
    config = trunk(tokenizer, prompt="before_tokens", normalize="quantile", max_tokens=220)
    made = PI0FAST(PI0FASTConfig(horizon=4, trunk=config, vocabulary=160), {"one": spec})
    how = made.trunk.writing()
    assert how.last == VOCABULARY - 1 - 128
    assert len(how.before) == len("Action: ")
    assert how.after[-1] == 1  # the end of a text
    with pytest.raises(ValueError, match="do not fit"):
        PI0FASTConfig(trunk=config, vocabulary=200)
    padded = replace(config.paligemma, language=gemma_2b(257_216))  # rows for alignment, as on the hub
    assert replace(config, paligemma=padded).words == 257_152
    with pytest.raises(ValueError, match="never reads the state"):
        PI0FASTConfig(trunk=trunk(tokenizer), vocabulary=160)
