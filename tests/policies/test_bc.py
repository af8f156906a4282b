"""The family `bc` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calibrated import armed_body, body
from torch import Tensor

from visuomotor.data.collate import collate
from visuomotor.generative import mixture
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.points import cropped
from visuomotor.policies.bc import BC, BCConfig, Head, Trunk
from visuomotor.testing import check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Batch, Camera, Dimension, Spec

HEADS: tuple[Head, ...] = ("mse", "l1", "mixture")
TRUNKS: tuple[Trunk, ...] = ("mlp", "lstm", "transformer")
PAIRS = [(trunk, head) for trunk in TRUNKS for head in HEADS]
ONE_VIEW = dict.fromkeys(
    ("sight.trust.weight", "sight.trust.bias"), "only one camera is calibrated, so it has all trust"
)


def clear(spec: Spec) -> Spec:
    """The body with pictures of which a ResNet makes more than one place."""
    cameras = (Camera(name="front", height=36, width=40), Camera(name="wrist", height=36, width=36))
    return replace(spec, cameras=cameras)


WORDS = LanguageConfig(reader="scratch", width=16, buckets=64, max_tokens=16)
MUTE = LanguageConfig.none()


def config(trunk: Trunk = "mlp", head: Head = "mixture", **more: object) -> BCConfig:
    return replace(BCConfig.tiny(trunk, head), **{"language": WORDS, **more})  # type: ignore[arg-type]


def built(config: BCConfig, bodies: dict[str, Spec] | None = None) -> BC:
    torch.manual_seed(0)
    return BC(config, bodies or {"one": body("arm")}).eval()


def random_batch(policy: BC, count: int = 4) -> Batch:
    key, spec = next(iter(policy.bodies.items()))
    pipeline = policy.transforms(key, random_stats(spec))
    samples = [pipeline.apply(random_sample(spec, policy.window, key, number)) for number in range(count)]
    return collate(samples, policy.embodiments)


@pytest.mark.parametrize(("trunk", "head"), PAIRS)
def test_states_alone_keep_the_contract(trunk: Trunk, head: Head) -> None:
    bodies = {"one": body("arm"), "two": body("leg", 5, 2)}
    asked = config(trunk, head, vision="none", dropout=0.1 if head == "mse" else 0.0)
    check_policy(lambda: BC(asked, bodies), compiles=(trunk, head) in zip(TRUNKS, HEADS))


@pytest.mark.parametrize(("trunk", "head"), [("lstm", "l1"), ("transformer", "mse")])
def test_the_shared_sight_keeps_the_contract(trunk: Trunk, head: Head) -> None:
    # Compiling it takes ten seconds; what is behind it is compiled above, and the sight with `compact`.
    check_policy(
        lambda: BC(config(trunk, head), {"one": body("arm"), "two": body("leg", 5, 2)}),
        without_gradient=ONE_VIEW,
        compiles=False,
    )


def test_a_mixture_with_the_shared_sight_keeps_the_contract() -> None:
    # Four samples that may lose their sentence are told apart late; with two components soon enough.
    check_policy(lambda: BC(config(modes=2), {"one": armed_body()}), compiles=False, steps=600)


@pytest.mark.parametrize(("trunk", "head"), [("lstm", "l1"), ("transformer", "mixture")])
def test_a_resnet_with_words_keeps_the_contract(trunk: Trunk, head: Head) -> None:
    bodies = {"one": clear(body("arm")), "two": clear(body("leg", 5, 2))}
    # Compiling takes six seconds; the ResNet is compiled with `act`, and random crops with `compact`.
    check_policy(
        lambda: BC(config(trunk, head, vision="resnet18"), bodies), learning_rate=1e-3, compiles=False
    )


def test_the_published_form_keeps_the_contract() -> None:
    published = config("mlp", "mse", vision="resnet18", language=MUTE, horizon=1)
    check_policy(lambda: BC(published, {"one": clear(body("arm"))}), compiles=False)


def test_blind_samples_bring_their_own_past() -> None:
    policy = built(config("lstm"), {"one": armed_body()})
    batch = random_batch(policy)
    blind = replace(batch, images={}, image_mask={}, state=batch.state + 1)
    both = replace(batch, blind=blind)
    other = replace(both, blind=replace(blind, state=torch.cat([-blind.state[:, :1], blind.state[:, 1:]], 1)))
    with torch.no_grad():
        alone, found, changed = (
            policy.loss(rows, generator=torch.Generator().manual_seed(0)).terms["mixture"]
            for rows in (batch, both, other)
        )
    assert float(found.count) == float(changed.count) == 2 * float(alone.count)
    assert float(changed.sum) != float(found.sum)


@pytest.mark.parametrize("trunk", ["lstm", "transformer"])
@pytest.mark.parametrize("vision", ["none", "resnet18", "sight"])
def test_the_start_of_an_episode_is_as_if_nothing_had_been_before(trunk: Trunk, vision: str) -> None:
    policy = built(config(trunk, "l1", vision=vision, history=(-2, -1, 0)), {"one": clear(body("arm"))})
    batch = random_batch(policy)
    masked = replace(
        batch,
        history_mask=torch.tensor([False, True, True]).expand(4, 3),
        image_mask={name: torch.tensor([False, True, True]).expand(4, 3) for name in batch.image_mask},
    )
    with torch.no_grad():
        found = policy.act(masked).actions
        assert not torch.allclose(found, policy.act(batch).actions)
        if trunk == "lstm":
            short = BC(replace(policy.config, history=(-1, 0)), policy.bodies).eval()
            short.load_state_dict(policy.state_dict())
            recent = replace(
                batch,
                images={name: pictures[:, 1:] for name, pictures in batch.images.items()},
                image_mask={name: there[:, 1:] for name, there in batch.image_mask.items()},
                state=batch.state[:, 1:],
                history_mask=batch.history_mask[:, 1:],
            )
            # Convolutions over fewer frames sum in another order.
            torch.testing.assert_close(found, short.act(recent).actions, rtol=1e-5, atol=1e-5)


def test_the_seed_decides_which_component_is_answered_and_noise_repeats_it() -> None:
    policy = built(config(vision="none", sampling="low_noise"))
    batch = random_batch(policy, 1)
    plans = planned(policy, batch)
    seen = set()
    with torch.no_grad():
        for seed in range(20):
            actions = policy.act(batch, generator=torch.Generator().manual_seed(seed)).actions
            noise = torch.randn(actions.shape, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(policy.act(batch, noise=noise).actions, actions)
            away = (actions[:, None] - plans.mean).abs().amax((-1, -2))[0]
            assert float(away.min()) < 6 * mixture.LOW_NOISE  # the whole chunk is of one component
            seen.add(int(away.argmin()))
    assert seen == {0, 1, 2}


def planned(policy: BC, batch: Batch) -> mixture.Mixture:
    with torch.no_grad():
        rows = policy.observed(batch, learning=False)
        return policy.network.head.mixture(policy.network.trunk(*rows))


def test_other_ways_of_sampling() -> None:
    policy = built(config(vision="none"))
    batch, noise = random_batch(policy), torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    plans, found = planned(policy, batch), {}
    for sampling in ("mode", "full"):
        other = BC(replace(policy.config, sampling=sampling), policy.bodies)
        other.load_state_dict(policy.state_dict())
        with torch.no_grad():
            found[sampling] = other.act(batch, noise=noise).actions
    assert torch.equal(found["mode"], mixture.mode(plans))
    assert torch.equal(found["full"], mixture.sample(plans, noise))


@pytest.mark.parametrize("head", HEADS)
def test_promised_actions_stand_at_the_beginning(head: Head) -> None:
    policy = built(config(head=head, vision="none"))
    batch = random_batch(policy)
    assert batch.actions is not None
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = policy.act(batch, noise=noise, prefix=batch.actions[:, :2]).actions
    assert torch.equal(found[:, :2], batch.actions[:, :2])


def test_a_plan_that_was_begun_is_gone_on_with() -> None:
    """Two demonstrations of the same observation: the mixture keeps both, and a prefix tells which."""
    policy, batch = built(config(vision="none", modes=2)), None
    batch = random_batch(policy, 1).map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))
    ways = torch.stack([torch.full((4, 3), 0.6), torch.full((4, 3), -0.6)])
    batch = replace(batch, actions=ways)
    learn(policy, batch)
    with torch.no_grad():
        for seed in range(4):
            noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed))
            free = policy.act(batch, noise=noise).actions
            assert float((free.abs() - 0.6).abs().max()) < 0.1
            held = policy.act(batch, noise=noise, prefix=ways[:, :1]).actions
            assert float((held - ways).abs().max()) < 0.1
    squared = built(config(head="mse", vision="none"))
    learn(squared, batch)
    with torch.no_grad():
        assert float(squared.act(batch).actions.abs().max()) < 0.1  # between the two, where nobody went


def learn(policy: BC, batch: Batch, steps: int = 200) -> None:
    policy.train()
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        policy.loss(batch, generator=torch.Generator().manual_seed(step)).total().backward()
        optimizer.step()
    policy.eval()


def test_crops_are_at_random_in_training_and_of_the_middle_while_acting() -> None:
    row, column = torch.meshgrid(torch.arange(84), torch.arange(84), indexing="ij")
    pixels = torch.stack([row, column, 0 * row], dim=-1).to(torch.uint8).expand(64, -1, -1, -1)
    middle = cropped(pixels, 76 / 84, at_random=False)
    assert middle.shape == (64, 76, 76, 3)
    assert torch.equal(middle, pixels[:, 4:80, 4:80])
    found = cropped(pixels, 76 / 84, at_random=True, generator=torch.Generator().manual_seed(0))
    corners = found[:, 0, 0, :2].long()
    for picture, (top, left) in zip(found, corners.tolist()):
        assert torch.equal(picture, pixels[0, top : top + 76, left : left + 76])
    assert (corners.amin(0).tolist(), corners.amax(0).tolist()) == ([0, 0], [8, 8])
    assert torch.equal(cropped(pixels, 1.0, at_random=True), pixels)


def robot(cameras: int, state: int) -> Spec:
    return Spec(
        embodiment="robot",
        cameras=tuple(Camera(name=f"camera{number}", height=84, width=84) for number in range(cameras)),
        state=tuple(Dimension(name=f"s{number}") for number in range(state)),
        action=tuple(Dimension(name=f"a{number}") for number in range(7)),
        rate=20.0,
    )


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def by_hand(trunk: Trunk, head: Head, *, cameras: int, state: int, memory: int = 0) -> int:
    """Weights of robomimic's networks for 7 actions."""
    eye = 11_176_512 + linear(512, 32) + linear(2 * 32, 64)  # ResNet-18 without its classifier
    tick = 64 * cameras + state
    if trunk == "mlp":
        inside, out = linear(tick, 1024) + linear(1024, 1024), 1024
    elif trunk == "lstm":
        inside, out = 4 * memory * (tick + 3 * memory) + 2 * 8 * memory, memory
    else:
        layer = 2 * 2 * 512 + 3 * 512 * 512 + linear(512, 512) + linear(512, 2048) + linear(2048, 512)
        inside, out = linear(tick, 512) + 10 * 512 + 2 * 2 * 512 + 6 * layer, 512
    answer = 2 * linear(out, 5 * 7) + linear(out, 5) if head == "mixture" else linear(out, 7)
    return cameras * eye + inside + answer


