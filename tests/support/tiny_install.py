"""A ComfyUI base folder in which the shipped sampling workflows run as they are.

Every file that they name is there under its name, small and with random weights.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from dev.comfy_server import ComfyServer
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene
from tiny_models import (
    add_sizes,
    inpaint_model,
    lora,
    side_branch,
    text_encoder,
    vace_model,
    video_model,
)
from tiny_moge import write_moge
from tiny_weights import vae21_tensors, vae_tensors, write
from workflows.files import (
    INPAINT_MODEL,
    MOGE,
    SPATIA_BRANCH,
    SPATIA_LORA,
    TEXT_ENCODER,
    VACE_MODEL,
    VAE,
    VAE21,
    VIDEO_MODEL,
)
from workflows.sampling import BRANCH

PICTURE = "example.png"

SERVER_ARGS = ("--fp32-text-enc",)
"""ComfyUI runs MoGe in the text encoder's type, and in 16 bits it cannot on a CPU."""


def install(base: Path, size: tuple[int, int] = (96, 64)) -> None:
    """Fill the models and input folders of a ComfyUI base folder.

    Args:
        base: As in ``--base-directory``.
        size: Width and height of the picture.
    """
    for file, tensors in (
        (VIDEO_MODEL, video_model()),
        (INPAINT_MODEL, inpaint_model()),
        (TEXT_ENCODER, text_encoder()),
        (VAE, vae_tensors(base=8, decoder_base=8)),
        (VACE_MODEL, vace_model()),
        (VAE21, vae21_tensors(base=8)),
        (SPATIA_BRANCH, side_branch()),
        (SPATIA_LORA, released_lora()),
    ):
        folder = base / "models" / file.directory
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / file.name, tensors)
    patches = base / "models" / "model_patches"
    patches.mkdir(parents=True, exist_ok=True)
    write(patches / BRANCH, side_branch())
    write_moge(base / "models" / MOGE.directory / MOGE.name)
    add_sizes(base / "custom_nodes")
    (base / "input").mkdir(parents=True, exist_ok=True)
    photograph(*size).save(base / "input" / PICTURE)


def released_lora() -> dict[str, Tensor]:
    """A LoRA under the names of the trainer that Spatia's was made with."""
    return {name.replace("diffusion_model.", "pipe.dit."): part for name, part in lora().items()}


def sampling_server(base: Path, comfyui: Path) -> ComfyServer:
    """A server, not yet started, that can run all that `install` puts there."""
    return ComfyServer(
        base, comfyui=comfyui, env={"OMP_NUM_THREADS": "1"}, extra_args=SERVER_ARGS
    )


def photograph(width: int, height: int, seed: int = 16) -> Image.Image:
    """A picture of a procedural room."""
    scene = ProceduralScene.from_seed(seed, texture_size=128)
    start = invert_rigid(scene.start_camera_to_world)[None]
    lens = intrinsics_from_fov(width, height, 70)[None]
    picture, _ = scene.render(Trajectory(start, lens, width, height))
    return Image.fromarray((picture[0] * 255).round().byte().numpy())
