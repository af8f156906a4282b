"""What a training run keeps on disk, so that it can die at any moment and go on with equal bits.

    <run>/training.json   what is trained on what, written once; a resumed run must agree with it
    <run>/log.jsonl       one line every `log_every` steps
    <run>/events...       the same for TensorBoard
    <run>/checkpoint/     the last checkpoint: an agent's folder (see `visuomotor.agent.folder`) and
        train_state/optimizer.safetensors   moments of the optimizer by weight
        train_state/state.json              step, seconds, the running means of the log

No random state is kept: every random number is drawn from (seed, step).
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from visuomotor.agent.config import differences, to_plain
from visuomotor.agent.disk import (
    CHECKPOINT,
    check_hashes,
    locate,
    new_folder,
    read_json,
    seal,
    sync,
    write_json,
)
from visuomotor.agent.folder import check_golden, check_saved, describe, policy_name, write_agent
from visuomotor.agent.weights import put_weights, read_tensors, write_tensors
from visuomotor.errors import CheckpointError
from visuomotor.policies.base import Policy
from visuomotor.training.config import TrainConfig
from visuomotor.types import Stats

if TYPE_CHECKING:
    from visuomotor.text.sentences import SentenceCache

__all__ = ["Saved", "Subject", "last_step", "open_run", "refuse_foreign", "restore", "save"]

FORMAT = 1
TRAINING = "training.json"
_FREE = ("save_every", "log_every", "validate_every", "threads", "recompute")
"""Fields of `TrainConfig` that do not change what is learned: a resumed run may have others."""
_STATE = (
    "model.safetensors",
    "ema.safetensors",
    "train_state/optimizer.safetensors",
    "train_state/state.json",
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a checkpoint needs to know beside the weights.

    Attributes:
        policy: What is trained.
        stats: Data-set key to statistics.
        data: Data-set key to what is known of the data: "hash", "seeds" and more; plain data.
        sentences: Encoded instructions, for a policy that reads them frozen.
        instruction: Words of the golden observation.
        origin: What is known of the weights that training began with (see `visuomotor.training.begin`).
    """

    policy: Policy
    stats: Mapping[str, Stats]
    data: Mapping[str, Mapping[str, Any]]
    sentences: SentenceCache | None
    instruction: str
    origin: Mapping[str, Any] | None = None

    def identity(self, config: Any) -> dict[str, Any]:
        """What two runs must share for one to go on with the other: plain data."""
        encoder, origin = self.policy.sentence_encoder, self.origin
        return {
            "format": FORMAT,
            "policy": {"class": policy_name(self.policy), **to_plain(self.policy.config)},
            "train": to_plain(config),
            "specs": {key: spec.to_json() for key, spec in self.policy.bodies.items()},
            "stats": {key: self.stats[key].to_json() for key in sorted(self.stats)},
            "data": {key: self.data[key].get("hash") for key in sorted(self.data)},
            "text": self.sentences.hash if encoder and self.sentences is not None else None,
            **({} if origin is None else {"from": {name: origin[name] for name in ("weights", "fresh")}}),
        }


@contextmanager
def open_run(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
    """Take `folder` for a run, a new one or one that agrees with `identity`; it is locked inside the block.

    Raises:
        CheckpointError: The folder holds something else, another run, a run that another process is
            working on, or any run if `resume` is not set. Nothing is overwritten.
    """
    marker = folder / TRAINING
    if not marker.is_file():
        _start(folder, identity)
    elif not resume:
        raise CheckpointError(
            f"{folder}: holds a training run already. Nothing was overwritten; "
            "resume it, or choose another folder."
        )
    with marker.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder}: another process is training here. Wait for it, or stop it."
            ) from error
        found = differences(_bound(read_json(marker)), _bound(json.loads(json.dumps(identity))))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise CheckpointError(
                f"{folder}: holds another training run, which cannot be resumed with these settings: "
                f"{found[0]}{more}. Nothing was overwritten; use the settings in {marker.name}, "
                "or choose another folder."
            )
        yield


