"""Which episodes a data set has and where their parts lie, whatever the version of the format.

`version3.py` and `version2.py` each make a `Catalog` from the files of their version; everything else
reads through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

__all__ = ["Catalog", "EpisodeRow", "VideoPlace"]


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One episode as the index of the data set has it.

    Attributes:
        index: Its number.
        start: Row of its first tick in the whole data set.
        length: Ticks.
        data: The parquet file with its ticks.
        told: Everything else that the index says of it.
    """

    index: int
    start: int
    length: int
    data: Path
    told: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class VideoPlace:
    """Where the video of one episode and feature lies.

    Attributes:
        path: The mp4 file.
        begin: Second at which the episode begins in it.
        sha256: Hash of its compressed packets, if known.
    """

    path: Path
    begin: float
    sha256: str | None


@runtime_checkable
class Catalog(Protocol):
    """The index of one data set.

    Attributes:
        source: File or folder that lists the episodes, for messages.
        tasks: Every instruction, by task index.
        subtasks: Every subtask, by subtask index; empty if ticks have none.
        episodes: In order, counted from 0 without gaps.
    """

    source: Path
    tasks: tuple[str, ...]
    subtasks: tuple[str, ...]
    episodes: tuple[EpisodeRow, ...]

    def video(self, episode: EpisodeRow, feature: str) -> VideoPlace:
        """Where the pictures of a video feature lie; `DataError` if the index does not say."""
        ...
