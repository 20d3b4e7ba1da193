"""Points that stand for a part of their cell: how they get into a memory, and through it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.cache.accounting import footprint
from mirage_core.cache.build import Observation, WriteConfig, append_all, make_block, observe
from mirage_core.cache.compact import compact
from mirage_core.cache.delta import apply_difference, difference
from mirage_core.cache.footprints import cell_centres
from mirage_core.cache.io import VERSION, cache_header, load_cache, save_cache
from mirage_core.cache.thin import thin
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.cache.view import view_bytes
from mirage_core.errors import CacheFormatError, ShapeError, ValueRangeError
from mirage_core.geometry.camera import PixelConvention, project
from mirage_core.geometry.cutouts import WHOLE, area, covers_half, mask_centre
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.readout import read, read_winners
from mirage_core.rollout.chunk_file import FORMAT, chunk_path
from mirage_core.rollout.chunk_file import VERSION as CHUNK_VERSION
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.tensor_files import read_safetensors, write_safetensors
from mirage_core.writing.consistency import remove_points
from mirage_core.writing.policy import WriteRules, write

ROWS, COLS = 4, 6


def box_before_a_wall(column: float = 37.0) -> Tensor:
    """(1, 64, 96) depth: a box at 2 whose rim crosses cells, before a wall at 4."""
    depth = torch.full((1, 64, 96), 4.0)
    depth[:, 21:, : int(column)] = 2.0
    return depth


def look(make, depth: Tensor, *, pose: Tensor | None = None, **kwargs) -> Observation:
    """One latent frame with this depth."""
    pose = torch.eye(4, dtype=torch.float64) if pose is None else pose
    tokens = make.noise(48, 1, ROWS, COLS, seed=3)
    geometry = FrameGeometry(depth, make.lens(64, 96))
    kwargs.setdefault("config", WriteConfig(cutouts=True))
    return observe(tokens, geometry, world_to_camera=pose[None], frames=torch.zeros(1), **kwargs)


@pytest.fixture
def seen(make) -> Observation:
    return look(make, box_before_a_wall())


@pytest.fixture
def cut(seen: Observation) -> LatentCache:
    return append_all(LatentCache(), seen)


def by_place(block: CacheBlock) -> dict[tuple[float, ...], int]:
    """The mask of every point."""
    return dict(zip(map(tuple, block.points.tolist()), block.masks.tolist(), strict=True))


def test_a_split_cell_is_two_points_with_one_token(seen: Observation, cut: LatentCache) -> None:
    block, split = cut.blocks[0], int(seen.cutouts.split.sum())
    assert split > 4 and len(block) == ROWS * COLS + split
    near = (block.masks != WHOLE).nonzero()[::2, 0]
    assert torch.equal(block.tokens[near], block.tokens[near + 1])
    assert torch.equal(block.masks[near], ~block.masks[near + 1])
    assert torch.allclose(block.points[near, 2], torch.tensor(2.0))
    assert torch.allclose(block.points[near + 1, 2], torch.tensor(4.0))


def test_points_lie_in_the_middle_of_their_masks(make, cut: LatentCache) -> None:
    block = cut.blocks[0]
    matrix = (block.intrinsics[0] @ block.world_to_camera[0, :3]).float()
    x, y, z = project(block.points, matrix)
    beside = torch.stack([x / z, y / z], dim=1) % 1 - 0.5
    assert torch.allclose(beside, mask_centre(block.masks) / 2, atol=1e-4)


def test_tokens_stand_where_their_cells_do(make) -> None:
    """From any pose: the middle of a cut-out's cell projects to the middle of a cell."""
    pose = make.poses(1, seed=5)[0]
    seen = look(make, box_before_a_wall(), pose=pose)
    cache = append_all(LatentCache(), seen)
    assert (cache.blocks[0].masks != WHOLE).any()
    centres = cell_centres(cache, torch.arange(len(cache)))
    x, y, z = (seen.intrinsics[0] @ (pose[:3, :3] @ centres.T + pose[:3, 3:])).unbind(0)
    for places in (x / z, y / z):
        assert torch.allclose(places % 1, torch.full_like(places, 0.5), atol=1e-4)
    whole = make.cache(20)
    points = whole.blocks[0].points.double()
    assert torch.equal(cell_centres(whole, torch.arange(20)), points)


