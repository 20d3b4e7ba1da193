"""A memory of colours: exact where it was seen, without cracks elsewhere, never mixed up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.cache.build import make_block, observe
from mirage_core.cache.io import load_cache, save_cache
from mirage_core.cache.thin import thin
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import COARSEST_FOR_SHOTS, COLOUR_NAMES, ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.codecs.memory_kind import (
    MemoryKind,
    expect_tokens,
    memory_drawer,
    memory_stride,
)
from mirage_core.errors import CacheFormatError, ModelMismatchError, ValueRangeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import rotation_about
from mirage_core.preview.placement import LEAST_HALF_WIDTH, at_least_a_pixel
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import read
from mirage_core.rollout.decode import encode_overlap
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import commit, load_record, open_folder
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import RolloutState
from mirage_core.writing.consistency import ConsistencyConfig
from mirage_core.writing.novelty import NoveltyRule
from mirage_core.writing.policy import WriteLimits, WriteRules

WIDTH, HEIGHT = 96, 64
DISTANCE = 2.0
STEPS = list(range(1, COARSEST_FOR_SHOTS + 1))


def camera(width: int = WIDTH, height: int = HEIGHT, fov: float = 60) -> Trajectory:
    lens = intrinsics_from_fov(width, height, fov)[None]
    return Trajectory(torch.eye(4, dtype=torch.float64)[None], lens, width, height)


def moved(path: Trajectory, *, forward: float = 0.0, roll: float = 0.0) -> Trajectory:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation_about("z", torch.tensor([roll], dtype=torch.float64))[0]
    pose[2, 3] = -forward
    return dataclasses.replace(path, world_to_camera=pose[None])


def picture(make, seed: int = 0) -> Tensor:
    """Smooth pictures (1, H, W, 3) whose colours are exact in 8 bits."""
    coarse = make.uniform(1, 3, 4, 6, seed=seed)
    fine = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
    return (fine.movedim(1, -1) * 255).round() / 255


def remember(frames: Tensor, depth: Tensor | float = DISTANCE, step: int = 1) -> LatentCache:
    codec = ColourCodec(step)
    path = camera()
    if not isinstance(depth, Tensor):
        depth = torch.full((1, HEIGHT, WIDTH), depth)
    return begin_memory(
        codec.encode_images(frames), FrameGeometry(depth, path.intrinsics), codec.name
    )


def draw(cache: LatentCache, path: Trajectory, **settings):
    return render_preview(cache, path, memory_drawer(cache.codec), **settings)


@pytest.mark.parametrize("step", STEPS)
def test_a_picture_comes_back_as_it_was(make, step: int) -> None:
    frames = picture(make)
    cache = remember(frames, step=step)
    assert len(cache) == HEIGHT * WIDTH // step**2
    assert cache.kind is MemoryKind.COLOURS
    drawn = draw(cache, camera())
    assert not drawn.holes.any()
    if step == 1:
        assert float((drawn.frames - frames).abs().max()) < 1e-2
        assert float((drawn.frames - frames).abs().mean()) < 1e-3
    else:
        assert float((drawn.frames - frames).abs().mean()) < 2e-2
    assert torch.allclose(drawn.depth, torch.tensor(DISTANCE), atol=1e-3)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("view", ["default", None])
@pytest.mark.parametrize("move", [{"forward": 1.5}, {"forward": 0.9, "roll": 0.6}, {"roll": 0.3}])
def test_no_cracks_open_in_a_wall(make, step: int, view, move: dict) -> None:
    """Every pixel whose ray meets the remembered part of the wall shows it."""
    cache = remember(picture(make), step=step)
    path = moved(camera(), **move)
    drawn = draw(cache, path, view=view)
    assert not drawn.holes[0][on_wall(path, margin=step)].any()
    assert on_wall(path, margin=step).float().mean() > 0.6


def on_wall(path: Trajectory, margin: float) -> Tensor:
    """(H, W) pixels that see the part of the wall which the first camera saw."""
    rows, cols = torch.meshgrid(
        torch.arange(path.height) + 0.5, torch.arange(path.width) + 0.5, indexing="ij"
    )
    pixels = torch.stack([cols, rows, torch.ones_like(rows)], dim=-1).double()
    pose = path.world_to_camera[0]
    rays = pixels @ torch.linalg.inv(path.intrinsics[0]).T @ pose[:3, :3]
    centre = -pose[:3, :3].T @ pose[:3, 3]
    hit = centre + rays * ((DISTANCE - centre[2]) / rays[..., 2:])
    seen = hit @ camera().intrinsics[0].T
    u, v = seen[..., 0] / seen[..., 2], seen[..., 1] / seen[..., 2]
    return (
        (u > margin) & (u < WIDTH - margin) & (v > margin) & (v < HEIGHT - margin)
    )


def test_no_cracks_open_far_away(make) -> None:
    """What was seen finer than it is drawn covers the pixel that it lies in."""
    cache = remember(picture(make))
    path = moved(camera(), forward=-5.0, roll=0.4)
    assert not draw(cache, path).holes[0][on_wall(path, margin=4)].any()


def test_a_near_thing_hides_the_wall_between_its_points(make) -> None:
    depth = torch.full((1, HEIGHT, WIDTH), DISTANCE)
    depth[:, 24:40, 36:60] = 1.0
    frames = torch.zeros(1, HEIGHT, WIDTH, 3)
    frames[:, 24:40, 36:60] = 1.0
    cache = begin_memory(
        ColourCodec().encode_images(frames),
        FrameGeometry(depth, camera().intrinsics),
        "rgb",
        MemorySettings(),
    )
    drawn = draw(cache, moved(camera(), forward=0.6)).frames[0]
    assert float(drawn[26:38, 40:56].min()) > 0.99


def test_the_order_of_points_does_not_matter(make) -> None:
    cache = remember(picture(make), 1.5 + make.uniform(1, HEIGHT, WIDTH))
    (block,) = cache.blocks
    order = torch.randperm(len(block), generator=torch.Generator().manual_seed(3))
    other = dataclasses.replace(cache, blocks=(block.take(order),))
    path = moved(camera(), forward=0.3, roll=0.1)
    one, two = draw(cache, path), draw(other, path)
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.distance, two.distance)


def test_every_frame_has_its_holes_and_distance(make) -> None:
    poses = torch.cat([moved(camera(), forward=0.1 * n).world_to_camera for n in range(5)])
    path = dataclasses.replace(
        camera(), world_to_camera=poses, intrinsics=camera().intrinsics.repeat(5, 1, 1)
    )
    drawn = draw(remember(picture(make)), path)
    assert drawn.holes.shape == drawn.distance.shape == (5, HEIGHT, WIDTH)
    assert torch.equal(drawn.depth, drawn.distance[::4])
    assert torch.allclose(drawn.distance[3], torch.tensor(DISTANCE - 0.3), atol=1e-3)


def test_holes_show_the_background(make) -> None:
    cache = remember(picture(make))
    path = moved(camera(), forward=-1.0)
    drawn = draw(cache, path, background=torch.full((1, HEIGHT, WIDTH, 3), 0.25))
    assert 0.2 < float(drawn.holes.float().mean()) < 0.8
    assert torch.allclose(drawn.frames[drawn.holes], torch.tensor(0.25))


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(-1, 1), st.floats(-1, 1))
def test_patches_are_at_least_a_pixel(numbers: list[float], lean_x: float, lean_y: float) -> None:
    axes = torch.tensor(numbers, dtype=torch.float64).view(1, 2, 2)
    lean = torch.tensor([[lean_x, lean_y]], dtype=torch.float64)
    grown, leans = at_least_a_pixel(axes, lean)
    area = float(torch.linalg.det(axes).abs())
    assert torch.isfinite(leans).all()
    if area >= LEAST_HALF_WIDTH**2:
        assert torch.equal(grown, axes)
        assert torch.equal(leans, lean)
    elif float(axes.abs().max()) > 0:
        assert float(torch.linalg.det(grown).abs()) >= LEAST_HALF_WIDTH**2 * (1 - 1e-9)
        longest = float(axes.square().sum(1).sqrt().max())
        assert float(grown.square().sum(1).sqrt().max()) == pytest.approx(
            max(longest, LEAST_HALF_WIDTH)
        )


# --- kinds are told apart -------------------------------------------------------------------------


def test_names_and_strides() -> None:
    for name, step in COLOUR_NAMES.items():
        assert ColourCodec(step).name == name
        assert memory_stride(name) == step
        assert ColourCodec.named(name).step == step
    assert memory_stride("wan2.2") == memory_stride("test") == 16
    with pytest.raises(ValueRangeError):
        ColourCodec(3)
    with pytest.raises(ModelMismatchError, match="what = colours"):
        ColourCodec.named("wan2.2")


def test_a_memory_of_one_kind_refuses_the_other(make) -> None:
    colours = remember(picture(make))
    with pytest.raises(ModelMismatchError, match="do not mix"):
        LatentCache(codec="wan2.2", channels=3).append(colours.blocks[0])
    with pytest.raises(ModelMismatchError, match="do not mix"):
        colours.append(make.block(4, channels=3))
    with pytest.raises(ModelMismatchError, match="Mirage Render"):
        expect_tokens(colours.codec)
    with pytest.raises(ModelMismatchError, match="what = colours"):
        memory_drawer("wan2.2")
    for codec in (DctCodec(), ColourCodec(2)):
        with pytest.raises(ModelMismatchError, match="cannot be drawn by this codec"):
            render_preview(colours, camera(), codec)


def test_colours_stay_as_they_are(make) -> None:
    cache = remember(picture(make))
    for dtype in (torch.float16, torch.int8, None):
        same = cache.to("cpu", dtype)
        assert same.storage == torch.uint8
        assert same.fingerprint() == cache.fingerprint()


def test_files(make, tmp_path: Path) -> None:
    cache = remember(picture(make), step=2)
    path = save_cache(tmp_path / "colours", cache)
    found = load_cache(path)
    assert found.kind is MemoryKind.COLOURS
    assert found.stride == 2
    assert found.fingerprint() == cache.fingerprint()
    for changed in ({"codec": "wan2.2"}, {"what": "tokens"}, {"codec": "wan2.2", "what": "tokens"}):
        with pytest.raises(CacheFormatError):
            load_cache(with_header(path, tmp_path / "other.safetensors", changed))


def with_header(path: Path, target: Path, changed: dict[str, str]) -> Path:
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    for key, text in metadata.items():
        header = json.loads(text) if text.startswith("{") else None
        if isinstance(header, dict) and "codec" in header:
            metadata[key] = json.dumps(header | changed)
            break
    else:
        metadata |= changed
    save_file(load_file(path), target, metadata)
    return target


def test_files_of_tokens_say_nothing_new(make, tmp_path: Path) -> None:
    path = save_cache(tmp_path / "tokens", make.cache(5))
    with safe_open(path, "pt") as file:
        assert "colours" not in str(file.metadata())
        assert '"what"' not in str(file.metadata())


def test_the_cap_holds(make) -> None:
    cache = remember(picture(make))
    assert 0 < len(thin(cache, 1000)) <= 1000


def test_a_readout_names_the_colours(make) -> None:
    cache = remember(picture(make))
    readout = read(cache, camera())
    assert readout.tokens.dtype == torch.uint8
    assert readout.tokens.shape == (3, 1, HEIGHT // 16, WIDTH // 16)
    assert readout.visible.all()
    assert readout.hole_rate == 0


# --- rollouts -------------------------------------------------------------------------------------


PLAIN, SHARING = ChunkLengths(), ChunkLengths(33, 41, 9)
"""Both of two chunks, of which the second adds 32 frames."""


def begin(
    make, step: int, folder: Path | None = None, lengths: ChunkLengths = PLAIN
) -> RolloutState:
    """A wall of colours, seen by a camera that moves sideways for two chunks."""
    path = make.trajectory(65, WIDTH, HEIGHT, step=0.02)
    codec = ColourCodec(step)
    frames = picture(make)
    geometry = FrameGeometry(torch.full((1, HEIGHT, WIDTH), DISTANCE), path.intrinsics[:1])
    cache = begin_memory(codec.encode_images(frames), geometry, codec.name)
    first = DctCodec().encode_images(frames)
    return RolloutState(path, cache, first, 0, "colours", folder, lengths=lengths)


def advance(make, state: RolloutState, settings: MemorySettings | None = None) -> RolloutState:
    """One chunk whose frames show another picture where nothing was known."""
    drawn = draw(state.cache, state.frame_cameras)
    new = picture(make, seed=1 + state.done)
    frames = torch.where(drawn.holes[..., None], new, drawn.frames)
    latents = DctCodec().encode(frames)
    cameras = state.latent_cameras
    depth = torch.full((len(cameras), HEIGHT, WIDTH), DISTANCE)
    written = write_chunk(
        state,
        latents,
        frames,
        FrameGeometry(depth, cameras.intrinsics),
        settings or MemorySettings(),
        encode=lambda _: pytest.fail("colours need no codec"),
    )
    readout = read(state.cache, state.frame_cameras)
    return commit(
        state, latents=latents, frames=frames, readout=readout, cache=written.cache,
        overlap=encode_overlap(DctCodec(), state, frames),
    )  # fmt: skip


@pytest.mark.rollout
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("policy", ["novelty", "append"])
@pytest.mark.parametrize("lengths", [PLAIN, SHARING], ids=["plain", "sharing"])
def test_a_shot_is_written_and_resumed(
    make, tmp_path: Path, step: int, policy: str, lengths: ChunkLengths
) -> None:
    settings = MemorySettings(
        WriteRules(policy, limits=WriteLimits(40_000)),
        consistency=ConsistencyConfig(),
    )
    first = open_folder(begin(make, step, tmp_path / "shot", lengths))
    after = advance(make, first, settings)
    assert len(after.cache) > len(first.cache)
    assert after.last.latents.shape[0] == 48
    assert not after.last.projections.any()
    done = advance(make, after, settings)
    again = open_folder(begin(make, step, tmp_path / "shot", lengths))
    assert again.done == 2
    assert again.cache.fingerprint() == done.cache.fingerprint()
    assert torch.cat([load_record(done, k).latents for k in (0, 1)], dim=1).shape[1] == 17
    assert after.overlap_latent.shape[1] == lengths.overlap_latents
    seen = draw(done.cache, done.trajectory.select([64]))
    assert float(seen.holes.float().mean()) < 0.05


def test_novelty_writes_only_what_is_new(make) -> None:
    state = begin(make, 1)
    # 32 steps of 0.02 at distance 2 move the picture by 0.32 times the focal length.
    new = 0.32 * float(state.trajectory.intrinsics[0, 0, 0]) * HEIGHT
    first_views = MemorySettings(WriteRules(novelty=NoveltyRule(view_score=0)))
    added = len(advance(make, state, first_views).cache) - len(state.cache)
    assert 0.8 * new < added < 1.5 * new
    # The wall turns by 18 degrees: every place is worth two more views, and no third.
    with_views = len(advance(make, state).cache) - len(state.cache)
    assert added + HEIGHT * WIDTH < with_views < 1.5 * new + 2 * HEIGHT * WIDTH


def test_observations_keep_their_bytes(make) -> None:
    frames = picture(make)
    geometry = FrameGeometry(torch.full((1, HEIGHT, WIDTH), DISTANCE), camera().intrinsics)
    seen = observe(
        ColourCodec().encode_images(frames),
        geometry,
        world_to_camera=camera().world_to_camera,
        frames=torch.zeros(1, dtype=torch.int64),
    )
    block = make_block(seen, LatentCache().convention)
    assert torch.equal(block.tokens.view(HEIGHT, WIDTH, 3).float() / 255, frames[0])
