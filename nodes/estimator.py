"""Geometry estimators from packages of their own."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.geometry.sources import describe_geometry
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.validate import expect_shape
from .comfy.estimator import Estimator, load_offloaded, model_folders
from .types import EstimatorType, GeometryType, TrajectoryType

# As mirage_core.models.geometry_estimators has them; importing that here would import transformers.
ESTIMATORS = ("MapAnything", "UniDepth V2", "transformers")


class MirageLoadEstimator(io.ComfyNode):
    """A depth estimator that is not part of ComfyUI."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoadEstimator",
            display_name="Mirage Load Estimator",
            category="Mirage/geometry",
            description=(
                "Loads MapAnything, UniDepth V2, or any depth model of transformers from a "
                "folder below models/geometry_estimation. Their packages must be installed "
                "separately."
            ),
            search_aliases=["mapanything", "unidepth", "depth pro", "zoedepth", "metric depth"],
            inputs=[
                io.Combo.Input(
                    "estimator", options=list(ESTIMATORS), default=ESTIMATORS[-1],
                    tooltip="Kind of model in the folder.",
                ),
                io.Combo.Input(
                    "folder", options=model_folders(),
                    tooltip="Folder with config.json and safetensors weights, below "
                    "models/geometry_estimation.",
                ),
                io.Float.Input(
                    "fov", default=60.0, min=1.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view in degrees; used by depth models of "
                    "transformers when no trajectory is connected.",
                ),
            ],
            outputs=[EstimatorType.Output(display_name="estimator")],
        )

    @classmethod
    @override
    def execute(cls, estimator: str, folder: str, fov: float) -> io.NodeOutput:
        return io.NodeOutput(load_offloaded(estimator, folder, fov))


class MirageEstimateGeometry(io.ComfyNode):
    """Geometry of pictures by a loaded estimator."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEstimateGeometry",
            display_name="Mirage Estimate Geometry",
            category="Mirage/geometry",
            description=(
                "Estimates depth of pictures, with known cameras if a trajectory is connected."
            ),
            search_aliases=["depth", "metric depth", "camera poses"],
            inputs=[
                EstimatorType.Input("estimator", tooltip="From Mirage Load Estimator."),
                io.Image.Input("image", tooltip="One picture, or the frames of a chunk."),
                TrajectoryType.Input(
                    "trajectory", optional=True,
                    tooltip="Known cameras of the pictures, one per picture.",
                ),
            ],
            outputs=[
                GeometryType.Output(display_name="geometry"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls, estimator: Estimator, image: Tensor, trajectory: Trajectory | None = None
    ) -> io.NodeOutput:
        if trajectory is not None:
            expect_shape(
                "The picture batch of this trajectory", image, "F H W C",
                F=len(trajectory), H=trajectory.height, W=trajectory.width,
            )  # fmt: skip
        geometry = estimator.run(image[..., :3], trajectory)
        report = describe_geometry(geometry)
        return io.NodeOutput(geometry, report, ui={"text": (report,)})
