"""Two processes that exchange over gloo on the CPU are one process that computes all parts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_run import settings
from killable_run import open_material

import visuomotor
from visuomotor.agent import load_policy
from visuomotor.agent.weights import read_tensors
from visuomotor.training import step
from visuomotor.training.group import Alone, open_group
from visuomotor.training.log import read_log

TESTS = Path(__file__).parents[1]
Job = dict[str, Any]
MASTERS = {"precision": "bf16", "weight_type": "bfloat16"}
JOBS: dict[str, Job] = {
    "ddp, two terms with counts of their own": {"parallel": "ddp"},
    "ddp, one term, two parts for each": {
        "parallel": "ddp",
        "policy": {"smoothness": False, "batch_size": 2},
        "config": {"accumulate": 4},
    },
    "ddp, adapters": {"parallel": "ddp", "config": {"lora": {"rank": 2}, "freeze": ["see"]}},
    "fsdp": {"parallel": "fsdp", "validate": True},
    "fsdp, layer by layer, two parts for each": {
        "parallel": "fsdp",
        "shard": ["see.0", "flow"],
        "policy": {"batch_size": 2},
        "config": {"accumulate": 4},
    },
    "fsdp, pi0 layer by layer": {
        "parallel": "fsdp",
        "shard": ["*.layers"],
        "policy": {"family": "pi0", "draws": 2},
        "config": {"steps": 3, "save_every": 3},
    },
    "fsdp, pi0.5 insulated, layers that are computed again": {
        "parallel": "fsdp",
        "shard": ["*.layers"],
        "policy": {
            "family": "pi05",
            "draws": 2,
            "insulated": True,
            "vocabulary": 256,
            "trunk": {"words": 257},
        },
        "config": {"steps": 3, "save_every": 3, "recompute": ["trunk.decoder", "expert"]},
    },
    "ddp, masters": {"parallel": "ddp", "config": MASTERS},
    "fsdp, masters": {"parallel": "fsdp", "config": MASTERS},
    "ddp, stopped": {"parallel": "ddp", "at": 3, "signal": "SIGTERM"},
    "fsdp, stopped": {"parallel": "fsdp", "at": 3, "signal": "SIGTERM"},
    "parts that cannot be shared": {
        "parallel": "ddp",
        "policy": {"batch_size": 8},
        "config": {"accumulate": 1},
    },
}
EXACT = list(JOBS)[:7]


def start(dataset: Path, folder: Path, jobs: dict[str, Job]) -> list[subprocess.Popen[str]]:
    """Two processes with the environment that torchrun gives them; each job has a folder of its name."""
    with ExitStack() as stack:
        ports = [stack.enter_context(socket.socket()) for _ in jobs]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        numbers = [port.getsockname()[1] for port in ports]
    told = [
        {**job, "folder": str(folder / name), "port": number}
        for (name, job), number in zip(jobs.items(), numbers, strict=True)
    ]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(visuomotor.__file__).parents[1]), str(TESTS)]),
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(TESTS / "distributed_run.py"), str(dataset), json.dumps(told)]
    return [
        subprocess.Popen(
            command,
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def together(dataset: Path, folder: Path, jobs: dict[str, Job]) -> dict[str, dict[str, Any]]:
    """What two processes reported of each job; both say the same."""
    told = []
    for process in start(dataset, folder, jobs):
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err[-4000:]
        told.append(out.splitlines())
    assert told[0] == told[1]
    return dict(zip(jobs, map(json.loads, told[0]), strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def reports(dataset: Path, runs: Path) -> dict[str, dict[str, Any]]:
    """All jobs in one pair of processes."""
    return together(dataset, runs, JOBS)


def alone(dataset: Path, folder: Path, job: Job) -> None:
    """The same job in this process."""
    one = open_material(dataset, **job.get("policy", {}))
    batches = [one.loader.batch(number) for number in range(2)] if job.get("validate") else []
    one.train(folder, settings(job.get("config", {})), validation=batches)


def assert_same(one: Path, two: Path) -> None:
    """Losses to 1e-6, or to as much of themselves, and weights; additions in another order may differ."""
    for first, second in zip(read_log(one), read_log(two), strict=True):
        assert first["step"] == second["step"]
        for group in ("terms", "validation"):
            assert first.get(group, {}) == pytest.approx(second.get(group, {}), abs=1e-6, rel=1e-6), first[
                "step"
            ]
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-6, rel=1e-6)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-5)
    for file in ("model.safetensors", "ema.safetensors", "train_state/optimizer.safetensors"):
        these, those = (read_tensors(run / "checkpoint" / file) for run in (one, two))
        assert set(these) == set(those)
        for name in these:
            # AdamW divides by the size of a gradient, so that what is near 0 may differ by more than rounding
            assert torch.allclose(these[name], those[name], atol=1e-4), (file, name)


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_learn_what_one_learns(
    dataset: Path, runs: Path, reports: dict[str, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    alone(dataset, tmp_path / "one", JOBS[name])
    steps = JOBS[name].get("config", {}).get("steps", 8)
    assert reports[name]["step"] == steps
    assert_same(tmp_path / "one", runs / name)
    assert load_policy(runs / name, thorough=True).provenance["step"] == steps


@pytest.mark.parametrize("name", ["ddp, masters", "fsdp, masters"])
def test_masters_learn_alike(
    dataset: Path,
    runs: Path,
    reports: dict[str, dict[str, Any]],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "fast_bf16", lambda device: True)
    alone(dataset, tmp_path / "one", JOBS[name])
    assert reports[name]["step"] == 8
    for one, two in zip(read_log(tmp_path / "one"), read_log(runs / name), strict=True):
        # gradients are rounded to 8 bits before they are summed, in another order
        assert one["loss"] == pytest.approx(two["loss"], rel=0.03)
    weights = read_tensors(runs / name / "checkpoint" / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert any(not torch.equal(weight.bfloat16().float(), weight) for weight in weights.values())


def test_a_run_may_go_on_with_another_number_of_processes(
    dataset: Path, runs: Path, reports: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """One of two got SIGTERM after step 3; both stopped there, one process goes on to 5; then two again."""
    alone(dataset, tmp_path / "one", {})

    def stop(progress: Any) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    names = ("ddp, stopped", "fsdp, stopped")
    for name in names:
        assert reports[name]["step"] == 3
        assert load_policy(runs / name).provenance["step"] == 3
        with pytest.raises(KeyboardInterrupt, match="stopped after step 5 of 8"):
            open_material(dataset).train(runs / name, settings({}), progress=stop)
    again = together(dataset, runs, {name: {"parallel": JOBS[name]["parallel"]} for name in names})
    for name in names:
        assert again[name]["resumed"] == 5
        assert_same(tmp_path / "one", runs / name)


def test_when_one_is_killed_all_end(dataset: Path, tmp_path: Path) -> None:
    processes = start(dataset, tmp_path, {"run": {"parallel": "ddp", "at": 6, "signal": "SIGKILL"}})
    ends = [process.communicate(timeout=900) for process in processes]
    assert processes[1].returncode == -signal.SIGKILL
    assert processes[0].returncode not in (0, None), ends[0]
    assert load_policy(tmp_path / "run").provenance["step"] == 4


def test_parts_that_cannot_be_shared_are_refused(runs: Path, reports: dict[str, dict[str, Any]]) -> None:
    name = "parts that cannot be shared"
    assert "1 parts of a batch cannot be shared by 2 processes" in reports[name]["error"]
    assert "--training.accumulate 2" in reports[name]["error"]
    assert not (runs / name).exists()


def test_one_process_has_all_parts_and_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_group() as group:
        assert isinstance(group, Alone)
        assert (list(group.parts(3)), group.any(True), group.any(False)) == ([0, 1, 2], True, False)
    with (
        pytest.raises(ValueError, match=r"needs several processes\. Start it with torchrun"),
        open_group(parallel="fsdp"),
    ):
        pass
