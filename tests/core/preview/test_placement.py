"""Drawing patches, and the preview that is made of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.cache.build import append_all, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import ModelMismatchError, ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.metrics import psnr
from mirage_core.ops.best_view import BestView
from mirage_core.preview import render
from mirage_core.preview.drawn import drawn_latents
from mirage_core.preview.placement import MAX_RADIUS, PlacedPatches, draw
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import read
from mirage_core.scenes.scene import ProceduralScene

CODEC = DctCodec()
SIDE = 16


def patches(
    pixels: Tensor, centre: Tensor, depth: Tensor, half: float = SIDE / 2, lean: float = 0.0
) -> PlacedPatches:
    """Axis-aligned patches."""
    count = len(pixels)
    return PlacedPatches(
        pixels=pixels,
        centre=centre.float(),
        axes=(half * torch.eye(2)).repeat(count, 1, 1),
        inverse_depth=1 / depth.float(),
        lean=torch.full((count, 2), lean),
    )


def plain(*colours: float) -> Tensor:
    return torch.tensor(colours).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, 3).contiguous()


GREY = torch.full((48, 64, 3), 0.5)


def test_a_patch_on_a_cell_reproduces_its_pixels(make) -> None:
    pixels = make.uniform(1, SIDE, SIDE, 3)
    one = patches(pixels, torch.tensor([[24.0, 24.0]]), torch.tensor([3.0]))
    picture, depth, _ = draw(one, GREY)
    interior = picture[20:28, 20:28]
    assert torch.allclose(interior, pixels[0, 4:12, 4:12], atol=0.01)
    assert torch.allclose(depth[16:32, 16:32], torch.tensor(3.0))
    same = GREY.clone()
    same[16:32, 16:32] = pixels[0]
    onto_itself = draw(one, same)[0][16:32, 16:32]
    assert torch.allclose(onto_itself, pixels[0], atol=0.01)
    assert torch.allclose(onto_itself[4:12, 4:12], pixels[0, 4:12, 4:12], atol=1e-4)


def test_beside_patches_the_background_shows() -> None:
    one = patches(plain(0.9), torch.tensor([[24.0, 24.0]]), torch.tensor([3.0]))
    picture, depth, _ = draw(one, GREY)
    outside = torch.ones(48, 64, dtype=torch.bool)
    outside[14:34, 14:34] = False
    assert torch.allclose(picture[outside], GREY[outside])
    assert not depth[outside].any()
    assert bool((depth > 0).sum() > SIDE * SIDE)


def test_the_nearer_patch_hides_the_farther() -> None:
    both = patches(plain(0.9, 0.1), torch.tensor([[24.0, 24], [28, 24]]), torch.tensor([2.0, 5.0]))
    picture, depth, _ = draw(both, GREY)
    assert torch.allclose(picture[18:30, 18:30], torch.tensor(0.9), atol=0.02)
    assert torch.allclose(depth[18:30, 18:30], torch.tensor(2.0))
    assert torch.allclose(picture[20:28, 34:36], torch.tensor(0.1), atol=0.06)
    assert torch.allclose(depth[20:28, 34:36], torch.tensor(5.0))


def test_patches_of_one_surface_blend() -> None:
    both = patches(plain(0.2, 0.8), torch.tensor([[24.0, 24], [24, 24]]), torch.tensor([2.0, 2.1]))
    picture, depth, _ = draw(both, GREY)
    assert torch.allclose(picture[20:28, 20:28], torch.tensor(0.5), atol=0.01)
    assert torch.allclose(depth[20:28, 20:28], torch.tensor(2.0))


def test_the_lowest_rank_covers_the_others_of_its_surface() -> None:
    two = patches(plain(0.2, 0.8), torch.tensor([[24.0, 24], [24, 24]]), torch.tensor([2.0, 2.1]))
    for ranks, colour in (([0, 5], 0.2), ([7, 5], 0.8), ([5, 5], 0.5)):
        picture, _, _ = draw(dataclasses.replace(two, rank=torch.tensor(ranks)), GREY)
        assert torch.allclose(picture[20:28, 20:28], torch.tensor(colour), atol=0.01)


def test_rank_does_not_bring_hidden_patches_to_the_front() -> None:
    two = patches(plain(0.2, 0.8), torch.tensor([[24.0, 24], [24, 24]]), torch.tensor([5.0, 2.0]))
    picture, _, _ = draw(dataclasses.replace(two, rank=torch.tensor([0, 9])), GREY)
    assert torch.allclose(picture[20:28, 20:28], torch.tensor(0.8), atol=0.01)


def test_a_leaning_patch_has_leaning_depth() -> None:
    one = patches(plain(0.5), torch.tensor([[24.0, 24.0]]), torch.tensor([2.0]), lean=0.1)
    _, depth, _ = draw(one, GREY)
    column = torch.arange(16, 32) + 0.5
    local = (column - 24) / 8
    expected = 1 / (0.5 + 0.1 * local[None, :] + 0.1 * local[:, None])
    assert torch.allclose(depth[16:32, 16:32], expected, rtol=1e-4)


def crowd(make, count: int, seed: int) -> PlacedPatches:
    """Overlapping patches of all sizes and orientations, some beyond the picture."""
    centre = make.uniform(count, 2, seed=seed) * torch.tensor([90.0, 70.0]) - 10
    axes = 6 * make.noise(count, 2, 2, seed=seed + 1)
    return PlacedPatches(
        pixels=make.uniform(count, SIDE, SIDE, 3, seed=seed + 2),
        centre=centre,
        axes=axes,
        inverse_depth=0.2 + make.uniform(count, seed=seed + 3),
        lean=0.02 * make.noise(count, 2, seed=seed + 4),
        rank=torch.arange(count) % 3 if seed % 2 else None,
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 999))
def test_the_order_of_patches_does_not_matter(make, seed: int) -> None:
    one = crowd(make, 60, seed)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    other = PlacedPatches(
        **{name: None if value is None else value[order] for name, value in vars(one).items()}
    )
    for left, right in zip(draw(one, GREY), draw(other, GREY), strict=True):
        assert torch.equal(left.view(torch.int32), right.view(torch.int32))


def test_pixels_by_a_loop(make) -> None:
    """Depth of every pixel is that of the nearest patch over it."""
    crowded = crowd(make, 40, 2)
    _, depth, _ = draw(crowded, GREY)
    nearest = torch.zeros(48, 64, dtype=torch.float64)
    for axes, centre, inverse, lean in zip(
        crowded.axes.double(), crowded.centre.double(), crowded.inverse_depth.double(),
        crowded.lean.double(), strict=True,
    ):  # fmt: skip
        y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        local = torch.stack([x, y], dim=-1).double().sub(centre) @ torch.linalg.inv(axes).T
        inside = (local.abs() < 1.15).all(dim=-1)
        nearest = torch.where(inside, torch.maximum(nearest, inverse + local @ lean), nearest)
    expected = torch.where(nearest > 0, 1 / nearest, 0.0).float()
    differs = ~torch.isclose(depth, expected, rtol=1e-3)
    # float32 may put single pixels on the other side of a patch's outline.
    assert int(differs.sum()) <= 5


@pytest.mark.parametrize(
    "spoil",
    [
        {"centre": torch.tensor([[torch.nan, 24.0]])},
        {"centre": torch.tensor([[1e30, -1e30]])},
        {"centre": torch.tensor([[torch.inf, 0.0]])},
        {"axes": torch.zeros(1, 2, 2)},
        {"axes": torch.full((1, 2, 2), torch.nan)},
        {"axes": 3.0 * MAX_RADIUS * torch.eye(2)[None]},
        {"inverse_depth": torch.tensor([0.0])},
        {"inverse_depth": torch.tensor([-1.0])},
        {"inverse_depth": torch.tensor([torch.nan])},
    ],
)
def test_patches_that_cannot_be_drawn(spoil: dict[str, Tensor]) -> None:
    one = patches(plain(0.9), torch.tensor([[24.0, 24.0]]), torch.tensor([3.0]))
    picture, depth, _ = draw(dataclasses.replace(one, **spoil), GREY)
    assert torch.allclose(picture, GREY)
    assert not depth.any()


@pytest.fixture(scope="module")
def room() -> tuple[Tensor, FrameGeometry, Trajectory]:
    """A procedural room from its start: picture, geometry, the camera alone."""
    scene = ProceduralScene.from_seed(16, texture_size=256)
    lens = intrinsics_from_fov(256, 192, 70)[None]
    picture, depth = scene.render(
        Trajectory(invert_rigid(scene.start_camera_to_world)[None], lens, 256, 192)
    )
    camera = Trajectory(torch.eye(4, dtype=torch.float64)[None], lens, 256, 192)
    return picture, FrameGeometry(depth, lens), camera


def remember(picture: Tensor, geometry: FrameGeometry) -> LatentCache:
    observation = observe(
        CODEC.encode_images(picture), geometry,
        world_to_camera=torch.eye(4)[None], frames=torch.zeros(1),
    )  # fmt: skip
    return append_all(LatentCache(codec="test"), observation)


def away_from_dropped(cache: LatentCache, geometry: FrameGeometry) -> Tensor:
    """(1, H, W) pixels whose cell and its eight neighbours are all remembered."""
    rows, cols = geometry.size[0] // SIDE, geometry.size[1] // SIDE
    known = torch.zeros(1, 1, rows, cols)
    block = cache.blocks[0]
    seen = block.points.double() @ geometry.intrinsics_for((rows, cols))[0].T
    cell = (seen[:, :2] / seen[:, 2:]).floor().long()
    known[0, 0, cell[:, 1], cell[:, 0]] = 1
    complete = F.max_pool2d(1 - known, 3, 1, 1)[0] == 0
    return complete.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)


def inside_cells(height: int, width: int) -> Tensor:
    """(1, H, W) pixels that no neighbouring cell's patch reaches."""
    row, col = torch.arange(height) % SIDE, torch.arange(width) % SIDE
    return (((row >= 2) & (row < 14))[:, None] & ((col >= 2) & (col < 14)))[None]


