"""A shot starts as the picture looks: the lens of a move where it meets a picture."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.errors import ValueRangeError
from mirage_core.geometry.trajectory import Trajectory, fov_of, intrinsics_from_fov
from mirage_core.trajectories.fit import begin_at, resampled, retimed, scaled
from mirage_core.trajectories.lens import fit_lens, memory_lens
from mirage_core.trajectories.presets import PRESETS, preset_trajectory

WIDTH, HEIGHT = 96, 64
PICTURE = intrinsics_from_fov(WIDTH, HEIGHT, 60)


def still(fov: float, frames: int = 9) -> Trajectory:
    lens = intrinsics_from_fov(WIDTH, HEIGHT, fov).expand(frames, 3, 3)
    return Trajectory(torch.eye(4).expand(frames, 4, 4), lens, WIDTH, HEIGHT)


def zoomed(fov: float, growth: float) -> Trajectory:
    move = still(fov)
    lens = move.intrinsics.clone()
    lens[:, :2, :2] *= torch.linspace(1, growth, 9).double()[:, None, None]
    return dataclasses.replace(move, intrinsics=lens)


def memory(*cameras: tuple[torch.Tensor, torch.Tensor], stride: int = 16) -> LatentCache:
    """Cameras are (world_to_camera, intrinsics in pixels)."""
    lens = torch.stack([one[1] for one in cameras]).double()
    lens = torch.cat([lens[:, :2] / stride, lens[:, 2:]], dim=1)
    colours = stride < 16
    tokens = torch.zeros(1, 3, dtype=torch.uint8) if colours else torch.zeros(1, 48)
    block = CacheBlock(
        points=torch.zeros(1, 3), tokens=tokens, source=torch.zeros(1), slope=torch.zeros(1, 2),
        world_to_camera=torch.stack([one[0] for one in cameras]), intrinsics=lens,
        frames=torch.arange(len(cameras)),
    )  # fmt: skip
    if colours:
        return LatentCache((block,), codec=ColourCodec(stride).name, channels=3)
    return LatentCache((block,))


HERE = torch.eye(4)


def at(x: float) -> torch.Tensor:
    pose = torch.eye(4)
    pose[0, 3] = -x
    return pose


class TestFit:
    def test_a_move_begins_with_the_lens_of_the_picture(self) -> None:
        fitted = fit_lens(still(39.6), PICTURE)
        torch.testing.assert_close(fitted.trajectory.intrinsics, PICTURE.expand(9, 3, 3))
        assert "39.6 degrees, of the picture 60.0 degrees: the move takes" in fitted.report

    def test_a_zoom_stays_a_zoom(self) -> None:
        fitted = fit_lens(zoomed(39.6, 2.0), PICTURE)
        focal = fitted.trajectory.intrinsics[:, 0, 0]
        assert fov_of(fitted.trajectory.intrinsics[0], WIDTH) == pytest.approx(60)
        torch.testing.assert_close(focal / focal[0], torch.linspace(1, 2, 9).double())
        assert "zooms from there" in fitted.report

    def test_the_principal_point_is_the_pictures(self) -> None:
        picture = PICTURE.clone()
        picture[:2, 2] += 3
        fitted = fit_lens(zoomed(39.6, 2.0), picture).trajectory
        torch.testing.assert_close(fitted.intrinsics[:, :2, 2], picture[:2, 2].expand(9, 2))

    def test_the_lens_of_the_file_can_be_kept(self) -> None:
        move = zoomed(39.6, 2.0)
        fitted = fit_lens(move, PICTURE, "file")
        assert torch.equal(fitted.trajectory.intrinsics, move.intrinsics)
        assert "39.6 degrees, of the picture 60.0" in fitted.report
        assert "kept, and shows the picture at 1.60 times" in fitted.report
        # The choice is not asked again where the move meets the memory, whatever was done to it.
        later = resampled(retimed(begin_at(scaled(fitted.trajectory, 2)), 17), 12)
        assert torch.equal(fit_lens(later, PICTURE).trajectory.intrinsics, later.intrinsics)
        assert fitted.trajectory.fingerprint() == move.fingerprint()

    @pytest.mark.parametrize("preset", PRESETS)
    def test_our_own_moves_stay_as_they_are(self, preset: str) -> None:
        move = preset_trajectory(
            preset, 9, scene_depth=3.0, intrinsics=PICTURE, width=WIDTH, height=HEIGHT
        )
        assert fit_lens(move, PICTURE * (1 + 1e-7)).trajectory is move

    def test_without_a_picture_nothing_changes(self) -> None:
        move = still(39.6)
        fitted = fit_lens(move, None)
        assert fitted.trajectory is move and "not known" in fitted.report
        with pytest.raises(ValueRangeError, match="choice of the lens"):
            fit_lens(move, None, "wide")


class TestMemory:
    @pytest.mark.parametrize("stride", [16, 1, 2])
    def test_the_lens_of_the_picture_is_remembered(self, stride: int) -> None:
        cache = memory((HERE, PICTURE), stride=stride)
        torch.testing.assert_close(memory_lens(cache, still(39.6)), PICTURE)
        assert memory_lens(LatentCache(), still(39.6)) is None

    def test_a_move_goes_on_after_a_zoom(self) -> None:
        narrow = intrinsics_from_fov(WIDTH, HEIGHT, 39.6)
        cache = memory((HERE, PICTURE), (HERE, narrow))
        torch.testing.assert_close(memory_lens(cache, still(39.6)), narrow)
        torch.testing.assert_close(memory_lens(cache, still(50)), PICTURE)

    def test_the_camera_that_stands_nearest_counts(self) -> None:
        narrow = intrinsics_from_fov(WIDTH, HEIGHT, 30)
        cache = memory((at(5), narrow), (at(0.1), PICTURE))
        torch.testing.assert_close(memory_lens(cache, still(39.6)), PICTURE)

    def test_the_memory_of_a_larger_picture(self) -> None:
        """A picture of the same view at 1.5 times the size is no longer lens."""
        cache = memory((HERE, intrinsics_from_fov(WIDTH * 3 // 2, HEIGHT * 3 // 2, 60)))
        torch.testing.assert_close(memory_lens(cache, still(39.6)), PICTURE)
        slightly = memory((HERE, intrinsics_from_fov(112, 80, 60)))
        assert fit_lens(still(60), memory_lens(slightly, still(60))).report.endswith("picture's")

    def test_a_picture_that_was_cut_on_one_side(self) -> None:
        picture = PICTURE.clone()
        picture[0, 2] += 5
        torch.testing.assert_close(memory_lens(memory((HERE, picture)), still(39.6)), picture)
