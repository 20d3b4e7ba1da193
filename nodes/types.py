"""The types on the wires. What each one holds is written at its class in ``mirage_core``."""

from __future__ import annotations

from comfy_api.latest import io

# mirage_core.geometry.trajectory.Trajectory: cameras of all pixel frames of a shot.
TrajectoryType = io.Custom("MIRAGE_TRAJECTORY")

# mirage_core.geometry.frame_geometry.FrameGeometry: depth and cameras of pictures.
GeometryType = io.Custom("MIRAGE_GEOMETRY")

# mirage_core.cache.types.LatentCache: the memory, immutable.
CacheType = io.Custom("MIRAGE_CACHE")

# mirage_core.readout.render.Readout: what the memory shows to cameras.
ReadoutType = io.Custom("MIRAGE_READOUT")

# mirage_core.rollout.state.RolloutState: the one value that the chunk loop carries.
StateType = io.Custom("MIRAGE_STATE")

# nodes.loop_nodes.Flow: ties a Loop Close to its Loop Open.
FlowType = io.Custom("MIRAGE_FLOW")
