"""The family `act` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calibrated import body, random_batch

from visuomotor.perception.language import LanguageConfig
from visuomotor.policies.act import ACT, ACTConfig
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Camera, Dimension, Spec


def aloha() -> Spec:
    return Spec(
        embodiment="aloha",
        cameras=(Camera(name="top", height=480, width=640),),
        state=tuple(Dimension(name=f"s{i}") for i in range(14)),
        action=tuple(Dimension(name=f"a{i}") for i in range(14)),
        rate=50.0,
    )


RESNET = replace(ACTConfig.tiny(), vision="resnet18", norm="group", guess=0.0)
ONE_VIEW = dict.fromkeys(
    ("sight.trust.weight", "sight.trust.bias"), "only one camera is calibrated, so it has all trust"
)
BODIES = {"one": body("arm"), "two": body("leg", 5, 2)}


def built(config: ACTConfig, bodies: dict[str, Spec] | None = None) -> ACT:
    torch.manual_seed(0)
    return ACT(config, bodies or {"one": body("arm")}).eval()


def test_the_shared_sight_keeps_the_contract() -> None:
    # Compiling it takes ten seconds; the network is compiled below and the sight with `compact`.
    check_policy(lambda: ACT(ACTConfig.tiny(), BODIES), without_gradient=ONE_VIEW, compiles=False)


def test_a_resnet_with_words_keeps_the_contract() -> None:
    check_policy(lambda: ACT(RESNET, BODIES), learning_rate=1e-3)


def test_the_published_decoder_keeps_the_contract() -> None:
    config = replace(
        RESNET,
        language=LanguageConfig.none(),
        decoder="published",
        average="all",
        backbones="each",
        norm="frozen",
        dropout=0.1,
    )
    check_policy(lambda: ACT(config, {"one": body("arm")}), learning_rate=1e-3, samples=2, compiles=False)


def test_states_alone_keep_the_contract() -> None:
    blind = {key: replace(spec, cameras=()) for key, spec in BODIES.items()}
    config = replace(ACTConfig.tiny(), vision="none", guess=0.0)
    check_policy(lambda: ACT(config, blind), learning_rate=1e-3, compiles=False)
    with pytest.raises(ValueError, match='Use vision="none"'):
        ACT(RESNET, blind)


@pytest.mark.parametrize("config", [ACTConfig.tiny(), RESNET])
def test_promised_actions_stand_at_the_beginning(config: ACTConfig) -> None:
    policy = built(config)
    batch = random_batch(policy)
    assert batch.actions is not None
    with torch.no_grad():
        free = policy.act(batch).actions
        found = policy.act(batch, prefix=batch.actions[:, :2]).actions
    assert torch.equal(found[:, :2], batch.actions[:, :2])
    assert torch.equal(found[:, 2:], free[:, 2:])


def parameters_by_hand(*, decoder_layers: int, resnets: int, size: int) -> int:
    """Of the network of the paper's appendix C: width 512, feed-forward 3200, latent 32, horizon 100."""
    width, feed, latent, horizon = 512, 3200, 32, 100

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    attention, norm = 4 * linear(width, width), 2 * width
    feeding = linear(width, feed) + linear(feed, width)
    encoder = 4 * (attention + feeding + 2 * norm)
    decoder = decoder_layers * (2 * attention + feeding + 3 * norm) + norm
    posterior = encoder + width + 2 * linear(size, width) + linear(width, 2 * latent)
    eyes = resnets * (11_176_512 - 9_600) + linear(512, width)  # ResNet-18 without classifier and norms
    return (
        posterior + encoder + decoder + eyes
        + linear(latent, width) + linear(size, width) + linear(width, size) + 2 * width + horizon * width
    )  # fmt: skip


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        published = ACT(ACTConfig.published(), {"one": aloha()})
        lerobot = ACT(ACTConfig.lerobot(), {"one": aloha()})
        views = tuple(Camera(name=name, height=480, width=640) for name in ("high", "low", "left", "right"))
        four = {"one": replace(aloha(), cameras=views)}
        shared = ACT(ACTConfig.published(), four)
        each = ACT(replace(ACTConfig.published(), backbones="each"), four)
    # The released code prints 83.92M, for four cameras, too, and has a head of 513 that is never trained.
    count = sum(weight.numel() for weight in published.parameters())
    assert count == parameters_by_hand(decoder_layers=7, resnets=1, size=14) == 83_922_574
    assert sum(weight.numel() for weight in shared.parameters()) == count
    apart = sum(weight.numel() for weight in each.parameters())
    assert apart == parameters_by_hand(decoder_layers=7, resnets=4, size=14)
    # LeRobot logs 51,613,582 for 14 joints.
    live = sum(weight.numel() for weight in published.parameters() if weight.requires_grad)
    assert live == sum(weight.numel() for weight in lerobot.parameters()) == 51_613_582
    assert live == parameters_by_hand(decoder_layers=1, resnets=1, size=14)


