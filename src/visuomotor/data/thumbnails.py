"""Single pictures for pages: JPEG through PyAV, and enlarging without inventing anything."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

__all__ = ["enlarge", "jpeg", "shrink"]


def jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as JPEG of good quality, with colors at full resolution."""
    height, width, _ = picture.shape
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuvj444p"
    codec.time_base = Fraction(1, 1)
    codec.options = {"qmin": "3", "qmax": "4"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = frame.reformat(format="yuvj444p", dst_colorspace="ITU601", dst_color_range="JPEG")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def enlarge(picture: UInt8[np.ndarray, "height width 3"], least: int) -> UInt8[np.ndarray, "high wide 3"]:
    """Each pixel as a square of pixels, so that the shorter side has at least `least`."""
    factor = max(1, -(-least // min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def shrink(picture: UInt8[np.ndarray, "height width 3"], height: int) -> UInt8[np.ndarray, "high wide 3"]:
    """The picture with `height` rows and the same shape, or nearly, by area averaging."""
    wide = max(1, round(picture.shape[1] * height / picture.shape[0]))
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return frame.reformat(width=wide, height=height, interpolation="AREA").to_ndarray(format="rgb24")
