"""The memory: sharing, immutability, gathering, identity."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mirage_core.cache.build import WriteConfig, append_all, make_block, merge_blocks, observe
from mirage_core.cache.ply import point_cloud_ply
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.errors import GeometryError, ModelMismatchError, ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.lift import lift
from mirage_core.ops.splat import BOUNDS_RUN, point_bounds

FIELDS = (
    "points",
    "tokens",
    "source",
    "slope",
    "world_to_camera",
    "intrinsics",
    "frames",
    "bounds",
)


def copies(cache: LatentCache) -> list[Tensor]:
    return [getattr(block, name).clone() for block in cache.blocks for name in FIELDS]


def test_append_shares_blocks_and_changes_nothing(make) -> None:
    old = make.cache(30, 20)
    before, fingerprint = copies(old), old.fingerprint()
    new = old.append(make.block(10, seed=7))
    assert [len(block) for block in new.blocks] == [30, 20, 10]
    assert all(a is b for a, b in zip(old.blocks, new.blocks, strict=False))
    assert len(old) == 50
    assert len(new) == 60
    assert old.fingerprint() == fingerprint
    assert all(torch.equal(a, b) for a, b in zip(before, copies(old), strict=True))


def test_memories_cannot_be_assigned_to(make) -> None:
    cache = make.cache(5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cache.blocks = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cache.blocks[0].points = torch.zeros(5, 3)


def test_gathering_by_a_loop(make) -> None:
    cache = make.cache(30, 1, 20)
    rng = torch.Generator().manual_seed(0)
    index = torch.randint(-3, len(cache), (4, 5, 6), generator=rng)
    rows = torch.cat([block.tokens for block in cache.blocks])
    found = cache.gather(index, [block.tokens for block in cache.blocks])
    assert found.shape == (4, 5, 6, 48)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in index.shape)).tolist():
        number = int(index[tuple(place)])
        expected = rows[number] if number >= 0 else torch.zeros(48)
        assert torch.equal(found[tuple(place)], expected)


def test_gathering_keeps_type_and_row_shape(make) -> None:
    cache = make.cache(30, 20, dtype=torch.bfloat16)
    index = torch.tensor([49, -1, 0])
    assert cache.gather(index, [block.tokens for block in cache.blocks]).dtype == torch.bfloat16
    sources = cache.gather(index, [block.source for block in cache.blocks])
    assert sources.tolist() == [int(cache.blocks[1].source[19]), 0, int(cache.blocks[0].source[0])]
    assert not LatentCache().gather(torch.full((2, 3), -1), []).any()


def test_tokens_of_the_wrong_vae_say_so(make) -> None:
    with pytest.raises(ModelMismatchError, match="Wan2.1") as caught:
        LatentCache().append(make.block(4, channels=16))
    assert "wan2.2_vae" in str(caught.value)
    with pytest.raises(ModelMismatchError, match="12 channels"):
        make.cache(3).append(make.block(4, channels=12))
    with pytest.raises(ModelMismatchError, match="8 channels"):
        LatentCache((make.block(4, channels=16),), channels=8)


def test_appending_adopts_the_memorys_type(make) -> None:
    cache = make.cache(5, dtype=torch.float16).append(make.block(4))
    assert cache.blocks[1].tokens.dtype == torch.float16
    assert cache.dtype == torch.float16
    assert LatentCache().append(make.block(4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_conversion_leaves_the_old_memory_alone(make) -> None:
    cache = make.cache(5, 6)
    half = cache.to("cpu", torch.float16)
    assert half.dtype == torch.float16
    assert cache.dtype == torch.float32
    assert torch.equal(half.blocks[1].tokens, cache.blocks[1].tokens.half())
    assert torch.equal(half.blocks[1].points, cache.blocks[1].points)


def test_equal_content_has_equal_fingerprints(make) -> None:
    assert make.cache(9, 5).fingerprint() == make.cache(9, 5).fingerprint()
    reordered = LatentCache(tuple(make.block(n, seed=s) for n, s in ((9, 0), (5, 10))))
    assert reordered.fingerprint() == make.cache(9, 5).fingerprint()


@pytest.mark.parametrize("name", FIELDS[:-1])
def test_any_change_of_content_changes_the_fingerprint(make, name: str) -> None:
    block = make.block(9)
    value = getattr(block, name).clone()
    if name == "source":
        value[1] = 1 - value[1]
    elif name == "world_to_camera":
        value[1, 0, 3] += 1e-6
    elif name == "intrinsics":
        value[1, 0, 2] += 1e-6
    else:
        value[1] += 1
    changed = dataclasses.replace(block, **{name: value}, bounds=torch.empty(0))
    assert LatentCache((changed,)).fingerprint() != LatentCache((block,)).fingerprint()


def test_settings_change_the_fingerprint(make) -> None:
    cache = make.cache(9, 5)
    merged = LatentCache((merge_blocks(list(cache.blocks)),))
    others = [
        cache,
        LatentCache(cache.blocks, "released"),
        LatentCache(cache.blocks, codec="other"),
        LatentCache(cache.blocks[::-1]),
        LatentCache(cache.blocks[:1]),
        cache.to("cpu", torch.float16),
        merged,
        LatentCache(),
    ]
    assert len({one.fingerprint() for one in others}) == len(others)


def test_blocks_keep_axes_contiguous_and_bounds(make) -> None:
    block = make.block(BOUNDS_RUN + 3)
    assert block.points.T.is_contiguous()
    assert torch.equal(block.bounds, point_bounds(block.points))
    held = [getattr(block, name) for name in FIELDS]
    assert block.nbytes == sum(part.numel() * part.element_size() for part in held)


def test_offsets_and_sizes(make) -> None:
    cache = make.cache(5, 0, 7)
    assert cache.offsets == [0, 5, 5, 12]
    assert cache.nbytes == sum(block.nbytes for block in cache.blocks)
    assert (len(LatentCache()), LatentCache().nbytes, LatentCache().offsets) == (0, 0, [0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points", torch.zeros(5, 2)),
        ("points", torch.zeros(15)),
        ("points", torch.zeros(5, 3, 1)),
        ("tokens", torch.zeros(4, 48)),
        ("source", torch.zeros(5, 1)),
        ("source", torch.tensor([0, 0, 0, 0, 2])),
        ("source", torch.tensor([0, 0, 0, 0, -1])),
        ("slope", torch.zeros(5, 3)),
        ("world_to_camera", torch.zeros(2, 3, 4)),
        ("intrinsics", torch.eye(3)[None]),
        ("frames", torch.zeros(3)),
    ],
)
def test_blocks_refuse_what_does_not_fit(make, name: str, value: Tensor) -> None:
    with pytest.raises(ShapeError):
        dataclasses.replace(make.block(5), **{name: value, "bounds": torch.empty(0)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("world_to_camera", 2 * torch.eye(4).repeat(2, 1, 1)),
        ("world_to_camera", torch.full((2, 4, 4), torch.nan)),
        ("intrinsics", torch.zeros(2, 3, 3)),
        ("intrinsics", torch.full((2, 3, 3), torch.nan)),
    ],
)
def test_blocks_refuse_cameras_that_are_none(make, name: str, value: Tensor) -> None:
    with pytest.raises(GeometryError):
        dataclasses.replace(make.block(5), **{name: value})


def test_observations_become_points_in_order(make) -> None:
    depth = 1 + make.uniform(2, 4, 6)
    depth[1, 2, 3] = 0
    observation = make.observation(depth, pose=make.poses(1)[0])
    block = make_block(observation, LatentCache().convention)
    valid = depth > 0
    points = lift(depth, observation.intrinsics, observation.world_to_camera)
    assert torch.equal(block.points, points[valid])
    assert torch.equal(block.tokens, observation.tokens.permute(1, 2, 3, 0)[valid])
    assert block.source.tolist() == [0] * 24 + [1] * 23
    keep = make.uniform(2, 4, 6) > 0.5
    part = make_block(observation, LatentCache().convention, keep)
    assert torch.equal(part.points, points[valid & keep])


def frame(depth: Tensor, make, exclude: Tensor | None = None) -> FrameGeometry:
    return FrameGeometry(depth, make.lens(*depth.shape[1:]), exclude=exclude)


def test_masked_and_flying_cells_are_not_remembered(make) -> None:
    depth = torch.full((1, 16, 32), 2.0)
    depth[:, :, 16:18] = 4.0
    depth[:, :, 18:] = 8.0
    mask = torch.zeros(1, 16, 32, dtype=torch.bool)
    mask[0, 5, 3] = True
    settings = {"world_to_camera": torch.eye(4)[None], "frames": torch.zeros(1)}
    tokens = make.noise(48, 1, 8, 16)
    found = observe(tokens, frame(depth, make, mask), **settings)
    dropped = found.depth[0] == 0
    assert dropped[:, 8].all()
    assert dropped[2, 1]
    assert int(dropped.sum()) == 9
    kept = observe(tokens, frame(depth, make), config=WriteConfig(drop_flying=False), **settings)
    assert not (kept.depth == 0).any()
    assert len(append_all(LatentCache(), kept)) == 8 * 16


def test_nothing_left_to_remember(make) -> None:
    everything = torch.ones(1, 16, 16, dtype=torch.bool)
    geometry = frame(torch.ones(1, 16, 16), make, everything)
    settings = {"world_to_camera": torch.eye(4)[None], "frames": torch.zeros(1)}
    with pytest.raises(GeometryError, match="white is left out"):
        observe(torch.zeros(48, 1, 4, 4), geometry, **settings)
    assert not observe(torch.zeros(48, 1, 4, 4), geometry, allow_empty=True, **settings).depth.any()


def test_point_clouds_for_viewers(make) -> None:
    cache = make.cache(3, 2)
    ply = point_cloud_ply(cache, torch.full((5, 3), 0.5))
    head, body = ply.split(b"end_header\n")
    assert b"element vertex 5" in head
    assert len(body) == 5 * 15
    first = torch.frombuffer(bytearray(body[:12]), dtype=torch.float32)
    assert torch.equal(first, cache.blocks[0].points[0] * torch.tensor([1.0, -1.0, -1.0]))
    assert body[12:15] == bytes([128] * 3)
    with pytest.raises(ShapeError):
        point_cloud_ply(cache, torch.zeros(4, 3))


def test_a_block_without_points(make) -> None:
    cache = make.cache(0)
    assert len(cache) == 0
    assert isinstance(cache.blocks[0], CacheBlock)
    assert not cache.gather(torch.tensor([-1]), [cache.blocks[0].tokens]).any()