def test_the_small_size_is_what_two_cores_train() -> None:
    policy = ACT(ACTConfig.small(), {"one": aloha()})
    assert 1e6 <= sum(weight.numel() for weight in policy.parameters()) <= 4e6


def test_the_published_decoder_is_its_first_layer() -> None:
    config = replace(RESNET, decoder="published", decoder_layers=3)
    policy = built(config)
    batch = random_batch(policy)
    with torch.no_grad():
        expected = policy.act(batch).actions
        for layer in policy.network.decoder[1:]:
            for weight in layer.parameters():
                weight.normal_()
        assert torch.equal(policy.act(batch).actions, expected)
        deep = ACT(replace(config, decoder="deep"), policy.bodies).eval()
        deep.load_state_dict(policy.state_dict())
        assert not torch.allclose(deep.act(batch).actions, expected)
    policy.train().loss(batch, generator=torch.Generator().manual_seed(0)).total().backward()
    assert all(weight.grad is None for layer in policy.network.decoder[1:] for weight in layer.parameters())


def test_average_all_divides_by_padded_ticks_too() -> None:
    policy, other = built(RESNET), built(replace(RESNET, average="all"))
    other.load_state_dict(policy.state_dict())
    batch = random_batch(policy)
    assert batch.horizon_mask is not None
    ticks = batch.horizon_mask.clone()
    ticks[0, 1:] = False
    batch = replace(batch, horizon_mask=ticks)
    with torch.no_grad():
        found = [
            p.loss(batch, generator=torch.Generator().manual_seed(0)).terms["l1"] for p in (policy, other)
        ]
    assert float(found[0].sum) == float(found[1].sum)
    assert [float(term.count) for term in found] == [13 * 3, 16 * 3]  # ticks times dimensions


def test_the_latent_knows_the_chunk_in_training_and_nothing_while_acting() -> None:
    policy = built(RESNET)
    batch = random_batch(policy)
    assert batch.actions is not None
    state = torch.zeros(4, 3)
    real = torch.ones_like(batch.actions, dtype=torch.bool)
    mean, log_variance = policy.network.posterior(state, batch.actions, real)
    assert mean.shape == log_variance.shape == (4, 4)
    assert (mean[0] - mean[1]).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(
            policy.act(batch, generator=torch.Generator().manual_seed(0)).actions,
            policy.act(batch, noise=torch.ones_like(batch.actions)).actions,
        )


def test_a_missing_camera_is_as_if_it_had_never_been() -> None:
    config = replace(RESNET, language=LanguageConfig.none())
    policy = built(config)
    alone = ACT(config, {"one": replace(body("arm"), cameras=body("arm").cameras[:1])}).eval()
    alone.load_state_dict(policy.state_dict())
    batch = random_batch(policy)
    gone = torch.zeros_like(batch.image_mask["wrist"])
    with torch.no_grad():
        found = policy.act(replace(batch, image_mask={**batch.image_mask, "wrist": gone})).actions
        # The same sums without the terms that are zero, so only float32's order of them may differ.
        torch.testing.assert_close(found, alone.act(batch).actions, rtol=1e-5, atol=1e-5)


def test_states_and_actions_are_divided_by_at_least_the_floor() -> None:
    policy = built(RESNET)
    stats = random_stats(body("arm"))
    tight = {
        name: replace(summary, std=0.001 * summary.std, mean=0 * summary.mean)
        for name, summary in stats.features.items()
    }
    sample = random_sample(body("arm"), policy.window, "one", 0)
    found = policy.transforms("one", replace(stats, features=tight)).apply(sample)
    for name in ("state", "actions"):
        expected = torch.from_numpy(getattr(sample, name)) / 0.01
        torch.testing.assert_close(torch.from_numpy(getattr(found, name)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": "resnet"}, "Did you mean 'resnet18'"),
        ({"decoder": "depe"}, "Did you mean 'deep'"),
        ({"width": 30}, "multiple of 4"),
        ({"latent": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"guess": 10.0}, "needs vision"),
    ],
)
def test_wrong_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ACTConfig(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("guess", [0.0, 10.0])
def test_a_guess_teaches_the_eyes_in_the_place_of_the_chunk(guess: float) -> None:
    torch.manual_seed(0)
    policy = ACT(replace(ACTConfig.tiny(), guess=guess), BODIES)
    loss = policy.loss(random_batch(policy), generator=torch.Generator().manual_seed(0))
    assert ("guess" in loss.terms) == (guess > 0)
    loss.terms["l1"].sum.backward()
    assert policy.sight is not None
    assert any(weight.grad is not None for weight in policy.sight.parameters()) == (guess == 0)
    assert all(weight.grad is not None for weight in policy.network.encoder.parameters())