def refuse_foreign(folder: Path) -> None:
    """Raise `CheckpointError` unless `folder` is a training run, empty, or not there."""
    if (folder / TRAINING).is_file() or not folder.exists():
        return
    held = sorted(path.name for path in folder.iterdir())[:3] if folder.is_dir() else ["a file"]
    if held and held != [f"{TRAINING}.new"]:
        raise CheckpointError(
            f"{folder}: expected a training run ({TRAINING}), an empty folder or nothing; it holds "
            f"{', '.join(held)}. Nothing was overwritten; choose another folder."
        )


def _bound(identity: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` without what a resumed run is free to change; a field that came later had its default."""
    known = {**to_plain(TrainConfig()), **identity.get("train", {})}
    train = {name: value for name, value in known.items() if name not in _FREE}
    return {**identity, "train": train}


def _start(folder: Path, identity: Mapping[str, Any]) -> None:
    """Mark an empty folder as a training run."""
    refuse_foreign(folder)
    draft = folder / f"{TRAINING}.new"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(draft, identity)
    sync(draft)
    draft.rename(folder / TRAINING)
    sync(folder)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint of a run holds beside the weights.

    Attributes:
        state: Content of state.json.
        average: Every weight by name, averaged.
        moments: What the optimizer remembers.
        where: The file of the moments, for messages.
    """

    state: Mapping[str, Any]
    average: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    where: Path


def save(
    folder: Path,
    subject: Subject,
    average: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Put a new checkpoint in the place of the last one, which survives whatever goes wrong.

    Args:
        folder: Of the run.
        subject: What is trained, with float32 weights.
        average: Moving average of every weight, by name.
        moments: State of the optimizer.
        state: Plain data for state.json, with "step" and "seed".

    Raises:
        CheckpointError: The disk did not take it, or what was written cannot be loaded.
    """
    policy = subject.policy
    provenance = describe(
        data=subject.data,
        seed=state["seed"],
        step=state["step"],
        sentences=subject.sentences,
        encoder=policy.sentence_encoder,
        parameters=sum(weight.numel() for weight in policy.parameters()),
        origin=subject.origin,
    )
    try:
        with new_folder(folder / CHECKPOINT) as part:
            write_agent(
                part,
                policy,
                subject.stats,
                average=average,
                sentences=subject.sentences,
                instruction=subject.instruction,
            )
            (part / "train_state").mkdir()
            write_tensors(part / "train_state" / "optimizer.safetensors", moments)
            write_json(part / "train_state" / "state.json", state)
            seal(part, provenance)
            check_saved(part, subject.sentences)
    except OSError as error:
        last = last_step(folder)
        kept = "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} is whole"
        raise CheckpointError(
            f"{folder}: the checkpoint of step {state['step']} could not be written: {error}. "
            f"But {kept}; make room and resume."
        ) from error


def last_step(folder: Path) -> int | None:
    """Steps that the checkpoint of a run has behind it; None if the run has no checkpoint yet."""
    try:
        place = locate(folder / CHECKPOINT)
    except CheckpointError:
        return None
    return int(read_json(place / "train_state" / "state.json")["step"])


def restore(folder: Path, subject: Subject) -> Saved | None:
    """Bring the policy to the last checkpoint of a run; gives the rest of it.

    None, and nothing is changed, if the run has no checkpoint yet.
    """
    if last_step(folder) is None:
        return None
    place = locate(folder / CHECKPOINT)
    check_hashes(place, _STATE)
    policy = subject.policy
    model, smooth = place / "model.safetensors", place / "ema.safetensors"
    pipelines = {key: policy.transforms(key, subject.stats[key], subject.sentences) for key in policy.bodies}
    put_weights(policy, read_tensors(model), str(model))
    check_golden(place, policy, pipelines, "model", thorough=False)
    moments = place / "train_state" / "optimizer.safetensors"
    return Saved(
        state=read_json(place / "train_state" / "state.json"),
        average=read_tensors(smooth),
        moments=read_tensors(moments),
        where=moments,
    )
