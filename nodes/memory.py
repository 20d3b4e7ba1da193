"""Making and updating the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.actors.update import CastConfig
from ..mirage_core.cache.build import WriteConfig
from ..mirage_core.cache.track import Behaviour
from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.colours import COARSEST_FOR_SHOTS, ColourCodec
from ..mirage_core.codecs.memory_kind import MemoryKind
from ..mirage_core.geometry.camera import PixelConvention
from ..mirage_core.geometry.depth import DEPTH_MODES
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.masks import with_mask
from ..mirage_core.geometry.sources import views_to_begin
from ..mirage_core.masks.tracks import Tracks
from ..mirage_core.readout.readout import Readout
from ..mirage_core.rollout.decode import encode_overlap
from ..mirage_core.rollout.memory import WrittenChunk, begin_memory, write_chunk
from ..mirage_core.rollout.run_folder import commit
from ..mirage_core.rollout.settings import MemorySettings
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.validate import expect_frame_size
from ..mirage_core.writing.consistency import ConsistencyConfig
from ..mirage_core.writing.policy import WRITE_POLICIES, WriteLimits, WriteRules
from .comfy import viewer
from .comfy.patch_shelf import keep_pictures
from .comfy.ui import progress
from .comfy.vae import (
    Latent,
    VaeCodec,
    expect_shot_vae,
    latent_tokens,
    make_latent,
)
from .shot import expect_begun, expect_one_writer
from .types import CacheType, GeometryType, ReadoutType, StateType, TracksType

if TYPE_CHECKING:
    import comfy.sd

TOKEN_STORAGES = {"float16": torch.float16, "int8": torch.int8}
"""In which types a memory may hold its tokens."""

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
    """The memory of one picture, or of several photographs of one place."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageCacheInit",
            display_name="Mirage Cache Init",
            category="Mirage/memory",
            description=(
                "Lifts the latent of a picture, or of several photographs of one place, to 3D "
                "points with their depth: the memory."
            ),
            search_aliases=["memory", "latent cache", "point cloud", "start"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture; both sizes divisible by 32. Of a batch, all of up to 16 "
                    "photographs of one place are taken when the geometry has their cameras.",
                ),
                GeometryType.Input("geometry", tooltip="Depth and field of view of the picture."),
                io.Vae.Input("vae", tooltip="Wan2.2 VAE, or Mirage Embedded Codec; for a "
                    "memory of colours also Wan2.1 VAE."),
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
                io.Combo.Input(
                    "token_storage", options=list(TOKEN_STORAGES), default="float16",
                    optional=True, advanced=True,
                    tooltip="How the memory keeps its tokens, for the whole shot. int8: 40 % "
                    "smaller, with rounding to 8 bits.",
                ),
                io.Combo.Input(
                    "what", options=[kind.value for kind in MemoryKind],
                    default=MemoryKind.TOKENS.value, optional=True,
                    tooltip="tokens: what the video model reads by itself. colours: the pixels, "
                    "for Mirage Render and models that take a picture of the scene; about thirty "
                    "times larger.",
                ),
                io.Int.Input(
                    "colour_step", default=1, min=1, max=COARSEST_FOR_SHOTS,
                    optional=True, advanced=True,
                    tooltip="With colours: one point for every pixel, or for every second one "
                    "along each side.",
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
        token_storage: str = "float16",
        what: str = MemoryKind.TOKENS.value,
        colour_step: int = 1,
    ) -> io.NodeOutput:
        kind = MemoryKind(what)
        codec = VaeCodec(vae, memory=kind)
        height, width = int(image.shape[1]), int(image.shape[2])
        expect_frame_size(width, height)
        geometry.expect_aspect(width, height)
        views = views_to_begin(len(image), geometry)
        seen = geometry.select(list(range(views)))
        if exclude is not None and len(exclude) == len(image):
            exclude = exclude[:views]
        seen = with_mask(seen, exclude, (height, width))
        tokens = codec.encode_images(image[:views])
        settings = MemorySettings(
            write=WriteConfig(depth_mode, drop_flying),
            convention=PixelConvention(pixel_convention),
            token_dtype=TOKEN_STORAGES[token_storage],
        )
        held, name = tokens, codec.name
        if kind is MemoryKind.COLOURS:
            colours = ColourCodec(colour_step)
            held, name = colours.encode_images(image[:views, :, :, :3]), colours.name
        cache = begin_memory(held, seen, name, settings)
        poses = seen.world_to_camera
        poses = torch.eye(4).expand(views, 4, 4) if poses is None else poses
        keep_pictures(cache, image[:views], poses, torch.zeros(views, dtype=torch.int64))
        return io.NodeOutput(cache, make_latent(tokens[:, :1]))


