"""The commands of docs/training.md as they stand, at tiny size: from rooms to a shot."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.checkpoints.names import without_wrappers
from mirage_core.checkpoints.transformer_format import knows_text
from mirage_core.cli.main import main
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.tensor_files import read_tensors

from .prompts import Prompt, folders, loop, memory, move, node, scene

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

pytestmark = [pytest.mark.server, pytest.mark.training, pytest.mark.rooms]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
SECTION = "## A small model from nothing"

SMALLER = {
    "1000": "1", "20000": "2", "192x128": "64x64", "0020000": "0000002", "ffn=768": "ffn=64",
}  # fmt: skip
"""What makes the page's runs tiny; all else is taken as it stands."""

FASTER = {
    "data": ["--shots", "2"], "train": ["--validation-scenes", "1", "--validation-frames", "5",
    "--validation-steps", "1", "--device", "cpu", "--dtype", "float32"],
    "rollout": ["--frames", "37", "--steps", "2", "--device", "cpu"],
}  # fmt: skip

FRAMES = 37


def commands() -> list[list[str]]:
    """The words of each command of the section, made small."""
    page = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(rf"{SECTION}\n\n```sh\n(.*?)```", page, re.DOTALL)
    found = []
    for line in block.replace("\\\n", " ").strip().splitlines():
        for plain, small in SMALLER.items():
            line = re.sub(rf"(?<!\d){plain}(?!\d)", small, line)
        program, *words = shlex.split(line)
        assert program == "mirage"
        found.append([*words, *FASTER[words[0]]])
    return found


def write_shot(folder: Path) -> None:
    """A picture of a room, and depth for every frame of a shot."""
    picture, geometry = ProceduralScene.from_seed(16, texture_size=64).picture(64, 64, 60.0)
    Image.fromarray((picture * 255).round().byte().numpy()).save(folder / "picture.png")
    np.savez(folder / "depth.npz", depths=geometry.depth.expand(FRAMES, -1, -1).numpy())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the page's commands were run."""
    folder = tmp_path_factory.mktemp("page")
    write_shot(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands():
            assert main(words) == 0, words
        yield folder


def files(page: Path) -> tuple[Path, Path]:
    """The model with its branch, and the branch alone."""
    names = ("model/step_0000002_model.safetensors", "vace/step_0000002_vace.safetensors")
    return page / "small" / names[0], page / "small" / names[1]


@pytest.fixture(scope="module")
def server(
    page: Path, comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with the trained files, and with what `mirage split` makes of the model."""
    base = tmp_path_factory.mktemp("trained")
    whole, branch = files(page)
    models, patches = base / "models" / "diffusion_models", base / "models" / "model_patches"
    models.mkdir(parents=True)
    patches.mkdir(parents=True)
    shutil.copy(whole, models / "whole.safetensors")
    shutil.copy(branch, patches / "whole.safetensors")
    parts = ["--model-out", str(models / "split.safetensors")]
    parts += ["--branch-out", str(patches / "split.safetensors")]
    assert main(["split", str(whole), *parts]) == 0
    with ComfyServer(base, comfyui=comfyui_path, env={"OMP_NUM_THREADS": "1"}) as running:
        yield running


def shot(name: str) -> Prompt:
    """A shot with the trained model and the empty prompt of Mirage Embedded Model."""
    sampled = {
        "unet": node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default"),
        "branch": node("MirageLoadBranch", branch_name=f"{name}.safetensors"),
        "empty": node("MirageEmbeddedModel"),
        "apply": node(
            "MirageApply",
            model=["unet", 0], readout=["read", 0], first_latent=["open", 4], strength=1.0,
            references=4, preceding=2, start_percent=0.0, end_percent=1.0,
            branch=["branch", 0], state=["open", 1], vae=["codec", 0],
        ),
        "sample": node(
            "KSampler",
            model=["apply", 0], seed=["open", 5], steps=2, cfg=1.0, sampler_name="euler",
            scheduler="simple", positive=["empty", 2], negative=["empty", 2],
            latent_image=["apply", 1], denoise=1.0,
        ),
    }  # fmt: skip
    prompt = scene() | move(FRAMES) | memory() | loop(name=name) | sampled
    # Depth of a still camera is that of the picture: the loop's own preview gives it.
    prompt["decode"]["inputs"]["samples"] = ["sample", 0]
    prompt["update"]["inputs"]["latent"] = ["sample", 0]
    return prompt


def test_the_page_ends_in_a_shot_of_the_command_line(page: Path) -> None:
    whole, branch = files(page)
    assert not knows_text(whole)
    assert (page / "shot" / "video.mp4").is_file()
    assert set(read_tensors(branch)) < set(without_wrappers(read_tensors(whole)))


def test_the_graph_makes_a_shot_with_it_before_and_after_the_split(server: ComfyServer) -> None:
    """The same latents both times, since the same weights are loaded."""
    found = {}
    for name in ("whole", "split"):
        ComfyClient(server.url).run(shot(name), timeout=300)
        (folder,) = folders(server.output, name)
        chunks = sorted(folder.glob("chunk_*.safetensors"))
        assert len(chunks) == 2
        found[name] = [read_tensors(path)["latents"] for path in chunks]
        assert float(found[name][0][:, 1:].std()) > 0.1
    for one, other in zip(found["whole"], found["split"], strict=True):
        assert bool((one == other).all())


def test_a_model_that_knows_no_text_takes_no_prompt(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next(words for words in commands() if words[0] == "rollout")
    words[words.index("--out") + 1] = str(tmp_path / "shot")
    assert main([*words, "--prompt", "a quiet room"]) == 2
    assert "knows no text" in capsys.readouterr().err
