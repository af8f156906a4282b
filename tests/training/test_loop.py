from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killable_run import CONFIG, Material

from visuomotor.agent import load_agent, load_policy
from visuomotor.agent.weights import named_weights
from visuomotor.errors import CheckpointError
from visuomotor.policies.base import Loss, Term
from visuomotor.training import step
from visuomotor.training.log import read_log
from visuomotor.training.loop import Diverged, Progress, TrainConfig, TrainInterrupted
from visuomotor.types import Batch

Open = Callable[..., Material]
TESTS = Path(__file__).parents[1]


def assert_equal_runs(one: Path, two: Path) -> None:
    """Every tensor, and every line of the log but for clocks, bit by bit."""
    for name in ("model.safetensors", "ema.safetensors", "train_state/optimizer.safetensors", "golden.npz"):
        assert (one / "checkpoint" / name).read_bytes() == (two / "checkpoint" / name).read_bytes(), name
    clocks = {"time", "seconds", "samples_per_second"}
    first, second = (
        [{k: v for k, v in line.items() if k not in clocks} for line in read_log(run)] for run in (one, two)
    )
    assert first == second


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from killable_run import open_material

    folder = tmp_path_factory.mktemp("runs") / "finished"
    open_material(dataset).train(folder)
    return folder


def test_a_run_leaves_a_checkpoint_a_log_and_events(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint",
        "events.out.tfevents.0000000000.visuomotor",
        "log.jsonl",
        "training.json",
    ]
    lines = read_log(finished)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 24]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert {"terms", "learning_rate", "gradient_norm", "samples_per_second", "seconds", "time"} <= set(
        lines[0]
    )
    provenance = json.loads((finished / "checkpoint" / "provenance.json").read_text())
    assert provenance["step"] == 24
    assert provenance["data"]["set"]["seeds"] == [0, 1, 2, 3]
    assert load_agent(finished).seeds == {0, 1, 2, 3}


