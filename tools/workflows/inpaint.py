"""The shipped graphs around Wan2.2-Fun-5B-InP, which is told what is known as its input."""

from __future__ import annotations

from workflows.files import (
    INPAINT_MODEL,
    LICENCE_NOTE,
    MOGE,
    MOVING_NOTE,
    TEXT_ENCODER,
    VAE,
    file_table,
)
from workflows.sampling import (
    APPENDED,
    NEGATIVE,
    PROMPT,
    few_steps_node,
    picture_nodes,
    plan_nodes,
    result_nodes,
    scene_models_node,
    update_nodes,
)
from workflows.writer import NOTE, Node, Out, Subgraph

INPUT = -10

LOOP_FILES = (INPAINT_MODEL, VAE, TEXT_ENCODER)
"""Every model that the loop loads."""

FILES = (*LOOP_FILES, MOGE)
"""Every model that the shot needs."""

SHOWN = f"""# A chunk loop with Wan2.2-Fun-5B-InP

**This graph needs no trained side branch.** The model is told what the memory shows, and where \
it shows nothing. ComfyUI's own node gives this model whole frames only; whether it was trained \
for holes inside of a frame is not known, and nobody has judged a shot of this graph yet. Compare \
it with *Mirage Chunk Loop (Training-Free)*.

{file_table(*FILES)}

{LICENCE_NOTE}

1. Make the memory with the same VAE, and the camera move at 24 frames per second.
2. Connect `state` of *Mirage Rollout Start*, `scene_models` of *Mirage Scene Models*, and the \
`state` of this node to *Mirage Rollout Result*.
3. Describe the picture in `prompt`, and run.

20 steps, cfg 6, uni_pc, simple, shift 8 and 24 frames per second are the settings of ComfyUI's \
own template for this model. Its clips have 81 frames there: set both lengths of *Mirage Rollout \
Start* to 81, as *mirage_fun_inpaint* has them.

**Fewer steps, untested with this conditioning:** put \
`Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16` into `models/loras` and set `few_steps` to `auto`: \
3 steps and cfg 1. By what is said of it, that LoRA was trained for text to video.
"""

CHUNK = 81
"""Frames of a clip of the model."""

FRAMES = 2 * CHUNK - 1

SHOT_NOTE = f"""# A long shot with Wan2.2-Fun-5B-InP

**This graph needs no trained side branch.** The model is told what the memory shows, and where \
it shows nothing. Whether it was trained for holes inside of a frame is not known, and **nobody \
has judged a shot of this graph yet**. Compare it with *mirage_vace*.

{file_table(*FILES)}

{LICENCE_NOTE}

1. Choose a picture, and describe it in the loop's `prompt`.
2. Choose a camera move in *Mirage Trajectory*. `fps` stays at 24, the model's rate.
3. Run. Every finished chunk is saved; run again to go on after a stop.

The loop holds the video model and the texts; open it to change them. {FRAMES} frames are two \
chunks of {CHUNK}, as long as the clips of ComfyUI's own template for this model.

{MOVING_NOTE}"""

FIRST = 100
"""Id of the first node."""

_LEFT = 1330
"""Where the loop begins, to the right of models and texts."""

_INPUTS = [
    ("state", "MIRAGE_STATE"), ("prompt", "STRING"), ("negative_prompt", "STRING"),
    ("steps", "INT"), ("cfg", "FLOAT"), *APPENDED,
]  # fmt: skip
_GIVEN = {title: Out(INPUT, slot) for slot, (title, _) in enumerate(_INPUTS)}


