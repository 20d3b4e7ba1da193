"""Memories at pixel resolution: what they show, and that policies and files hold for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.cache.accounting import footprint
from mirage_core.cache.io import load_cache, save_cache
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import PlanError, ShapeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.pixel_memory import SEEN_SHARE, FeatureCache, PixelCache, RgbCache
from mirage_core.writing.policy import write

CODEC = DctCodec()
SIZE = (64, 96)


def pictures(make, count: int = 1, seed: int = 0) -> Tensor:
    """Smooth pictures whose colours are exact in 8 bits."""
    coarse = make.uniform(count, 3, 4, 6, seed=seed)
    fine = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return (fine.movedim(1, -1) * 255).round() / 255


def observe(memory: PixelCache, make, frames: Tensor, depth: Tensor):
    cameras = make.trajectory(len(frames), SIZE[1], SIZE[0], step=0.0)
    return memory.observe(
        frames,
        FrameGeometry(depth, cameras.intrinsics),
        world_to_camera=cameras.world_to_camera,
        numbers=torch.arange(len(frames)),
        tokens=CODEC.encode_images(frames),
    )


def both(convention: PixelConvention = PixelConvention.PAPER) -> tuple[PixelCache, PixelCache]:
    return (
        RgbCache.empty(CODEC, convention),
        FeatureCache.empty(CODEC, convention),
    )


def test_colours_come_back_as_the_encoded_picture(make) -> None:
    frames = pictures(make)
    memory = RgbCache.empty(CODEC)
    seen = observe(memory, make, frames, torch.full((1, *SIZE), 2.0))
    memory = memory.holding(write(memory.cache, seen, "append"))
    readout = memory.read(make.trajectory(1, SIZE[1], SIZE[0]))
    assert len(memory) == SIZE[0] * SIZE[1]
    assert readout.visible.all()
    assert torch.allclose(readout.tokens, CODEC.encode_images(frames), atol=1e-5)
    assert torch.allclose(readout.depth, torch.full((1, 4, 6), 2.0))


def test_features_are_interpolated_and_averaged(make) -> None:
    """A linear field of tokens survives both, except at the rim of the picture."""
    memory = FeatureCache.empty(CODEC)
    ramp = torch.arange(6.0).expand(48, 1, 4, 6) + 10 * torch.arange(4.0)[:, None]
    cameras = make.trajectory(1, SIZE[1], SIZE[0])
    observation = memory.observe(
        torch.zeros(1, *SIZE, 3),
        FrameGeometry(torch.full((1, *SIZE), 2.0), cameras.intrinsics),
        world_to_camera=cameras.world_to_camera,
        numbers=torch.zeros(1),
        tokens=ramp,
    )
    memory = memory.holding(write(memory.cache, observation, "append"))
    tokens = memory.read(cameras).tokens
    assert torch.allclose(tokens[:, :, 1:-1, 1:-1], ramp[:, :, 1:-1, 1:-1], atol=1e-4)
    assert torch.allclose(tokens[0, 0, 0, 0], ramp[0, 0, 0, 0] + 11 / 2 / 8, atol=0.7)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("share", "shown"), [(SEEN_SHARE + 0.1, True), (0.4, False)])
def test_a_cell_is_visible_when_enough_of_its_pixels_are(
    make, kind: int, share: float, shown: bool
) -> None:
    memory = both()[kind]
    depth = torch.zeros(1, *SIZE)
    depth[:, : round(16 * share), :16] = 2.0
    depth[:, 48:, 80:] = 2.0
    memory = memory.holding(
        write(memory.cache, observe(memory, make, pictures(make), depth), "append")
    )
    readout = memory.read(make.trajectory(1, SIZE[1], SIZE[0]))
    assert bool(readout.visible[0, 0, 0]) == shown
    assert bool(readout.visible[0, 3, 5])
    assert int(readout.visible.sum()) == 1 + shown
    hidden = ~readout.visible
    assert not readout.tokens[:, hidden].any()
    assert not readout.depth[hidden].any()
    assert (readout.winner[hidden] == -1).all()


@pytest.mark.parametrize("kind", [0, 1])
def test_the_nearer_surface_hides_the_farther(make, kind: int, convention) -> None:
    memory = both(convention)[kind]
    near, far = pictures(make, seed=1), pictures(make, seed=2)
    for frames, distance in ((near, 1.0), (far, 3.0)):
        seen = observe(memory, make, frames, torch.full((1, *SIZE), distance))
        memory = memory.holding(write(memory.cache, seen, "append"))
    readout = memory.read(make.trajectory(5, SIZE[1], SIZE[0], step=0.0))
    assert readout.tokens.shape == (48, 2, 4, 6)
    assert torch.allclose(readout.depth, torch.ones(2, 4, 6))
    points = torch.cat([block.points for block in memory.cache.blocks])
    assert torch.allclose(points[readout.winner][..., 2], torch.ones(()))


@pytest.mark.parametrize("kind", [0, 1])
def test_policies_and_the_cap_hold_for_pixels(make, kind: int) -> None:
    memory = both()[kind]
    depth = torch.full((1, *SIZE), 2.0)
    first = observe(memory, make, pictures(make), depth)
    memory = memory.holding(write(memory.cache, first, "novelty"))
    assert len(memory) == SIZE[0] * SIZE[1]
    again = observe(memory, make, pictures(make, seed=4), depth)
    assert write(memory.cache, again, "novelty") is memory.cache
    assert len(write(memory.cache, again, "append")) == 2 * len(memory)


def test_the_bytes_of_a_pixel(make) -> None:
    rgb, features = (
        memory.holding(
            write(
                memory.cache,
                observe(memory, make, pictures(make), torch.ones(1, *SIZE)),
                "append",
            )
        )
        for memory in both()
    )
    pixels = SIZE[0] * SIZE[1]
    assert footprint(rgb.cache).parts["tokens"] == 3 * pixels
    assert footprint(features.cache).parts["tokens"] == 48 * 4 * pixels
    assert rgb.nbytes == footprint(rgb.cache).total


def test_colours_can_be_saved(make, tmp_path: Path) -> None:
    memory = RgbCache.empty(CODEC)
    seen = observe(memory, make, pictures(make), torch.ones(1, *SIZE))
    memory = memory.holding(write(memory.cache, seen, "append"))
    path = save_cache(tmp_path / "colours", memory.cache)
    assert load_cache(path).fingerprint() == memory.cache.fingerprint()


def test_bad_input(make) -> None:
    rgb, features = both()
    frames = pictures(make)
    with pytest.raises(ShapeError, match="video"):
        observe(rgb, make, frames[..., :2].repeat(1, 1, 1, 2), torch.ones(1, *SIZE))
    cameras = make.trajectory(1, SIZE[1], SIZE[0])
    with pytest.raises(ShapeError, match="latents"):
        features.observe(
            frames,
            FrameGeometry(torch.ones(1, *SIZE), cameras.intrinsics),
            world_to_camera=cameras.world_to_camera,
            numbers=torch.zeros(1),
        )
    with pytest.raises(PlanError):
        rgb.read(make.trajectory(4, SIZE[1], SIZE[0]))
    with pytest.raises(ShapeError):
        rgb.read(make.trajectory(5, 72, 64))


def test_an_empty_memory_shows_nothing(make) -> None:
    for memory in both():
        readout = memory.read(make.trajectory(5, SIZE[1], SIZE[0]))
        assert not readout.visible.any()
        assert not readout.tokens.any()
        assert readout.hole_rate == 1
