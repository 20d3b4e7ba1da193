"""Files of points for viewers: what they hold is the memory, to what 16 bits allow."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.cache.build import append_all, observe
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.cache.view import (
    LEAN_UNIT,
    block_digest,
    feature_basis,
    shown_rows,
    source_cells,
    view_bytes,
)
from mirage_core.errors import ShapeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about

ROWS, COLUMNS, FRAMES = 6, 10, 3


def memory(seed: int = 0, spread: float = 1.0) -> LatentCache:
    """A memory of three frames with depths over several orders of magnitude."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randn(48, FRAMES, ROWS, COLUMNS, generator=rng)
    depth = 2.0 * torch.exp(spread * torch.randn(FRAMES, ROWS, COLUMNS, generator=rng))
    lens = intrinsics_from_fov(COLUMNS, ROWS, 70.0).expand(FRAMES, 3, 3)
    turns = torch.tensor([0.0, 0.5, 2.5], dtype=torch.float64)
    places = torch.randn(FRAMES, 3, generator=rng).double()
    poses = invert_rigid(rigid(rotation_about("y", turns), places))
    observation = observe(
        tokens,
        FrameGeometry(depth, lens),
        world_to_camera=poses,
        frames=torch.tensor([0, 4, 8]),
    )
    return append_all(LatentCache(), observation)


def decode(data: bytes) -> dict[str, np.ndarray]:
    """A reader of its own, from the layout in the module's text."""
    whole, cameras, released, parts, stride, _ = struct.unpack_from("<6I", data, 8)
    count = whole + parts
    u0, du, v0, dv, z0, dz = struct.unpack_from("<6d", data, 32)
    table = np.frombuffer(data, "<f8", cameras * 13, 80).reshape(cameras, 13)
    planes = np.frombuffer(data, "<u2", offset=80 + cameras * 104).reshape(9, count)
    u, v, z, source, colour, feature, right, down, mask = planes
    depth = np.exp(z0 + dz * z)
    rays = np.stack([u0 + du * u, v0 + dv * v, np.ones(count)], axis=1) * depth[:, None]
    matrices = table[source, :9].reshape(-1, 3, 3)
    points = np.einsum("nij,nj->ni", matrices, rays) + table[source, 9:12]

    def unpacked(bits: np.ndarray) -> np.ndarray:
        return np.stack([(bits >> 11) / 31, (bits >> 5 & 63) / 63, (bits & 31) / 31], axis=1)

    return {
        "points": points,
        "cells": np.stack([u0 + du * u, v0 + dv * v], axis=1),
        "depth": depth,
        "frames": table[source, 12],
        "colours": unpacked(colour.astype(int)),
        "features": unpacked(feature.astype(int)),
        "released": np.array(released),
        "whole": np.array(whole),
        "stride": np.array(stride),
        "slope": np.stack([right, down], axis=1).view(np.int16) / LEAN_UNIT,
        "mask": mask.view(np.int16),
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 0.1, 1.0, 3.0]))
def test_points_survive_16_bits(seed: int, spread: float) -> None:
    (block,) = memory(seed, spread).blocks
    colours = torch.rand(len(block), 3, generator=torch.Generator().manual_seed(seed))
    found = decode(view_bytes(block, colours, 1 - colours, PixelConvention.PAPER, 16))
    seen = torch.linalg.vector_norm(
        block.points.double() - invert_rigid(block.world_to_camera)[block.source.long(), :3, 3],
        dim=1,
    ).numpy()
    away = np.linalg.norm(found["points"] - block.points.numpy(), axis=1)
    assert (away / seen).max() < 3e-4 * max(1.0, spread)
    # Points right before a camera that is not at the origin have few digits left.
    rounding = 2e-6 * np.linalg.norm(block.points.numpy(), axis=1) / found["depth"]
    beside = np.abs(found["cells"] % 1 - 0.5).max(axis=1)
    assert (beside < 2e-3 + rounding).all(), "cell centres are kept"
    np.testing.assert_array_equal(found["frames"], block.frames[block.source.long()].numpy())
    np.testing.assert_allclose(found["colours"], colours.numpy(), atol=0.5 / 31 + 1e-6)
    np.testing.assert_allclose(found["features"], 1 - colours.numpy(), atol=0.5 / 31 + 1e-6)


def test_the_order_of_points_is_kept() -> None:
    """The newest point wins among equals, so viewers need the order."""
    (block,) = memory().blocks
    colours = torch.linspace(0, 1, len(block))[:, None].expand(-1, 3)
    found = decode(view_bytes(block, colours, colours, PixelConvention.PAPER, 16))
    assert (np.diff(found["colours"][:, 1]) >= 0).all()


