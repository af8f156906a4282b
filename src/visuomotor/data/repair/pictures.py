"""Pictures that a recorder left as single files, and figures of pictures that have to be made anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from visuomotor.data.features import Feature
from visuomotor.data.repair.parts import Damaged
from visuomotor.data.stats import PictureSpread, Spread
from visuomotor.data.stills import decode_still, still_bytes
from visuomotor.data.video import ClipFile, VideoSettings, decode, encode
from visuomotor.errors import DataError
from visuomotor.types import Camera

__all__ = ["clip_of_stills", "left_pictures", "still_figures", "video_figures"]

_FOLDER = re.compile(r"episode[_-](\d{1,9})")
_FILE = re.compile(r"frame[_-](\d{1,9})\.(?:png|jpg|jpeg)")


def left_pictures(folder: Path) -> dict[int, list[str]]:
    """Episodes of which pictures lie as single files in the folder `images`, and of which features."""
    found: dict[int, list[str]] = {}
    for path in sorted((folder / "images").glob("*/*")):
        number = _FOLDER.fullmatch(path.name)
        if number and path.is_dir() and any(_FILE.fullmatch(file.name) for file in path.iterdir()):
            found.setdefault(int(number[1]), []).append(f"{path.parent.name!r}")
    return dict(sorted(found.items()))


def clip_of_stills(damaged: Damaged, folder: Path, feature: Feature, length: int) -> bytes:
    """A video of the pictures that were recorded one by one.

    Args:
        damaged: The data set.
        folder: Where the pictures lie, `frame_000000.png` and so on.
        feature: The video feature.
        length: How many there must be.

    Returns:
        An mp4 file: AV1 where the other videos are, as lerobot joins them packet by packet, else h264.

    Raises:
        DataError: A picture is missing or damaged, or there are more of them.
    """
    files = {}
    for path in folder.iterdir():
        number = _FILE.fullmatch(path.name)
        if number:
            files[int(number[1])] = path
    if sorted(files) != list(range(length)):
        raise DataError(f"{folder}: expected {length} pictures in a row, found {len(files)}.")
    pictures = (decode_still(str(files[n]), files[n].read_bytes(), feature) for n in range(length))
    height, width, _ = feature.shape
    even = height % 2 == 0 and width % 2 == 0
    if even and _codec(damaged, feature) in ("av1", "libdav1d"):
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes its settings to stderr otherwise
        clip = ClipFile(
            "libsvtav1", {"g": "2", "crf": "30", "preset": "12"}, height, width, "yuv420p", damaged.rate
        )
        for picture in pictures:
            clip.add(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture)).reformat(format="yuv420p"))
        return clip.finish().data
    camera = Camera(name=feature.name, height=height, width=width)
    settings = VideoSettings(pixels="yuv420p" if even else "yuv444p")
    return encode(pictures, camera, damaged.rate, settings).data


def _codec(damaged: Damaged, feature: Feature) -> str:
    """How the videos of a feature are compressed, as one of them or else info.json tells."""
    for path in sorted((damaged.folder / "videos").glob(f"chunk-*/{feature.name}/*.mp4")):
        try:
            with av.open(str(path)) as container:
                return str(container.streams.video[0].codec_context.name)
        except (av.FFmpegError, OSError, IndexError, AttributeError):
            continue
    return str(feature.info.get("video.codec"))


def video_figures(path: Path, rate: float, count: int, first: int = 0) -> Spread:
    """Figures of pictures `first` to `first + count` of a video."""
    counted = PictureSpread()
    for picture in decode(path, rate=rate, first=first, count=count):
        counted.add(picture)
    return counted.finish()


def still_figures(folder: Path, column: pa.ChunkedArray, feature: Feature) -> Spread:
    """Figures of pictures that are kept in a table, or as files of `folder` that it names."""
    counted = PictureSpread()
    for tick, value in enumerate(column.to_pylist()):
        where = f"tick {tick}: {feature.name!r}"
        counted.add(decode_still(where, still_bytes(where, folder, value), feature))
    return counted.finish()
