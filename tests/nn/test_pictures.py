from __future__ import annotations

import numpy as np
import pytest
import torch

from visuomotor.nn.pictures import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    resize_pictures,
    resize_with_pad,
    standardize_pictures,
    unit_pictures,
)


def random_pictures(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def by_pillow(pixels: torch.Tensor, height: int, width: int, filter: str) -> torch.Tensor:
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra [test]")
    resample = {"bilinear": image.Resampling.BILINEAR, "bicubic": image.Resampling.BICUBIC}[filter]
    return torch.stack(
        [
            torch.from_numpy(np.array(image.fromarray(picture.numpy()).resize((width, height), resample)))
            for picture in pixels
        ]
    )


def test_pixels_reach_both_ends_of_the_unit() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert unit_pictures(pixels).flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert unit_pictures(random_pictures(2, 4, 5)).shape == (2, 3, 4, 5)


def test_pixels_are_standardized_by_hand() -> None:
    pixels = random_pictures(2, 4, 5)
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))):
        expected = (pixels / 255 - torch.tensor(mean)) / torch.tensor(std)
        torch.testing.assert_close(standardize_pictures(pixels, mean, std), expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 31), (75, 100), (97, 60)])
def test_resizing_is_pillows(filter: str, size: tuple[int, int]) -> None:
    pixels = random_pictures(2, 48, 64)
    found, expected = resize_pictures(pixels, *size, filter=filter), by_pillow(pixels, *size, filter)
    assert found.shape == expected.shape
    differs = (found.int() - expected.int()).abs()
    assert int(differs.max()) <= 1  # Pillow's weights are integers
    assert float(differs.float().mean()) < 0.05  # where they meet a half


@pytest.mark.parametrize(
    ("size", "frame", "place"),
    [
        ((480, 640), (224, 224), (28, 0, 168, 224)),  # a camera into a square: bars above and below
        ((64, 48), (40, 41), (0, 5, 40, 30)),  # an odd rest of 11: 5 to the left, 6 to the right
        ((30, 30), (20, 50), (0, 15, 20, 20)),
        ((10, 20), (60, 60), (15, 0, 30, 60)),  # enlarged
    ],
)
def test_a_padded_picture_keeps_its_proportions(
    size: tuple[int, int], frame: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    pixels = random_pictures(1, *size).clamp(min=1)
    framed = resize_with_pad(pixels, *frame)
    top, left, tall, wide = place
    inside = framed[:, top : top + tall, left : left + wide]
    assert framed.shape == (1, *frame, 3)
    assert int((inside.int() - by_pillow(pixels, tall, wide, "bilinear").int()).abs().max()) <= 1
    outside = framed.clone()
    outside[:, top : top + tall, left : left + wide] = 0
    assert not outside.any()


def test_bars_are_filled() -> None:
    framed = resize_with_pad(random_pictures(1, 4, 8), 8, 8, fill=7)
    assert framed[:, [0, 1, 6, 7]].unique().tolist() == [7]
    assert len(framed[:, 2:6].unique()) > 1


def test_a_very_long_picture_does_not_vanish() -> None:
    assert resize_with_pad(random_pictures(1, 1, 900).clamp(min=1), 8, 8).any()


def test_pictures_that_fit_are_left_alone() -> None:
    pixels = random_pictures(2, 8, 9)
    assert torch.equal(resize_with_pad(pixels, 8, 9), pixels)
    assert torch.equal(resize_pictures(pixels, 8, 9), pixels)


def test_the_argument_is_not_written_to() -> None:
    pixels = random_pictures(1, 8, 9)
    before = pixels.clone()
    resize_with_pad(pixels, 5, 5)
    standardize_pictures(pixels)
    unit_pictures(pixels)
    assert torch.equal(pixels, before)
