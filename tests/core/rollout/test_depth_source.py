"""Depth of new frames in the library's loop: alignment, masks, what is held back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mirage_core.codecs.dct import DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.errors import GeometryError, ShapeError
from mirage_core.folder_lock import LOCK
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.masks.types import FrameMasks
from mirage_core.rollout.begin import begin
from mirage_core.rollout.depth_source import EstimatedDepth, KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.run_folder import MANIFEST
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.state import RolloutState
from mirage_core.writing.consistency import ConsistencyConfig
from mirage_core.writing.policy import WriteRules

QUICK = GenerationSettings(steps=2, references=2)


def velocity(condition: Condition):
    """A stand-in for the video model."""
    pull = condition.projection.mean(dim=1, keepdim=True)
    return lambda latents, timestep: 0.8 * latents - pull * (1 - timestep / 2000)


def models(**changes: Any) -> GenerationModels:
    return GenerationModels(**{"codec": DctCodec(), "denoiser": velocity, **changes})


@pytest.fixture
def start(make):
    """The state before a shot of one chunk: a textured wall, 64 x 64 pixels."""

    def state(folder: Path | None, frames: int = 33) -> RolloutState:
        cameras = make.trajectory(frames, step=0.03)
        picture = (0.5 + 0.2 * make.noise(64, 64, 3)).clamp(0, 1)
        geometry = FrameGeometry(2 + make.uniform(1, 64, 64), cameras.intrinsics[:1])
        return begin(
            picture, geometry, cameras, DctCodec(), settings=QUICK, seed=5, folder=folder
        )

    return state


class TestAgreement:
    """Estimated depth is aligned, masked and held back as the settings say."""

    @staticmethod
    def wall(frames: Tensor, cameras: Trajectory) -> FrameGeometry:
        """A flat wall that the estimator sees at another distance in every chunk."""
        factor = 1 + 0.3 * float(frames.mean())
        return FrameGeometry(torch.full(frames.shape[:3], 2.5 * factor), cameras.intrinsics)

    def shot(self, make, folder: Path, settings: GenerationSettings, **parts: Any) -> RolloutState:
        cameras = make.trajectory(69, step=0.01)
        picture = (0.5 + 0.2 * make.noise(64, 64, 3)).clamp(0, 1)
        geometry = FrameGeometry(torch.full((1, 64, 64), 2.5), cameras.intrinsics[:1])
        state = begin(
            picture, geometry, cameras, DctCodec(), settings=settings, seed=5, folder=folder
        )
        depth = parts.pop("depth", EstimatedDepth(self.wall))
        return generate(state, models(depth=depth, **parts), settings)

    @staticmethod
    def distances(state: RolloutState) -> Tensor:
        """How far from the wall the remembered points are."""
        return torch.cat([block.points[:, 2] for block in state.cache.blocks]) / 2.5 - 1

    def test_depth_comes_to_the_memory_s_scale(self, make, tmp_path: Path) -> None:
        append = QUICK.remembering(rules=WriteRules("append"))
        aligned = self.shot(make, tmp_path / "aligned", append)
        assert float(self.distances(aligned).abs().max()) < 0.01
        none = append.remembering(align=AlignConfig("none"))
        plain = self.shot(make, tmp_path / "plain", none)
        assert float(self.distances(plain).abs().max()) > 0.05
        assert aligned.run_id != plain.run_id

    def test_depth_in_scene_units_stays(self, make, tmp_path: Path) -> None:
        depth = EstimatedDepth(self.wall, scaled=True)
        append = QUICK.remembering(rules=WriteRules("append"))
        state = self.shot(make, tmp_path / "shot", append, depth=depth)
        assert float(self.distances(state).abs().max()) > 0.05

    def test_masks_keep_cells_out(self, make, tmp_path: Path) -> None:
        append = QUICK.remembering(rules=WriteRules("append"))
        seen: list[tuple[int, ...]] = []

        def left_half(frames: Tensor, cameras: Trajectory, numbers: Sequence[int]) -> FrameMasks:
            seen.append((len(frames), len(cameras), numbers[0], numbers[-1]))
            mask = torch.zeros(1, 64, 64)
            mask[:, :, :32] = 1
            return FrameMasks(mask.expand(len(frames), -1, -1))

        half = self.shot(make, tmp_path / "half", append, masks=left_half)
        whole = self.shot(make, tmp_path / "whole", append)
        assert seen == [(33, 33, 0, 32), (33, 33, 32, 64), (5, 5, 64, 68)]
        first = 16
        assert len(half.cache) - first == (len(whole.cache) - first) // 2

    def test_what_is_held_back_is_a_setting(self, make, tmp_path: Path) -> None:
        """Depth that jumps nearer in one frame of each chunk, where others see past it."""

        def jumping(frames: Tensor, cameras: Trajectory) -> FrameGeometry:
            depth = torch.full(frames.shape[:3], 2.5)
            depth[len(depth) // 2, 16:48, 16:48] = 1.2
            return FrameGeometry(depth, cameras.intrinsics)

        append = QUICK.remembering(rules=WriteRules("append"))
        depth = EstimatedDepth(jumping)
        plain = self.shot(make, tmp_path / "plain", append, depth=depth)
        assert float(self.distances(plain).min()) < -0.4
        careful = append.remembering(consistency=ConsistencyConfig())
        held = self.shot(make, tmp_path / "held", careful, depth=depth)
        assert float(self.distances(held).min()) > -0.05

    def test_geometry_of_another_lens_is_refused(self, make, tmp_path: Path) -> None:
        def wide(frames: Tensor, cameras: Trajectory) -> FrameGeometry:
            lens = cameras.intrinsics.clone()
            lens[:, 0, 0] /= 2
            return FrameGeometry(torch.full(frames.shape[:3], 2.5), lens)

        with pytest.raises(GeometryError, match="intrinsics differ"):
            self.shot(make, tmp_path / "shot", QUICK, depth=EstimatedDepth(wide))
        assert sorted(path.name for path in (tmp_path / "shot").iterdir()) == [LOCK, MANIFEST]


def test_the_released_settings_align_nothing() -> None:
    memory = GenerationSettings.released().memory
    assert memory.align is not None and memory.align.mode == "none"
    assert memory.consistency is None


def test_depth_of_the_whole_shot(make) -> None:
    cameras = make.trajectory(33)
    known = KnownDepth(FrameGeometry(1 + torch.arange(33.0)[:, None, None].expand(33, 8, 8),
                                     cameras.resized(8, 8).intrinsics))  # fmt: skip
    chosen = known(torch.zeros(2, 64, 64, 3), cameras.select([4, 8]), [4, 8])
    assert chosen.depth[:, 0, 0].tolist() == [5, 9]
    with pytest.raises(ShapeError, match="whole shot"):
        known(torch.zeros(1, 64, 64, 3), cameras.select([0]), [36])
