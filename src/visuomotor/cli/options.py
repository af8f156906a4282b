"""The words after a command as a dataclass, and its report as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff

from visuomotor.cli import COMMANDS
from visuomotor.rollout import plain

__all__ = ["Report", "Words", "parse", "save_report"]

Words = Sequence[str]
Report = dict[str, Any]
Args = TypeVar("Args")


def parse(kind: type[Args], words: Words, prog: str, default: Args | None = None) -> Args:
    """`words` as an instance of the dataclass `kind`; wrong usage ends the process with code 2."""
    description = COMMANDS[prog.partition(" ")[2]]
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        kind, args=list(words), prog=prog, description=description, config=(FlagCreatePairsOff,), **given
    )


def save_report(folder: Path, report: Report) -> Report:
    """Write report.json into the output folder."""
    report = plain(report)
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return report


# --- demo
