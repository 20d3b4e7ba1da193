"""Tokens in 8 bits: the error's bound, and that everything reads them alike."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from mirage_core.cache.accounting import PURPOSE, footprint
from mirage_core.cache.build import append_all, merge_blocks
from mirage_core.cache.io import load_cache, save_cache
from mirage_core.cache.quantise import quantise
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.errors import CacheFormatError, ShapeError
from mirage_core.ops.gather import dequantise
from mirage_core.ops.splat import BOUNDS_RUN
from mirage_core.readout.readout import read
from mirage_core.tensor_files import read_safetensors
from mirage_core.writing.policy import WriteRules, write

FORMAT = "mirage-cache"


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_the_error_is_at_most_half_a_step(make, size: float) -> None:
    tokens = size * make.noise(200, 48)
    numbers, scale = quantise(tokens)
    assert numbers.dtype == torch.int8
    assert scale.dtype == torch.float16
    error = (dequantise(numbers, scale).float() - tokens).abs().amax(dim=1)
    largest = tokens.abs().amax(dim=1)
    # Half a step, the rounding of the scale, and that of the float16 result.
    assert (error <= largest * (0.5 / 127 + 2**-11 + 2**-11) + 1e-7).all()
    assert int(numbers.abs().max()) == 127


def test_full_scale_and_nothing() -> None:
    tokens = torch.zeros(3, 4)
    tokens[1] = torch.tensor([1.27, -1.27, 0.01, 0.0])
    tokens[2] = 1e-9
    numbers, scale = quantise(tokens)
    assert not numbers[[0, 2]].any()
    assert numbers[1].tolist() == [127, -127, 1, 0]
    assert not dequantise(numbers, scale)[[0, 2]].any()
    assert quantise(torch.zeros(0, 4))[0].shape == (0, 4)


def test_quantising_again_changes_nothing(make) -> None:
    once = dequantise(*quantise(make.noise(100, 48)))
    numbers, scale = quantise(once)
    assert (dequantise(numbers, scale).float() - once.float()).abs().max() < 2e-3
    assert torch.equal(numbers, quantise(once.float())[0])


def test_reading_is_dequantising(make) -> None:
    cache = make.cache(300, 200, channels=48)
    small = cache.to("cpu", torch.int8)
    trajectory = make.trajectory(33, 96, 64)
    wide, narrow = read(cache, trajectory), read(small, trajectory)
    assert torch.equal(wide.winner, narrow.winner)
    assert narrow.tokens.dtype == small.dtype == torch.float16
    assert small.storage == torch.int8
    values = torch.cat([block.values for block in small.blocks])
    seen = narrow.winner >= 0
    assert torch.equal(narrow.tokens.permute(1, 2, 3, 0)[seen], values[narrow.winner[seen]])
    assert not narrow.tokens[:, ~seen].any()
    signal = wide.tokens.square().mean()
    noise = (wide.tokens - narrow.tokens.float()).square().mean()
    assert float(10 * torch.log10(signal / noise)) > 40


def test_gathering_mixes_nothing_up(make) -> None:
    """Sources and points of an int8 memory come back as they are; tokens with their own scale."""
    cache = make.cache(30, 1, 20).to("cpu", torch.int8)
    index = torch.tensor([[49, -1], [30, 0]])
    tokens = cache.gather(index, [block.tokens for block in cache.blocks])
    for place in ((0, 0), (1, 0), (1, 1)):
        number = int(index[place])
        block, row = next(
            (b, number - o)
            for b, o in zip(cache.blocks, cache.offsets, strict=False)
            if o <= number < o + len(b)
        )
        assert torch.equal(tokens[place], (block.tokens[row].float() * block.scale[row]).half())
    assert not tokens[0, 1].any()
    sources = cache.gather(index, [block.source for block in cache.blocks])
    assert sources.dtype == torch.int32


def test_what_is_written_takes_the_memorys_storage(make) -> None:
    first = append_all(LatentCache(), make.observation(2 + make.uniform(1, 8, 12)))
    cache = first.to("cpu", torch.int8)
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = -0.7
    for policy in ("append", "novelty"):
        after = write(cache, make.observation(2 + make.uniform(2, 8, 12), pose=moved), policy)
        assert len(after) > len(cache)
        assert {block.tokens.dtype for block in after.blocks} == {torch.int8}
    again = cache.to("cpu", torch.float16)
    assert again.blocks[0].scale is None
    assert torch.equal(again.blocks[0].tokens, cache.blocks[0].values)
    assert cache.to("cpu", torch.int8).fingerprint() == cache.fingerprint()


def test_policies_choose_the_same_points_whatever_the_storage(make) -> None:
    depth = 2 + make.uniform(4, 8, 12)
    results = []
    for storage in (torch.float32, torch.int8):
        start = append_all(LatentCache(), make.observation(2 + make.uniform(1, 8, 12, seed=3)))
        result = write(start.to("cpu", storage), make.observation(depth), WriteRules())
        results.append(torch.cat([block.points for block in result.blocks]))
    assert torch.equal(*results)


def test_merging_and_taking_keep_the_scale(make) -> None:
    cache = make.cache(30, 20).to("cpu", torch.int8)
    merged = merge_blocks(list(cache.blocks))
    assert torch.equal(merged.values, torch.cat([block.values for block in cache.blocks]))
    rows = torch.tensor([41, 3, 3])
    assert torch.equal(merged.take(rows).values, merged.values[rows])


def test_tokens_and_scale_belong_together(make) -> None:
    block = make.block(5)
    quantised = block.to("cpu", torch.int8)
    with pytest.raises(ShapeError, match="if and only if"):
        dataclasses.replace(block, scale=torch.ones(5))
    with pytest.raises(ShapeError, match="if and only if"):
        dataclasses.replace(quantised, scale=None)
    with pytest.raises(ShapeError, match="scale"):
        dataclasses.replace(quantised, scale=torch.ones(4))


def test_the_scale_is_part_of_the_fingerprint(make) -> None:
    block = make.block(5).to("cpu", torch.int8)
    other = dataclasses.replace(block, scale=block.scale * 2)
    assert LatentCache((block,)).fingerprint() != LatentCache((other,)).fingerprint()


def test_files(make, tmp_path: Path) -> None:
    cache = make.cache(30, 20).to("cpu", torch.int8)
    path = save_cache(tmp_path / "small", cache)
    assert load_cache(path).fingerprint() == cache.fingerprint()
    assert read_safetensors(path, FORMAT, 9)[1]["version"] == 2
    plain = save_cache(tmp_path / "plain", make.cache(30))
    assert read_safetensors(plain, FORMAT, 9)[1]["version"] == 1


def test_a_file_without_its_scale_is_refused(make, tmp_path: Path) -> None:
    from mirage_core.cache.io import cache_header
    from mirage_core.tensor_files import write_safetensors

    cache = make.cache(30).to("cpu", torch.int8)
    path = save_cache(tmp_path / "small", cache)
    tensors, _ = read_safetensors(path, FORMAT, 9)
    del tensors["block.0.scale"]
    write_safetensors(path, tensors, cache_header(cache))
    with pytest.raises(CacheFormatError, match="if and only if"):
        load_cache(path)


def test_the_footprint_counts_every_byte(make) -> None:
    for storage in (torch.float32, torch.float16, torch.int8):
        cache = make.cache(600, 20).to("cpu", storage)
        cost = footprint(cache)
        assert cost.total == cache.nbytes == sum(cost.parts.values())
        assert (cost.points, cost.blocks) == (620, 2)
        width = torch.empty(0, dtype=storage).element_size()
        assert cost.parts["tokens"] == 620 * (48 * width + (2 if storage == torch.int8 else 0))
        assert cost.parts["coordinates"] == 620 * 12
        assert cost.parts["origin"] == 620 * 8
        assert cost.parts["culling"] == (math.ceil(600 / BOUNDS_RUN) + 1) * 24
        assert cost.parts["cameras"] == 4 * (16 * 8 + 9 * 8 + 8)
        assert cost.bytes_per_point == pytest.approx(cost.total / 620)
        assert cost.mebibytes == pytest.approx(cost.total / 2**20)
    assert footprint(LatentCache()).total == footprint(LatentCache()).bytes_per_point == 0


@pytest.mark.parametrize("policy", ["append", "novelty"])
@pytest.mark.parametrize("storage", [torch.float16, torch.int8], ids=str)
def test_writes_hold_nothing_that_is_not_counted(make, policy: str, storage) -> None:
    """A tensor may be a view of a larger one, which it keeps alive."""
    cache = append_all(LatentCache(), make.observation(torch.full((1, 8, 12), 2.0)))
    cache = cache.to("cpu", storage)
    for number in range(3):
        depth = 1 + make.uniform(2, 8, 12, seed=number)
        cache = write(cache, make.observation(depth, seed=number), policy)
        kept = {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
            for block in cache.blocks
            for part in block.parts.values()
        }
        assert sum(kept.values()) == footprint(cache).total


def test_every_tensor_of_a_block_has_a_purpose() -> None:
    assert set(PURPOSE) == {field.name for field in dataclasses.fields(CacheBlock)}
