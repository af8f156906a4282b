"""The checkpoint folder of an agent: writing it, and reading it back with every check.

    config.json         the policy's class and its config; where its adapters are, if it has any
    specs.json          body of each data set          stats.json   its statistics
    model.safetensors   weights as trained             ema.safetensors   their moving average
    golden.npz          what the policy answered when it was saved
    tokenizer/          what the policy reads with, for one with a published language model
    provenance.json     versions, data, seeds, command, text encoder, sha256 of every file
    train_state/        what training needs to go on; not needed for acting

Nothing is ever unpickled. `load_policy` builds only classes that are registered or importable here.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from visuomotor import __version__
from visuomotor.agent import golden as golden_vector
from visuomotor.agent.config import from_plain, to_plain
from visuomotor.agent.disk import check_hashes, locate, new_folder, read_json, seal, write_json
from visuomotor.agent.tokenizers import put_tokenizer, write_tokenizer
from visuomotor.agent.weights import borrow, named_weights, put_weights, read_tensors, write_tensors
from visuomotor.errors import CheckpointError, DataError, unknown_name
from visuomotor.nn.lora import describe_adapters, restore_adapters
from visuomotor.policies.base import Policy
from visuomotor.registry import BUILT_IN, lookup
from visuomotor.transforms.base import Pipeline
from visuomotor.types import Spec, Stats

if TYPE_CHECKING:
    from visuomotor.text.sentences import SentenceCache

__all__ = [
    "Loaded",
    "Weights",
    "describe",
    "load_policy",
    "open_sentences",
    "policy_name",
    "read_adapters",
    "read_config",
    "save_agent",
    "write_agent",
]

FORMAT = 1
SMALL = 200_000_000
"""Parameters below which the network part of the golden vector is checked at load."""
CONFIG_KEYS = ("format", "policy", "config")
Weights = Literal["ema", "model"]
_PARTS = ("config.json", "specs.json", "stats.json", "golden.npz")
_PROVENANCE_KEYS = ("format", "versions", "data", "command", "seed", "step", "text", "parameters", "files")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint in memory, checked.

    Attributes:
        folder: Where it came from.
        policy: In evaluation mode, on the CPU.
        stats: Data-set key to statistics.
        pipelines: Data-set key to pipeline.
        sentences: Encoded instructions, for a policy that reads them frozen.
        provenance: Content of provenance.json.
        difference: Largest deviation of the network from its golden answers; None if it was not asked.
    """

    folder: Path
    policy: Policy
    stats: Mapping[str, Stats]
    pipelines: Mapping[str, Pipeline]
    sentences: SentenceCache | None
    provenance: Mapping[str, Any]
    difference: float | None


def policy_name(policy: Policy | type[Policy]) -> str:
    """How config.json names a class: built-in name, name of an entry point, or "package.module:Class"."""
    kind = policy if isinstance(policy, type) else type(policy)
    path = f"{kind.__module__}:{kind.__qualname__}"
    known = {built_in: name for name, built_in in BUILT_IN["policy"].items()}
    known.update({entry.value: entry.name for entry in entry_points(group="visuomotor.policy")})
    return known.get(path, path)


