"""Recipes: functions that return everything a study needs, from demonstrations to evaluation.

A variant is a `replace` of one of them, or options on the command line such as `--training.steps 500`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from visuomotor.evaluation.setup import Acting
from visuomotor.experts.disturbance import Noise
from visuomotor.perception.language import LanguageConfig
from visuomotor.perception.sight import SightConfig
from visuomotor.perception.trunk import SightTrunkConfig
from visuomotor.policies.act import ACTConfig
from visuomotor.policies.bc import BCConfig
from visuomotor.policies.compact import CompactConfig
from visuomotor.policies.diffusion import DiffusionConfig
from visuomotor.policies.pi0 import PI0Config
from visuomotor.policies.pi0_fast import PI0FASTConfig
from visuomotor.policies.pi05 import PI05Config
from visuomotor.registry import lookup
from visuomotor.training.loop import TrainConfig

__all__ = [
    "CollectConfig",
    "EvaluateConfig",
    "Recipe",
    "demo",
    "demo_act",
    "demo_bc_l1",
    "demo_bc_mixture",
    "demo_bc_mse",
    "demo_diffusion_transformer",
    "demo_diffusion_unet",
    "demo_tiny",
    "get_recipe",
    "lift",
    "post_train",
    "post_train_pi05",
    "pretrain_pi05",
    "tabletop_all",
    "tabletop_all_act",
    "tabletop_all_bc_mixture",
    "two_stage_pi05",
    "two_stage_pi05_insulated",
    "two_stage_pi05_insulated_subtask",
    "two_stage_pi05_subtask",
]


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Which demonstrations to collect."""

    env: str = "tabletop"
    """Environment; its expert demonstrates."""
    task: str = "put_in"
    """Task of every demonstration, or suite whose tasks take turns."""
    embodiment: str | None = None
    """Robot body; the environment's own if none."""
    world: str | None = None
    """World, such as "randomized"; the environment's own if none."""
    episodes: int = 500
    """Demonstrations to keep; failed ones are dropped and counted."""
    phrasings: int = 4
    """Wordings that one demonstration is labeled with."""
    seed: int = 0
    """Which million of scene seeds; also decides the noise."""
    control: str | None = None
    """How actions move the robot; the environment's default if none."""
    cameras: Mapping[str, int] | None = None
    """Views and their size in pixels; the environment's own if none."""
    noise: Noise = field(default_factory=Noise)
    """How executed actions differ from the expert's."""
    options: Mapping[str, bool] | None = None
    """Yes-or-no options of every reset, such as `rival`; drawn for each scene if none."""

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of the environment that differ from its defaults, but for task and control."""
        cameras = None if self.cameras is None else dict(self.cameras)
        given = {"embodiment": self.embodiment, "world": self.world, "cameras": cameras}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How to measure the policy."""

    episodes: int = 100
    """Unseen scenes that count for the success rate."""
    probes: tuple[str, ...] = ("swap", "phrasing", "words", "blank")
    """Questions beyond success; see `visuomotor evaluate --help`."""
    probe_episodes: int = 50
    """Scenes of each probe."""
    seed_offset: int = 0
    """Which scenes; others for other offsets."""
    executor: str = "receding_horizon"
    """How chunks become one action for each tick."""
    execute: int | None = None
    """Actions run before re-planning; the executor's default if none."""
    latency: float | str = 0.0
    """Simulated inference delay in seconds, or a file of measured ones (latency.json of an evaluation)."""
    acting: Acting = field(default_factory=Acting)
    """Options of the executor, rate of the slow part, safety limits."""
    videos: int = 2
    """Films of each outcome."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a study."""

    collect: CollectConfig = field(default_factory=CollectConfig)
    """Demonstrations."""
    family: str = "compact"
    """Policy family, or "package.module:Class"."""
    policy: Any = field(default_factory=CompactConfig)
    """Config of the family."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    """How to measure."""

    def __post_init__(self) -> None:
        expected = lookup("policy", self.family).Config
        if not isinstance(self.policy, expected):
            raise ValueError(
                f"recipe: family {self.family!r} needs a {expected.__name__}, "
                f"got a {type(self.policy).__name__}. Change family and policy together."
            )

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with other demonstrations, first weights and noise; evaluation scenes stay."""
        return replace(
            self,
            collect=replace(self.collect, seed=seed),
            training=replace(self.training, seed=seed),
        )


