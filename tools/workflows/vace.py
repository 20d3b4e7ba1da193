"""The shipped graphs that sample with Wan2.1 VACE: a chunk loop, and a whole shot with it."""

from __future__ import annotations

from workflows.files import (
    LICENCE_NOTE,
    LICENCES,
    MOGE,
    MOVING_NOTE,
    TEXT_ENCODER,
    VACE_LARGE,
    VACE_MODEL,
    VAE21,
    file_table,
)
from workflows.sampling import (
    APPENDED,
    INPUT,
    few_steps_node,
    picture_nodes,
    plan_nodes,
    result_nodes,
    scene_models_node,
    update_nodes,
)
from workflows.writer import NOTE, Node, Out, Subgraph

FILES = (VACE_MODEL, VAE21, TEXT_ENCODER, MOGE)
"""Every model that the workflow names."""

CHUNK, OVERLAP = 81, 5
"""Frames that the model makes at once, and how many of them the chunk before made."""

SIZE = (832, 480)
FRAMES = 2 * CHUNK - OVERLAP

NOTE_TEXT = f"""# A long shot with Wan2.1 VACE

**This graph needs no trained side branch.** The memory holds colours. Every chunk is shown to the \
model as a video with grey holes, and the model makes what is missing.

{file_table(*FILES)}

{LICENCE_NOTE}

1. Choose a picture and describe it.
2. Choose a camera move in *Mirage Trajectory*. `fps` stays at 16, the model's rate.
3. Run. Every finished chunk is saved; run again to go on after a stop.

**The larger model**: [{VACE_LARGE.name}]({VACE_LARGE.url}), \
{LICENCES[VACE_LARGE]}, in Load Diffusion Model. All else stays.

**Fewer steps, untested with this conditioning**: put \
`Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors` (Kijai/WanVideo_comfy on Hugging Face; \
another file is for the 14B model) into `models/loras` and set `few_steps` of the loop to `auto`: \
4 steps, cfg 1 and shift 8, as in ComfyUI's own template.

{MOVING_NOTE}
**Known pixels**: `paste_known` of the loop at 1 puts the memory's pixels back over what the model \
made of them; 0 leaves the model's. `match_colours` brings the colours of each chunk back to the \
memory's, so that shifts do not add up.
"""

_INPUTS = [
    ("state", "MIRAGE_STATE"), ("model", "MODEL"), ("positive", "CONDITIONING"),
    ("negative", "CONDITIONING"), ("vae", "VAE"), ("moge_model", "MOGE_MODEL"),
    ("picture", "IMAGE"), ("steps", "INT"), ("cfg", "FLOAT"), ("strength", "FLOAT"),
    ("paste_known", "FLOAT"), ("match_colours", "FLOAT"), *APPENDED,
]  # fmt: skip
_GIVEN = {title: Out(INPUT, slot) for slot, (title, _) in enumerate(_INPUTS)}
_OPEN, _READ, _RENDER, _CONTROL, _WAN, _SAMPLER, _TRIM, _PASTE = range(100, 108)
_DECODE, _MOGE, _GEOMETRY, _ALIGN, _WRITE, _CLOSE = range(108, 114)
_MATCH, _FEW = 114, 115


def _making() -> dict[int, Node]:
    """From the memory to the chunk's latent."""
    memory = {"cache": Out(_OPEN, 2), "trajectory": Out(_OPEN, 3)}
    drawn = {"images": Out(_RENDER), "holes": Out(_RENDER, 1)}
    control = {"state": Out(_OPEN, 1), **drawn, "picture": _GIVEN["picture"]}
    told = {
        "positive": _GIVEN["positive"],
        "negative": _GIVEN["negative"],
        "vae": _GIVEN["vae"],
        "strength": _GIVEN["strength"],
        "control_video": Out(_CONTROL),
        "control_masks": Out(_CONTROL, 1),
        "reference_image": Out(_CONTROL, 2),
        "width": Out(_CONTROL, 3),
        "height": Out(_CONTROL, 4),
        "length": Out(_CONTROL, 5),
    }
    sampling = {
        "model": Out(_FEW),
        "seed": Out(_OPEN, 5),
        "steps": Out(_FEW, 1),
        "cfg": Out(_FEW, 2),
        "sampler_name": "uni_pc",
        "scheduler": "simple",
        "positive": Out(_WAN),
        "negative": Out(_WAN, 1),
        "latent_image": Out(_WAN, 2),
    }
    trim = {"samples": Out(_SAMPLER), "trim_amount": Out(_WAN, 3)}
    return {
        _OPEN: Node("MirageLoopOpen", (150, 0), {"state": _GIVEN["state"]}, (270, 200)),
        _READ: Node("MirageReadout", (150, 270), memory, (270, 120)),
        _RENDER: Node("MirageRender", (470, 0), {**memory, "holes": "grey"}, (270, 170)),
        _CONTROL: Node("MirageVaceControl", (790, 0), control, (290, 200)),
        _WAN: Node("WanVaceToVideo", (1120, 0), told, (290, 300)),
        _SAMPLER: Node("KSampler", (1450, 0), sampling, (290, 290)),
        _TRIM: Node("TrimVideoLatent", (1780, 0), trim, (270, 60)),
        _FEW: few_steps_node(_GIVEN, (1120, -230), needs="VACE"),
    }


