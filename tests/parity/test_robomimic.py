"""`bc` with robomimic's weights answers what robomimic answers; golden files by make_robomimic_golden.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import seeded, seeded_weights
from torch import Tensor

from visuomotor.errors import CheckpointError
from visuomotor.generative import mixture
from visuomotor.policies.bc import BC, BCConfig, Head, Trunk, load_released, released_names
from visuomotor.types import Batch, Camera, Dimension, Spec

GOLDEN = Path(__file__).parent / "robomimic_golden"
PUBLISHED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "published.json").read_text())
LOW = {"arm": (3,), "zone": (2,)}
SEEN = {"arm": (3,), "front_image": (3, 84, 84), "wrist_image": (3, 84, 84), "zone": (2,)}
TEMPERATURE = 0.5
# float32 in other orders of summation; behind a ResNet-18 with unscaled random weights a little more.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
CLOSE_TO_PICTURES = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "answers.safetensors")


def spec(state: int, action: int, cameras: tuple[str, ...] = ()) -> Spec:
    return Spec(
        embodiment="robot",
        cameras=tuple(Camera(name=name, height=84, width=84) for name in cameras),
        state=tuple(Dimension(name=f"s{number}") for number in range(state)),
        action=tuple(Dimension(name=f"a{number}") for number in range(action)),
        rate=20.0,
    )


def released(trunk: Trunk, head: Head, observations: dict[str, Any], **more: Any) -> BC:
    """A policy with robomimic's weights."""
    pictures = len(observations) > 2
    config = BCConfig(
        head=head,
        trunk=trunk,
        vision="resnet18" if pictures else "none",
        norm="frozen",
        memory=8,
        width=16,
        blocks=2,
        heads=2,
        **{"layers": (8, 6) if trunk == "mlp" else (), **more},
    )
    policy = BC(config, {"one": spec(5, 3, ("front", "wrist") if pictures else ())}).eval()
    names = released_names(policy.network, observations)
    own = policy.network.state_dict()
    weights = seeded_weights(
        {theirs: tuple(own[ours].shape) for ours, theirs in names.items() if "temperature" not in theirs}
    )
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    tensors |= {name: torch.tensor([TEMPERATURE]) for name in names.values() if "temperature" in name}
    load_released(policy.network, tensors, observations)
    return policy


