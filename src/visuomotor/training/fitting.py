"""What is made of the actions of the data before training: statistics, and what a policy fits to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from visuomotor.data.chunks import relative_summary
from visuomotor.data.reader import LeRobotReader
from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.policies.base import Policy
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.pad import PadDimensions
from visuomotor.transforms.relative import RELATIVE, RelativeActions
from visuomotor.types import Stats

__all__ = ["normalized_chunks", "policy_stats"]

MOST = 5000
"""Chunks of each data set, evenly spaced: more change little."""


def policy_stats(policy: Policy, key: str, reader: LeRobotReader) -> Stats:
    """Statistics of a data set for `policy.transforms`: with those of relative actions, if it learns them.

    Args:
        policy: Whose horizon and pipeline decide.
        key: Name of the data set.
        reader: The data set.
    """
    relative = policy.relative(key)
    if relative is None:
        return reader.stats
    found = relative_summary(reader, policy.window.horizon, relative)
    return replace(reader.stats, features={**reader.stats.features, RELATIVE: found})


def normalized_chunks(
    policy: Policy,
    windows: Mapping[str, Windows],
    stats: Mapping[str, Stats],
    sentences: SentenceCache | None,
) -> Float[np.ndarray, "chunk horizon action"]:
    """Whole chunks of the data as the policy sees them: relative if it learns them so, normalized, padded.

    Args:
        policy: Whose normalization and padding.
        windows: Data-set key to its samples; pictures are not read.
        stats: Data-set key to statistics.
        sentences: What its pipelines need.

    Raises:
        DataError: No episode is as long as a chunk.
    """
    found: list[np.ndarray] = []
    for key, samples in windows.items():
        pipeline = policy.transforms(key, stats[key], sentences)
        kinds = (RelativeActions, Normalize, PadDimensions)
        steps = [step for step in pipeline.transforms if isinstance(step, kinds)]
        for index in np.linspace(0, len(samples) - 1, min(len(samples), MOST)).astype(int):
            sample = samples.blind(int(index))
            if sample.horizon_mask is None or not sample.horizon_mask.all():
                continue
            for step in steps:
                sample = step.apply(sample)
            if sample.actions is not None:
                found.append(sample.actions)
    if not found:
        raise DataError(
            f"fitting: no episode is as long as a chunk of {policy.window.horizon}. Use a shorter horizon."
        )
    return np.stack(found).astype(np.float32)
