"""The node pack: thin wrappers that call one function of ``mirage_core`` each."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .align_nodes import MirageAlignGeometry
from .cache_nodes import (
    MirageCacheInfo,
    MirageCacheInit,
    MirageCacheLoad,
    MirageCacheSave,
    MirageCacheUpdate,
)
from .camera_nodes import (
    MirageTrajectoryCamera,
    MirageTrajectoryExport,
    MirageTrajectoryFromCameras,
    MirageTrajectoryFromGeometry,
    MirageTrajectoryImport,
)
from .dynamics_nodes import MirageDynamicMask, MirageEntities
from .embedded_nodes import (
    MirageEmbeddedCodec,
    MirageEmbeddedModel,
    MirageEmbeddedScene,
    MirageEmbeddedShot,
)
from .estimator_nodes import MirageEstimateGeometry, MirageLoadEstimator
from .geometry_nodes import MirageGeometry
from .geometry_source_nodes import (
    MirageGeometryDA3,
    MirageGeometryLoad,
    MirageGeometryMoGe,
    MirageGeometrySave,
)
from .loop_nodes import (
    MirageLoopClose,
    MirageLoopOpen,
    MirageRolloutResult,
    MirageRolloutStart,
)
from .readout_nodes import MiragePreviewFill, MirageReadout
from .sampler_nodes import MirageChunkDecode, MirageSplitCheckpoint, MirageUniPC
from .sampling_nodes import MirageApply, MirageLoadBranch, MirageTrainingFree
from .trajectory_nodes import MirageTrajectory, MirageTrajectoryLoad, MirageTrajectorySave

NODES: tuple[type[io.ComfyNode], ...] = (
    MirageTrajectory,
    MirageTrajectoryLoad,
    MirageTrajectorySave,
    MirageTrajectoryImport,
    MirageTrajectoryExport,
    MirageTrajectoryFromCameras,
    MirageTrajectoryFromGeometry,
    MirageTrajectoryCamera,
    MirageGeometry,
    MirageGeometryMoGe,
    MirageGeometryDA3,
    MirageGeometryLoad,
    MirageGeometrySave,
    MirageLoadEstimator,
    MirageEstimateGeometry,
    MirageEntities,
    MirageDynamicMask,
    MirageAlignGeometry,
    MirageCacheInit,
    MirageCacheUpdate,
    MirageCacheInfo,
    MirageCacheSave,
    MirageCacheLoad,
    MirageReadout,
    MiragePreviewFill,
    MirageLoadBranch,
    MirageApply,
    MirageTrainingFree,
    MirageUniPC,
    MirageChunkDecode,
    MirageSplitCheckpoint,
    MirageRolloutStart,
    MirageLoopOpen,
    MirageLoopClose,
    MirageRolloutResult,
    MirageEmbeddedCodec,
    MirageEmbeddedScene,
    MirageEmbeddedModel,
    MirageEmbeddedShot,
)


class MirageExtension(ComfyExtension):
    """Registers the nodes with ComfyUI."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
