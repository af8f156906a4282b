"""The family `diffusion` keeps the contract with both networks and all eyes, and its own promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from calibrated import armed_body, body, random_batch

from visuomotor.data.collate import collate
from visuomotor.nn.weights import unfilled
from visuomotor.policies.diffusion import DiffusionConfig, DiffusionPolicy, DiffusionTransformer
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Camera, Dimension, Spec

TINY = DiffusionConfig.tiny()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_both_networks_keep_the_contract_with_the_shared_sight(network: Any) -> None:
    check_policy(
        lambda: DiffusionPolicy(replace(TINY, network=network), {"one": armed_body()}),
        compiles=network == "unet",
        steps=500,
        learning_rate=1e-2,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "vision", "history"), [("unet", "none", (-1, 0)), ("transformer", "resnet18", (-1, 0))]
)
def test_both_networks_keep_the_contract_with_eyes_of_their_own(
    network: Any, vision: Any, history: tuple[int, ...]
) -> None:
    cameras = (Camera(name="front", height=72, width=72),)
    one = replace(body("arm"), cameras=cameras)
    two = replace(body("leg", 5, 2), cameras=cameras)
    config = replace(TINY, network=network, vision=vision, history=history, guess=0.0)
    check_policy(
        lambda: DiffusionPolicy(config, {"one": one, "two": two}), samples=3, steps=1000, compiles=False
    )


def test_sentences_are_read_and_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    policy = DiffusionPolicy(replace(TINY, vision="none", guess=0.0), {"one": body("arm")}).eval()
    batch, states = random_batch(policy), torch.randn(4, 2, TINY.language.width)
    heard = torch.ones(4, 2, dtype=torch.bool)
    found = []
    for said in (states, states.flip(1), states.mean(1, keepdim=True).expand_as(states)):
        monkeypatch.setattr(policy.language, "forward", lambda batch, said=said: (said, heard))
        with torch.no_grad():
            found.append(policy.known(batch, None, learning=False))
    torch.testing.assert_close(found[0], found[1])  # a set of token states, whose words know their places
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_a_first_guess_is_what_the_chunk_is_centered_on() -> None:
    torch.manual_seed(0)
    policy = DiffusionPolicy(replace(TINY, dims=(32, 32)), {"one": armed_body()}).eval()
    known = torch.randn(2, policy.sight.width)
    guess, doubt = policy.guess(known)
    around, scale = policy.around(known)
    assert torch.equal(around, guess)
    assert torch.equal(scale, 6 * doubt)  # numbers in [-1, 1] reach as far as outliers count
    plain = DiffusionPolicy(replace(TINY, guess=0.0), {"one": armed_body()})
    around, scale = plain.around(known)
    assert not around.any()
    assert bool((scale == 1).all())


def test_a_first_guess_without_the_shared_sight_is_refused() -> None:
    with pytest.raises(ValueError, match='needs vision="sight"'):
        replace(TINY, vision="none")


def residual(channels: int, out: int, condition: int) -> int:
    """Weights of a residual block, counted by hand."""
    convolutions = 5 * channels * out + out + 5 * out * out + out
    norms = 2 * 2 * out
    modulation = (condition + 1) * 2 * out
    shortcut = (channels + 1) * out if channels != out else 0
    return convolutions + norms + modulation + shortcut


def unet_by_hand(action: int, known: int, dims: tuple[int, ...], width: int) -> int:
    condition = width + known
    total = (width + 1) * 4 * width + (4 * width + 1) * width
    total += 2 * residual(dims[-1], dims[-1], condition)
    for channels, out in zip((action, *dims[:-1]), dims, strict=True):
        total += residual(channels, out, condition) + residual(out, out, condition)
    for channels, out in itertools.pairwise(dims):
        total += 3 * channels * channels + channels  # to fewer ticks
        total += residual(2 * out, channels, condition) + residual(channels, channels, condition)
        total += 4 * channels * channels + channels  # to more ticks
    return total + 5 * dims[0] ** 2 + dims[0] + 2 * dims[0] + (dims[0] + 1) * action


def pusht(state: int, *, pictures: bool) -> Spec:
    """PushT: 20 numbers of its state alone, or the place of the agent and pictures of 96 pixels."""
    return Spec(
        embodiment="pusht",
        cameras=(Camera(name="image", height=96, width=96),) if pictures else (),
        state=tuple(Dimension(name=f"s{number}") for number in range(state)),
        action=tuple(Dimension(name=f"a{number}") for number in range(2)),
        rate=10.0,
    )


@pytest.mark.parametrize(
    ("size", "pictures", "millions"),
    [
        ("published", True, 251.5),
        ("lowdim", False, 65.8),
        ("transformer", False, 9.0),
        ("image_transformer", True, 9.0),
    ],
)
def test_published_sizes_are_those_of_the_paper(size: str, pictures: bool, millions: float) -> None:
    config = getattr(DiffusionConfig, size)()
    state, seen = (2, 66) if pictures else (20, 20)  # a picture is seen as 64 numbers
    with unfilled():
        policy = DiffusionPolicy(config, {"pusht": pusht(state, pictures=pictures)})
    count = sum(weight.numel() for weight in policy.network.parameters())
    assert round(count / 1e6, 1) == millions
    if config.network == "unet":
        assert count == unet_by_hand(2, 2 * seen, config.dims, config.step_width)
    else:
        assert count == transformer_by_hand(2, seen, config.horizon)
    if pictures:  # a ResNet-18 without classifier, 32 places of its maps, and 64 numbers of those
        eye = sum(weight.numel() for weight in policy.eyes.parameters())
        assert eye == 11_176_512 + 32 * 513 + 64 * 65 + 32
    else:
        assert count == sum(weight.numel() for weight in policy.parameters())
    assert config.before == "first"


def transformer_by_hand(action: int, known: int, horizon: int) -> int:
    """8 layers of width 256 over the ticks; 2 observed ones and the step in the memory."""
    width = 256
    layer = 2 * (4 * width * width + 4 * width) + 2 * 4 * width * width + 5 * width + 3 * 2 * width
    memory = (known + 1) * width + 3 * width + 8 * width * width + 5 * width
    return 8 * layer + memory + (action + 1) * width + horizon * width + 2 * width + action * (width + 1)


def test_the_transformer_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    dropping, plain = (DiffusionTransformer(2, 3, replace(TINY, dropout=share), 1) for share in (0.5, 0.0))
    plain.load_state_dict(dropping.state_dict())
    given = torch.randn(2, 4, 2), torch.tensor([2, 3]), torch.randn(2, 1, 3)
    assert not torch.equal(dropping(*given), dropping(*given))
    assert torch.equal(dropping.eval()(*given), plain(*given))
    with pytest.raises(ValueError, match=r"dropout in \[0, 1\)"):
        replace(TINY, dropout=1.0)


def test_a_tick_of_the_transformer_sees_no_later_tick() -> None:
    torch.manual_seed(0)
    network = DiffusionTransformer(2, 3, TINY, 1)
    chunk = torch.randn(1, 4, 2, requires_grad=True)
    found = network(chunk, torch.tensor([2]), torch.randn(1, 1, 3))
    (slope,) = torch.autograd.grad(found[0, 1].sum(), chunk)
    assert slope[0].abs().sum(-1).gt(0).tolist() == [True, True, False, False]


def test_predictions_of_past_ticks_are_cut_off_and_never_trained() -> None:
    torch.manual_seed(0)
    policy = DiffusionPolicy(replace(TINY, past=1), {"one": armed_body()})
    assert policy.window.horizon == TINY.horizon - 1
    plain = DiffusionPolicy(TINY, {"one": armed_body()})
    plain.load_state_dict(policy.state_dict())
    batch = _batch(plain)
    noise = torch.randn(2, 3, plain.action_width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cut = policy.act(batch, noise=noise).actions
        whole = plain.act(batch, noise=torch.nn.functional.pad(noise, (0, 0, 1, 0))).actions
    torch.testing.assert_close(cut, whole[:, 1:])
    with pytest.raises(ValueError, match="set past to 0"):
        policy.loss(batch, generator=None)


def _batch(policy: DiffusionPolicy) -> Any:
    from visuomotor.data.collate import collate
    from visuomotor.testing.samples import random_sample, random_stats

    spec = policy.bodies["one"]
    pipeline = policy.transforms("one", random_stats(spec))
    samples = [pipeline.apply(random_sample(spec, policy.window, "one", number)) for number in range(2)]
    return collate(samples, policy.embodiments)


def test_a_horizon_that_the_levels_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        DiffusionConfig(horizon=6)
    with pytest.raises(ValueError, match="Did you mean 'unet'"):
        DiffusionConfig(network="uned")  # type: ignore[arg-type]


def test_the_temperature_scales_the_noise_that_a_call_starts_from() -> None:
    torch.manual_seed(0)
    spec = {"one": armed_body()}
    warm = DiffusionPolicy(replace(TINY, temperature=1.0), spec).eval()
    cool = DiffusionPolicy(replace(TINY, temperature=0.5), spec).eval()
    cool.load_state_dict(warm.state_dict())
    pipeline = warm.transforms("one", random_stats(spec["one"]))
    sample = pipeline.apply(random_sample(spec["one"], warm.window, "one", 0))
    batch = collate([sample], warm.embodiments)
    noise = torch.randn(1, TINY.horizon, warm.action_width)
    with torch.no_grad():
        assert torch.equal(cool.act(batch, noise=noise).actions, warm.act(batch, noise=noise / 2).actions)
        assert not torch.equal(warm.act(batch, noise=noise).actions, warm.act(batch, noise=noise / 2).actions)


@pytest.mark.slow
def test_learned_prefixes_keep_the_contract() -> None:
    config = replace(TINY, max_delay=2)
    check_policy(
        lambda: DiffusionPolicy(config, {"one": armed_body()}), compiles=False, steps=500, learning_rate=1e-2
    )


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_nothing_promised_is_no_difference_to_a_policy_that_learned_prefixes(network: Any) -> None:
    torch.manual_seed(0)
    bodies = {"one": armed_body()}
    plain = DiffusionPolicy(replace(TINY, network=network), bodies).eval()
    other = DiffusionPolicy(replace(plain.config, max_delay=2), bodies).eval()
    assert not plain.window.executed
    assert other.window.executed
    missing, unknown = other.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unknown) == (["network.mark"], [])
    torch.nn.init.normal_(other.network.mark)
    batch, noise = random_batch(plain), torch.randn(4, TINY.horizon, 3)
    prefix, held = batch.actions[:, :3], torch.full((4, 3), 0.5)
    with torch.no_grad():
        assert torch.equal(plain.act(batch, noise=noise).actions, other.act(batch, noise=noise).actions)
        for part, share in ((prefix, None), (prefix, held), (prefix[:, :2], held[:, :2])):  # guided in both
            answers = [
                policy.act(batch, noise=noise, prefix=part, held=share).actions for policy in (plain, other)
            ]
            assert torch.equal(*answers)
        clean = [policy.act(batch, noise=noise, prefix=prefix[:, :2]).actions for policy in (plain, other)]
    assert not torch.equal(clean[0][:, 2:], clean[1][:, 2:])


@pytest.mark.parametrize(
    ("network", "vision", "prediction"),
    [("unet", "none", "sample"), ("transformer", "none", "epsilon"), ("unet", "sight", "sample")],
)
def test_a_policy_that_learned_prefixes_goes_on_as_it_was_begun(
    network: Any, vision: Any, prediction: Any
) -> None:
    """What ran at first is -0.5 or 0.5, whatever is seen, and what should be done is half of it."""
    torch.manual_seed(0)
    guess = 1.0 if vision == "sight" else 0.0
    config = replace(TINY, network=network, vision=vision, prediction=prediction, guess=guess)
    config = replace(config, max_delay=2, temperature=1.0, draws=32)
    policy = DiffusionPolicy(config, {"one": armed_body()})
    batch = random_batch(policy).map(lambda tensor: tensor[:1].expand(64, *tensor.shape[1:]).contiguous())
    side = torch.tensor([-0.5, 0.5]).repeat(32)[:, None, None]
    ran = side.expand_as(batch.actions).contiguous()
    batch = replace(batch, actions=ran / 2, executed=ran, blind=None)
    lesson = batch.map(lambda tensor: tensor[:2])
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        policy.loss(lesson, generator=generator).total().backward()
        optimizer.step()
    policy.eval()
    noise = torch.randn(ran.shape, generator=generator)
    with torch.no_grad():
        free = policy.act(batch, noise=noise).actions
        chunks = [policy.act(batch, noise=noise, prefix=ran[:, :length]).actions for length in (1, 2)]
    assert torch.equal(chunks[1][:, :2], ran[:, :2])
    kept = [
        float((chunk[:, 2:].mean((1, 2)) / side[:, 0, 0] > 0.1).float().mean()) for chunk in (free, *chunks)
    ]
    assert kept[0] == pytest.approx(0.5, abs=0.15)
    assert min(kept[1:]) >= 0.85  # 120 steps leave errors; a prefix that is not heeded leaves a half
    assert float((chunks[0][:, 1:] / side).mean()) == pytest.approx(0.5, abs=0.15)  # and not what ran


@pytest.mark.parametrize("fields", [{"max_delay": -1}, {"max_delay": 4}, {"max_delay": 1, "past": 1}])
def test_a_delay_that_nothing_could_learn_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"max_delay must be in \[0, horizon\)"):
        replace(TINY, **fields)
