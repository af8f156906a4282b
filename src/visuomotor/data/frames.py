"""Single pictures straight from the videos and tables of a data set, without a store.

A picture of a video is reached by decoding from the key frame before it, and nothing else is decoded; of
a table its row group is read. Files stay open, the most recently used ones up to a limit; a picture that
follows the last one costs no seek.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int64, UInt8

from visuomotor.data.reader import EpisodeEntry, LeRobotReader, VideoPart
from visuomotor.data.stills import StillFile
from visuomotor.data.video import to_rgb
from visuomotor.errors import DataError

__all__ = ["Frames", "Pictures", "VideoFrames"]

_OPEN_FILES = 32
_RESTORE = "Restore the file from a copy or collect the data again."


@runtime_checkable
class Pictures(Protocol):
    """All pictures of one camera, read by row; an array is one, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(tick, height, width, 3)."""
        ...

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "row height width 3"]:
        """The pictures of some rows, a slice or an array of row numbers; rows may repeat."""
        ...


@runtime_checkable
class Frames(Protocol):
    """Where samples take their pictures from: a `FrameStore`, or `VideoFrames`.

    Attributes:
        frames: Camera name to its pictures.
    """

    frames: Mapping[str, Pictures]


class VideoFrames:
    """The pictures of a data set, decoded when they are asked for.

    Costs no disk and no time to prepare; a picture costs a millisecond instead of microseconds. The
    hash of an episode is not checked, as that would take reading the whole of it.

    Args:
        reader: The data set.
        open_files: Videos that stay open at most.

    Attributes:
        frames: Camera name to `Pictures`.
    """

    def __init__(self, reader: LeRobotReader, open_files: int = _OPEN_FILES) -> None:
        if open_files < 1:
            raise ValueError(f"frames: expected open_files >= 1, got {open_files}.")
        self.reader = reader
        self._limit = open_files
        self._starts: Int64[np.ndarray, " episode"] = np.array([e.start for e in reader.episodes], np.int64)
        stored = {camera.name: reader.features[reader.keys[camera.name]] for camera in reader.spec.cameras}
        self._stored = {name: feature for name, feature in stored.items() if feature.dtype == "image"}
        self._open: OrderedDict[tuple[Path, str], _Video | StillFile] = OrderedDict()
        self._lock = Lock()
        self.frames: Mapping[str, Pictures] = {
            camera.name: _CameraPictures(self, camera.name) for camera in reader.spec.cameras
        }

    def read(self, camera: str, rows: Int64[np.ndarray, " row"]) -> UInt8[np.ndarray, "row height width 3"]:
        """The pictures of one camera at some rows of the data set.

        Raises:
            DataError: A file is missing or damaged, has no such picture, or pictures of another size.
        """
        size = self.reader.spec.camera(camera)
        found = np.empty((len(rows), size.height, size.width, 3), np.uint8)
        order = np.argsort(rows, kind="stable")
        last, at = -1, -1
        with self._lock:
            for slot in order.tolist():
                row = int(rows[slot])
                if row == last:
                    found[slot] = found[at]
                    continue
                entry = self.reader.episodes[int(np.searchsorted(self._starts, row, side="right")) - 1]
                found[slot] = self._picture(camera, entry, row - entry.start, (size.height, size.width, 3))
                last, at = row, slot
            if camera in self._stored:
                for file in self._open.values():
                    if isinstance(file, StillFile):
                        file.forget()
        return found

    def episode(self, camera: str, episode: int) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The pictures of one episode and camera in order, like `LeRobotReader.frames`.

        It opens a file once for all its episodes, and does not check hashes.
        """
        entry, size = self.reader.episodes[episode], self.reader.spec.camera(camera)
        for tick in range(entry.length):
            with self._lock:
                picture = self._picture(camera, entry, tick, (size.height, size.width, 3))
            yield picture

    def close(self) -> None:
        """Close every file; they are opened again when needed."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: open files stay here."""
        return {"reader": self.reader, "open_files": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        VideoFrames.__init__(self, **state)

    def _picture(
        self, camera: str, entry: EpisodeEntry, tick: int, shape: tuple[int, int, int]
    ) -> UInt8[np.ndarray, "height width 3"]:
        part = entry.videos[camera]
        try:
            picture = self._file(camera, part).picture(part.first + tick)
        except DataError as error:
            raise DataError(f"episode {entry.index}, camera {camera!r}: {error}") from error
        if picture.shape != shape:
            raise DataError(
                f"episode {entry.index}, camera {camera!r}: {part.path}: expected pictures of "
                f"{shape[0]} x {shape[1]}, got {picture.shape[0]} x {picture.shape[1]}."
            )
        return picture

    def _file(self, camera: str, part: VideoPart) -> _Video | StillFile:
        """The open file, which becomes the most recently used one."""
        key = (part.path, camera)
        if key in self._open:
            self._open.move_to_end(key)
        else:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            if camera in self._stored:
                self._open[key] = StillFile(self.reader.folder, part.path, self._stored[camera])
            else:
                self._open[key] = _Video(part.path, self.reader.rate, exact=part.sha256 is not None)
        return self._open[key]


class _CameraPictures:
    """`Pictures` of one camera of `VideoFrames`."""

    def __init__(self, source: VideoFrames, camera: str) -> None:
        self._source, self._camera = source, camera
        size = source.reader.spec.camera(camera)
        self._shape = (len(source.reader), size.height, size.width, 3)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "row height width 3"]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._shape[0]))
        return self._source.read(self._camera, np.asarray(rows, np.int64))


