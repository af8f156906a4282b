"""The commands: parse, call the public function, print. Each returns its report for `--json`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from visuomotor import registry
from visuomotor.cli.compare import compare
from visuomotor.cli.data import data_check, data_convert, data_info, data_repair, data_spec, data_view
from visuomotor.cli.options import Report, Words, chosen_recipe, parse, save_report
from visuomotor.cli.show import Bars, rate, table
from visuomotor.cli.train import dagger, merge, train
from visuomotor.recipes import CollectConfig, EvaluateConfig, Recipe, get_recipe

__all__ = [
    "collect",
    "compare",
    "dagger",
    "data_check",
    "data_convert",
    "data_info",
    "data_repair",
    "data_spec",
    "data_view",
    "demo",
    "doctor",
    "envs",
    "evaluate",
    "merge",
    "models",
    "policies",
    "recipes",
    "train",
]

Text = Literal["minilm", "scratch"]


@dataclass(frozen=True, kw_only=True)
class _Demo:
    """Options of `demo`."""

    out: Path = Path("outputs/demo")
    """Folder of the study; one that was stopped goes on."""
    recipe: str = "demo"
    """Where the numbers below come from; `visuomotor recipes` lists them."""
    tiny: bool = False
    """The recipe demo-tiny: every part in seconds, a policy that learned next to nothing."""
    seed: int | None = None
    """Other demonstrations, first weights and noise; evaluation scenes stay."""
    text: Text | None = None
    """How sentences are read: frozen MiniLM states, or words learned from scratch."""
    episodes: int | None = None
    """Demonstrations; short for --collect.episodes."""
    steps: int | None = None
    """Optimizer steps; short for --training.steps."""
    workers: int | None = None
    """Processes that demonstrate and evaluate; one for each core if none."""
    study: Annotated[Recipe, arg(name="")]


def demo(words: Words, prog: str) -> Report:
    """Demonstrations, policy, measured success, report."""
    from visuomotor import study

    name = chosen_recipe(words, "demo")
    args = parse(_Demo, words, prog, _Demo(recipe=name, study=get_recipe(name)))
    recipe = args.study
    if args.seed is not None:
        recipe = recipe.with_seed(args.seed)
    if args.text is not None:
        language = replace(recipe.policy.language, reader=args.text)
        recipe = replace(recipe, policy=replace(recipe.policy, language=language))
    if args.episodes is not None:
        recipe = replace(recipe, collect=replace(recipe.collect, episodes=args.episodes))
    if args.steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=args.steps))
    with Bars() as bars:
        result = study.demo(
            args.out,
            recipe=recipe,
            workers=args.workers,
            tell=bars,
            command=shlex.join([*prog.split(), *words]),
        )
    if result.finished_before:
        print(f"{result.folder} holds this study, finished; nothing was done. Delete it to begin anew.")
    _print_success(result.report)
    print(f"report: {result.page}")
    print(f"other scenes: visuomotor evaluate {result.folder / 'policy'} --out OUT --seed-offset 5000")
    return dict(result.report)


def _print_success(report: Any) -> None:
    """The headline and the probes."""
    print(f"success {rate(report['success'])}")
    print(f"wrong object {report['wrong_object']}, wrong place {report['wrong_place']}")
    rows = [(f"probe {name}", rate(result)) for name, result in report["probes"].items()]
    table(rows)


# --- collect


@dataclass(frozen=True, kw_only=True)
class _Collect:
    """Options of `collect`."""

    out: Path = Path("outputs/demonstrations")
    """Folder of the data set; a collection that was stopped goes on."""
    workers: int | None = None
    """Processes; one for each core if none."""
    seed_offset: int = 0
    """Added to the seed of every scene, for fresh ones."""
    annotate: str | None = None
    """What tells texts of each tick, kept as columns: "tabletop" (questions with answers, boxes)."""
    what: Annotated[CollectConfig, arg(name="")] = CollectConfig()  # noqa: RUF009  (it is frozen)


def collect(words: Words, prog: str) -> Report:
    """Demonstrations of an expert."""
    from visuomotor.experts import collect as library

    args = parse(_Collect, words, prog)
    what = args.what
    with Bars() as bars:
        report = library.collect(
            args.out,
            env=what.env,
            task=what.task,
            episodes=what.episodes,
            seed=what.seed,
            seed_offset=args.seed_offset,
            phrasings=what.phrasings,
            noise=what.noise,
            control=what.control,
            env_options=what.env_options,
            options=what.options,
            annotate=args.annotate,
            workers=args.workers,
            progress=lambda kept, episodes: bars("collect demonstrations", kept, episodes),
        )
    print(f"{report.kept} demonstrations in {report.folder}; {report.dropped} failed and were dropped")
    return save_report(args.out, report.to_json())


def _short(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


# --- evaluate


@dataclass(frozen=True, kw_only=True)
class _Evaluate:
    """Options of `evaluate`."""

    agent: Positional[str]
    """A checkpoint or the folder of a run, "expert", "random", or "package.module:factory"."""
    out: Path = Path("outputs/evaluate")
    """Folder for episodes, videos and report; an evaluation that was stopped goes on."""
    env: str | None = None
    """Environment; what the checkpoint was trained for if none."""
    task: str | None = None
    """Task or suite; what the checkpoint was trained for if none."""
    embodiment: str | None = None
    """Robot body; the one of the checkpoint if none."""
    world: str | None = None
    """World, such as "shifted"; the one of the checkpoint if none."""
    split: str | None = None
    """Kind of scenes and sentences, such as "pairs"; those of training if none."""
    weights: Literal["ema", "model"] = "ema"
    """The moving average of the weights, or the weights as trained."""
    key: str | None = None
    """Of a checkpoint trained on several data sets: which one's body and world it is for."""
    workers: int | None = None
    """Processes; one for each core if none."""
    how: Annotated[EvaluateConfig, arg(name="")] = EvaluateConfig()  # noqa: RUF009  (it is frozen)