@pytest.mark.parametrize(
    ("trunk", "head", "cameras", "count"),
    [
        ("mlp", "mixture", 2, 23_661_963),
        ("lstm", "mixture", 2, 35_033_251),
        ("transformer", "mixture", 2, 41_415_563),
        ("mlp", "mse", 0, 1_077_255),
        ("lstm", "mixture", 0, 1_986_875),
        ("transformer", "mse", 0, 18_926_087),
    ],
)
def test_published_parameter_counts(trunk: Trunk, head: Head, cameras: int, count: int) -> None:
    """Two cameras and 9 numbers of the arm, or 19 numbers that tell everything; 7 actions."""
    pictures = cameras > 0
    state = 9 if pictures else 19
    published = BCConfig.published(trunk, head, pictures=pictures)
    with torch.device("meta"):
        policy = BC(published, {"one": robot(cameras, state)})
    found = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    memory = 1000 if pictures else 400
    assert found == by_hand(trunk, head, cameras=cameras, state=state, memory=memory)
    assert found == count


@pytest.mark.parametrize(("trunk", "head"), PAIRS)
def test_the_small_sizes_are_what_two_cores_train(trunk: Trunk, head: Head) -> None:
    with torch.device("meta"):
        policy = BC(BCConfig.small(trunk, head), {"one": robot(2, 9)})
    assert 1e6 <= sum(weight.numel() for weight in policy.parameters()) <= 4e6


