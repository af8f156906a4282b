"""What this machine can do for visuomotor, and whether a checkpoint is sound."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from visuomotor import __version__
from visuomotor.errors import VisuomotorError

__all__ = ["Finding", "examine"]

PACKAGES = ("torch", "mujoco", "numpy", "av", "pyarrow", "safetensors", "tokenizers")
FREE_GB = 3
"""Disk space that the demo fits into with its decoded pictures."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        found: What came out.
        fine: Nothing is wrong with it.
        advice: What to do, if something is.
    """

    what: str
    found: str
    fine: bool = True
    advice: str | None = None


def examine(checkpoint: str | os.PathLike[str] | None = None) -> list[Finding]:
    """Look at versions, processor, simulator, sentence encoder and disk, and at a checkpoint if one is given.

    Args:
        checkpoint: A checkpoint, or the folder of a training run: the hash of every file and the golden
            answers of both sets of weights are checked.

    Raises:
        CheckpointError: The checkpoint is damaged or fails its golden vector.
    """
    findings = [*_versions(), *_processor(), _simulator(), _encoder(), _disk()]
    if checkpoint is not None:
        findings += _checkpoint(Path(checkpoint))
    return findings


def _versions() -> Iterator[Finding]:
    yield Finding(
        what="visuomotor", found=f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
    )
    for package in PACKAGES:
        try:
            yield Finding(what=package, found=version(package))
        except PackageNotFoundError:
            yield Finding(what=package, found="not installed", fine=False, advice=f"pip install {package}")


def _processor() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(what="processor", found=f"{cores} cores, {torch.get_num_threads()} torch threads")
    yield Finding(what="vector units", found=torch.backends.cpu.get_cpu_capability())
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    fast = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    yield Finding(
        what="bf16 arithmetic",
        found=f"fast ({', '.join(fast)})" if fast else "no faster than fp32 here, as far as can be seen",
    )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use"
    yield Finding(what="GPU", found=gpu)


def _simulator() -> Finding:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    falls = float(data.qvel[2]) < 0
    return Finding(
        what="simulator",
        found="a ball falls" if falls else "a ball does not fall",
        fine=falls,
        advice=None if falls else "reinstall the package mujoco",
    )


def _encoder() -> Finding:
    from visuomotor.backbones.minilm import load_minilm

    try:
        encoder = load_minilm()
    except VisuomotorError as error:
        return Finding(what="sentence encoder", found="not usable", fine=False, advice=str(error))
    return Finding(what="sentence encoder", found=f"MiniLM, hashes as published ({encoder.hash[:12]})")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = free >= FREE_GB
    return Finding(
        what="disk",
        found=f"{free:.1f} GB free in {Path.cwd()}",
        fine=enough,
        advice=None
        if enough
        else f"the demo needs up to {FREE_GB} GB; free some space, or choose another --out",
    )


def _checkpoint(folder: Path) -> Iterator[Finding]:
    from visuomotor.agent.folder import load_policy

    for weights in ("ema", "model"):
        loaded = load_policy(folder, weights=weights, thorough=True)
        off = "not compared" if loaded.difference is None else f"within {loaded.difference:.1e}"
        found = f"{type(loaded.policy).__name__}, every hash right, golden answers {off}"
        yield Finding(what=f"checkpoint ({weights})", found=found)
    saved = loaded.provenance["versions"]
    here = {
        "visuomotor": __version__,
        "python": platform.python_version(),
        "torch": sys.modules["torch"].__version__,
    }
    told = ", ".join(f"{name} {saved.get(name)} (here {now})" for name, now in here.items())
    yield Finding(what="checkpoint was made with", found=told)
