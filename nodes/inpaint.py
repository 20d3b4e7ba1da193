"""Giving a video model that paints holes what the memory knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.dct import CODEC_NAME
from ..mirage_core.codecs.memory_kind import expect_tokens
from ..mirage_core.conditioning.inpaint import (
    InpaintPlanes,
    expect_pictures,
    mask_doubt,
    unknown_cells,
    without_holes,
)
from ..mirage_core.constants import DEFAULT_FPS
from ..mirage_core.errors import ModelMismatchError, PlanError, ShapeError
from ..mirage_core.log import logger
from ..mirage_core.readout.readout import Readout
from ..mirage_core.validate import expect_token_channels
from .comfy.chunk_guide import chunk_latent
from .comfy.inpaint import Conditioning, blank_latent, empty_latent, told
from .comfy.ui import show_text
from .comfy.vae import Latent, VaeCodec, latent_tokens
from .types import ReadoutType

RATE_TOLERANCE = 1e-3
"""Frames per second by which a rate may be off."""

if TYPE_CHECKING:
    import comfy.sd


class MirageInpaintConditioning(io.ComfyNode):
    """What is known of a chunk, as models of the kind Fun InP take it."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageInpaintConditioning",
            display_name="Mirage Inpaint Conditioning",
            category="Mirage/sampling",
            description=(
                "Tells Wan2.2-Fun-5B-InP what is known of a clip and where it is not: from a "
                "readout of tokens, or from pictures with a mask for every frame. Whether that "
                "model was trained for holes inside of a frame is not known."
            ),
            search_aliases=["fun inp", "fun inpaint", "concat latent", "hole mask", "outpaint"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From CLIP Text Encode."),
                io.Conditioning.Input("negative", tooltip="From CLIP Text Encode."),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="The Wan2.2 VAE. Required for images; with a readout it gives the "
                    "grey that the model expects in holes.",
                ),
                ReadoutType.Input(
                    "readout", optional=True,
                    tooltip="What a memory of tokens shows to the chunk's cameras. In place of "
                    "images and holes.",
                ),
                io.Image.Input(
                    "images", optional=True,
                    tooltip="4n + 1 frames, such as those of Mirage Render. In place of a readout.",
                ),
                io.Mask.Input(
                    "holes", optional=True,
                    tooltip="One mask for every frame of images; white is unknown.",
                ),
                io.Latent.Input(
                    "first_latent", optional=True,
                    tooltip="Clean first latent of the chunk, from Mirage Loop Open or Mirage "
                    "Cache Init. It is kept.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @override
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        vae: comfy.sd.VAE | None = None,
        readout: Readout | None = None,
        images: Tensor | None = None,
        holes: Tensor | None = None,
        first_latent: Latent | None = None,
    ) -> io.NodeOutput:
        first = None
        if first_latent is not None:
            first = latent_tokens(first_latent, "The first latent")[:, :1]
        if readout is not None and images is None and holes is None:
            planes = _of_readout(readout, vae, first)
        elif readout is None and images is not None and holes is not None:
            planes = _of_pictures(images, holes, vae, first)
        else:
            raise _unclear(readout, images, holes)
        rate = _other_rate(readout)
        if rate:
            logger.warning("Mirage Inpaint Conditioning: %s", rate)
            show_text(rate, cls.hidden.unique_id)
        shown: dict[str, Any] = {"text": (rate,)} if rate else {}
        if first is None:
            latent = empty_latent(planes)
            return io.NodeOutput(told(positive, planes), told(negative, planes), latent, ui=shown)
        planes = planes.begun_with(first)
        # The model's own pipeline keeps a first frame that is wholly given clean at every step.
        latent = chunk_latent(first, planes.latent.shape[1])
        return io.NodeOutput(told(positive, planes), told(negative, planes), latent, ui=shown)


def _other_rate(readout: Readout | None) -> str:
    """What to tell of a trajectory with another frame rate than the model's; else nothing."""
    if readout is None or abs(readout.trajectory.fps - DEFAULT_FPS) <= RATE_TOLERANCE:
        return ""
    path = readout.trajectory
    return (
        f"the trajectory has {path.fps:g} frames per second and Wan2.2-Fun-5B-InP makes "
        f"{DEFAULT_FPS:g}: the move is shown at another speed than the model knows. fps = "
        f"{DEFAULT_FPS:g} in Mirage Rollout Start makes it over"
    )


def _of_readout(
    readout: Readout, vae: comfy.sd.VAE | None, first: Tensor | None
) -> InpaintPlanes:
    codec = readout.cache.codec
    expect_tokens(codec)
    expect_token_channels("The readout", readout.tokens.shape[0])
    frames, rows, columns = readout.visible.shape
    _expect_fit(first, (rows, columns))
    if vae is not None:
        expect_same_codec(codec, VaeCodec(vae))
    _warn_of_embedded(codec)
    if not bool(readout.visible.any()):
        logger.warning("The memory shows nothing to the cameras of this chunk")
    blank = None if vae is None else blank_latent(vae, frames, rows, columns)
    return InpaintPlanes.of_readout(readout, blank)


def _of_pictures(
    images: Tensor, holes: Tensor, vae: comfy.sd.VAE | None, first: Tensor | None
) -> InpaintPlanes:
    if vae is None:
        raise ModelMismatchError(
            "Pictures cannot be given to the video model without a VAE",
            got="images and no vae",
            expected="the VAE of the video model",
            fix="Connect Load VAE with wan2.2_vae.safetensors",
        )
    codec = VaeCodec(vae)
    expect_pictures(images, holes)
    stride = codec.spatial_stride
    _expect_fit(first, (images.shape[1] // stride, images.shape[2] // stride))
    _warn_of_embedded(codec.name)
    doubt = mask_doubt(images, holes)
    if doubt:
        logger.warning("Mirage Inpaint Conditioning: %s", doubt)
    unknown = unknown_cells(holes, stride).cpu()
    return InpaintPlanes(codec.encode(without_holes(images, holes)), unknown)


def _expect_fit(first: Tensor | None, grid: tuple[int, int]) -> None:
    """Raise `ShapeError` unless a first latent (C, 1, h, w) has the size of what is known."""
    if first is None or tuple(first.shape[2:]) == grid:
        return
    raise ShapeError(
        "The first latent and what is known have different sizes",
        got=f"a latent of {first.shape[2]} x {first.shape[3]} cells",
        expected=f"{grid[0]} x {grid[1]} cells",
        fix="Use one size for picture, trajectory and latent",
    )


def _warn_of_embedded(codec: str) -> None:
    if codec == CODEC_NAME:
        logger.warning(
            "Latents of the embedded codec are nothing that the video model was trained with: "
            "use the Wan2.2 VAE for good pictures"
        )


def _unclear(readout: Readout | None, images: Tensor | None, holes: Tensor | None) -> PlanError:
    """What to say when it is not clear what is known."""
    given = {"readout": readout, "images": images, "holes": holes}
    return PlanError(
        "It is not clear what is known",
        got=" and ".join(name for name, value in given.items() if value is not None) or "nothing",
        expected="a readout alone, or images together with holes",
        fix="Connect the readout of Mirage Readout, or images and holes of Mirage Render",
    )
