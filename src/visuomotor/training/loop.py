"""The training loop: steps, not seconds.

    batch ─► policy.loss ─► sums and counts ─► gradients ─► clip ─► AdamW, Muon ─► moving average

Every random number is drawn from (seed, step), batches are a function of their number, and a
checkpoint holds everything else. So a run that was stopped, by whatever, ends with the same bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from visuomotor.errors import CheckpointError, VisuomotorError
from visuomotor.policies.base import Policy
from visuomotor.training.checkpoint import Saved, Subject, open_run, restore, save
from visuomotor.training.config import TrainConfig
from visuomotor.training.group import Alone, Group
from visuomotor.training.interrupt import Interrupt, watch_signals
from visuomotor.training.log import Log, Meter, Silence
from visuomotor.training.optim import Average, Optimizer, learning_rate
from visuomotor.training.recompute import Recomputed, recomputing
from visuomotor.training.selection import choose_trained, learning
from visuomotor.training.step import Losses, choose_precision, forward, optimizer_step
from visuomotor.types import Batch, Stats

if TYPE_CHECKING:
    from visuomotor.text.sentences import SentenceCache

__all__ = ["Batches", "Diverged", "Progress", "TrainConfig", "TrainInterrupted", "TrainReport", "train"]


@runtime_checkable
class Batches(Protocol):
    """Training data, by number."""

    def batch(self, step: int) -> Batch:
        """Batch number `step`, the same one whenever it is asked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, for a progress bar; `loss` and speed are those of the last line of the log."""

    step: int
    steps: int
    loss: float | None
    samples_per_second: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a run went.

    Attributes:
        folder: Of the run.
        step: Steps behind it.
        steps: Steps asked for.
        finished: All steps are done.
        resumed_from: Step that this sitting started from; None for a new run.
        loss: Mean training loss of the last line of the log.
        validation: Last loss on held-out episodes, term by term.
        samples_per_second: Speed of the last line of the log.
        seconds: Time spent training, over all sittings.
        precision: "fp32" or "bf16".
        parameters: Of the policy.
        trainable: Those that are trained.
    """

    folder: Path
    step: int
    steps: int
    finished: bool
    resumed_from: int | None
    loss: float | None
    validation: Mapping[str, float] | None
    samples_per_second: float | None
    seconds: float
    precision: str
    parameters: int
    trainable: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {**asdict(self), "folder": str(self.folder)}


class Diverged(VisuomotorError):
    """The loss or the gradient is not finite."""


class TrainInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the state is saved, and the same call goes on from there.

    Attributes:
        report: How far the run came.
    """

    def __init__(self, report: TrainReport) -> None:
        super().__init__(
            f"training stopped after step {report.step} of {report.steps}; "
            f"the state is saved in {report.folder}. The same command goes on from there."
        )
        self.report = report


def train(
    policy: Policy,
    loader: Batches,
    *,
    config: TrainConfig,
    folder: str | os.PathLike[str],
    stats: Mapping[str, Stats],
    data: Mapping[str, Mapping[str, Any]] | None = None,
    sentences: SentenceCache | None = None,
    instruction: str = "put the red cube in the blue bowl",
    origin: Mapping[str, Any] | None = None,
    validation: Sequence[Batch] = (),
    progress: Callable[[Progress], None] | None = None,
    device: str | torch.device = "cpu",
    group: Group | None = None,
    resume: bool = True,
) -> TrainReport:
    """Train `policy` in place and leave a checkpoint folder, going on if the run has been started before.

    Args:
        policy: Float32 weights; moved to `device`. What `config` freezes asks for no gradient any more.
        loader: Gives batch `step * accumulate + part`, of `batch_size / accumulate` samples.
        config: How to train.
        folder: Of the run: new, empty, or the same run, which is resumed.
        stats: Data-set key to statistics, for the checkpoint.
        data: Data-set key to what is known of the data ("hash", "seeds"), for the checkpoint. A resumed
            run must have the same hashes.
        sentences: Encoded instructions, for a policy that reads them frozen.
        instruction: Words of the golden observation.
        origin: What is known of the weights that `policy` begins with (`visuomotor.training.begin`).
        validation: Batches of held-out episodes.
        progress: Called after every step.
        device: Where to compute; the device of `group` if there is one.
        group: The processes that train together; this one alone if None. Each calls `train` with equal
            arguments.
        resume: Whether a run that is there already may be resumed; if not, it is refused.

    Raises:
        CheckpointError: `folder` holds something else, or a run with other settings or data.
        Diverged: The loss is not finite; the state before that step is saved.
        TrainInterrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    group = group or Alone(device)
    device = group.device
    group.parts(config.accumulate)  # can they be shared?
    config = replace(config, precision=choose_precision(config.precision, device))
    _check_types(config)
    policy.to(device)
    subject = Subject(
        policy=policy,
        stats=stats,
        data=data or {},
        sentences=sentences,
        instruction=instruction,
        origin=origin,
    )
    _check_weights(policy)
    choose_trained(policy, config)
    learning(policy)
    with (
        _taken(Path(folder), subject.identity(config), group, resume=resume),
        _quiet_globals(config, device),
        watch_signals() as interrupt,
    ):
        run = _Run(subject, loader, config, Path(folder), group, validation)
        try:
            with recomputing(policy, config.recompute) as recomputed:
                return run.go(interrupt, recomputed, progress)
        finally:
            run.log.close()


