"""The shipped graph in which an actor is directed: nothing to download."""

from __future__ import annotations

import json

from workflows.writer import NOTE, Node, Out, Subgraph

SEED = 9
"""Of the procedural room, with much floor before the camera."""

NAME = "red box"

PATH = (
    {"frame": 0, "place": [-0.4, 4.2], "heading": 175},
    {"frame": 36, "place": [0.4, 3.7], "heading": 190},
    {"frame": 64, "place": [0.0, 3.4], "heading": 180},
    {"frame": 96, "place": [-1.2, 3.7], "heading": 160},
)
"""Begins where the clip shows the box, and leaves the way that it took there; it faces us."""

NOTE_TEXT = """# Directing an actor

Press **Run**. In a clip of a second a red box glides through a room. It becomes an *actor*, with \
its own points, and walks a path that was drawn for it, while the camera moves too. Nothing to \
download. The video is at *Save Video*.

Then press the button with the figure in *Mirage Trajectory*: from above you see its track. Drag \
a keyframe, double-click on the track, scrub, run again. Through **Camera** the box is a card that \
you drag on the floor. All of it is written into `path` of *Mirage Place Actor*.

**An actor of yours**: Mirage Embedded Movers stands for a clip of yours with its depth and a mask \
that follows it, or for one photograph of somebody. The set is a picture in which they are not, or \
Mirage Cache Init with the mask in `exclude`.

`behaviour` of *Mirage Place Actor* says what it does instead: stay, go on as it last did, or be \
forgotten.
"""


def actors(loop: Subgraph) -> dict[int, Node]:
    """The graph, with the loop that previews."""
    return {**_placed_actor(), **_shot(loop)}


def _placed_actor() -> dict[int, Node]:
    """The set, the actor and where both meet, and the camera."""
    return {
        1: Node(
            "MirageEmbeddedMovers",
            (0, 560),
            {"seed": SEED, "width": 480, "height": 256, "frames": 25},
            (280, 350),
        ),
        2: Node("MirageEmbeddedCodec", (735, -60), {}, (285, 40)),
        3: Node(
            "MirageCacheInit",
            (0, 250),
            {
                "image": Out(1, 4), "geometry": Out(1, 5), "vae": Out(2), "what": "colours",
            },  # fmt: skip
            (280, 250),
        ),
        4: Node(
            "MirageActor",
            (0, -60),
            {
                "image": Out(1), "geometry": Out(1, 1), "mask": Out(1, 2), "vae": Out(2),
                "cache": Out(3), "name": NAME, "turns": False,
            },  # fmt: skip
            (280, 250),
        ),
        5: Node(
            "MiragePlaceActor",
            (310, -60),
            {
                "cache": Out(3),
                "actor": Out(4),
                "behaviour": "path",
                "path": json.dumps(PATH),
            },
            (380, 250),
        ),
        6: Node(
            "MirageTrajectory",
            (310, 290),
            {
                "image": Out(1, 4),
                "geometry": Out(1, 5),
                "cache": Out(5),
                "preset": "orbit",
                "amount": 0.6,
                "frames": 97,
                "there_and_back": True,
            },
            (380, 700),
        ),
    }


def _shot(loop: Subgraph) -> dict[int, Node]:
    """From the first picture of the clip to the saved video."""
    return {
        7: Node("ImageFromBatch", (735, 40), {"image": Out(1), "length": 1}, (285, 90)),
        8: Node("VAEEncode", (735, 190), {"pixels": Out(7), "vae": Out(2)}, (285, 50)),
        9: Node(
            "MirageRolloutStart",
            (735, 310),
            {
                "cache": Out(5),
                "trajectory": Out(6),
                "first_latent": Out(8),
                "name": "directed_actor",
            },
            (285, 340),
        ),
        10: Node(loop.id, (1050, -60), {"state": Out(9), "vae": Out(2)}, (350, 80)),
        11: Node("MirageRolloutResult", (1050, 80), {"state": Out(10)}, (350, 120)),
        12: Node(
            "SaveVideo",
            (1050, 260),
            {"video": Out(11), "filename_prefix": "mirage/directed_actor"},
            (350, 360),
        ),
        13: Node(
            "SaveImage",
            (1050, 660),
            {"images": Out(11, 3), "filename_prefix": "mirage/directed_actor_sheet"},
            (350, 250),
        ),
        14: Node(
            "MirageCacheSave",
            (735, 740),
            {"cache": Out(11, 2), "filename_prefix": "directed_actor_memory"},
            (285, 60),
        ),
        15: Node("PreviewAny", (735, 860), {"source": Out(11, 4)}, (285, 140)),
        16: Node(NOTE, (-300, -60), {"text": NOTE_TEXT}, (270, 760), title="Read me"),
    }
