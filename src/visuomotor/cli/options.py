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

__all__ = ["Report", "Words", "chosen_recipe", "parse", "save_report", "word_after"]

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


def word_after(words: Words, option: str) -> str | None:
    """What the words give for an option that other options depend on; None if it is not there."""
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def chosen_recipe(words: Words, fallback: str) -> str:
    """The recipe that the words name: its numbers are the defaults of the other options."""
    return "demo-tiny" if "--tiny" in words else word_after(words, "--recipe") or fallback
