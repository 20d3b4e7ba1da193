"""Making, updating, saving and looking at the memory."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import Types, io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.cache.build import WriteConfig, append_all, observe
from ..mirage_core.cache.io import load_cache, save_cache
from ..mirage_core.cache.ply import point_cloud_ply
from ..mirage_core.cache.types import LatentCache
from ..mirage_core.geometry.camera import PixelConvention
from ..mirage_core.geometry.depth import DEPTH_MODES
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.readout.render import Readout
from ..mirage_core.rollout.policy import WRITE_POLICIES, write
from ..mirage_core.rollout.spool import commit
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.rollout.update import chunk_observation
from ..mirage_core.validate import expect_frame_size, expect_shape
from . import adapters
from .readout_nodes import expect_same_codec
from .types import CacheType, GeometryType, ReadoutType, StateType

if TYPE_CHECKING:
    import comfy.sd

TOKEN_DTYPE = torch.float16
"""Storage type of remembered tokens: model-space latents are of order one."""

STAGES = 3
"""An update encodes, writes to the memory and saves; each is a third of the node's bar."""

DEPTH_MODE_TIP = (
    "How depth is brought to the latent grid: bilinear at the cell's centre (the method's way), "
    "nearest pixel, mean, or median of the cell."
)
FLYING_TIP = (
    "Leave out cells that hang between a near and a far surface; one such point would hide the "
    "surface behind it for ever."
)


class MirageCacheInit(io.ComfyNode):
    """The memory of one picture."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheInit",
            display_name="Mirage Cache Init",
            category="Mirage/memory",
            description="Lifts the latent of a picture to 3D points with its depth: the memory.",
            search_aliases=["memory", "latent cache", "point cloud", "start"],
            inputs=[
                io.Image.Input("image", tooltip="The picture; both sizes divisible by 32."),
                GeometryType.Input("geometry", tooltip="Depth and field of view of the picture."),
                io.Vae.Input("vae", tooltip="Wan2.2 VAE, or Mirage Embedded Codec."),
                io.Combo.Input(
                    "depth_mode", options=list(DEPTH_MODES), default="bilinear",
                    tooltip=DEPTH_MODE_TIP,
                ),
                io.Boolean.Input("drop_flying", default=True, tooltip=FLYING_TIP, advanced=True),
                io.Combo.Input(
                    "pixel_convention", options=[c.value for c in PixelConvention],
                    default=PixelConvention.PAPER.value, advanced=True,
                    tooltip="paper: cell centres at one half. released: what checkpoints trained "
                    "with the method's released code expect.",
                ),
                io.Mask.Input(
                    "exclude", optional=True,
                    tooltip="White is left out of the memory: sky, people, anything that moves.",
                ),
            ],
            outputs=[
                CacheType.Output(display_name="cache"),
                io.Latent.Output(display_name="first_latent"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        geometry: FrameGeometry,
        vae: comfy.sd.VAE,
        depth_mode: str,
        drop_flying: bool,
        pixel_convention: str,
        exclude: Tensor | None = None,
    ) -> io.NodeOutput:
        adapters.expect_vae(vae)
        height, width = int(image.shape[1]), int(image.shape[2])
        expect_frame_size(width, height)
        geometry.expect_aspect(width, height)
        first = geometry.select([0])
        first = with_exclusion(first, None if exclude is None else exclude[:1])
        tokens = adapters.encode_images(vae, image[:1])
        convention = PixelConvention(pixel_convention)
        pose = first.world_to_camera
        observation = observe(
            tokens.to(TOKEN_DTYPE),
            first,
            world_to_camera=torch.eye(4, dtype=torch.float64)[None] if pose is None else pose,
            frames=torch.zeros(1, dtype=torch.int64),
            convention=convention,
            config=WriteConfig(depth_mode, drop_flying),
        )
        cache = LatentCache((), convention, adapters.codec_name(vae))
        return io.NodeOutput(append_all(cache, observation), adapters.make_latent(tokens))


def with_exclusion(geometry: FrameGeometry, mask: Tensor | None) -> FrameGeometry:
    """The geometry with a MASK (F, H, W) added to what is left out."""
    if mask is None:
        return geometry
    resized = torch.nn.functional.interpolate(mask[:, None].float(), size=geometry.size)[:, 0]
    sizes = {"H": geometry.size[0], "W": geometry.size[1]}
    resized = resized.expand(len(geometry), -1, -1) if len(mask) == 1 else resized
    expect_shape("The exclusion mask", resized, "F H W", F=len(geometry), **sizes)
    dropped = resized > 0.5  # noqa: PLR2004
    if geometry.exclude is not None:
        dropped = dropped | (geometry.exclude > 0.5)  # noqa: PLR2004
    return dataclasses.replace(geometry, exclude=dropped)


class MirageCacheUpdate(io.ComfyNode):
    """Writes a finished chunk back, saves it, and moves the rollout on."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheUpdate",
            display_name="Mirage Cache Update",
            category="Mirage/memory",
            description=(
                "Writes a finished chunk to the memory and saves it to disk: frames, latents and "
                "what was learned. A rollout that was interrupted goes on after the last chunk "
                "that came this far."
            ),
            search_aliases=["write back", "append", "commit chunk"],
            inputs=[
                StateType.Input("state", tooltip="From Mirage Loop Open."),
                ReadoutType.Input("readout", tooltip="What the memory showed to this chunk."),
                io.Latent.Input("latent", tooltip="The chunk's finished latent."),
                io.Image.Input("images", tooltip="The chunk's decoded frames."),
                GeometryType.Input(
                    "geometry",
                    tooltip="Depth of the chunk's frames: all of them, or every fourth.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that the memory was made with."),
                io.Combo.Input(
                    "policy", options=list(WRITE_POLICIES), default="novelty",
                    tooltip="novelty: only what the memory does not show yet; what was seen "
                    "first stays. append: everything, as in the paper.",
                ),
                io.Combo.Input(
                    "tokens", options=["reencode", "direct"], default="reencode",
                    tooltip="reencode: decoded frames are encoded again, each alone. direct: the "
                    "chunk's latents are written as they are.",
                ),
                io.Combo.Input(
                    "depth_mode", options=list(DEPTH_MODES), default="bilinear",
                    tooltip=DEPTH_MODE_TIP, advanced=True,
                ),
                io.Boolean.Input("drop_flying", default=True, tooltip=FLYING_TIP, advanced=True),
                io.Mask.Input(
                    "exclude", optional=True,
                    tooltip="White is left out of the memory: sky, people, anything that moves.",
                ),
            ],
            outputs=[StateType.Output(display_name="state")],
        )

    @classmethod
    @override
    def execute(
        cls,
        state: RolloutState,
        readout: Readout,
        latent: adapters.Latent,
        images: Tensor,
        geometry: FrameGeometry,
        vae: comfy.sd.VAE,
        policy: str,
        tokens: str,
        depth_mode: str,
        drop_flying: bool,
        exclude: Tensor | None = None,
    ) -> io.NodeOutput:
        expect_same_codec(state.cache, vae)
        chunk_tokens = adapters.latent_tokens(latent, "The chunk's latent")
        steps = adapters.progress(STAGES)
        observation = chunk_observation(
            state,
            chunk_tokens,
            images,
            with_exclusion(geometry, exclude),
            encode=None
            if tokens == "direct"
            else lambda pictures: adapters.encode_images(
                vae, pictures, lambda done, total: steps(done / total, STAGES)
            ),
            config=WriteConfig(depth_mode, drop_flying),
            dtype=TOKEN_DTYPE,
        )
        cache = write(
            state.cache,
            observation,
            policy,
            lambda done, total: steps(1 + done / total, STAGES),
        )
        return io.NodeOutput(
            commit(
                state,
                latents=chunk_tokens,
                frames=images,
                readout=readout,
                cache=cache,
                on_frame=lambda done, total: steps(2 + done / total, STAGES),
            )
        )


