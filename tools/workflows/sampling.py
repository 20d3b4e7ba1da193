"""The shipped graphs that sample with Wan2.2: two chunk loops, and a whole shot with each."""

from __future__ import annotations

from workflows.files import (
    LICENCE_NOTE,
    MOGE,
    TEXT_ENCODER,
    VAE,
    VIDEO_MODEL,
    file_table,
)
from workflows.writer import NOTE, Node, Out, Subgraph

INPUT = -10
FILES = (VIDEO_MODEL, VAE, TEXT_ENCODER, MOGE)
"""Every model that the workflows name and that can be downloaded."""

BRANCH = "mirage_vace.safetensors"
"""No branch is public, so there is no link: the name is the artist's to change."""

PROMPT = "A sunlit living room, photographed with a wide lens. The camera moves slowly."
NEGATIVE = (
    "blurry, overexposed, static, low quality, distorted, watermark, subtitles, flickering"
)

NO_BRANCH_NOTE = f"""# A long shot with Wan2.2

**This graph needs a trained side branch, and none is public.** It is for those who have trained \
one. Put the file into `models/model_patches` and choose it in *Mirage Load Branch*.

Without one, use the workflow *mirage_training_free*. It needs nothing but the files below.

{file_table(*FILES)}
| your side branch | `models/model_patches` | yours |

{LICENCE_NOTE}

1. Choose a picture and describe it.
2. Choose a camera move in *Mirage Trajectory*.
3. Run. Every finished chunk is saved; run again to go on after a stop.

Open *Mirage Chunk Loop* to change what is inside: the sampler, the reference frames, the \
estimator of depth.
"""

FREE_NOTE = f"""# A long shot with plain Wan2.2

**This graph needs no trained side branch.** What the memory shows is held while the picture is \
formed; the rest is the model's. The model itself never sees the memory, so this is weaker than a \
trained side branch: expect seams at the edge of what was known.

{file_table(*FILES)}

{LICENCE_NOTE}

1. Choose a picture and describe it.
2. Choose a camera move in *Mirage Trajectory*. Small and slow moves work best.
3. Run. Every finished chunk is saved; run again to go on after a stop.

`until` in *Mirage Chunk Loop (Training-Free)* is the share of the steps in which the memory is \
held: more keeps closer to it, less blends better.
"""


def update_nodes(
    start: int, state: Out, readout: Out, latent: Out, shared: dict[str, Out], left: int = 0
) -> dict[int, Node]:
    """From a chunk's latent to the next state, the same in all loops.

    Args:
        start: Id of the first node.
        state: Of Mirage Loop Open.
        readout: Of the chunk.
        latent: Of the chunk.
        shared: ``vae`` and ``moge_model``.
        left: Where the loop begins.
    """
    decode, moge, geometry, align, write, close = range(start, start + 6)
    opened, row = state.node, 430
    decoding = {"latent": latent, "vae": shared["vae"], "state": state}
    estimate = {
        "moge_model": shared["moge_model"],
        "image": Out(decode, 1),
        "fov_x_degrees": Out(opened, 7),
    }
    estimated = {"state": state, "geometry": Out(geometry)}
    finished = {
        "state": state,
        "readout": readout,
        "latent": latent,
        "images": Out(decode),
        "geometry": Out(align),
        "vae": shared["vae"],
        "hold_back": True,
    }
    return {
        decode: Node("MirageChunkDecode", (left + 1450, 0), decoding, (250, 130)),
        moge: Node("MoGeInference", (left + 150, row), estimate, (270, 210)),
        geometry: Node(
            "MirageGeometryMoGe", (left + 470, row), {"moge_geometry": Out(moge)}, (270, 60)
        ),
        align: Node("MirageAlignGeometry", (left + 790, row), estimated, (290, 270)),
        write: Node("MirageCacheUpdate", (left + 1120, row), finished, (290, 320)),
        close: Node(
            "MirageLoopClose", (left + 1450, row), {"flow": Out(opened), "state": Out(write)},
            (250, 60),
        ),
    }  # fmt: skip


