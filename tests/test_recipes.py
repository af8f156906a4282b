from __future__ import annotations

import json

import pytest

from visuomotor.agent.config import from_plain, to_plain
from visuomotor.evaluation.probes import PROBES
from visuomotor.recipes import Recipe, get_recipe
from visuomotor.registry import lookup, names
from visuomotor.training.loop import TrainConfig


@pytest.mark.parametrize("name", names("recipe"))
def test_every_recipe_is_complete_and_fits_its_family(name: str) -> None:
    recipe = get_recipe(name)
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe.policy, lookup("policy", recipe.family).Config)
    assert recipe.training.hold_out < recipe.collect.episodes
    assert set(recipe.evaluation.probes) <= set(PROBES)
    assert recipe.evaluation.probe_episodes <= recipe.evaluation.episodes


@pytest.mark.parametrize("name", names("recipe"))
def test_a_recipe_survives_json(name: str) -> None:
    recipe = get_recipe(name)
    plain = json.loads(json.dumps(to_plain(recipe)))
    policy = from_plain(lookup("policy", recipe.family).Config, plain["policy"], "policy")
    assert from_plain(Recipe, {**plain, "policy": policy}, "recipe") == recipe


def test_another_seed_changes_data_and_weights_but_not_the_exam() -> None:
    recipe = get_recipe("demo").with_seed(7)
    assert (recipe.collect.seed, recipe.training.seed) == (7, 7)
    assert recipe.evaluation == get_recipe("demo").evaluation


def test_a_family_with_the_config_of_another_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a CompactConfig, got a TrainConfig"):
        Recipe(policy=TrainConfig())


def test_an_unknown_recipe_is_answered_with_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'lift'"):
        get_recipe("lfit")