class MirageCacheInfo(io.ComfyNode):
    """What a memory holds, in words and as a point cloud."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheInfo",
            display_name="Mirage Cache Info",
            category="Mirage/memory",
            description="Shows the size of a memory, and its points for Preview Point Cloud.",
            search_aliases=["memory size", "point cloud", "statistics"],
            inputs=[CacheType.Input("cache", tooltip="The memory.")],
            outputs=[
                io.String.Output(display_name="report"),
                io.File3DPointCloudAny.Output(display_name="point_cloud"),
            ],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, cache: LatentCache) -> io.NodeOutput:
        colours = [adapters.token_colours(block.tokens, cache.codec) for block in cache.blocks]
        cloud = point_cloud_ply(cache, torch.cat(colours or [torch.zeros(0, 3)]))
        report = (
            f"{len(cache):,} points in {len(cache.blocks)} blocks, "
            f"{cache.nbytes / 2**20:.1f} MiB; tokens of {cache.codec}, "
            f"{cache.convention.value} pixel convention"
        )
        return io.NodeOutput(
            report, Types.File3D(BytesIO(cloud), "ply"), ui={"text": (report,)}
        )


class MirageCacheSave(io.ComfyNode):
    """Saves a memory to a file."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheSave",
            display_name="Mirage Cache Save",
            category="Mirage/memory",
            description="Saves a memory below output/mirage, to go on from it another day.",
            search_aliases=["save memory", "export cache"],
            inputs=[
                CacheType.Input("cache", tooltip="The memory."),
                io.String.Input(
                    "filename_prefix", default="memory", tooltip="Name below output/mirage."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, cache: LatentCache, filename_prefix: str) -> io.NodeOutput:
        path = save_cache(adapters.next_file(filename_prefix, "safetensors"), cache)
        return io.NodeOutput(ui={"text": (str(path),)})


class MirageCacheLoad(io.ComfyNode):
    """Loads a memory from a file."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheLoad",
            display_name="Mirage Cache Load",
            category="Mirage/memory",
            description="Loads a memory that was saved below output/mirage, or put into input.",
            search_aliases=["load memory", "import cache"],
            inputs=[
                io.Combo.Input(
                    "file", options=adapters.list_files("safetensors"), tooltip="The memory file."
                )
            ],
            outputs=[CacheType.Output(display_name="cache")],
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, file: str) -> tuple[str, int]:
        return adapters.file_stamp(file)

    @classmethod
    @override
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_cache(adapters.resolve_file(file)))