def demo() -> Recipe:
    """Put the named object in the named bowl: from nothing to a measured policy in minutes on two cores."""
    return Recipe(
        collect=CollectConfig(episodes=800, options={"rival": True}),  # in each scene words must be heard
        training=TrainConfig(
            steps=1500,
            batch_size=32,
            learning_rate=2e-3,
            kernel_rate=0.03,
            ema_decay=0.995,
            hold_out=10,
            precision="auto",
        ),
    )


def demo_tiny() -> Recipe:
    """The demo in seconds, to see that every part works; the policy learns next to nothing."""
    return Recipe(
        collect=CollectConfig(
            episodes=6, phrasings=2, cameras={"front": 32, "wrist": 32}, options={"rival": True}
        ),
        policy=replace(CompactConfig.tiny(), language=replace(LanguageConfig.tiny(), max_tokens=32)),
        training=TrainConfig(
            steps=30, batch_size=16, kernel_rate=0.03, warmup=5, log_every=5, save_every=15, hold_out=1
        ),
        evaluation=EvaluateConfig(episodes=4, probe_episodes=2, videos=1),
    )


def demo_act() -> Recipe:
    """The demo with ACT: equal demonstrations, observations and steps."""
    return replace(demo(), family="act", policy=ACTConfig.small())


def demo_bc_mse() -> Recipe:
    """The demo with behavior cloning by the squared error: equal demonstrations, observations and steps."""
    return replace(demo(), family="bc", policy=BCConfig.small(head="mse"))


def demo_bc_l1() -> Recipe:
    """The demo with behavior cloning by the absolute error: equal demonstrations, observations and steps."""
    return replace(demo(), family="bc", policy=BCConfig.small(head="l1"))


def demo_bc_mixture() -> Recipe:
    """The demo with behavior cloning by a mixture: equal demonstrations, observations and steps."""
    return replace(demo(), family="bc", policy=BCConfig.small())


def demo_diffusion_unet() -> Recipe:
    """The demo with Diffusion Policy, convolutional: equal demonstrations, observations and steps."""
    return replace(demo(), family="diffusion", policy=DiffusionConfig.small())


def demo_diffusion_transformer() -> Recipe:
    """The demo with Diffusion Policy, a transformer: equal demonstrations, observations and steps."""
    policy = replace(DiffusionConfig.small(), network="transformer")
    return replace(demo(), family="diffusion", policy=policy)


def demo_pi0() -> Recipe:
    """The demo with pi0: equal demonstrations, observations and steps."""
    return replace(demo(), family="pi0", policy=PI0Config.small())


def demo_pi0_smollm2() -> Recipe:
    """The demo with pi0 over SmolLM2's first two layers, frozen: equal demonstrations, pictures and steps.

    In float32: on CPUs without tiles for bfloat16 its wide matrices take 2.5 times as long in that.
    """
    training = replace(demo().training, freeze=("trunk.decoder",), precision="fp32")
    return replace(demo(), family="pi0", policy=PI0Config.smollm2(), training=training)


def demo_pi05() -> Recipe:
    """The demo with pi0.5: equal demonstrations, observations and steps."""
    return replace(demo(), family="pi05", policy=PI05Config.small())


def demo_pi0_fast() -> Recipe:
    """The demo with pi0-FAST: equal demonstrations, observations and steps."""
    return replace(demo(), family="pi0_fast", policy=PI0FASTConfig.small())


def two_stage_pi05() -> Recipe:
    """Two things into two bowls, one after the other, with pi0.5; the next recipes are held against it."""
    small = PI05Config.small()
    assert isinstance(small.trunk, SightTrunkConfig)
    trunk = replace(small.trunk, sight=replace(small.trunk.sight, parts=2), hears=True)
    return replace(
        demo(),
        collect=CollectConfig(task="put_two", episodes=800, options={"rival": True}),
        family="pi05",
        policy=replace(small, trunk=trunk),
        training=replace(demo().training, steps=3000),
    )


