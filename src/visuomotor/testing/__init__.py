"""What a policy, an environment or a codec must fulfill, as functions that anyone can call.

Each raises `AssertionError` with what was expected and what came. Imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visuomotor.testing.codecs import check_codec as check_codec
    from visuomotor.testing.envs import check_env as check_env
    from visuomotor.testing.policies import check_policy as check_policy
    from visuomotor.testing.sentences import RandomSentenceEncoder as RandomSentenceEncoder

_HOME = {
    "RandomSentenceEncoder": "sentences",
    "check_codec": "codecs",
    "check_env": "envs",
    "check_policy": "policies",
}

__all__ = ["RandomSentenceEncoder", "check_codec", "check_env", "check_policy"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