def test_cells_that_are_split_do_not_fly(make) -> None:
    """Dropped as flying, they tore outlines; whole, they hung between the surfaces."""
    depth = torch.full((1, 64, 96), 8.0)
    depth[:, :, :56], depth[:, :, :40] = 4.0, 2.0
    whole = look(make, depth, config=WriteConfig(cutouts=False))
    assert bool((whole.depth == 0).any())
    assert bool((look(make, depth).depth > 0).all())


def test_off_and_released_keep_cells_whole(make, seen: Observation) -> None:
    off = look(make, box_before_a_wall(), config=WriteConfig(cutouts=False))
    released = look(make, box_before_a_wall(), convention=PixelConvention.RELEASED)
    for observation in (off, released):
        assert observation.cutouts is None
        assert make_block(observation, PixelConvention.PAPER).mask is None


def test_masked_cells_stay_out_with_both_parts(make) -> None:
    geometry = FrameGeometry(
        box_before_a_wall(), make.lens(64, 96), exclude=torch.ones(1, 64, 96).bool()
    )
    observation = observe(
        make.noise(48, 1, ROWS, COLS), geometry, world_to_camera=torch.eye(4)[None],
        frames=torch.zeros(1), allow_empty=True,
    )  # fmt: skip
    assert len(make_block(observation, PixelConvention.PAPER)) == 0


def test_what_is_rejected_later_stays_out_with_both_parts(seen: Observation) -> None:
    nothing = dataclasses.replace(seen, depth=torch.zeros_like(seen.depth))
    assert len(make_block(nothing, PixelConvention.PAPER)) == 0
    keep = torch.zeros_like(seen.depth, dtype=torch.bool)
    keep[0, 2, 2] = True
    assert bool(seen.cutouts.split[0, 2, 2])
    assert len(make_block(seen, PixelConvention.PAPER, keep)) == 2


def test_whole_cells_have_the_same_bits_as_without_cut_outs(make, seen: Observation) -> None:
    off = look(make, box_before_a_wall(), config=WriteConfig(cutouts=False, drop_flying=False))
    places = by_place(make_block(off, PixelConvention.PAPER))
    for place, mask in by_place(make_block(seen, PixelConvention.PAPER)).items():
        assert (mask == WHOLE) == (place in places)


def test_masks_stay_with_their_points(make, cut: LatentCache) -> None:
    """Through joining, thinning, removal, Morton order, other devices and types."""
    known = by_place(cut.blocks[0])
    plain = make.cache(40)
    both = compact(LatentCache((cut.blocks[0], *plain.blocks, cut.blocks[0])))
    assert len(both.blocks) == 1
    masks = by_place(both.blocks[0])
    assert known.items() <= masks.items()
    assert all(masks[place] == WHOLE for place in by_place(plain.blocks[0]))
    parts = (
        thin(cut, 20),
        remove_points(cut, torch.tensor([0, 5, 9])),
        cut.to("cpu", torch.int8),
        write(LatentCache(), look(make, box_before_a_wall()), "novelty"),
    )
    for memory in parts:
        held = by_place(memory.blocks[0])
        assert held.items() <= known.items() and set(held.values()) != {WHOLE}


def test_a_block_of_whole_cells_has_no_masks(cut: LatentCache) -> None:
    block = cut.blocks[0]
    whole = block.take(block.masks == WHOLE)
    assert whole.mask is None and whole.nbytes < block.take(block.masks != WHOLE).nbytes * 2
    assert bool((whole.masks == WHOLE).all())


