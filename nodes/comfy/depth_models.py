"""Depth models that ComfyUI itself runs: which files are there, and the nodes that run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_execution.graph_utils import GraphBuilder
from comfy_extras.nodes_depth_anything_3 import DA3Inference, LoadDA3Model
from comfy_extras.nodes_moge import LoadMoGeModel, MoGeInference
from torch import Tensor

from ...mirage_core.errors import ModelMismatchError
from ...mirage_core.geometry.frame_geometry import FrameGeometry
from ...mirage_core.geometry.sources import (
    SKY_THRESHOLD,
    geometry_from_da3,
    geometry_from_moge,
    is_metric,
)
from ...mirage_core.tensor_files import read_header
from .estimator import FOLDER
from .model import model_files

AUTO = "auto"
"""Choice of the first file that is a depth model."""

DEFAULT_FOV = 60.0
"""Horizontal field of view, in degrees, where neither the model nor the artist tells one."""

MOST_DETAIL = 9
"""MoGe's highest resolution level."""

DA3_RESOLUTION = 504
"""Pixels of the longest side at which Depth Anything 3 runs by default."""

_MOGE_PARTS = ("points_head.", "head.upsample_blocks.")
_DA3_PART = "backbone.embeddings.patch_embeddings.projection.weight"
_DA3_CAMERAS = "cam_dec."


class Kind(Enum):
    """Families of depth models that ComfyUI has nodes for."""

    MOGE = "MoGe"
    DA3 = "Depth Anything 3"


_SPELLINGS = {
    "moge": Kind.MOGE, "depth_anything": Kind.DA3, "depth-anything": Kind.DA3, "da3": Kind.DA3,
}  # fmt: skip


@dataclass(frozen=True)
class DepthModel:
    """A file of a depth model.

    Attributes:
        name: As ComfyUI's loaders list it.
        kind: Its family.
        cameras: Whether it finds the camera of a picture, too.
        metric: Whether its name says that its depth is in metres; MoGe's tells so itself.
    """

    name: str
    kind: Kind
    cameras: bool
    metric: bool


def depth_files() -> list[str]:
    """Files in models/geometry_estimation, as ComfyUI's loaders list them."""
    return model_files(FOLDER)


def find_depth_model(name: str, kinds: Sequence[Kind] = tuple(Kind)) -> DepthModel:
    """The depth model of a name, or with `AUTO` the best that is there.

    Args:
        name: A file of `depth_files`, or `AUTO`.
        kinds: Families that `AUTO` may take, the best first.

    Raises:
        ModelMismatchError: There is no such file, none at all, or it is another kind of model.
    """
    files = depth_files()
    if name != AUTO:
        if name not in files:
            raise _missing(f"no {name}", files)
        model = _model_of(name)
        if model is None:
            raise ModelMismatchError(
                f"{name} is no depth model that ComfyUI runs",
                expected="MoGe or Depth Anything 3",
                fix="Choose another file; models of other packages go through Mirage Load "
                "Estimator",
            )
        return model
    found = [model for model in map(_model_of, files) if model is not None and model.kind in kinds]
    if not found:
        names = " or ".join(kind.value for kind in kinds)
        raise _missing("no depth model" if len(kinds) == len(Kind) else f"no {names}", files)
    return min(found, key=lambda model: kinds.index(model.kind))


def has_depth_model(kind: Kind) -> bool:
    """Whether there is a file of a family."""
    return any(model is not None and model.kind is kind for model in map(_model_of, depth_files()))


def _missing(got: str, files: list[str]) -> ModelMismatchError:
    there = f"; there {'is' if len(files) == 1 else 'are'} {', '.join(files[:5])}" if files else ""
    return ModelMismatchError(
        "The depth of the picture cannot be estimated",
        got=f"{got} in models/{FOLDER}{there}",
        expected="a file of MoGe or Depth Anything 3",
        fix="Put moge_2_vitl_normal_fp16.safetensors from huggingface.co/Comfy-Org/MoGe there and "
        "press R, or connect a depth picture to depth",
    )


def _model_of(name: str) -> DepthModel | None:
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return None
    parts = _tensor_names(Path(path))
    kind = _kind_of(parts) if parts else _kind_by_name(name)
    if kind is None:
        return None
    cameras = kind is Kind.MOGE or any(_DA3_CAMERAS in part for part in parts)
    return DepthModel(name, kind, cameras, "metric" in name.lower())


