"""The shipped chunk loop around Wan2.2-Fun-5B-InP, which is told what is known as its input."""

from __future__ import annotations

from workflows.sampling import (
    MOGE,
    NEGATIVE,
    PROMPT,
    TEXT_ENCODER,
    VAE,
    WAN22,
    update_nodes,
)
from workflows.writer import NOTE, ModelFile, Node, Out, Subgraph

INPUT = -10

INPAINT_MODEL = ModelFile(
    "wan2.2_fun_inpaint_5B_bf16.safetensors",
    f"{WAN22}/diffusion_models/wan2.2_fun_inpaint_5B_bf16.safetensors",
    "diffusion_models",
)
FILES = (INPAINT_MODEL, VAE, TEXT_ENCODER, MOGE)
"""Every model that the graph names."""

SHOWN = f"""# A chunk loop with Wan2.2-Fun-5B-InP

**This graph needs no trained side branch.** The model is told what the memory shows, and where \
it shows nothing. ComfyUI's own node gives this model whole frames only; whether it was trained \
for holes inside of a frame is not known, and nobody has judged a shot of this graph yet. Compare \
it with *Mirage Chunk Loop (Training-Free)*.

| file | folder |
|---|---|
| [wan2.2_fun_inpaint_5B_bf16]({INPAINT_MODEL.url}) | `models/diffusion_models` |
| [umt5_xxl_fp8_e4m3fn_scaled]({TEXT_ENCODER.url}) | `models/text_encoders` |
| [wan2.2_vae]({VAE.url}) | `models/vae` |
| [moge_2_vitl_normal_fp16]({MOGE.url}) | `models/geometry_estimation` |

1. Make the memory with the same VAE, and the camera move at 24 frames per second.
2. Connect `state` of *Mirage Rollout Start*, and the `state` of this node to *Mirage Rollout \
Result*.
3. Describe the picture in `prompt`, and run.

20 steps, cfg 6, uni_pc, simple, shift 8 and 24 frames per second are the settings of ComfyUI's \
own template for this model. Its clips have 81 frames there; a chunk here has at most 33.

**Fewer steps, untested with this conditioning:** *LoraLoaderModelOnly* with \
`Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16` between *Load Diffusion Model* and \
*ModelSamplingSD3*, 3 steps and cfg 1. By what is said of it, that LoRA was trained for text to \
video.
"""

FIRST = 100
"""Id of the first node."""

_LEFT = 1330
"""Where the loop begins, to the right of models and texts."""


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
        FIRST + 4: Node(
            "LoadMoGeModel", (700, 380), {"model_name": MOGE.name}, (330, 58), file=MOGE
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
        "model": Out(FIRST + 2),
        "seed": Out(opened, 5),
        "steps": Out(INPUT, 3),
        "cfg": Out(INPUT, 4),
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "positive": Out(told),
        "negative": Out(told, 1),
        "latent_image": Out(told, 2),
    }
    memory = {"cache": Out(opened, 2), "trajectory": Out(opened, 3)}
    shared = {"vae": Out(FIRST + 3), "moge_model": Out(FIRST + 4)}
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
        "for holes inside of a frame is not known. Loads its models by itself."
    ),
    inputs=[
        ("state", "MIRAGE_STATE"),
        ("prompt", "STRING"),
        ("negative_prompt", "STRING"),
        ("steps", "INT"),
        ("cfg", "FLOAT"),
    ],
    outputs=[("state", "MIRAGE_STATE", Out(FIRST + 17))],
    nodes=_models() | _texts() | _loop(),
    widgets={"prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": 20, "cfg": 6.0},
)
