"""How released files of the pi family spell their weights: PaliGemma, and an expert that follows a flow."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from visuomotor.backbones.paligemma import paligemma_names
from visuomotor.nn.weights import Made, Names, nested
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig
from visuomotor.perception.trunks import TrunkConfig

__all__ = ["expert_names", "trunk_names"]

FRONTS = ("", "model.")
"""What stands before every name: nothing in openpi's and transformers' files, "model." in LeRobot's."""


def trunk_names(trunk: TrunkConfig, family: str) -> Names:
    """Each weight of the trunk -> its spellings in released files (openpi, LeRobot, transformers).

    Args:
        trunk: Of the policy.
        family: Named in errors.

    Raises:
        ValueError: The shared sight, of which nothing was released.
    """
    if not isinstance(trunk, PaliGemmaTrunkConfig):
        raise ValueError(
            f"{family}: released weights have PaliGemma as their trunk. Build the policy with the family's "
            "published() config."
        )
    fronts = tuple(
        f"{front}paligemma_with_expert.paligemma.{part}" for front in FRONTS for part in ("model.", "")
    )
    return nested(paligemma_names(trunk.paligemma, fronts), "trunk.paligemma.", "")


def expert_names(expert: Mapping[str, str], projections: Mapping[str, str]) -> Names:
    """Each weight of the action expert, and of the layers before and behind it -> its spellings.

    Their velocity goes from the chunk to the noise, so the last layer changes its sign.

    Args:
        expert: Our names of the decoder's weights to theirs.
        projections: Our names of layers to theirs.
    """
    fronts = tuple(f"{front}paligemma_with_expert.gemma_expert.model." for front in FRONTS)
    names = nested(expert, "expert.", fronts)
    for part in ("weight", "bias"):
        for ours, theirs in projections.items():
            names[f"{ours}.{part}"] = tuple(f"{front}{theirs}.{part}" for front in FRONTS)
        leaves = tuple(Made((f"{front}action_out_proj.{part}",), torch.neg) for front in FRONTS)
        names[f"leave.{part}"] = leaves
    return names
