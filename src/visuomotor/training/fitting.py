"""What a policy fits to the actions of its data before it is trained, such as a codec."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from visuomotor.data.windows import Windows
from visuomotor.errors import DataError
from visuomotor.policies.base import Policy
from visuomotor.text.sentences import SentenceCache
from visuomotor.transforms.normalize import Normalize
from visuomotor.transforms.pad import PadDimensions
from visuomotor.types import Stats

__all__ = ["normalized_chunks"]

MOST = 5000
"""Chunks of each data set, evenly spaced: more change little."""


def normalized_chunks(
    policy: Policy,
    windows: Mapping[str, Windows],
    stats: Mapping[str, Stats],
    sentences: SentenceCache | None,
) -> Float[np.ndarray, "chunk horizon action"]:
    """Whole chunks of the data as the policy sees them: normalized and padded.

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
        steps = [step for step in pipeline.transforms if isinstance(step, (Normalize, PadDimensions))]
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
