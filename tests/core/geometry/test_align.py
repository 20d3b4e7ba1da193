"""Depth on the memory's scale: what is recovered, what is refused, what follows its neighbours."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mirage_core.cache.build import append_all
from mirage_core.cache.types import LatentCache
from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.align import (
    FIELD_LIMIT,
    AlignConfig,
    Correction,
    DepthPairs,
    align_depth,
    depth_edges,
)
from mirage_core.geometry.expect_cameras import expect_same_lens, expect_same_path
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.transform import rotation_about
from mirage_core.readout.depth_pairs import depth_pairs
from mirage_core.readout.readout import read_winners

GRID = (12, 20)


def surface(make, frames: int = 4, seed: int = 0) -> torch.Tensor:
    """Depth between 1.5 and 6 that bends smoothly."""
    coarse = make.noise(frames, 1, 3, 4, seed=seed)
    smooth = torch.nn.functional.interpolate(coarse, GRID, mode="bicubic", align_corners=True)
    return 3 * (0.4 * smooth[:, 0]).clamp(-0.7, 0.7).exp()


def pairs(new: torch.Tensor, known: torch.Tensor, weight: torch.Tensor | None = None) -> DepthPairs:
    return DepthPairs(new, known, torch.ones_like(new) if weight is None else weight)


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.3, 3.0),
    outliers=st.floats(0.0, 0.35),
    noise=st.floats(0.0, 0.02),
)
def test_a_scale_is_recovered_under_outliers(make, seed, scale, outliers, noise) -> None:
    known = surface(make, seed=seed)
    new = known / scale * (noise * make.noise(*known.shape, seed=seed + 1)).exp()
    wrong = make.uniform(*known.shape, seed=seed + 2) < outliers
    new = torch.where(wrong, new * (0.2 + 0.6 * make.uniform(*known.shape, seed=seed + 3)), new)
    found = align_depth(pairs(new, known), AlignConfig(local=False))
    assert found.correction.scale.tolist() == pytest.approx([scale] * 4, rel=0.005)
    assert not found.correction.shift.any()
    assert all(found.trusted(0.1))


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.5, 2.0),
    share=st.floats(-1.0, 0.7),
    outliers=st.floats(0.0, 0.25),
)
@example(seed=0, scale=1.0, share=0.0, outliers=0.25)
def test_scale_and_shift_are_recovered_under_outliers(make, seed, scale, share, outliers) -> None:
    """Where inverse depth is only known up to scale and shift, both come back."""
    known = surface(make, seed=seed)
    shift = share * float((scale / known).min())
    new = 1 / (scale / known - shift)
    wrong = make.uniform(*known.shape, seed=seed + 2) < outliers
    new = torch.where(wrong, new * 1.6, new)
    found = align_depth(pairs(new, known), AlignConfig("affine", local=False))
    right = found.correction.apply(new)[~wrong]
    assert (right / known[~wrong]).log().abs().median() < 0.005
    assert found.correction.scale.tolist() == pytest.approx([scale] * 4, rel=0.03)
    assert found.correction.shift.tolist() == pytest.approx([shift] * 4, abs=0.02)


def test_a_scale_alone_does_not_repair_a_shift(make) -> None:
    known = surface(make)
    new = 1 / (1 / known + 0.3)
    errors = {
        mode: align_depth(pairs(new, known), AlignConfig(mode, local=False)).residual
        for mode in ("scale", "affine")
    }
    assert max(errors["affine"]) < 0.001 < 0.05 < max(errors["scale"])


@given(seed=st.integers(0, 1000))
def test_equal_depth_stays_as_it_is(make, seed) -> None:
    known = surface(make, seed=seed)
    for mode in ("scale", "affine"):
        found = align_depth(pairs(known, known), AlignConfig(mode))
        assert torch.allclose(found.correction.apply(known), known, rtol=1e-5)
        assert max(found.residual) < 1e-6


def test_without_alignment_depth_keeps_its_bits(make) -> None:
    known = surface(make)
    found = align_depth(pairs(2 * known, known), AlignConfig("none"))
    assert torch.equal(found.correction.apply(known), known)
    assert found.before == pytest.approx([0.5] * 4)


def test_where_nothing_is_known_nothing_changes_and_nothing_is_trusted(make) -> None:
    known = surface(make)
    found = align_depth(pairs(known, known, torch.zeros_like(known)))
    assert found.correction.is_identity
    assert all(math.isnan(value) for value in found.residual)
    assert not any(found.trusted(0.1))


def test_a_frame_without_overlap_follows_its_neighbours(make) -> None:
    known = surface(make, frames=5)
    factor = torch.tensor([1.10, 1.12, 1.0, 1.16, 1.18])[:, None, None]
    weight = torch.ones_like(known)
    weight[2] = 0
    found = align_depth(pairs(known / factor, known, weight), AlignConfig(local=False))
    assert found.correction.scale.tolist() == pytest.approx(
        [1.10, 1.12, 1.14, 1.16, 1.18], rel=0.005
    )
    assert math.isnan(found.fitted[2])
    assert found.trusted(0.1) == (True,) * 5


def test_frames_that_share_little_are_smoothed_over_time(make) -> None:
    """A frame with a handful of cells leans on the others; one with many does not."""
    known = surface(make, frames=5)
    new = known.clone()
    new[2] /= 1.04
    few = torch.ones_like(known)
    few[2] = 0
    few[2].view(-1)[:10] = 1
    scales = [
        float(align_depth(pairs(new, known, weight), AlignConfig(local=False)).correction.scale[2])
        for weight in (torch.ones_like(known), few)
    ]
    assert 1.03 < scales[0] <= 1.041
    assert scales[1] < scales[0] - 0.005


def test_frames_on_either_side_of_a_jump_do_not_meet_halfway(make) -> None:
    """An estimator that starts anew has another scale from one frame to the next."""
    known = surface(make, frames=9)
    scale = torch.tensor([1.12] + 8 * [0.92])
    noise = 1 + 0.02 * make.noise(*known.shape)
    new = known * scale[:, None, None] * noise
    sparse = torch.where(make.uniform(*known.shape) < 0.3, known, 0.0)
    found = align_depth(pairs(new, sparse, torch.ones_like(known)), AlignConfig())
    assert found.correction.scale.tolist() == pytest.approx((1 / scale).tolist(), rel=0.015)
    assert all(found.trusted(0.05))


def test_wrong_geometry_is_refused_and_the_rest_is_not(make) -> None:
    known = surface(make, frames=5)
    new = known / 1.2
    new[3] = surface(make, frames=1, seed=99)[0]
    found = align_depth(pairs(new, known))
    assert found.trusted(0.1) == (True, True, True, False, True)
    assert found.fitted[3] > 0.1
    good = [0, 1, 2, 4]
    assert found.correction.scale[good].tolist() == pytest.approx([1.2] * 4, rel=0.01)


def test_cells_without_overlap_follow_the_correction_beside_them(make) -> None:
    """From 4 % too far on the left to 4 % too near on the right; the ends are unknown."""
    known = torch.full((3, *GRID), 3.0)
    new = known * torch.linspace(0.1, -0.1, GRID[1]).clamp(-0.04, 0.04).exp()
    weight = torch.ones_like(known)
    weight[..., :4] = weight[..., -4:] = 0
    found = align_depth(pairs(new, known, weight))
    aligned = found.correction.apply(new)
    for columns in (slice(0, 4), slice(16, 20)):
        assert (aligned[..., columns] / 3 - 1).abs().max() < 0.02
    assert max(found.residual) < max(found.fitted)


@given(seed=st.integers(0, 1000))
def test_local_corrections_are_bounded(make, seed) -> None:
    known, new = surface(make, seed=seed), surface(make, seed=seed + 1)
    field = align_depth(pairs(new, known)).correction.local
    assert field.abs().max() <= FIELD_LIMIT + 1e-6
    assert torch.isfinite(field).all()


def test_no_depth_is_left_where_the_shift_leaves_none() -> None:
    shift = torch.tensor([-0.5], dtype=torch.float64)
    correction = Correction(torch.ones(1, dtype=torch.float64), shift, torch.zeros(1, 1, 1))
    depth = torch.tensor([[[1.0, 2.0, 4.0, torch.inf, -1.0]]])
    assert correction.apply(depth)[0, 0].tolist() == pytest.approx([2, 0, 0, 0, 0])


def test_edges_are_where_planes_end() -> None:
    column = torch.arange(20) + 0.5
    slanted = 1 / (0.2 + 0.02 * column).expand(1, *GRID)
    assert not depth_edges(slanted).any()
    step = slanted.clone()
    step[..., 10:] *= 2
    assert depth_edges(step)[0].any(0).nonzero().flatten().tolist() == [9, 10]


@pytest.mark.parametrize(
    "settings", [{"mode": "shift"}, {"step": 0.0}, {"refuse_above": math.nan}]
)
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueRangeError):
        AlignConfig(**settings)


def test_pairs_of_different_sizes(make) -> None:
    with pytest.raises(ShapeError):
        pairs(surface(make), surface(make)[:, 1:])


class TestAgainstTheMemory:
    """Depth of points in view, each compared at its own place."""

    def slanted(self, make, size: tuple[int, int]) -> torch.Tensor:
        """(1, *size) depth of a wall that recedes to the right."""
        column = (torch.arange(size[1]) + 0.5) / size[1]
        return (1 / (0.6 - 0.4 * column)).expand(1, *size).contiguous()

    def memory(self, make, convention, copies: int = 1, noise: float = 0.0) -> LatentCache:
        cache = LatentCache(convention=convention)
        depth = self.slanted(make, GRID)
        for copy in range(copies):
            noisy = depth * (noise * make.noise(*depth.shape, seed=copy)).exp()
            cache = append_all(cache, make.observation(noisy))
        return cache

    def test_a_second_view_of_the_same_wall_agrees(self, make, convention) -> None:
        cache = self.memory(make, convention)
        fine = self.slanted(make, (192, 320))
        found = depth_pairs(cache, fine, torch.eye(4)[None].double(), make.lens(*GRID), GRID)
        counted = found.counted
        assert counted.float().mean() > 0.9
        assert torch.allclose(found.new[counted], found.known[counted], rtol=2e-3)

    def test_many_noisy_points_do_not_pull_the_surface_nearer(self, make, convention) -> None:
        """The z-buffer's surface is nearer than the wall; the comparison is not."""
        cache = self.memory(make, convention, copies=12, noise=0.03)
        fine = self.slanted(make, (192, 320))
        pose, lens = torch.eye(4)[None].double(), make.lens(*GRID)
        _, shown = read_winners(cache, pose, lens, GRID)
        found = depth_pairs(cache, fine, pose, lens, GRID)
        exact = self.slanted(make, GRID)
        bias = (shown / exact)[shown > 0].log().median()
        compared = (found.known / found.new)[found.counted].log().median()
        assert bias < -0.03
        assert abs(compared) < 0.006

    def test_what_is_behind_the_front_does_not_count(self, make) -> None:
        near, far = torch.full((1, *GRID), 2.0), torch.full((1, *GRID), 5.0)
        cache = append_all(LatentCache(), make.observation(far))
        cache = append_all(cache, make.observation(near))
        found = depth_pairs(cache, near, torch.eye(4)[None].double(), make.lens(*GRID), GRID)
        assert torch.allclose(found.known[found.counted], torch.tensor(2.0))

    def test_skipped_and_invalid_cells_do_not_count(self, make) -> None:
        cache = self.memory(make, "paper")
        depth = self.slanted(make, GRID)
        depth[0, 3, 4] = torch.inf
        depth[0, 6, 6] = torch.nan
        skip = torch.zeros(1, *GRID, dtype=torch.bool)
        skip[0, 0] = True
        pose = torch.eye(4)[None].double()
        counted = depth_pairs(cache, depth, pose, make.lens(*GRID), GRID, skip).counted
        assert not counted[0, 0].any()
        assert not counted[0, 3, 4] and not counted[0, 6, 6]
        assert counted[0, 9:].all()

    def test_an_empty_memory_says_nothing(self, make) -> None:
        pose, lens = torch.eye(4)[None].double(), make.lens(*GRID)
        found = depth_pairs(LatentCache(), self.slanted(make, GRID), pose, lens, GRID)
        assert not found.counted.any()


