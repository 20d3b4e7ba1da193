"""The library's sampler, decoding without a seam, and splitting of merged model files."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from typing_extensions import override

from ..mirage_core.conditioning.branch_file import split_merged
from ..mirage_core.constants import TEMPORAL_STRIDE
from ..mirage_core.rollout.context import PRECEDING
from ..mirage_core.rollout.seam import context_latents, decode_with_context
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.sampling.schedule import (
    DEFAULT_SHIFT,
    DEFAULT_STEPS,
    MAX_SHIFT,
    MAX_STEPS,
    sigma_grid,
)
from . import adapters
from .adapters_guidance import LibrarySampler, expect_library_solver
from .adapters_model import MODEL_FOLDER, model_file, model_files, split_targets
from .readout_nodes import expect_same_codec
from .types import StateType

if TYPE_CHECKING:
    import comfy.sd

MOST_CARRIED = 8
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
                "Sampler and noise levels as the method's released code has them, for "
                "SamplerCustomAdvanced: the same numbers as the command line. Other samplers "
                "work as well. Needs diffusers."
            ),
            search_aliases=["sampler", "scheduler", "unipc", "sigmas", "released sampler"],
            inputs=[
                io.Int.Input(
                    "steps", default=DEFAULT_STEPS, min=1, max=MAX_STEPS, tooltip="Sampling steps."
                ),
                io.Float.Input(
                    "shift", default=DEFAULT_SHIFT, min=0.01, max=MAX_SHIFT, step=0.01,
                    tooltip="Larger values spend more steps at high noise. The shift of the "
                    "model itself does not count here.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler"),
                io.Sigmas.Output(display_name="sigmas"),
            ],
        )

    @classmethod
    @override
    def execute(cls, steps: int, shift: float) -> io.NodeOutput:
        expect_library_solver()
        return io.NodeOutput(LibrarySampler(), sigma_grid(steps, shift))


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
                "Decodes a chunk together with the latents before it, so that no seam shows "
                "where it begins: the VAE looks back in time, and decoded alone a chunk would "
                "begin as a new video. Returns the chunk's frames only, and every fourth of them, "
                "of which the memory needs the depth."
            ),
            search_aliases=["vae decode", "seam", "overlap decode", "temporal context"],
            inputs=[
                io.Latent.Input("latent", tooltip="The chunk's finished latent."),
                io.Vae.Input("vae", tooltip="The VAE that the memory was made with."),
                StateType.Input("state", tooltip="From Mirage Loop Open."),
                io.Int.Input(
                    "carried", default=PRECEDING, min=0, max=MOST_CARRIED,
                    tooltip="Latents before the chunk that are decoded with it; 0 decodes it "
                    "alone.",
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
        cls, latent: adapters.Latent, vae: comfy.sd.VAE, state: RolloutState, carried: int
    ) -> io.NodeOutput:
        expect_same_codec(state.cache, vae)
        images = decode_with_context(
            lambda tokens: adapters.decode_video(vae, adapters.make_latent(tokens)),
            context_latents(state, carried),
            adapters.latent_tokens(latent, "The chunk's latent"),
        )
        return io.NodeOutput(images, images[::TEMPORAL_STRIDE])


class MirageSplitCheckpoint(io.ComfyNode):
    """Takes a file that holds a video model and its side branch apart."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSplitCheckpoint",
            display_name="Mirage Split Checkpoint",
            category="Mirage/sampling",
            description=(
                "Splits a file into which a side branch was merged: the video model goes to "
                "output/diffusion_models, the branch to models/model_patches. The file itself "
                "stays as it is. Press R afterwards to see the new files in the loaders."
            ),
            search_aliases=["merged model", "extract branch", "vace checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=model_files(MODEL_FOLDER),
                    tooltip="A file in models/diffusion_models that holds both.",
                )
            ],
            outputs=[
                io.String.Output(display_name="model_path"),
                io.String.Output(display_name="branch_path"),
            ],
            is_output_node=True,
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, **_: Any) -> str:
        # The files may have been moved or deleted since: look every time.
        return uuid.uuid4().hex

    @classmethod
    @override
    def execute(cls, model_name: str) -> io.NodeOutput:
        path = model_file(MODEL_FOLDER, model_name)
        model, branch = map(str, split_merged(path, *split_targets(path)))
        return io.NodeOutput(model, branch, ui={"text": (model, branch)})