@pytest.mark.rooms
def test_an_unmoved_camera_shows_what_the_codec_shows(room) -> None:
    """Inside cells the same pixels; where neighbours overlap, their seams are blended."""
    picture, geometry, camera = room
    cache = remember(picture, geometry)
    known = away_from_dropped(cache, geometry)
    assert 0.4 < float(known.float().mean()) < 1
    preview = render_preview(cache, camera, CODEC)
    decoded = CODEC.decode_images(CODEC.encode_images(picture))
    assert psnr(preview.frames, decoded, known & inside_cells(*geometry.size)) > 55
    assert psnr(preview.frames, decoded, known) > 36
    assert psnr(preview.frames, picture, known) > psnr(decoded, picture, known) - 0.4


def test_a_smooth_picture_has_no_seams() -> None:
    y, x = torch.meshgrid(torch.arange(96) / 96, torch.arange(128) / 128, indexing="ij")
    waves = (torch.sin(2 * x + y), torch.sin(3 * y - x), torch.cos(2 * x))
    picture = torch.stack([0.5 + 0.3 * wave for wave in waves], dim=-1)[None]
    lens = intrinsics_from_fov(128, 96, 70)[None]
    cache = remember(picture, FrameGeometry(3 + x[None] + 0.5 * y[None], lens))
    camera = Trajectory(torch.eye(4, dtype=torch.float64)[None], lens, 128, 96)
    decoded = CODEC.decode_images(CODEC.encode_images(picture))
    assert psnr(render_preview(cache, camera, CODEC).frames, decoded) > 55


