"""The family `bc` keeps the contract of every policy with each head, trunk and pair of eyes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from calibrated import armed_body, body

from visuomotor.policies.bc import BC, BCConfig, cropped
from visuomotor.testing import check_policy
from visuomotor.types import Camera, Dimension, Spec

TINY = BCConfig.tiny()
OWN_EYES = replace(TINY, vision="resnet18")
HISTORY = (-2, -1, 0)


def sharp_body() -> Spec:
    """Pictures large enough that a ResNet leaves more than one place of them."""
    cameras = (Camera(name="front", height=72, width=72), Camera(name="wrist", height=72, width=80))
    return replace(body("arm"), cameras=cameras)


@pytest.mark.parametrize("head", ["mse", "l1", "mixture"])
def test_every_head_keeps_the_contract_with_the_shared_sight(head: Any) -> None:
    check_policy(
        lambda: BC(replace(TINY, head=head), {"one": armed_body()}),
        compiles=head == "mixture",
        steps=600,
    )


@pytest.mark.parametrize(
    ("trunk", "head", "history"),
    [("mlp", "l1", (0,)), ("transformer", "mixture", HISTORY), ("lstm", "mse", HISTORY)],
)
def test_every_trunk_keeps_the_contract_with_eyes_of_its_own(trunk: Any, head: Any, history: Any) -> None:
    config = replace(OWN_EYES, trunk=trunk, head=head, history=history, horizon=2)
    other = replace(sharp_body(), embodiment="leg", state=sharp_body().state[:2])
    # torch.compile looks into no LSTM when it must not break the graph.
    check_policy(
        lambda: BC(config, {"one": sharp_body(), "two": other}),
        samples=3,
        steps=600,
        compiles=trunk == "mlp",
    )


def published_body() -> Spec:
    """robomimic's single arm: two cameras of 84 pixels, 9 numbers of state, 7 of action."""
    return Spec(
        embodiment="panda",
        cameras=tuple(Camera(name=name, height=84, width=84) for name in ("agentview", "wrist")),
        state=tuple(Dimension(name=f"s{i}") for i in range(9)),
        action=tuple(Dimension(name=f"a{i}") for i in range(7)),
        rate=20.0,
    )


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_the_recurrent_size_has_the_numbers_of_the_paper() -> None:
    with torch.device("meta"):
        policy = BC(BCConfig.recurrent(), {"one": published_body()})
    known = 9 + 2 * 64
    gates = 4 * 400
    assert count(policy.trunk) == gates * (known + 400 + 2) + gates * (400 + 400 + 2)
    assert count(policy.means) + count(policy.spreads) + count(policy.logits) == 401 * (2 * 5 * 7 + 5)
    resnet = 11_689_512 - 513_000  # He et al. (2016) without the classifier of 1000 classes
    eye = resnet + (512 + 1) * 32 + 32 + (64 + 1) * 64  # points, temperatures, linear layer
    assert count(policy.eyes) == 2 * eye


def test_a_mixture_goes_left_or_right_where_the_squared_error_goes_between() -> None:
    torch.manual_seed(0)
    ways = torch.tensor([-0.8, 0.8]).repeat(32)[:, None, None]
    found = {}
    for head in ("mse", "mixture"):
        policy = BC(replace(TINY, head=head, horizon=1), {"one": armed_body()})
        hidden = torch.ones(64, TINY.width)
        optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
        for _ in range(300):
            means = policy.chunks(policy.means(hidden)).tanh()[..., :1]
            if head == "mse":
                loss = (means[:, 0] - ways).square().mean()
            else:
                stds = torch.nn.functional.softplus(policy.chunks(policy.spreads(hidden)))[..., :1] + 1e-2
                mask = torch.ones_like(ways, dtype=torch.bool)
                from visuomotor.generative import mixture

                loss = mixture.surprise(policy.logits(hidden), means, stds, ways, mask)[0] / 64
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[head] = policy.chunks(policy.means(hidden)).tanh()[0, :, 0, 0].detach()
    assert found["mse"].abs().max() < 0.05
    torch.testing.assert_close(found["mixture"].sort().values, torch.tensor([-0.8, 0.8]), atol=0.05, rtol=0)


def test_crops_come_from_anywhere_in_training_and_from_the_middle_while_acting() -> None:
    pixels = torch.arange(12 * 12, dtype=torch.uint8).reshape(1, 12, 12, 1).expand(40, -1, -1, 3)
    middle = cropped(pixels, 0.5, None, random=False)
    assert torch.equal(middle, pixels[:, 3:9, 3:9])
    found = cropped(pixels, 0.5, torch.Generator().manual_seed(0), random=True)
    corners = found[:, 0, 0, 0]
    assert len(corners.unique()) > 10
    for picture, corner in zip(found, corners.tolist(), strict=True):
        top, left = divmod(corner, 12)
        assert torch.equal(picture, pixels[0, top : top + 6, left : left + 6])


def test_unknown_choices_name_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'mixture'"):
        replace(TINY, head="mixtures")
    with pytest.raises(ValueError, match="Did you mean 'lstm'"):
        replace(TINY, trunk="lst")
