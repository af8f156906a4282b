"""Depth of one camera on its way to disk, tick by tick: meters into 12-bit video or TIFF.

Video is HEVC without loss, as LeRobot has it, so what is read is exactly the meters of the nearest
codes; TIFF of float32 keeps every bit.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from visuomotor.data.depth import DepthScale, meters_in
from visuomotor.data.features import Feature
from visuomotor.data.stats import Spread, spread
from visuomotor.data.stills import encode_tiff
from visuomotor.data.video import Clip, ClipFile
from visuomotor.errors import DataError

__all__ = ["DepthTrack", "depth_info"]

_STRIDE, _SIDE = 4, 150
"""Figures come from every fourth tick and about this many rows and columns, as LeRobot samples."""
_GAP = 2
_PIXELS = "gray12le"
_OPTIONS = {
    "preset": "ultrafast",
    "g": str(_GAP),
    "x265-params": f"lossless=1:bframes=0:open-gop=0:scenecut=0:keyint={_GAP}:min-keyint={_GAP}:info=0:"
    "frame-threads=1:pools=none:log-level=error",
}


def depth_info(feature: Feature, rate: float) -> Feature:
    """The feature with everything that info.json has to say of a depth column that is written.

    Raises:
        ValueError: It is no depth feature, or of a size that cannot be kept.
    """
    where = f"column {feature.name!r}"
    if not feature.depth or len(feature.shape) != 3 or feature.shape[2] != 1:
        raise ValueError(
            f"{where}: pictures of cameras belong into the spec; expected depth of shape (height, width, 1), "
            f"got {feature.shape}. Make it with `depth_feature`."
        )
    meters_in(where, feature.info)
    names = ["height", "width", "channels"]
    if feature.dtype == "image":
        return Feature(
            name=feature.name,
            dtype="image",
            shape=feature.shape,
            names=names,
            info={"is_depth_map": True, "depth_unit": feature.info.get("depth_unit") or "mm"},
        )
    if min(feature.shape[:2]) < 16:
        raise ValueError(
            f"{where}: video of depth needs 16 x 16 pixels or more, got {feature.shape[0]} x "
            f"{feature.shape[1]}. Keep it as TIFF: depth_feature(..., kept='image')."
        )
    info: dict[str, Any] = {
        "is_depth_map": True,
        "depth_unit": "m",
        "video.height": feature.shape[0],
        "video.width": feature.shape[1],
        "video.codec": "hevc",
        "video.pix_fmt": _PIXELS,
        "video.fps": int(rate) if rate == int(rate) else rate,
        "video.channels": 1,
        "has_audio": False,
        "video.g": _GAP,
        **DepthScale.from_info(where, feature.info).to_info(),
    }
    return Feature(name=feature.name, dtype="video", shape=feature.shape, names=names, info=info)


class DepthTrack:
    """Encodes one episode of one depth feature, picture by picture.

    Args:
        feature: A depth feature, as `depth_feature` makes it.
        rate: Ticks a second.
    """

    def __init__(self, feature: Feature, rate: float) -> None:
        feature = depth_info(feature, rate)
        self._feature = feature
        self._height, self._width = feature.shape[:2]
        self._scale = DepthScale.from_info(feature.name, feature.info)
        self._file: ClipFile | None = None
        if feature.dtype == "video":
            self._file = ClipFile("libx265", _OPTIONS, self._height, self._width, _PIXELS, rate)
        self._stills: list[bytes] = []
        self._samples: list[np.ndarray] = []
        self._ticks = 0

    def check(self, tick: int, meters: Any) -> Float32[np.ndarray, "height width"]:
        """`meters` as they can be added; NaN, which means that nothing was measured, becomes 0.

        Raises:
            DataError: Another shape or type, or what is no distance.
        """
        where = f"tick {tick}: column {self._feature.name!r}"
        found = np.asarray(meters)
        shape = (self._height, self._width)
        if found.shape == (*shape, 1):
            found = found[..., 0]
        if found.shape != shape or found.dtype.kind != "f":
            raise DataError(
                f"{where}: expected meters as real numbers of shape {list(shape)}, got {found.dtype} "
                f"of shape {list(found.shape)}. Divide millimeters by 1000."
            )
        values = np.where(np.isnan(found), 0, found).astype(np.float32)
        if not np.isfinite(values).all() or values.min(initial=0) < 0:
            wrong = values[~np.isfinite(values) | (values < 0)][0]
            raise DataError(
                f"{where}: expected distances of 0 or more, got {wrong}. "
                "Use 0 or NaN where nothing was measured, and the far end of the range for what is beyond it."
            )
        if self._file is None and meters_in(where, self._feature.info) < 1 and values.max(initial=0) > 65.535:
            raise DataError(
                f"{where}: {values.max():.4g} m do not fit into 16 bits of millimeters. "
                "Use depth_feature(..., unit='m')."
            )
        return values

    def add(self, meters: Float32[np.ndarray, "height width"]) -> None:
        """Append one picture that `check` returned."""
        if self._file is not None:
            frame = av.VideoFrame.from_ndarray(self._scale.encode(meters), format=_PIXELS)
            self._file.add(frame)
        elif meters_in(self._feature.name, self._feature.info) < 1:
            self._stills.append(encode_tiff(np.rint(meters.astype(np.float64) * 1000).astype(np.uint16)))
        else:
            self._stills.append(encode_tiff(meters))
        if self._ticks % _STRIDE == 0:
            rows, columns = (-(-size // _SIDE) for size in meters.shape)
            self._samples.append(meters[::rows, ::columns].ravel())
        self._ticks += 1

    def finish(self) -> Clip | tuple[bytes, ...]:
        """The finished video, or the pictures one by one; the track is used up."""
        return tuple(self._stills) if self._file is None else self._file.finish()

    def figures(self) -> Spread:
        """Figures in the unit of the feature, shape (1, 1, 1); count is the number of ticks."""
        unit = meters_in(self._feature.name, self._feature.info)
        found = spread(np.concatenate(self._samples)[:, None] / np.float64(unit))
        figures = {name: value[:, None, None] for name, value in found.items() if name != "count"}
        return {**figures, "count": np.array([self._ticks])}
