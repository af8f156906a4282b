"""Sight learns where to look from hindsight, and how to move from blind samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from calibrated import armed_body, body

from visuomotor.data.collate import collate
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.sight import HINT, Sight, SightConfig
from visuomotor.testing.samples import random_sample, random_stats
from visuomotor.types import Batch, Camera, Diet, Spec, Window


def make(*specs: Spec, **changes: Any) -> Sight:
    """A tiny sight for bodies."""
    config = replace(SightConfig.tiny(), **changes)
    return Sight(config, {f"data{i}": spec for i, spec in enumerate(specs)}, language=LanguageConfig.tiny())


def batch_with_keypoints(sight: Sight) -> Batch:
    (spec,) = sight.specs
    pipeline = sight.pipeline(spec, random_stats(spec))
    samples = [random_sample(spec, Window(horizon=4), "data0", number) for number in range(6)]
    return collate([pipeline.apply(sample) for sample in samples], sight.embodiments)


def train_on(sight: Sight, batch: Batch, name: str, steps: int) -> list[float]:
    """Train one term of the loss on one batch; its mean at each step."""
    optimizer = torch.optim.Adam(sight.parameters(), 3e-3)
    means = []
    for step in range(steps):
        term = sight.learn(batch, torch.Generator().manual_seed(step)).losses[name]
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
        means.append(float(term.sum.detach() / term.count))
    return means


def test_looking_is_learned_from_keypoints_through_the_projection() -> None:
    torch.manual_seed(0)
    sight = make(body("arm"), look=1.0, shift=1)
    batch = batch_with_keypoints(sight)
    losses = train_on(sight, batch, "look", steps=150)
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        seen = sight(batch).seen
    assert batch.keypoints is not None
    found = seen["front"].grid[torch.arange(6), seen["front"].matches[:, 0].argmax(-1)]
    point = batch.keypoints[:, 0, :2] / (0.2 * batch.keypoints[:, 0, 2:] + 1)  # this body's projection
    assert float((found - point).norm(dim=-1).median()) < 0.4


def test_without_keypoints_or_weight_there_is_no_look_term() -> None:
    sight = make(body("arm"))
    batch = batch_with_keypoints(sight)
    assert set(sight.learn(batch, None).losses) == {"look", "contrast", "point"}
    assert not sight.learn(replace(batch, keypoints=None), None).losses
    silent = make(body("arm"), look=0.0, contrast=0.0, point=0.0)
    assert not silent.learn(batch, None).losses


def test_a_keypoint_outside_the_view_counts_for_nothing() -> None:
    sight = make(body("arm"))
    batch = batch_with_keypoints(sight)
    assert batch.keypoints is not None
    outside = replace(batch, keypoints=batch.keypoints + torch.tensor([5.0, 0.0, 0.0]))
    assert float(sight.learn(outside, None).losses["look"].count) == 0


def test_data_sets_that_disagree_about_a_camera_are_refused() -> None:
    moved = replace(body("arm"), cameras=(replace(body("arm").cameras[0], projection=(1.0,) * 12),))
    with pytest.raises(ValueError, match="disagree about where camera 'front' stands"):
        make(body("arm"), moved)


def test_sentences_are_told_apart_by_what_is_where_their_thing_shows() -> None:
    torch.manual_seed(0)
    sight = make(body("arm"))
    batch = batch_with_keypoints(sight)
    means = train_on(sight, batch, "contrast", steps=60)
    assert means[0] > 0.8 * np.log(6)  # six sentences, at first all alike
    assert np.mean(means[-10:]) < 0.8 * means[0]


def test_a_thing_that_does_not_show_is_nobodys() -> None:
    torch.manual_seed(0)
    sight = make(body("arm"))
    batch = batch_with_keypoints(sight)
    assert batch.keypoints is not None
    outside = batch.keypoints.clone()
    outside[3:] += 5.0
    moved = replace(batch, keypoints=outside)
    few = Batch(**vars(batch.map(lambda part: part[:3])))
    seen = [sight(part).seen for part in (moved, few)]
    whole, part = (sight.contrast(b, seen) for b, seen in zip((moved, few), seen, strict=True))
    assert float(whole.count) == float(part.count) == 6
    torch.testing.assert_close(whole.sum, part.sum)


def with_blind(sight: Sight) -> Batch:
    batch = batch_with_keypoints(sight)
    return replace(batch, blind=replace(batch, images={}, image_mask={}))


def test_blind_samples_teach_how_to_move_and_nothing_else() -> None:
    torch.manual_seed(0)
    sight = make(armed_body())
    assert sight.diet.blind > 0
    batch = with_blind(sight)
    assert batch.blind is not None
    lesson = sight.learn(batch, torch.Generator().manual_seed(0))
    plain = sight.learn(replace(batch, blind=None), torch.Generator().manual_seed(0))
    assert int(lesson.mask.sum()) == 2 * int(plain.mask.sum())
    assert (len(lesson.vector), lesson.seen) == (2 * len(plain.vector), len(batch))
    look, alone = (float(found.losses["look"].sum.detach()) for found in (lesson, plain))
    assert look == pytest.approx(alone)
    vector, *_ = sight.imagine(batch.blind, torch.Generator().manual_seed(0))
    sight.zero_grad()
    vector.square().sum().backward()
    taught = {name.split(".")[0] for name, weight in sight.named_parameters() if weight.grad is not None}
    assert taught == {"gather", "beside", "body", "merge", "norm"}


def test_what_a_blind_sample_imagines_is_near_where_hindsight_tells_exactly() -> None:
    torch.manual_seed(0)
    sight = make(armed_body())
    batch = with_blind(sight).blind
    assert batch is not None
    assert batch.keypoint_mask is not None
    assert batch.keypoints is not None
    heard = {}

    def listen(batch: Batch, places: torch.Tensor) -> torch.Tensor:
        heard["places"] = places
        return torch.zeros_like(places)

    sight.ways = listen  # type: ignore[method-assign]
    mask = batch.keypoint_mask.clone()
    mask[:, 0] = False
    mask[0] = False
    batch = replace(batch, keypoint_mask=mask)
    _, known, _ = sight.imagine(batch, torch.Generator().manual_seed(0))
    off = (heard["places"] - batch.keypoints).abs()
    assert off[1:, 1].max() < 5 * HINT
    assert off[:, 0].median() > 5 * HINT
    assert known.tolist() == [False] + [True] * 5  # where nothing is told, there is nothing to learn


def with_parts() -> Sight:
    torch.manual_seed(0)
    return make(armed_body(), slots=4, parts=2)


def test_training_looks_with_the_slots_of_the_part_that_hindsight_tells() -> None:
    sight = with_parts()
    batch = batch_with_keypoints(sight)
    assert batch.part is not None
    late = replace(batch, part=torch.tensor([0, 1, 0, 1, 7, 0]))
    expected = [[0, 1], [2, 3], [0, 1], [2, 3], [2, 3], [0, 1]]  # a part beyond the last counts as it
    assert sight.chosen(late).tolist() == expected
    assert sight.chosen(batch).tolist() == [[0, 1]] * 6
    seen = [sight.learn(each, None).losses["look"].sum for each in (batch, late)]
    assert not torch.equal(*seen)


def test_the_part_is_learned_from_hindsight() -> None:
    sight = with_parts()
    batch = replace(batch_with_keypoints(sight), part=torch.tensor([0, 1, 0, 1, 1, 0]))
    train_on(sight, batch, "part", steps=200)
    with torch.no_grad():
        parts = sight(batch).parts
    assert parts is not None
    assert parts.argmax(-1).tolist() == [0, 1, 0, 1, 1, 0]


def test_bodies_that_do_not_tell_their_hand_have_no_use_for_blind_samples() -> None:
    sight = make(body("arm"))
    assert sight.diet == Diet()
    batch = with_blind(sight)
    lesson = sight.learn(batch, torch.Generator().manual_seed(0))
    assert lesson.mask[: len(batch)].any()
    assert not lesson.mask[len(batch) :].any()


def test_acting_chooses_the_part_by_what_it_sees_and_not_by_hindsight() -> None:
    sight = with_parts()
    batch = batch_with_keypoints(sight)
    with torch.no_grad():
        first, second = sight(batch), sight(replace(batch, part=torch.ones(6, dtype=torch.int64)))
    assert torch.equal(first.vector, second.vector)
    assert first.parts is not None
    assert sight.chosen(batch, first.parts)[:, 0].tolist() == (2 * first.parts.argmax(-1)).tolist()


def test_too_few_slots_for_the_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 slots for each part"):
        SightConfig(slots=3, parts=2)


def test_cameras_of_one_name_have_one_size() -> None:
    other = replace(body("leg"), cameras=(Camera(name="front", height=16, width=24),))
    with pytest.raises(ValueError, match="camera 'front' has 16 x 24 pixels at 'leg', and 24 x 32 elsewhere"):
        make(body("arm"), other)


def test_a_body_without_cameras_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one camera"):
        make(replace(body("arm"), cameras=()))


@pytest.mark.parametrize("name", ["look", "contrast", "point"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        replace(SightConfig.tiny(), **{name: -0.1})
