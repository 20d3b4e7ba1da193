"""Depth and masks of pictures, by models that are loaded once for a whole shot."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.errors import MirageError, ModelMismatchError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.masks import MASKED
from ..mirage_core.geometry.sources import describe_geometry
from ..mirage_core.validate import expect_shape
from .comfy.cancel import stop_when_cancelled
from .comfy.depth_models import (
    AUTO,
    DEFAULT_FOV,
    MOST_DETAIL,
    DepthModel,
    Kind,
    depth_files,
    estimate,
)
from .comfy.model import model_files
from .comfy.scene_models import (
    DEPTHS,
    LANGUAGE_FOLDER,
    NONE,
    SEGMENTER_FOLDER,
    SceneModels,
    choose_depth,
    choose_moving,
    find_moving,
    load_scene_models,
    no_mask,
)
from .types import GeometryType, MoGeModelType, SceneModelsType, TracksType

CATEGORY = "Mirage/geometry"


class MirageSceneModels(io.ComfyNode):
    """The models that look at a shot's pictures."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSceneModels",
            display_name="Mirage Scene Models",
            category=CATEGORY,
            description=(
                "Loads what looks at the pictures of a shot: the depth model that is there, and, "
                "when switched on, Qwen3-VL and SAM3, which keep moving things out of the memory. "
                "What is off needs no file."
            ),
            search_aliases=["moving things", "dynamic mask", "sam3", "qwen", "depth anything"],
            inputs=[
                io.Combo.Input(
                    "depth", options=[*DEPTHS, NONE], default=AUTO,
                    tooltip="auto: Depth Anything 3 where its file is there, as in the paper, "
                    "else MoGe. Depth Anything 3 does not find the lens of a single picture.",
                ),
                io.Boolean.Input(
                    "moving_things", default=False,
                    tooltip="On: people, animals, vehicles and all else that moves is found in "
                    "the picture and in every chunk, and not remembered. Off: nothing is loaded.",
                ),
                io.String.Input(
                    "names", default="",
                    tooltip="What to look for in any case, comma separated: person, dog. Without "
                    "a language model these are all.",
                ),
                io.Combo.Input(
                    "moge_file", options=[AUTO, *depth_files()], default=AUTO, advanced=True,
                    tooltip="File of MoGe in models/geometry_estimation. auto, or a file that is "
                    "not there: the first one.",
                ),
                io.Combo.Input(
                    "depth_anything_file", options=[AUTO, *depth_files()], default=AUTO,
                    advanced=True,
                    tooltip="File of Depth Anything 3 in models/geometry_estimation. auto, or a "
                    "file that is not there: the first one.",
                ),
                io.Combo.Input(
                    "language_model", options=[AUTO, NONE, *model_files(LANGUAGE_FOLDER)],
                    default=AUTO, advanced=True,
                    tooltip="Qwen3-VL in models/text_encoders, which says what moves. auto: the "
                    "first one, or only names where there is none. none: only names.",
                ),
                io.Combo.Input(
                    "segmenter", options=[AUTO, *model_files(SEGMENTER_FOLDER)], default=AUTO,
                    advanced=True, tooltip="SAM3 in models/checkpoints, which tracks it.",
                ),
                io.Int.Input(
                    "most", default=8, min=1, max=32, advanced=True,
                    tooltip="Maximum number of kinds of things to look for.",
                ),
            ],
            outputs=[SceneModelsType.Output(display_name="scene_models")],
        )  # fmt: skip

    @classmethod
    @override
    def fingerprint_inputs(cls, **_: Any) -> tuple[str, ...]:
        # With auto, a file that came since would be taken.
        return (
            *depth_files(), "", *model_files(LANGUAGE_FOLDER), "", *model_files(SEGMENTER_FOLDER)
        )  # fmt: skip

    @classmethod
    @override
    def validate_inputs(
        cls,
        depth: str | None = None,
        moving_things: bool | None = None,
        names: str | None = None,
        moge_file: str | None = None,
        depth_anything_file: str | None = None,
        language_model: str | None = None,
        segmenter: str | None = None,
    ) -> bool | str:
        # Naming the lists here keeps ComfyUI from refusing files that are not needed.
        if depth is not None and depth not in (*DEPTHS, NONE):
            return f"depth is one of {', '.join((*DEPTHS, NONE))}, not {depth}"
        known = None not in (names, language_model, segmenter)
        if moving_things is not True or not known:
            return True
        try:
            choose_moving(str(segmenter), str(language_model), str(names), 1)
        except MirageError as error:
            return str(error)
        return True

    @classmethod
    @override
    def execute(
        cls,
        depth: str,
        moving_things: bool,
        names: str,
        moge_file: str,
        depth_anything_file: str,
        language_model: str,
        segmenter: str,
        most: int,
    ) -> io.NodeOutput:
        surfaces = choose_depth(depth, moge_file, depth_anything_file)
        moving = choose_moving(segmenter, language_model, names, most) if moving_things else None
        told = "no depth model" if surfaces is None else f"depth: {surfaces.name}"
        if moving is not None:
            named = moving.language or f"names alone: {names}"
            told += f"\nmoving things: {moving.segmenter}, {named}"
        return io.NodeOutput(load_scene_models(surfaces, moving), ui={"text": (told,)})