@pytest.mark.rooms
def test_depth_of_an_unmoved_camera(room) -> None:
    picture, geometry, camera = room
    cache = remember(picture, geometry)
    depth = render_preview(cache, camera, CODEC).depth
    known = away_from_dropped(cache, geometry)
    ratio = depth[known] / geometry.depth[known]
    assert float((ratio - 1).abs().median()) < 0.005
    assert float(((ratio - 1).abs() > 0.1).float().mean()) < 0.05


@pytest.mark.rooms
def test_a_moved_camera_beats_the_unmoved_picture() -> None:
    """Against the room as it really looks from there."""
    scene = ProceduralScene.from_seed(16, texture_size=256)
    lens = intrinsics_from_fov(256, 192, 70)[None]
    start = invert_rigid(scene.start_camera_to_world)[None]
    step = torch.eye(4, dtype=torch.float64)[None]
    step[0, 0, 3] = -0.25
    picture, depth = scene.render(Trajectory(start, lens, 256, 192))
    truth, _ = scene.render(Trajectory(step @ start, lens, 256, 192))
    cache = remember(picture, FrameGeometry(depth, lens))
    preview = render_preview(cache, Trajectory(step, lens, 256, 192), CODEC)
    seen = preview.depth > 0
    gain = psnr(preview.frames, truth, seen) - psnr(picture, truth, seen)
    assert 0.7 < float(seen.float().mean()) < 1
    assert gain > 3


