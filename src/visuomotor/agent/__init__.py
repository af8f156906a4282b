"""Raw observation to raw chunk, and the one folder on disk that holds what this needs.

Names are imported when they are first used: agents without a network load without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visuomotor.agent.base import Agent, RandomAgent, RecordedAgent, ScriptedAgent, check_observation
    from visuomotor.agent.folder import Loaded, load_policy, save_agent
    from visuomotor.agent.policy import PolicyAgent, load_agent

_HOME = {
    "Agent": "base",
    "Loaded": "folder",
    "PolicyAgent": "policy",
    "RandomAgent": "base",
    "RecordedAgent": "base",
    "ScriptedAgent": "base",
    "check_observation": "base",
    "load_agent": "policy",
    "load_policy": "folder",
    "save_agent": "folder",
}

__all__ = [
    "Agent",
    "Loaded",
    "PolicyAgent",
    "RandomAgent",
    "RecordedAgent",
    "ScriptedAgent",
    "check_observation",
    "load_agent",
    "load_policy",
    "save_agent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
