"""The family `compact` keeps the contract of every policy, and its own promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from visuomotor.data.collate import collate
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.generative import flow
from visuomotor.policies.compact import (
    HINT,
    SPREAD,
    Compact,
    CompactConfig,
    Eye,
    matrices_now,
    near_the_best,
    on_plane,
    pixel_grid,
    precondition,
    shifted,
    unshifted,
)
from visuomotor.testing import RandomSentenceEncoder, check_policy
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.hand import LocateHand
from visuomotor.types import Batch, Camera, Diet, Dimension, Sample, Spec

ONE_VIEW = dict.fromkeys(("trust.weight", "trust.bias"), "only one camera is calibrated, so it has all trust")


def body(name: str, state: int = 3, action: int = 3) -> Spec:
    return Spec(
        embodiment=name,
        cameras=(
            Camera(name="front", height=24, width=32, projection=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.2, 1)),
            Camera(name="wrist", height=16, width=16),
        ),
        state=tuple(Dimension(name=f"s{i}") for i in range(state)),
        action=tuple(Dimension(name=f"a{i}", unit="m", kind="ee_delta") for i in range(action)),
        rate=10.0,
    )


def armed_body() -> Spec:
    """A body that tells where its hand is, with a calibrated camera at its base and one on the hand."""
    overhead = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.2, 1)
    return replace(
        body("arm"),
        cameras=(
            Camera(name="front", height=24, width=32, projection=overhead),
            Camera(name="wrist", height=16, width=16, projection=overhead, mount="hand"),
        ),
        state=(
            *(Dimension(name=axis, unit="m", kind="ee") for axis in "xyz"),
            *(Dimension(name=f"r{axis}", unit="rad", kind="ee") for axis in "xyz"),
            Dimension(name="gripper", kind="gripper"),
        ),
    )


def test_words_learned_from_scratch_keep_the_contract() -> None:
    check_policy(
        lambda: Compact(CompactConfig.tiny(), {"one": body("arm"), "two": body("leg", 5, 2)}),
        without_gradient=ONE_VIEW,
    )


def test_bodies_with_other_cameras_keep_the_contract() -> None:
    other = replace(body("leg", 5, 2), cameras=(Camera(name="side", height=16, width=24),))
    check_policy(
        lambda: Compact(CompactConfig.tiny(), {"one": armed_body(), "two": other}),
        compiles=False,
        without_gradient={},
    )


def test_cameras_of_one_name_have_one_size() -> None:
    other = replace(body("leg"), cameras=(Camera(name="front", height=16, width=24),))
    with pytest.raises(ValueError, match="camera 'front' has 16 x 24 pixels at 'leg', and 24 x 32 elsewhere"):
        Compact(CompactConfig.tiny(), {"one": body("arm"), "two": other})


def test_a_body_that_tells_its_hand_keeps_the_contract() -> None:
    check_policy(lambda: Compact(CompactConfig.tiny(), {"one": armed_body()}), compiles=False)


def test_encoded_sentences_and_history_keep_the_contract() -> None:
    config = replace(CompactConfig.tiny(), text="minilm", sentence_width=24, history=(-2, 0))
    sentences = SentenceCache(RandomSentenceEncoder(24))
    check_policy(
        lambda: Compact(config, {"one": body("arm")}),
        sentences=sentences,
        compiles=False,
        without_gradient=ONE_VIEW,
    )


def test_default_size_is_between_two_and_five_million_parameters() -> None:
    policy = Compact(CompactConfig(), {"one": body("arm", 20, 7)})
    assert 2e6 <= sum(weight.numel() for weight in policy.parameters()) <= 5e6


def test_shift_moves_pixels_and_tells_by_how_much() -> None:
    pixels = torch.zeros(64, 20, 30, 3, dtype=torch.uint8)
    pixels[:, 10, 15] = 255
    views = shifted(pixels, 3, 0.0, torch.Generator().manual_seed(0))
    size = torch.tensor([30, 20])
    for frame, offset in zip(views.pixels, views.offset, strict=True):
        row, column = frame[..., 0].nonzero()[0]
        place = torch.stack([column, row]) * 2 / size  # where it shows, in half pictures
        torch.testing.assert_close(place + offset, torch.tensor([15.0, 10.0]) * 2 / size)
    assert len(views.offset.unique(dim=0)) > 20


def test_photometric_spread_zero_leaves_colors_alone() -> None:
    pixels = torch.randint(0, 255, (4, 8, 8, 3), dtype=torch.uint8)
    views = shifted(pixels, 0, 0.0, torch.Generator().manual_seed(0))
    for ours, plain in zip(views, unshifted(pixels), strict=True):
        torch.testing.assert_close(ours, plain)


def test_slot_coordinates_follow_a_shift_of_the_whole_picture() -> None:
    torch.manual_seed(0)
    config = replace(CompactConfig.tiny(), channels=8)
    eye = Eye(config).eval()
    pixels = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    pixels[:, 24:36, 20:32] = torch.tensor([250, 10, 10], dtype=torch.uint8)
    slots = torch.randn(1, config.slots, config.slot_width)
    moved = pixels.roll(4, dims=2)  # one cell of the feature map
    with torch.no_grad():
        there = eye(unshifted(moved)._replace(offset=torch.tensor([[-8 / 64, 0.0]])), slots).slots
        here = eye(unshifted(pixels), slots).slots
    # Expected coordinates move with the picture up to its border, which wraps around.
    torch.testing.assert_close(there[..., :2], here[..., :2], atol=0.15, rtol=0)


def test_unknown_text_names_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'minilm'"):
        CompactConfig(text="minilmm")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["look", "contrast", "point", "guess", "temperature"])
def test_negative_weights_and_temperatures_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        replace(CompactConfig.tiny(), **{name: -0.1})


def test_minilm_without_sentences_says_what_to_pass() -> None:
    policy = Compact(replace(CompactConfig.tiny(), text="minilm"), {"one": body("arm")})
    with pytest.raises(ValueError, match="SentenceCache"):
        policy.transforms("one", random_stats(body("arm")))


def batch_with_keypoints(policy: Compact) -> Batch:
    key = next(iter(policy.bodies))
    pipeline = policy.transforms(key, random_stats(policy.bodies[key]))
    samples = [random_sample(policy.bodies[key], policy.window, key, number) for number in range(6)]
    return collate([pipeline.apply(sample) for sample in samples], policy.embodiments)


def train_on(policy: Compact, batch: Batch, name: str, steps: int) -> list[float]:
    """Train one term of the loss on one batch; its mean at each step."""
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    means = []
    for step in range(steps):
        term = policy.loss(batch, generator=torch.Generator().manual_seed(step)).terms[name]
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
        means.append(float(term.sum.detach() / term.count))
    return means


def test_looking_is_learned_from_keypoints_through_the_projection() -> None:
    torch.manual_seed(0)
    policy = Compact(replace(CompactConfig.tiny(), look=1.0, shift=1), {"one": body("arm")})
    batch = batch_with_keypoints(policy)
    losses = train_on(policy, batch, "look", steps=150)
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        sights = policy.observe(batch).seen
    assert batch.keypoints is not None
    found = sights["front"].grid[torch.arange(6), sights["front"].matches[:, 0].argmax(-1)]
    point = batch.keypoints[:, 0, :2] / (0.2 * batch.keypoints[:, 0, 2:] + 1)  # this body's projection
    assert float((found - point).norm(dim=-1).median()) < 0.4


def test_without_keypoints_or_weight_there_is_no_look_term() -> None:
    policy = Compact(CompactConfig.tiny(), {"one": body("arm")})
    batch = batch_with_keypoints(policy)
    always = {"guess", "doubt", "flow"}
    assert set(policy.loss(batch, generator=None).terms) == always | {"look", "contrast", "point"}
    assert set(policy.loss(replace(batch, keypoints=None), generator=None).terms) == always
    silent = Compact(replace(CompactConfig.tiny(), look=0.0, contrast=0.0, point=0.0), {"one": body("arm")})
    assert set(silent.loss(batch, generator=None).terms) == always


def test_a_keypoint_outside_the_view_counts_for_nothing() -> None:
    policy = Compact(CompactConfig.tiny(), {"one": body("arm")})
    batch = batch_with_keypoints(policy)
    assert batch.keypoints is not None
    outside = replace(batch, keypoints=batch.keypoints + torch.tensor([5.0, 0.0, 0.0]))
    assert float(policy.loss(outside, generator=None).terms["look"].count) == 0


def test_data_sets_that_disagree_about_a_camera_are_refused() -> None:
    moved = replace(body("arm"), cameras=(replace(body("arm").cameras[0], projection=(1.0,) * 12),))
    with pytest.raises(ValueError, match="disagree about where camera 'front' stands"):
        Compact(CompactConfig.tiny(), {"one": body("arm"), "two": moved})


def test_preconditioning_leaves_unit_variance_to_the_network() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = SPREAD * torch.randn(200_000, 1, 1, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    for moment in (0.0, 0.3, 0.7, 0.95):
        time = torch.full((1,), moment)
        skip, out, enter = precondition(time)
        points = flow.interpolate(noise, clean, time.expand(len(clean)))
        target = (flow.velocity_target(noise, clean) - skip * points) / out
        assert float((enter * points).std()) == pytest.approx(1, abs=0.01)
        assert float(target.std()) == pytest.approx(1, abs=0.01)


def test_rays_through_both_cameras_meet_the_plane_where_the_thing_is() -> None:
    env = TabletopEnv()
    for seed in range(4):
        env.reset(seed=seed)
        env.step(np.array([0.02, 0.03, -0.05, 0.05, -0.08, 0.2, 0], np.float32))
        sample = LocateHand(env.spec).apply(Sample.from_observation(env.observe()))
        assert sample.hand is not None
        projection = torch.tensor([camera.projection for camera in env.spec.cameras]).reshape(1, 2, 3, 4)
        on_hand = torch.tensor([[camera.mount == "hand" for camera in env.spec.cameras]])
        matrices = matrices_now(projection, on_hand, torch.from_numpy(sample.hand)[None])
        place = torch.from_numpy(env.scene.place(env.wanted.object)).float()
        shown = matrices[0] @ torch.cat([place, torch.ones(1)])
        points = shown[None, :, None, :2] / shown[None, :, None, 2:]
        found = on_plane(matrices, points, place[2].reshape(1, 1))
        torch.testing.assert_close(found, place[:2].expand(1, 2, 1, 2), atol=1e-4, rtol=0)


def test_a_ray_along_the_plane_ends_far_away_and_is_finite() -> None:
    level = torch.tensor([[[[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]]])  # looks along x
    found = on_plane(level, torch.zeros(1, 1, 1, 2), torch.full((1, 1), 0.1))
    assert torch.isfinite(found).all()


def test_a_place_is_read_between_cells_and_not_pulled_to_a_second_one() -> None:
    grid = pixel_grid(16, 16, torch.zeros(1))
    true = torch.tensor([0.31, -0.22])
    first = -(grid - true).square().sum(-1) / (2 * 0.06**2)
    second = -(grid + 0.7).square().sum(-1) / (2 * 0.06**2) - 1.5  # half as likely, far away
    matches = torch.logaddexp(first, second)[None, None]
    place = (near_the_best(matches, grid) @ grid)[0, 0]
    assert float((place - true).norm()) < 0.02  # a cell is 0.125 wide
    assert float((matches.softmax(-1) @ grid - true).norm()) > 0.15


def test_sentences_are_told_apart_by_what_is_where_their_thing_shows() -> None:
    torch.manual_seed(0)
    policy = Compact(CompactConfig.tiny(), {"one": body("arm")})
    batch = batch_with_keypoints(policy)
    means = train_on(policy, batch, "contrast", steps=60)
    assert means[0] > 0.8 * np.log(6)  # six sentences, at first all alike
    assert np.mean(means[-10:]) < 0.8 * means[0]


def test_a_thing_that_does_not_show_is_nobodys() -> None:
    torch.manual_seed(0)
    policy = Compact(CompactConfig.tiny(), {"one": body("arm")})
    batch = batch_with_keypoints(policy)
    assert batch.keypoints is not None
    outside = batch.keypoints.clone()
    outside[3:] += 5.0
    moved = replace(batch, keypoints=outside)
    few = Batch(**vars(batch.map(lambda part: part[:3])))
    sights = [policy.observe(part).seen for part in (moved, few)]
    whole, part = (policy.contrast(b, seen) for b, seen in zip((moved, few), sights, strict=True))
    assert float(whole.count) == float(part.count) == 6
    torch.testing.assert_close(whole.sum, part.sum)


def with_blind(policy: Compact) -> Batch:
    batch = batch_with_keypoints(policy)
    return replace(batch, blind=replace(batch, images={}, image_mask={}))


def test_blind_samples_teach_how_to_move_and_nothing_else() -> None:
    torch.manual_seed(0)
    policy = Compact(CompactConfig.tiny(), {"one": armed_body()})
    assert policy.diet.blind > 0
    batch = with_blind(policy)
    assert batch.blind is not None
    terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    plain = policy.loss(replace(batch, blind=None), generator=torch.Generator().manual_seed(0)).terms
    assert float(terms["guess"].count) == 2 * float(plain["guess"].count)
    assert float(terms["look"].sum.detach()) == pytest.approx(float(plain["look"].sum.detach()))
    vector, _ = policy.imagine(batch.blind, torch.Generator().manual_seed(0))
    policy.zero_grad()
    vector.square().sum().backward()
    taught = {name.split(".")[0] for name, weight in policy.named_parameters() if weight.grad is not None}
    assert taught == {"gather", "beside", "body", "merge", "norm"}


def test_what_a_blind_sample_imagines_is_near_where_hindsight_tells_exactly() -> None:
    torch.manual_seed(0)
    policy = Compact(CompactConfig.tiny(), {"one": armed_body()})
    batch = with_blind(policy).blind
    assert batch is not None
    assert batch.keypoint_mask is not None
    assert batch.keypoints is not None
    heard = {}

    def listen(batch: Batch, places: torch.Tensor) -> torch.Tensor:
        heard["places"] = places
        return torch.zeros_like(places)

    policy.ways = listen  # type: ignore[method-assign]
    mask = batch.keypoint_mask.clone()
    mask[:, 0] = False
    mask[0] = False
    batch = replace(batch, keypoint_mask=mask)
    _, known = policy.imagine(batch, torch.Generator().manual_seed(0))
    off = (heard["places"] - batch.keypoints).abs()
    assert off[1:, 1].max() < 5 * HINT
    assert off[:, 0].median() > 5 * HINT
    assert known.tolist() == [False] + [True] * 5  # where nothing is told, there is nothing to learn


def test_bodies_that_do_not_tell_their_hand_have_no_use_for_blind_samples() -> None:
    policy = Compact(CompactConfig.tiny(), {"one": body("arm")})
    assert policy.diet == Diet()
    batch = with_blind(policy)
    terms = policy.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    plain = policy.loss(replace(batch, blind=None), generator=torch.Generator().manual_seed(0)).terms
    assert float(terms["guess"].count) == float(plain["guess"].count)


def test_chunks_stay_near_the_first_guess_when_the_temperature_is_low() -> None:
    torch.manual_seed(0)
    policies = [
        Compact(replace(CompactConfig.tiny(), temperature=temperature), {"one": body("arm")})
        for temperature in (0.0, 1.0)
    ]
    policies[1].load_state_dict(policies[0].state_dict())
    batch = batch_with_keypoints(policies[0])
    spreads = []
    for policy in policies:
        chunks = [
            policy.act(batch, generator=torch.Generator().manual_seed(seed)).actions.detach()
            for seed in range(8)
        ]
        spreads.append(float(torch.stack(chunks).std(0).mean()))
    assert spreads[0] == pytest.approx(0, abs=1e-7)
    assert spreads[1] > 0.01


def with_parts() -> Compact:
    torch.manual_seed(0)
    return Compact(replace(CompactConfig.tiny(), slots=4, parts=2), {"one": armed_body()})


def test_a_policy_of_two_parts_keeps_the_contract() -> None:
    check_policy(with_parts, compiles=False)


def test_training_looks_with_the_slots_of_the_part_that_hindsight_tells() -> None:
    policy = with_parts()
    batch = batch_with_keypoints(policy)
    assert batch.part is not None
    late = replace(batch, part=torch.tensor([0, 1, 0, 1, 7, 0]))
    expected = [[0, 1], [2, 3], [0, 1], [2, 3], [2, 3], [0, 1]]  # a part beyond the last counts as it
    assert policy.chosen(late).tolist() == expected
    assert policy.chosen(batch).tolist() == [[0, 1]] * 6
    seen = [policy.loss(each, generator=None).terms["look"].sum for each in (batch, late)]
    assert not torch.equal(*seen)


def test_acting_chooses_the_part_by_what_it_sees_and_not_by_hindsight() -> None:
    policy = with_parts()
    batch = batch_with_keypoints(policy)
    noise = torch.zeros(6, policy.config.horizon, policy.action_width)
    with torch.no_grad():
        first = policy.act(batch, noise=noise).actions
        second = policy.act(replace(batch, part=torch.ones(6, dtype=torch.int64)), noise=noise).actions
        parts = policy.observe(batch).parts
    assert torch.equal(first, second)
    assert parts is not None
    assert policy.chosen(batch, parts)[:, 0].tolist() == (2 * parts.argmax(-1)).tolist()


def test_the_part_is_learned_from_hindsight() -> None:
    policy = with_parts()
    batch = replace(batch_with_keypoints(policy), part=torch.tensor([0, 1, 0, 1, 1, 0]))
    train_on(policy, batch, "part", steps=200)
    with torch.no_grad():
        parts = policy.observe(batch).parts
    assert parts is not None
    assert parts.argmax(-1).tolist() == [0, 1, 0, 1, 1, 0]


def test_too_few_slots_for_the_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 slots for each part"):
        CompactConfig(slots=3, parts=2)
