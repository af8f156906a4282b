"""Pictures for pretrained eyes, each one changed on its own in training.

The small eyes of `visuomotor.perception.eyes` change theirs by whole pixels, as they shift places back.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from visuomotor.types import Camera

__all__ = ["AugmentationConfig", "augmented"]

GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in how bright a pixel is (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How much pictures change in training; the defaults are those of the released training of pi0."""

    crop: float = 0.95
    """Share of each side that is kept, somewhere in the picture; 1 for all."""
    turn_deg: float = 5.0
    """Most degrees that a picture is turned by, either way."""
    still: tuple[str, ...] = ("*wrist*",)
    """Cameras whose pictures are neither cropped nor turned, by name; those on a hand never are."""
    brightness: float = 0.3
    """Spread of the factor of all pixels, around 1."""
    contrast: float = 0.4
    """Spread of the factor of the distances from the mean gray."""
    saturation: float = 0.5
    """Spread of the factor of the distances from each pixel's gray."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or self.turn_deg < 0:
            raise ValueError(f"augmentation: expected crop in (0, 1] and turn_deg of at least 0, got {self}.")
        if not all(0 <= spread <= 1 for spread in (self.brightness, self.contrast, self.saturation)):
            raise ValueError(f"augmentation: spreads of colors lie in [0, 1], got {self}.")

    @classmethod
    def none(cls) -> AugmentationConfig:
        """Pictures stay as they are."""
        return cls(crop=1.0, turn_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0)

    def moves(self, camera: Camera) -> bool:
        """Whether pictures of this camera are cropped and turned."""
        if self.crop == 1 and self.turn_deg == 0:
            return False
        return camera.mount == "base" and not any(fnmatchcase(camera.name, name) for name in self.still)


def augmented(
    pictures: Float[Tensor, "frame 3 height width"],
    config: AugmentationConfig,
    *,
    moves: bool,
    generator: torch.Generator | None,
) -> Float[Tensor, "frame 3 height width"]:
    """Pictures in [-1, 1], each changed by numbers of its own.

    Args:
        pictures: After `unit_pictures`.
        config: How much.
        moves: Whether they are cropped and turned; colors change anyway.
        generator: Source of randomness; torch's own if None.

    Source: the released training of pi0 (openpi, `models/model.py`). Crop and turn are one interpolation
    here and two there, so that corners beside the crop show what was there and not black. There, colors of
    every second picture change, as hue, saturation and value; here those of all do, by factors of pixels,
    contrast and saturation in this order, as in its version for torch.
    """

    def draw() -> Float[Tensor, " frame"]:
        return torch.rand(len(pictures), generator=generator, device=pictures.device) * 2 - 1

    if moves:
        pictures = _moved(pictures, config.crop, draw() * config.turn_deg, draw(), draw())
    if not any((config.brightness, config.contrast, config.saturation)):
        return pictures
    factors = [1 + spread * draw() for spread in (config.brightness, config.contrast, config.saturation)]
    brightness, contrast, saturation = (factor[:, None, None, None] for factor in factors)
    shares = pictures.new_tensor(GRAY)[:, None, None]
    colors = (pictures + 1) / 2 * brightness
    mean = (colors * shares).sum(1, keepdim=True).mean((2, 3), keepdim=True)  # frame 1 1 1
    colors = mean + contrast * (colors - mean)
    gray = (colors * shares).sum(1, keepdim=True)
    return 2 * (gray + saturation * (colors - gray)).clamp(0, 1) - 1


def _moved(
    pictures: Float[Tensor, "frame 3 height width"],
    crop: float,
    turns_deg: Float[Tensor, " frame"],
    right: Float[Tensor, " frame"],
    down: Float[Tensor, " frame"],
) -> Float[Tensor, "frame 3 height width"]:
    """A part of each picture, turned and as large as the picture; black where there was nothing.

    Args:
        pictures: In [-1, 1].
        crop: Share of each side.
        turns_deg: Of the part, counterclockwise on the screen.
        right: Where the part lies, from -1 (left edge) to 1.
        down: Likewise, from the top.
    """
    height, width = pictures.shape[-2:]
    angle = torch.deg2rad(turns_deg)
    cosine, sine = crop * angle.cos(), crop * angle.sin()
    # Each place of the answer, in units of half a side, to where it is taken from.
    across = torch.stack([cosine, -sine * (height / width), right * (1 - crop)], dim=-1)
    along = torch.stack([sine * (width / height), cosine, down * (1 - crop)], dim=-1)
    where = torch.stack([across, along], dim=1).to(pictures)
    places = F.affine_grid(where, list(pictures.shape), align_corners=False)  # frame height width 2
    moved = F.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    return moved.masked_fill((places.abs() > 1).any(-1)[:, None], -1.0)
