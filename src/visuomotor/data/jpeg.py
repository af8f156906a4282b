"""Pictures as JPEG in one file, read by row: a tenth of the disk, a millisecond each.

Colors keep their full resolution (see `video.py` for why); PyAV has the codec.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from jaxtyping import Int64, UInt8

from visuomotor.data.video import to_rgb
from visuomotor.errors import DataError

__all__ = ["JpegEncoder", "JpegPictures"]

_QUANTIZER = 2
"""Of 1 (best) to 31; `docs/data.md` has what it costs."""
_TO_YUV = Interpolation.AREA | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND


class JpegEncoder:
    """Pictures of one size to JPEG, one by one."""

    def __init__(self, height: int, width: int) -> None:
        context: Any = av.CodecContext.create("mjpeg", "w")
        context.height, context.width, context.pix_fmt = height, width, "yuvj444p"
        context.time_base, context.thread_count = Fraction(1, 1), 1
        context.color_range = ColorRange.JPEG
        context.options = {"qmin": str(_QUANTIZER), "qmax": str(_QUANTIZER)}
        self._context = context
        self._reformatter = VideoReformatter()
        self._count = 0

    def encode(self, picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
        """One complete JPEG."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = self._reformatter.reformat(
            rgb, format="yuvj444p", interpolation=_TO_YUV, dst_color_range=ColorRange.JPEG, threads=1
        )
        frame.pts, frame.time_base = self._count, Fraction(1, 1)
        self._count += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))


class JpegPictures:
    """All pictures of one camera, decoded when read; see `Pictures`.

    Args:
        path: File of JPEGs, one behind the other in any order.
        places: int64 (tick, 2): where each begins, and its bytes.
        height: Pixels.
        width: Pixels.
    """

    def __init__(self, path: Path, places: Int64[np.ndarray, "tick 2"], height: int, width: int) -> None:
        self._path, self._places = path, places
        self.shape: tuple[int, ...] = (len(places), height, width, 3)
        self._bytes = np.memmap(path, np.uint8, "r")
        self._context: Any = av.CodecContext.create("mjpeg", "r")
        self._context.thread_count = 1
        self._reformatter = VideoReformatter()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "row height width 3"]:
        wanted = np.arange(len(self._places))[rows]
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        with self._lock:
            for slot, row in enumerate(wanted.tolist()):
                found[slot] = self._decode(row)
        return found

    def _decode(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        begin, size = self._places[row].tolist()
        try:
            (frame,) = self._context.decode(av.Packet(self._bytes[begin : begin + size].tobytes()))
        except (av.FFmpegError, ValueError) as error:
            raise DataError(
                f"{self._path}: picture {row} cannot be decoded ({error}). Delete the store."
            ) from error
        return to_rgb(self._reformatter, frame, exact=True)
