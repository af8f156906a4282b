"""Pictures to h264 video and back, through PyAV.

A `Clip` is the video of one episode as a small mp4 in memory. Clips are joined into larger files
by copying packets, without encoding again; each begins with a key frame, so the join is exact.

Colors are converted with area averaging and accurate rounding: swscale's fast paths darken every
picture by about 1.4 levels. They are kept at full resolution (yuv444p): halving it, as yuv420p does,
smears the edge of an object of ten pixels by dozens of levels, more than all other losses together
(`docs/data.md` has the measurement), and a policy is later run on pictures that have sharp edges.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Camera

__all__ = [
    "Clip",
    "ClipEncoder",
    "ClipFile",
    "Settings",
    "StillSettings",
    "VideoSettings",
    "decode",
    "encode",
    "header",
    "join",
    "tick_of_rate",
    "to_rgb",
]

Pixels = Literal["yuv444p", "yuv420p"]
_LARGEST = 1 << 28  # pixels; 8K has 2^25
_TO_YUV = {
    "yuv420p": Interpolation.AREA | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND,
    # without halving there is nothing to average, and the same bits come out in half the time
    "yuv444p": Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INP,
}
_TO_RGB = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How pictures are compressed."""

    gap: int = 2
    """Ticks from one key frame to the next; 2 as in LeRobot, so that random access stays cheap."""
    crf: int = 16
    """Constant rate factor of x264: 0 keeps nearly every level, 51 nearly nothing."""
    preset: str = "ultrafast"
    """Effort of x264; slower ones make files smaller, not better, and slower to decode."""
    pixels: Pixels = "yuv444p"
    """Color resolution: full, or halved in both directions for players that know nothing else (browsers)."""

    def __post_init__(self) -> None:
        if self.pixels not in get_args(Pixels):
            raise unknown_name("pixel format", self.pixels, get_args(Pixels))
        if self.gap < 1 or not 0 <= self.crf <= 51:
            raise ValueError(
                f"video settings: expected gap >= 1 and crf in 0..51, got {self.gap} and {self.crf}."
            )


@dataclass(frozen=True, kw_only=True)
class StillSettings:
    """Pictures as PNG inside of the tables: nothing is lost, and files are many times larger."""


Settings = VideoSettings | StillSettings
"""How the pictures of a recording are kept."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The video of one episode and one camera.

    Attributes:
        data: A complete mp4 file.
        frames: Pictures in it.
        sha256: Hash of its compressed packets, which joining does not change.
        header: Codec header; only clips with equal headers can share a file.
    """

    data: bytes
    frames: int
    sha256: str
    header: bytes


def tick_of_rate(rate: float) -> Fraction:
    """Seconds of one tick as the fraction that the mp4 file keeps."""
    return 1 / Fraction(rate).limit_denominator(1001)


