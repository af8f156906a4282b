"""Studies in one folder, which go on where they were stopped: of one policy, or of several on equal terms."""

from __future__ import annotations

from visuomotor.study.arms import Arm, read_arm
from visuomotor.study.comparison import Comparison, compare_arms
from visuomotor.study.single import Study, demo

__all__ = ["Arm", "Comparison", "Study", "compare_arms", "demo", "read_arm"]
