"""An eye: each slot of a sentence finds its place in a picture, and what is there.

A slot sees by spatial soft-argmax (Levine et al. 2016, sec. 5.1) around its best place: it returns where
(expected coordinates) and what (mean feature). Pictures are shifted in training and the coordinates are
shifted back, so that convolutions learn from every pixel phase while geometry stays exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from visuomotor.nn.film import FiLM

__all__ = ["VALUE", "Eye", "Glimpse", "Views", "near_the_best", "pixel_grid", "shifted", "unshifted"]

WINDOW = 0.15  # around the best place, in half pictures
GROUPS = 4  # of channels that are normalized together
SHARPNESS = 1.5  # of a fresh eye; a soft one would place everything in the middle and learn slowly
KEY = 32  # width in which slots and places are matched
VALUE = 24  # what a slot takes from the place it looks at


class Glimpse(NamedTuple):
    """What the slots saw: where and what; how well each place matched each slot, and by which features."""

    slots: Float[Tensor, "frame slot feature"]
    matches: Float[Tensor, "frame slot place"]
    grid: Float[Tensor, "frame place 2"]
    queries: Float[Tensor, "frame slot key"]
    keys: Float[Tensor, "frame key place"]


class Views(NamedTuple):
    """Pictures of one camera, and how far they were shifted, in units of half a picture."""

    pixels: UInt8[Tensor, "frame height width 3"]
    offset: Float[Tensor, "frame 2"]
    gain: Float[Tensor, "frame 3"]
    bias: Float[Tensor, "frame 3"]


def shifted(
    pixels: UInt8[Tensor, "frame height width 3"],
    shift: int,
    photometric: float,
    generator: torch.Generator | None,
) -> Views:
    """Augment each picture on its own: shift by whole pixels, colors by a gain and a bias.

    Only the shift touches the uint8 pixels; gain and bias are applied where they become floats.
    """
    frames, height, width, _ = pixels.shape
    device = pixels.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * 2 - 1

    moves = torch.randint(-shift, shift + 1, (frames, 2), generator=generator, device=device)  # x, y
    rows = (torch.arange(height, device=device) + moves[:, 1:]).clamp(0, height - 1)  # frame height
    columns = (torch.arange(width, device=device) + moves[:, :1]).clamp(0, width - 1)  # frame width
    frame = torch.arange(frames, device=device)[:, None, None]
    moved = pixels[frame, rows[:, :, None], columns[:, None, :]]
    size = torch.tensor([width, height], device=device)
    gain = (1 + photometric * draw(frames, 1)) * (1 + 0.5 * photometric * draw(frames, 3))
    bias = photometric * draw(frames, 1).expand(-1, 3)
    return Views(moved, 2 * moves / size, gain, bias)


def unshifted(pixels: UInt8[Tensor, "frame height width 3"]) -> Views:
    """Pictures as they are."""
    zeros = pixels.new_zeros((len(pixels), 3), dtype=torch.float32)
    return Views(pixels, zeros[:, :2], zeros + 1, zeros)


class LookAround(nn.Module):
    """Residual block of an eye; normalized, and not depthwise, it learns shapes several times sooner."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.around = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame channel y x"]:
        return features + F.relu(self.around(self.norm(features)))


class Eye(nn.Module):
    """One camera: each slot of the sentence finds its place in the picture and what is there.

    Args:
        channels: Of the feature map.
        blocks: Blocks that look around at a quarter of the picture's resolution.
        slot_width: Width of a slot.
    """

    def __init__(self, channels: int, *, blocks: int, slot_width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 2, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, kernel_size=4, stride=2, padding=1),
        )
        self.contrast = nn.GroupNorm(GROUPS, channels)
        self.blocks = nn.Sequential(*(LookAround(channels) for _ in range(blocks)))
        self.settle = nn.GroupNorm(GROUPS, channels)
        self.keys = nn.Conv2d(channels, KEY, kernel_size=1)
        self.film = FiLM(channels, slot_width)
        self.values = nn.Linear(channels, VALUE)
        self.queries = nn.Linear(slot_width, KEY)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, views: Views, slots: Float[Tensor, "frame slot width"]) -> Glimpse:
        """What the slots see in pictures of any size."""
        features = self.features(views)
        height, width = features.shape[-2:]
        keys = self.keys(features).flatten(2)  # frame key place
        queries = self.queries(slots) * (SHARPNESS * KEY**-0.5)
        matches = queries @ keys  # frame slot place
        places = pixel_grid(height, width, features)
        attention = near_the_best(matches, places)
        what = attention @ features.flatten(2).transpose(1, 2)  # frame slot channel
        steered = self.film(what.flatten(0, 1), slots.flatten(0, 1)).view_as(what)
        grid = places + views.offset[:, None]  # in the picture before its shift
        taken = torch.cat([attention @ grid, self.values(F.relu(steered))], dim=-1)
        return Glimpse(taken, matches, grid, queries, keys)

    def features(self, views: Views) -> Float[Tensor, "frame channel y x"]:
        """Feature map at a quarter of the resolution."""
        pixels = views.pixels.permute(0, 3, 1, 2).float()  # frame y x channel -> frame channel y x
        scale, bias = views.gain / 127.5, views.bias - views.gain
        pixels = torch.addcmul(bias[:, :, None, None], pixels, scale[:, :, None, None])  # now in [-1, 1]
        return self.settle(self.blocks(F.relu(self.contrast(self.stem(pixels)))))


def near_the_best(
    matches: Float[Tensor, "frame slot place"], places: Float[Tensor, "place 2"]
) -> Float[Tensor, "frame slot place"]:
    """Softmax of the matches around the best place: doubt about places far away must not pull it there.

    The best match finds the best place, as exactly as the cells are wide, and one of two where both are
    right; within a window around it the softmax is exact to a fraction of a cell.
    """
    best = places[matches.argmax(dim=-1)]
    away = (places - best[..., None, :]).square().sum(-1)  # frame slot place
    return (matches - away / (2 * WINDOW**2)).softmax(dim=-1)


def pixel_grid(height: int, width: int, like: Tensor) -> Float[Tensor, "place 2"]:
    """Centers of the cells of a feature map, x and y in [-1, 1], row by row."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) * (2 / height) - 1
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)
