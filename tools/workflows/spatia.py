"""The chunk loop that samples with Spatia's side branch, from a memory of colours."""

from __future__ import annotations

from workflows.sampling import COMMON, DEPTH, chunk_loop
from workflows.writer import Node, Out, Subgraph

LATER_LORA = "lora_weights_10000.safetensors"
"""As Spatia's repository names it."""

REFERENCES = 7
_START = 110
_APPLY, _LORA = _START + 2, _START + 10


def _with_later_lora(loop: Subgraph) -> Subgraph:
    """The loop with a LoRA on the model of every chunk but the first."""
    apply = loop.nodes[_APPLY]
    model = {"model": apply.inputs["model"], "state": Out(_START, 1), "lora_name": LATER_LORA}
    apply.inputs |= {"model": Out(_LORA), "references": REFERENCES}
    loop.nodes[_LORA] = Node("MirageLaterLora", (470, 200), model, (290, 110))
    return loop


SPATIA_LOOP = _with_later_lora(
    chunk_loop(
        _START,
        "Mirage Chunk Loop (Spatia)",
        "Makes a shot chunk by chunk with Wan2.2, Spatia's side branch and its LoRA: draws a "
        "memory of colours for every frame, shows the drawing to the model, samples, decodes, "
        "estimates depth with MoGe and brings it to the memory's scale, writes back what was new, "
        "and repeats to the end of the trajectory. The memory has what = colours; Mirage Rollout "
        "Start has chunks of 121 and 81 frames that share 9.",
        [("state", "MIRAGE_STATE"), ("model", "MODEL"), ("branch", "MIRAGE_BRANCH"), *COMMON,
         *DEPTH, ("strength", "FLOAT")],
        {"steps": 40, "cfg": 3.5, "strength": 1.0},
        ("MirageApply", ("model", "strength", "branch", "vae"), (290, 250)),
    )
)  # fmt: skip