class _Video:
    """One open video file, positioned behind the last picture that was decoded."""

    def __init__(self, path: Path, rate: float, *, exact: bool) -> None:
        self._path, self._rate, self._exact = path, float(rate), exact
        try:
            self._container: Any = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"{path}: cannot be opened as video ({error}). {_RESTORE}") from error
        if not self._container.streams.video:
            raise DataError(f"{path}: expected a video stream, found none.")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._base = float(self._stream.time_base or 0)
        # The index tells when a packet is decoded, which is earlier than its picture is shown where the
        # encoder had looked ahead.
        entries = self._stream.index_entries
        self._times = [entry.timestamp for entry in entries if entry.is_keyframe] or [0]
        ahead = (self._stream.start_time or 0) - (entries[0].timestamp if len(entries) else 0)
        self._keys: Int64[np.ndarray, " key"] = np.array([self._number(time + ahead) for time in self._times])
        self._reformatter = VideoReformatter()
        self._packets: Iterator[Any] = iter(())
        self._next = -1  # number of the picture that the decoder gives next; -1: it has to seek

    def picture(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Picture `number` of the file, the one that is shown at number / rate."""
        try:
            return self._decode(number)
        except (av.FFmpegError, OSError) as error:
            self._next = -1
            raise DataError(f"{self._path}: cannot be decoded as video ({error}). {_RESTORE}") from error
        except BaseException:
            self._next = -1
            raise

    def close(self) -> None:
        self._container.close()

    def _decode(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        if self._next != number:
            self._approach(number)
        for packet in self._packets:
            found = None
            for frame in packet.decode():
                at = self._number(frame.pts)
                self._next = at + 1
                if at == number:
                    found = to_rgb(self._reformatter, frame, exact=self._exact)
                elif at > number and found is None:
                    raise DataError(
                        f"{self._path}: expected picture {number} ({number / self._rate:.3f} s), found the "
                        f"next one at {frame.pts * self._base:.3f} s. The video does not run at "
                        f"{self._rate:g} pictures a second, or a picture is missing."
                    )
            if found is not None:
                return found
        raise DataError(f"{self._path}: the video ends before picture {number}. {_RESTORE}")

    def _approach(self, number: int) -> None:
        """Seek, unless decoding on is the shorter way."""
        key = max(0, int(np.searchsorted(self._keys, number, side="right")) - 1)
        if not self._keys[key] <= self._next <= number:
            # exactly the time of the key frame: a moment earlier would be the key frame before it
            self._container.seek(self._times[key], stream=self._stream, backward=True)
            self._packets = self._container.demux(self._stream)

    def _number(self, time: int | None) -> int:
        if time is None:
            raise DataError(f"{self._path}: a picture has no time. {_RESTORE}")
        return round(time * self._base * self._rate)
