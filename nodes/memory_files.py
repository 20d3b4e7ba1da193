"""Looking at a memory, saving it and loading it."""

from __future__ import annotations

from io import BytesIO

import torch
from comfy_api.latest import Types, io
from typing_extensions import override

from ..mirage_core.cache.io import load_cache, save_cache
from ..mirage_core.cache.ply import point_cloud_ply
from ..mirage_core.cache.types import LatentCache
from .comfy import viewer
from .comfy.files import file_stamp, list_files, next_file, resolve_file
from .comfy.vae import token_colours
from .types import CacheType


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
        colours = [token_colours(block.values, cache.codec) for block in cache.blocks]
        cloud = point_cloud_ply(cache, torch.cat(colours or [torch.zeros(0, 3)]))
        report = (
            f"{len(cache):,} points in {len(cache.blocks)} blocks, "
            f"{cache.nbytes / 2**20:.1f} MiB; {cache.kind.value} of {cache.codec}, "
            f"{cache.convention.value} pixel convention"
        )
        for actor in cache.actors:
            width, height, _ = actor.size
            report += (
                f"\nactor {actor.name}: {len(actor):,} points, {width:.2f} wide, {height:.2f} "
                f"high, {actor.behaviour.value}"
            )
        return io.NodeOutput(
            report,
            Types.File3D(BytesIO(cloud), "ply"),
            ui={"text": (report,), "mirage_memory": (viewer.memory_view(cache),)},
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
        path = save_cache(next_file(filename_prefix, "safetensors"), cache)
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
                    "file", options=list_files("safetensors"), tooltip="The memory file."
                )
            ],
            outputs=[CacheType.Output(display_name="cache")],
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, file: str) -> tuple[str, int]:
        return file_stamp(file)

    @classmethod
    @override
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_cache(resolve_file(file)))
