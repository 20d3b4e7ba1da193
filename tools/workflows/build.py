"""Write the shipped workflows and blueprints from one description of their graphs.

Run it with ``python tools workflows.build`` after a change of nodes or graphs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from typing import Any

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from workflows.actors import actors
from workflows.dynamics import MOVING_THINGS
from workflows.embedded import EMBEDDED_LOOP, EMBEDDED_MODEL
from workflows.inpaint import FUN_INPAINT, INPAINT_LOOP
from workflows.layout import arranged
from workflows.picture import PICTURE_TO_MEMORY, your_picture
from workflows.sampling import FREE_LOOP, ROLLOUT, SAMPLING_LOOP, TRAINING_FREE
from workflows.spatia import SPATIA, SPATIA_LOOP
from workflows.vace import VACE, VACE_LOOP
from workflows.writer import NODE_WIDTH, NOTE, Node, Out, Subgraph, Writer, as_text

CHUNK_LOOP = Subgraph(
    name="Mirage Chunk Loop (Preview)",
    description=(
        "Makes a shot chunk by chunk from the memory alone: reads it, fills holes smoothly, "
        "writes back what was new, and repeats to the end of the trajectory."
    ),
    inputs=[("state", "MIRAGE_STATE"), ("vae", "VAE")],
    outputs=[("state", "MIRAGE_STATE", Out(25))],
    nodes={
        20: Node("MirageLoopOpen", (150, 0), {"state": Out(-10, 0)}, (240, 180)),
        21: Node("MirageReadout", (460, 0), {"cache": Out(20, 2), "trajectory": Out(20, 3)}),
        22: Node(
            "MiragePreviewFill",
            (790, 0),
            {"readout": Out(21, 0), "vae": Out(-10, 1), "first_latent": Out(20, 4)},
        ),
        24: Node(
            "MirageCacheUpdate",
            (1120, 0),
            {
                "state": Out(20, 1),
                "readout": Out(21, 0),
                "latent": Out(22, 0),
                "images": Out(22, 2),
                "geometry": Out(22, 1),
                "vae": Out(-10, 1),
            },
            (NODE_WIDTH, 260),
        ),
        25: Node(
            "MirageLoopClose", (1460, 0), {"flow": Out(20, 0), "state": Out(24, 0)}, (220, 60)
        ),
    },
)

NOTE_TEXT = """# A first shot

Press **Run**. A room, an orbit there and back, and nothing to download. The video is at *Save \
Video*, in half a minute or less.

Then look into *Mirage Trajectory*: drag the orange path, pick another preset, press the play \
button. What is hatched was never seen; a shot of your own will have it painted by a video model.

Run again: only what changed is made.

**Next**: *mirage_your_picture* takes a picture of yours; *mirage_vace* and others let a video \
model paint. *mirage_embedded_model* paints with a small model that is in the pack.
"""

FIRST_SHOT: dict[int, Node] = {
    1: Node("MirageEmbeddedScene", (0, 0), {"seed": 16, "width": 1280, "height": 704}, (270, 150)),
    2: Node("MirageEmbeddedCodec", (0, 260), {}, (270, 40)),
    3: Node(
        "MirageTrajectory",
        (310, 360),
        {
            "image": Out(1, 0),
            "geometry": Out(1, 1),
            "cache": Out(4, 0),
            "preset": "orbit",
            "amount": 0.6,
            "frames": 97,
            "there_and_back": True,
        },
        (380, 640),
    ),
    4: Node(
        "MirageCacheInit",
        (310, 0),
        {"image": Out(1, 0), "geometry": Out(1, 1), "vae": Out(2, 0)},
        (380, 240),
    ),
    5: Node(
        "MirageRolloutStart",
        (730, -60),
        {
            "cache": Out(4, 0),
            "trajectory": Out(3, 0),
            "first_latent": Out(4, 1),
            "name": "first_shot",
        },
        (310, 330),
    ),
    6: Node(CHUNK_LOOP.id, (730, 350), {"state": Out(5, 0), "vae": Out(2, 0)}, (310, 80)),
    7: Node("MirageRolloutResult", (730, 520), {"state": Out(6, 0)}, (310, 140)),
    8: Node(
        "SaveVideo", (1080, -60), {"video": Out(7, 0), "filename_prefix": "mirage/first_shot"},
        (370, 400),
    ),
    9: Node(
        "SaveImage",
        (1080, 420),
        {"images": Out(7, 3), "filename_prefix": "mirage/first_shot_sheet"},
        (370, 300),
    ),
    10: Node(
        "MirageCacheSave",
        (1080, 800),
        {"cache": Out(7, 2), "filename_prefix": "first_shot_memory"},
        (370, 60),
    ),
    11: Node("PreviewAny", (730, 730), {"source": Out(7, 4)}, (310, 260)),
    12: Node(NOTE, (-320, -60), {"text": NOTE_TEXT}, (280, 640), title="Read me"),
}


def build(object_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All shipped files by their path in the pack."""
    writer = Writer(object_info)
    loops = (CHUNK_LOOP, SAMPLING_LOOP, FREE_LOOP, EMBEDDED_LOOP, SPATIA_LOOP, VACE_LOOP)
    shared = (*loops, INPAINT_LOOP, MOVING_THINGS, PICTURE_TO_MEMORY)
    blueprints = {f"subgraphs/{item.name}.json": writer.blueprint(item) for item in shared}
    return blueprints | {
        f"workflows/mirage_{name}.json": writer.workflow(nodes, list(used), name)
        for name, nodes, used in (
            ("first_shot", FIRST_SHOT, (CHUNK_LOOP,)),
            ("your_picture", your_picture(CHUNK_LOOP), (PICTURE_TO_MEMORY, CHUNK_LOOP)),
            ("actors", actors(CHUNK_LOOP), (CHUNK_LOOP,)),
            ("rollout", arranged(ROLLOUT), (SAMPLING_LOOP,)),
            ("training_free", arranged(TRAINING_FREE), (FREE_LOOP,)),
            ("embedded_model", EMBEDDED_MODEL, (EMBEDDED_LOOP,)),
            ("vace", arranged(VACE), (VACE_LOOP,)),
            ("spatia", arranged(SPATIA), (SPATIA_LOOP,)),
            ("fun_inpaint", arranged(FUN_INPAINT, tall_loop=True), (INPAINT_LOOP,)),
        )
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        files = build(ComfyClient(server.url).object_info())
    for name, content in files.items():
        (PACK / name).write_text(as_text(content), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