@pytest.mark.rooms
def test_an_empty_memory_draws_one_colour(room) -> None:
    _, _, camera = room
    preview = render_preview(LatentCache(codec="test"), camera, CODEC)
    assert preview.frames.shape == (1, 192, 256, 3)
    assert float(preview.frames.std(dim=(0, 1, 2)).max()) == 0
    assert not preview.depth.any()


@pytest.mark.rooms
def test_frames_and_progress(room, make) -> None:
    picture, geometry, camera = room
    cache = remember(picture, geometry)
    calls: list[tuple[int, int]] = []
    shot = camera.select([0] * 5)
    preview = render_preview(cache, shot, CODEC, lambda done, total: calls.append((done, total)))
    assert preview.frames.shape == (5, 192, 256, 3)
    assert preview.depth.shape == (2, 192, 256)
    assert torch.equal(preview.frames[0], preview.frames[4])
    assert calls[-1] == (5, 5) and calls.count((5, 5)) == 1
    assert len(calls) > 2 and set(calls[:-1]) == {(0, 5)}, "between the stages of the frames"
    assert 0 <= float(preview.frames.min())
    assert float(preview.frames.max()) <= 1


@pytest.mark.rooms
@pytest.mark.parametrize("pixels", [1, 3 * 192 * 256, 1 << 30])
def test_frames_look_alike_however_many_are_drawn_together(
    room, monkeypatch, pixels: int
) -> None:
    picture, geometry, camera = room
    cache = remember(picture, geometry)
    poses = camera.world_to_camera.repeat(9, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, 0.4, 9, dtype=poses.dtype)
    shot = dataclasses.replace(camera.select([0] * 9), world_to_camera=poses)
    whole = render_preview(cache, shot, CODEC)
    monkeypatch.setattr(render, "BATCH_PIXELS", pixels)
    calls: list[tuple[int, int]] = []
    found = render_preview(cache, shot, CODEC, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (9, 9)
    assert torch.equal(found.frames, whole.frames)
    assert torch.equal(found.depth, whole.depth)
    for number in range(9):
        one = render_preview(cache, shot.select([number]), CODEC)
        assert torch.equal(one.frames[0], whole.frames[number])


@pytest.mark.rooms
@pytest.mark.parametrize("view", [None, BestView()], ids=["nearest", "best_view"])
def test_drawn_latents_are_one_drawing_for_each_latent_frame(room, view) -> None:
    picture, geometry, camera = room
    cache = dataclasses.replace(remember(picture, geometry), codec=CODEC.name)
    poses = camera.world_to_camera.repeat(5, 1, 1)
    poses[:, 0, 3] -= torch.linspace(0, 0.2, 5, dtype=poses.dtype)
    shot = dataclasses.replace(camera.select([0] * 5), world_to_camera=poses)
    readout = read(cache, shot)
    drawn = drawn_latents(readout, CODEC, view)
    assert drawn.shape == readout.tokens.shape
    assert torch.isfinite(drawn).all()
    reference = CODEC.static_tokens(
        CODEC.encode_images(render_preview(cache, shot.select([3]), CODEC, view=view).frames)
    )
    assert torch.equal(drawn[:, 1:], reference)


@pytest.mark.rooms
def test_tokens_of_another_codec_are_not_drawn(room) -> None:
    picture, geometry, camera = room
    cache = dataclasses.replace(remember(picture, geometry), codec="wan2.2")
    with pytest.raises(ModelMismatchError, match="cannot be drawn one by one"):
        drawn_latents(read(cache, camera), CODEC)


@pytest.mark.rooms
def test_a_background_shows_where_the_memory_knows_nothing(room, make) -> None:
    picture, geometry, camera = room
    cache = remember(picture, geometry)
    poses = camera.world_to_camera.repeat(5, 1, 1)
    poses[:, 0, 3] -= torch.linspace(0, 0.8, 5, dtype=poses.dtype)
    shot = dataclasses.replace(camera.select([0] * 5), world_to_camera=poses)
    behind = make.uniform(5, *picture.shape[-3:])
    smooth = render_preview(cache, shot, CODEC)
    found = render_preview(cache, shot, CODEC, background=behind)
    known = torch.zeros(smooth.frames.shape[:3], dtype=torch.bool)
    known[[0, 4]] = smooth.depth > 0
    unknown = ~known
    unknown[1:4] = False
    assert bool(unknown.any())
    assert torch.equal(found.depth, smooth.depth)
    assert torch.allclose(found.frames[unknown], behind[unknown])
    # Patches hide what lies behind them, but for their soft outline.
    assert float((found.frames[known] - smooth.frames[known]).abs().mean()) < 0.02
    with pytest.raises(ShapeError, match="background"):
        render_preview(cache, shot, CODEC, background=behind[:4])


def two_views(bins: tuple[int, int], shift: float = 0.0) -> PlacedPatches:
    """A white and a black patch of one surface at the same place."""
    both = patches(plain(1.0, 0.0), torch.tensor([[24.0, 24.0], [24.0 + shift, 24.0]]),
                   torch.tensor([3.0, 3.0]))  # fmt: skip
    return dataclasses.replace(both, bins=torch.tensor(bins))


@pytest.mark.parametrize(
    ("bins", "share"), [((0, 0), 0.5), ((0, 1), 0.924), ((0, 2), 0.989), ((5, 9), 0.5)]
)
def test_views_are_mixed_by_how_well_they_saw(bins: tuple[int, int], share: float) -> None:
    picture, _, _ = draw(two_views(bins), GREY)
    middle = picture[20:28, 20:28]
    assert torch.allclose(middle, torch.full_like(middle, share), atol=0.02)


def test_a_view_far_off_still_covers_the_background() -> None:
    one = dataclasses.replace(
        patches(plain(1.0), torch.tensor([[24.0, 24.0]]), torch.tensor([3.0])),
        bins=torch.tensor([127]),
    )
    picture, _, _ = draw(one, torch.zeros(48, 64, 3))
    assert bool((picture[18:30, 18:30] > 0.9).all())


def test_inside_of_a_patch_no_other_view_shows_as_dots() -> None:
    """Where corners of the better patches meet, the worse view behind them stays hidden."""
    centres = torch.cartesian_prod(torch.arange(3) * 16.0 + 8, torch.arange(3) * 16.0 + 8)
    better = patches(plain(*[1.0] * 9), centres.flip(1), torch.full((9,), 3.0))
    worse = patches(plain(*[0.0] * 4), torch.tensor([[16.0, 16], [32, 16], [16, 32], [32, 32]]),
                    torch.full((4,), 3.0))  # fmt: skip
    together = PlacedPatches(
        *(
            torch.cat([getattr(better, name), getattr(worse, name)])
            for name in ("pixels", "centre", "axes", "inverse_depth", "lean")
        ),
        bins=torch.tensor([0] * 9 + [2] * 4),
    )
    picture, _, _ = draw(together, GREY[:48, :48])
    assert bool((picture[4:44, 4:44] > 0.95).all())


def test_mixed_views_have_the_same_bits_in_any_order() -> None:
    count = 40
    generator = torch.Generator().manual_seed(1)
    held = patches(
        torch.rand(count, SIDE, SIDE, 3, generator=generator),
        64 * torch.rand(count, 2, generator=generator),
        2 + 0.1 * torch.rand(count, generator=generator),
    )
    held = dataclasses.replace(held, bins=torch.randint(0, 5, (count,), generator=generator))
    expected = draw(held, GREY)
    order = torch.randperm(count, generator=generator)
    turned = PlacedPatches(
        **{
            field.name: None if (value := getattr(held, field.name)) is None else value[order]
            for field in dataclasses.fields(held)
        }
    )
    for one, other in zip(draw(turned, GREY), expected, strict=True):
        assert torch.equal(one, other)


def test_the_best_view_is_shown_where_the_nearest_is_not_it() -> None:
    """A black wall that a camera beside took for white, and for nearer by an error of 2 %."""
    height, width = 96, 128
    lens = intrinsics_from_fov(90.0, width, height)[None]
    here = torch.eye(4, dtype=torch.float64)[None]
    beside = here.clone()
    beside[0, 0, 3] = -1.5
    cache = LatentCache(codec=CODEC.name)
    for pose, colour, depth in ((beside, 1.0, 2.94), (here, 0.0, 3.0)):
        geometry = FrameGeometry(torch.full((1, height, width), depth), lens)
        tokens = CODEC.encode_images(torch.full((1, height, width, 3), colour))
        seen = observe(tokens, geometry, world_to_camera=pose, frames=torch.tensor([0]))
        cache = append_all(cache, seen)
    camera = Trajectory(here, lens, width, height)
    nearest, best = (
        float(render_preview(cache, camera, CODEC, view=view).frames.mean())
        for view in (None, BestView())
    )
    assert nearest > 0.5 and best < 0.05


def test_released_memories_are_drawn_by_their_nearest_points() -> None:
    """Their checkpoints were trained so; others show the best views unless asked otherwise."""
    height, width = 64, 96
    lens = intrinsics_from_fov(70.0, width, height)[None]
    start = torch.eye(4, dtype=torch.float64)[None]
    aside = start.clone()
    aside[0, 0, 3] = 0.8
    camera = Trajectory(start, lens, width, height)
    numbers = torch.Generator().manual_seed(4)
    picture = torch.rand(1, height, width, 3, generator=numbers)
    depth = 3 + 0.1 * torch.rand(1, height, width, generator=numbers)
    for convention, rule in (("paper", BestView()), ("released", None)):
        cache = LatentCache(codec=CODEC.name, convention=convention)
        for pose in (start, aside):
            seen = observe(
                CODEC.encode_images(picture), FrameGeometry(depth, lens), world_to_camera=pose,
                frames=torch.tensor([0]), convention=cache.convention,
            )  # fmt: skip
            cache = append_all(cache, seen)
        shown = render_preview(cache, camera, CODEC).frames
        assert torch.equal(shown, render_preview(cache, camera, CODEC, view=rule).frames)
        other = BestView() if rule is None else None
        assert not torch.equal(shown, render_preview(cache, camera, CODEC, view=other).frames)