class TestCameras:
    """Whether estimated cameras are those of the shot."""

    def geometry(self, cameras, **changes) -> FrameGeometry:
        depth = torch.full((len(cameras), cameras.height, cameras.width), 2.0)
        parts = {"intrinsics": cameras.intrinsics, "world_to_camera": cameras.world_to_camera}
        return FrameGeometry(depth, **(parts | changes))

    def test_the_shots_own_cameras_pass_at_any_scale_and_place(self, make) -> None:
        cameras = make.trajectory(9, step=0.1)
        moved = cameras.world_to_camera.clone()
        moved[:, :3, 3] *= 7
        world = make.poses(1, seed=3)
        for poses in (cameras.world_to_camera, moved, moved @ world):
            geometry = self.geometry(cameras, world_to_camera=poses)
            expect_same_path(geometry, cameras)
            expect_same_lens(geometry, cameras)

    def test_another_lens_is_refused(self, make) -> None:
        cameras = make.trajectory(5)
        wide = cameras.intrinsics.clone()
        wide[:, 0, 0] *= 0.6
        with pytest.raises(GeometryError, match="intrinsics differ.*field of view"):
            expect_same_lens(self.geometry(cameras, intrinsics=wide), cameras)

    def test_another_crop_is_refused(self, make) -> None:
        cameras = make.trajectory(5)
        beside = cameras.intrinsics.clone()
        beside[:, 0, 2] += 0.3 * cameras.width
        with pytest.raises(GeometryError, match="intrinsics differ"):
            expect_same_lens(self.geometry(cameras, intrinsics=beside), cameras)

    def test_frames_in_another_order_are_refused(self, make) -> None:
        cameras = make.trajectory(9, step=0.1)
        back = cameras.world_to_camera.flip(0)
        with pytest.raises(GeometryError, match="do not follow"):
            expect_same_path(self.geometry(cameras, world_to_camera=back), cameras)

    def test_another_rotation_is_refused(self, make) -> None:
        cameras = make.trajectory(9)
        turned = cameras.world_to_camera.clone()
        angles = torch.linspace(0, 0.5, 9, dtype=torch.float64)
        turned[:, :3, :3] = rotation_about("y", angles)
        with pytest.raises(GeometryError, match="rotations up to 29 degrees"):
            expect_same_path(self.geometry(cameras, world_to_camera=turned), cameras)

    def test_geometry_without_poses_cannot_leave_the_path(self, make) -> None:
        cameras = make.trajectory(9)
        expect_same_path(
            dataclasses.replace(self.geometry(cameras), world_to_camera=None), cameras
        )