def evaluate(words: Words, prog: str) -> Report:
    """Success in unseen scenes."""
    from visuomotor.evaluation import runner
    from visuomotor.evaluation.report import write_report
    from visuomotor.study.parts import evaluation_progress

    args = parse(_Evaluate, words, prog)
    how = args.how
    place = {"task": args.task, "embodiment": args.embodiment, "world": args.world}
    with Bars() as bars:
        try:
            evaluation = runner.evaluate(
                args.agent,
                env=args.env,
                env_options={name: value for name, value in place.items() if value is not None},
                options=None if args.split is None else {"split": args.split},
                episodes=how.episodes,
                probes=how.probes,
                probe_episodes=how.probe_episodes,
                seed_offset=how.seed_offset,
                executor=how.executor,
                execute=how.execute,
                latency=how.latency,
                acting=how.acting,
                weights=args.weights,
                key=args.key,
                workers=args.workers,
                out=args.out,
                videos=how.videos,
                progress=evaluation_progress(bars),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; finished episodes are saved in {args.out}.") from None
    report = write_report(args.out, evaluation, command=shlex.join([*prog.split(), *words]))
    _print_success(report)
    print(f"report: {args.out / 'report.html'}")
    return dict(report)


# --- lists, doctor


@dataclass(frozen=True, kw_only=True)
class _Nothing:
    """No options."""


def _list(kind: str, words: Words, prog: str) -> Report:
    """Names of registered parts with the first line of their docstrings."""
    parse(_Nothing, words, prog)
    found = {name: _first_line(registry.lookup(kind, name)) for name in registry.names(kind)}
    table(list(found.items()))
    return {kind: found}


def _first_line(part: Any) -> str:
    return (part.__doc__ or "").strip().partition("\n")[0]


def policies(words: Words, prog: str) -> Report:
    """Policy families: paper, sizes with their numbers of weights, and published weights that they load."""
    from visuomotor.study.families import describe_families

    parse(_Nothing, words, prog)
    found = describe_families()
    for name, family in found.items():
        print(f"{name}: {family['what']}\n  {family['paper']}")
        rows = [["", size, f"{told['parameters']:,}"] for size, told in family["sizes"].items()]
        table([*rows, *(["", "loads", weights] for weights in family["weights"])])
    return {"policy": found}


def models(words: Words, prog: str) -> Report:
    """Published models that can be loaded, and which of them are at hand."""
    from visuomotor.backbones.catalog import catalog

    parse(_Nothing, words, prog)
    found = catalog()
    table(
        [
            ("", "turns", "parameters", "GB (bf16)", "license", "at hand, or what it needs"),
            *(
                (
                    name,
                    entry["kind"],
                    f"{entry['parameters']:,}",
                    f"{entry['gigabytes']:.2f}",
                    entry["license"],
                    entry["needs"] if entry["here"] is None else "at hand",
                )
                for name, entry in found.items()
            ),
        ]
    )
    return {"model": found}


def envs(words: Words, prog: str) -> Report:
    """Environments, with the tasks, suites, bodies and worlds of those that tell them."""
    parse(_Nothing, words, prog)
    report: dict[str, Report] = {}
    for name in registry.names("env"):
        part = registry.lookup("env", name)
        report[name] = {"what": _first_line(part), **(part.catalog() if hasattr(part, "catalog") else {})}
        print(f"{name}: {report[name]['what']}")
        for title, entries in report[name].items():
            if isinstance(entries, dict):
                print(f"\n{title}")
                table(_entries(entries))
    return {"env": report}


def _entries(entries: Report) -> list[list[str]]:
    """A line for each entry; entries of several values get a column each, with a line of titles."""
    if not any(isinstance(entry, dict) for entry in entries.values()):
        return [["", name, _short(entry)] for name, entry in entries.items()]
    titles = list(next(iter(entries.values())))
    lines = [["", name, *(_short(entry[title]) for title in titles)] for name, entry in entries.items()]
    return [["", "", *titles], *lines]


def recipes(words: Words, prog: str) -> Report:
    """Recipes."""
    return _list("recipe", words, prog)


@dataclass(frozen=True, kw_only=True)
class _Doctor:
    """Options of `doctor`."""

    checkpoint: Positional[Path | None] = None
    """Also verify this checkpoint: every hash, and its golden answers."""


def doctor(words: Words, prog: str) -> Report:
    """The state of this machine, or of a checkpoint."""
    from visuomotor.doctor import examine

    args = parse(_Doctor, words, prog)
    findings = examine(args.checkpoint)
    table([("ok" if finding.fine else "!!", finding.what, finding.found) for finding in findings])
    for finding in findings:
        if finding.advice:
            print(f"{finding.what}: {finding.advice}")
    return {
        "fine": all(finding.fine for finding in findings),
        "findings": [vars(finding) for finding in findings],
    }
