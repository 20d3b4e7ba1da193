"""The shipped graph for an artist's own picture, and the subgraph that remembers it."""

from __future__ import annotations

from workflows.files import LICENCE_NOTE, MOGE, file_table
from workflows.flatten import INPUT_NODE
from workflows.writer import NOTE, Node, Out, Subgraph

FILES = (MOGE,)
"""Every model that the workflow names."""

NOTE_TEXT = f"""# Your picture, from a camera of yours

1. Choose a picture in *Load Image*.
2. Press **Run**. *Depth* shows what was understood of it, and *Mirage Trajectory* the scene, as \
soon as they are there; the shot follows. Press **x** on the queue if the depth is wrong.
3. Choose a camera move, or drag one in the view. Run again: the picture is not looked at anew.

The depth needs one file:

{file_table(*FILES)}

{LICENCE_NOTE}

Or none: connect a depth picture of your own to `depth` of *Mirage Picture to Memory*. If you \
know the lens, give its horizontal field of view as `fov`.

What the picture does not show is filled softly here; nothing is invented. To have a video model \
paint it, take *mirage_vace* or another template, and put this subgraph in the place of its \
picture column, with the VAE of that template.
"""

PICTURE_TO_MEMORY = Subgraph(
    name="Mirage Picture to Memory",
    description=(
        "From a picture of any size to the memory of a scene: scales it to a size that video "
        "models take, finds its depth by MoGe, Depth Anything 3 or a depth picture, shows that "
        "with its range and field of view, and remembers what is seen."
    ),
    inputs=[
        ("image", "IMAGE"), ("depth", "IMAGE"), ("vae", "VAE"), ("depth_model", "COMBO"),
        ("megapixels", "FLOAT"), ("fov", "FLOAT"), ("width", "INT"), ("height", "INT"),
    ],
    outputs=[
        ("image", "IMAGE", Out(140)),
        ("geometry", "MIRAGE_GEOMETRY", Out(140, 1)),
        ("cache", "MIRAGE_CACHE", Out(141)),
        ("first_latent", "LATENT", Out(141, 1)),
        ("depth_view", "IMAGE", Out(142)),
    ],
    nodes={
        140: Node(
            "MiragePictureGeometry",
            (150, 0),
            {
                "image": Out(INPUT_NODE, 0),
                "depth": Out(INPUT_NODE, 1),
                "depth_model": Out(INPUT_NODE, 3),
                "megapixels": Out(INPUT_NODE, 4),
                "fov": Out(INPUT_NODE, 5),
                "width": Out(INPUT_NODE, 6),
                "height": Out(INPUT_NODE, 7),
            },
            (300, 240),
            file=MOGE,
        ),
        141: Node(
            "MirageCacheInit",
            (520, 0),
            {"image": Out(140), "geometry": Out(140, 1), "vae": Out(INPUT_NODE, 2)},
            (300, 220),
        ),
        142: Node("MirageGeometryView", (520, 300), {"geometry": Out(140, 1)}, (300, 280)),
    },
    widgets={"depth_model": MOGE.name, "megapixels": 0.9, "fov": 0.0, "width": 0, "height": 0},
)  # fmt: skip


def your_picture(loop: Subgraph) -> dict[int, Node]:
    """The whole graph, with a chunk loop that takes ``state`` and ``vae``."""
    move = {"preset": "orbit", "amount": 0.5, "there_and_back": True, "frames": 97}
    memory = {"image": Out(4), "geometry": Out(4, 1), "cache": Out(4, 2)}
    plan = {"cache": Out(4, 2), "trajectory": Out(6), "first_latent": Out(4, 3)}
    name = "your_picture"
    return {
        1: Node(NOTE, (-320, -60), {"text": NOTE_TEXT}, (280, 1060), title="Read me"),
        2: Node("LoadImage", (0, -60), {"image": "example.png"}, (300, 330)),
        3: Node("MirageEmbeddedCodec", (0, 340), {}, (300, 40)),
        4: Node(
            PICTURE_TO_MEMORY.id, (340, -60), {"image": Out(2), "vae": Out(3)}, (380, 240),
            file=MOGE,
        ),
        5: Node("PreviewImage", (0, 460), {"images": Out(4, 4)}, (300, 290), title="Depth"),
        6: Node("MirageTrajectory", (340, 360), {**memory, **move}, (380, 640)),
        7: Node("MirageRolloutStart", (760, -60), {**plan, "name": name}, (310, 330)),
        8: Node(loop.id, (760, 350), {"state": Out(7), "vae": Out(3)}, (310, 80)),
        9: Node("MirageRolloutResult", (760, 520), {"state": Out(8)}, (310, 140)),
        10: Node("PreviewAny", (760, 730), {"source": Out(9, 4)}, (310, 260)),
        11: Node(
            "SaveVideo", (1110, -60), {"video": Out(9), "filename_prefix": f"mirage/{name}"},
            (335, 400),
        ),
        12: Node(
            "MirageCacheSave", (1110, 420),
            {"cache": Out(9, 2), "filename_prefix": f"{name}_memory"}, (335, 60),
        ),
    }  # fmt: skip