def _limits_and_doubts() -> list[io.Input]:
    """Inputs of what is written at most, and of what is not believed."""
    return [
        io.Int.Input(
            "max_points", default=0, min=0, max=100_000_000, step=1000, optional=True,
            advanced=True,
            tooltip="Most points in the memory; 0 is no limit. Above it the densest parts "
            "are thinned, and no place is forgotten.",
        ),
        io.Boolean.Input(
            "hold_back", default=False, optional=True,
            tooltip="Also leave out what other frames or the memory contradict: motion "
            "that no mask names. With append, remembered things that left are forgotten.",
        ),
        io.Float.Input(
            "token_change", default=0.0, min=0.0, max=100.0, step=0.1, optional=True,
            advanced=True,
            tooltip="With hold_back: distance of tokens from which a place counts as "
            "changed although its depth is the same, such as a screen. 0: depth alone.",
        ),
    ]


def _what_moves() -> list[io.Input]:
    """Inputs of what goes to actors."""
    return [
        TracksType.Input(
            "tracks", optional=True,
            tooltip="What moves in the chunk's frames, from Mirage Tracks: it is written "
            "to its actor, and stays out of the set.",
        ),
        io.Combo.Input(
            "unseen", optional=True, advanced=True,
            options=[one.value for one in Behaviour if one is not Behaviour.PATH],
            default=Behaviour.STAY.value,
            tooltip="What new actors do when nobody looks: be forgotten, stay, or go on.",
        ),
    ]


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
                    tooltip="Depth of the chunk's frames: all of them, every fourth, or of the "
                    "whole shot, from a renderer.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that the memory was made with."),
                io.Combo.Input(
                    "policy", options=list(WRITE_POLICIES), default="novelty",
                    tooltip="novelty: only what the memory does not show yet, and what it "
                    "shows wrongly goes. append: everything, as in the paper.",
                ),
                io.Combo.Input(
                    "tokens", options=["reencode", "direct"], default="reencode",
                    tooltip="reencode: decoded frames are encoded again, each alone. direct: the "
                    "chunk's latents are written as they are. A memory of colours takes the "
                    "frames in any case.",
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
                *_limits_and_doubts(),
                *_what_moves(),
            ],
            outputs=[
                StateType.Output(display_name="state"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @override
    def execute(
        cls,
        state: RolloutState,
        readout: Readout,
        latent: Latent,
        images: Tensor,
        geometry: FrameGeometry,
        vae: comfy.sd.VAE,
        policy: str,
        tokens: str,
        depth_mode: str,
        drop_flying: bool,
        exclude: Tensor | None = None,
        max_points: int = 0,
        hold_back: bool = False,
        token_change: float = 0.0,
        tracks: Tracks | None = None,
        unseen: str = Behaviour.STAY.value,
    ) -> io.NodeOutput:
        expect_one_writer(expect_begun(state), cls.hidden.unique_id)
        steps = progress(STAGES)
        images = images[..., :3]
        kind = state.cache.kind
        codec = VaeCodec(vae, lambda done, total: steps(done / total, STAGES), kind)
        if kind is MemoryKind.TOKENS:
            expect_same_codec(state.cache.codec, codec)
        expect_shot_vae(state, codec)
        chunk_tokens = latent_tokens(latent, "The chunk's latent", kind)
        settings = MemorySettings(
            rules=WriteRules(policy, limits=WriteLimits(max_points)),
            write=WriteConfig(depth_mode, drop_flying),
            align=None,
            consistency=ConsistencyConfig(token=token_change or None) if hold_back else None,
            reencode=tokens != "direct",
        )
        written = write_chunk(
            state,
            chunk_tokens,
            images,
            geometry,
            settings,
            encode=codec.encode_images,
            masks={"The exclusion mask": exclude},
            on_frame=lambda done, total: steps(1 + done / total, STAGES),
            tracks=tracks,
            cast=CastConfig(behaviour=Behaviour(unseen)),
        )
        made = written.prepared.observation
        first = (made.frames - state.chunk.first_frame).tolist()
        keep_pictures(written.cache, images[first], made.world_to_camera, made.frames)
        after = commit(
            state,
            latents=chunk_tokens,
            frames=images,
            readout=readout,
            cache=written.cache,
            overlap=encode_overlap(codec, state, images),
            on_frame=lambda done, total: steps(2 + done / total, STAGES),
        )
        return io.NodeOutput(viewer.announce_chunk(after), _report(state, written, hold_back))


def _report(state: RolloutState, written: WrittenChunk, checked: bool) -> str:
    """What an update did, in one line."""
    done = written.report
    rejected = "nothing was held back"
    if checked:
        rejected = (
            f"held back {done.rejected:.1%}, {done.gone:,} remembered points are seen through"
        )
    drift = "" if done.drift is None else f"; {done.drift.describe_drift()}"
    cast = "" if written.cast is None else f"; {written.cast.describe()}"
    notes = "".join(f"; {note}" for note in done.notes)
    return (
        f"{done.written:.1%} of the cells may be written; {rejected}; "
        f"{len(state.cache):,} points became {len(written.cache):,}{drift}{cast}{notes}"
    )
