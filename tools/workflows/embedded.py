"""The shipped graphs that sample with the small model of the pack: nothing to download."""

from __future__ import annotations

from workflows.sampling import INPUT
from workflows.writer import NOTE, Node, Out, Subgraph

SEED = 16
"""Of the procedural room."""

NOTE_TEXT = """# Sampling with nothing to download

This is the whole path of a Mirage shot: memory, readout, side branch, sampler, decoder, update. \
The model is **small and was trained on procedural rooms only**: it shows how the parts work \
together, and its pictures are soft. *mirage_first_shot* previews a move more sharply.

For the real model swap three things: *Mirage Embedded Model* by Load Diffusion Model, Load VAE, \
CLIP Text Encode and Mirage Load Branch; *Mirage Embedded Scene* by your picture and its depth; \
and the loop by *Mirage Chunk Loop*, which estimates depth of new frames.

1. Choose a camera move in *Mirage Trajectory*.
2. Run. Every finished chunk is saved; run again to go on after a stop.
"""

_INPUTS = [
    ("state", "MIRAGE_STATE"), ("model", "MODEL"), ("branch", "MIRAGE_BRANCH"),
    ("conditioning", "CONDITIONING"), ("vae", "VAE"), ("geometry", "MIRAGE_GEOMETRY"),
    ("steps", "INT"), ("strength", "FLOAT"),
]  # fmt: skip
_GIVEN = {title: Out(INPUT, slot) for slot, (title, _) in enumerate(_INPUTS)}

EMBEDDED_LOOP = Subgraph(
    "Mirage Chunk Loop (Embedded Model)",
    "Makes a shot chunk by chunk with the small model of the pack, or with any model whose frames "
    "have known depth: reads the memory, shows it to the model, samples, decodes, writes back "
    "what was new, and repeats to the end of the trajectory.",
    _INPUTS,
    [("state", "MIRAGE_STATE", Out(86))],
    {
        80: Node("MirageLoopOpen", (150, 0), {"state": _GIVEN["state"]}, (270, 200)),
        81: Node(
            "MirageReadout", (470, 0), {"cache": Out(80, 2), "trajectory": Out(80, 3)}, (270, 120)
        ),
        82: Node(
            "MirageApply",
            (790, 0),
            {
                **{title: _GIVEN[title] for title in ("model", "branch", "vae", "strength")},
                "readout": Out(81),
                "first_latent": Out(80, 4),
                "state": Out(80, 1),
                "references": 0,
            },
            (290, 250),
        ),
        83: Node(
            "KSampler",
            (1120, 0),
            {
                "model": Out(82),
                "seed": Out(80, 5),
                "steps": _GIVEN["steps"],
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": _GIVEN["conditioning"],
                "negative": _GIVEN["conditioning"],
                "latent_image": Out(82, 1),
            },
            (290, 290),
        ),
        84: Node(
            "MirageChunkDecode",
            (1450, 0),
            {"latent": Out(83), "vae": _GIVEN["vae"], "state": Out(80, 1)},
            (250, 130),
        ),
        87: Node(
            "MiragePreviewFill",
            (790, 400),
            {
                "readout": Out(81),
                "vae": _GIVEN["vae"],
                "first_latent": Out(80, 4),
                "background": Out(84),
            },
            (290, 120),
        ),
        85: Node(
            "MirageCacheUpdate",
            (1120, 400),
            {
                "state": Out(80, 1),
                "readout": Out(81),
                "latent": Out(87),
                "images": Out(87, 2),
                "geometry": _GIVEN["geometry"],
                "vae": _GIVEN["vae"],
            },
            (290, 320),
        ),
        86: Node(
            "MirageLoopClose", (1450, 400), {"flow": Out(80), "state": Out(85)}, (250, 60)
        ),
    },
    widgets={"steps": 4, "strength": 1.0},
)

EMBEDDED_MODEL: dict[int, Node] = {
    1: Node(NOTE, (-320, -60), {"text": NOTE_TEXT}, (280, 760), title="Read me"),
    2: Node("MirageEmbeddedModel", (0, -60), {}, (290, 110)),
    3: Node(
        "MirageEmbeddedScene", (0, 110), {"seed": SEED, "width": 640, "height": 352}, (290, 150)
    ),
    4: Node(
        "MirageCacheInit",
        (330, -60),
        {"image": Out(3), "geometry": Out(3, 1), "vae": Out(2, 1)},
        (380, 240),
    ),
    5: Node(
        "MirageTrajectory",
        (330, 360),
        {
            "image": Out(3),
            "geometry": Out(3, 1),
            "cache": Out(4),
            "preset": "orbit",
            "amount": 0.6,
            "frames": 97,
            "there_and_back": True,
        },
        (380, 640),
    ),
    6: Node("MirageEmbeddedShot", (750, 686), {"seed": SEED, "trajectory": Out(5)}, (310, 100)),
    7: Node(
        "MirageRolloutStart",
        (750, 226),
        {
            "cache": Out(4),
            "trajectory": Out(5),
            "first_latent": Out(4, 1),
            "name": "embedded_model",
        },
        (310, 330),
    ),
    8: Node(
        EMBEDDED_LOOP.id,
        (750, -60),
        {
            "state": Out(7),
            "model": Out(2),
            "branch": Out(2, 3),
            "conditioning": Out(2, 2),
            "vae": Out(2, 1),
            "geometry": Out(6, 1),
        },
        (310, 220),
    ),
    9: Node("MirageRolloutResult", (1100, -60), {"state": Out(8)}, (350, 140)),
    10: Node("PreviewAny", (750, 840), {"source": Out(9, 4)}, (310, 160)),
    11: Node(
        "SaveVideo",
        (1100, 300),
        {"video": Out(9), "filename_prefix": "mirage/embedded_model"},
        (350, 360),
    ),
    12: Node(
        "SaveImage",
        (1100, 740),
        {"images": Out(9, 3), "filename_prefix": "mirage/embedded_model_sheet"},
        (350, 250),
    ),
    13: Node(
        "MirageCacheSave",
        (1100, 160),
        {"cache": Out(9, 2), "filename_prefix": "embedded_model_memory"},
        (350, 60),
    ),
}
