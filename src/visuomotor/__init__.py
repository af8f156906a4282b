"""Vision-language-action robot policies: from demonstrations to a policy whose success is measured.

    import visuomotor as vm

    report = vm.demo("outputs/demo")               # collect, train, evaluate, report
    agent = vm.load_agent("outputs/demo/policy")   # raw observation -> chunk of actions

Every name below is imported when it is first used; `import visuomotor` alone loads neither torch nor MuJoCo.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from visuomotor.agent import Agent, load_agent
    from visuomotor.data.recorder import Recorder
    from visuomotor.envs.base import Env
    from visuomotor.errors import CheckpointError, DataError, VisuomotorError
    from visuomotor.evaluation.comparison import compare
    from visuomotor.evaluation.runner import evaluate
    from visuomotor.experts.base import Expert
    from visuomotor.experts.collect import collect
    from visuomotor.policies.base import Policy
    from visuomotor.recipes import Recipe, get_recipe
    from visuomotor.registry import lookup, names
    from visuomotor.session import Session
    from visuomotor.study import compare_arms, demo
    from visuomotor.training.run import train_from_folder as train
    from visuomotor.transforms.base import Pipeline
    from visuomotor.types import Batch, Chunk, Observation, Sample, Spec, Stats, Window

_HOME = {
    "Agent": "visuomotor.agent:Agent",
    "Batch": "visuomotor.types:Batch",
    "CheckpointError": "visuomotor.errors:CheckpointError",
    "Chunk": "visuomotor.types:Chunk",
    "DataError": "visuomotor.errors:DataError",
    "Env": "visuomotor.envs.base:Env",
    "Expert": "visuomotor.experts.base:Expert",
    "Observation": "visuomotor.types:Observation",
    "Pipeline": "visuomotor.transforms.base:Pipeline",
    "Policy": "visuomotor.policies.base:Policy",
    "Recipe": "visuomotor.recipes:Recipe",
    "Recorder": "visuomotor.data.recorder:Recorder",
    "Sample": "visuomotor.types:Sample",
    "Session": "visuomotor.session:Session",
    "Spec": "visuomotor.types:Spec",
    "Stats": "visuomotor.types:Stats",
    "VisuomotorError": "visuomotor.errors:VisuomotorError",
    "Window": "visuomotor.types:Window",
    "collect": "visuomotor.experts.collect:collect",
    "compare": "visuomotor.evaluation.comparison:compare",
    "compare_arms": "visuomotor.study:compare_arms",
    "demo": "visuomotor.study:demo",
    "evaluate": "visuomotor.evaluation.runner:evaluate",
    "get_recipe": "visuomotor.recipes:get_recipe",
    "load_agent": "visuomotor.agent:load_agent",
    "lookup": "visuomotor.registry:lookup",
    "names": "visuomotor.registry:names",
    "train": "visuomotor.training.run:train_from_folder",
}
"""Public name -> where it is defined."""

__all__ = [
    "Agent",
    "Batch",
    "CheckpointError",
    "Chunk",
    "DataError",
    "Env",
    "Expert",
    "Observation",
    "Pipeline",
    "Policy",
    "Recipe",
    "Recorder",
    "Sample",
    "Session",
    "Spec",
    "Stats",
    "VisuomotorError",
    "Window",
    "__version__",
    "collect",
    "compare",
    "compare_arms",
    "demo",
    "evaluate",
    "get_recipe",
    "load_agent",
    "lookup",
    "names",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from visuomotor.errors import unknown_name

        raise AttributeError(f"module 'visuomotor': {unknown_name('name', name, _HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
