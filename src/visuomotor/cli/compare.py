"""The command `compare`: arms on equal terms, or evaluations that were made before."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from visuomotor.cli.options import Report, Words, parse
from visuomotor.cli.show import Bars, table
from visuomotor.rollout import plain

if TYPE_CHECKING:
    from visuomotor.study import Arm

__all__ = ["compare"]


@dataclass(frozen=True, kw_only=True)
class _Compare:
    """Options of `compare`."""

    what: Positional[tuple[str, ...]]
    """Arms: recipes, NAME=RECIPE, or NAME=FILE.json with overrides; or folders of evaluations."""
    out: Path = Path("outputs/compare")
    """Folder of the comparison; one that was stopped goes on, and new arms join those that are there."""
    data: Path | None = None
    """Data set that all arms learn from; what the recipes collect if none."""
    seed: int | None = None
    """Of every arm: other demonstrations, first weights and noise; evaluation scenes stay."""
    demonstrations: int | None = None
    """Demonstrations to collect; as the recipes say if none."""
    steps: int | None = None
    """Optimizer steps of every arm; as the recipes say if none."""
    batch_size: int | None = None
    """Samples a step of every arm; as the recipes say if none."""
    episodes: int | None = None
    """Unseen scenes that every arm plays; as the recipes say if none."""
    probe_episodes: int | None = None
    """Scenes of each probe; as the recipes say if none."""
    seed_offset: int | None = None
    """Which scenes; as the recipes say if none."""
    unequal: str = ""
    """Why budgets or observations of the arms may differ; without a reason that is refused."""
    untrained: bool = True
    """Whether each policy also plays with its first weights."""
    merge: Path | None = None
    """JSON file of results that each finished arm is put into, such as docs/results/families.json."""
    section: str = "policies"
    """Key in that file."""
    device: str = "cpu"
    """Where to train, such as "cuda"."""
    workers: int | None = None
    """Processes that demonstrate and evaluate; one for each core if none."""


def compare(words: Words, prog: str) -> Report:
    """Arms on equal terms, or evaluations that were made before."""
    from visuomotor.study.arms import is_arm

    args = parse(_Compare, words, prog, _Compare(what=()))
    arms = [word for word in args.what if is_arm(word)]
    if arms and len(arms) < len(args.what):
        folders = [word for word in args.what if word not in arms]
        raise ValueError(
            f"compare: expected arms or folders of evaluations, got both: {', '.join(arms)} and "
            f"{', '.join(folders)}. `visuomotor recipes` lists what can be an arm."
        )
    if arms:
        return _compare_arms(args, shlex.join([*prog.split(), *words]))
    return _compare_evaluations(args.what)


def _compare_arms(args: _Compare, command: str) -> Report:
    """Train, evaluate, report."""
    from visuomotor.evaluation.comparison_table import difference_rows, table_rows
    from visuomotor.study import compare_arms, read_arm

    with Bars() as bars:
        result = compare_arms(
            args.out,
            [_adjusted(read_arm(word), args) for word in args.what],
            data=args.data,
            unequal=args.unequal,
            untrained=args.untrained,
            merge=args.merge,
            section=args.section,
            device=args.device,
            workers=args.workers,
            tell=bars,
            command=command,
        )
    if not result.worked:
        print(f"{result.folder} holds these arms, finished; nothing was trained or played.")
    table(table_rows(result.report))
    if result.report["differences"]:
        print()
        table(difference_rows(result.report["differences"]))
    print(f"report: {result.page}")
    return dict(result.report)


def _adjusted(arm: Arm, args: _Compare) -> Arm:
    """An arm with what the options say for all of them."""
    recipe = arm.recipe if args.seed is None else arm.recipe.with_seed(args.seed)
    training = {"steps": args.steps, "batch_size": args.batch_size}
    evaluation = {
        "episodes": args.episodes,
        "probe_episodes": args.probe_episodes,
        "seed_offset": args.seed_offset,
    }
    recipe = replace(
        recipe,
        collect=replace(recipe.collect, **_told({"episodes": args.demonstrations})),
        training=replace(recipe.training, **_told(training)),
        evaluation=replace(recipe.evaluation, **_told(evaluation)),
    )
    return replace(arm, recipe=recipe)


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _compare_evaluations(folders: tuple[str, ...]) -> Report:
    """Two evaluations with every count, or the pairs of more."""
    from visuomotor.errors import unknown_name
    from visuomotor.evaluation import comparison
    from visuomotor.evaluation.comparison_table import difference_rows
    from visuomotor.registry import names

    if len(folders) < 2:
        raise ValueError(
            "expected two arms or evaluations or more: visuomotor compare RECIPE RECIPE ... --out OUT, or "
            f"visuomotor compare FOLDER FOLDER; got {' '.join(folders) or 'none'}."
        )
    for folder in folders:
        if not Path(folder).exists():
            raise unknown_name("recipe (and no such folder)", folder, names("recipe"))
    if len(folders) == 2:
        report = plain(comparison.compare(*folders).to_json())
        table([(key, str(value)) for key, value in report.items()])
        return report
    pairs = comparison.compare_all({folder: folder for folder in folders})
    table(difference_rows(pairs))
    return plain({"differences": pairs})