def batch(golden: dict[str, Tensor], ticks: int, real: int, *, pictures: bool = False) -> Batch:
    """The first `real` of the golden ticks, behind padding."""
    state = torch.cat([golden["observed/arm"], golden["observed/zone"]], dim=-1)
    if pictures:  # which were made for as many ticks
        parts = [torch.from_numpy(seeded(name, (2, ticks, size))) for name, (size,) in LOW.items()]
        state = torch.cat(parts, dim=-1)
    there = torch.arange(ticks).expand(2, ticks) >= ticks - real
    padding = torch.full((2, ticks - real, 5), 1e3)
    images = {}
    if pictures:
        for name in ("front", "wrist"):
            pixels = seeded(f"{name}_image", (2, ticks, 3, 84, 84), 0, 256)
            images[name] = torch.from_numpy(pixels).to(torch.uint8).permute(0, 1, 3, 4, 2)
    return Batch(
        images=images,
        image_mask=dict.fromkeys(images, there),
        state=torch.cat([padding, state[:, :real]], dim=1),
        history_mask=there,
        state_mask=torch.ones(2, 5, dtype=torch.bool),
        embodiment=torch.zeros(2, dtype=torch.int64),
        has_actions=torch.ones(2, dtype=torch.bool),
        actions=golden["action"][:, None],
        horizon_mask=torch.ones(2, 1, dtype=torch.bool),
        action_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def last(golden: dict[str, Tensor]) -> Batch:
    """The last of the golden ticks, alone."""
    whole = batch(golden, 12, 12)
    return Batch(**{**vars(whole), "state": whole.state[:, -1:], "history_mask": whole.history_mask[:, -1:]})


def act(policy: BC, seen: Batch) -> Tensor:
    with torch.no_grad():
        return policy.act(seen).actions[:, 0]


def assert_same_mixture(
    policy: BC,
    seen: Batch,
    golden: dict[str, Tensor],
    name: str,
    tick: int | None = None,
    close: dict[str, float] = CLOSE,
) -> None:
    with torch.no_grad():
        rows = policy.observed(seen, learning=False)
        found = policy.network.head.mixture(policy.network.trunk(*rows))
    told = {part: golden[f"{name}/{part}"] for part in ("weights", "mean", "std")}
    if tick is not None:
        told = {part: value[:, tick] for part, value in told.items()}
    torch.testing.assert_close(found.logits.log_softmax(-1), told["weights"], **close)
    torch.testing.assert_close(found.mean[:, :, 0], told["mean"], **close)
    torch.testing.assert_close(found.std[:, :, 0], told["std"], **close)


def test_an_mlp_answers_like_robomimics(golden: dict[str, Tensor]) -> None:
    found = act(released("mlp", "mse", LOW), last(golden))
    torch.testing.assert_close(found, golden["mlp-mse"], **CLOSE)
    policy = released("mlp", "mixture", LOW)
    assert_same_mixture(policy, last(golden), golden, "mlp-mixture")
    with torch.no_grad():
        term = policy.loss(last(golden), generator=None).terms["mixture"]
    # Theirs is divided by samples, ours by numbers.
    torch.testing.assert_close(term.sum, -golden["mlp-mixture/log_prob"].sum(), **CLOSE)
    assert float(term.count) == 2 * 3


def test_an_lstm_answers_like_robomimics_at_every_tick(golden: dict[str, Tensor]) -> None:
    history = tuple(range(-11, 1))
    plain = released("lstm", "mse", LOW, history=history)
    behind = released("lstm", "mse", LOW, history=history, layers=(7,))
    plans = released("lstm", "mixture", LOW, history=history)
    for real in range(1, 13):
        seen = batch(golden, 12, real)
        torch.testing.assert_close(act(plain, seen), golden["lstm-mse"][:, real - 1], **CLOSE)
        torch.testing.assert_close(act(behind, seen), golden["lstm-mse-behind"][:, real - 1], **CLOSE)
        assert_same_mixture(plans, seen, golden, "lstm-mixture", real - 1)


def test_an_empty_memory_every_ten_ticks_is_a_window_that_begins_there(golden: dict[str, Tensor]) -> None:
    """robomimic acts with a memory that it empties every 10 ticks; we read the ticks since then anew."""
    policy = released("lstm", "mse", LOW, history=tuple(range(-9, 1)))
    for tick in range(12):
        since = tick // 10 * 10
        part = {name: value[:, since : tick + 1] for name, value in golden.items() if "observed" in name}
        seen = batch({**golden, **part}, 10, tick + 1 - since)
        torch.testing.assert_close(act(policy, seen), golden["lstm-mse-acting"][:, tick], **CLOSE)


def test_a_transformer_answers_like_robomimics(golden: dict[str, Tensor]) -> None:
    recent = {name: value[:, -4:] if name.startswith("observed") else value for name, value in golden.items()}
    policies = [released("transformer", head, LOW, history=(-3, -2, -1, 0)) for head in ("mse", "mixture")]
    torch.testing.assert_close(act(policies[0], batch(recent, 4, 4)), golden["transformer-mse"], **CLOSE)
    assert_same_mixture(policies[1], batch(recent, 4, 4), golden, "transformer-mixture", -1)


def test_pictures_are_seen_like_robomimics(golden: dict[str, Tensor]) -> None:
    policy = released("lstm", "mixture", SEEN, history=(-1, 0))
    seen = batch(golden, 2, 2, pictures=True)
    assert_same_mixture(policy, seen, golden, "pictures", -1, CLOSE_TO_PICTURES)
    policy = released("transformer", "mixture", SEEN, history=(-3, -2, -1, 0))
    seen = batch(golden, 4, 4, pictures=True)
    assert_same_mixture(policy, seen, golden, "transformer-pictures", -1, CLOSE_TO_PICTURES)


def published(name: str) -> BC:
    trunk, head, seen = name.split("-")
    pictures = seen == "pictures"
    cameras = ("agentview", "robot0_eye_in_hand") if pictures else ()
    config = BCConfig.published(trunk, head, pictures=pictures)  # type: ignore[arg-type]
    with torch.device("meta"):
        return BC(replace(config, norm="frozen"), {"one": spec(9 if pictures else 19, 7, cameras)})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_as_many_weights_as_robomimics(name: str) -> None:
    policy = published(name)
    found = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    frozen = 2 * 2 * 4800 if "pictures" in name else 0  # scales and shifts of two ResNets, here buffers
    assert found + frozen == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("name", [name for name, told in PUBLISHED.items() if told["shapes"]])
def test_released_state_dicts_load_strictly(name: str) -> None:
    shapes, observations = PUBLISHED[name]["shapes"], PUBLISHED[name]["observations"]
    network = published(name).network.to_empty(device="cpu")
    weights = {key: torch.full(shape, number + 1.0) for number, (key, shape) in enumerate(shapes.items())}
    load_released(network, weights, observations)
    found = network.state_dict()
    for ours, theirs in released_names(network, observations).items():
        value = weights[theirs].flatten()[0]
        expected = value.log() if theirs.endswith("temperature") else value
        assert bool((found[ours] == expected).all()), ours

    key = next(key for key in shapes if "decoder" in key)
    renamed = {**weights, key.replace("decoder", "decodre"): weights[key]}
    del renamed[key]
    with pytest.raises(CheckpointError, match=r"missing .*decoder.*closest: .*decodre.*; 1 are unknown"):
        load_released(network, renamed, observations)
    with pytest.raises(CheckpointError, match="expected shape"):
        load_released(network, {**weights, key: torch.zeros(2, 2)}, observations)


def test_a_tick_is_read_in_the_order_of_the_checkpoint() -> None:
    """Pictures stand between the parts of the state there, and before all of it here."""
    shapes, observations = (PUBLISHED["lstm-mixture-pictures"][key] for key in ("shapes", "observations"))
    network = published("lstm-mixture-pictures").network.to_empty(device="cpu")
    weights = {key: torch.ones(shape) for key, shape in shapes.items()}
    first = "policy.nets.rnn.nets.weight_ih_l0"
    weights[first] = torch.arange(137.0).expand(4000, -1)
    load_released(network, weights, observations)
    columns = network.state_dict()["trunk.memory.weight_ih_l0"][0]
    expected = [*range(64), *range(71, 135), *range(64, 71), 135, 136]
    assert columns.tolist() == expected


def test_what_the_checkpoint_has_no_place_for_is_said() -> None:
    observations = PUBLISHED["lstm-mixture-pictures"]["observations"]
    network = published("lstm-mixture-pictures").network
    other = {"agent_view_image": [3, 84, 84], **observations}
    del other["agentview_image"]
    with pytest.raises(CheckpointError, match="Did you mean 'agent_view_image'"):
        released_names(network, other)
    with pytest.raises(CheckpointError, match="no camera of that name"):
        released_names(network, {**observations, "shoulder_image": [3, 84, 84]})
    hears = BC(replace(BCConfig.tiny(), vision="none"), {"one": spec(3, 2)})
    with pytest.raises(CheckpointError, match="no place for 'reader"):
        released_names(hears.network, {"all": [3]})


def test_low_noise_is_the_mean_of_a_drawn_component(golden: dict[str, Tensor]) -> None:
    policy = released("mlp", "mixture", LOW)
    means = golden["mlp-mixture/mean"]
    with torch.no_grad():
        for seed in range(5):
            found = policy.act(last(golden), generator=torch.Generator().manual_seed(seed)).actions[:, 0]
            away = (found[:, None] - means).abs().amax(-1).amin(-1)
            assert float(away.max()) < 6 * mixture.LOW_NOISE
