"""The shipped graphs with Spatia's side branch: a chunk loop, and a whole shot with it."""

from __future__ import annotations

from workflows.files import (
    LICENCE_NOTE,
    MOGE,
    MOVING_NOTE,
    SPATIA_BRANCH,
    SPATIA_LORA,
    TEXT_ENCODER,
    VAE,
    VIDEO_MODEL,
    file_table,
)
from workflows.sampling import COMMON, DEPTH, FEW_STEPS_NOTE, PROMPT, chunk_loop, whole_shot
from workflows.writer import Node, Out, Subgraph

FILES = (VIDEO_MODEL, SPATIA_BRANCH, SPATIA_LORA, VAE, TEXT_ENCODER, MOGE)
"""Every model that the workflow names."""

FIRST_CHUNK, CHUNK, OVERLAP = 121, 81, 9
"""Frames of the clips that Spatia was trained with, and how many two of them share."""

SIZE = (1248, 704)
FRAMES = FIRST_CHUNK + CHUNK - OVERLAP

PROMPT_END = " 4K, realistic, high quality, HDR."
"""With which Spatia's own code ends every prompt."""

NOTE_TEXT = f"""# A long shot with Spatia's branch

The memory holds colours. Every chunk is shown to Wan2.2 as a drawing of the memory, through the \
side branch that Spatia (CVPR 2026) published, with a LoRA in all chunks but the first. **Nobody \
has judged a shot of this graph yet.**

{file_table(*FILES)}

{LICENCE_NOTE} Spatia's code is under Apache-2.0; neither it nor its README says what its weights \
may be used for. Its README says that the names of its two files may differ in a download: choose \
them in *Mirage Load Branch* and, inside of the loop, in *Mirage Later LoRA*.

1. Choose a picture and describe it. Spatia ends every prompt with "{PROMPT_END.strip()}".
2. Choose a camera move in *Mirage Trajectory*. `fps` stays at 24, and the picture at \
{SIZE[0]} x {SIZE[1]}: so it was trained.
3. Run. Every finished chunk is saved; run again to go on after a stop.

The first chunk has {FIRST_CHUNK} frames, later ones have {CHUNK}, of which {OVERLAP} are the end \
of the one before. {FRAMES} frames are two chunks; each further one adds {CHUNK - OVERLAP}. The \
memory takes a point for every pixel: `colour_step` 2 in *Mirage Cache Init* makes it a quarter.

{MOVING_NOTE}
{FEW_STEPS_NOTE}"""

REFERENCES = 7
_START = 110
_APPLY, _LORA = _START + 2, _START + 10


def _with_later_lora(loop: Subgraph) -> Subgraph:
    """The loop with a LoRA on the model of every chunk but the first."""
    apply = loop.nodes[_APPLY]
    model = {"model": apply.inputs["model"], "state": Out(_START, 1), "lora_name": SPATIA_LORA.name}
    apply.inputs |= {"model": Out(_LORA), "references": REFERENCES}
    loop.nodes[_LORA] = Node(
        "MirageLaterLora", (470, 255), model, (290, 110), file=SPATIA_LORA
    )
    return loop


SPATIA_LOOP = _with_later_lora(
    chunk_loop(
        _START,
        "Mirage Chunk Loop (Spatia)",
        "Makes a shot chunk by chunk with Wan2.2, Spatia's side branch and its LoRA: draws a "
        "memory of colours for every frame, shows the drawing to the model, samples, decodes, "
        "estimates depth and brings it to the memory's scale, masks what moves, writes back what "
        "was new, and repeats to the end of the trajectory. The memory has what = colours; Mirage "
        "Rollout Start has chunks of 121 and 81 frames that share 9.",
        [("state", "MIRAGE_STATE"), ("model", "MODEL"), ("branch", "MIRAGE_BRANCH"), *COMMON,
         *DEPTH, ("strength", "FLOAT")],
        {"steps": 40, "cfg": 3.5, "strength": 1.0},
        ("MirageApply", ("model", "strength", "branch", "vae"), (290, 250)),
    )
)  # fmt: skip


def _shot() -> dict[int, Node]:
    nodes = whole_shot(SPATIA_LOOP, "spatia", NOTE_TEXT)
    nodes[1].size = (500, 1080)
    nodes[6].inputs |= {"branch_name": SPATIA_BRANCH.name, "format": "spatia"}
    nodes[6].file = SPATIA_BRANCH
    nodes[9].inputs |= dict(zip(("width", "height"), SIZE, strict=True))
    nodes[12].inputs["frames"] = FRAMES
    nodes[13].inputs["what"] = "colours"
    nodes[14].inputs |= {
        "first_chunk_frames": FIRST_CHUNK, "chunk_frames": CHUNK, "overlap_frames": OVERLAP,
    }  # fmt: skip
    nodes[15].inputs["text"] = PROMPT + PROMPT_END
    return nodes


SPATIA = _shot()
