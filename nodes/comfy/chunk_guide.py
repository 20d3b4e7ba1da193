"""What Mirage puts around ComfyUI's sampling of one chunk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ...mirage_core.conditioning.condition import Condition
from ...mirage_core.constants import PATCH_SIZE
from ...mirage_core.errors import ModelMismatchError, ShapeError
from .branch import Side, SidePass, replaced, segment_positions
from .cancel import stop_when_cancelled, stopping_between
from .model import Patcher, expect_fitting_loras, expect_video_model
from .vae import Latent, from_model_space

KEY = "mirage"
"""Name of everything that Mirage adds to a model."""

Wrappers = comfy.patcher_extension.WrappersMP

_KEPT_STREAMS = 3
"""Token streams that the side branch keeps beside the video model's own: its own tokens, those
that it began from, and the hint."""

_FOREIGN_FRAMES = ("time_dim_concat", "context_latents")
"""Entries of a conditioning with which other nodes put frames of their own into the model."""


def chunk_latent(first: Tensor, frames: int) -> Latent:
    """LATENT of a chunk whose leading frames are given and whose others are to be made.

    Args:
        first: (C, K, h, w) clean leading frames in model space.
        frames: Latent frames of the chunk.
    """
    channels, given, *grid = first.shape
    tokens = torch.cat([first, first.new_zeros(channels, frames - given, *grid)], dim=1)
    return masked_latent(tokens, given)


def masked_latent(tokens: Tensor, given: int) -> Latent:
    """LATENT of model-space tokens (C, T, h, w) whose leading ``given`` frames are to be kept."""
    samples = from_model_space(tokens[None]).to(comfy.model_management.intermediate_device())
    mask = torch.ones_like(samples[:, :1])
    mask[:, :, :given] = 0
    return {"samples": samples, "noise_mask": mask}


def without_mirage(model: Patcher) -> Patcher:
    """A clone of a model on which nothing of Mirage is in force."""
    patched = model.clone()
    for kind in list(patched.wrappers):
        patched.remove_wrappers_with_key(kind, KEY)
    patched.remove_additional_models(KEY)
    return patched


# --- what holds for every way of guiding a chunk --------------------------------------------------


def sample_chunk(
    executor: Any,
    grid: tuple[int, int, int],
    first: Tensor,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    mask: Tensor | None,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Sample with clean leading frames; frames that are clean come out bit for bit.

    Args:
        executor: Continues ComfyUI's sampling.
        grid: (T, h, w) of the chunk.
        first: (1, C, K, h, w) clean leading frames in raw VAE space.
        noise: (B, C, T, h, w).
        latent: (B, C, T, h, w) in raw VAE space.
        sampler: Handed on.
        sigmas: Handed on.
        mask: (B, C, T, h, w), 0 where the latent is clean; None: it is so nowhere.
        *args: Handed on.
        **options: Handed on.

    Raises:
        ShapeError: The latent belongs to another chunk.
        ModelMismatchError: Something else on the model or its conditioning does not go together
            with Mirage.
    """
    guider = executor.class_obj
    _expect_latent(latent, grid)
    _expect_guider(guider)
    _expect_conditioning(guider)
    for model in _models(guider):
        expect_video_model(model)
        expect_fitting_loras(model)
    latent = _with_first(guider, latent, first)
    if mask is None:
        mask = torch.ones(latent.shape, device=guider.model_patcher.load_device)
    mask = mask.clone()
    mask[:, :, : first.shape[2]] = 0
    samples = executor(noise, latent, sampler, sigmas, mask, *args, **options)
    return torch.where(mask.to(samples.device) == 0, latent.to(samples), samples)


def _with_first(guider: Any, latent: Tensor, first: Tensor) -> Tensor:
    if not bool(latent.any()):
        # ComfyUI takes a latent of zeros as it is, without bringing it to model space.
        latent = guider.model_patcher.model.process_latent_out(latent)
    latent = latent.clone()
    latent[:, :, : first.shape[2]] = first.to(latent)
    return latent


def _expect_latent(latent: Tensor, grid: tuple[int, int, int]) -> None:
    if latent.ndim == len(grid) + 2 and tuple(latent.shape[2:]) == grid:
        return
    raise ShapeError(
        "The latent to sample and the readout have different sizes",
        got=tuple(latent.shape),
        expected=f"(batch, 48, {', '.join(map(str, grid))})",
        fix="Connect the latent output of the Mirage node that patched the model",
    )


def _expect_guider(guider: Any) -> None:
    """Raise `ModelMismatchError` for what would sample frames apart, or steer by nothing."""
    if guider.model_options.get("context_handler") is not None:
        raise ModelMismatchError(
            "Context windows split the chunk into parts that do not match the memory",
            expected="a model without context windows: a chunk is sampled whole",
            fix="Remove the context window node; long shots are made by the Mirage loop",
        )
    cfg = float(getattr(guider, "cfg", 1.0))
    if not math.isclose(cfg, 1.0) and not _has_text(guider.conds.get("negative")):
        raise ModelMismatchError(
            "Classifier-free guidance has no negative conditioning",
            got=f"cfg {cfg:g} and no negative input",
            expected="a negative conditioning, or cfg 1",
            fix="Connect a CLIP Text Encode to negative (its text may be empty), or set cfg to 1",
        )


def _models(guider: Any) -> list[Patcher]:
    """The models that a guider runs: one, and with Dual Model Guider another for the negative."""
    other = getattr(guider, "uncond_model_patcher", None)
    return [guider.model_patcher, *([] if other is None else [other])]


