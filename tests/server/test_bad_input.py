"""Bad input: a typed error that says what to do, before the loop, with nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dev.comfy_client import ComfyClient, ComfyRunError, ComfyValidationError
from dev.comfy_server import ComfyServer
from mirage_core.cache.build import append_all, observe
from mirage_core.cache.io import VERSION, block_tensors, cache_header, save_cache
from mirage_core.cache.types import LatentCache
from mirage_core.folder_lock import HOLDER
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.tensor_files import HEADER_KEY, write_safetensors
from mirage_core.trajectories.files import save_trajectory, trajectory_to_json

from .prompts import BODY, Prompt, looked_at, node, shot

pytestmark = pytest.mark.server


@pytest.fixture
def inputs(comfy_server: ComfyServer) -> Iterator[Path]:
    """The server's input folder; what a test puts there is removed again."""
    before = set(comfy_server.input.iterdir())
    yield comfy_server.input
    for path in set(comfy_server.input.iterdir()) - before:
        path.unlink()


@pytest.fixture
def refuse(comfy_server: ComfyServer, comfy_client: ComfyClient) -> Callable[..., ComfyRunError]:
    """Run a prompt that must fail before its loop and leave every file as it was."""

    def files() -> dict[Path, int]:
        folders = (comfy_server.output, comfy_server.input)
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        # The server lets go of the folder of an earlier prompt soon after its last message.
        return {path: path.stat().st_mtime_ns for path in found if path.name != HOLDER}

    def run(prompt: Prompt, kind: str, *words: str, before_loop: bool = True) -> ComfyRunError:
        before = files()
        with pytest.raises(ComfyRunError) as caught:
            comfy_client.run(prompt, timeout=60)
        error = caught.value
        assert error.exception_type.endswith(f".mirage_core.errors.{kind}"), error
        missing = [word for word in words if word not in error.exception_message]
        assert not missing, f"{missing} not in: {error.exception_message}"
        if before_loop:
            assert not set(BODY) & set(error.result.displayed)
        assert files() == before
        return error

    return run


def trajectory(frames: int = 33, width: int = 64, height: int = 64) -> Trajectory:
    pose = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)
    lens = intrinsics_from_fov(width, height, 70.0).expand(frames, 3, 3)
    return Trajectory(pose, lens, width, height)


def loaded_move(file: str, **settings: Any) -> Prompt:
    return shot(name="bad_move", **settings) | {"move": node("MirageTrajectoryLoad", file=file)}


# --- lengths of chunks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"first_chunk_frames": 120}, ("length of the first chunk", "117 or 121")),
        ({"chunk_frames": 82}, ("length of the later chunks", "81 or 85")),
        ({"overlap_frames": 8}, ("overlap of the chunks", "5 or 9")),
        ({"chunk_frames": 9, "overlap_frames": 9}, ("not longer than the overlap", "at least 13")),
    ],
)
def test_lengths_of_chunks(refuse: Any, lengths: dict[str, int], words: tuple[str, ...]) -> None:
    error = refuse(shot(name="bad_lengths", **lengths), "PlanError", *words)
    assert error.node_id == "start"


# --- sizes, frame counts, depth -----------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(100, 64), (64, 80)])
def test_scene_sizes_off_the_grid(refuse: Any, width: int, height: int) -> None:
    error = refuse(
        shot(width=width, height=height, name="bad"), "ShapeError", f"{width} x {height}", "32"
    )
    assert error.node_type == "MirageEmbeddedScene"


def test_picture_sizes_off_the_grid(refuse: Any) -> None:
    size = {"width": 720, "height": 480}
    error = refuse(
        looked_at(picture=size, depth_picture=size),
        "ShapeError",
        "720 x 480",
        "divisible by 32",
        "Resize or crop the picture to 704 x 480",
    )
    assert error.node_type == "MirageCacheInit"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (34, ("Got: 34", "4n + 1", "Use 33 or 37 frames")),
        (1, ("out of range", "Got: 1", "5 to 100001")),
        (-3, ("out of range", "Got: -3")),
        (1_000_001, ("out of range", "Got: 1000001")),
    ],
)
def test_frame_counts_are_refused_when_queued(
    comfy_client: ComfyClient, frames: int, words: tuple[str, ...]
) -> None:
    with pytest.raises(ComfyValidationError) as caught:
        comfy_client.submit(shot(frames, name="bad"))
    assert "move (MirageTrajectory)" in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_keyframes_do_not_excuse_the_frame_count(comfy_client: ComfyClient) -> None:
    prompt = shot(34, name="bad")
    prompt["move"]["inputs"]["keyframes"] = '{"format": "mirage-keyframes"}'
    with pytest.raises(ComfyValidationError, match="Use 33 or 37 frames"):
        comfy_client.submit(prompt)


