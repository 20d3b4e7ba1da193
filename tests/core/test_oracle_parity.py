"""The numbers of the released code, for everything that the geometry has in common with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.cache.build import Observation, WriteConfig, make_block, observe
from mirage_core.cache.types import LatentCache
from mirage_core.errors import PlanError
from mirage_core.geometry.camera import PixelConvention, scale_intrinsics
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.transform import invert_rigid
from mirage_core.readout.readout import read_winners
from mirage_core.rollout.plan import plan_chunks
from plain_overlap import points_in_view, select_references, voxel_keys, voxel_overlap

RELEASED = PixelConvention.RELEASED
GRID = (11, 20)
PICTURE = (44, 80)


@pytest.fixture(scope="module")
def tensors(data_folder: Path) -> dict[str, Tensor]:
    return load_file(data_folder / "oracle_geometry.safetensors")


@pytest.fixture(scope="module")
def numbers(data_folder: Path) -> dict[str, Any]:
    return json.loads((data_folder / "oracle_geometry.json").read_text(encoding="utf-8"))


def read_view(cache: LatentCache, camera_to_world: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """(C, h, w) tokens and (h, w) visibility of one camera on the grid."""
    index, depth = read_winners(cache, invert_rigid(camera_to_world)[None], lens[None], GRID)
    assert torch.equal(depth > 0, index >= 0)
    tokens = cache.gather(index, [block.tokens for block in cache.blocks])
    return tokens[0].permute(2, 0, 1), index[0] >= 0


@pytest.mark.parametrize("camera", range(4))
def test_readout_of_a_random_cloud(make, tensors, camera: int) -> None:
    valid = tensors["project.valid"]
    cache = make.cloud(
        tensors["project.points"][valid], tensors["project.features"][valid], convention=RELEASED
    )
    tokens, visible = read_view(
        cache, tensors[f"project.cam{camera}.c2w"].double(), tensors[f"project.cam{camera}.K"]
    )
    assert visible.any()
    assert torch.equal(visible, tensors[f"project.cam{camera}.mask"])
    assert torch.equal(tokens, tensors[f"project.cam{camera}.latent"])


@pytest.fixture(scope="module")
def observed(tensors) -> Observation:
    """Three frames with masks, zero and negative depth, as the released code takes them."""
    depth = tensors["geom.depth"]
    return observe(
        tensors["geom.latent"].permute(1, 0, 2, 3),
        FrameGeometry(
            depth, tensors["geom.K"].repeat(3, 1, 1), exclude=tensors["geom.exclude_mask"]
        ),
        world_to_camera=invert_rigid(tensors["geom.c2w"].double()),
        frames=torch.arange(3),
        convention=RELEASED,
        config=WriteConfig(drop_flying=False),
    )


def test_latent_intrinsics(tensors, observed: Observation) -> None:
    expected = tensors["geom.f0.K_latent"].double()
    assert torch.allclose(observed.intrinsics[0], expected, atol=1e-6, rtol=0)
    scaled = scale_intrinsics(tensors["geom.K"].double(), PICTURE, GRID)
    assert torch.allclose(scaled, expected, atol=1e-6, rtol=0)


def test_lifting_one_frame(tensors, observed: Observation) -> None:
    valid = tensors["geom.f0.valid"]
    assert torch.equal(observed.depth[0].flatten() > 0, valid)
    block = make_block(observed, RELEASED)
    first = block.source == 0
    points = tensors["geom.f0.points"][valid]
    assert torch.allclose(block.points[first], points, atol=1e-6, rtol=1e-6)
    assert torch.equal(block.tokens[first], tensors["geom.f0.features"][valid])


def test_cloud_after_an_update(tensors, observed: Observation) -> None:
    valid = tensors["geom.after_update.valid"]
    block = make_block(observed, RELEASED)
    assert len(block) == int(valid.sum())
    expected = tensors["geom.after_update.points"][valid]
    assert torch.allclose(block.points, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(block.tokens, tensors["geom.after_update.features"][valid])


def test_readout_after_an_update(tensors, observed: Observation) -> None:
    cache = LatentCache((make_block(observed, RELEASED),), RELEASED, "oracle", 8)
    tokens, visible = read_view(cache, tensors["geom.c2w"][2].double(), observed.intrinsics[2])
    assert torch.equal(visible, tensors["geom.after_update.project_cam2_mask"])
    assert torch.equal(tokens, tensors["geom.after_update.project_cam2"])


def test_chunk_plan(numbers) -> None:
    for frames, expected in numbers["plan"].items():
        found = [[c.output_start, c.output_end, c.model_frames] for c in plan_chunks(int(frames))]
        assert found == expected, frames


def test_frames_whose_cameras_are_taken(numbers) -> None:
    for frames, expected in numbers["target_pose_indices"].items():
        assert [chunk.pose_frames for chunk in plan_chunks(int(frames))] == expected, frames


def test_frame_counts_that_have_no_plan(numbers) -> None:
    assert numbers["plan_invalid"]
    for frames in numbers["plan_invalid"]:
        with pytest.raises(PlanError):
            plan_chunks(frames)


def test_reference_frames(make, tensors, numbers) -> None:
    expected = numbers["ref"]
    cache = make.cloud(tensors["ref.points"][tensors["ref.valid"]], convention=RELEASED)
    poses = invert_rigid(tensors["ref.c2w"])
    size = tuple(expected["latent_hw"])
    lens = scale_intrinsics(tensors["ref.K_pixel"], tuple(expected["frames_hw"]), size)
    lens = lens.repeat(len(poses), 1, 1)
    target = expected["target_pose_indices"]
    ahead = voxel_keys(points_in_view(cache, poses[target], lens[target], size))
    history = [
        points_in_view(cache, poses[i : i + 1], lens[i : i + 1], size)
        for i in range(len(expected["num_visible"]))
    ]
    assert [len(points) for points in history] == expected["num_visible"]
    scores = [voxel_overlap(ahead, voxel_keys(points)) for points in history]
    assert scores == pytest.approx(expected["iou_voxel0.1"], abs=1e-6)
    for case, chosen in expected["cases"].items():
        limit, threshold = case.removeprefix("max").split("_thr")
        found = select_references(scores, limit=int(limit), threshold=float(threshold))
        assert found == chosen, case
