"""The commands that train."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from visuomotor import registry
from visuomotor.cli.options import Report, Words, chosen_recipe, parse, save_report, word_after
from visuomotor.cli.show import Bars, rate, table
from visuomotor.recipes import CollectConfig, Recipe, get_recipe

if TYPE_CHECKING:
    from visuomotor.training.begin import Beginning

__all__ = ["dagger", "merge", "train"]


@dataclass(frozen=True, kw_only=True)
class _Train:
    """Options of `train`."""

    data: Positional[tuple[Path, ...]]
    """Folders of LeRobot data sets."""
    out: Path = Path("outputs/train")
    """Folder of the run; one that was stopped goes on."""
    recipe: str | None = None
    """Where policy and training below come from; `visuomotor recipes` lists them. "demo" if none, or with
    --from the policy of the checkpoint, trained in small steps."""
    begin: Annotated[Path | None, arg(name="from")] = None
    """Checkpoint of the same family, whose averaged weights are the first; config and bodies may differ."""
    fresh: tuple[str, ...] = ()
    """With --from: weights that begin anew, by name, such as "head" (all below it) or "*.norm"."""
    spec: tuple[str, ...] = ()
    """FILE, or NAME=FILE for each of several, that says what the numbers of foreign data sets mean."""
    questions: tuple[str, ...] = ()
    """Names of data sets whose questions are mixed in, as NAME/questions in --training.weights."""
    text_path: str | None = None
    """Folder or hub id of MiniLM's weights; the installed ones if none."""
    device: str = "cpu"
    """Where to compute, such as "cuda"."""
    frames: Literal["store", "raw", "jpeg", "videos"] = "store"
    """Pictures decoded once into a cache (JPEG where the disk is short, or as chosen), or from the videos."""
    workers: int = 0
    """Processes that prepare batches; they pay with --frames videos, on more cores than the network uses."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """Under torchrun: each process has all weights ("ddp", if none), or a share of each ("fsdp")."""
    shard: tuple[str, ...] = ()
    """With fsdp: modules whose weights are gathered and freed one after the other, such as "*.layers"."""
    policy: Any
    """Config of the recipe's policy family."""
    training: Any
    """How to train."""


def train(words: Words, prog: str) -> Report:
    """Learn from data sets."""
    from visuomotor.data.meaning import load_meanings
    from visuomotor.study.parts import training_progress
    from visuomotor.training.group import is_first
    from visuomotor.training.run import train_from_folder

    name, recipe = _recipe_to_train(words)
    default = _Train(data=(), recipe=name, policy=recipe.policy, training=recipe.training)
    args = parse(_Train, words, prog, default)
    if not args.data:
        raise ValueError("expected at least one data set: visuomotor train FOLDER ... --out OUT")
    meanings = load_meanings(args.spec, args.data)
    with Bars() if is_first() else nullcontext() as bars:
        report = train_from_folder(
            args.data,
            out=args.out,
            policy=recipe.family,
            policy_config=args.policy,
            config=args.training,
            specs={name: meaning.spec for name, meaning in meanings.items()},
            keys={name: meaning.keys for name, meaning in meanings.items()},
            questions=args.questions,
            text_path=args.text_path,
            device=args.device,
            frames=args.frames,
            workers=args.workers,
            begin=args.begin,
            fresh=args.fresh,
            parallel=args.parallel,
            shard=args.shard,
            begun=_tell_beginning if bars else None,
            progress=training_progress(bars) if bars else None,
            preparing=bars,
        )
    if not bars:  # the first of several processes speaks for all
        return report.to_json()
    print(f"{report.step} steps, {report.parameters:,} parameters, loss {report.loss}")
    print(f"checkpoint: {args.out}")
    return save_report(args.out, report.to_json())