def test_linked_frame_count_is_refused(refuse: Any) -> None:
    prompt = shot(name="bad") | {"count": node("PrimitiveInt", value=34)}
    prompt["move"]["inputs"]["frames"] = ["count", 0]
    refuse(prompt, "PlanError", "Got: 34", "4n + 1", "Use 33 or 37 frames")


def test_keys_that_are_no_keys(refuse: Any) -> None:
    prompt = shot(name="bad")
    prompt["move"]["inputs"]["keys"] = "w*16 q*4"
    refuse(prompt, "TrajectoryError", "q")


def test_depth_of_another_crop(refuse: Any) -> None:
    error = refuse(
        looked_at(depth_picture={"width": 128}),
        "ShapeError",
        "depth 128 x 64, picture 64 x 64",
        "Crop the picture first",
    )
    assert error.node_type == "MirageCacheInit"


def test_depth_range_without_extent(refuse: Any) -> None:
    refuse(looked_at(geometry={"near": 5.0, "far": 5.0}), "GeometryError", "5.0 to 5.0", "near <")


def test_depth_that_is_all_left_out(refuse: Any) -> None:
    prompt = looked_at(init={"exclude": ["all", 0]})
    prompt["all"] = node("SolidMask", value=1.0, width=64, height=64)
    refuse(prompt, "GeometryError", "depth")


# --- trajectory files ---------------------------------------------------------------------------


def not_a_rotation(data: dict[str, Any]) -> None:
    data["frames"][7]["matrix"][0][0] = 1.5


def missing_tag(data: dict[str, Any]) -> None:
    del data["convention"]["matrix"]


def newer_version(data: dict[str, Any]) -> None:
    data["version"] = 2


def text_for_number(data: dict[str, Any]) -> None:
    data["frames"][3]["matrix"][1][3] = "NaN"


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (not_a_rotation, "GeometryError", ("frame 7", "not a rotation", "Remove scale")),
        (missing_tag, "CacheFormatError", ("matrix", "world_to_camera", "camera_to_world")),
        (newer_version, "CacheFormatError", ("newer Mirage", "version 2", "Update Mirage")),
        (text_for_number, "CacheFormatError", ("Frame 3", "not a number", "'NaN'")),
    ],
)
def test_damaged_trajectory_files(
    refuse: Any, inputs: Path, damage: Any, kind: str, words: tuple[str, ...]
) -> None:
    data = trajectory_to_json(trajectory())
    damage(data)
    (inputs / "move.json").write_text(json.dumps(data))
    error = refuse(loaded_move("move.json"), kind, "move.json", *words)
    assert error.node_type == "MirageTrajectoryLoad"


def test_trajectory_file_with_nan(refuse: Any, inputs: Path) -> None:
    data = trajectory_to_json(trajectory())
    data["frames"][2]["matrix"][0][3] = float("nan")
    (inputs / "nan.json").write_text(json.dumps(data))
    refuse(loaded_move("nan.json"), "CacheFormatError", "nan.json", "NaN")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"format": "other"}', "\0\1\2"])
def test_foreign_trajectory_files(refuse: Any, inputs: Path, content: str) -> None:
    (inputs / "foreign.json").write_text(content)
    refuse(loaded_move("foreign.json"), "CacheFormatError", "foreign.json")


def test_missing_trajectory_file(comfy_client: ComfyClient) -> None:
    with pytest.raises(ComfyValidationError, match=r"move \(MirageTrajectoryLoad\).*nowhere"):
        comfy_client.submit(loaded_move("nowhere.json"))