def _check_types(config: TrainConfig) -> None:
    """Raise `ValueError` unless weights and arithmetic go together on this device."""
    if config.weight_type == "bfloat16" and config.precision != "bf16":
        raise ValueError(
            'training: weight_type="bfloat16" needs precision="bf16"; here the network would compute in '
            'float32. Set precision="bf16", or leave weights in float32.'
        )


@contextmanager
def _taken(folder: Path, identity: Mapping[str, Any], group: Group, *, resume: bool) -> Iterator[None]:
    """The folder of the run, taken by the first process before the others go on."""
    with ExitStack() as stack, group.in_turn():
        if group.rank == 0:
            stack.enter_context(open_run(folder, identity, resume=resume))
        held = stack.pop_all()
    with held:
        yield


def _check_weights(policy: Policy) -> None:
    """Raise `ValueError` unless everything trainable is float32."""
    for name, weight in policy.named_parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            raise ValueError(
                f"{type(policy).__name__}: trainable weight {name!r}: expected float32, got {weight.dtype}. "
                'Convert it with policy.float(); for faster arithmetic set precision="bf16".'
            )


@contextmanager
def _quiet_globals(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Torch's random state and thread count are ours inside, and what they were after."""
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        try:
            torch.set_num_threads(config.threads or threads)
            yield
        finally:
            torch.set_num_threads(threads)


class _Run:
    """One sitting: what changes from step to step, and the order in which things happen."""

    def __init__(
        self,
        subject: Subject,
        loader: Batches,
        config: TrainConfig,
        folder: Path,
        group: Group,
        validation: Sequence[Batch],
    ) -> None:
        self.subject, self.loader, self.config, self.folder = subject, loader, config, folder
        self.group, self.device, self.validation = group, group.device, validation
        policy = subject.policy
        saved = restore(folder, subject)
        self.learner, self.moved = group.prepare(policy, config.weight_type)
        self.optimizer = Optimizer(
            policy,
            weight_decay=config.weight_decay,
            betas=config.betas,
            kernel_rate=config.kernel_rate,
            weights=self.moved.weights,
        )
        self.average = Average(policy, config.ema_decay, self.moved.weights, law=config.ema_law)
        self.meter = Meter(self.device)
        self.rate = 0.0
        state = None if saved is None else saved.state
        if saved is not None:
            self._go_on(saved)
        self.resumed_from = None if state is None else int(state["step"])
        self.step = self.resumed_from or 0
        self.saved = self.resumed_from
        self.before = 0.0 if state is None else float(state["seconds"])
        if state is not None:
            self.meter.restore(state["meter"])
        self.began = time.perf_counter()
        self.mark = (self.began, self.step)
        self.log: Log | Silence = (Silence if group.rank else Log)(folder, step=self.step)

    def _go_on(self, saved: Saved) -> None:
        """Bring average and optimizer to where a checkpoint was."""
        share = self.moved.share
        try:
            self.average.restore({name: share(name, saved.average[name]) for name in self.moved.weights})
            self.optimizer.restore(
                {path: share(path.partition("/")[2], saved.moments[path]) for path in self.optimizer.state}
            )
        except KeyError as missing:
            raise CheckpointError(
                f"{saved.where}: {missing} is missing. Copy the whole run again."
            ) from missing

    @property
    def seconds(self) -> float:
        """Time spent training, over all sittings."""
        return self.before + time.perf_counter() - self.began

    def go(
        self, interrupt: Interrupt, recomputed: Recomputed, progress: Callable[[Progress], None] | None
    ) -> TrainReport:
        """Every step that is left."""
        steps = self.config.steps
        while self.step < steps:
            self._advance()
            recomputed.check()
            last = self.step == steps
            if last or self.step % self.config.log_every == 0:
                self._write_line(validate=last or self.step % self.config.validate_every == 0)
            elif self.validation and self.step % self.config.validate_every == 0:
                self._write_line(validate=True)
            if progress is not None:
                progress(self._progress())
            asked = self.group.any(interrupt.asked)
            if last or asked or self.step % self.config.save_every == 0:
                self._save()
            if asked and not last:
                raise TrainInterrupted(self.report())
        return self.report()

    def _advance(self) -> None:
        """One optimizer step, checked where checking costs no waiting or is due anyway."""
        config = self.config
        due = (self.step + 1) % config.log_every == 0 or (self.step + 1) % config.save_every == 0
        check = self.device.type == "cpu" or due or self.step + 1 == config.steps
        first = self.step * config.accumulate
        parts = self.group.parts(config.accumulate)
        batches = (self.loader.batch(first + part).to(self.device) for part in parts)
        self.rate = learning_rate(
            self.step, peak=config.learning_rate, warmup=config.warmup, steps=config.steps
        )
        losses = optimizer_step(
            self.learner,
            batches,
            self.optimizer,
            moved=self.moved,
            group=self.group,
            rate=self.rate,
            numbers=(config.seed, self.step),
            config=config,
            check=check,
        )
        if not losses.finite:
            self._stop_diverged(losses)
        self.average.update(self.step)
        self.meter.add(losses.terms, losses.norm)
        self.step += 1

    def _stop_diverged(self, losses: Losses) -> None:
        """Save what was before the step, if it is sound, and raise."""
        spoiled = any(not bool(weight.isfinite().all()) for weight in self.moved.weights.values())
        if not self.group.any(spoiled) and self.saved != self.step:
            self._save()
        kept = "No state is saved." if self.saved is None else f"The state after step {self.saved} is saved."
        means = {name: float(term.sum) / max(float(term.count), 1.0) for name, term in losses.terms.items()}
        raise Diverged(
            f"training step {self.step + 1}: expected a finite loss and gradient, got {means} and a gradient "
            f"of norm {float(losses.norm)}. {kept} Look for wrong numbers in the data, or train anew with a "
            "lower learning_rate."
        )

    def _write_line(self, *, validate: bool) -> None:
        """A line of the log: means since the last one."""
        means = self.meter.means()
        now = time.perf_counter()
        elapsed, samples = now - self.mark[0], (self.step - self.mark[1]) * self.config.batch_size
        line: dict[str, Any] = {
            "step": self.step,
            **means,
            "learning_rate": self.rate,
            "samples_per_second": round(samples / max(elapsed, 1e-9), 2),
            "seconds": round(self.seconds, 3),
        }
        if validate and self.validation:
            line["validation"] = self._validate()
        self.log.write(line)
        self.meter.clear()
        self.mark = (time.perf_counter(), self.step)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean of each term over the held-out batches, with averaged weights and always the same noise."""
        policy, sums = self.subject.policy, Meter(self.device)
        policy.eval()
        with self.average.lent():
            self.moved.publish()
            for number, batch in enumerate(self.validation):
                numbers = (self.config.seed, number, 0, 1)
                loss = forward(self.learner, batch.to(self.device), numbers, self.config.precision)
                sums.add(loss.terms, torch.zeros((), device=self.device))
        self.moved.publish()
        learning(policy)
        means = sums.means()
        return {"loss": means["loss"], **means["terms"]}

    def _save(self) -> None:
        """Checkpoint of the present step; the time it takes does not count against the speed."""
        began = time.perf_counter()
        self.log.sync()
        state = {
            "step": self.step,
            "seed": self.config.seed,
            "seconds": round(self.seconds, 3),
            "meter": self.meter.to_json(),
        }
        with self.moved.whole(self.average, self.optimizer) as (policy, average, moments):
            if self.group.rank == 0:
                save(self.folder, replace(self.subject, policy=policy), average, moments, state)
        self.saved = self.step
        self.mark = (self.mark[0] + time.perf_counter() - began, self.mark[1])

    def _progress(self) -> Progress:
        last = self.log.last
        return Progress(
            step=self.step,
            steps=self.config.steps,
            loss=last.get("loss"),
            samples_per_second=last.get("samples_per_second"),
            seconds=self.seconds,
        )

    def report(self) -> TrainReport:
        """How the run stands."""
        weights = list(self.subject.policy.parameters())
        return TrainReport(
            folder=self.folder,
            step=self.step,
            steps=self.config.steps,
            finished=self.step == self.config.steps,
            resumed_from=self.resumed_from,
            loss=self.log.last.get("loss"),
            validation=self.log.last.get("validation"),
            samples_per_second=self.log.last.get("samples_per_second"),
            seconds=round(self.seconds, 3),
            precision=self.config.precision,
            parameters=sum(weight.numel() for weight in weights),
            trainable=sum(weight.numel() for weight in weights if weight.requires_grad),
        )
