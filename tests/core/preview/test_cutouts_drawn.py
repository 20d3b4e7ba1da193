"""Drawing patches that are there in part: the mask gates depth and colour alike."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.cache.build import WriteConfig, append_all, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.cutouts import WHOLE, inside_mask
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.metrics import psnr
from mirage_core.preview.placement import PlacedPatches, draw
from mirage_core.preview.render import render_preview

CODEC = DctCodec()
SIDE = 16
GREY = torch.full((48, 64, 3), 0.5)
LEFT = 0x3333
"""Both columns at the left."""


def crowd(make, count: int, seed: int) -> PlacedPatches:
    """Overlapping patches with masks, of all sizes and orientations."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.randint(-(1 << 15), 1 << 15, (count,), generator=rng)
    return PlacedPatches(
        pixels=make.uniform(count, SIDE, SIDE, 3, seed=seed),
        centre=make.uniform(count, 2, seed=seed + 1) * torch.tensor([90.0, 70.0]) - 10,
        axes=6 * make.noise(count, 2, 2, seed=seed + 2),
        inverse_depth=0.2 + make.uniform(count, seed=seed + 3),
        lean=0.02 * make.noise(count, 2, seed=seed + 4),
        bins=torch.arange(count) % 5 if seed % 3 == 0 else None,
        rank=torch.arange(count) % 3 if seed % 3 == 1 else None,
        mask=mask.to(torch.int16),
    )


def one_over_another(mask: int) -> PlacedPatches:
    """A white patch at 2 before a black one at 5, both in the middle of the picture."""
    colour = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    return PlacedPatches(
        pixels=colour.expand(2, SIDE, SIDE, 3).contiguous(),
        centre=torch.tensor([[24.0, 24.0], [24.0, 24.0]]),
        axes=(SIDE / 2 * torch.eye(2)).repeat(2, 1, 1),
        inverse_depth=torch.tensor([1 / 2, 1 / 5]),
        lean=torch.zeros(2, 2),
        mask=torch.tensor([mask, WHOLE], dtype=torch.int16),
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 999))
def test_the_order_of_patches_does_not_matter(make, seed: int) -> None:
    one = crowd(make, 60, seed)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    parts = {name: None if part is None else part[order] for name, part in vars(one).items()}
    for left, right in zip(draw(one, GREY), draw(PlacedPatches(**parts), GREY), strict=True):
        assert torch.equal(left.view(torch.int32), right.view(torch.int32))


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_whole_masks_change_no_bit(make, seed: int) -> None:
    one = dataclasses.replace(crowd(make, 60, seed), mask=None)
    whole = dataclasses.replace(one, mask=torch.full((60,), WHOLE, dtype=torch.int16))
    for left, right in zip(draw(one, GREY), draw(whole, GREY), strict=True):
        assert torch.equal(left.view(torch.int32), right.view(torch.int32))


def test_what_is_cut_off_hides_nothing() -> None:
    """In depth and in colour, and beyond the cell as well."""
    picture, depth, _ = draw(one_over_another(LEFT), GREY)
    assert torch.equal(depth[16:32, 15:24], torch.full((16, 9), 2.0))
    assert torch.equal(depth[16:32, 24:33], torch.full((16, 9), 5.0))
    assert torch.allclose(picture[20:28, 20:24], torch.tensor(1.0), atol=0.02)
    assert torch.allclose(picture[20:28, 24:28], torch.tensor(0.0), atol=0.02)


def test_pixels_by_a_loop(make) -> None:
    """Depth of every pixel is that of the nearest patch that has its place in the mask."""
    crowded = crowd(make, 40, 2)
    _, depth, _ = draw(crowded, GREY)
    nearest = torch.zeros(48, 64, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for number in range(40):
        axes = torch.linalg.inv(crowded.axes[number].double())
        local = (torch.stack([x, y], dim=-1) - crowded.centre[number]).double() @ axes.T
        mask = crowded.mask[number].expand(48 * 64)
        inside = inside_mask(mask, local.view(-1, 2)).view(48, 64)
        inside &= (local.abs() < 1.15).all(dim=-1)
        height = crowded.inverse_depth[number].double() + local @ crowded.lean[number].double()
        nearest = torch.where(inside, torch.maximum(nearest, height), nearest)
    expected = torch.where(nearest > 0, 1 / nearest, 0.0).float()
    # float32 may put single pixels on the other side of an outline.
    assert int((~torch.isclose(depth, expected, rtol=1e-3)).sum()) <= 8


def ball_and_wall() -> tuple[Tensor, Tensor, Tensor]:
    """A red ball at 2 before a white wall at 4: (1, 96, 128, 3), (1, 96, 128), the lens."""
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    ball = (x - 61).square() + (y - 50).square() < 27**2
    red, white = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.9, 0.9, 0.9])
    picture = torch.where(ball[..., None], red, white)
    return picture[None], torch.where(ball, 2.0, 4.0)[None], intrinsics_from_fov(128, 96, 70)[None]


def remembered(cutouts: bool) -> LatentCache:
    picture, depth, lens = ball_and_wall()
    seen = observe(
        CODEC.encode_images(picture), FrameGeometry(depth, lens),
        world_to_camera=torch.eye(4)[None], frames=torch.zeros(1),
        config=WriteConfig(cutouts=cutouts),
    )  # fmt: skip
    return append_all(LatentCache(codec=CODEC.name), seen)


def camera(aside: float) -> Trajectory:
    pose = torch.eye(4, dtype=torch.float64)[None].clone()
    pose[:, 0, 3] = -aside
    return Trajectory(pose, intrinsics_from_fov(128, 96, 70)[None], 128, 96)


def test_an_unmoved_camera_shows_both_parts() -> None:
    """Of a split cell the far point is chosen beside the near one, not hidden by it."""
    picture, _, _ = ball_and_wall()
    shown = render_preview(remembered(cutouts=True), camera(0.0), CODEC)
    inner = torch.zeros(1, 96, 128, dtype=torch.bool)
    inner[:, 2:-2, 2:-2] = True
    assert bool((shown.depth > 0)[inner].all())
    decoded = CODEC.decode_images(CODEC.encode_images(picture))
    assert psnr(shown.frames, decoded, inner) > 34


@pytest.mark.parametrize("aside", [0.3, -0.3])
def test_the_wall_carries_no_rim_of_the_ball(aside: float) -> None:
    """Beside the ball, red is a ghost: pixels that show red at the depth of the wall."""

    def ghosts(cutouts: bool) -> tuple[int, int]:
        shown = render_preview(remembered(cutouts), camera(aside), CODEC)
        red = (shown.frames[0, ..., 0] - shown.frames[0, ..., 1]) > 0.4
        return int((red & (shown.depth[0] > 3)).sum()), int((red & (shown.depth[0] < 3)).sum())

    (whole, torn), (cut, ball) = ghosts(False), ghosts(True)
    assert whole > 60 and cut < whole / 4
    assert ball > torn
