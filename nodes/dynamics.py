"""What must stay out of the memory: things that move, found by name."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.conditioning.entities import detection_prompt, noun_phrases
from ..mirage_core.validate import expect_shape

CATEGORY = "Mirage/dynamics"


class MirageEntities(io.ComfyNode):
    """Names of things in a language model's answer."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEntities",
            display_name="Mirage Entities",
            category=CATEGORY,
            description=(
                "Extracts noun phrases from a language model's answer and writes them as a "
                "prompt for SAM3 (through CLIP Text Encode with SAM3's text encoder)."
            ),
            search_aliases=["noun phrases", "parse list", "sam3 prompt", "what moves"],
            inputs=[
                io.String.Input(
                    "answer", force_input=True, tooltip="From Generate Text, or typed in."
                ),
                io.Int.Input(
                    "most", default=8, min=1, max=32,
                    tooltip="Maximum number of kinds of things to look for.",
                ),
                io.Int.Input(
                    "per_kind", default=8, min=1, max=64,
                    tooltip="Maximum number of instances of each kind in a frame.",
                ),
                io.String.Input(
                    "always", default="",
                    tooltip="Things to look for regardless of the answer, comma separated.",
                ),
            ],
            outputs=[io.String.Output(display_name="entities")],
        )

    @classmethod
    @override
    def execute(cls, answer: str, most: int, per_kind: int, always: str) -> io.NodeOutput:
        phrases = noun_phrases(f"{always}, {answer}" if always.strip() else answer, most)
        prompt = detection_prompt(phrases, per_kind)
        return io.NodeOutput(prompt, ui={"text": (prompt or "nothing moves",)})


class MirageDynamicMask(io.ComfyNode):
    """A mask of what moves, that is empty where nothing does."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageDynamicMask",
            display_name="Mirage Dynamic Mask",
            category=CATEGORY,
            description=(
                "Passes on a segmentation mask if there is something to look for. Without "
                "entities the mask is empty, and the segmentation is not run at all."
            ),
            search_aliases=["moving things", "sam3 mask", "exclude", "lazy mask"],
            inputs=[
                io.String.Input(
                    "entities", force_input=True, tooltip="From Mirage Entities."
                ),
                io.Image.Input("image", tooltip="The frames that are masked."),
                io.Mask.Input(
                    "mask", lazy=True,
                    tooltip="From SAM3 Detect or SAM3 Track to Mask, for the same frames.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    @override
    def check_lazy_status(
        cls, entities: str, image: Tensor, mask: Tensor | None = None
    ) -> list[str]:
        return ["mask"] if entities.strip() and mask is None else []

    @classmethod
    @override
    def execute(cls, entities: str, image: Tensor, mask: Tensor | None = None) -> io.NodeOutput:
        frames, height, width = (int(size) for size in image.shape[:3])
        if not entities.strip() or mask is None:
            return io.NodeOutput(torch.zeros(frames, height, width))
        expect_shape("The mask", mask, "F H W", F=frames, H=height, W=width)
        return io.NodeOutput(mask)
