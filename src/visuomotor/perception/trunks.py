"""Which trunk a config builds."""

from __future__ import annotations

from collections.abc import Mapping

from visuomotor.perception.paligemma_trunk import PaliGemmaTrunk, PaliGemmaTrunkConfig
from visuomotor.perception.trunk import SightTrunk, SightTrunkConfig
from visuomotor.types import Spec

__all__ = ["Trunk", "TrunkConfig", "build_trunk"]

Trunk = PaliGemmaTrunk | SightTrunk
TrunkConfig = PaliGemmaTrunkConfig | SightTrunkConfig


def build_trunk(config: TrunkConfig, bodies: Mapping[str, Spec], *, horizon: int) -> Trunk:
    """The trunk of a family, with new weights.

    Args:
        config: Its sizes, of either kind.
        bodies: Data-set key to body.
        horizon: Ticks of a chunk.
    """
    if isinstance(config, SightTrunkConfig):
        return SightTrunk(config, bodies, horizon=horizon)
    return PaliGemmaTrunk(config, bodies, horizon=horizon)
