"""What goes where when foreign demonstrations are converted, number by number; nothing is guessed.

A layout that is published has a preset, made from the facts that its files state. A mapping can be saved
as JSON (`to_json`), changed by hand, and given instead (`--mapping`).
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from visuomotor.errors import DataError, unknown_name
from visuomotor.types import Dimension

__all__ = ["Flip", "Mapping", "Part", "View", "arrange"]

Flip = Literal["none", "vertical", "rotate"]
"""What makes a stored picture upright: nothing, turning it upside down, or half a turn."""
Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some numbers of a state or an action.

    Attributes:
        key: Where they are in the file, within an episode.
        dimensions: What each becomes.
        columns: Which columns of the key are taken; all, in order, if None.
        scale: Each is multiplied by this...
        offset: ...and this is added, so that it has the unit and polarity of its dimension.
    """

    key: str
    dimensions: tuple[Dimension, ...]
    columns: tuple[int, ...] | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("columns", "scale", "offset"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.dimensions):
                raise ValueError(
                    f"mapping of {self.key!r}: expected {len(self.dimensions)} {name}, one a dimension, "
                    f"got {len(values)}."
                )

    @property
    def width(self) -> int:
        """Numbers it gives."""
        return len(self.dimensions)


@dataclass(frozen=True, kw_only=True)
class View:
    """One camera: its name here, its key in the file, and what makes its pictures upright RGB."""

    camera: str
    key: str
    flip: Flip = "none"
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        if self.flip not in get_args(Flip):
            raise unknown_name("flip", self.flip, get_args(Flip))
        if self.channels not in get_args(Channels):
            raise unknown_name("order of channels", self.channels, get_args(Channels))


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """What a foreign data set becomes.

    Attributes:
        embodiment: Name of the body.
        rate: Ticks a second.
        state: Parts of the state, in order.
        action: Parts of the action, in order.
        views: Cameras, in order.
        instruction: The words of every episode; None if the files bring their own.
    """

    embodiment: str
    rate: float
    state: tuple[Part, ...]
    action: tuple[Part, ...]
    views: tuple[View, ...]
    instruction: str | None = None

    @property
    def keys(self) -> set[str]:
        """Every key of the file that is used."""
        return {part.key for part in (*self.state, *self.action)} | {view.key for view in self.views}

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; what is None or without limit is left out."""

        def lean(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: lean(v) for k, v in value.items() if v is not None and v not in (-np.inf, np.inf)}
            return [lean(item) for item in value] if isinstance(value, (list, tuple)) else value

        found: dict[str, Any] = lean(asdict(self))
        return found

    @classmethod
    def from_json(cls, data: Table[str, Any]) -> Mapping:
        """Inverse of `to_json`. Raises `DataError` when a key is missing or unknown."""

        def part(plain: Table[str, Any]) -> Part:
            lists = {name: tuple(plain[name]) for name in ("columns", "scale", "offset") if name in plain}
            dimensions = tuple(Dimension(**dimension) for dimension in plain["dimensions"])
            return Part(**{**plain, **lists, "dimensions": dimensions})

        try:
            return cls(
                **{
                    **data,
                    "state": tuple(part(plain) for plain in data["state"]),
                    "action": tuple(part(plain) for plain in data["action"]),
                    "views": tuple(View(**plain) for plain in data["views"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"mapping: expected the keys that `visuomotor data convert --show` prints, got {error}."
            ) from error


def arrange(values: np.ndarray, part: Part) -> np.ndarray:
    """The numbers of a part, float32 (tick, dimension), from the values of its key (tick, column)."""
    taken = values if part.columns is None else values[:, list(part.columns)]
    taken = taken.astype(np.float64)
    if part.scale is not None:
        taken = taken * np.array(part.scale)
    if part.offset is not None:
        taken = taken + np.array(part.offset)
    return taken.astype(np.float32)
