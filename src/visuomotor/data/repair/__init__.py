"""Recovers what an interrupted LeRobot recording left, of version 3.0, 2.1 or 2.0."""

from visuomotor.data.repair.parts import RepairReport
from visuomotor.data.repair.run import repair

__all__ = ["RepairReport", "repair"]
