"""The node pack: thin wrappers that call one function of ``mirage_core`` each."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .cache_nodes import (
    MirageCacheInfo,
    MirageCacheInit,
    MirageCacheLoad,
    MirageCacheSave,
    MirageCacheUpdate,
)
from .embedded_nodes import MirageEmbeddedCodec, MirageEmbeddedScene
from .geometry_nodes import MirageGeometry
from .loop_nodes import (
    MirageLoopClose,
    MirageLoopOpen,
    MirageRolloutResult,
    MirageRolloutStart,
)
from .readout_nodes import MiragePreviewFill, MirageReadout
from .trajectory_nodes import MirageTrajectory, MirageTrajectoryLoad, MirageTrajectorySave

NODES: tuple[type[io.ComfyNode], ...] = (
    MirageTrajectory,
    MirageTrajectoryLoad,
    MirageTrajectorySave,
    MirageGeometry,
    MirageCacheInit,
    MirageCacheUpdate,
    MirageCacheInfo,
    MirageCacheSave,
    MirageCacheLoad,
    MirageReadout,
    MiragePreviewFill,
    MirageRolloutStart,
    MirageLoopOpen,
    MirageLoopClose,
    MirageRolloutResult,
    MirageEmbeddedCodec,
    MirageEmbeddedScene,
)


class MirageExtension(ComfyExtension):
    """Registers the nodes with ComfyUI."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
