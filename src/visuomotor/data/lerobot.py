"""LeRobot data sets: read v3.0, v2.1 and v2.0, write v3.0 and v2.1.

The reader is `reader.py` with `version3.py` and `version2.py`, the writers are `writer.py` and
`writer21.py`, names and schemas on disk `layout.py`.
"""

from __future__ import annotations

from visuomotor.data.reader import EpisodeEntry, LeRobotReader
from visuomotor.data.writer import LeRobotWriter
from visuomotor.data.writer21 import LeRobotWriter21

__all__ = ["EpisodeEntry", "LeRobotReader", "LeRobotWriter", "LeRobotWriter21"]
