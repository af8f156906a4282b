"""The embedded suite: a robot arm at a table of colored things, where the sentence decides what is right."""

from visuomotor.envs.tabletop.env import TabletopEnv

__all__ = ["TabletopEnv"]