def test_lean_and_stride_are_kept() -> None:
    (block,) = memory().blocks
    colours = torch.zeros(len(block), 3)
    found = decode(view_bytes(block, colours, colours, PixelConvention.PAPER, 2))
    assert float(block.slope.abs().max()) > 0.1, "the scene has no slopes to keep"
    np.testing.assert_allclose(found["slope"], block.slope.float().numpy(), atol=1 / LEAN_UNIT)
    assert int(found["stride"]) == 2
    assert (found["mask"] == -1).all()


def test_smaller_parts_follow_the_others() -> None:
    (block,) = memory().blocks
    mask = torch.full((len(block),), -1, dtype=torch.int16)
    mask[2], mask[4] = 0b111, 0b111111111111
    split = dataclasses.replace(block, mask=mask)
    colours = torch.linspace(0, 1, len(block))[:, None].expand(-1, 3)
    found = decode(view_bytes(split, colours, colours, PixelConvention.PAPER, 16))
    assert int(found["whole"]) == len(block) - 1
    rows = shown_rows(split)
    assert rows[-1] == 2 and sorted(rows.tolist()) == list(range(len(block)))
    np.testing.assert_array_equal(found["mask"], mask[rows].numpy())
    np.testing.assert_array_equal(source_cells(split, PixelConvention.PAPER)[rows],
                                  np.floor(found["cells"]))


def test_what_no_camera_saw_is_left_out() -> None:
    (block,) = memory().blocks
    points = block.points.clone()
    points[3] = float("nan")
    points[5] = invert_rigid(block.world_to_camera)[block.source[5].item(), :3, 3].float()
    broken = CacheBlock(
        points, block.tokens, block.source, block.slope,
        block.world_to_camera, block.intrinsics, block.frames,
    )  # fmt: skip
    colours = torch.zeros(len(block), 3)
    found = decode(view_bytes(broken, colours, colours, PixelConvention.PAPER, 16))
    assert len(found["points"]) == len(block) - 2 and np.isfinite(found["points"]).all()


@pytest.mark.parametrize("convention", list(PixelConvention))
def test_an_empty_block_and_the_convention(convention: PixelConvention) -> None:
    (block,) = memory().blocks
    empty = block.take(torch.zeros(0, dtype=torch.int64))
    none = torch.zeros(0, 3)
    found = decode(view_bytes(empty, none, none, convention, 16))
    assert len(found["points"]) == 0
    assert int(found["released"]) == (convention is PixelConvention.RELEASED)


def test_one_colour_for_each_point() -> None:
    (block,) = memory().blocks
    with pytest.raises(ShapeError):
        view_bytes(block, torch.zeros(2, 3), torch.zeros(2, 3), PixelConvention.PAPER, 16)


def test_components_tell_tokens_apart_and_do_not_flip() -> None:
    cache = memory()
    basis = feature_basis(cache)
    tokens = cache.blocks[0].values
    colours = basis.colours(tokens)
    assert float(colours.min()) >= 0 and float(colours.max()) <= 1
    assert torch.allclose(colours.mean(0), torch.full((3,), 0.5), atol=0.03)
    offset = tokens.double() - tokens.double().mean(0)
    first = (offset @ basis.axes[:, 0].double()).var()
    others = [(offset @ axis).var() for axis in torch.eye(48, dtype=torch.float64)]
    scale = basis.axes[:, 0].double().square().sum()
    assert float(first / scale) >= max(float(other) for other in others)
    again = feature_basis(cache.append(memory(1).blocks[0]))
    assert torch.equal(again.axes, basis.axes), "a growing memory keeps its colours"


def test_components_of_equal_tokens_are_grey() -> None:
    cache = memory()
    (block,) = cache.blocks
    same = CacheBlock(
        block.points, torch.ones_like(block.tokens), block.source, block.slope,
        block.world_to_camera, block.intrinsics, block.frames,
    )  # fmt: skip
    basis = feature_basis(LatentCache((same,)))
    assert torch.allclose(basis.colours(same.values), torch.tensor(0.5))
    assert feature_basis(LatentCache()) is None


def test_blocks_are_named_by_their_content() -> None:
    first, second = memory(0).blocks[0], memory(1).blocks[0]
    assert block_digest(first) == block_digest(memory(0).blocks[0])
    assert block_digest(first) != block_digest(second)
    assert block_digest(first) != block_digest(first.take(torch.arange(3)))