@pytest.mark.parametrize(
    ("frames", "kind", "words"),
    [
        (1, "TrajectoryError", ("shorter than one chunk", "1 frames", "at least 5")),
        (3, "PlanError", ("Got: 3", "Use 1 or 5 frames")),
        (34, "PlanError", ("Got: 34", "Use 33 or 37 frames")),
    ],
)
def test_trajectory_files_of_no_length(
    refuse: Any, inputs: Path, frames: int, kind: str, words: tuple[str, ...]
) -> None:
    save_trajectory(inputs / "short.json", trajectory(frames))
    error = refuse(loaded_move("short.json"), kind, *words)
    assert error.node_type == "MirageRolloutStart"


@pytest.mark.parametrize(
    ("width", "height", "words"), [(96, 64, ("latent",)), (100, 64, ("100 x 64", "32"))]
)
def test_trajectory_of_another_picture_size(
    refuse: Any, inputs: Path, width: int, height: int, words: tuple[str, ...]
) -> None:
    save_trajectory(inputs / "wide.json", trajectory(33, width, height))
    error = refuse(loaded_move("wide.json"), "ShapeError", *words)
    assert error.node_type == "MirageRolloutStart"


# --- latents and models -------------------------------------------------------------------------


def test_latent_of_another_vae(refuse: Any) -> None:
    latent = {"width": 64, "height": 64, "length": 1, "batch_size": 1}
    prompt = shot(name="bad") | {"other": node("EmptyHunyuanLatentVideo", **latent)}
    prompt["start"]["inputs"]["first_latent"] = ["other", 0]
    error = refuse(
        prompt, "ModelMismatchError", "16 channels", "Wan2.1", "48", "wan2.2_vae.safetensors"
    )
    assert error.node_type == "MirageRolloutStart"


def test_latent_of_a_picture(refuse: Any) -> None:
    latent = {"width": 64, "height": 64, "batch_size": 1}
    prompt = shot(name="bad") | {"other": node("EmptyLatentImage", **latent)}
    prompt["start"]["inputs"]["first_latent"] = ["other", 0]
    refuse(prompt, "ShapeError", "not one video latent", "(1, 48, T, h, w)")


def test_latent_of_another_size(refuse: Any) -> None:
    prompt = shot(name="bad") | {
        "scene2": node("MirageEmbeddedScene", seed=1, width=96, height=64, fov=70.0),
        "encode": node("VAEEncode", pixels=["scene2", 0], vae=["codec", 0]),
    }
    prompt["start"]["inputs"]["first_latent"] = ["encode", 0]
    refuse(prompt, "ShapeError", "picture's latent")


# --- memory files -------------------------------------------------------------------------------


def small_memory(codec: str = "embedded-dct-1") -> LatentCache:
    geometry = FrameGeometry(torch.full((1, 4, 4), 2.0), intrinsics_from_fov(4, 4, 70.0)[None])
    seen = observe(
        torch.zeros(48, 1, 4, 4),
        geometry,
        world_to_camera=torch.eye(4, dtype=torch.float64)[None],
        frames=torch.zeros(1, dtype=torch.int64),
    )
    return append_all(LatentCache(codec=codec), seen)


def loaded_memory(file: str) -> Prompt:
    return {
        "load": node("MirageCacheLoad", file=file),
        "info": node("MirageCacheInfo", cache=["load", 0]),
    }


def test_whole_memory_file_is_accepted(comfy_client: ComfyClient, inputs: Path) -> None:
    save_cache(inputs / "whole.safetensors", small_memory())
    result = comfy_client.run(loaded_memory("whole.safetensors"), timeout=60)
    assert result.outputs["info"]["text"][0].startswith("16 points in 1 blocks")


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
def test_truncated_memory_files(refuse: Any, inputs: Path, kept: float) -> None:
    path = save_cache(inputs / "cut.safetensors", small_memory())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    refuse(loaded_memory("cut.safetensors"), "CacheFormatError", "cut.safetensors", "cut off")


