"""The types on the wires. What each one holds is written at its class in ``mirage_core``."""

from __future__ import annotations

from comfy_api.latest import io

# mirage_core.geometry.trajectory.Trajectory: cameras of all pixel frames of a shot.
TrajectoryType = io.Custom("MIRAGE_TRAJECTORY")

# mirage_core.geometry.frame_geometry.FrameGeometry: depth and cameras of pictures.
GeometryType = io.Custom("MIRAGE_GEOMETRY")

# mirage_core.cache.types.LatentCache: the memory, immutable.
CacheType = io.Custom("MIRAGE_CACHE")

# mirage_core.readout.readout.Readout: what the memory shows to cameras.
ReadoutType = io.Custom("MIRAGE_READOUT")

# nodes.comfy.model.Branch: side-branch weights, managed by ComfyUI, and what they are made for.
BranchType = io.Custom("MIRAGE_BRANCH")

# mirage_core.rollout.state.RolloutState: the one value that the chunk loop carries.
StateType = io.Custom("MIRAGE_STATE")

# mirage_core.cache.actor.Actor: something that moves, with points of its own.
ActorType = io.Custom("MIRAGE_ACTOR")

# mirage_core.masks.tracks.Tracks: which pixels of a chunk show which moving thing.
TracksType = io.Custom("MIRAGE_TRACKS")

# nodes.loop.Flow: ties a Loop Close to its Loop Open.
FlowType = io.Custom("MIRAGE_FLOW")

# ComfyUI's own: dictionaries of tensors, described where Run MoGe Inference and Run Depth
# Anything 3 are defined, and read only by mirage_core.geometry.sources.
MoGeGeometryType = io.Custom("MOGE_GEOMETRY")
DA3GeometryType = io.Custom("DA3_GEOMETRY")

# nodes.estimator.Estimator: a geometry estimator with a package of its own.
EstimatorType = io.Custom("MIRAGE_ESTIMATOR")

# ComfyUI's own network of MoGe.
MoGeModelType = io.Custom("MOGE_MODEL")

# nodes.comfy.scene_models.SceneModels: what looks at pictures for their depth and what moves.
SceneModelsType = io.Custom("MIRAGE_SCENE_MODELS")
