"""What spoils policies, found before training: `check` runs the checks of `CHECKS` over a data set."""

from visuomotor.data.check.base import Check, Finding, Severity
from visuomotor.data.check.run import CheckReport, check
from visuomotor.data.check.table import CHECKS

__all__ = ["CHECKS", "Check", "CheckReport", "Finding", "Severity", "check"]
