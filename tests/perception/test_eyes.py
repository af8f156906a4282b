"""Eyes tell where things are, wherever the picture was shifted to."""

from __future__ import annotations

import torch

from visuomotor.perception.eyes import Eye, near_the_best, pixel_grid, shifted, unshifted


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
    eye = Eye(8, blocks=1, slot_width=16).eval()
    pixels = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    pixels[:, 24:36, 20:32] = torch.tensor([250, 10, 10], dtype=torch.uint8)
    slots = torch.randn(1, 2, 16)
    moved = pixels.roll(4, dims=2)  # one cell of the feature map
    with torch.no_grad():
        there = eye(unshifted(moved)._replace(offset=torch.tensor([[-8 / 64, 0.0]])), slots).slots
        here = eye(unshifted(pixels), slots).slots
    # Expected coordinates move with the picture up to its border, which wraps around.
    torch.testing.assert_close(there[..., :2], here[..., :2], atol=0.15, rtol=0)


def test_a_place_is_read_between_cells_and_not_pulled_to_a_second_one() -> None:
    grid = pixel_grid(16, 16, torch.zeros(1))
    true = torch.tensor([0.31, -0.22])
    first = -(grid - true).square().sum(-1) / (2 * 0.06**2)
    second = -(grid + 0.7).square().sum(-1) / (2 * 0.06**2) - 1.5  # half as likely, far away
    matches = torch.logaddexp(first, second)[None, None]
    place = (near_the_best(matches, grid) @ grid)[0, 0]
    assert float((place - true).norm()) < 0.02  # a cell is 0.125 wide
    assert float((matches.softmax(-1) @ grid - true).norm()) > 0.15
