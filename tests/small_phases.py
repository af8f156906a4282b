"""The two phases of pi0.5 as recipes that take seconds."""

from __future__ import annotations

from dataclasses import replace

from visuomotor.perception.trunk import SightTrunkConfig
from visuomotor.recipes import Recipe, get_recipe


def pretrain() -> Recipe:
    return _small("pretrain-pi05")


def post_train() -> Recipe:
    return _small("post-train-pi05")


def _small(name: str) -> Recipe:
    """The recipe with tiny sizes and a few steps."""
    recipe = get_recipe(name)
    trunk = replace(SightTrunkConfig.tiny(), bins=256, hears=True, words=recipe.policy.vocabulary + 1)
    policy = replace(
        recipe.policy, horizon=4, trunk=trunk, expert_width=24, expert_mlp_width=48, draws=2, steps=2
    )
    training = replace(
        recipe.training, steps=4, batch_size=8, warmup=1, log_every=1, hold_out=1, precision="fp32"
    )
    return replace(recipe, policy=policy, training=training)