def _tensor_names(path: Path) -> tuple[str, ...]:
    """Names in a safetensors file; nothing of files that only torch reads, or that are damaged."""
    if path.suffix != ".safetensors":
        return ()
    try:
        return tuple(read_header(path).shapes)
    except ModelMismatchError:
        # The loader names the damage, should somebody choose this file.
        return ()


def _kind_of(parts: tuple[str, ...]) -> Kind | None:
    # MoGe 1 has the same backbone as Depth Anything: its own parts are looked for first.
    if any(part.startswith(_MOGE_PARTS) for part in parts):
        return Kind.MOGE
    return Kind.DA3 if any(part.endswith(_DA3_PART) for part in parts) else None


def _kind_by_name(name: str) -> Kind | None:
    return next((kind for spelt, kind in _SPELLINGS.items() if spelt in name.lower()), None)


def load_depth_model(model: DepthModel) -> Any:  # noqa: ANN401
    """The network of a file, as ComfyUI's own loader makes it."""
    if model.kind is Kind.MOGE:
        return LoadMoGeModel.execute(model.name).result[0]
    return LoadDA3Model.execute(model.name, "default").result[0]


def estimate(
    model: DepthModel, network: Any, image: Tensor, fov: float, level: int = MOST_DETAIL  # noqa: ANN401
) -> FrameGeometry:
    """Geometry of pictures, by ComfyUI's own code.

    Args:
        model: What the network is.
        network: From `load_depth_model`, or of ComfyUI's own loader.
        image: (F, H, W, 3) the pictures.
        fov: Horizontal field of view in degrees; 0 where the model is to find it.
        level: Detail of MoGe, 0 to 9.
    """
    if model.kind is Kind.MOGE:
        found = MoGeInference.execute(network, image, level, fov, 4, True, True).result[0]  # noqa: FBT003
        return geometry_from_moge(found, metric=is_metric(found))
    mode = {"mode": "mono"}
    if model.cameras and not fov:
        mode = {
            "mode": "multiview", "ref_view_strategy": "saddle_balanced", "pose_method": "cam_dec"
        }  # fmt: skip
    found = DA3Inference.execute(
        network, image, DA3_RESOLUTION, "upper_bound_resize", mode
    ).result[0]
    return geometry_from_da3(found, fov=fov or DEFAULT_FOV, metric=model.metric)


def estimation(
    graph: GraphBuilder, model: DepthModel, image: Tensor, fov: float
) -> tuple[Any, Any]:
    """Add ComfyUI's nodes that estimate a picture's depth, and ours that takes it.

    Args:
        graph: Gets the nodes.
        model: The file.
        image: (F, H, W, 3) the pictures.
        fov: Horizontal field of view in degrees; 0 where the model is to find it.

    Returns:
        Links to the geometry and to its report.
    """
    if model.kind is Kind.MOGE:
        loaded = graph.node("LoadMoGeModel", model_name=model.name)
        run = graph.node(
            "MoGeInference", moge_model=loaded.out(0), image=image, resolution_level=MOST_DETAIL,
            fov_x_degrees=fov, batch_size=4, force_projection=True, apply_mask=True,
        )  # fmt: skip
        taken = graph.node("MirageGeometryMoGe", moge_geometry=run.out(0))
        return taken.out(0), taken.out(1)
    loaded = graph.node("LoadDA3Model", model_name=model.name, weight_dtype="default")
    mode: dict[str, Any] = {"mode": "mono"}
    if model.cameras and not fov:
        mode = {
            "mode": "multiview", "mode.ref_view_strategy": "saddle_balanced",
            "mode.pose_method": "cam_dec",
        }  # fmt: skip
    run = graph.node(
        "DA3Inference", da3_model=loaded.out(0), image=image, resolution=DA3_RESOLUTION,
        resize_method="upper_bound_resize", **mode,
    )  # fmt: skip
    taken = graph.node(
        "MirageGeometryDA3", da3_geometry=run.out(0), fov=fov or DEFAULT_FOV, metric=model.metric,
        sky_threshold=SKY_THRESHOLD, least_confidence=0.0,
    )  # fmt: skip
    return taken.out(0), taken.out(1)


def scaled_frames(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames (F, H, W, 3) in another size, as ComfyUI scales pictures."""
    scaled = comfy.utils.common_upscale(
        frames.movedim(-1, 1), width, height, "lanczos", "disabled"
    )
    return scaled.movedim(1, -1).clamp(0, 1)