def _models() -> dict[int, Node]:
    text = {"clip_name": TEXT_ENCODER.name, "type": "wan"}
    model = {"unet_name": INPAINT_MODEL.name}
    loaded = Out(FIRST + 1)
    return {
        FIRST: Node(NOTE, (150, 0), {"text": SHOWN}, (500, 640), title="Read me"),
        FIRST + 1: Node("UNETLoader", (700, 0), model, (330, 82), file=INPAINT_MODEL),
        FIRST + 2: Node(
            "ModelSamplingSD3", (700, 140), {"model": loaded, "shift": 8.0}, (330, 58)
        ),
        FIRST + 3: Node("VAELoader", (700, 260), {"vae_name": VAE.name}, (330, 58), file=VAE),
        FIRST + 4: few_steps_node(
            {"model": Out(FIRST + 2), **_GIVEN}, (1080, 500), needs="Fun InP"
        ),
        FIRST + 5: Node("CLIPLoader", (700, 500), text, (330, 106), file=TEXT_ENCODER),
    }


def _texts() -> dict[int, Node]:
    clip = Out(FIRST + 5)
    return {
        FIRST + number: Node(
            "CLIPTextEncode", (1080, height), {"clip": clip, "text": Out(INPUT, slot)},
            (320, 150), title=title,
        )
        for number, height, slot, title in (
            (6, 0, 1, "Prompt"), (7, 250, 2, "Negative prompt")
        )
    }  # fmt: skip


def _loop() -> dict[int, Node]:
    opened, read, told, sampler = range(FIRST + 8, FIRST + 12)
    known = {
        "positive": Out(FIRST + 6),
        "negative": Out(FIRST + 7),
        "vae": Out(FIRST + 3),
        "readout": Out(read),
        "first_latent": Out(opened, 4),
    }
    sampling = {
        "model": Out(FIRST + 4),
        "seed": Out(opened, 5),
        "steps": Out(FIRST + 4, 1),
        "cfg": Out(FIRST + 4, 2),
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "positive": Out(told),
        "negative": Out(told, 1),
        "latent_image": Out(told, 2),
    }
    memory = {"cache": Out(opened, 2), "trajectory": Out(opened, 3)}
    shared = {"vae": Out(FIRST + 3), "scene_models": _GIVEN["scene_models"]}
    return {
        opened: Node("MirageLoopOpen", (_LEFT + 150, 0), {"state": Out(INPUT)}, (270, 200)),
        read: Node("MirageReadout", (_LEFT + 470, 0), memory, (270, 120)),
        told: Node("MirageInpaintConditioning", (_LEFT + 790, 0), known, (290, 190)),
        sampler: Node("KSampler", (_LEFT + 1120, 0), sampling, (290, 290)),
    } | update_nodes(FIRST + 12, Out(opened, 1), Out(read), Out(sampler), shared, _LEFT)


INPAINT_LOOP = Subgraph(
    name="Mirage Chunk Loop (Fun Inpaint)",
    description=(
        "Makes a shot chunk by chunk with Wan2.2-Fun-5B-InP, which needs no side branch: the "
        "model is told what the memory shows and where it shows nothing. Whether it was trained "
        "for holes inside of a frame is not known. Loads its video model, VAE and text encoder by "
        "itself; depth comes from Mirage Scene Models."
    ),
    inputs=_INPUTS,
    outputs=[("state", "MIRAGE_STATE", Out(FIRST + 17))],
    nodes=_models() | _texts() | _loop(),
    widgets={
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "steps": 20,
        "cfg": 6.0,
        "few_steps": "off",
    },
)


def _shot() -> dict[int, Node]:
    name = "fun_inpaint"
    models = {
        1: Node(NOTE, (-560, 0), {"text": SHOT_NOTE}, (500, 860), title="Read me"),
        4: Node("VAELoader", (0, 0), {"vae_name": VAE.name}, (330, 58), file=VAE),
        5: scene_models_node((0, 130)),
    }
    nodes = models | picture_nodes() | {14: plan_nodes(name)[14]} | result_nodes(name)
    nodes[12].inputs["frames"] = FRAMES
    nodes[14].inputs |= {"first_chunk_frames": CHUNK, "chunk_frames": CHUNK}
    links = {"state": Out(14), "scene_models": Out(5)}
    nodes[17] = Node(INPAINT_LOOP.id, (1240, 580), links, (300, 460))
    return dict(sorted(nodes.items()))


FUN_INPAINT = _shot()