def test_equal_seeds_give_equal_bits_and_leave_global_state_alone(
    material: Open, finished: Path, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    material().train(tmp_path / "again", replace(CONFIG, save_every=100))
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_runs(finished, tmp_path / "again")


@pytest.mark.parametrize("last", [5, 16])
def test_a_run_killed_by_sigkill_ends_with_equal_bits(
    material: Open, dataset: Path, finished: Path, tmp_path: Path, last: int
) -> None:
    """Killed before the first checkpoint, and between two checkpoints with lines of the log written since."""
    command = [sys.executable, str(TESTS / "killable_run.py"), str(dataset), str(tmp_path / "run"), str(last)]
    assert (
        subprocess.run(command, check=False, env=os.environ | path_of_sources()).returncode == -signal.SIGKILL
    )
    assert (tmp_path / "run" / "checkpoint").exists() == (last > 7)
    report = material().train(tmp_path / "run")
    assert report.resumed_from == (14 if last > 7 else None)
    assert report.finished
    assert_equal_runs(finished, tmp_path / "run")


def path_of_sources() -> dict[str, str]:
    import visuomotor

    return {"PYTHONPATH": str(Path(visuomotor.__file__).parents[1])}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_same_call_goes_on(
    material: Open, finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def stop(progress: Progress) -> None:
        if progress.step == 9:
            os.kill(os.getpid(), number)

    with pytest.raises(
        TrainInterrupted, match=r"stopped after step 9 of 24; the state is saved in .*run"
    ) as caught:
        material().train(tmp_path / "run", progress=stop)
    assert caught.value.report.step == 9
    assert not caught.value.report.finished
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load_policy(tmp_path / "run").provenance["step"] == 9
    report = material().train(tmp_path / "run")
    assert report.resumed_from == 9
    assert report.seconds > caught.value.report.seconds
    assert_equal_runs(finished, tmp_path / "run")


def test_a_finished_run_is_not_trained_again(material: Open, finished: Path) -> None:
    before = (finished / "checkpoint" / "provenance.json").read_text()
    report = material().train(finished)
    assert report.finished
    assert report.resumed_from == 24
    assert report.loss == read_log(finished)[-1]["loss"]
    assert (finished / "checkpoint" / "provenance.json").read_text() == before


def test_training_works_outside_the_main_thread(material: Open, tmp_path: Path) -> None:
    reports = []
    config = replace(CONFIG, steps=2)
    thread = threading.Thread(target=lambda: reports.append(material().train(tmp_path / "run", config)))
    thread.start()
    thread.join()
    assert reports[0].finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.02}, r"train\.learning_rate: 0\.01 there, 0\.02 here"),
        ({"steps": 30}, r"train\.steps: 24 there, 30 here"),
        ({"seed": 1, "clip": 2.0}, r"train\.clip: 1\.0 there, 2\.0 here \(and 1 more\)"),
    ],
)
def test_another_config_is_refused_and_named(
    material: Open, finished: Path, change: dict[str, float], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        material().train(finished, replace(CONFIG, **change))


def test_another_policy_or_other_data_are_refused_and_named(material: Open, finished: Path) -> None:
    with pytest.raises(CheckpointError, match=r"policy\.width: 32 there, 48 here"):
        material(width=48).train(finished)
    with pytest.raises(CheckpointError, match=r"data\.set: '.* there, 'other' here"):
        material().train(finished, data={"set": {"hash": "other"}})


def test_what_does_not_change_the_result_may_change(material: Open, finished: Path) -> None:
    material().train(finished, replace(CONFIG, save_every=3, log_every=2, threads=1))


def test_a_run_that_is_there_is_refused_unless_resumed(material: Open, finished: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds a training run already\. Nothing was overwritten"):
        material().train(finished, resume=False)


def test_a_folder_that_holds_something_else_is_refused(material: Open, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match=r"it holds thesis\.tex\. Nothing was overwritten"):
        material().train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CheckpointError, match="it holds a file"):
        material().train(tmp_path / "thesis.tex")


def test_two_processes_do_not_train_in_one_folder(material: Open, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(CheckpointError, match="another process is training here"):
            material().train(tmp_path / "run", replace(CONFIG, steps=1))

    material().train(tmp_path / "run", replace(CONFIG, steps=1), progress=second)


def test_a_damaged_train_state_is_refused(material: Open, finished: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoint" / "train_state" / "optimizer.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: the file is damaged"):
        material().train(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_after_saving_what_was_before(material: Open, tmp_path: Path) -> None:
    one = material()
    loss = one.policy.loss
    steps = []

    def spoiled(batch: Batch, *, generator: torch.Generator | None) -> Loss:
        steps.append(1)
        terms = loss(batch, generator=generator).terms
        return Loss(
            {
                n: Term(t.sum * (torch.nan if len(steps) > 20 else 1), t.count, t.weight)
                for n, t in terms.items()
            }
        )

    one.policy.loss = spoiled  # type: ignore[method-assign]
    with pytest.raises(
        Diverged, match=r"training step (\d+): expected a finite loss.*'flow': nan.*The state after step"
    ):
        one.train(tmp_path / "run")
    loaded = load_policy(tmp_path / "run", weights="model")
    assert all(bool(weight.isfinite().all()) for weight in named_weights(loaded.policy).values())
    report = material().train(tmp_path / "run")  # the loss mended, the run goes on
    assert report.finished
    assert report.resumed_from == loaded.provenance["step"]


def test_a_full_disk_leaves_the_last_checkpoint_whole(material: Open, tmp_path: Path) -> None:
    """After step 10 no file can grow beyond 2 kB, which looks to a program like a disk without room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.step == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))

    try:
        with pytest.raises(
            CheckpointError, match=r"step 14 could not be written: .*the checkpoint of step 7 is whole"
        ):
            material().train(tmp_path / "run", replace(CONFIG, log_every=100), progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_policy(tmp_path / "run").provenance["step"] == 7
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"checkpoint", "training.json"}
    assert not (tmp_path / "run" / "checkpoint.new").exists()


def test_validation_looks_at_the_average_and_changes_nothing(
    material: Open, finished: Path, tmp_path: Path
) -> None:
    one = material()
    batches = [one.loader.batch(number) for number in range(2)]
    report = one.train(tmp_path / "run", replace(CONFIG, validate_every=12), validation=batches)
    assert (tmp_path / "run" / "checkpoint" / "ema.safetensors").read_bytes() == (
        finished / "checkpoint" / "ema.safetensors"
    ).read_bytes()
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines if "validation" in line] == [12, 24]
    assert set(lines[-1]["validation"]) == {"loss", "flow", "small"}
    assert report.validation == lines[-1]["validation"]
    assert lines[-1]["validation"]["loss"] < lines[2]["validation"]["loss"]


def test_progress_tells_every_step(material: Open, tmp_path: Path) -> None:
    seen: list[Progress] = []
    material().train(tmp_path / "run", replace(CONFIG, steps=6), progress=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 7))
    assert [progress.loss is None for progress in seen] == [True] * 4 + [False] * 2
    assert seen[-1].samples_per_second is not None


@pytest.mark.parametrize(
    ("has", "auto", "by_name"),
    [({"avx512_bf16", "amx_bf16"}, "bf16", True), ({"avx512_bf16"}, "fp32", True), ({"avx2"}, "fp32", False)],
)
def test_auto_takes_bf16_where_it_is_faster(
    has: set[str], auto: str, by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_capabilities", lambda: has)
    device = torch.device("cpu")
    assert step.choose_precision("auto", device) == auto
    if by_name:
        assert step.choose_precision("bf16", device) == "bf16"
    else:
        with pytest.raises(ValueError, match=r'this cpu multiplies bfloat16 only by emulation.*or "auto"'):
            step.choose_precision("bf16", device)


def test_a_precision_that_would_be_emulated_begins_no_run(
    material: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_capabilities", set)
    with pytest.raises(ValueError, match="emulation"):
        material().train(tmp_path / "slow", replace(CONFIG, precision="bf16"))
    assert not (tmp_path / "slow").exists()
    report = material().train(tmp_path / "run", replace(CONFIG, steps=2, precision="auto"))
    assert report.precision == "fp32"


def test_bf16_learns(material: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "fast_bf16", lambda device: True)
    report = material().train(tmp_path / "run", replace(CONFIG, precision="bf16"))
    assert report.precision == "bf16"
    lines = read_log(tmp_path / "run")
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert load_policy(tmp_path / "run").policy.leave.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"ema_decay": 1.0}, "ema_decay and betas lie in"),
        ({"batch_size": 5, "accumulate": 2}, "batch_size 5 cannot be computed in accumulate=2"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)  # type: ignore[arg-type]


def test_half_precision_weights_are_refused(material: Open, tmp_path: Path) -> None:
    one = material()
    one.policy.bfloat16()
    with pytest.raises(ValueError, match=r'expected float32, got torch\.bfloat16.*precision="bf16"'):
        one.train(tmp_path / "run")
