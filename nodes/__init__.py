"""The node pack: thin wrappers that call one function of ``mirage_core`` each."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .actors import MirageActor, MiragePlaceActor, MirageTracks
from .branch import MirageApply, MirageLoadBranch, MirageSplitCheckpoint
from .chunk_geometry import MirageAlignGeometry
from .dynamics import MirageDynamicMask, MirageEntities
from .embedded import (
    MirageEmbeddedCodec,
    MirageEmbeddedModel,
    MirageEmbeddedMovers,
    MirageEmbeddedScene,
    MirageEmbeddedShot,
)
from .estimator import MirageEstimateGeometry, MirageLoadEstimator
from .few_steps import MirageFewSteps
from .geometry import (
    MirageGeometry,
    MirageGeometryDA3,
    MirageGeometryLoad,
    MirageGeometryMoGe,
    MirageGeometrySave,
)
from .inpaint import MirageInpaintConditioning
from .later_lora import MirageLaterLora
from .links import with_checked_links
from .loop import MirageLoopClose, MirageLoopOpen, MirageRolloutResult, MirageRolloutStart
from .memory import MirageCacheInit, MirageCacheUpdate
from .memory_files import MirageCacheInfo, MirageCacheLoad, MirageCacheSave
from .picture_geometry import MirageGeometryView, MiragePictureGeometry
from .readout import MiragePreviewFill, MirageReadout
from .render import MirageRender
from .sampling import MirageChunkDecode, MirageTrainingFree, MirageUniPC
from .scene_models import MirageLook, MirageSceneModels
from .trajectory import MirageTrajectory, MirageTrajectoryLoad, MirageTrajectorySave
from .trajectory_exchange import (
    MirageTrajectoryCamera,
    MirageTrajectoryExport,
    MirageTrajectoryFromCameras,
    MirageTrajectoryFromGeometry,
    MirageTrajectoryImport,
)
from .vace import MirageMatchColours, MiragePasteKnown, MirageVaceControl

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
    MirageRender,
    MirageLoadBranch,
    MirageApply,
    MirageTrainingFree,
    MirageInpaintConditioning,
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
    MirageLaterLora,
    MirageVaceControl,
    MiragePasteKnown,
    MirageMatchColours,
    MiragePictureGeometry,
    MirageGeometryView,
    MirageSceneModels,
    MirageLook,
    MirageFewSteps,
    MirageActor,
    MiragePlaceActor,
    MirageTracks,
    MirageEmbeddedMovers,
)


class MirageExtension(ComfyExtension):
    """Registers the nodes with ComfyUI."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [with_checked_links(node) for node in NODES]
