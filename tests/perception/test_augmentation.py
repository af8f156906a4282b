"""Pictures are changed in training, each on its own, and as asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from visuomotor.perception.augmentation import AugmentationConfig, _moved, augmented
from visuomotor.types import Camera

NONE = AugmentationConfig.none()


def drawn(frames: int = 1, *, height: int = 12, width: int = 16) -> Tensor:
    one = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return one.repeat(frames, 1, 1, 1)


def changed(pictures: Tensor, config: AugmentationConfig, *, moves: bool = True, seed: int = 1) -> Tensor:
    return augmented(pictures, config, moves=moves, generator=torch.Generator().manual_seed(seed))


def test_nothing_changes_and_nothing_is_drawn_when_it_is_off() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    camera = Camera(name="front", height=8, width=8)
    assert not NONE.moves(camera)
    assert torch.equal(augmented(drawn(), NONE, moves=False, generator=generator), drawn())
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    "config", [replace(NONE, crop=0.8), replace(NONE, turn_deg=9.0), replace(NONE, saturation=0.5)]
)
def test_each_picture_is_changed_on_its_own_and_equal_seeds_change_alike(config: AugmentationConfig) -> None:
    found = changed(drawn(3), config)
    assert not any(torch.equal(one, other) for one, other in ((found[0], found[1]), (found[1], found[2])))
    assert torch.equal(found, changed(drawn(3), config))
    assert not torch.equal(found, changed(drawn(3), config, seed=2))
    assert float(found.abs().max()) <= 1


def test_views_from_a_wrist_stay_where_they_are() -> None:
    config = AugmentationConfig()
    cameras = {
        "front": Camera(name="front", height=8, width=8),
        "left_wrist_0_rgb": Camera(name="left_wrist_0_rgb", height=8, width=8),
        "palm": Camera(name="palm", height=8, width=8, mount="hand", projection=(1.0,) * 12),
    }
    assert {name: config.moves(camera) for name, camera in cameras.items()} == {
        "front": True,
        "left_wrist_0_rgb": False,
        "palm": False,
    }
    still = replace(config, brightness=0.0, contrast=0.0, saturation=0.0)
    assert torch.equal(changed(drawn(), still, moves=False), drawn())
    assert not torch.equal(changed(drawn(), config, moves=False), drawn())  # colors change anyway


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    square, zero = drawn(height=6, width=6), torch.zeros(1)
    turned = _moved(square, 1.0, torch.tensor([90.0]), zero, zero)
    torch.testing.assert_close(turned, torch.rot90(square, 1, (2, 3)), atol=1e-4, rtol=0)  # sines in float32
    wide = drawn(height=4, width=20)
    turned = _moved(wide, 1.0, torch.tensor([90.0]), zero, zero)
    assert torch.equal(turned[..., :6], torch.full_like(turned[..., :6], -1.0))  # beside it is black
    torch.testing.assert_close(turned[..., 8:12], torch.rot90(wide[..., 8:12], 1, (2, 3)), atol=1e-4, rtol=0)


def test_a_crop_shows_a_part_as_large_as_the_picture() -> None:
    ramp = torch.linspace(-1 + 1 / 16, 1 - 1 / 16, 16).expand(1, 3, 12, 16)  # each pixel's own place
    right, left = (
        _moved(ramp, 0.5, torch.zeros(1), torch.tensor([side]), torch.zeros(1)) for side in (1.0, -1.0)
    )
    expected = ramp / 2 + 0.5
    torch.testing.assert_close(right[..., :-1], expected[..., :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(left[..., 1:], expected[..., 1:] - 1, atol=1e-5, rtol=0)


def test_colors_change_by_factors_within_their_spreads() -> None:
    gray = torch.full((64, 3, 4, 4), -0.2)  # 0.4 of white
    for name in ("contrast", "saturation"):  # an even gray has neither
        torch.testing.assert_close(changed(gray, replace(NONE, **{name: 0.9})), gray, atol=1e-6, rtol=0)
    factors = (changed(gray, replace(NONE, brightness=0.3))[:, 0, 0, 0] + 1) / 0.8
    assert 0.7 <= float(factors.min()) < 0.75
    assert 1.25 < float(factors.max()) <= 1.3


def test_options_without_sense_are_refused() -> None:
    for wrong in ({"crop": 0.0}, {"turn_deg": -1.0}, {"saturation": 1.5}):
        with pytest.raises(ValueError, match="augmentation: "):
            AugmentationConfig(**wrong)  # type: ignore[arg-type]
