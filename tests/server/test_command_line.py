"""One shot by the command line and by the graph, from the same files: the same latents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.cache.types import CacheBlock
from mirage_core.cli.main import main
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.tensor_files import read_tensors
from mirage_core.trajectories.files import save_trajectory
from mirage_core.trajectories.presets import preset_trajectory
from tiny_depth import write_depth_folder
from tiny_install import sampling_server
from tiny_models import (
    BRANCH,
    TEXT_ENCODER,
    VAE,
    VIDEO_MODEL,
    add_sizes,
    write_models,
)

from .prompts import Prompt, folders, node

pytestmark = pytest.mark.server

SIDE, FRAMES, STEPS, SEED = 64, 37, 3, 12
"""Two chunks, of 33 frames and of 4."""

PROMPT, NEGATIVE = "a quiet street in the rain", "trees and old houses"
ESTIMATOR = "tiny_depth"
"""Folder of the depth model, where the depth of new frames is estimated."""

TOLERANCE = 5e-4
"""Largest difference of latents of order one. Found were 0.8e-4, and 1.2e-4 with guidance."""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with tiny models, a picture, its move, and depth of the whole shot."""
    base = tmp_path_factory.mktemp("parity")
    write_models(base / "models")
    add_sizes(base / "custom_nodes")
    write_depth_folder(base / "models" / "geometry_estimation" / ESTIMATOR)
    write_shot(base / "input")
    with sampling_server(base, comfyui_path) as running:
        yield running


