from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from visuomotor.errors import DataError
from visuomotor.evaluation.setup import Acting
from visuomotor.perception.language import LanguageConfig
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.registry import lookup
from visuomotor.study.arms import Arm, budget_of, is_arm, read_arm, unequal_budgets


def write(path: Path, told: Any) -> str:
    path.write_text(json.dumps(told))
    return str(path)


def test_a_recipe_is_an_arm_under_its_own_name_or_another() -> None:
    assert read_arm("demo-tiny") == Arm(name="demo-tiny", recipe=get_recipe("demo-tiny"), source="demo-tiny")
    assert read_arm("small=demo-tiny").name == "small"
    assert read_arm("small=demo-tiny").recipe == get_recipe("demo-tiny")


def test_a_file_changes_fields_of_a_recipe(tmp_path: Path) -> None:
    told = {
        "recipe": "demo-tiny",
        "policy": {"steps": 3, "sight": {"width": 48}},
        "training": {"learning_rate": 1, "betas": [0.5, 0.9]},
        "evaluation": {"executor": "temporal_ensemble", "execute": 1},
    }
    arm = read_arm(write(tmp_path / "slow.json", told))
    tiny = get_recipe("demo-tiny")
    assert arm.name == "slow"
    assert arm.recipe == replace(
        tiny,
        policy=replace(tiny.policy, steps=3, sight=replace(tiny.policy.sight, width=48)),
        training=replace(tiny.training, learning_rate=1.0, betas=(0.5, 0.9)),
        evaluation=replace(tiny.evaluation, executor="temporal_ensemble", execute=1),
    )
    assert read_arm(f"other={tmp_path / 'slow.json'}").name == "other"


def test_how_an_arm_acts_decides_it() -> None:
    tiny = get_recipe("demo-tiny")
    acting = Acting(options={"order": "newest_first"}, think_every=4)
    other = replace(tiny, evaluation=replace(tiny.evaluation, executor="temporal_ensemble", acting=acting))
    usual = {"executor": "receding_horizon", "execute": None}
    assert Arm(name="a", recipe=tiny).to_json()["acts"] == usual
    assert Arm(name="b", recipe=other).to_json()["acts"] == {
        **usual,
        "executor": "temporal_ensemble",
        "options": {"order": "newest_first"},
        "think_every": 4,
    }


def test_another_family_begins_from_its_own_defaults(tmp_path: Path) -> None:
    told = {"recipe": "demo-tiny", "family": "tiny_policy:TinyPolicy", "policy": {"width": 5}}
    recipe = read_arm(write(tmp_path / "arm.json", told)).recipe
    assert (recipe.family, recipe.policy.width, recipe.policy.horizon) == ("tiny_policy:TinyPolicy", 5, 4)
    assert recipe.training == get_recipe("demo-tiny").training


def test_a_size_is_a_named_constructor_of_the_family(tmp_path: Path) -> None:
    recipe = read_arm(write(tmp_path / "arm.json", {"size": "tiny", "policy": {"steps": 7}})).recipe
    assert recipe.policy == replace(lookup("policy", "compact").Config.tiny(), steps=7)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"recipe": "dmo"}, "Did you mean 'demo'"),
        ({"polcy": {}}, "Did you mean 'policy'"),
        ({"policy": {"sight": {"widht": 3}}}, "policy.sight.*Did you mean 'width'"),
        ({"training": {"learning_rate": "fast"}}, "expected float"),
        ({"training": 3}, "expected an object with fields of TrainConfig"),
        ({"family": "copact"}, "Did you mean 'compact'"),
        ({"size": "tny"}, "Did you mean 'tiny'"),
    ],
)
def test_what_a_file_gets_wrong_is_answered_with_the_fix(
    tmp_path: Path, told: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_arm(write(tmp_path / "arm.json", told))


def test_an_arm_that_sees_or_hears_less_is_not_equally_placed() -> None:
    def unequal(*recipes: Recipe) -> list[str]:
        arms = [Arm(name=f"arm-{number}", recipe=recipe) for number, recipe in enumerate(recipes)]
        return unequal_budgets({arm.name: budget_of(arm.to_json(), (0,)) for arm in arms})

    whole, pi0 = get_recipe("demo-bc-mse"), get_recipe("demo-pi0")
    assert unequal(whole, pi0, get_recipe("demo-act"), get_recipe("demo")) == []
    deaf = replace(whole, policy=replace(whole.policy, language=LanguageConfig.none()))
    blind = replace(whole, policy=replace(whole.policy, vision="none"))
    trunk = replace(pi0.policy.trunk, language=LanguageConfig.none())
    deaf_pi0 = replace(pi0, policy=replace(pi0.policy, trunk=trunk))
    assert unequal(whole, deaf, blind, deaf_pi0) == [
        "arm-1: observed: 'pictures, state, words' for arm-0, 'pictures, state' for arm-1",
        "arm-2: observed: 'pictures, state, words' for arm-0, 'state, words' for arm-2",
        "arm-3: observed: 'pictures, state, words' for arm-0, 'pictures, state' for arm-3",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read_arm("nowhere.json")
    with pytest.raises(DataError, match="expected an object"):
        read_arm(write(tmp_path / "list.json", [1]))


def test_a_name_must_be_good_for_a_folder() -> None:
    with pytest.raises(ValueError, match="it names a folder"):
        read_arm("../x=demo")


def test_words_of_the_command_line_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    assert [is_arm(word) for word in ("demo", "a=demo", "arm.json", "a=arm.json")] == [True] * 4
    assert not any(is_arm(word) for word in (str(folder), "./demo", "outputs/demo", "x/report.json"))
