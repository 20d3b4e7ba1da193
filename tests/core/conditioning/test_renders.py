"""What Spatia's branch is shown: its planes, and the range of each half."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.features import RENDER_AND_SCORE
from mirage_core.conditioning.renders import RenderLatents, encode_discs
from mirage_core.errors import ModelMismatchError, PlanError, ShapeError
from mirage_core.geometry.voxels import downsample
from mirage_core.readout.discs import DiscFrames, render_discs
from spatia_oracle import SpatiaOracle, cameras

ORACLE = SpatiaOracle()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_planes_are_the_originals(number: int) -> None:
    """Those of a whole rollout, from the frames that its renderer made."""
    name = f"loop.round{number}"
    frames = ORACLE.tensor(f"{name}.render_u8") / 255
    discs = DiscFrames(frames, ORACLE.tensor(f"{name}.score_u8")[..., 0] / 255)
    latents = encode_discs(discs, ORACLE.encode)
    found = torch.cat([latents.render, latents.score])
    assert torch.allclose(found, ORACLE.tensor(f"{name}.planes"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_planes_of_our_own_render_are_the_originals(number: int) -> None:
    """From a round's cloud, with colours of 8 bits, through the library alone.

    A pixel whose level the last bits of float32 decide moves a cell by up to 4e-4.
    """
    loop = ORACLE.settings["loop"]
    this = loop["rounds"][number]
    known = ORACLE.tensor("loop.cloud.known_in_round")[number]
    points = ORACLE.tensor("loop.cloud.points")[known]
    colours = (255 * ORACLE.tensor("loop.cloud.colours")[known].clamp(0, 1)).round() / 255
    poses = ORACLE.tensor("loop.w2c")
    frames = torch.arange(this["start"], this["start"] + this["target"]).clamp_max(len(poses) - 1)
    shot = cameras(poses[frames], loop["pixel_intrinsics"], (loop["height"], loop["width"]))
    cloud = downsample(points, colours, this["voxel_size"])
    latents = encode_discs(
        render_discs(*cloud, shot, mirrored_principal_point=True), ORACLE.encode
    )
    found = torch.cat([latents.render, latents.score])
    apart = (found - ORACLE.tensor(f"loop.round{number}.planes")).abs()
    assert apart.max() < 2e-3
    assert apart.mean() < 1e-4


def test_known_is_grey_and_a_hole_is_white() -> None:
    """With an encoder that returns what it gets: colours stay, holes become 0.5..1."""
    coverage = torch.tensor([0.0, 0.4, 1.0]).view(1, 1, 3)
    frames = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    latents = encode_discs(DiscFrames(frames, coverage), lambda video: video.permute(3, 0, 1, 2))
    assert torch.equal(latents.render, ((255 * frames).floor() / 255).permute(3, 0, 1, 2))
    expected = torch.tensor([1.0, 1 - 0.5 * 102 / 255, 0.5]).expand(3, 1, 1, 3)
    assert torch.allclose(latents.score, expected)


def test_a_condition_shows_the_render_in_place_of_the_memory(make) -> None:
    render, score = make.noise(2, 48, 3, 4, 6)
    nothing = torch.zeros(3, 4, 6, dtype=torch.bool)
    bare = Condition.of_projection(torch.zeros(48, 3, 4, 6), nothing)
    told = dataclasses.replace(bare, render=render, score=score)
    assert torch.equal(told.side_input(RENDER_AND_SCORE), torch.cat([render, score]))
    assert torch.equal(told.to("cpu").side_input(RENDER_AND_SCORE), torch.cat([render, score]))
    with pytest.raises(ModelMismatchError, match="colour render"):
        bare.side_input(RENDER_AND_SCORE)
    with pytest.raises(ShapeError, match="latent of the score"):
        dataclasses.replace(bare, render=render, score=score[:, :2])


def test_past_frames_do_not_stand_beside_a_render(make) -> None:
    render = make.noise(48, 3, 4, 6)
    seen = torch.ones(4, 4, 6, dtype=torch.bool)
    before = make.noise(48, 1, 4, 6)
    told = Condition(
        render, seen[:3], render[:, :0], before, before, seen[:1], render=render, score=render
    )
    with pytest.raises(ShapeError, match="preceding frames to 0"):
        told.side_input(RENDER_AND_SCORE)


def test_a_video_of_another_length_is_refused(make) -> None:
    with pytest.raises(PlanError):
        encode_discs(DiscFrames(torch.zeros(4, 8, 8, 3), torch.zeros(4, 8, 8)), ORACLE.encode)
    with pytest.raises(ShapeError):
        RenderLatents(make.noise(48, 1, 2, 3), make.noise(48, 2, 2, 3))
