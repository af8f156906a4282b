"""The eyes of robomimic and Diffusion Policy: where each feature of a ResNet-18 is bright.

Source: Mandlekar et al. (2021), "What matters in learning from offline human demonstrations for robot
manipulation", appendix; the soft-argmax is that of Levine et al. (2016), section 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from visuomotor.nn.pictures import IMAGENET_MEAN, IMAGENET_STD, standardize_pictures
from visuomotor.nn.pooling import SpatialSoftArgmax
from visuomotor.nn.resnet import Norm, ResNet18

__all__ = ["POINTS", "SEEN", "PointEye", "cropped"]

POINTS = 32  # of a camera's soft-argmax
SEEN = 64  # numbers that a camera comes down to


class PointEye(nn.Module):
    """Pictures of one camera to `SEEN` numbers: ResNet-18, points by soft-argmax, a linear layer with ReLU.

    Args:
        width: Channels of the first stage of the ResNet-18.
        norm: Of the ResNet-18.
        mean: Of red, green and blue, in [0, 1].
        std: Of red, green and blue, in [0, 1].
    """

    def __init__(
        self,
        width: int = 64,
        *,
        norm: Norm = "group",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        self.resnet = ResNet18(norm, width)
        self.points = nn.Conv2d(self.resnet.channels, POINTS, kernel_size=1)
        self.where = SpatialSoftArgmax(POINTS)
        self.leave = nn.Linear(2 * POINTS, SEEN)

    def forward(self, pixels: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame seen"]:
        """What each picture comes down to."""
        maps = self.points(self.resnet(standardize_pictures(pixels, self.mean, self.std)))
        return self.leave(self.where(maps).flatten(1)).relu()


def cropped(
    pixels: UInt8[Tensor, "frame height across 3"],
    share: float,
    *,
    at_random: bool,
    generator: torch.Generator | None = None,
) -> UInt8[Tensor, "frame high wide 3"]:
    """A part of each picture: its middle, or somewhere at random, elsewhere in each."""
    frames, height, across, _ = pixels.shape
    high, wide = max(round(height * share), 1), max(round(across * share), 1)
    if not at_random:
        top, left = (height - high) // 2, (across - wide) // 2
        return pixels[:, top : top + high, left : left + wide]
    places, device = [], pixels.device
    for room, side in ((height - high, high), (across - wide, wide)):
        start = torch.randint(room + 1, (frames, 1), generator=generator, device=device)
        places.append(start + torch.arange(side, device=device))  # frame side
    frame = torch.arange(frames, device=device)[:, None, None]
    return pixels[frame, places[0][:, :, None], places[1][:, None, :]]