def two_stage_pi05_subtask() -> Recipe:
    """The same, and the policy writes what is to be done now before it acts."""
    recipe = two_stage_pi05()
    return replace(recipe, policy=replace(recipe.policy, subtasks=True))


def two_stage_pi05_insulated() -> Recipe:
    """The same, and the trunk learns from actions as tokens; the flow teaches the expert alone."""
    return _insulated(two_stage_pi05())


def two_stage_pi05_insulated_subtask() -> Recipe:
    """Both: subtasks are written, and the flow teaches the expert alone."""
    return _insulated(two_stage_pi05_subtask())


def _insulated(recipe: Recipe) -> Recipe:
    trunk = replace(recipe.policy.trunk, words=513)  # tokens of the codec, and one that begins a chunk
    return replace(recipe, policy=replace(recipe.policy, insulated=True, vocabulary=512, trunk=trunk))


def pretrain_pi05() -> Recipe:
    """pi0.5's first phase, of any number of bodies: actions as tokens, subtasks, answers, and no flow yet.

    Questions come with `--questions`; their answers are learned if there are any.

    Source: pi0.5 (Physical Intelligence 2025), section IV; there 280 thousand steps.
    """
    recipe = two_stage_pi05_insulated_subtask()
    language = LanguageConfig(max_tokens=64)  # the longest question of the table top has 35 words
    trunk = replace(recipe.policy.trunk, language=language)
    return replace(recipe, policy=replace(recipe.policy, weight=0.0, answers=True, trunk=trunk))


def post_train_pi05() -> Recipe:
    """Its second phase, with `--from` a checkpoint of the first: an expert learns the flow, of one body.

    Tokens and texts are learned on beside it. The flow weighs as much as they do, which suffices where its
    gradients stop before the trunk (Driess et al. 2025, section V).

    Source: as above; there 80 thousand steps, and a weight of 10.
    """
    recipe = pretrain_pi05()
    return replace(
        recipe,
        policy=replace(recipe.policy, weight=1.0),
        training=replace(recipe.training, steps=1000, learning_rate=1e-3, kernel_rate=0.003, warmup=100),
    )


def lift() -> Recipe:
    """Lift the named object: the demo with the easier task."""
    return replace(demo(), collect=CollectConfig(task="lift", episodes=300))


def tabletop_all() -> Recipe:
    """One policy for all tasks of the table top with one or two stages, within an hour on two cores."""
    return Recipe(
        collect=CollectConfig(task="all", episodes=3000, options={"rival": True}),
        policy=CompactConfig(sight=SightConfig(parts=3)),
        training=TrainConfig(
            steps=9000,
            batch_size=32,
            learning_rate=2e-3,
            kernel_rate=0.03,
            ema_decay=0.998,
            hold_out=24,
            precision="auto",
        ),
        evaluation=EvaluateConfig(episodes=600, probes=("swap", "phrasing", "words"), probe_episodes=120),
    )


def tabletop_all_act() -> Recipe:
    """All tasks with ACT: equal demonstrations, observations and steps."""
    small = ACTConfig.small()
    return replace(tabletop_all(), family="act", policy=replace(small, sight=replace(small.sight, parts=3)))


def tabletop_all_bc_mixture() -> Recipe:
    """All tasks with behavior cloning by a mixture: equal demonstrations, observations and steps."""
    small = BCConfig.small()
    return replace(tabletop_all(), family="bc", policy=replace(small, sight=replace(small.sight, parts=3)))


def post_train(family: str = "compact", policy: Any | None = None) -> Recipe:
    """Go on from a checkpoint: small steps, so that what is known is not forgotten; for any family.

    Args:
        family: Of the checkpoint.
        policy: Its config; the default one of the family if None.
    """
    return Recipe(
        family=family,
        policy=lookup("policy", family).Config() if policy is None else policy,
        training=TrainConfig(
            steps=1000, batch_size=32, learning_rate=2e-4, warmup=100, ema_decay=0.995, precision="auto"
        ),
    )


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; `ValueError` with the closest name if there is none."""
    recipe: Recipe = lookup("recipe", name)()
    return recipe