def describe(
    *,
    data: Mapping[str, Mapping[str, Any]],
    seed: int | None = None,
    step: int | None = None,
    sentences: SentenceCache | None = None,
    encoder: str | None = None,
    parameters: int = 0,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of provenance.json but for the hashes of the files.

    Args:
        data: Data-set key to what is known of it; at least "hash" and "seeds" for data from `collect`.
        seed: Of the training run.
        step: Of the weights.
        sentences: The cache in use, for the hash of its encoder.
        encoder: Name of that encoder.
        parameters: Of the policy.
        origin: What is known of the weights that training began with, if they are not new.
    """
    return {
        "format": FORMAT,
        "versions": {
            "visuomotor": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "mujoco", "numpy")},
        },
        "data": to_plain(data),
        "command": list(sys.argv),
        "seed": seed,
        "step": step,
        "text": {"encoder": encoder, "hash": sentences.hash if encoder and sentences is not None else None},
        "parameters": parameters,
        **({} if origin is None else {"from": origin}),
    }


def _version(package: str) -> str | None:
    """Version of an installed package, without importing it; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_agent(
    folder: Path,
    policy: Policy,
    stats: Mapping[str, Stats],
    *,
    average: Mapping[str, Tensor] | None = None,
    sentences: SentenceCache | None = None,
    instruction: str = "put the red cube in the blue bowl",
) -> None:
    """Write everything but provenance.json into an empty folder.

    Args:
        folder: Empty.
        policy: Its weights become model.safetensors.
        stats: One entry for each key of `policy.bodies`.
        average: Moving average of some or all weights by name; those not named are the policy's own.
        sentences: For a policy that reads encoded sentences.
        instruction: Words of the golden observation.
    """
    if set(stats) != set(policy.bodies):
        raise DataError(
            f"checkpoint: expected statistics of {sorted(policy.bodies)}, got those of {sorted(stats)}."
        )
    config = {"format": FORMAT, "policy": policy_name(policy), "config": to_plain(policy.config)}
    adapters = describe_adapters(policy)
    write_json(folder / "config.json", config if adapters is None else {**config, "lora": adapters})
    write_json(folder / "specs.json", {key: spec.to_json() for key, spec in policy.bodies.items()})
    write_json(folder / "stats.json", {key: stats[key].to_json() for key in policy.bodies})
    write_tokenizer(folder, policy)
    own = named_weights(policy)
    smooth = {**own, **(average or {})}
    write_tensors(folder / "model.safetensors", own)
    write_tensors(folder / "ema.safetensors", smooth)
    pipelines = {key: policy.transforms(key, stats[key], sentences) for key in policy.bodies}
    observations = {
        key: golden_vector.example_observation(spec, stats[key], policy.window, instruction)
        for key, spec in policy.bodies.items()
    }
    golden = golden_vector.record(policy, pipelines, observations)
    model = golden_vector.answer(policy, pipelines, golden, "model")
    with borrow(policy, smooth):
        ema = golden_vector.answer(policy, pipelines, golden, "ema")
    arrays: Any = {**golden, **model, **ema}
    np.savez(folder / "golden.npz", **arrays)


def save_agent(
    folder: str | os.PathLike[str],
    policy: Policy,
    stats: Mapping[str, Stats],
    *,
    average: Mapping[str, Tensor] | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    sentences: SentenceCache | None = None,
    instruction: str = "put the red cube in the blue bowl",
) -> Path:
    """Save a policy as a checkpoint folder that `load_agent` reads, without the state of a training run.

    Args:
        folder: Does not exist, is empty, or is a checkpoint, which is replaced.
        policy: What to save.
        stats: Statistics of each of its data sets.
        average: Moving average of the weights, if there is one.
        data: What is known of each data set; its "seeds" are refused by `evaluate`.
        sentences: For a policy that reads encoded sentences.
        instruction: Words of the golden observation.
    """
    target = Path(folder)
    with new_folder(target) as part:
        write_agent(part, policy, stats, average=average, sentences=sentences, instruction=instruction)
        parameters = sum(weight.numel() for weight in policy.parameters())
        seal(
            part,
            describe(
                data=data or {}, sentences=sentences, encoder=policy.sentence_encoder, parameters=parameters
            ),
        )
        check_saved(part, sentences)
    return target


def check_saved(part: Path, sentences: SentenceCache | None) -> None:
    """Load what was just written, as anyone would; an unreadable checkpoint must not replace a good one."""
    if read_json(part / "provenance.json")["parameters"] < SMALL:
        for weights in ("model", "ema"):
            load_policy(part, weights=weights, sentences=sentences)


def open_sentences(policy: Policy, text_path: str | os.PathLike[str] | None = None) -> SentenceCache | None:
    """The cache of encoded sentences that `policy` needs; None if it needs none.

    Args:
        policy: Names its encoder in `sentence_encoder`.
        text_path: Where the encoder's weights are; the packaged ones if None.
    """
    if policy.sentence_encoder is None:
        return None
    from visuomotor.text.sentences import SentenceCache

    path = None if text_path is None else Path(text_path)
    if policy.sentence_encoder == "minilm":
        from visuomotor.backbones.minilm import load_minilm

        return SentenceCache(load_minilm(path))
    if policy.sentence_encoder == "smollm2":
        from visuomotor.backbones.language import load_smollm2_words

        return SentenceCache(load_smollm2_words(path))
    raise unknown_name("sentence encoder", policy.sentence_encoder, ["minilm", "smollm2"])


def load_policy(
    folder: str | os.PathLike[str],
    *,
    weights: Weights = "ema",
    sentences: SentenceCache | None = None,
    text_path: str | os.PathLike[str] | None = None,
    thorough: bool = False,
) -> Loaded:
    """A policy with its pipelines from a checkpoint folder, after every check.

    Args:
        folder: A checkpoint, or the folder of a training run that holds one.
        weights: The moving average, or the weights as trained.
        sentences: A cache to use; otherwise one is opened if the policy needs it.
        text_path: Where the weights of the sentence encoder are; the packaged ones if None.
        thorough: Check the hash of every file, also of those that are not read, and the network part of
            the golden vector also above 200 M parameters.

    Raises:
        CheckpointError: A file is missing, damaged, changed or foreign, or a golden vector fails.
    """
    if weights not in ("ema", "model"):
        raise unknown_name("kind of weights", weights, ("ema", "model"))
    place = locate(folder)
    provenance = read_json(place / "provenance.json", _PROVENANCE_KEYS, ("from", "merged"))
    check_hashes(place, provenance["files"] if thorough else (*_PARTS, f"{weights}.safetensors"))
    policy = _build(place)
    stats = _read_values(place / "stats.json", Stats)
    if set(stats) != set(policy.bodies):
        raise CheckpointError(
            f"{place}: stats.json is for {sorted(stats)}, specs.json for {sorted(policy.bodies)}."
        )
    file = place / f"{weights}.safetensors"
    put_weights(policy, read_tensors(file), str(file))
    policy.eval()
    if sentences is None:  # an empty cache is false
        sentences = open_sentences(policy, text_path)
    _check_encoder(provenance["text"], sentences, place)
    pipelines = {key: policy.transforms(key, stats[key], sentences) for key in policy.bodies}
    difference = check_golden(place, policy, pipelines, weights, thorough=thorough)
    return Loaded(
        folder=place,
        policy=policy,
        stats=stats,
        pipelines=pipelines,
        sentences=sentences,
        provenance=provenance,
        difference=difference,
    )


def read_config(folder: str | os.PathLike[str]) -> tuple[type[Policy], Any]:
    """Class and config of the policy in a checkpoint, or in the folder of a training run that holds one.

    Raises:
        CheckpointError: config.json is missing or damaged, or its class is not installed.
    """
    file = locate(folder) / "config.json"
    data = read_json(file, CONFIG_KEYS, ("lora",))
    if data["format"] != FORMAT:
        raise CheckpointError(f"{file}: expected format {FORMAT}, got {data['format']}. Update visuomotor.")
    try:
        kind = lookup("policy", data["policy"])
    except (ValueError, ImportError, AttributeError) as error:
        raise CheckpointError(f"{file}: {error} Install the package that the policy comes from.") from error
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        raise CheckpointError(f"{file}: {data['policy']!r} is no policy class.")
    try:
        return kind, from_plain(kind.Config, data["config"], "config")
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def read_adapters(place: Path) -> dict[str, Any] | None:
    """What the checkpoint in `place` says of its adapters (`visuomotor.nn.lora`); None if it has none."""
    adapters: dict[str, Any] | None = read_json(place / "config.json").get("lora")
    if adapters is not None and set(adapters) != {"rank", "alpha", "layers"}:
        raise CheckpointError(f"{place / 'config.json'}: lora: expected rank, alpha, layers, got {adapters}.")
    return adapters


def _build(place: Path) -> Policy:
    """The policy that config.json and specs.json describe, with weights yet to come."""
    kind, config = read_config(place)
    bodies = _read_values(place / "specs.json", Spec)
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
            policy = kind(config, bodies)
            put_tokenizer(place, policy)
            if adapters := read_adapters(place):
                restore_adapters(policy, adapters)
        return policy
    except ValueError as error:
        raise CheckpointError(f"{place / 'config.json'}: {error}") from error


def _read_values(path: Path, kind: Any) -> dict[str, Any]:
    """Data-set key to `Spec` or `Stats`."""
    try:
        return {key: kind.from_json(value) for key, value in read_json(path).items()}
    except (DataError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_encoder(text: Mapping[str, Any], sentences: SentenceCache | None, place: Path) -> None:
    """Raise `CheckpointError` unless the sentence encoder is the one the policy was trained with."""
    found = sentences.hash if sentences is not None else None
    if text["encoder"] is not None and text["hash"] != found:
        raise CheckpointError(
            f"{place}: expected the sentence encoder {text['encoder']!r} of hash {text['hash']}, "
            f"which the policy was trained with, got {found}. Pass the path of its weights as text_path."
        )


def check_golden(
    place: Path,
    policy: Policy,
    pipelines: Mapping[str, Pipeline],
    weights: Weights,
    *,
    thorough: bool = False,
) -> float | None:
    """Largest deviation of the network from the golden answers of the checkpoint in `place`.

    None for a network above 200 M parameters, which is asked only if `thorough`.

    Raises:
        CheckpointError: The golden vector cannot be read, or pipeline or network answer otherwise.
    """
    try:
        with np.load(place / "golden.npz", allow_pickle=False) as file:
            golden = dict(file)
    except (BadZipFile, ValueError, OSError) as error:
        raise CheckpointError(
            f"{place / 'golden.npz'}: expected arrays, got a problem with it: {error}."
        ) from error
    try:
        golden_vector.check_pipelines(policy, pipelines, golden, weights)
        if not thorough and sum(weight.numel() for weight in policy.parameters()) >= SMALL:
            return None
        return golden_vector.check_network(policy, golden, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from error
