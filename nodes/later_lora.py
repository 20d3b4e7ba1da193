"""A LoRA for every chunk of a shot but the first."""

from __future__ import annotations

from comfy_api.latest import io
from typing_extensions import override

from ..mirage_core.rollout.state import RolloutState
from .comfy.lora import LORA_FOLDER, with_lora
from .comfy.model import Patcher, model_file, model_files
from .shot import expect_begun
from .types import StateType


class MirageLaterLora(io.ComfyNode):
    """A video model with a LoRA from the second chunk on."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLaterLora",
            display_name="Mirage Later LoRA",
            category="Mirage/sampling",
            description=(
                "Adds a LoRA to the video model for every chunk of a shot but the first, such as "
                "the one that comes with Spatia's side branch. Reads the names of the released "
                "training code as well. Belongs between Mirage Loop Open and Mirage Apply."
            ),
            search_aliases=["lora", "spatia", "autoregressive lora", "load lora"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2-TI2V-5B, with other LoRAs if any."),
                io.Combo.Input(
                    "lora_name", options=model_files(LORA_FOLDER),
                    tooltip="A LoRA for Wan2.2-TI2V-5B in models/loras.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=-10.0, max=10.0, step=0.01,
                    tooltip="Strength of the LoRA; 0 leaves it out.",
                ),
                StateType.Input(
                    "state", tooltip="From Mirage Loop Open: tells which chunk is made."
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    @override
    def execute(
        cls, model: Patcher, lora_name: str, strength: float, state: RolloutState
    ) -> io.NodeOutput:
        # In the first chunk too, so that a file that does not fit is told before it is needed.
        patched = with_lora(model, model_file(LORA_FOLDER, lora_name), strength)
        later = expect_begun(state).done > 0 and strength != 0
        return io.NodeOutput(patched if later else model)
