"""Shots of colours whose latents are finer than the grid of geometry, as the Wan2.1 VAE's are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.errors import ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.readout.readout import read
from mirage_core.rollout.history import History
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import all_latents, chunk_path, commit, open_folder
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import ChunkRecord, RolloutState
from mirage_core.tensor_files import read_tensors, write_safetensors

WIDTH, HEIGHT, FRAMES, DEPTH = 64, 32, 25, 2.0
GRID, FINE = (2, 4), (4, 8)
LENGTHS = ChunkLengths(9, 13, 5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cameras() -> Trajectory:
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    poses[:, 0, 3] = -0.02 * torch.arange(FRAMES)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60).expand(FRAMES, 3, 3)
    return Trajectory(poses, lens, WIDTH, HEIGHT, fps=16)


def memory(what: str = "colours") -> LatentCache:
    geometry = FrameGeometry(torch.full((1, HEIGHT, WIDTH), DEPTH), cameras().intrinsics[:1])
    if what == "tokens":
        return begin_memory(noise(48, 1, *GRID), geometry, "wan2.2")
    codec = ColourCodec(2)
    return begin_memory(codec.encode_images(noise(1, HEIGHT, WIDTH, 3)), geometry, codec.name)


def begin(folder: Path | None = None, **changes: Any) -> RolloutState:
    given = {"first_latent": noise(16, 1, *FINE), "cache": memory()} | changes
    return RolloutState(
        cameras(), given["cache"], given["first_latent"], 0, "finer", folder, lengths=LENGTHS
    )


def parts(state: RolloutState) -> dict[str, Any]:
    chunk = state.chunk
    frames = noise(chunk.model_frames, HEIGHT, WIDTH, 3, seed=state.done)
    latents = noise(16, chunk.latent_frames, *FINE, seed=10 + state.done)
    depth = torch.full((chunk.latent_frames, HEIGHT, WIDTH), DEPTH)
    written = write_chunk(
        state, latents, frames, FrameGeometry(depth, state.latent_cameras.intrinsics),
        MemorySettings(), encode=lambda _: pytest.fail("colours need no codec"),
    )  # fmt: skip
    overlap = noise(16, LENGTHS.overlap_latents, *FINE, seed=20 + state.done)
    return {
        "latents": latents, "frames": frames, "overlap": overlap, "cache": written.cache,
        "readout": read(state.cache, state.frame_cameras),
    }  # fmt: skip


def advance(state: RolloutState, chunks: int = 99) -> RolloutState:
    for _ in range(min(chunks, state.remaining)):
        state = commit(state, **parts(state))
    return state


def test_two_grids_stand_side_by_side(tmp_path: Path) -> None:
    state = begin(tmp_path)
    assert (state.grid, state.latent_grid, state.channels) == (GRID, FINE, 16)
    after = advance(open_folder(state), 1)
    assert after.last.latents.shape == (16, 3, *FINE)
    assert after.last.visible.shape == (3, *GRID)
    assert after.last.planes.shape == (3, 3, *GRID)
    assert after.overlap_latent.shape == (16, 2, *FINE)
    history = History(after)
    assert history.latents([0, 2]).shape == (16, 2, *FINE)
    assert history.latents([]).shape == (16, 0, *FINE)
    assert history.visible([]).shape == (0, *GRID)
    assert history.planes([]).shape == (3, 0, *GRID)


def test_48_channels_have_one_grid() -> None:
    state = begin(first_latent=noise(48, 1, *GRID))
    assert state.grid == state.latent_grid == GRID


def test_a_shot_is_resumed_with_the_same_bits(tmp_path: Path) -> None:
    whole = advance(open_folder(begin(tmp_path / "whole")))
    assert len(whole.plan) == 3
    for done in range(4):
        folder = tmp_path / str(done)
        advance(open_folder(begin(folder)), done)
        resumed = open_folder(begin(folder))
        assert resumed.done == done
        made = advance(resumed)
        assert torch.equal(all_latents(made), all_latents(whole))
        assert made.cache.fingerprint() == whole.cache.fingerprint()
        for index in range(3):
            ours, theirs = chunk_path(folder, index), chunk_path(whole.folder, index)
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("what", "shape"),
    [
        ("colours", (16, 1, *GRID)),
        ("colours", (48, 1, *FINE)),
        ("tokens", (16, 1, *FINE)),
        ("tokens", (16, 1, *GRID)),
        ("tokens", (48, 1, *FINE)),
    ],
)
def test_a_first_latent_on_the_wrong_grid_is_refused(what: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="picture's latent"):
        begin(first_latent=noise(*shape), cache=memory(what))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("latents", (16, 3, *GRID)),
        ("latents", (48, 3, *FINE)),
        ("overlap", (16, 2, *GRID)),
    ],
)
def test_parts_on_the_wrong_grid_are_refused(name: str, shape: tuple[int, ...]) -> None:
    state = begin()
    with pytest.raises(ShapeError):
        commit(state, **parts(state) | {name: noise(*shape)})


@pytest.mark.parametrize("seen", [(3, 1, 3), (3, 3, 8), (2, *GRID)])
def test_visibility_that_is_not_of_these_latents_is_refused(seen: tuple[int, ...]) -> None:
    latents = noise(16, 3, *FINE)
    with pytest.raises(ShapeError, match="visibility"):
        ChunkRecord(latents, latents, torch.ones(seen).bool())


def test_a_saved_chunk_on_another_grid_is_made_again(tmp_path: Path) -> None:
    after = advance(open_folder(begin(tmp_path)), 1)
    path = chunk_path(tmp_path, 0)
    tensors = read_tensors(path)
    header = {
        "format": "mirage-chunk", "version": 1, "run_id": "finer", "chunk": 0,
        "shared_blocks": 1, "new_blocks": len(after.cache.blocks) - 1,
        "statistics": dataclasses.asdict(after.statistics[0]),
    }  # fmt: skip
    write_safetensors(path, tensors, header)
    kept = open_folder(begin(tmp_path)).done
    wrong = {name: tensors[name].repeat_interleave(2, -1) for name in ("latents", "projections")}
    write_safetensors(path, tensors | wrong, header)
    assert (kept, open_folder(begin(tmp_path)).done) == (1, 0)