def test_masks_count_in_what_the_memory_costs(cut: LatentCache) -> None:
    whole = LatentCache((dataclasses.replace(cut.blocks[0], mask=None),))
    assert footprint(cut).total == cut.nbytes == whole.nbytes + 2 * len(cut)
    assert cut.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (torch.zeros(4), ValueRangeError),
        (torch.ones(3), ShapeError),
        (torch.ones(4, 1), ShapeError),
    ],
)
def test_wrong_masks(make, mask: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        dataclasses.replace(make.block(4), mask=mask.to(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8], ids=str)
def test_files_keep_masks(cut: LatentCache, tmp_path: Path, dtype: torch.dtype) -> None:
    cut = cut.to("cpu", dtype)
    loaded = load_cache(save_cache(tmp_path / "memory", cut))
    assert torch.equal(loaded.blocks[0].masks, cut.blocks[0].masks)
    assert loaded.fingerprint() == cut.fingerprint()
    # Version 2 would show every part as a whole cell.
    assert cache_header(loaded)["version"] == 3 <= VERSION


def test_files_of_whole_cells_are_as_before(make, tmp_path: Path) -> None:
    path = save_cache(tmp_path / "memory", make.cache(9, 5))
    tensors, header = read_safetensors(path, "mirage-cache", 1)
    assert header["version"] == 1
    assert not any(name.endswith("mask") for name in tensors)
    assert all(block.mask is None for block in load_cache(path).blocks)


@pytest.mark.parametrize("mask", [torch.zeros(24), torch.ones(23)])
def test_damaged_masks(cut: LatentCache, tmp_path: Path, mask: Tensor) -> None:
    path = save_cache(tmp_path / "memory", cut)
    tensors, header = read_safetensors(path, "mirage-cache", VERSION)
    for wrong in (mask.to(torch.int16), mask.int()):
        write_safetensors(path, {**tensors, "block.0.mask": wrong}, header)
        with pytest.raises(CacheFormatError):
            load_cache(path)


def test_differences_see_masks(cut: LatentCache) -> None:
    """Dropped points are named; other masks at the same places are another block."""
    block = cut.blocks[0]
    keep = torch.ones(len(block), dtype=torch.bool)
    keep[[1, 8]] = False
    fewer = LatentCache((block.take(keep),))
    whole = LatentCache((dataclasses.replace(block, mask=None),))
    other = LatentCache((dataclasses.replace(block, mask=~block.masks | 1),))
    for old, new, dropped in ((cut, fewer, 1), (cut, whole, 0), (whole, cut, 0), (cut, other, 0)):
        delta = difference(old, new)
        assert len(delta.dropped) == dropped
        assert apply_difference(old, delta).fingerprint() == new.fingerprint()


def test_chunks_keep_masks(make, shot, tmp_path: Path) -> None:
    state = open_folder(shot.begin(tmp_path / "shot"))
    parts = shot.parts(state)
    added = append_all(LatentCache(), look(make, box_before_a_wall())).blocks[0]
    after = commit(state, **{**parts, "cache": state.cache.append(added)})
    path = chunk_path(state.folder, 0)
    assert read_safetensors(path, FORMAT, CHUNK_VERSION)[1]["version"] == 3
    again = open_folder(shot.begin(tmp_path / "shot"))
    assert again.done == 1 and again.cache.fingerprint() == after.cache.fingerprint()


@pytest.mark.parametrize("policy", ["novelty", "append"])
def test_the_same_view_again(seen: Observation, policy: str) -> None:
    """A split cell has no point in its middle, and would be new for ever."""
    once = write(LatentCache(), seen, WriteRules(policy))
    twice = write(once, seen, WriteRules(policy))
    assert len(twice) == (len(once) if policy == "novelty" else 2 * len(once))


def test_whole_cells_show_the_larger_part(make, seen: Observation, cut: LatentCache) -> None:
    cameras = make.trajectory(1, 96, 64).select([0])
    lens, pose = cut.blocks[0].intrinsics, cut.blocks[0].world_to_camera
    winner, depth = read_winners(cut, pose, lens, (ROWS, COLS), whole_cells=True)
    assert bool((winner >= 0).all())
    mask = cut.gather(winner, [block.masks for block in cut.blocks])
    assert bool(covers_half(mask).all())
    split, near = seen.cutouts.split, area(seen.cutouts.mask)
    assert bool((depth[split & (near < 8)] > 3.9).all())
    assert bool((depth[split & (near >= 8)] < 2.1).all())
    shown = read(cut, cameras).winner
    assert bool(covers_half(cut.gather(shown, [b.masks for b in cut.blocks])[shown >= 0]).all())


def test_viewers_get_what_whole_cells_show(cut: LatentCache) -> None:
    block = cut.blocks[0]
    colours = torch.zeros(len(block), 3)
    data = view_bytes(block, colours, colours, PixelConvention.PAPER, 16)
    assert int.from_bytes(data[8:12], "little") == int(covers_half(block.masks).sum())