def write_shot(folder: Path) -> None:
    """A picture, a camera move from it, and depth of every frame, in files."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = ProceduralScene.from_seed(16, texture_size=128)
    lens = intrinsics_from_fov(SIDE, SIDE, 70)
    size = {"intrinsics": lens, "width": SIDE, "height": SIDE}
    move = preset_trajectory("truck", FRAMES, scene_depth=3.0, amount=0.4, **size)
    in_room = move.world_to_camera @ invert_rigid(scene.start_camera_to_world)
    cameras = Trajectory(in_room, move.intrinsics, SIDE, SIDE)
    pictures, depth = scene.render(cameras)
    Image.fromarray((pictures[0] * 255).round().byte().numpy()).save(folder / "picture.png")
    save_trajectory(folder / "move.json", move)
    geometry = FrameGeometry(depth, move.intrinsics)
    save_geometry(geometry, folder / "depth.safetensors")
    save_geometry(geometry.select([0]), folder / "first_depth.safetensors")


def graph(name: str, guidance: float, estimated: bool) -> Prompt:
    """The shot with stock loaders and the released sampler."""
    file = "first_depth.safetensors" if estimated else "depth.safetensors"
    models = {
        "unet": node("UNETLoader", unet_name=VIDEO_MODEL, weight_dtype="default"),
        "clip": node("CLIPLoader", clip_name=TEXT_ENCODER, type="wan"),
        "vae": node("VAELoader", vae_name=VAE),
        "branch": node("MirageLoadBranch", branch_name=BRANCH),
        "positive": node("CLIPTextEncode", text=PROMPT, clip=["clip", 0]),
        "negative": node("CLIPTextEncode", text=NEGATIVE, clip=["clip", 0]),
    }
    given = {
        "picture": node("LoadImage", image="picture.png"),
        "depth": node("MirageGeometryLoad", file=file, fov=60.0),
        "move": node("MirageTrajectoryLoad", file="move.json"),
        "init": node(
            "MirageCacheInit",
            image=["picture", 0], geometry=["depth", 0], vae=["vae", 0],
            depth_mode="bilinear", drop_flying=True, pixel_convention="paper",
        ),
        "start": node(
            "MirageRolloutStart",
            cache=["init", 0], trajectory=["move", 0], first_latent=["init", 1],
            seed=SEED, name=name, resume=True,
        ),
    }  # fmt: skip
    return models | given | body(guidance) | (estimation() if estimated else {})


def estimation() -> Prompt:
    """Depth of a chunk's own frames, brought to the memory's scale."""
    update = body(1.0)["update"]
    update["inputs"]["geometry"] = ["align", 0]
    return {
        "estimator": node(
            "MirageLoadEstimator", estimator="transformers", folder=ESTIMATOR, fov=60.0
        ),
        "estimate": node(
            "MirageEstimateGeometry",
            estimator=["estimator", 0], image=["decode", 0], trajectory=["open", 3],
        ),
        "align": node(
            "MirageAlignGeometry",
            state=["open", 1], geometry=["estimate", 0], mode="scale", refuse_above=0.1,
            grow_pixels=0, grow_cells=0, strict=False,
        ),
        "update": update,
    }  # fmt: skip


def body(guidance: float) -> Prompt:
    plain = node("BasicGuider", model=["apply", 0], conditioning=["positive", 0])
    guided = node(
        "CFGGuider", model=["apply", 0], positive=["positive", 0], negative=["negative", 0],
        cfg=guidance,
    )  # fmt: skip
    return {
        "open": node("MirageLoopOpen", state=["start", 0]),
        "read": node("MirageReadout", cache=["open", 2], trajectory=["open", 3]),
        "apply": node(
            "MirageApply",
            model=["unet", 0], readout=["read", 0], first_latent=["open", 4], strength=1.0,
            references=4, preceding=2, start_percent=0.0, end_percent=1.0,
            branch=["branch", 0], state=["open", 1], vae=["vae", 0],
        ),
        "own": node("MirageUniPC", steps=STEPS, shift=5.0),
        "noise": node("RandomNoise", noise_seed=["open", 5]),
        "guider": plain if guidance == 1 else guided,
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0], guider=["guider", 0], sampler=["own", 0], sigmas=["own", 1],
            latent_image=["apply", 1],
        ),
        "decode": node(
            "MirageChunkDecode", latent=["sample", 0], vae=["vae", 0], state=["open", 1], carried=2
        ),
        "update": node(
            "MirageCacheUpdate",
            state=["open", 1], readout=["read", 0], latent=["sample", 0], images=["decode", 0],
            geometry=["depth", 0], vae=["vae", 0], policy="novelty", tokens="reencode",
            depth_mode="bilinear", drop_flying=True,
        ),
        "close": node("MirageLoopClose", flow=["open", 0], state=["update", 0]),
        "result": node("MirageRolloutResult", state=["close", 0]),
        "memory": node("MirageCacheSave", cache=["result", 2], filename_prefix="memory"),
    }  # fmt: skip


def command(base: Path, out: Path, guidance: float, estimated: bool = False) -> list[str]:
    models = base / "models"
    file = "first_depth.safetensors" if estimated else "depth.safetensors"
    arguments: dict[str, object] = {
        "--image": base / "input" / "picture.png",
        "--geometry": base / "input" / file,
        "--trajectory": base / "input" / "move.json",
        "--transformer": models / "diffusion_models" / VIDEO_MODEL,
        "--branch": models / "model_patches" / BRANCH,
        "--vae": models / "vae" / VAE,
        "--text-encoder": models / "text_encoders" / TEXT_ENCODER,
        "--prompt": PROMPT,
        "--negative": NEGATIVE,
        "--guidance": guidance,
        "--seed": SEED,
        "--steps": STEPS,
        "--device": "cpu",
        "--out": out,
    }
    if estimated:
        arguments["--depth-model"] = models / "geometry_estimation" / ESTIMATOR
    return ["rollout", *(text for pair in arguments.items() for text in map(str, pair))]


def latents(folder: Path) -> list[Tensor]:
    """(C, T, h, w) of every chunk that a folder holds."""
    return [read_tensors(path)["latents"] for path in sorted(folder.glob("chunk_*.safetensors"))]


def assert_same_points(one: CacheBlock, other: CacheBlock) -> None:
    """Equal up to rounding; points within rounding of each other may stand in any order."""
    assert len(one) == len(other)
    # Tokens are kept in 16 bits. Of a split cell two points have the same.
    equal = (one.values.float()[:, None] - other.values.float()).abs().amax(-1) < 1e-2
    equal &= (one.points[:, None] - other.points).abs().amax(-1) < 1e-3
    equal &= one.source[:, None] == other.source
    equal &= one.masks[:, None] == other.masks
    row, column = linear_sum_assignment(~equal)
    assert bool(equal[row, column].all())


LENGTHS = {"first_chunk_frames": 21, "chunk_frames": 17, "overlap_frames": 5}


def test_same_latents_of_chunks_that_share_frames(server: ComfyServer, tmp_path: Path) -> None:
    """Each side encodes the end of a chunk with its own VAE, and both begin with the same."""
    prompt = graph("lengths", 1.0, False)
    prompt["start"]["inputs"] |= LENGTHS
    ComfyClient(server.url).run(prompt, timeout=300)
    (by_graph,) = folders(server.output, "lengths")
    by_command = tmp_path / "shot"
    options = [
        text for key, number in LENGTHS.items()
        for text in (f"--{key.replace('_', '-')}", str(number))
    ]  # fmt: skip
    assert main([*command(server.base, by_command, 1.0), *options]) == 0
    ours, theirs = latents(by_command), latents(by_graph)
    assert [one.shape[1] for one in ours] == [6, 3, 1]
    for one, other in zip(ours, theirs, strict=True):
        assert float(one.std()) > 0.3, "nothing was sampled"
        assert float((one - other).abs().max()) < TOLERANCE
    for chunk in (0, 1):
        file = f"chunk_{chunk:04}.safetensors"
        one, other = (read_tensors(path / file)["overlap"] for path in (by_command, by_graph))
        assert one.shape == other.shape == (48, 2, 4, 4)
        assert float((one - other).abs().max()) < TOLERANCE * float(one.abs().max())


@pytest.mark.parametrize(
    ("guidance", "estimated"), [(1.0, False), (2.5, False), (1.0, True)],
    ids=["plain", "guided", "estimated depth"],
)  # fmt: skip
def test_same_latents(
    server: ComfyServer, tmp_path: Path, guidance: float, estimated: bool
) -> None:
    name = f"guided_{guidance:g}_{estimated}"
    result = ComfyClient(server.url).run(graph(name, guidance, estimated), timeout=300)
    (by_graph,) = folders(server.output, name)
    by_command = tmp_path / "shot"
    assert main(command(server.base, by_command, guidance, estimated)) == 0

    ours, theirs = latents(by_command), latents(by_graph)
    assert [one.shape[1] for one in ours] == [9, 1]
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert float(one.std()) > 0.3, "nothing was sampled"
        assert float((one - other).abs().max()) < TOLERANCE

    (file,) = result.outputs["memory"]["text"]
    kept, known = load_cache(by_command / "memory.safetensors"), load_cache(Path(file))
    assert len(kept) == len(known) > SIDE // 16 * (SIDE // 16)
    for one, other in zip(kept.blocks, known.blocks, strict=True):
        assert_same_points(one, other)


def test_the_past_matters(server: ComfyServer, tmp_path: Path) -> None:
    """What the comparison would not notice if the second chunk saw nothing of the first."""
    shots = {}
    for name, past in {
        "all": [], "none": ["--references", "0"], "alone": ["--preceding", "0"]
    }.items():  # fmt: skip
        assert main([*command(server.base, tmp_path / name, 1.0), *past]) == 0
        shots[name] = latents(tmp_path / name)
    for name in ("none", "alone"):
        assert torch.equal(shots[name][0], shots["all"][0])
        assert float((shots[name][1] - shots["all"][1]).abs().max()) > 10 * TOLERANCE