def test_actions_stay_within_their_bounds_unless_asked_otherwise() -> None:
    for bounded in (True, False):
        policy = built(config(head="mse", vision="none", bounded=bounded))
        with torch.no_grad():
            for weight in policy.network.head.parameters():
                weight.mul_(1000)
            largest = float(policy.act(random_batch(policy)).actions.abs().max())
        assert (largest <= 1) is bounded


def test_losses_are_means_over_real_numbers() -> None:
    answers: dict[Head, Tensor] = {}
    for head in ("mse", "l1"):
        policy = built(config(head=head, vision="none", weight=3.0))
        batch = random_batch(policy)
        assert batch.actions is not None
        assert batch.horizon_mask is not None
        ticks = batch.horizon_mask.clone()
        ticks[0, 1:] = False
        with torch.no_grad():
            off = (policy.act(batch).actions - batch.actions)[ticks]
            term = policy.loss(replace(batch, horizon_mask=ticks), generator=None).terms[head]
        assert (float(term.count), term.weight) == (13 * 3, 3.0)
        answers[head] = term.sum / term.count
        torch.testing.assert_close(answers[head], (off.square() if head == "mse" else off.abs()).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "mixtures"}, "Did you mean 'mixture'"),
        ({"trunk": "ltsm"}, "Did you mean 'lstm'"),
        ({"vision": "resnet"}, "Did you mean 'resnet18'"),
        ({"sampling": "low"}, "Did you mean 'low_noise'"),
        ({"layers": ()}, "at least one layer"),
        ({"trunk": "transformer", "heads": 7}, "multiple of 7 heads"),
        ({"crop": 0.0}, "crop"),
        ({"min_std": 0.0}, "min_std"),
        ({"modes": 0}, "at least 1"),
        ({"weight": -1.0}, "at least 0"),
    ],
)
def test_wrong_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BCConfig(), **change)  # type: ignore[arg-type]