def chunk_loop(
    start: int,
    name: str,
    description: str,
    inputs: list[tuple[str, str]],
    widgets: dict[str, float],
    guide: tuple[str, tuple[str, ...], tuple[int, int]],
) -> Subgraph:
    """A chunk loop around the node that shows the memory to the model.

    Args:
        start: Id of the first node.
        name: Of the subgraph.
        description: Of the subgraph.
        inputs: Name and type of the subgraph's inputs.
        widgets: Values of those that are widgets.
        guide: Class, size, and which of the subgraph's inputs it takes.
    """
    opened, read, apply, sampler = range(start, start + 4)
    given = {title: Out(INPUT, slot) for slot, (title, _) in enumerate(inputs)}
    kind, taken, size = guide
    links = {
        **{title: given[title] for title in taken},
        "readout": Out(read),
        "first_latent": Out(opened, 4),
    }
    if kind == "MirageApply":
        links["state"] = Out(opened, 1)
    sampling = {
        "model": Out(apply),
        "seed": Out(opened, 5),
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "latent_image": Out(apply, 1),
        **{title: given[title] for title in ("steps", "cfg", "positive", "negative")},
    }
    memory = {"cache": Out(opened, 2), "trajectory": Out(opened, 3)}
    nodes = {
        opened: Node("MirageLoopOpen", (150, 0), {"state": given["state"]}, (270, 200)),
        read: Node("MirageReadout", (470, 0), memory, (270, 120)),
        apply: Node(kind, (790, 0), links, size),
        sampler: Node("KSampler", (1120, 0), sampling, (290, 290)),
    }
    nodes |= update_nodes(start + 4, Out(opened, 1), Out(read), Out(sampler), given)
    outputs = [("state", "MIRAGE_STATE", Out(start + 9))]
    return Subgraph(name, description, inputs, outputs, nodes, widgets=widgets)


