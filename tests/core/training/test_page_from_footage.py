"""The first commands of docs/training.md as they stand, at tiny size: from footage to a shot."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_weights
from mirage_core.cli.main import main
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.rollout.video import write_clip
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.trajectories.presets import preset_trajectory

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

pytestmark = [pytest.mark.training, pytest.mark.rooms]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
SIDE, FRAMES = 64, 65

SMALLER = {
    "1280x704": f"{SIDE}x{SIDE}", "10000": "2", "5000": "2", "0010000": "0000002",
    "Wan2.2-TI2V-5B-Diffusers": "wan.safetensors", "--device cuda": "--device cpu",
    "--depth-model map-anything --depth-kind MapAnything": "",
}  # fmt: skip
"""What makes the page's runs tiny; depth lies beside the footage, as no estimator is at hand."""

FASTER = [
    "--batch", "2", "--text-tokens", "4", "--dtype", "float32", "--device", "cpu", "--warmup", "0",
    "--lora-rank", "4", "--validation-scenes", "1", "--validation-frames", "5",
    "--validation-size", "64x64", "--validation-steps", "1", "--validation-clips", "1",
]  # fmt: skip


def commands() -> list[list[str]]:
    """The words of each command of the page's first block, made small."""
    page = PAGE.read_text(encoding="utf-8")
    block = page.partition("```sh\n")[2].partition("```")[0]
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        line = re.sub(r" +", " ", line)
        for plain, small in SMALLER.items():
            line = re.sub(rf"(?<!\d){re.escape(plain)}(?!\d)", small, line)
        if line.startswith("mirage "):
            found.append(shlex.split(line)[1:])
    assert [words[0] for words in found] == ["data", "train", "train"]
    return found


def write_footage(folder: Path, seed: int) -> None:
    """A video of a room with cameras and depth beside it, and a caption."""
    folder.mkdir()
    scene = ProceduralScene.from_seed(seed, texture_size=64)
    cameras = preset_trajectory(
        "orbit", FRAMES, intrinsics=intrinsics_from_fov(SIDE, SIDE, 65), width=SIDE, height=SIDE,
        scene_depth=1.5, amount=0.4, start=scene.start_camera_to_world,
    )  # fmt: skip
    frames, depth = scene.render(cameras)
    write_clip(folder / "a.mp4", frames, 24)
    geometry = FrameGeometry(depth, cameras.intrinsics, world_to_camera=cameras.world_to_camera)
    save_geometry(geometry, folder / "a")
    (folder / "a.caption.txt").write_text("a room", encoding="utf-8")
    Image.fromarray((frames[0] * 255).round().byte().numpy()).save(folder / "first.bmp")
    np.savez(folder / "shot.npz", depths=depth[:1].expand(37, -1, -1).numpy())


def write_models(folder: Path) -> None:
    tiny_weights.write(
        folder / "wan.safetensors", tiny_weights.backbone_tensors(), tiny_weights.metadata()
    )
    tiny_weights.write(folder / "wan2.2_vae.safetensors", tiny_weights.vae_tensors())
    spiece = torch.frombuffer(bytearray(tiny_weights.sentencepiece_model()), dtype=torch.uint8)
    text = tiny_weights.noise(tiny_weights.text_shapes(48)) | {"spiece_model": spiece}
    tiny_weights.write(folder / "umt5_xxl_fp16.safetensors", text)


def test_footage_becomes_a_branch_a_lora_and_a_shot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_models(tmp_path)
    write_footage(tmp_path / "shots", 3)
    write_footage(tmp_path / "others", 4)
    monkeypatch.chdir(tmp_path)
    data, one, two = commands()
    assert main(data) == 0
    other = {"clips": "other-clips", "shots": "others"}
    assert main([other.get(word, word) for word in data]) == 0
    assert len(ClipDataset(tmp_path / "clips")) == 2
    assert ClipDataset(tmp_path / "clips")[0].text is not None
    assert main([*one, "--side-blocks", "2", *FASTER]) == 0
    assert main([*two, *FASTER]) == 0
    shot = [
        "rollout", "--transformer", "wan.safetensors", "--vae", "wan2.2_vae.safetensors",
        "--text-encoder", "umt5_xxl_fp16.safetensors", "--size", f"{SIDE}x{SIDE}",
        "--branch", "joint/vace/step_0000002_vace.safetensors",
        "--lora", "joint/lora/step_0000002_lora_comfyui.safetensors",
        "--image", "shots/first.bmp", "--geometry", "shots/shot.npz", "--move", "truck",
        "--frames", "37", "--steps", "2", "--device", "cpu", "--prompt", "a room", "--out", "shot",
    ]  # fmt: skip
    assert main(shot) == 0
    assert (tmp_path / "shot" / "video.mp4").is_file()
