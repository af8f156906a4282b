"""Finished episodes on disk, one JSON line each, so that an interrupted evaluation can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import visuomotor
from visuomotor.errors import DataError
from visuomotor.evaluation.origin import Origin
from visuomotor.evaluation.probes import Case, Trial
from visuomotor.evaluation.setup import Setup
from visuomotor.rollout import plain

__all__ = ["Journal"]

NAME = "episodes.jsonl"


@dataclass
class Journal:
    """The file `episodes.jsonl` of an output folder; without a folder it keeps nothing.

    Attributes:
        path: The file, if there is a folder.
        finished: Place of a case to the trial that was read back.
    """

    path: Path | None = None
    finished: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str] | None, setup: Setup, origin: Origin | None, cases: Sequence[Case]
    ) -> Journal:
        """Begin a journal in `folder`, or read back the one of the same evaluation.

        Raises:
            DataError: The folder holds something else; nothing is overwritten.
        """
        if folder is None:
            return cls()
        folder = Path(folder)
        header = _header(setup, origin, cases)
        path = folder / NAME
        if path.is_file():
            return cls(path, _read(path, header))
        drafts = {f"{NAME}.new"}  # what a kill left
        strangers = sorted({entry.name for entry in folder.iterdir()} - drafts) if folder.is_dir() else []
        if strangers or (folder.exists() and not folder.is_dir()):
            raise DataError(
                f"{folder}: expected an empty folder or that of an evaluation, "
                f"found {', '.join(strangers[:3]) or 'a file'}. "
                "Choose another output folder; nothing was overwritten."
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, [header])
        return cls(path, {})

    def add(self, place: int, trial: Trial) -> None:
        """Append one finished trial."""
        if self.path is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"place": place, **trial.to_json()}, allow_nan=False) + "\n")


def _header(setup: Setup, origin: Origin | None, cases: Sequence[Case]) -> dict[str, Any]:
    """What must be equal for episodes of two evaluations to be the same episodes."""
    played = json.dumps(plain([asdict(case) for case in cases]), sort_keys=True)
    weights: Mapping[str, str] = origin.weights if origin is not None else {}
    return plain(
        {
            "version": visuomotor.__version__,
            "setup": setup.to_json(),
            "weights": weights.get(f"{setup.weights}.safetensors"),
            "episodes": len(cases),
            "cases": hashlib.sha256(played.encode()).hexdigest()[:16],
        }
    )


def _read(path: Path, header: Mapping[str, Any]) -> dict[int, Trial]:
    """The finished trials of a journal; a line cut off by a crash is taken off the file."""
    lines = path.read_text().splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise DataError(
                    f"{path}, line {number + 1}: not JSON. Delete the file to begin again."
                ) from error
    rows = rows or [dict(header)]  # cut off before anything was played
    if rows[0] != header:
        different = sorted(key for key in header if rows[0].get(key) != header[key])
        raise DataError(
            f"{path}: holds another evaluation (different: {', '.join(different)}). "
            "Choose another output folder; nothing was overwritten."
        )
    _write(path, rows)
    trials = {row.pop("place"): row for row in rows[1:]}
    return {place: Trial.from_json(row) for place, row in trials.items()}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The whole file, or none of it."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft.replace(path)