class MirageLook(io.ComfyNode):
    """What a picture or a chunk shows: surfaces, sky, and what moves."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLook",
            display_name="Mirage Look",
            category=CATEGORY,
            description=(
                "Depth of pictures, and masks of what does not belong into the memory: things "
                "that move, if Mirage Scene Models looks for them, and sky. For the given picture, "
                "and for the frames of every chunk."
            ),
            search_aliases=["depth", "mask", "sky", "moving things", "estimate", "moge"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The picture; in the loop depth_images of Mirage Chunk Decode."
                ),
                io.Float.Input(
                    "fov", default=0.0, min=0.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view in degrees; in the loop that of Mirage Loop "
                    f"Open. 0: what the depth model finds, or {DEFAULT_FOV:g} where it finds none.",
                ),
                SceneModelsType.Input(
                    "scene_models", optional=True, tooltip="From Mirage Scene Models."
                ),
                MoGeModelType.Input(
                    "moge_model", optional=True,
                    tooltip="From Load MoGe Model; used where scene_models has no depth model.",
                ),
                io.Image.Input(
                    "frames", optional=True,
                    tooltip="All frames, for tracking: images of Mirage Chunk Decode. Without "
                    "them, image.",
                ),
                io.Int.Input(
                    "resolution_level", default=MOST_DETAIL, min=0, max=MOST_DETAIL, optional=True,
                    advanced=True, tooltip="Detail of MoGe's depth; less is faster.",
                ),
            ],
            outputs=[
                GeometryType.Output(display_name="geometry"),
                io.Mask.Output(
                    display_name="moving",
                    tooltip="White moves: for exclude of Mirage Cache Init, or dynamic of Mirage "
                    "Align Geometry. Black where nothing is looked for.",
                ),
                io.Mask.Output(
                    display_name="sky",
                    tooltip="White is sky, and all else that has no depth; geometry leaves it out "
                    "as well. Black where nothing is looked for.",
                ),
                io.String.Output(display_name="report"),
                TracksType.Output(
                    display_name="tracks",
                    tooltip="What moves, thing by thing: for tracks of Mirage Cache Update, which "
                    "writes each to its actor. Nothing where nothing is looked for.",
                ),
            ],
        )

    @classmethod
    @override
    def validate_inputs(cls, fov: float | None = None) -> bool | str:
        if fov is None or fov == 0 or fov >= 1:
            return True
        return f"The field of view is 0 or 1 to 170, not {fov:g}"

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        fov: float,
        scene_models: SceneModels | None = None,
        moge_model: Any = None,  # noqa: ANN401
        frames: Tensor | None = None,
        resolution_level: int = MOST_DETAIL,
    ) -> io.NodeOutput:
        models = scene_models or SceneModels()
        model, network = models.depth or _given(moge_model)
        frames = image if frames is None else frames
        expect_shape("The frames", frames, "F H W C", H=image.shape[1], W=image.shape[2])
        stop_when_cancelled()
        geometry = estimate(model, network, image[..., :3], fov, resolution_level)
        report = describe_geometry(geometry)
        if model.kind is Kind.DA3 and not fov and geometry.world_to_camera is None:
            report += f"; no lens found, {DEFAULT_FOV:g} degrees taken"
        moving, sky, tracks = no_mask(frames), no_mask(image), None
        if models.moving is not None:
            stop_when_cancelled()
            found = find_moving(models.moving, frames[..., :3])
            moving, sky, tracks = found.mask, _sky(geometry), found.tracks
            share = float((moving > MASKED).float().mean())
            report += (
                f"\nmoving: {found.named or 'nothing'}, {share:.1%} of the pixels, "
                f"{len(tracks.numbers)} things"
            )
        return io.NodeOutput(geometry, moving, sky, report, tracks, ui={"text": (report,)})


def _given(moge_model: Any) -> tuple[DepthModel, Any]:  # noqa: ANN401
    if moge_model is None:
        raise ModelMismatchError(
            "There is no depth model to look at the pictures with",
            got="no file of Depth Anything 3 or MoGe in models/geometry_estimation",
            expected="one of them",
            fix="Put moge_2_vitl_normal_fp16.safetensors from huggingface.co/Comfy-Org/MoGe there "
            "and press R; or connect Mirage Scene Models or Load MoGe Model",
        )
    return DepthModel("Load MoGe Model", Kind.MOGE, cameras=True, metric=False), moge_model


def _sky(geometry: FrameGeometry) -> Tensor:
    """(F, H, W): what the estimator itself leaves out."""
    if geometry.exclude is None:
        return torch.zeros(geometry.depth.shape)
    return geometry.exclude.float().cpu()
