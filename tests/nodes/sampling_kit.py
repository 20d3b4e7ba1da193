"""A tiny video model inside the test process, with ComfyUI's own samplers around it."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tiny_models import SIZE, conditioning, side_branch, video_model
from tiny_weights import branch_config

FRAMES, ROWS, COLUMNS = 3, 4, 6
GRID = (FRAMES, ROWS, COLUMNS)
PREVIEW = Callable[[int, Tensor, Tensor, int], None]


class Kit:
    """What sampling tests share; everything comes from the pack as ComfyUI loads it."""

    def __init__(self, pack: ModuleType) -> None:
        import comfy.model_management
        import comfy.sample
        import comfy.samplers
        import comfy.sd

        self.pack = pack
        self.name = pack.__name__
        self.comfy = comfy
        self.nodes = pack.nodes
        self.core = pack.mirage_core
        self.errors = pack.mirage_core.errors
        self.sampling = pack.nodes.comfy.chunk_guide
        self.models = pack.nodes.comfy.model
        self.vae_border = pack.nodes.comfy.vae
        self._model: Any = None
        self._branches: dict[Any, Any] = {}
        self.kept: dict[Any, Any] = {}

    def close(self) -> None:
        """Let go of every model while ComfyUI is still there to clean up after it."""
        self.comfy.model_management.unload_all_models()
        self._model = None
        self._branches.clear()
        self.kept.clear()
        gc.collect()

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.name}.mirage_core.{name}")

    def fresh_model(self, tensors: dict[str, Tensor] | None = None, **options: Any) -> Any:
        """A video model that no other test has touched."""
        load = self.comfy.sd.load_diffusion_model_state_dict
        return load(dict(tensors or video_model()), model_options=options)

    @property
    def model(self) -> Any:
        """The video model that most tests share, as all prompts of a server do."""
        if self._model is None:
            self._model = self.fresh_model()
        return self._model

    def branch(self, features: str = "scene,visible", shared: bool = False) -> Any:
        """A side branch for layers 0, 2 and 4."""
        key = (features, shared)
        if key not in self._branches:
            config = self.config(features, shared)
            tensors = side_branch(config, seed=5)
            self._branches[key] = self.models.make_branch(config, tensors, named_layers=True)
        return self._branches[key]

    def config(self, features: str, shared: bool, **changes: Any) -> Any:
        parse = self.module("conditioning.features").parse_features
        own = self.module("checkpoints.branch").BranchConfig
        plain = branch_config(SIZE)
        known = {"layers": plain.layers, "dim": plain.dim, "ffn_dim": plain.ffn_dim}
        known |= {"heads": plain.heads, "features": parse(features), "shared_embedding": shared}
        return own(**known | changes)

    def readout(
        self, grid: tuple[int, int, int] = GRID, seed: int = 1, codec: str = "wan2.2"
    ) -> Any:
        """What a memory of random tokens with holes shows to a camera that walks sideways."""
        frames, rows, columns = grid
        rng = torch.Generator().manual_seed(seed)
        trajectory = self.trajectory(4 * frames - 3, columns * 16, rows * 16, step=0.1)
        tokens = torch.randn(48, 1, rows, columns, generator=rng).half()
        holes = torch.rand(1, rows, columns, generator=rng) < 0.2
        cache = self.memory(tokens, trajectory, codec, holes)
        return self.module("readout.readout").read(cache, trajectory)

    def memory(self, tokens: Tensor, trajectory: Any, codec: str, holes: Tensor | None) -> Any:
        """A memory of one picture (48, 1, h, w), seen by the first camera at a depth of 2."""
        build, convention = self.module("cache.build"), self.module("geometry.camera")
        size = (trajectory.height, trajectory.width)
        if holes is not None:
            holes = holes.repeat_interleave(16, 1).repeat_interleave(16, 2)
        geometry = self.module("geometry.frame_geometry").FrameGeometry(
            torch.full((1, *size), 2.0), trajectory.intrinsics[:1], exclude=holes
        )
        paper = convention.PixelConvention.PAPER
        seen = build.observe(
            tokens,
            geometry,
            world_to_camera=trajectory.world_to_camera[:1],
            frames=torch.zeros(1, dtype=torch.int64),
            convention=paper,
            config=build.WriteConfig("bilinear", False),
        )
        empty = self.module("cache.types").LatentCache((), paper, codec)
        return build.append_all(empty, seen)

    def trajectory(self, frames: int, width: int, height: int, step: float = 0.0) -> Any:
        """Cameras that look ahead and walk to the right by ``step`` a frame."""
        kit = self.module("geometry.trajectory")
        pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        pose[:, 0, 3] = -step * torch.arange(frames)
        lens = kit.intrinsics_from_fov(width, height, 70.0).expand(frames, 3, 3)
        return kit.Trajectory(pose, lens, width, height)

    def second_chunk(self, overlap: int = 1) -> Any:
        """A rollout whose first chunk is done: 9 latent frames of it, and a memory of the scene.

        Its chunks share ``overlap`` pixel frames.
        """
        state = self.module("rollout.state")
        lengths = self.module("rollout.plan").ChunkLengths(33, 33, overlap)
        trajectory = self.trajectory(65, COLUMNS * 16, ROWS * 16)
        rng = torch.Generator().manual_seed(6)
        tokens = torch.randn(48, 9, ROWS, COLUMNS, generator=rng)
        cache = self.memory(tokens[:, :1], trajectory, "wan2.2", None)
        start = state.RolloutState(
            trajectory, cache, tokens[:, :1], 0, "run", lengths=lengths
        )
        shown = torch.randn(48, 9, ROWS, COLUMNS, generator=rng)
        shared = torch.randn(48, lengths.overlap_latents, ROWS, COLUMNS, generator=rng)
        record = state.ChunkRecord(
            tokens, shown, torch.ones(9, ROWS, COLUMNS).bool(),
            overlap=shared if overlap > 1 else None,
        )  # fmt: skip
        return start.advanced(record, cache, state.ChunkStatistics(0, 0.0, len(cache), 0, 0, 1))

    def first_latent(self, grid: tuple[int, int, int] = GRID, seed: int = 2) -> dict[str, Tensor]:
        """LATENT of the given picture."""
        rng = torch.Generator().manual_seed(seed)
        tokens = torch.randn(48, 1, *grid[1:], generator=rng)
        return self.vae_border.make_latent(tokens)

    def condition(self, references: int = 0, preceding: int = 0, seed: int = 3) -> Any:
        """A readout with clean frames beside it."""
        rng = torch.Generator().manual_seed(seed)

        def frames(count: int) -> Tensor:
            return torch.randn(48, count, ROWS, COLUMNS, generator=rng)

        shown = self.readout()
        seen = torch.rand(preceding, ROWS, COLUMNS, generator=rng) < 0.5
        return self.module("conditioning.condition").Condition(
            projection=shown.tokens.float(),
            visible=shown.visible,
            references=frames(references),
            preceding=frames(preceding),
            preceding_projection=frames(preceding) * seen,
            preceding_visible=seen,
        )

    def guided(
        self, condition: Any, branch: Any = None, strength: float = 1.0, model: Any = None,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> tuple[Any, dict[str, Tensor]]:  # fmt: skip
        """What Mirage Apply does once it has a condition."""
        model = model or self.model
        first = self.vae_border.latent_tokens(self.first_latent(), "x")
        side = None
        if branch is not None:
            config = branch.fitted(model.model.diffusion_model)
            planes = condition.side_input(config.features)
            side = self.sampling.Side(branch.patcher, config, planes, strength, *span)
        guide = self.sampling.ChunkGuide(condition, first, side)
        return guide.patch(model), self.sampling.chunk_latent(first, FRAMES)

    def apply(self, model: Any = None, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
        """Mirage Apply itself."""
        inputs = {
            "model": model or self.model,
            "readout": self.readout(),
            "first_latent": self.first_latent(),
            "strength": 1.0,
            "references": 4,
            "preceding": 2,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "branch": self.branch(),
        }
        return self.nodes.MirageApply.execute(**inputs | changes).args

    def ksampler(
        self, model: Any, latent: dict[str, Tensor], sampler: str = "euler", *, steps: int = 2,
        cfg: float = 1.0, seed: int = 7, denoise: float = 1.0, callback: PREVIEW | None = None,
        negative: list | None = None,
    ) -> Tensor:  # fmt: skip
        """What KSampler does."""
        samples = latent["samples"]
        return self.comfy.sample.sample(
            model,
            self.comfy.sample.prepare_noise(samples, seed),
            steps,
            cfg,
            sampler,
            "simple",
            conditioning(10),
            conditioning(11) if negative is None else negative,
            samples,
            denoise=denoise,
            noise_mask=latent.get("noise_mask"),
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )

    def custom(
        self, model: Any, latent: dict[str, Tensor], sampler: Any, sigmas: Tensor, *,
        cfg: float | None = None, seed: int = 7, callback: PREVIEW | None = None,
    ) -> Tensor:  # fmt: skip
        """What SamplerCustomAdvanced does, with BasicGuider or (given a cfg) CFGGuider."""
        guider = self.comfy.samplers.CFGGuider(model)
        if cfg is None:
            guider.inner_set_conds({"positive": conditioning(10)})
        else:
            guider.set_conds(conditioning(10), conditioning(11))
            guider.set_cfg(cfg)
        samples = latent["samples"]
        noise = self.comfy.sample.prepare_noise(samples, seed)
        mask = latent.get("noise_mask")
        return guider.sample(
            noise, samples, sampler, sigmas,
            denoise_mask=mask, callback=callback, disable_pbar=True, seed=seed,
        )  # fmt: skip


def packed_operations() -> Any:
    """Layers as loaders of quantised files have them, which unpack their weights in use."""
    import comfy.ops

    class Packed(comfy.ops.manual_cast):
        class Linear(torch.nn.Module):
            def __init__(self, width: int, out: int, bias: bool = True, **_: Any) -> None:
                super().__init__()
                self.in_features, self.out_features = width, out
                self.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
                self.register_buffer("scale", torch.ones(()))
                self.bias = torch.nn.Parameter(torch.empty(0), requires_grad=False)

            def _load_from_state_dict(self, state: dict, prefix: str, *_: Any) -> None:
                weight, bias = state[f"{prefix}weight"], state[f"{prefix}bias"]
                self.scale = weight.abs().max() / 127
                packed = (weight / self.scale).round().to(torch.int8)
                self.weight = torch.nn.Parameter(packed, requires_grad=False)
                self.bias = torch.nn.Parameter(bias, requires_grad=False)

            def forward(self, x: Tensor) -> Tensor:
                weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
                return torch.nn.functional.linear(x, weight, self.bias.to(x.dtype))

    return Packed
