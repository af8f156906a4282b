"""A comparison: several arms learn from one data set and play the same scenes, in one folder.

    comparison.json     what all arms have in common: data and exam
    demonstrations/     LeRobot data set, unless the data are given
    references/NAME/    evaluations of the expert and of chance
    arms/NAME/          arm.json, policy/ (training run), evaluation/, report.html, report.json,
                        untrained/ (the same with the first weights of the policy)
    report.html         for people, report.json the same for programs, table.md for a document
    cache/              decoded pictures and encoded sentences of all arms; may be deleted

An arm that is finished is not touched again; one that was stopped, by whatever, goes on; one that is
new is added to those that are there. The report is written anew after each arm.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visuomotor.agent.config import to_plain
from visuomotor.agent.disk import PROVENANCE
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.errors import DataError, VisuomotorError
from visuomotor.evaluation.comparison_page import write_comparison
from visuomotor.evaluation.families import family_entry, merge_families
from visuomotor.evaluation.origin import world_of
from visuomotor.evaluation.report import write_report
from visuomotor.evaluation.setup import BASELINES
from visuomotor.experts.collect import Collection
from visuomotor.recipes import CollectConfig
from visuomotor.registry import names
from visuomotor.study.arms import Arm, budget_of, check_exam, exam_of, read_arm, unequal_budgets
from visuomotor.study.gathering import ARM, COMMON, budgets_of, gather, is_reported, known_arms, reason_of
from visuomotor.study.parts import (
    Tell,
    claim,
    collect_demonstrations,
    data_key,
    evaluate_recipe,
    named,
    silent,
    train_recipe,
    write_json,
)
from visuomotor.training.loop import Diverged
from visuomotor.training.run import build_policy, save_untrained
from visuomotor.types import Spec

__all__ = ["Comparison", "compare_arms"]

FILMS = 2
"""First scenes that are filmed of every arm, chosen before anything is known of them."""
FEW_CALLS = 5
"""Timed calls of those whose speed nobody asks for: references, and policies that learned nothing."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison.

    Attributes:
        folder: Where everything is.
        report: Content of report.json.
        worked: Arms that this call had to work on; the others were finished before.
    """

    folder: Path
    report: Mapping[str, Any]
    worked: tuple[str, ...]

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.folder / "report.html"


def compare_arms(
    out: str | os.PathLike[str],
    arms: Sequence[str | Arm],
    *,
    data: str | os.PathLike[str] | None = None,
    unequal: str = "",
    references: Sequence[str] | None = None,
    untrained: bool = True,
    merge: str | os.PathLike[str] | None = None,
    section: str = "policies",
    device: str = "cpu",
    workers: int | None = None,
    tell: Tell | None = None,
    command: str = "",
) -> Comparison:
    """Train and evaluate every arm on the same data, with the same budget, in the same scenes, and report.

    Args:
        out: Folder of the comparison: new, empty, or the same one, which goes on; arms of earlier calls stay.
        arms: Arms, or words for them (see `read_arm`).
        data: Folder of a data set; if None, what the recipes of the arms collect, which must be the same.
        unequal: Why steps, batch size, seed, held-out data or observations may differ; refused if empty.
        references: Of "expert" and "random", who plays for comparison; those that can, if None.
        untrained: Whether each policy is also played with its first weights.
        merge: JSON file of results into which the arms are put, each when it is finished.
        section: Key in that file.
        device: Where to train; policies always act on the CPU.
        workers: Processes that demonstrate and evaluate; one for each core if None.
        tell: Hears how far it is: arm and stage.
        command: What the report names as the command that repeats it.

    Raises:
        ValueError: The arms are not equally placed.
        DataError: `out` holds something else, or an arm of this name that is another; or the data set
            changes meanwhile.
        VisuomotorError: An arm diverged; all others are finished.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once the state is saved.
    """
    chosen = [arm if isinstance(arm, Arm) else read_arm(arm) for arm in arms]
    check_exam(chosen, collected=data is None)
    folder, tell = Path(out), tell or silent
    given = None if data is None else LeRobotReader(Path(data))
    histories = _check_budgets(folder, chosen, given, unequal)
    collect = chosen[0].recipe.collect
    data_says = {"collect": to_plain(collect)} if given is None else {"hash": given.hash}
    common = {"format": 1, "data": data_says, "exam": exam_of(chosen[0]), "unequal": unequal}
    claim(folder, COMMON, common, what="comparison", free=("unequal",))
    if unequal:
        write_json(folder / COMMON, common)
    for arm in chosen:
        _claim_arm(folder, arm, histories[arm.name])
    if given is None:
        collect_demonstrations(folder / "demonstrations", collect, workers=workers, tell=tell)
        given = LeRobotReader(folder / "demonstrations")
    work = _Work(folder, given, device=device, workers=workers, tell=tell, command=command)
    work.play_references(references, chosen[0])
    worked, diverged = [], {}
    for arm in chosen:
        if not work.finished(arm, untrained):
            worked.append(arm.name)
            try:
                work.finish(arm, untrained)
            except Diverged as error:
                diverged[arm.name] = str(error)
                continue
            gc.collect()  # the policy of this arm, before the next one is made
        report = work.report(diverged)
        if merge is not None:
            _merge(Path(merge), section, report, arm, command)
    report = work.report(diverged)
    if diverged:
        told = "; ".join(f"{name}: {why}" for name, why in diverged.items())
        raise VisuomotorError(f"{told} The other arms are finished: {folder / 'report.html'}")
    return Comparison(folder=folder, report=report, worked=tuple(worked))


# --- who takes part


def _check_budgets(
    folder: Path, arms: Sequence[Arm], given: LeRobotReader | None, unequal: str
) -> dict[str, tuple[int, ...]]:
    """The history of each arm; `ValueError` if arms, those of earlier calls too, differ without a reason."""
    spec = _spec(arms[0].recipe.collect) if given is None else given.spec
    histories = {arm.name: _history(arm, spec) for arm in arms}
    budgets = budgets_of(known_arms(folder))
    for arm in arms:
        budgets.setdefault(arm.name, budget_of(arm.to_json(), histories[arm.name]))
    found = unequal_budgets(budgets)
    excused = unequal or reason_of(folder)
    if found and not excused:
        raise ValueError(
            f"the arms are not equally placed: {'; '.join(found)}. Give all of them the same (such as with "
            '--steps), or say why they may differ (--unequal "..."); the report will tell.'
        )
    return histories


def _spec(config: CollectConfig) -> Spec:
    """The body that will be collected."""
    job = Collection(
        env=config.env,
        task=config.task,
        expert=config.env,
        control=config.control,
        env_options=config.env_options,
    )
    env, _ = job.build()
    try:
        return env.spec
    finally:
        env.close()


def _history(arm: Arm, spec: Spec) -> tuple[int, ...]:
    """Ticks that the policy of an arm looks at."""
    policy = build_policy(arm.recipe.family, arm.recipe.policy, {"data": spec}, seed=0)
    return tuple(policy.window.history)


def _claim_arm(folder: Path, arm: Arm, history: tuple[int, ...]) -> None:
    """Make a folder for an arm, or see that the one there is of the same arm."""
    mine = {
        "format": 1,
        "arm": arm.to_json(),
        "history": list(history),
        "source": arm.source,
        "place": len(known_arms(folder)),
    }
    claim(
        folder / "arms" / arm.name,
        ARM,
        mine,
        what="arm",
        free=("place", "source"),
        advice=f"give the arm another name (other-name={arm.source or arm.name})",
    )


# --- the work


class _Work:
    """One call of `compare_arms` once the data are there."""

    def __init__(
        self,
        folder: Path,
        reader: LeRobotReader,
        *,
        device: str,
        workers: int | None,
        tell: Tell,
        command: str,
    ) -> None:
        self.folder, self.reader, self.device = folder, reader, device
        self.workers, self.tell, self.command = workers, tell, command
        meta = reader.meta
        told = meta.get("env") and meta.get("task")
        self.key = data_key(meta["env"], meta["task"]) if told else reader.folder.resolve().name
        self.data = {self.key: reader.folder}

    def play_references(self, wanted: Sequence[str] | None, arm: Arm) -> None:
        """The expert and chance in the scenes of the exam, unless they were played before."""
        env, env_options, _ = world_of({self.key: self.reader.meta})
        if wanted is None:
            able = {"random": env is not None, "expert": env in names("expert")}
            wanted = [name for name in BASELINES if able[name]]
        for name in wanted:
            place = self.folder / "references" / name
            if is_reported(place):
                continue
            evaluation = evaluate_recipe(
                arm.recipe,
                name,
                place / "evaluation",
                workers=self.workers,
                tell=named(self.tell, name),
                env=env,
                env_options=env_options,
                executor="receding_horizon",
                execute=None,
                probes=(),
                videos=0,
                films=_films(arm),
                timed=FEW_CALLS,
            )
            write_report(place, evaluation, command=self.command)

    def finished(self, arm: Arm, untrained: bool) -> bool:
        """Whether nothing is left to do for an arm."""
        place = self.folder / "arms" / arm.name
        return is_reported(place) and (not untrained or is_reported(place / "untrained"))

    def finish(self, arm: Arm, untrained: bool) -> None:
        """Train and evaluate one arm from where it is."""
        place = self.folder / "arms" / arm.name
        if not is_reported(place):
            self._check_data()
            tell = named(self.tell, arm.name)
            cache = self.folder / "cache"
            train_recipe(arm.recipe, self.data, place / "policy", cache=cache, device=self.device, tell=tell)
            evaluation = evaluate_recipe(
                arm.recipe,
                place / "policy",
                place / "evaluation",
                workers=self.workers,
                tell=tell,
                films=_films(arm),
            )
            write_report(place, evaluation, command=self.command, seed=arm.recipe.training.seed)
        if untrained and not is_reported(place / "untrained"):
            self._play_untrained(arm, place / "untrained")

    def _check_data(self) -> None:
        """The data are those of the other arms: somebody may still be collecting them."""
        folder = self.reader.folder
        if LeRobotReader(folder).hash != self.reader.hash:
            raise DataError(
                f"{folder}: the data set has changed since this comparison began, so that its next arm would "
                "learn from other data. Wait until all is collected, and compare in a new folder."
            )

    def _play_untrained(self, arm: Arm, place: Path) -> None:
        """The first weights of an arm in the main scenes."""
        recipe, policy = arm.recipe, place / "policy"
        if not (policy / PROVENANCE).is_file():
            save_untrained(
                self.data,
                out=policy,
                policy=recipe.family,
                policy_config=recipe.policy,
                seed=recipe.training.seed,
            )
        evaluation = evaluate_recipe(
            recipe,
            policy,
            place / "evaluation",
            workers=self.workers,
            tell=named(self.tell, f"{arm.name}, untrained"),
            probes=(),
            videos=0,
            timed=FEW_CALLS,
        )
        write_report(place, evaluation, command=self.command, seed=recipe.training.seed)

    def report(self, diverged: Mapping[str, str]) -> dict[str, Any]:
        """Write report.json, report.html and table.md from what is finished, and give the first."""
        data = {
            "key": self.key,
            "hash": self.reader.hash,
            "demonstrations": len(self.reader.episodes),
            "ticks": len(self.reader),
        }
        told = gather(self.folder, data=data, diverged=diverged, command=self.command, films=FILMS)
        return write_comparison(self.folder, told)


def _films(arm: Arm) -> int:
    """First scenes to film; none where nothing is to be filmed."""
    return FILMS if arm.recipe.evaluation.videos else 0


def _merge(path: Path, section: str, report: Mapping[str, Any], arm: Arm, command: str) -> None:
    """Put one finished arm into the file of results."""
    training = arm.recipe.training
    entry = family_entry(
        report["arms"][arm.name],
        task=report["task"],
        seed=training.seed,
        batch_size=training.batch_size,
        command=command,
    )
    merge_families(path, {arm.name: entry}, section=section)
