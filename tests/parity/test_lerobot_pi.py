"""Our pi0.5 and pi0-FAST beside those of lerobot 0.6.1: equal weights and inputs give equal answers.

The files are made by make_lerobot_pi.py, which says what is in them. Where lerobot departs from the released
code of openpi, a test says so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from seeded_weights import seeded, seeded_weights
from torch import Tensor

from visuomotor.backbones.gemma import tiny
from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.backbones.siglip import SigLIPConfig
from visuomotor.codecs.fast import FAST
from visuomotor.codecs.spelling import NumberSpelling
from visuomotor.errors import CheckpointError
from visuomotor.generative import flow
from visuomotor.nn.mixture import Segment, run
from visuomotor.perception.augmentation import AugmentationConfig
from visuomotor.perception.chunk_flow import flow_error
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunk, PaliGemmaTrunkConfig
from visuomotor.policies import pi0_fast, pi05
from visuomotor.policies.pi0_fast import PI0FAST, PI0FASTConfig
from visuomotor.policies.pi05 import PI05, PI05Config
from visuomotor.transforms.action_tokens import ANNOUNCED
from visuomotor.types import Batch, Camera, Dimension, Spec, Tokens

GOLDEN = Path(__file__).parent / "lerobot_pi"
WORDS, IMAGE, PROMPT, HORIZON, REAL, PADDED, WRITTEN = 256, 32, 6, 5, 4, 6, 7
BODY = Spec(
    embodiment="arm",
    cameras=tuple(Camera(name=name, height=IMAGE, width=IMAGE) for name in ("front", "wrist")),
    state=tuple(Dimension(name=f"s{number}") for number in range(REAL)),
    action=tuple(Dimension(name=f"a{number}") for number in range(REAL)),
    rate=10.0,
)
# Both compute in float32. Masked tokens are left out here and masked there, and attention is fused: sums in
# another order, which over three layers of width 24 make 1e-6 of numbers around 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def trunk(*, tied: bool = True, **options: object) -> PaliGemmaTrunkConfig:
    language = tiny(WORDS)
    decoder = replace(language.decoder, heads=8, head_width=4)
    paligemma = PaliGemmaConfig(
        vision=SigLIPConfig.tiny(IMAGE), language=replace(language, decoder=decoder, tied=tied)
    )
    return PaliGemmaTrunkConfig(
        paligemma=paligemma,
        max_tokens=PROMPT,
        state=PADDED,
        action=PADDED,
        augmentation=AugmentationConfig.none(),
        **options,
    )


def saved(name: str) -> dict[str, Tensor]:
    """The weights with the names and shapes that lerobot saves."""
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())
    made = seeded_weights({name: tuple(shape) for name, shape in shapes.items()})
    return {name: torch.from_numpy(value) for name, value in made.items()}


def batch_of(golden: dict[str, Tensor], behind: Tensor | None = None, real: Tensor | None = None) -> Batch:
    """What the other side was given; the second sample has no wrist camera and a shorter prompt."""
    ids, attend = golden["prompt"], golden["prompt_mask"]
    if behind is not None:
        ids, attend = torch.cat([ids, behind], dim=1), torch.cat([attend, real], dim=1)
    pixels = {
        name: torch.from_numpy(seeded(name, (2, 1, IMAGE, IMAGE, 3), 0, 256).astype(np.uint8))
        for name in ("front", "wrist")
    }
    yes = torch.ones(2, 1, dtype=torch.bool)
    return Batch(
        images=pixels,
        image_mask={"front": yes, "wrist": torch.tensor([[True], [False]])},
        state=torch.zeros(2, 1, PADDED),
        history_mask=yes,
        state_mask=torch.ones(2, PADDED, dtype=torch.bool),
        embodiment=torch.zeros(2, dtype=torch.long),
        actions=golden.get("action", torch.zeros(2, HORIZON, PADDED)),
        horizon_mask=torch.ones(2, HORIZON, dtype=torch.bool),
        action_mask=(torch.arange(PADDED) < REAL).expand(2, -1),
        has_actions=torch.ones(2, dtype=torch.bool),
        tokens=Tokens(ids=ids, attend=attend, loss=torch.zeros_like(attend), segment=torch.zeros_like(ids)),
    )


@pytest.fixture(scope="module")
def drawing() -> tuple[PI05, dict[str, Tensor]]:
    config = replace(
        PI05Config.published(),
        horizon=HORIZON,
        trunk=trunk(prompt="instruction_and_state"),
        expert_width=16,
        expert_mlp_width=32,
    )
    policy = PI05(config, {"one": BODY}).eval()
    pi05.load_released(policy, saved("pi05"), where="pi05.json")
    return policy, load_file(GOLDEN / "pi05.safetensors")


def test_pi05_loses_like_lerobots(drawing: tuple[PI05, dict[str, Tensor]]) -> None:
    """Errors are compared; in the file are their squares, in which rounding would count twice."""
    policy, golden = drawing
    batch, noise, time = batch_of(golden), golden["noise"], 1 - golden["time"]  # theirs runs the other way
    everything = torch.ones(2, PADDED, dtype=torch.bool)
    with torch.no_grad():
        velocity = policy.velocity(policy.remember(policy.trunk.observe(batch)), everything)
        points = (1 - time[:, None, None]) * noise + time[:, None, None] * golden["action"]
        found = velocity(points, time) - (golden["action"] - noise)
    # Ours in float64 differ from the file by 1.9e-5, and from ours here by 1.2e-6: it is good to twice that.
    torch.testing.assert_close(found.abs(), golden["losses"].sqrt(), rtol=1e-5, atol=4e-5)


def test_pi05_as_released_learns_padding_which_lerobots_loss_leaves_out(
    drawing: tuple[PI05, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """openpi averages over padded numbers, too, as `padding="learned"` does; lerobot cuts them off."""
    policy, golden = drawing
    batch = batch_of(golden)
    monkeypatch.setattr(flow, "sample_noise", lambda *_, **__: golden["noise"])
    monkeypatch.setattr(flow, "sample_time", lambda *_, **__: 1 - golden["time"])
    with torch.no_grad():
        seen = policy.trunk.learn(batch, None)
        total, count = flow_error(
            seen,
            policy.remember(seen),
            policy.velocity,
            draws=1,
            law="beta",
            padding="learned",
            max_delay=0,
            generator=None,
        )
    torch.testing.assert_close(total / count, golden["losses"].mean(), **CLOSE)
    lerobots = golden["losses"][..., :REAL].mean()
    assert abs(total / count - lerobots) > 1e-3  # a hundred times the tolerance: another loss


def test_pi05_integrates_to_lerobots_chunk(drawing: tuple[PI05, dict[str, Tensor]]) -> None:
    policy, golden = drawing
    with torch.no_grad():
        found = policy.act(batch_of(golden), noise=golden["noise"]).actions
    torch.testing.assert_close(found, golden["chunk"], **CLOSE)


@pytest.mark.parametrize("how", ["insulated", "subtasks", "answers"])
def test_pi05_that_scores_words_does_not_ignore_lerobots_table_of_scores(how: str) -> None:
    """Only without words is it of no use."""
    sizes = {"horizon": HORIZON, "expert_width": 16, "expert_mlp_width": 32, "vocabulary": 32}
    config = PI05Config(trunk=trunk(prompt="before_tokens"), **sizes)  # type: ignore[arg-type]
    weights = saved("pi05")
    pi05.load_released(PI05(config, {"one": BODY}), weights)
    with pytest.raises(CheckpointError, match=r"1 are unknown.*paligemma\.lm_head\.weight"):
        pi05.load_released(PI05(replace(config, **{how: True}), {"one": BODY}), weights)
    head = next(name for name in weights if name.endswith("paligemma.lm_head.weight"))
    apart = replace(config, trunk=trunk(prompt="before_tokens", tied=False), **{how: True})
    policy = PI05(apart, {"one": BODY})
    pi05.load_released(policy, weights)
    assert policy.trunk.paligemma.language.head is not None
    assert torch.equal(policy.trunk.paligemma.language.head.weight, weights[head])


@pytest.fixture(scope="module")
def writing() -> tuple[PI0FAST, dict[str, Tensor]]:
    config = PI0FASTConfig(
        horizon=HORIZON, trunk=replace(trunk(tied=False), prompt="before_tokens"), vocabulary=32
    )
    policy = PI0FAST(config, {"one": BODY}).eval()
    pi0_fast.load_released(policy, saved("pi0_fast"), where="pi0_fast.json")
    return policy, load_file(GOLDEN / "pi0_fast.safetensors")


def test_pi0_fast_scores_given_tokens_like_lerobots(writing: tuple[PI0FAST, dict[str, Tensor]]) -> None:
    policy, golden = writing
    with torch.no_grad():
        seen = policy.trunk.observe(batch_of(golden))
        text = Segment(tokens=policy.trunk.embed(golden["token"]), block=1, causal=True)
        (_, end), _ = run([policy.trunk.decoder], [seen.prefix, text])
        found = policy.trunk.score(end)
    real = golden["token_mask"]
    # Scores go up to 10, and those near 0 are sums of products as large: more than numbers around 1.
    torch.testing.assert_close(found[real], golden["scores"][real], rtol=1e-5, atol=5e-5)


def test_pi0_fast_loses_like_lerobots(writing: tuple[PI0FAST, dict[str, Tensor]]) -> None:
    policy, golden = writing
    batch = batch_of(golden, golden["token"], golden["token_mask"])
    with torch.no_grad():
        term = policy.loss(batch, generator=None).terms["token"]
    torch.testing.assert_close(term.sum / term.count, golden["loss"], **CLOSE)


def free() -> FAST:
    """A codec of as many numbers as the other side writes words, each of them any word: all are allowed."""
    spelling = NumberSpelling(WORDS - 1, [])
    return FAST(horizon=1, action=WRITTEN, scale=1.0, lowest=0, spelling=spelling)


def test_pi0_fast_writes_what_lerobots_writes(
    writing: tuple[PI0FAST, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """lerobot writes behind a second <bos>, which openpi does not have, and lets pictures and prompt see it.

    In training they do not, as here: the same weights then go on in another way. So that <bos> is put among
    what was observed here, and the first word, which it decides alone, is given. Positions are consecutive,
    in lerobot as here; openpi skips one.
    """
    policy, golden = writing
    assert torch.equal(golden["written"], golden["written_slowly"])
    monkeypatch.setattr(policy, "codec", free())
    monkeypatch.setattr(PaliGemmaTrunk, "last_action", WORDS - 1)  # any word may be an action
    with torch.no_grad():
        seen = policy.trunk.observe(batch_of(golden))
        prefix = seen.prefix
        assert prefix.real is not None
        begin = policy.trunk.embed(torch.full((2, 1), 2))
        longer = Segment(
            tokens=torch.cat([prefix.tokens, begin], dim=1), real=F.pad(prefix.real, (0, 1), value=True)
        )
        (end,), _ = run([policy.trunk.decoder], [longer])
        first = policy.trunk.score(end[:, -1:]).argmax(-1)
        as_written = policy.write(seen._replace(prefix=longer), first)
        as_trained = policy.write(seen, torch.full((2, 1), 2))
    assert torch.equal(first, golden["written"][:, :1])
    assert np.array_equal(WORDS - 1 - np.stack(as_written)[:, :-1], golden["written"][:, 1:].numpy())
    assert not np.array_equal(WORDS - 1 - np.stack(as_trained), golden["written"].numpy())


def test_pi0_fast_acts_on_what_it_writes(
    writing: tuple[PI0FAST, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a prompt and what announces a chunk to the likeliest words and their chunk."""
    policy, golden = writing
    codec = free()
    monkeypatch.setattr(policy, "codec", codec)
    monkeypatch.setattr(PaliGemmaTrunk, "last_action", WORDS - 1)
    begin = torch.full((2, 1), 2)
    batch = batch_of(golden, begin, torch.ones(2, 1, dtype=torch.bool))
    assert batch.tokens is not None
    announced = F.pad(torch.full((2, 1), ANNOUNCED), (PROMPT, 0))
    batch = replace(batch, tokens=replace(batch.tokens, segment=announced))
    with torch.no_grad():
        acted = policy.act(batch)
        seen, found = policy.trunk.observe(batch), begin
        for _ in range(WRITTEN):  # without keeping anything
            text = Segment(tokens=policy.trunk.embed(found), block=1, causal=True)
            (_, end), _ = run([policy.trunk.decoder], [seen.prefix, text])
            found = torch.cat([found, policy.trunk.score(end[:, -1:]).argmax(-1)], dim=1)
    expected = [codec.decode(WORDS - 1 - row.numpy()) for row in found[:, 1:]]
    assert np.array_equal(acted.actions.numpy(), np.stack(expected))


def test_two_tables_of_scores_and_words_are_not_taken_for_one() -> None:
    """lerobot unties them, so training pulls them apart; openpi has one table."""
    weights = saved("pi0_fast")
    config = PI0FASTConfig(horizon=HORIZON, trunk=replace(trunk(), prompt="before_tokens"), vocabulary=32)
    tied = PI0FAST(config, {"one": BODY})
    with pytest.raises(CheckpointError, match=r"1 are unknown.*lm_head\.weight"):
        pi0_fast.load_released(tied, weights)
    words = next(name for name in weights if name.endswith("embed_tokens.weight"))
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    pi0_fast.load_released(tied, weights | {head: weights[words].clone()})
    assert torch.equal(tied.trunk.paligemma.language.words.weight, weights[words])