class ClipFile:
    """A small mp4 in memory that grows frame by frame.

    Args:
        codec: Name of the encoder.
        options: What it is told.
        height: Pixels.
        width: Pixels.
        pixels: Format of the frames.
        rate: Ticks a second.
    """

    def __init__(
        self, codec: str, options: Mapping[str, str], height: int, width: int, pixels: str, rate: float
    ) -> None:
        self._tick = tick_of_rate(rate)
        self._frames = 0
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        stream: Any = self._container.add_stream(codec, rate=1 / self._tick, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = self._tick
        self._stream = stream

    def add(self, frame: av.VideoFrame) -> None:
        """Append one frame of the size and format of the file."""
        frame.pts, frame.time_base = self._frames, self._tick
        self._frames += 1
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def finish(self) -> Clip:
        """The finished clip; nothing can be added any more."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        data = self._buffer.getvalue()
        digest = hashlib.sha256()
        with av.open(io.BytesIO(data)) as container:
            for packet in _packets(container):
                digest.update(bytes(packet))
            extra = container.streams.video[0].codec_context.extradata or b""
        return Clip(data=data, frames=self._frames, sha256=digest.hexdigest(), header=bytes(extra))


class ClipEncoder:
    """Encodes one episode of one camera, picture by picture."""

    def __init__(self, camera: Camera, rate: float, settings: VideoSettings) -> None:
        if settings.pixels == "yuv420p" and (camera.height % 2 or camera.width % 2):
            raise ValueError(
                f"camera {camera.name!r}: yuv420p needs an even height and width, got "
                f"{camera.height} x {camera.width}. "
                f"Use {camera.height + camera.height % 2} x {camera.width + camera.width % 2}, or yuv444p."
            )
        self._camera = camera
        self._pixels, self._colors = settings.pixels, _TO_YUV[settings.pixels]
        self._reformatter = VideoReformatter()
        options = {
            "preset": settings.preset,
            "crf": str(settings.crf),
            "g": str(settings.gap),
            "bf": "0",
            "x264-params": "scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:threads=1",
        }
        self._file = ClipFile("libx264", options, camera.height, camera.width, settings.pixels, rate)

    def add(self, picture: np.ndarray) -> None:
        """Append one picture, uint8 (height, width, 3)."""
        expected = (self._camera.height, self._camera.width, 3)
        if picture.dtype != np.uint8 or picture.shape != expected:
            raise ValueError(
                f"camera {self._camera.name!r}: expected uint8 {expected}, "
                f"got {picture.dtype} {picture.shape}."
            )
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = self._reformatter.reformat(rgb, format=self._pixels, interpolation=self._colors, threads=1)
        self._file.add(frame)

    def finish(self) -> Clip:
        """The finished clip; the encoder is used up."""
        return self._file.finish()


def encode(
    pictures: Iterable[np.ndarray],
    camera: Camera,
    rate: float,
    settings: VideoSettings | None = None,
) -> Clip:
    """One clip of all `pictures`, each uint8 (height, width, 3)."""
    encoder = ClipEncoder(camera, rate, settings or VideoSettings())
    for picture in pictures:
        encoder.add(picture)
    return encoder.finish()


def join(sources: Sequence[tuple[Path | bytes, int]], target: Path, rate: float) -> None:
    """Write one mp4 with the first `frames` pictures of each `(source, frames)` by copying packets.

    Args:
        sources: mp4 files or their bytes, all with the same header.
        target: The file to write.
        rate: Ticks a second; picture k is shown at k / rate.
    """
    tick = tick_of_rate(rate)
    count = 0
    # without btrt, which would tell in how many steps the file grew
    with av.open(str(target), "w", format="mp4", options={"write_btrt": "0"}) as output:
        stream: Any = None
        for source, frames in sources:
            with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
                if stream is None:
                    template = container.streams.video[0]
                    # decoders of AV1 have names that no encoder has, so that only parameters can be copied
                    opaque = template.codec_context.name not in ("h264", "hevc")
                    stream = output.add_stream_from_template(template, opaque=opaque)
                    stream.time_base = tick
                for _, packet in zip(range(frames), _packets(container)):
                    packet.stream = stream
                    packet.time_base = tick
                    packet.pts = packet.dts = count
                    packet.duration = 1
                    output.mux(packet)
                    count += 1
    if count != sum(frames for _, frames in sources):
        raise DataError(
            f"{target}: joined {count} pictures, expected {sum(frames for _, frames in sources)}."
        )


def header(path: Path) -> bytes:
    """Codec header of an mp4 file, to be compared with `Clip.header`."""
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


def decode(
    path: Path,
    *,
    rate: float,
    first: int = 0,
    count: int,
    sha256: str | None = None,
    codes: bool = False,
) -> Iterator[np.ndarray]:
    """Pictures `first` to `first + count` of a video file, one after the other.

    Args:
        path: An mp4 file.
        rate: Ticks a second; picture k is the one shown at k / rate.
        first: Number of the first picture.
        count: How many are wanted.
        sha256: Hash that their compressed packets must have, if known.
        codes: Whether the video holds 12-bit codes of depth and no colors.

    Returns:
        uint8 (height, width, 3), or uint16 (height, width) of codes.

    Raises:
        DataError: Missing or damaged file, a picture missing or at the wrong time, another hash.
    """
    digest = hashlib.sha256()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: expected a video stream, found none.")
            _check_stream(container.streams.video[0], path)
            yield from _decode(container, path, float(rate), first, count, digest if sha256 else None, codes)
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: cannot be decoded as video ({error}). "
            "Restore the file from a copy or collect the data again."
        ) from error
    if sha256 and digest.hexdigest() != sha256:
        raise DataError(
            f"{path}: pictures {first} to {first + count} are not the ones that were written "
            "(their hash differs). Restore the file from a copy or collect the data again."
        )


def _check_stream(stream: Any, path: Path) -> None:
    """The stream can be decoded, and claims no absurd size."""
    context = stream.codec_context
    if context is None or not stream.time_base:
        raise DataError(f"{path}: its codec is not known. The file is damaged; restore it from a copy.")
    if context.width * context.height > _LARGEST:
        raise DataError(
            f"{path}: claims pictures of {context.height} x {context.width}. The file is damaged."
        )


def _decode(
    container: Any, path: Path, rate: float, first: int, count: int, digest: Any, codes: bool
) -> Iterator[np.ndarray]:
    """`decode` on an open container; feeds the packets of the wanted pictures to `digest`."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    base = float(stream.time_base)
    if first:
        # Behind the picture that is wanted, so that one that is a key frame itself is found. Each episode
        # begins with one; decoders of HEVC lose pictures where decoding runs on from one episode to the next.
        container.seek(int((first + 0.25) / rate / base), stream=stream, backward=True)
    reformatter = VideoReformatter()
    expected, last = first, first + count
    for packet in _demux(container):
        if packet.pts is not None:
            number = round(packet.pts * base * rate)
            if digest is not None and first <= number < last:
                digest.update(bytes(packet))
        for frame in packet.decode():
            if frame.pts is None:
                raise DataError(
                    f"{path}: a picture has no time. The video is damaged; restore it from a copy."
                )
            number = round(frame.pts * base * rate)
            if number < first:
                continue
            if number != expected:
                raise DataError(
                    f"{path}: expected picture {expected} ({expected / rate:.3f} s) next, found one at "
                    f"{frame.pts * base:.3f} s. The video does not run at {rate:g} pictures a second."
                )
            if codes:
                yield frame.to_ndarray(format="gray12le")
            else:
                yield to_rgb(reformatter, frame, exact=digest is not None)
            expected += 1
            if expected == last:
                return
    if expected != last:
        raise DataError(
            f"{path}: the video ends after picture {expected}, but the table has ticks up to {last}. "
            "The recording was cut off; restore the file from a copy or collect the data again."
        )


def to_rgb(reformatter: VideoReformatter, frame: Any, *, exact: bool) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a decoded frame.

    Args:
        reformatter: Kept from frame to frame, as it is costly to make.
        frame: A decoded `av.VideoFrame`.
        exact: Accurate rounding, as our own data sets want it. LeRobot converts with the fast default, which
            darkens pictures with halved colors by a level or so; foreign data sets give the numbers that
            LeRobot gives, in a tenth of the time.
    """
    how = _TO_RGB if exact else Interpolation.BILINEAR
    return reformatter.reformat(frame, format="rgb24", interpolation=how, threads=1).to_ndarray()


def _demux(container: Any) -> Iterator[Any]:
    """All packets, the empty one that flushes the decoder included."""
    return container.demux(container.streams.video[0])


def _packets(container: Any) -> Iterator[Any]:
    """All packets with content, in order of decoding."""
    return (packet for packet in _demux(container) if packet.size)
