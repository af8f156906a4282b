"""pi0.5 writes what is to be done before it acts, and acts on what it wrote."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import armed_body, random_batch

from visuomotor.agent import load_agent
from visuomotor.agent.compiled import CompiledAct
from visuomotor.agent.folder import save_agent
from visuomotor.agent.policy import PolicyAgent
from visuomotor.data.collate import collate
from visuomotor.errors import DataError
from visuomotor.executors import RecedingHorizon
from visuomotor.nn.mixture import Segment, remember, run
from visuomotor.policies.base import Context
from visuomotor.policies.pi05 import PI05, PI05Config
from visuomotor.session import Session
from visuomotor.testing import check_policy
from visuomotor.testing.policies import shape_checks_off
from visuomotor.testing.samples import SUBTASKS, random_observation, random_sample, random_stats
from visuomotor.transforms.written_text import Text, text_of
from visuomotor.types import Batch, Sample

BODIES = {"one": armed_body()}
ANSWERS = ("yes", "the green cube")


@cache
def config(*, insulated: bool = False) -> PI05Config:
    """With the words, and the codec, of the samples that tests make."""
    tiny = PI05Config.tiny()
    trunk = replace(tiny.trunk, hears=True, words=257 if insulated else 0)
    policy = PI05(replace(tiny, subtasks=True, trunk=trunk, insulated=insulated, vocabulary=256), BODIES)
    assert policy.unfitted
    spec = BODIES["one"]
    pipeline = policy.transforms("one", random_stats(spec))
    chunks = [pipeline.apply(random_sample(spec, policy.window, "one", n)).actions for n in range(40)]
    return policy.fitted(np.stack(chunks), (*SUBTASKS, *ANSWERS))  # type: ignore[arg-type]


def built(**changes: object) -> PI05:
    torch.manual_seed(0)
    made = PI05(replace(config(), **changes), BODIES).eval()  # type: ignore[arg-type]
    for parameter in made.expert.parameters():  # fresh norms are steered by nothing
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def batch_of(policy: PI05, subtasks: list[str | None]) -> Batch:
    """Random samples with these subtasks."""
    samples = [row(policy, number, subtask=subtask) for number, subtask in enumerate(subtasks)]
    return collate(samples, policy.embodiments)


def row(policy: PI05, number: int, **changes: object) -> Sample:
    """A prepared sample."""
    spec = BODIES["one"]
    sample = replace(random_sample(spec, policy.window, "one", number), **changes)  # type: ignore[arg-type]
    return policy.transforms("one", random_stats(spec)).apply(sample)


def questions(policy: PI05, answers: list[str]) -> list[Sample]:
    """Prepared samples that ask and have these answers; an empty one is still to be written.

    Every other picture is white, the rest are black.
    """
    spec = BODIES["one"]
    pipeline = policy.transforms("one", random_stats(spec))
    return [
        pipeline.apply(
            replace(
                sample := random_sample(spec, policy.window, "one", 20 + n),
                images={name: np.full_like(seen, 255 * (n % 2)) for name, seen in sample.images.items()},
                instruction="which one?",
                answer=answer,
                subtask=None,
                state=np.zeros((1, len(spec.state)), np.float32),
                state_mask=np.zeros(len(spec.state), bool),
                actions=None,
                horizon_mask=None,
                action_mask=None,
                keypoint_mask=np.zeros(2, bool),
            )
        )
        for n, answer in enumerate(answers)
    ]


def said(policy: PI05, batch: Batch) -> Context:
    """The subtasks of a batch as if they had been thought."""
    text = text_of([batch], policy.trunk.prompt_width, policy.config.text_tokens)
    return Context(tensors=text._asdict(), time=torch.zeros(len(batch), dtype=torch.float64))


def act(policy: PI05, batch: Batch, context: Context | None = None) -> torch.Tensor:
    assert batch.actions is not None
    with torch.no_grad():
        noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0))
        return policy.act(batch, noise=noise, context=context).actions


@pytest.mark.slow
@pytest.mark.parametrize("insulated", [False, True])
def test_the_contract_is_kept(insulated: bool) -> None:
    made = config(insulated=insulated)
    check_policy(lambda: PI05(made, BODIES), compiles=False)


def test_what_is_written_word_by_word_is_the_likeliest_of_all_at_once() -> None:
    """Cached writing of rows of different lengths against scores of the whole text of one row."""
    policy = built(text_tokens=10)
    batch = random_batch(policy)
    end = policy.trunk.end_of_text
    with torch.no_grad():
        for weight in policy.trunk.decoder.parameters():  # fresh ones write the same word over and over
            torch.nn.init.normal_(weight, std=0.5)
        policy.trunk.words.weight[end] *= 1.5  # type: ignore[union-attr]
        text, grown = policy.write(batch, policy.remember(policy.trunk.observe(batch)))
        lengths = set()
        for row in range(len(batch)):
            one = batch.map(lambda tensor, row=row: tensor[row : row + 1])
            ids = text.ids[row : row + 1, text.real[row]]
            lengths.add(ids.shape[1])
            seen = policy.trunk.observe(one)
            words = Segment(tokens=policy.trunk.embed(ids), block=1, causal=True)
            (_, state), pasts = run([policy.trunk.decoder], [seen.prefix, words])
            likeliest = policy.trunk.score(state)[0, :, end:].argmax(-1) + end
            assert ids[0, 0] == policy.config.trunk.words  # type: ignore[union-attr]
            assert ids[0, -1] == end
            reached = ids.shape[1] - (2 if ids.shape[1] == 10 else 1)  # the last of ten is forced
            assert ids[0, 1 : 1 + reached].tolist() == likeliest[:reached].tolist()
            for level, keys in enumerate(
                grown.keys
            ):  # sums in another order; a wrong place is off by far more
                found, expected = keys[row, :, text.real[row]], pasts[1].keys[level][0]
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert len(lengths) > 1
        assert text.learned.sum(1).tolist() == (text.real.sum(1) - 1).tolist()


def test_actions_read_the_text() -> None:
    policy = built()
    batch = batch_of(policy, [SUBTASKS[0], SUBTASKS[0], None])
    other = batch_of(policy, [SUBTASKS[0], SUBTASKS[2], None])
    first, second = (act(policy, one, said(policy, one)) for one in (batch, other))
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[2], second[2])
    assert float((first[1] - second[1]).abs().max()) > 1e-3
    thought = policy.think(batch)
    assert thought is not None
    torch.testing.assert_close(act(policy, batch), act(policy, batch, thought))
    with torch.no_grad():
        assert policy.act(batch).text == thought.text


@pytest.mark.slow
def test_two_subtasks_of_one_observation_lead_to_two_actions() -> None:
    torch.manual_seed(0)
    policy = PI05(replace(config(), draws=8), BODIES)
    spec = BODIES["one"]
    sample = random_sample(spec, policy.window, "one", 0)
    pipeline = policy.transforms("one", random_stats(spec))
    ways = [np.full_like(sample.actions, value) for value in (-0.5, 0.5)]
    pairs = list(zip(SUBTASKS[:2], ways, strict=True))
    samples = [pipeline.apply(replace(sample, subtask=told, actions=way)) for told, way in pairs]
    batch = collate(samples, policy.embodiments)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(150):
        optimizer.zero_grad()
        policy.loss(batch, generator=torch.Generator().manual_seed(step)).total().backward()
        optimizer.step()
    policy.eval()
    found = act(policy, batch, said(policy, batch))
    assert batch.actions is not None
    apart = float((batch.actions[0] - batch.actions[1]).abs().mean())
    assert float((found - batch.actions).abs().mean()) < 0.2 * apart
    thought = policy.think(batch)
    assert thought is not None
    assert thought.text is not None
    assert set(thought.text) <= set(SUBTASKS[:2])
    assert thought.text[0] == thought.text[1]  # it sees the same in both


def test_a_row_without_subtask_teaches_no_text_and_shows_none() -> None:
    policy = built(unsaid=0.0)
    assert policy.config.trunk.text is not None  # type: ignore[union-attr]

    def losses(batch: Batch) -> dict[str, tuple[float, float]]:
        with torch.no_grad():
            terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
        return {name: (float(term.sum), float(term.count)) for name, term in terms.items()}

    told = losses(batch_of(policy, [SUBTASKS[0], SUBTASKS[2]]))
    half = losses(batch_of(policy, [SUBTASKS[0], None]))
    none = losses(batch_of(policy, [None, None]))
    words = [len(text.split()) + 1 for text in SUBTASKS]  # with the end
    assert [one["text"][1] for one in (told, half, none)] == [words[0] + words[2], words[0], 0]
    assert none["text"][0] == 0
    assert told["flow"] != half["flow"] != none["flow"]
    blind = batch_of(policy, [SUBTASKS[0], None])
    unsaid = built(unsaid=1.0)
    with torch.no_grad():
        loss = unsaid.loss(blind, generator=torch.Generator().manual_seed(0)).terms["flow"]
    assert float(loss.sum) == pytest.approx(none["flow"][0], rel=1e-5)
    assert unsaid.think(blind) is None


def test_a_row_does_not_see_the_text_of_another() -> None:
    policy = built(unsaid=0.0)
    batch = batch_of(policy, [SUBTASKS[0], None, SUBTASKS[1]])
    other = batch_of(policy, [SUBTASKS[2], None, SUBTASKS[1]])

    def gradient(batch: Batch) -> torch.Tensor:
        """Of the flow of the last two rows, whose first neighbor is masked, for what is drawn."""
        assert batch.horizon_mask is not None
        mask = batch.horizon_mask.clone()
        mask[0] = False
        policy.zero_grad()
        loss = policy.loss(replace(batch, horizon_mask=mask), generator=torch.Generator().manual_seed(0))
        loss.terms["flow"].sum.backward()
        assert policy.enter.weight.grad is not None
        return policy.enter.weight.grad.clone()

    torch.testing.assert_close(gradient(batch), gradient(other))


def test_texts_teach_the_eyes_and_the_flow_does_not() -> None:
    policy = built()
    batch = random_batch(policy)
    terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    terms["flow"].sum.backward(retain_graph=True)
    assert all(weight.grad is None for weight in policy.trunk.sight.eyes.parameters())  # type: ignore[union-attr]
    terms["text"].sum.backward()
    assert any(weight.grad is not None for weight in policy.trunk.sight.eyes.parameters())  # type: ignore[union-attr]


def test_blind_samples_read_their_subtask_and_do_not_teach_it() -> None:
    policy = built(unsaid=0.0)
    batch = batch_of(policy, [SUBTASKS[0], SUBTASKS[1]])

    def losses(told: list[str | None]) -> tuple[float, float, float]:
        blind = replace(batch_of(policy, told), images={}, image_mask={})
        with torch.no_grad():
            terms = policy.loss(replace(batch, blind=blind), generator=torch.Generator().manual_seed(0)).terms
        return float(terms["text"].sum), float(terms["text"].count), float(terms["flow"].sum)

    first, second = losses([SUBTASKS[0]] * 4), losses([SUBTASKS[2]] * 4)
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert first[1] == second[1] == 15
    assert first[2] != second[2]


def test_answers_are_learned_beside_actions_and_alone() -> None:
    """A batch of both kinds teaches what its rows teach apart, and one of questions alone has all terms."""
    policy = built(answers=True, unsaid=0.0)
    asked = questions(policy, list(ANSWERS))
    alone = collate(asked, policy.embodiments)
    assert alone.actions is None

    def losses(batch: Batch) -> dict[str, tuple[float, float]]:
        with torch.no_grad():
            terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
        return {name: (float(term.sum), float(term.count)) for name, term in terms.items()}

    found = losses(alone)
    assert set(found) == set(losses(random_batch(policy)))
    assert found["text"][1] == 1 + 1 + 3 + 1
    assert all(
        found[name] == (0, 0)
        for name in ("flow", "guess", "look", "contrast", "point", "part")
        if name in found
    )
    demonstrated = [row(policy, n) for n in range(2)]
    both = losses(collate([*demonstrated, *asked], policy.embodiments))
    other = losses(collate([*demonstrated, *questions(policy, ["yes", "yes"])], policy.embodiments))
    assert both["text"][1] == found["text"][1] + sum(len(text.split()) + 1 for text in SUBTASKS[:2])
    for name in set(both) - {"text"}:  # an answer is nobody else's lesson
        assert both[name] == pytest.approx(other[name], rel=1e-5)
    with pytest.raises(DataError, match=r"unknown word 'maybe'"):
        questions(policy, ["maybe"])


@pytest.mark.slow
def test_a_question_is_answered_and_a_subtask_is_told_with_the_same_words() -> None:
    torch.manual_seed(0)
    policy = PI05(replace(config(), answers=True), BODIES)
    batch = collate([row(policy, 0), row(policy, 1), *questions(policy, list(ANSWERS))], policy.embodiments)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(200):
        optimizer.zero_grad()
        policy.loss(batch, generator=torch.Generator().manual_seed(step)).total().backward()
        optimizer.step()
    policy.eval()
    blank = [row(policy, 0, subtask=None), row(policy, 1, subtask=None), *questions(policy, ["", ""])]
    with torch.no_grad():
        thought = policy.think(collate(blank, policy.embodiments))
    assert thought is not None
    assert thought.text == (*SUBTASKS[:2], *ANSWERS)


def test_a_policy_that_only_answers_neither_learns_nor_writes_subtasks() -> None:
    policy = built(answers=True, subtasks=False)
    assert policy.learns_answers
    assert not policy.learns_subtasks
    batch = random_batch(policy)
    with torch.no_grad():
        terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    assert float(terms["text"].count) == 0
    assert policy.think(batch) is None


def test_words_are_a_part_of_the_checkpoint(tmp_path: Path) -> None:
    policy = built()
    save_agent(tmp_path / "saved", policy, {"one": random_stats(BODIES["one"])}, instruction="go")
    agent = load_agent(tmp_path / "saved")
    assert agent.policy.config == policy.config
    observation = random_observation(BODIES["one"], np.random.default_rng(0))
    observation = replace(observation, time=1.5)
    thought = agent.think(observation)
    assert thought is not None
    assert thought.text is not None
    assert thought.time.tolist() == [1.5]
    assert set(thought.text[0].split()) <= set(policy.config.trunk.text)  # type: ignore[union-attr,arg-type]
    assert agent.act(observation, context=thought).text == thought.text[0]


@pytest.mark.parametrize(("every", "latency", "thoughts"), [(1, 0.0, 3), (5, 0.0, 1), (3, 0.2, 2)])
def test_a_session_thinks_at_the_rate_that_it_is_told(every: int, latency: float, thoughts: int) -> None:
    policy = built()
    agent = PolicyAgent(policy, policy.transforms("one", random_stats(BODIES["one"])), key="one")
    asked: list[bool] = []
    think = agent.think

    def counted(*arguments: object, **more: object) -> Context | None:
        asked.append(True)
        return think(*arguments, **more)  # type: ignore[arg-type]

    agent.think = counted  # type: ignore[method-assign]
    session = Session(agent, RecedingHorizon(execute=2), think_every=every, think_latency=latency)
    generator = np.random.default_rng(0)
    for _ in range(6):
        session.tick(lambda: random_observation(BODIES["one"], generator))
    assert len(asked) == thoughts
    assert session.failures == []


def test_a_word_that_was_not_there_when_it_was_fitted_is_refused() -> None:
    policy = built()
    with pytest.raises(DataError, match=r"unknown word 'pik'.*Did you mean 'pick'.*train a new policy"):
        batch_of(policy, ["pik up the red cube"])
    with pytest.raises(DataError, match=r"at most 6.*more text_tokens"):
        batch_of(built(text_tokens=6), [SUBTASKS[0]])
    with pytest.raises(DataError, match="hold no text"):
        PI05(replace(PI05Config.tiny(), subtasks=True), BODIES).fitted(np.zeros((1, 4, 3)), ())


def test_texts_are_kept_apart_by_their_real_tokens() -> None:
    text = Text(*(torch.zeros(2, 3, dtype=kind) for kind in (torch.long, torch.bool, torch.bool)))
    policy = built()
    batch = random_batch(policy, 2)
    with torch.no_grad():
        past = policy.remember(policy.trunk.observe(batch))
        nothing = remember(policy.experts, [policy.texted(text)], past)
        chunk, time = torch.randn(2, 4, policy.action_width), torch.full((2,), 0.25)
        assert batch.action_mask is not None
        plain = policy.velocity(past, batch.action_mask)(chunk, time)
        torch.testing.assert_close(policy.velocity([*past, *nothing], batch.action_mask)(chunk, time), plain)


@pytest.mark.slow
def test_a_compiled_policy_writes_first_and_then_acts_alike() -> None:
    policy = built(steps=2)
    batch = batch_of(policy, [None])
    with torch.no_grad(), shape_checks_off():  # the checks of the test run cannot be compiled
        plain = policy.act(batch, generator=torch.Generator().manual_seed(0))
        quick = CompiledAct(policy, backend="eager")(batch, torch.Generator().manual_seed(0))
    assert plain.text is not None
    assert quick.text == plain.text
    torch.testing.assert_close(quick.actions, plain.actions, atol=1e-5, rtol=1e-5)