def _has_text(conds: list[dict[str, Any]] | None) -> bool:
    """False as well for what a guider fills in where its negative is left unconnected."""
    return all(cond.get("cross_attn") is not None for cond in conds) if conds else False


def _expect_conditioning(guider: Any) -> None:
    for conds in guider.conds.values():
        for cond in conds:
            foreign = [name for name in _FOREIGN_FRAMES if cond.get(name) is not None]
            if foreign:
                raise ModelMismatchError(
                    "The conditioning adds frames of its own to the model",
                    got=", ".join(foreign),
                    expected="a text conditioning",
                    fix="Remove the node that adds frames to the conditioning; Mirage adds the "
                    "reference and preceding frames by itself",
                )


# --- the memory as condition ----------------------------------------------------------------------


@dataclass
class _Run:
    """What one sampling run needs and no other may see."""

    high: float = math.inf
    low: float = -math.inf
    moved: dict[tuple[str, torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def on_device(self, name: str, tensor: Tensor, like: Tensor) -> Tensor:
        """(1, ...) on the device and in the type of ``like``, moved there once a run."""
        key = (name, like.device, like.dtype)
        if key not in self.moved:
            self.moved[key] = tensor[None].to(like)
        return self.moved[key]


class ChunkGuide:
    """Shows a video model what the memory knows of one chunk.

    Args:
        condition: What it knows.
        first: (C, K, h, w) clean leading frames in model space.
        side: The side branch; None for clean frames alone.
    """

    def __init__(self, condition: Condition, first: Tensor, side: Side | None) -> None:
        self.condition = dataclasses.replace(condition, clean=first.shape[1])
        self.first = from_model_space(first[None])
        self.side = side
        self._run: _Run | None = None

    def patch(self, model: Patcher) -> Patcher:
        """A clone of ``model`` that is guided when it is sampled."""
        patched = without_mirage(model)
        patched.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, KEY, self.outer_sample)
        patched.add_wrapper_with_key(Wrappers.PREPARE_SAMPLING, KEY, self.prepare_sampling)
        patched.add_wrapper_with_key(Wrappers.CALC_COND_BATCH, KEY, self.calc_cond_batch)
        patched.add_wrapper_with_key(Wrappers.DIFFUSION_MODEL, KEY, self.diffusion_model)
        if self.side is not None:
            patched.set_additional_models(KEY, [self.side.patcher])
        return patched

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, h, w) of the chunk."""
        frames, height, width = self.condition.visible.shape
        return frames, height, width

    def outer_sample(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        """Around a whole sampling run: what it needs, and nothing left of it afterwards."""
        self._run = _Run()
        if self.side is not None:
            sampling = executor.class_obj.model_patcher.get_model_object("model_sampling")
            # Unlimited at the ends: rounding takes the first level beyond 1 at some shifts.
            if self.side.start > 0:
                self._run.high = float(sampling.percent_to_sigma(self.side.start))
            if self.side.end < 1:
                self._run.low = float(sampling.percent_to_sigma(self.side.end))
        try:
            return sample_chunk(executor, self.grid, self.first, *args, **options)
        finally:
            self._run = None

    def prepare_sampling(
        self, executor: Any, model: Patcher, shape: Any, *args: Any, **options: Any
    ) -> Any:
        """Around loading: room for the clean frames and for what the side branch keeps."""
        base = model.model
        return executor(model, self._with_room(base, base.memory_required, shape), *args, **options)

    def calc_cond_batch(self, executor: Any, model: Any, *args: Any, **options: Any) -> Any:
        """Around one estimate: prompts share a forward pass only where all frames have room."""
        required = model.memory_required

        def for_all(input_shape: Any, **known: Any) -> float:
            return required(self._with_room(model, required, input_shape), **known)

        with replaced(model, "memory_required", for_all):
            return executor(model, *args, **options)

    def _with_room(self, model: Any, required: Callable[..., float], shape: Any) -> list[int]:
        """A latent's shape, with as many frames as the memory of all of it is worth."""
        segments, room = self.condition.segments, list(shape)
        room[2] += segments.references + segments.preceding
        if self.side is not None:
            tokens = segments.main * (room[3] // PATCH_SIZE) * (room[4] // PATCH_SIZE)
            size = comfy.model_management.dtype_size(model.get_dtype_inference())
            kept = _KEPT_STREAMS * tokens * self.side.config.dim * size
            room[2] += math.ceil(kept / required([1, room[1], 1, *room[3:]]))
        return room

    def diffusion_model(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """Around one forward pass: clean frames before and after the chunk's, and hints."""
        stop_when_cancelled()
        _expect_latent(x, self.grid)
        run = self._run or _Run()
        segments = self.condition.segments
        known = dict(transformer_options or {})
        if self.side is not None and _active(run, known):
            planes = run.on_device("planes", self.side.planes, x)
            side = SidePass(self.side, segments, executor.class_obj, planes)
            known["patches_replace"] = side.replaces(known.get("patches_replace", {}))
        references = run.on_device("references", self.condition.references, x)
        preceding = run.on_device("preceding", self.condition.preceding, x)
        batch = (len(x), -1, -1, -1, -1)
        frames = torch.cat([references.expand(batch), x, preceding.expand(batch)], dim=2)
        times = segments.timesteps(timestep)
        model = executor.class_obj
        with segment_positions(model, segments), stopping_between(model.blocks):
            velocity = executor(frames, times, context, clip_fea, time_dim_concat, known, **options)
        return velocity[:, :, segments.target_frames]


def _active(run: _Run, options: Mapping[str, Any]) -> bool:
    sigmas = options.get("sigmas")
    return sigmas is None or run.low <= float(sigmas.max()) <= run.high
