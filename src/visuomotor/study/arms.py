"""What takes part in a comparison: an arm is a name for a recipe, and all arms must be equally placed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visuomotor.agent.config import differences, from_plain, to_plain
from visuomotor.errors import DataError, unknown_name
from visuomotor.evaluation.setup import Acting
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.registry import lookup, names

__all__ = ["Arm", "budget_of", "check_exam", "exam_of", "is_arm", "read_arm", "unequal_budgets"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS = ("recipe", "family", "size", "policy", "training", "evaluation")
_BUDGET = ("steps", "batch_size", "seed", "hold_out", "weights")
"""Fields of `TrainConfig` that say how much is learned from what."""
_EXAM = ("episodes", "probes", "probe_episodes", "seed_offset", "latency")
"""Fields of `EvaluateConfig` that say what is asked; how an arm acts (executor, acting) is its own."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of learning that is compared with others.

    Attributes:
        name: Of its folder, and of its line in every table.
        recipe: Family, config, training and how it acts; what is collected is common to all arms.
        source: Where it comes from, for a person: name of the recipe or of the file.
    """

    name: str
    recipe: Recipe
    source: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"arm {self.name!r}: expected letters, digits, '.', '_' and '-', for it names a folder. "
                "Write name=recipe."
            )

    def to_json(self) -> dict[str, Any]:
        """What decides the arm, without what all arms have in common: plain data.

        Of the options of acting only those that were chosen: a comparison of before they were kept goes on.
        """
        recipe, usual = to_plain(self.recipe), to_plain(Acting())
        acts = {key: recipe["evaluation"][key] for key in ("executor", "execute")}
        acting = recipe["evaluation"]["acting"]
        acts |= {key: acting[key] for key in acting if acting[key] != usual[key]}
        return {**{key: recipe[key] for key in ("family", "policy", "training")}, "acts": acts}


def is_arm(word: str) -> bool:
    """Whether a word of the command line names an arm rather than an evaluation.

    The name of a recipe does, and NAME=RECIPE, and a JSON file that is no report; anything else is the folder
    of an evaluation (write `./demo` for a folder that is called like a recipe).
    """
    path = Path(word)
    if word in names("recipe"):
        return True
    if path.suffix == ".json" and path.name != "report.json":
        return True
    return "=" in word and not path.exists()


def read_arm(word: str) -> Arm:
    """The arm that a word names: `RECIPE`, `FILE.json`, `NAME=RECIPE` or `NAME=FILE.json`.

    Such a file holds any of `recipe` (the name of the one that it begins from; "demo" if left out),
    `family`, `size` (a named size of the family's config, such as "small"), and `policy`, `training` and
    `evaluation`: objects with the fields that are other. With another `family` than that of the recipe and
    no `size`, `policy` begins from the defaults of its config.

    Raises:
        ValueError: Unknown names, with the closest one, or fields that do not exist.
        DataError: The file cannot be read.
    """
    name, equals, source = word.rpartition("=")
    if not source.endswith(".json"):
        return Arm(name=name if equals else source, recipe=get_recipe(source), source=source)
    path = Path(source)
    try:
        told = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected the JSON of an arm, got a problem with it: {error}.") from error
    if not isinstance(told, dict):
        raise DataError(f"{path}: expected an object with some of {', '.join(_KEYS)}, got {told!r:.60}.")
    return Arm(name=name if equals else path.stem, recipe=_override(told, str(path)), source=source)


def _override(told: Mapping[str, Any], where: str) -> Recipe:
    """A recipe with some fields changed."""
    for key in told:
        if key not in _KEYS:
            raise ValueError(f"{where}: {unknown_name('key', key, _KEYS)}")
    recipe = get_recipe(told.get("recipe", "demo"))
    family = told.get("family", recipe.family)
    config = lookup("policy", family).Config
    policy = recipe.policy if family == recipe.family else None
    if "size" in told:
        policy = _sized(config, told["size"], where)
    policy = config() if policy is None else policy
    return replace(
        recipe,
        family=family,
        policy=_changed(policy, told.get("policy", {}), f"{where}: policy"),
        training=_changed(recipe.training, told.get("training", {}), f"{where}: training"),
        evaluation=_changed(recipe.evaluation, told.get("evaluation", {}), f"{where}: evaluation"),
    )


def _sized(config: Any, size: Any, where: str) -> Any:
    """The config that the named constructor `size` makes."""
    sizes = [name for name, made in vars(config).items() if isinstance(made, classmethod) and name[0] != "_"]
    if size not in sizes:
        raise ValueError(f"{where}: {unknown_name(f'size of {config.__name__}', str(size), sizes)}")
    return getattr(config, size)()


def _changed(config: Any, told: Any, where: str) -> Any:
    """A config with the told fields over its own, checked as a checkpoint's is."""
    if not isinstance(told, Mapping):
        raise ValueError(f"{where}: expected an object with fields of {type(config).__name__}, got {told!r}.")
    return from_plain(type(config), _merged(to_plain(config), told), where)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of plain data, the second one over the first."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        found[key] = (
            _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return found


def check_exam(arms: Sequence[Arm], *, collected: bool) -> None:
    """Raise `ValueError` unless all arms have names of their own, one exam, and one set of demonstrations.

    Nothing excuses these: without them no episode has its pair.

    Args:
        arms: One or more.
        collected: The recipes say what is collected; else the data are given.
    """
    if not arms:
        raise ValueError("expected at least one arm to compare, such as the name of a recipe.")
    known: set[str] = set()
    for arm in arms:
        if arm.name in known:
            raise ValueError(f"two arms are called {arm.name!r}. Write other-name={arm.source or arm.name}.")
        known.add(arm.name)
    first = arms[0]
    for arm in arms[1:]:
        found = differences(exam_of(first), exam_of(arm), "evaluation")
        if collected:
            found += differences(to_plain(first.recipe.collect), to_plain(arm.recipe.collect), "collect")
        if found:
            raise ValueError(
                f"arms {first.name!r} (there) and {arm.name!r} (here) cannot be compared: "
                f"{'; '.join(found)}. "
                "Every arm learns from the same data and plays the same scenes: change the recipes, "
                "pass --data, or set the number for all arms (such as --episodes)."
            )


def unequal_budgets(budgets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In what the budgets or the observations of arms differ, in words, compared with the first arm.

    Args:
        budgets: Arm to what `budget_of` gives.
    """
    (first, ours), *rest = budgets.items()
    return [
        f"{name}: {line}".replace(" there,", f" for {first},").removesuffix(" here") + f" for {name}"
        for name, theirs in rest
        for line in differences(ours, theirs)
    ]


def budget_of(arm: Mapping[str, Any], history: Sequence[int]) -> dict[str, Any]:
    """Steps, samples, seed, held-out data and observations: of `Arm.to_json()`, and the window's history."""
    seen = {"history": list(history), "observed": _observed(arm["policy"])}
    return {**{key: arm["training"][key] for key in _BUDGET}, **seen}


def _observed(policy: Mapping[str, Any]) -> str:
    """What a policy with such a config observes; families name alike what leaves a part of it out.

    That is `vision="none"`, `LanguageConfig.none()` and `reads_state=False`, wherever they stand in it.
    """
    blind = "none" in _values(policy, "vision")
    deaf = any(
        isinstance(how, Mapping) and how.get("reader") == "none" for how in _values(policy, "language")
    )
    left_out = {"pictures": blind, "words": deaf, "state": False in _values(policy, "reads_state")}
    return ", ".join(part for part in ("pictures", "state", "words") if not left_out.get(part))


def _values(config: Mapping[str, Any], key: str) -> list[Any]:
    """Every value under a key in a tree of plain data."""
    found = [config[key]] if key in config else []
    return found + [
        one for inner in config.values() if isinstance(inner, Mapping) for one in _values(inner, key)
    ]


def exam_of(arm: Arm) -> dict[str, Any]:
    """Scenes, probes and delay: what every arm is asked."""
    return {key: value for key, value in to_plain(arm.recipe.evaluation).items() if key in _EXAM}
