"""Pixels to what pretrained networks see: resized, padded, on their scale.

Pixels are uint8 with the channel last; what a network sees is float with the channel first. All functions
work on any device and give the same everywhere, so that a picture need not be prepared where it was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Filter",
    "resize_pictures",
    "resize_with_pad",
    "standardize_pictures",
    "unit_pictures",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of the red, green and blue of ImageNet, in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the red, green and blue of ImageNet, in [0, 1]."""
Filter = Literal["bilinear", "bicubic"]


def unit_pictures(pixels: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame 3 height width"]:
    """Pixels from -1 (dark) to 1 (bright), as SigLIP and what is built on it expect them."""
    return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)  # frame y x 3 -> frame 3 y x


def standardize_pictures(
    pixels: UInt8[Tensor, "frame height width 3"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "frame 3 height width"]:
    """Pixels in [0, 1] less a mean, over a spread; those of ImageNet as ResNets and DINOv2 expect them."""
    center = torch.tensor(mean, device=pixels.device)
    spread = torch.tensor(std, device=pixels.device)
    # The answer keeps the order of the pixels in memory (channels last), which convolutions like best. Whole
    # rows are scaled: numbers that change with every third one take four times as long.
    across = pixels.shape[2]
    rows = pixels.float().flatten(2)  # frame y x 3 -> frame y (x 3)
    rows.mul_((1 / (255 * spread)).repeat(across)).sub_((center / spread).repeat(across))
    return rows.unflatten(2, (across, 3)).permute(0, 3, 1, 2)  # frame y (x 3) -> frame 3 y x


def resize_pictures(
    pixels: UInt8[Tensor, "frame height width 3"], height: int, width: int, *, filter: Filter = "bilinear"
) -> UInt8[Tensor, "frame tall wide 3"]:
    """Pictures of another size, whatever becomes of their proportions; antialiased where they shrink.

    Filters, order and rounding are those of Pillow; its weights are integers, so a pixel may differ by 1.
    Where one side shrinks and the other grows, versions of Pillow do not agree about the order.
    """
    if pixels.shape[1:3] == (height, width):
        return pixels
    maps = pixels.float().permute(0, 3, 1, 2)  # frame y x 3 -> frame 3 y x
    for size in ((pixels.shape[1], width), (height, width)):  # along rows first, then along columns
        maps = F.interpolate(maps, size=size, mode=filter, align_corners=False, antialias=True)
        maps = (maps + 0.5).floor().clamp(0, 255)  # halves up
    return maps.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def resize_with_pad(
    pixels: UInt8[Tensor, "frame height width 3"],
    height: int,
    width: int,
    *,
    filter: Filter = "bilinear",
    fill: int = 0,
) -> UInt8[Tensor, "frame tall wide 3"]:
    """Pictures in the middle of a frame, as large as fit with their proportions.

    Args:
        pixels: Any size.
        height: Of the frame.
        width: Of the frame.
        filter: How pixels are mixed.
        fill: What stands beside them.

    Source: the preparation of pi0 (Black et al. 2024) as released in openpi, `image_tools.py`: sizes are
    rounded down, and of an odd rest the larger part is at the bottom and to the right.
    """
    if pixels.shape[1:3] == (height, width):
        return pixels
    shrink = max(pixels.shape[2] / width, pixels.shape[1] / height)
    tall, wide = (max(1, int(side / shrink)) for side in pixels.shape[1:3])
    top, left = (height - tall) // 2, (width - wide) // 2
    framed = pixels.new_full((len(pixels), height, width, 3), fill)
    framed[:, top : top + tall, left : left + wide] = resize_pictures(pixels, tall, wide, filter=filter)
    return framed
