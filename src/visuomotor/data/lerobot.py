"""LeRobot v3.0 data sets: read any, write our own.

The reader is `reader.py`, the writer `writer.py`, names and schemas on disk `layout.py`.
"""

from __future__ import annotations

from visuomotor.data.reader import EpisodeEntry, LeRobotReader
from visuomotor.data.writer import LeRobotWriter

__all__ = ["EpisodeEntry", "LeRobotReader", "LeRobotWriter"]
