"""The shipped graphs that sample with Wan2.2: two chunk loops, and a whole shot with each."""

from __future__ import annotations

from typing import Any

from workflows.files import (
    LICENCE_NOTE,
    MOGE,
    MOVING_NOTE,
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

APPENDED = [("scene_models", "MIRAGE_SCENE_MODELS"), ("few_steps", "COMBO")]
"""Inputs of every loop that samples with a model of Wan's, after those that came first."""

PROMPT = "A sunlit living room, photographed with a wide lens. The camera moves slowly."
NEGATIVE = (
    "blurry, overexposed, static, low quality, distorted, watermark, subtitles, flickering"
)

FEW_STEPS_NOTE = """**Fewer steps, untested with this conditioning:** `few_steps` of the loop \
adds a LoRA of the kind FastWan (3 steps) or Turbo (4 steps) from `models/loras`, with its steps \
and cfg 1. By what is said of FastWan, it was trained for text to video.
"""

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

{MOVING_NOTE}
{FEW_STEPS_NOTE}
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

{MOVING_NOTE}
{FEW_STEPS_NOTE}"""


def update_nodes(
    start: int, state: Out, readout: Out, latent: Out, shared: dict[str, Out], left: int = 0
) -> dict[int, Node]:
    """From a chunk's latent to the next state, the same in all loops.

    Args:
        start: Id of the first node.
        state: Of Mirage Loop Open.
        readout: Of the chunk.
        latent: Of the chunk.
        shared: ``vae`` and ``scene_models``, and ``moge_model`` where the loop takes one.
        left: Where the loop begins.
    """
    decode, look, _, align, write, close = range(start, start + 6)
    opened, row = state.node, 430
    decoding = {"latent": latent, "vae": shared["vae"], "state": state}
    looking = {name: shared[name] for name in ("moge_model", "scene_models") if name in shared}
    looking |= {"image": Out(decode, 1), "frames": Out(decode), "fov": Out(opened, 7)}
    estimated = {
        "state": state, "geometry": Out(look), "dynamic": Out(look, 1), "sky": Out(look, 2)
    }  # fmt: skip
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
        look: Node("MirageLook", (left + 470, row), looking, (270, 210)),
        align: Node("MirageAlignGeometry", (left + 790, row), estimated, (290, 270)),
        write: Node("MirageCacheUpdate", (left + 1120, row), finished, (290, 320)),
        close: Node(
            "MirageLoopClose", (left + 1450, row), {"flow": Out(opened), "state": Out(write)},
            (250, 60),
        ),
    }  # fmt: skip


def few_steps_node(given: dict[str, Out], at: tuple[int, int], **more: Any) -> Node:
    """The switch before a loop's sampler; ``given`` has model, steps, cfg and few_steps."""
    titles = ("model", "steps", "cfg", "few_steps")
    inputs = {title: given[title] for title in titles if title in given}
    return Node("MirageFewSteps", at, inputs | more, (290, 150))


def chunk_loop(
    start: int,
    name: str,
    description: str,
    inputs: list[tuple[str, str]],
    widgets: dict[str, Any],
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
    inputs, widgets = [*inputs, *APPENDED], widgets | {"few_steps": "off"}
    given = {title: Out(INPUT, slot) for slot, (title, _) in enumerate(inputs)}
    kind, taken, size = guide
    links = {
        **{title: given[title] for title in taken},
        "readout": Out(read),
        "first_latent": Out(opened, 4),
    }
    if kind == "MirageApply":
        links["state"] = Out(opened, 1)
    few = start + 11
    links["model"] = Out(few)
    sampling = {
        "model": Out(apply),
        "seed": Out(opened, 5),
        "steps": Out(few, 1),
        "cfg": Out(few, 2),
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "latent_image": Out(apply, 1),
        **{title: given[title] for title in ("positive", "negative")},
    }
    memory = {"cache": Out(opened, 2), "trajectory": Out(opened, 3)}
    nodes = {
        opened: Node("MirageLoopOpen", (150, 0), {"state": given["state"]}, (270, 200)),
        read: Node("MirageReadout", (470, 0), memory, (270, 120)),
        apply: Node(kind, (790, 0), links, size),
        sampler: Node("KSampler", (1120, 0), sampling, (290, 290)),
        few: few_steps_node(given, (150, 260)),
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
    "to the model, samples, decodes, estimates depth and brings it to the memory's scale, masks "
    "what moves, writes back what was new, and repeats to the end of the trajectory. No trained "
    "side branch is public.",
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
        1: Node(NOTE, (-560, 0), {"text": note}, (500, 800), title="Read me"),
        2: Node(
            "UNETLoader", (0, 0), {"unet_name": VIDEO_MODEL.name}, (330, 82), file=VIDEO_MODEL
        ),
        3: Node("CLIPLoader", (0, 150), text, (330, 106), file=TEXT_ENCODER),
        4: Node("VAELoader", (0, 325), {"vae_name": VAE.name}, (330, 58), file=VAE),
        5: scene_models_node((0, 900)),
        7: Node("ModelSamplingSD3", (0, 740), {"model": Out(2), "shift": 5.0}, (330, 58)),
    }


def scene_models_node(at: tuple[int, int]) -> Node:
    """What looks at the pictures; the browser offers the depth model's file where it is missing."""
    return Node("MirageSceneModels", at, {"moge_file": MOGE.name}, (330, 230), file=MOGE)


def picture_nodes() -> dict[int, Node]:
    """Picture, depth, camera and memory: nodes 8 to 13, with the models of node 5."""
    size = {"upscale_method": "lanczos", "width": 1280, "height": 704, "crop": "center"}
    move = {"preset": "orbit", "amount": 0.6, "there_and_back": True, "frames": 97}
    looked_at = {"image": Out(9), "geometry": Out(10)}
    remembered = {**looked_at, "vae": Out(4), "exclude": Out(10, 1)}
    return {
        8: Node("LoadImage", (400, 0), {"image": "example.png"}, (320, 330)),
        9: Node("ImageScale", (400, 400), {"image": Out(8), **size}, (320, 170)),
        10: Node("MirageLook", (400, 640), {"image": Out(9), "scene_models": Out(5)}, (320, 210)),
        12: Node(
            "MirageTrajectory", (790, 310), {**looked_at, "cache": Out(13), **move}, (380, 760)
        ),
        13: Node("MirageCacheInit", (790, 0), remembered, (380, 220)),
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
        "scene_models": Out(5),
    }
    nodes = _loaders(note) | picture_nodes() | plan_nodes(name) | result_nodes(name)
    if any(title == "branch" for title, _ in loop.inputs):
        nodes[6] = Node("MirageLoadBranch", (0, 575), {"branch_name": BRANCH}, (330, 82))
        links["branch"] = Out(6)
    nodes[17] = Node(loop.id, (1610, 0), links, (320, 310))
    return dict(sorted(nodes.items()))


ROLLOUT = whole_shot(SAMPLING_LOOP, "rollout", NO_BRANCH_NOTE)
TRAINING_FREE = whole_shot(FREE_LOOP, "training_free", FREE_NOTE)
