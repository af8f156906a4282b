"""ResNet-18 without its classifier: pictures to a map of features at 1/32 of their size.

Entries are named as in torchvision's state dicts. Source: He et al. (2016), table 1 and section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.errors import unknown_name
from visuomotor.nn import winograd
from visuomotor.nn.weights import load_named

__all__ = [
    "FrozenBatchNorm",
    "Norm",
    "ResNet18",
    "load_resnet18",
]

Norm = Literal["frozen", "group"]
"""Batch norm whose numbers are never trained, or group norm with 16 channels a group."""
IN_GROUP = 16  # channels a group
STAGES = 4
BLOCKS = 2  # of each stage


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and a fixed affine map; it has no parameters, only buffers.

    Args:
        channels: Number of channels.
        epsilon: Added to the variance.

    Source: Ioffe & Szegedy (2015), algorithm 2 at inference; frozen in training as in Carion et al. (2020).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def affine(self) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
        """Scale and shift of each channel, which are all that it does."""
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, maps: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame channel y x"]:
        """The maps, scaled and shifted."""
        scale, shift = self.affine()
        return maps * scale[:, None, None] + shift[:, None, None]


def _new_norm(norm: Norm, channels: int) -> nn.Module:
    return FrozenBatchNorm(channels) if norm == "frozen" else nn.GroupNorm(channels // IN_GROUP, channels)


def _normed(convolution: nn.Module, norm: nn.Module, maps: Tensor) -> Tensor:
    """A convolution and its norm; a frozen one scales whichever has fewer numbers, the kernel or the maps.

    In the kernel it costs nothing where maps are large, as the first ones are; for one picture of 480 x 640
    the last kernels are 16 times as large as their maps.
    """
    if not isinstance(convolution, nn.Conv2d):
        return norm(convolution(maps))
    if not isinstance(norm, FrozenBatchNorm):
        return norm(_convolve(convolution, maps, convolution.weight))
    scale, shift = norm.affine()
    frames, _, height, across = maps.shape
    down, right = convolution.stride
    if convolution.weight.numel() > frames * convolution.out_channels * (height // down) * (across // right):
        found = _convolve(convolution, maps, convolution.weight)
        return torch.addcmul(shift[:, None, None], found, scale[:, None, None])
    return _convolve(convolution, maps, convolution.weight * scale[:, None, None, None], shift)


def _convolve(convolution: nn.Conv2d, maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution with another weight and bias, in the fastest way for these sizes."""
    dense = convolution.kernel_size == (3, 3) and convolution.stride == (1, 1)
    if dense and winograd.pays(maps, weight):
        return winograd.convolve(maps, weight, bias)
    if weight.numel() > maps.numel():  # else the kernel is copied into the order of the maps
        maps = maps.contiguous()
    return F.conv2d(maps, weight, bias, convolution.stride, convolution.padding)


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 beside a shortcut.

    Source: He et al. (2016), fig. 5 left; where the shape changes, the shortcut is a projection (option B).
    """

    def __init__(self, channels: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = _new_norm(norm, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = _new_norm(norm, out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            project = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, _new_norm(norm, out))

    def forward(self, maps: Float[Tensor, "frame channel y x"]) -> Float[Tensor, "frame out down across"]:
        found = F.relu(_normed(self.conv1, self.bn1, maps), inplace=True)
        found = _normed(self.conv2, self.bn2, found)
        if self.downsample is not None:
            maps = _normed(self.downsample[0], self.downsample[1], maps)
        return F.relu(found.add_(maps), inplace=True)


class ResNet18(nn.Module):
    """Pictures to features of 32 times coarser places.

    Args:
        norm: "frozen" for weights that were trained elsewhere, "group" to train from scratch.
        width: Channels of the first stage; 64 in the paper. The last one has 8 times as many.

    Attributes:
        channels: Of the features.
    """

    def __init__(self, norm: Norm = "frozen", width: int = 64) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise unknown_name("norm of a ResNet", norm, get_args(Norm))
        if width < IN_GROUP or width % IN_GROUP:
            raise ValueError(f"ResNet-18: width must be a multiple of {IN_GROUP}, got {width}.")
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = _new_norm(norm, width)
        channels = width
        for stage in range(STAGES):
            out = width * 2**stage
            blocks = [BasicBlock(channels, out, 2 if stage else 1, norm)]
            blocks += [BasicBlock(out, out, 1, norm) for _ in range(BLOCKS - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            channels = out
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, pictures: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame channel down across"]:
        """Features of pictures as `standardize_pictures` makes them, at 1/32 of their size, rounded up."""
        maps = _normed(self.conv1, self.bn1, pictures)
        maps = F.relu(F.max_pool2d(maps, 3, stride=2, padding=1))  # the larger ones need no ReLU then
        for stage in range(STAGES):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return maps


def load_resnet18(network: ResNet18, weights: Mapping[str, Tensor], where: str = "ResNet-18") -> None:
    """Copy a state dict with torchvision's names into a network.

    The classifier (`fc`) and the counters of batch norm may be there and are not used.

    Raises:
        CheckpointError: A name is missing, unknown, or of another shape; with the closest names.
    """
    load_named(network, weights, where=where, unused=("fc.weight", "fc.bias", "*.num_batches_tracked"))