@pytest.mark.parametrize("content", [b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60, b"\x80\x04}q\0."])
def test_files_of_other_formats(refuse: Any, inputs: Path, content: bytes) -> None:
    (inputs / "foreign.safetensors").write_bytes(content)
    refuse(loaded_memory("foreign.safetensors"), "CacheFormatError", "cannot be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "weights"}, ("not a mirage-cache file", "'weights'")),
        ({"version": VERSION + 1}, ("newer Mirage", f"version {VERSION + 1}", "Update Mirage")),
        ({"blocks": 10**9}, ("impossible number of blocks",)),
        ({"points": 3}, ("incomplete", "16 points")),
        ({"channels": 16}, ("does not fit",)),
    ],
)
def test_memory_headers_that_lie(
    refuse: Any, inputs: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    memory = small_memory()
    tensors = block_tensors(memory.blocks[0], "block.0")
    write_safetensors(inputs / "lies.safetensors", tensors, cache_header(memory) | changes)
    refuse(loaded_memory("lies.safetensors"), "CacheFormatError", "lies.safetensors", *words)


def test_weights_are_no_memory(refuse: Any, inputs: Path) -> None:
    save_file({"weight": torch.zeros(2, 2)}, inputs / "model.safetensors", {HEADER_KEY: "[1]"})
    refuse(loaded_memory("model.safetensors"), "CacheFormatError", "not a mirage-cache file")


def test_memory_with_hostile_values(refuse: Any, inputs: Path) -> None:
    memory = small_memory()
    tensors = {n: t.clone() for n, t in block_tensors(memory.blocks[0], "block.0").items()}
    tensors["block.0.points"][3] = torch.nan
    write_safetensors(inputs / "nan.safetensors", tensors, cache_header(memory))
    refuse(loaded_memory("nan.safetensors"), "CacheFormatError", "no memory has", "NaN")


def test_memory_of_another_vae(refuse: Any, inputs: Path) -> None:
    save_cache(inputs / "wan.safetensors", small_memory("wan2.2"))
    prompt = shot(name="bad") | {"load": node("MirageCacheLoad", file="wan.safetensors")}
    prompt["read"]["inputs"] = {"cache": ["load", 0], "trajectory": ["move", 0]}
    prompt["fill"]["inputs"].pop("first_latent")
    prompt["look"] = node("PreviewImage", images=["decode", 0])
    for name in ("start", "open", "update", "close", "result"):
        del prompt[name]
    refuse(prompt, "ModelMismatchError", "'wan2.2'", "embedded-dct-1", before_loop=False)


# --- places to write ----------------------------------------------------------------------------


def test_file_where_the_folder_should_be(refuse: Any, comfy_server: ComfyServer) -> None:
    blocked = comfy_server.output / "mirage" / "blocked"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    error = refuse(shot(name="blocked"), "StorageError", "could not be written", "A file exists")
    assert error.node_type == "MirageRolloutStart"
    refuse(shot(name="blocked/deeper"), "StorageError", "could not be written", "A file exists")
    assert blocked.read_text() == "in the way"


@pytest.mark.parametrize("name", ["../../x", "..", "a/../../..", "/tmp/x", "..\\..\\x"])
def test_names_that_lead_out(refuse: Any, comfy_server: ComfyServer, name: str) -> None:
    around = set(comfy_server.base.iterdir())
    refuse(shot(name=name), "StorageError", "leads out of the output folder", "Use a plain name")
    assert set(comfy_server.base.iterdir()) == around


@pytest.mark.parametrize("prefix", ["../../x", "../x", "/tmp/x"])
def test_prefixes_that_lead_out(refuse: Any, prefix: str) -> None:
    prompt = looked_at()
    prompt["save"] = node("MirageCacheSave", cache=["init", 0], filename_prefix=prefix)
    refuse(prompt, "StorageError", "leads out of the output folder")


def test_prefix_below_a_file(refuse: Any, comfy_server: ComfyServer) -> None:
    blocked = comfy_server.output / "mirage" / "blocked_memory"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    prompt = looked_at()
    prompt["save"] = node("MirageCacheSave", cache=["init", 0], filename_prefix="blocked_memory/m")
    refuse(prompt, "StorageError", "could not be written", "A file exists")
