"""Who plays where, as plain data that every worker process turns into an agent and an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from visuomotor.agent.base import Agent, RandomAgent, ScriptedAgent
from visuomotor.executors import Latency, SafetyFilter, SafetyLimits, make_executor
from visuomotor.registry import lookup, names
from visuomotor.session import Session
from visuomotor.types import Spec

__all__ = ["BASELINES", "Acting", "Setup", "Station", "is_folder", "make_agent"]

BASELINES = ("expert", "random")
"""Agents that need no checkpoint: the scripted expert of the environment, and chance."""


@dataclass(frozen=True)
class Station:
    """A place where episodes are played: an environment, and a session with its agent."""

    env: Any
    session: Session

    def close(self) -> None:
        """Free the environment."""
        self.env.close()


@dataclass(frozen=True, kw_only=True)
class Acting:
    """How an agent acts, beyond its executor."""

    options: Mapping[str, float | str] = field(default_factory=dict)
    """Further options of the executor, such as `order newest_first` or `overlap average`."""
    think_every: int = 1
    """Least number of ticks between two calls of a policy's slow part."""
    think_latency: float = 0.0
    """Simulated delay of the slow part in seconds."""
    safety: str | None = None
    """File with limits of every command; `spec` for those of the body alone; no filter if none."""

    def filter(self, spec: Spec) -> SafetyFilter | None:
        """The safety filter that `safety` names, for a body."""
        if self.safety is None:
            return None
        return SafetyFilter(spec, None if self.safety == "spec" else SafetyLimits.load(self.safety))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Who plays where, and how.

    Attributes:
        agent: A checkpoint folder, "expert", "random", or "package.module:factory", which is called
            with the environment and returns an agent.
        env: Registered name of an environment or "package.module:Class".
        env_options: Arguments of its constructor.
        executor: Registered name of an executor.
        execute: Actions run before re-planning; None for the executor's default.
        latency: Simulated inference delay in seconds, or the content of a file of measured ones.
        acting: Whatever else decides how the agent acts.
        weights: Of a checkpoint: the moving average or the weights as trained.
        key: Of a checkpoint: the data set whose body and statistics it acts with; None if there is only one.
    """

    agent: str
    env: str = "tabletop"
    env_options: Mapping[str, Any] = field(default_factory=dict)
    executor: str = "receding_horizon"
    execute: int | None = None
    latency: float | Mapping[str, Any] = 0.0
    acting: Acting = field(default_factory=Acting)
    weights: Literal["ema", "model"] = "ema"
    key: str | None = None

    def build(self) -> Station:
        """Make the environment and load the agent."""
        env = lookup("env", self.env)(**self.env_options)
        agent = make_agent(self.agent, env, env_name=self.env, weights=self.weights, key=self.key)
        return Station(env, self.session(agent))

    def session(self, agent: Agent) -> Session:
        """A fresh session of `agent` that acts like this."""
        acting = self.acting
        executor = make_executor(
            self.executor, horizon=agent.window.horizon, execute=self.execute, options=acting.options
        )
        return Session(
            agent,
            executor,
            latency=Latency.of(self.latency),
            think_every=acting.think_every,
            think_latency=acting.think_latency,
            safety=acting.filter(agent.spec),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)


def is_folder(agent: str) -> bool:
    """Whether `agent` names a folder rather than a baseline or a factory."""
    return agent not in BASELINES and (":" not in agent or Path(agent).exists())


def make_agent(
    agent: str,
    env: Any,
    *,
    env_name: str,
    weights: Literal["ema", "model"] = "ema",
    key: str | None = None,
) -> Agent:
    """The agent that `agent` names (see `Setup`), ready to act in `env`."""
    if agent == "random":
        return RandomAgent(replace(env.spec, cameras=()))
    if agent == "expert":
        if env_name not in names("expert"):
            raise ValueError(
                f"environment {env_name!r} has no expert. Those that have one: {', '.join(names('expert'))}."
            )
        expert = lookup("expert", env_name)()
        return ScriptedAgent(replace(env.spec, cameras=()), lambda observation: expert(env))
    if is_folder(agent):
        from visuomotor.agent.policy import load_agent

        return load_agent(agent, key=key, weights=weights)
    return lookup("policy", agent)(env)
