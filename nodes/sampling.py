"""The library's sampler, decoding without a seam, and splitting of merged model files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from typing_extensions import override

from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.memory_kind import MemoryKind
from ..mirage_core.constants import TEMPORAL_STRIDE
from ..mirage_core.readout.readout import Readout
from ..mirage_core.rollout.decode import context_latents, decode_with_context
from ..mirage_core.rollout.settings import DEFAULT_DECODE_CONTEXT
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.sampling.schedule import (
    DEFAULT_SHIFT,
    DEFAULT_STEPS,
    MAX_SHIFT,
    MAX_STEPS,
    sigma_schedule,
)
from .branch import FIRST_TIP, READOUT_TIP, expect_parts
from .comfy.chunk_guide import chunk_latent, masked_latent, without_mirage
from .comfy.model import Patcher
from .comfy.training_free import TrainingFreeGuide
from .comfy.unipc import LibrarySampler, expect_library_solver
from .comfy.vae import Latent, VaeCodec, expect_shot_vae, latent_tokens
from .shot import expect_begun
from .types import ReadoutType, StateType

if TYPE_CHECKING:
    import comfy.sd

MAX_CARRIED = 8
"""Latents beyond which the decoder's memory of the past ends."""


class MirageUniPC(io.ComfyNode):
    """The sampler and the noise levels of the released code."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageUniPC",
            display_name="Mirage UniPC",
            category="Mirage/sampling",
            description=(
                "Sampler and noise levels of the method's released code, for "
                "SamplerCustomAdvanced. Gives the same results as the command line. Other "
                "samplers work as well. Requires diffusers."
            ),
            search_aliases=["sampler", "scheduler", "unipc", "sigmas", "released sampler"],
            inputs=[
                io.Int.Input(
                    "steps", default=DEFAULT_STEPS, min=1, max=MAX_STEPS, tooltip="Sampling steps."
                ),
                io.Float.Input(
                    "shift", default=DEFAULT_SHIFT, min=0.01, max=MAX_SHIFT, step=0.01,
                    tooltip="Larger values spend more steps at high noise. Independent of the "
                    "shift of the model.",
                ),
            ],
            outputs=[
                # A decorator of ComfyUI makes this name, unseen by type checkers.
                io.Sampler.Output(display_name="sampler"),  # type: ignore[attr-defined]
                io.Sigmas.Output(display_name="sigmas"),
            ],
        )

    @classmethod
    @override
    def execute(cls, steps: int, shift: float) -> io.NodeOutput:
        expect_library_solver()
        return io.NodeOutput(LibrarySampler(), sigma_schedule(steps, shift))


class MirageChunkDecode(io.ComfyNode):
    """Decodes a chunk behind the latents before it."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageChunkDecode",
            display_name="Mirage Chunk Decode",
            category="Mirage/sampling",
            description=(
                "Decodes a chunk together with the latents before it, to avoid a visible seam at "
                "its start: the VAE is causal, and decoded alone a chunk would start like a new "
                "video. Returns only the chunk's frames, and every fourth of them for the depth "
                "estimator."
            ),
            search_aliases=["vae decode", "seam", "overlap decode", "temporal context"],
            inputs=[
                io.Latent.Input("latent", tooltip="The chunk's finished latent."),
                io.Vae.Input("vae", tooltip="The VAE that the memory was made with."),
                StateType.Input("state", tooltip="From Mirage Loop Open."),
                io.Int.Input(
                    "carried", default=DEFAULT_DECODE_CONTEXT, min=0, max=MAX_CARRIED,
                    tooltip="Number of latents before the chunk that are decoded with it; 0 "
                    "decodes it alone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Image.Output(display_name="depth_images"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls, latent: Latent, vae: comfy.sd.VAE, state: RolloutState, carried: int
    ) -> io.NodeOutput:
        kind = expect_begun(state).cache.kind
        codec = VaeCodec(vae, memory=kind)
        if kind is MemoryKind.TOKENS:
            expect_same_codec(state.cache.codec, codec)
        expect_shot_vae(state, codec)
        images = decode_with_context(
            codec.decode,
            context_latents(state, carried),
            latent_tokens(latent, "The chunk's latent", kind),
        )
        return io.NodeOutput(images, images[::TEMPORAL_STRIDE])


class MirageTrainingFree(io.ComfyNode):
    """Steers the plain video model by the memory, without weights of its own."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrainingFree",
            display_name="Mirage Training-Free Guidance",
            category="Mirage/sampling",
            description=(
                "Makes plain Wan2.2-TI2V-5B follow the memory without a side branch: visible "
                "cells are pinned to the readout, re-noised to each step's level, for the first "
                "part of the steps. Weaker than a trained side branch; see the help page."
            ),
            search_aliases=["inpaint", "no branch", "latent blend", "guidance", "sdedit"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2-TI2V-5B, with LoRAs if any."),
                ReadoutType.Input("readout", tooltip=READOUT_TIP),
                io.Latent.Input("first_latent", tooltip=FIRST_TIP),
                io.Float.Input(
                    "until", default=0.6, min=0.0, max=1.0, step=0.01,
                    tooltip="Share of the steps in which visible cells are pinned. Later steps are "
                    "free and blend pinned and generated cells. 0 is the plain model.",
                ),
                io.Float.Input(
                    "softness", default=1.0, min=0.0, max=16.0, step=0.1,
                    tooltip="Width of the transition between pinned and free cells, in latent "
                    "cells of 16 pixels.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        model: Patcher,
        readout: Readout,
        first_latent: Latent,
        until: float,
        softness: float,
    ) -> io.NodeOutput:
        _, first = expect_parts(model, readout, first_latent)
        if until == 0:
            latent = chunk_latent(first, len(readout.visible))
            return io.NodeOutput(without_mirage(model), latent)
        # A run that begins below full noise begins from the readout as well.
        given = first.shape[1]
        tokens = torch.cat([first, readout.tokens[:, given:].float()], dim=1)
        guide = TrainingFreeGuide(readout, first, until, softness)
        return io.NodeOutput(guide.patch(model), masked_latent(tokens, given))