COMMON = [("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("vae", "VAE")]
DEPTH = [("moge_model", "MOGE_MODEL"), ("steps", "INT"), ("cfg", "FLOAT")]

SAMPLING_LOOP = chunk_loop(
    40,
    "Mirage Chunk Loop",
    "Makes a shot chunk by chunk with Wan2.2 and a trained side branch: reads the memory, shows it "
    "to the model, samples, decodes, estimates depth with MoGe and brings it to the memory's "
    "scale, writes back what was new, and repeats to the end of the trajectory. No trained side "
    "branch is public.",
    [("state", "MIRAGE_STATE"), ("model", "MODEL"), ("branch", "MIRAGE_BRANCH"), *COMMON, *DEPTH,
     ("strength", "FLOAT")],
    {"steps": 40, "cfg": 1.0, "strength": 1.0},
    ("MirageApply", ("model", "strength", "branch", "vae"), (290, 250)),
)  # fmt: skip

FREE_LOOP = chunk_loop(
    60,
    "Mirage Chunk Loop (Training-Free)",
    "Makes a shot chunk by chunk with plain Wan2.2, which needs no side branch: cells that the "
    "memory shows are held while the picture is formed. Weaker than a trained side branch.",
    [("state", "MIRAGE_STATE"), ("model", "MODEL"), *COMMON, *DEPTH, ("until", "FLOAT")],
    {"steps": 20, "cfg": 5.0, "until": 0.6},
    ("MirageTrainingFree", ("model", "until"), (290, 150)),
)


def _loaders(note: str) -> dict[int, Node]:
    text = {"clip_name": TEXT_ENCODER.name, "type": "wan"}
    return {
        1: Node(NOTE, (-560, 0), {"text": note}, (500, 460), title="Read me"),
        2: Node(
            "UNETLoader", (0, 0), {"unet_name": VIDEO_MODEL.name}, (330, 82), file=VIDEO_MODEL
        ),
        3: Node("CLIPLoader", (0, 150), text, (330, 106), file=TEXT_ENCODER),
        4: Node("VAELoader", (0, 325), {"vae_name": VAE.name}, (330, 58), file=VAE),
        5: Node("LoadMoGeModel", (0, 450), {"model_name": MOGE.name}, (330, 58), file=MOGE),
        7: Node("ModelSamplingSD3", (0, 740), {"model": Out(2), "shift": 5.0}, (330, 58)),
    }


def picture_nodes() -> dict[int, Node]:
    """Picture, depth, camera and memory: nodes 8 to 13."""
    size = {"upscale_method": "lanczos", "width": 1280, "height": 704, "crop": "center"}
    move = {"preset": "orbit", "amount": 0.6, "there_and_back": True, "frames": 97}
    looked_at = {"image": Out(9), "geometry": Out(11)}
    return {
        8: Node("LoadImage", (400, 0), {"image": "example.png"}, (320, 330)),
        9: Node("ImageScale", (400, 400), {"image": Out(8), **size}, (320, 170)),
        10: Node("MoGeInference", (400, 640), {"moge_model": Out(5), "image": Out(9)}, (320, 210)),
        11: Node("MirageGeometryMoGe", (400, 920), {"moge_geometry": Out(10)}, (320, 80)),
        12: Node(
            "MirageTrajectory", (790, 310), {**looked_at, "cache": Out(13), **move}, (380, 760)
        ),
        13: Node("MirageCacheInit", (790, 0), {**looked_at, "vae": Out(4)}, (380, 220)),
    }


def plan_nodes(name: str) -> dict[int, Node]:
    """Plan and text: nodes 14 to 16."""
    plan = {"cache": Out(13), "trajectory": Out(12), "first_latent": Out(13, 1), "name": name}
    return {
        14: Node("MirageRolloutStart", (1240, 0), plan, (300, 300)),
        15: Node(
            "CLIPTextEncode", (1240, 580), {"clip": Out(3), "text": PROMPT}, (300, 150),
            title="Prompt",
        ),
        16: Node(
            "CLIPTextEncode", (1240, 820), {"clip": Out(3), "text": NEGATIVE}, (300, 120),
            title="Negative prompt",
        ),
    }  # fmt: skip


def result_nodes(name: str) -> dict[int, Node]:
    """What is shown and saved of the loop, which is node 17: nodes 18 to 22."""
    video, sheet = f"mirage/{name}", f"mirage/{name}_sheet"
    memory = {"cache": Out(18, 2), "filename_prefix": f"{name}_memory"}
    return {
        18: Node("MirageRolloutResult", (1610, 350), {"state": Out(17)}, (320, 140)),
        19: Node("PreviewAny", (1610, 570), {"source": Out(18, 4)}, (320, 260)),
        20: Node("MirageCacheSave", (1610, 910), memory, (320, 60)),
        21: Node(
            "SaveVideo", (2000, 0), {"video": Out(18), "filename_prefix": video}, (420, 420)
        ),
        22: Node(
            "SaveImage", (2000, 500), {"images": Out(18, 3), "filename_prefix": sheet}, (420, 300)
        ),
    }


def whole_shot(loop: Subgraph, name: str, note: str) -> dict[int, Node]:
    """A whole shot: models, picture, camera, text, loop, result."""
    links = {
        "state": Out(14),
        "model": Out(7),
        "positive": Out(15),
        "negative": Out(16),
        "vae": Out(4),
        "moge_model": Out(5),
    }
    nodes = _loaders(note) | picture_nodes() | plan_nodes(name) | result_nodes(name)
    if any(title == "branch" for title, _ in loop.inputs):
        nodes[6] = Node("MirageLoadBranch", (0, 575), {"branch_name": BRANCH}, (330, 82))
        links["branch"] = Out(6)
    nodes[17] = Node(loop.id, (1610, 0), links, (320, 260))
    return dict(sorted(nodes.items()))


ROLLOUT = whole_shot(SAMPLING_LOOP, "rollout", NO_BRANCH_NOTE)
TRAINING_FREE = whole_shot(FREE_LOOP, "training_free", FREE_NOTE)