def _loop_nodes() -> dict[int, Node]:
    nodes = _making()
    back = update_nodes(_DECODE, Out(_OPEN, 1), Out(_READ), Out(_TRIM), _GIVEN)
    back[_DECODE].at = (1780, 120)
    # Every chunk is a clip of its own, which begins with a picture.
    back[_DECODE].inputs["carried"] = 0
    back[_WRITE].inputs["images"] = Out(_PASTE)
    known = {"images": Out(_CONTROL), "holes": Out(_CONTROL, 1)}
    matched = {"frames": Out(_DECODE), **known, "strength": _GIVEN["match_colours"]}
    pasted = {"frames": Out(_MATCH), **known, "strength": _GIVEN["paste_known"]}
    nodes[_MATCH] = Node("MirageMatchColours", (2110, 0), matched, (270, 130))
    nodes[_PASTE] = Node("MiragePasteKnown", (2110, 190), pasted, (270, 170))
    return nodes | back


VACE_LOOP = Subgraph(
    "Mirage Chunk Loop (VACE)",
    "Makes a shot chunk by chunk with Wan2.1 VACE and a memory of colours: draws the memory with "
    "grey holes, shows that to the model with the end of the chunk before and an earlier frame of "
    "the same place, samples, decodes, estimates depth, masks what moves, writes back what was "
    "new, and repeats to the end of the trajectory.",
    _INPUTS,
    [("state", "MIRAGE_STATE", Out(_CLOSE))],
    _loop_nodes(),
    widgets={
        "steps": 25,
        "cfg": 6.0,
        "strength": 1.0,
        "paste_known": 0.0,
        "match_colours": 1.0,
        "few_steps": "off",
    },
)


def _loaders() -> dict[int, Node]:
    text = {"clip_name": TEXT_ENCODER.name, "type": "wan"}
    model, shift = {"unet_name": VACE_MODEL.name}, {"model": Out(2), "shift": 8.0}
    return {
        1: Node(NOTE, (-560, 0), {"text": NOTE_TEXT}, (500, 1000), title="Read me"),
        2: Node("UNETLoader", (0, 0), model, (330, 82), file=VACE_MODEL),
        3: Node("CLIPLoader", (0, 150), text, (330, 106), file=TEXT_ENCODER),
        4: Node("VAELoader", (0, 325), {"vae_name": VAE21.name}, (330, 58), file=VAE21),
        5: scene_models_node((0, 900)),
        7: Node("ModelSamplingSD3", (0, 700), shift, (330, 58)),
    }


def _shot() -> dict[int, Node]:
    nodes = _loaders() | picture_nodes() | plan_nodes("vace") | result_nodes("vace")
    nodes[9].inputs |= dict(zip(("width", "height"), SIZE, strict=True))
    nodes[12].inputs |= {"frames": FRAMES, "fps": 16.0}
    nodes[13].inputs["what"] = "colours"
    nodes[14].inputs |= {
        "first_chunk_frames": CHUNK, "chunk_frames": CHUNK, "overlap_frames": OVERLAP,
    }  # fmt: skip
    links = {
        "state": Out(14),
        "model": Out(7),
        "positive": Out(15),
        "negative": Out(16),
        "vae": Out(4),
        "scene_models": Out(5),
        "picture": Out(9),
    }
    nodes[17] = Node(VACE_LOOP.id, (1610, 0), links, (320, 316))
    return dict(sorted(nodes.items()))


VACE = _shot()
