"""One shot with a branch of Spatia's by the command line and by the graph, from the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dev.comfy_client import ComfyClient, ComfyRunError
from dev.comfy_server import ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.cli.main import main
from tiny_install import install, released_lora, sampling_server
from tiny_models import add_sizes, side_branch, write_models
from tiny_weights import write
from workflows.files import SPATIA_BRANCH, SPATIA_LORA

from .prompts import Prompt, folders, node
from .test_command_line import command, graph, latents, write_shot

pytestmark = pytest.mark.server

SPATIA, LATER_LORA = SPATIA_BRANCH.name, SPATIA_LORA.name
LENGTHS = {"first_chunk_frames": 21, "chunk_frames": 17, "overlap_frames": 9}
"""Three chunks of 37 frames."""

REFERENCES, GUIDANCE = 2, 2.5

TOLERANCES = (5e-4, 5e-3, 5e-3)
"""Largest difference of each chunk's latents of order one. Later chunks see what both sides have
stored in 8 bits and in clips, where the last bits of a float32 decide a level."""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with tiny models, among them a branch and a LoRA under Spatia's names."""
    base = tmp_path_factory.mktemp("spatia")
    install(base)
    models = write_models(base / "models")
    write(models / "model_patches" / SPATIA, side_branch())
    write(models / "loras" / LATER_LORA, released_lora())
    add_sizes(base / "custom_nodes")
    write_shot(base / "input")
    with sampling_server(base, comfyui_path) as running:
        yield running


def prompt_of(name: str, **memory: object) -> Prompt:
    """The graph of a shot with a memory of colours, and the LoRA of the later chunks."""
    prompt = graph(name, GUIDANCE, False)
    prompt["branch"]["inputs"]["branch_name"] = SPATIA
    prompt["init"]["inputs"] |= {"what": "colours", "colour_step": 2} | memory
    prompt["start"]["inputs"] |= LENGTHS
    prompt["apply"]["inputs"] |= {"model": ["later", 0], "references": REFERENCES}
    prompt["later"] = node(
        "MirageLaterLora", model=["unet", 0], lora_name=LATER_LORA, strength=1.0, state=["open", 1]
    )
    return prompt


def words(base: Path, out: Path) -> list[str]:
    models = base / "models"
    line = command(base, out, GUIDANCE)
    line[line.index("--branch") + 1] = str(models / "model_patches" / SPATIA)
    options = {
        "--way": "spatia", "--colour-step": 2, "--references": REFERENCES,
        "--later-lora": models / "loras" / LATER_LORA,
        **{f"--{key.replace('_', '-')}": number for key, number in LENGTHS.items()},
    }  # fmt: skip
    return [*line, *(str(text) for pair in options.items() for text in pair)]


def test_graph_and_command_line_make_the_same_shot(server: ComfyServer, tmp_path: Path) -> None:
    prompt = prompt_of("spatia")
    result = ComfyClient(server.url).run(prompt, timeout=400)
    assert result.displayed.count("later") == result.displayed.count("apply") == 3
    (by_graph,) = folders(server.output, "spatia")
    by_command = tmp_path / "shot"
    assert main(words(server.base, by_command)) == 0
    ours, theirs = latents(by_command), latents(by_graph)
    assert [one.shape[1] for one in ours] == [6, 2, 2]
    for one, other, tolerance in zip(ours, theirs, TOLERANCES, strict=True):
        assert float(one.std()) > 0.3, "nothing was sampled"
        assert float((one - other).abs().max()) < tolerance
    (file,) = result.outputs["memory"]["text"]
    kept, known = load_cache(by_command / "memory.safetensors"), load_cache(Path(file))
    assert kept.codec == known.codec == "rgb-2"
    assert abs(len(kept) - len(known)) <= len(kept) // 100

    for path in by_graph.glob("chunk_0002*"):
        path.unlink()
    ComfyClient(server.url).run(prompt | {"look": node("PreviewImage", images=["decode", 0])})
    again = latents(by_graph)
    assert all(torch.equal(one, other) for one, other in zip(again, theirs, strict=True))


def test_a_memory_of_tokens_is_refused_with_what_to_do(server: ComfyServer) -> None:
    with pytest.raises(ComfyRunError, match="what = colours"):
        ComfyClient(server.url).run(prompt_of("tokens", what="tokens"), timeout=120)