def _recipe_to_train(words: Words) -> tuple[str | None, Recipe]:
    """Name of the recipe that the words ask for, if any, and where the defaults of `train` come from."""
    from visuomotor.agent.folder import policy_name, read_config
    from visuomotor.recipes import post_train

    name, begin = word_after(words, "--recipe"), word_after(words, "--from")
    if begin is None:
        return name, get_recipe(name or "demo")
    kind, config = read_config(begin)
    if name is None:
        return None, post_train(policy_name(kind), config)
    recipe = get_recipe(name)
    if registry.lookup("policy", recipe.family) is not kind:
        raise ValueError(
            f"recipe {name!r} trains the family {recipe.family!r}, but {begin} holds {policy_name(kind)!r}. "
            "Leave --recipe out, or choose one of the family."
        )
    return name, recipe


def _tell_beginning(beginning: Beginning) -> None:
    """What was taken from a checkpoint."""
    origin = beginning.origin
    print(f"from {origin['folder']}, step {origin['step']}: {len(beginning.taken)} weights taken")
    for title, names in (
        ("new weights", beginning.new),
        ("weights left behind", beginning.dropped),
        ("new bodies", beginning.bodies),
        ("changes", beginning.changes),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            print(f"{title}: {'; '.join(names[:10])}{more}")


# --- merge


@dataclass(frozen=True, kw_only=True)
class _Merge:
    """Options of `merge`."""

    checkpoint: Positional[Path]
    """A checkpoint with adapters, or the folder of a run that holds one."""
    out: Path = Path("outputs/merged")
    """Folder of the plain checkpoint."""


def merge(words: Words, prog: str) -> Report:
    """Adapters become part of the weights."""
    from visuomotor.agent.merge import merge_adapters

    args = parse(_Merge, words, prog)
    merged = merge_adapters(args.checkpoint, args.out)
    print(f"{len(merged.layers)} layers merged; golden answers differ by {merged.difference:.1e}")
    print(f"checkpoint: {args.out}")
    return merged.to_json()


# --- dagger


@dataclass(frozen=True, kw_only=True)
class _Dagger:
    """Options of `dagger`."""

    out: Path = Path("outputs/dagger")
    """Folder of the run; one that was stopped goes on."""
    recipe: str = "demo"
    """Where task, noise, policy and training below come from; `visuomotor recipes` lists them."""
    expert: str | None = None
    """Who knows what to do: "package.module:Class" of an expert or corrector; the env's own if none."""
    text_path: str | None = None
    """Folder or hub id of MiniLM's weights; the installed ones if none."""
    device: str = "cpu"
    """Where to train, such as "cuda"."""
    workers: int | None = None
    """Processes that play; one for each core if none, 0 for this one, as a person who corrects needs it."""
    rounds: Annotated[Any, arg(name="")]
    """Rounds, who acts in them, and how they are measured."""
    collect: CollectConfig
    """Task and world; `episodes` is not used, --demonstrations is."""
    policy: Any
    """Config of the recipe's policy family."""
    training: Any
    """How to train in each round."""


def dagger(words: Words, prog: str) -> Report:
    """Learn from states that the learner meets itself."""
    from visuomotor.experts.collect import Collection
    from visuomotor.training import dagger as library

    name = chosen_recipe(words, "demo")
    recipe = get_recipe(name)
    default = _Dagger(
        recipe=name,
        rounds=library.DaggerConfig(),
        collect=recipe.collect,
        policy=recipe.policy,
        training=recipe.training,
    )
    args = parse(_Dagger, words, prog, default)
    what = args.collect
    job = Collection(
        env=what.env,
        task=what.task,
        expert=args.expert or what.env,
        control=what.control,
        env_options=what.env_options,
        options=dict(what.options or {}),
        seed=what.seed,
        phrasings=what.phrasings,
        noise=what.noise,
    )
    with Bars() as bars:
        report = library.dagger(
            args.out,
            job=job,
            policy=recipe.family,
            policy_config=args.policy,
            training=args.training,
            config=args.rounds,
            text_path=args.text_path,
            device=args.device,
            workers=args.workers,
            tell=bars,
        )
    table(
        [
            (f"round {one.round}", f"{one.episodes} episodes", f"success {rate(one.success)}")
            for one in report.rounds
        ]
    )
    print(f"best of them, in scenes that chose it: round {report.best.round}, {report.policy}")
    print(f"in other scenes: visuomotor evaluate {report.policy} --out OUT")
    return report.to_json()
