"""A U-Net over time: noisy chunk, diffusion step and observation to a prediction of the same shape.

Entries are named as in the state dicts released with the paper. A chunk has few ticks and many channels, for
which a convolution is best computed as one matrix product: torch's own reads its weights again for every tick
on some processors. With 2048 channels and 4 ticks that took 31 ms, the product 15; with 16 chunks at once,
forth and back, 664 and 248 (one core, AVX2).

Source: Chi et al. (2023), "Diffusion Policy", section III-B and appendix; after Janner et al. (2022),
"Planning with diffusion".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["ConditionalUNet1D", "StepWaves", "TickConv", "TickConvTranspose"]


FEW_TICKS = 8
MANY_WEIGHTS = 1_000_000
AT_ONCE = 16  # outputs


class StepWaves(nn.Module):
    """Sines, then cosines, of a diffusion step, at `width / 2` rates from 1 to 1/10000.

    Args:
        width: Size of the embedding; even.

    Source: Vaswani et al. (2017), section 3.5, as in Ho et al. (2020), appendix B.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, step: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """The embedded steps."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=step.device) * (-math.log(10_000) / (half - 1)))
        angles = step[:, None].float() * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TickConv(nn.Conv1d):
    """`nn.Conv1d`, computed as one product of all ticks with the weights; see the top of this file."""

    def forward(self, chunk: Float[Tensor, "batch channel tick"]) -> Float[Tensor, "batch out other"]:
        """The convolution."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        padding = kernel // 2
        near = F.pad(chunk, (padding, padding)).unfold(2, kernel, stride)  # batch channel other kernel
        near = near.transpose(1, 2).flatten(2)  # batch other (channel kernel)
        return _product(near, self.weight.flatten(1), self.bias).transpose(1, 2)


