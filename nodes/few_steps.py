"""Few sampling steps as a switch."""

from __future__ import annotations

from comfy_api.latest import io
from typing_extensions import override

from .comfy.few_steps import ANY, AUTO, MODELS, OFF, expect_model_for, find_lora, with_few_steps
from .comfy.lora import LORA_FOLDER
from .comfy.model import Patcher, model_files


class MirageFewSteps(io.ComfyNode):
    """A video model with its settings, or the same with a LoRA for few steps and with its own."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageFewSteps",
            display_name="Mirage Few Steps",
            category="Mirage/sampling",
            description=(
                "A switch before a sampler: off, everything passes as it is. On, a LoRA for few "
                "steps is added, with the steps, guidance and shift that belong to it. No such "
                "LoRA was tried with a memory yet. Also refuses a model that the graph is not for."
            ),
            search_aliases=["causvid", "lightx2v", "fastwan", "turbo", "distill", "4 steps"],
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Int.Input(
                    "steps", default=25, min=1, max=1000, tooltip="Steps when it is off."
                ),
                io.Float.Input(
                    "cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance when it is "
                    "off.",
                ),
                io.Combo.Input(
                    "few_steps", options=[OFF, AUTO, *model_files(LORA_FOLDER)], default=OFF,
                    tooltip="off: nothing is loaded. auto: the first LoRA in models/loras of the "
                    "kinds CausVid, lightx2v, FastWan or Turbo that fits the model. Or a file of "
                    "these kinds.",
                ),
                io.Combo.Input(
                    "needs", options=list(MODELS), default=ANY, optional=True, advanced=True,
                    tooltip="What the graph tells the model; another model is refused.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Int.Output(display_name="steps"),
                io.Float.Output(display_name="cfg"),
            ],
        )

    @classmethod
    @override
    def validate_inputs(cls, few_steps: str | None = None) -> bool | str:
        if few_steps in (None, OFF, AUTO) or few_steps in model_files(LORA_FOLDER):
            return True
        return f"There is no {few_steps} in models/{LORA_FOLDER}: put it there, or choose {OFF}"

    @classmethod
    @override
    def execute(
        cls, model: Patcher, steps: int, cfg: float, few_steps: str, needs: str = ANY
    ) -> io.NodeOutput:
        expect_model_for(model, needs)
        if few_steps == OFF:
            return io.NodeOutput(model, steps, cfg)
        file, settings = find_lora(model, few_steps)
        patched = with_few_steps(model, file, settings)
        told = settings.describe(file)
        return io.NodeOutput(patched, settings.steps, settings.cfg, ui={"text": (told,)})
