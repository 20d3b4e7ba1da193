"""The shipped graph that finds moving things by name: a language model, then SAM3."""

from __future__ import annotations

from mirage_core.conditioning.entities import QUESTION
from workflows.files import LANGUAGE_MODEL, SAM3
from workflows.writer import Node, Out, Subgraph

INPUT = -10

FILES = (LANGUAGE_MODEL, SAM3)
"""Every model that the graph names, as ComfyUI's own blueprints name them."""

MOVING_THINGS = Subgraph(
    name="Mirage Moving Things",
    description=(
        "A mask of everything in frames that moves or could: Qwen3-VL names it in a few of them, "
        "SAM3 tracks it through all. The mask belongs into dynamic of Mirage Align Geometry, or "
        "into exclude of Mirage Cache Init."
    ),
    inputs=[
        ("frames", "IMAGE"),
        ("few_frames", "IMAGE"),
        ("always", "STRING"),
        ("most", "INT"),
    ],
    outputs=[("mask", "MASK", Out(88)), ("entities", "STRING", Out(83))],
    nodes={
        80: Node(
            "CLIPLoader",
            (150, 0),
            {"clip_name": LANGUAGE_MODEL.name, "type": "stable_diffusion"},
            (330, 106),
            file=LANGUAGE_MODEL,
        ),
        81: Node(
            "CheckpointLoaderSimple",
            (150, 180),
            {"ckpt_name": SAM3.name},
            (330, 98),
            file=SAM3,
        ),
        84: Node(
            "ImageScaleToTotalPixels",
            (150, 340),
            {"image": Out(INPUT, 1), "upscale_method": "area", "megapixels": 0.25},
            (330, 110),
        ),
        82: Node(
            "TextGenerate",
            (540, 0),
            {
                "clip": Out(80),
                "image": Out(84),
                "prompt": QUESTION,
                "max_length": 128,
                "sampling_mode": "off",
            },
            (400, 300),
        ),
        83: Node(
            "MirageEntities",
            (1000, 0),
            {"answer": Out(82), "always": Out(INPUT, 2), "most": Out(INPUT, 3)},
            (290, 150),
        ),
        85: Node(
            "CLIPTextEncode",
            (1000, 220),
            {"clip": Out(81, 1), "text": Out(83)},
            (290, 100),
        ),
        86: Node(
            "SAM3_VideoTrack",
            (1350, 220),
            {
                "images": Out(INPUT),
                "model": Out(81),
                "conditioning": Out(85),
                "max_objects": 16,
            },
            (290, 190),
        ),
        87: Node("SAM3_TrackToMask", (1700, 220), {"track_data": Out(86)}, (260, 80)),
        88: Node(
            "MirageDynamicMask",
            (2020, 0),
            {"entities": Out(83), "image": Out(INPUT), "mask": Out(87)},
            (260, 80),
        ),
    },
    widgets={"always": "", "most": 8},
)
