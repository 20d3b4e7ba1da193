"""A shot of colours with the Wan2.1 VAE inside the test process, up to a chunk of the loop."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tiny_weights import vae21_tensors

WIDTH, HEIGHT, FRAMES = 64, 32, 21
LENGTHS = {"first_chunk_frames": 9, "chunk_frames": 13, "overlap_frames": 5}


class VaceKit:
    """Nodes as the graph connects them, on a procedural picture."""

    def __init__(self, pack: ModuleType) -> None:
        import comfy.sd

        self.pack, self.comfy = pack, comfy
        self.nodes = pack.nodes
        self.errors = pack.mirage_core.errors
        self.border = pack.nodes.comfy.vae
        self.wan21 = comfy.sd.VAE(sd=vae21_tensors())
        self.embedded = self.nodes.MirageEmbeddedCodec.execute().args[0]
        scene = self.nodes.MirageEmbeddedScene.execute(16, WIDTH, HEIGHT, 70.0).args
        self.picture, self.geometry = scene[:2]

    def module(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def path(self, frames: int = FRAMES, fps: float = 16.0) -> Any:
        """A camera that walks to the right."""
        kit = self.module("mirage_core.geometry.trajectory")
        poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        poses[:, 0, 3] = -0.05 * torch.arange(frames)
        lens = self.geometry.intrinsics_for((HEIGHT, WIDTH)).repeat(frames, 1, 1)
        return kit.Trajectory(poses, lens, WIDTH, HEIGHT, fps)

    def begin_memory(self, vae: Any = None, **changes: Any) -> tuple[Any, Any]:
        """Mirage Cache Init: memory and first latent."""
        given = {"what": "colours", "colour_step": 2} | changes
        return self.nodes.MirageCacheInit.execute(
            self.picture, self.geometry, vae or self.wan21, "bilinear", True, "paper", **given
        ).args

    def begin(
        self, folder: Path | None = None, path: Any = None, lengths: dict | None = None,
        vae: Any = None, **changes: Any,
    ) -> Any:  # fmt: skip
        """The state that Mirage Loop Open gives for the first chunk that is not saved."""
        cache, first = self.begin_memory(vae, **changes)
        core = self.module("mirage_core.rollout.state")
        plan = self.module("mirage_core.rollout.plan").ChunkLengths
        tokens = self.border.latent_tokens(first, "x", cache.kind)
        long = lengths or LENGTHS
        state = core.RolloutState(
            path or self.path(), cache, tokens, 0, "run", folder, lengths=plan(*long.values())
        )
        if folder is None:
            return state
        return self.module("mirage_core.rollout.run_folder").open_folder(state)

    def render(self, state: Any) -> tuple[Tensor, Tensor]:
        """Mirage Render of the chunk."""
        return self.nodes.MirageRender.execute(
            holes="grey", cache=state.cache, trajectory=state.frame_cameras
        ).args[:2]

    def latent(self, state: Any) -> dict[str, Tensor]:
        """What a sampler might make."""
        rng = torch.Generator().manual_seed(state.done)
        height, width = state.latent_grid
        shape = (1, state.channels, state.chunk.latent_frames, height, width)
        return {"samples": torch.randn(shape, generator=rng)}

    def update(self, state: Any, latent: Any, images: Tensor, vae: Any = None) -> Any:
        """Mirage Cache Update with a flat depth."""
        geometry = self.module("mirage_core.geometry.frame_geometry").FrameGeometry
        cameras = state.latent_cameras
        depth = geometry(torch.full((len(cameras), HEIGHT, WIDTH), 2.0), cameras.intrinsics)
        readout = self.nodes.MirageReadout.execute(state.cache, state.frame_cameras).args[0]
        node = type("Placed", (self.nodes.MirageCacheUpdate,), {"hidden": SimpleNamespace(
            unique_id="1"
        )})  # fmt: skip
        return node.execute(
            state, readout, latent, images, depth, vae or self.wan21, "novelty", "reencode",
            "bilinear", True,
        ).args[0]  # fmt: skip

    def advance(self, state: Any, chunks: int = 1) -> Any:
        """Finish chunks with what a sampler might make."""
        for _ in range(chunks):
            latent = self.latent(state)
            images, _ = self.decode(state, latent)
            state = self.update(state, latent, images)
        return state

    def decode(self, state: Any, latent: Any, vae: Any = None, carried: int = 0) -> Any:
        """Mirage Chunk Decode."""
        return self.nodes.MirageChunkDecode.execute(
            latent, vae or self.wan21, state, carried
        ).args  # fmt: skip