def _product(near: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`; while acting a few outputs at a time, so that many weights are read and not packed first.

    For 4 ticks and 84 MB of weights 7.5 ms instead of 11.2, with 5.9 to read them (one core, AVX512).
    """
    few = near.shape[:2].numel() <= FEW_TICKS and weight.numel() >= MANY_WEIGHTS
    if not few or near.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(near, weight, bias)
    found = torch.cat([F.linear(near, some) for some in weight.split(AT_ONCE)], dim=-1)
    return found if bias is None else found.add_(bias)


class TickConvTranspose(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with kernel 4, stride 2 and padding 1, computed like `TickConv`."""

    def forward(
        self, chunk: Float[Tensor, "batch channel tick"], output_size: list[int] | None = None
    ) -> Float[Tensor, "batch out twice"]:
        """The convolution: each tick adds to four, which begin one before its first half."""
        parts = chunk.transpose(1, 2) @ self.weight.flatten(1)  # batch tick (out kernel)
        early, first, second, late = parts.unflatten(-1, (-1, 4)).unbind(-1)  # each batch tick out
        first = first + F.pad(late, (0, 0, 1, -1))  # of the tick before
        second = second + F.pad(early, (0, 0, -1, 1))  # of the tick behind
        both = torch.stack([first, second], dim=2).flatten(1, 2)  # batch (tick half) out
        if self.bias is not None:
            both = both + self.bias
        return both.transpose(1, 2)


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            TickConv(channels, out, kernel, padding=kernel // 2), nn.GroupNorm(groups, out), nn.Mish()
        )

    def forward(self, chunk: Float[Tensor, "batch channel tick"]) -> Float[Tensor, "batch out tick"]:
        return self.block(chunk)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the condition modulates between them.

    The modulation is this family's own form of FiLM: `scale * x + bias`, without `1 +`, and not starting
    at the identity.
    """

    def __init__(self, channels: int, out: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ConvBlock(channels, out, kernel, groups), ConvBlock(out, out, kernel, groups)]
        )
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * out))
        self.residual_conv = TickConv(channels, out, 1) if channels != out else nn.Identity()

    def forward(
        self, chunk: Float[Tensor, "batch channel tick"], condition: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch out tick"]:
        scale, bias = self.cond_encoder(condition)[:, :, None].chunk(2, dim=1)
        found = torch.addcmul(bias, scale, self.blocks[0](chunk))
        return self.blocks[1](found) + self.residual_conv(chunk)


class Resample(nn.Module):
    """Half as many ticks, or twice as many, by a convolution with stride 2."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.conv: nn.Module = (
            TickConvTranspose(channels, channels, 4, 2, 1) if up else TickConv(channels, channels, 3, 2, 1)
        )

    def forward(self, chunk: Float[Tensor, "batch channel tick"]) -> Float[Tensor, "batch channel other"]:
        return self.conv(chunk)


class ConditionalUNet1D(nn.Module):
    """The U-Net.

    Args:
        action: Numbers of an action.
        condition: Size of the observation's features.
        dims: Channels of each level; each but the last halves the ticks, so that the horizon must be a
            multiple of `2 ** (len(dims) - 1)`.
        step_width: Size of the embedded diffusion step.
        kernel: Size of the convolutions.
        groups: Of the group norms.
        marks: Whether it can be told which ticks are clean.
    """

    def __init__(
        self,
        action: int,
        condition: int,
        *,
        dims: Sequence[int] = (256, 512, 1024),
        step_width: int = 256,
        kernel: int = 5,
        groups: int = 8,
        marks: bool = False,
    ) -> None:
        super().__init__()
        self.shortens = 2 ** (len(dims) - 1)
        self.diffusion_step_encoder = nn.Sequential(
            StepWaves(step_width),
            nn.Linear(step_width, 4 * step_width),
            nn.Mish(),
            nn.Linear(4 * step_width, step_width),
        )
        total = step_width + condition

        def residual(channels: int, out: int) -> ResidualBlock:
            return ResidualBlock(channels, out, total, kernel, groups)

        levels = list(zip([action, *dims[:-1]], dims, strict=True))
        self.mid_modules = nn.ModuleList([residual(dims[-1], dims[-1]) for _ in range(2)])
        self.down_modules = nn.ModuleList()
        for number, (channels, out) in enumerate(levels):
            last = number == len(levels) - 1
            shorter = nn.Identity() if last else Resample(out, up=False)
            self.down_modules.append(nn.ModuleList([residual(channels, out), residual(out, out), shorter]))
        self.up_modules = nn.ModuleList(
            nn.ModuleList(
                [residual(2 * out, channels), residual(channels, channels), Resample(channels, up=True)]
            )
            for channels, out in reversed(levels[1:])
        )
        self.final_conv = nn.Sequential(
            ConvBlock(dims[0], dims[0], kernel, groups), TickConv(dims[0], action, 1)
        )
        self.mark = nn.Parameter(torch.zeros(dims[0])) if marks else None

    def forward(
        self,
        chunk: Float[Tensor, "batch horizon action"],
        step: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition"],
        clean: Bool[Tensor, "batch horizon"] | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """What is predicted of a noisy chunk, whose ticks may be `clean` if it was built with `marks`."""
        hidden = chunk.transpose(1, 2)  # batch horizon action -> batch action horizon
        total = torch.cat([self.diffusion_step_encoder(step), condition], dim=-1)
        left: list[Tensor] = []
        for first, second, shorter in _levels(self.down_modules):
            hidden = first(hidden, total)
            if clean is not None and self.mark is not None and not left:
                hidden = hidden + self.mark[:, None] * clean[:, None].to(hidden.dtype)
            hidden = second(hidden, total)
            left.append(hidden)
            hidden = shorter(hidden)
        for middle in self.mid_modules:
            hidden = middle(hidden, total)
        for first, second, longer in _levels(self.up_modules):
            hidden = longer(second(first(torch.cat([hidden, left.pop()], dim=1), total), total))
        return self.final_conv(hidden).transpose(1, 2)


def _levels(modules: nn.ModuleList) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
    """The two residual blocks and the resampling of each level."""
    for level in modules:
        first, second, resample = cast(nn.ModuleList, level)
        yield first, second, resample
