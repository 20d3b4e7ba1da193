"""The CUDA kernels on a GPU: the bits of torch on the CPU, on every path.

`tests/conftest.py` skips these where there is no CUDA device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.errors import ShapeError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.ops import gather as reference
from mirage_core.ops import kernels
from mirage_core.ops.backend import backend, reset
from mirage_core.ops.best_view import BestView, Seen, best_view
from mirage_core.ops.kernels import BlockTensors, Grid
from mirage_core.ops.operators import gather_rows, read_tokens, run_bounds, splat_keys
from mirage_core.ops.registration import operator
from mirage_core.ops.splat import point_bounds
from mirage_core.readout.readout import read, read_winners
from readout_cases import CLOUDS, cloud, memory, noise, same_bits, seen_by, viewers, views

pytestmark = pytest.mark.gpu

GRID = (44, 80)
VIEWS = 9


@pytest.fixture(scope="module")
def launch():
    found = backend(0)
    assert found.launcher is not None, found.reason
    return found.launcher


def on_gpu(held: BlockTensors) -> BlockTensors:
    """The memory on the device, with the layout of its points."""
    return BlockTensors(
        [points.T.contiguous().to("cuda").T for points in held.points],
        *([part.to("cuda") for part in parts] for parts in held[1:]),
    )


def both(
    launch, held: BlockTensors, projection: Tensor, size: tuple[int, int], nearest: bool,
    dtype: torch.dtype, fused: bool | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    found = kernels.readout(
        launch, on_gpu(held), projection.to("cuda"), Grid(*size, nearest), 48, dtype, fused=fused
    )
    expected = reference.readout(*held, projection, *size, 48, dtype, nearest)
    return tuple(part.cpu() for part in found), expected


FUSED = pytest.mark.parametrize("fused", [False, True], ids=["two passes", "fused"])
NEAREST = pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])


@FUSED
@NEAREST
@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("count", [1, 31, 3520, 35_200])
def test_hostile_clouds(launch, name: str, count: int, nearest: bool, fused: bool) -> None:
    held = memory([cloud(name, count)])
    projection = views(VIEWS, *GRID)
    assert same_bits(*both(launch, held, projection, GRID, nearest, torch.bfloat16, fused))


@NEAREST
@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("count", [1, 3520, 352_000])
def test_best_views(launch, name: str, count: int, nearest: bool) -> None:
    parts = [cloud(name, count), cloud("random", 700, seed=8)]
    held = BlockTensors(parts, [point_bounds(part) for part in parts])
    seen, projection, rule = seen_by(parts), views(VIEWS, *GRID), BestView().numbers
    cameras = viewers(projection)
    expected = best_view(
        parts, held.bounds, *seen, projection, cameras, *GRID, rule, nearest
    )  # fmt: skip
    there = Seen(*([tensor.to("cuda") for tensor in tensors] for tensors in seen))
    found = kernels.best_view(
        launch, on_gpu(held), there, projection.to("cuda"), cameras.to("cuda"),
        Grid(*GRID, nearest), rule,
    )  # fmt: skip
    assert same_bits(tuple(part.cpu() for part in found), expected)
    without = best_view(
        *([tensor.to("cuda") for tensor in tensors] for tensors in (parts, held.bounds, *seen)),
        projection.to("cuda"), cameras.to("cuda"), *GRID, rule, nearest,
    )  # fmt: skip
    assert same_bits(tuple(part.cpu() for part in without), expected)


@lru_cache(maxsize=1)
def large_memory(name: str, count: int) -> BlockTensors:
    """Made once for both rounding rules: most of a test's time goes here."""
    return memory([cloud(name, count)])


@NEAREST
@pytest.mark.parametrize("name", [name for name in CLOUDS if name not in ("empty", "one")])
@pytest.mark.parametrize("count", [352_000, 3_520_000])
def test_large_clouds(launch, name: str, count: int, nearest: bool) -> None:
    held = large_memory(name, count)
    projection = views(VIEWS, *GRID)
    assert same_bits(*both(launch, held, projection, GRID, nearest, torch.bfloat16))


@FUSED
@pytest.mark.parametrize(
    ("stored", "read_as"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.int8, torch.float16),
        (torch.int8, torch.bfloat16),
        (torch.int8, torch.float32),
    ],
    ids=str,
)
def test_token_types(launch, stored, read_as, fused: bool) -> None:
    held = memory([cloud("random", 7000), cloud("around", 900)], stored)
    projection = views(VIEWS, *GRID)
    assert same_bits(*both(launch, held, projection, GRID, False, read_as, fused))


@pytest.mark.parametrize("blocks", [16, 100, 300])
def test_many_blocks(launch, blocks: int) -> None:
    held = memory([cloud("around", 350 + number % 7, seed=number) for number in range(blocks)])
    projection = views(VIEWS, *GRID)
    assert same_bits(*both(launch, held, projection, GRID, False, torch.bfloat16))


@pytest.mark.parametrize("size", [(1, 1), (30, 50), (5, 340), (88, 160), (704, 1280)], ids=str)
def test_grids(launch, size: tuple[int, int]) -> None:
    held = memory([cloud("random", 50_000)])
    projection = views(33, *size) if size[0] < 100 else views(2, *size)
    assert same_bits(*both(launch, held, projection, size, True, torch.bfloat16))


def test_nothing_to_read(launch) -> None:
    for held in (memory([cloud("empty", 1)]), memory([cloud("random", 0)] * 3)):
        for fused in (False, True):
            found, expected = both(
                launch, held, views(2, *GRID), GRID, False, torch.bfloat16, fused
            )
            assert same_bits(found, expected)


def test_same_bits_every_time(launch) -> None:
    """Whatever the order in which thread blocks run."""
    held = on_gpu(memory([cloud("ties", 352_000)]))
    projection = views(VIEWS, *GRID).to("cuda")
    first = splat_keys(held, projection, GRID, nearest_centre=False)
    for _ in range(20):
        assert torch.equal(splat_keys(held, projection, GRID, nearest_centre=False), first)


def test_boxes(launch) -> None:
    for count in (0, 1, 512, 100_003):
        points = cloud("not numbers", count)
        assert torch.equal(run_bounds(points.T.contiguous().cuda().T).cpu(), point_bounds(points))


def test_gathering_and_its_gradient(launch) -> None:
    for rows in (
        [cloud("random", n) for n in (40, 0, 30)],
        [noise(9, 2).half(), noise(3, 2).half()],
    ):
        count = sum(map(len, rows))
        index = torch.randint(-2, count, (4, 90))
        found = gather_rows([part.cuda() for part in rows], index.cuda())
        assert torch.equal(found.cpu(), reference.gather(rows, index))
    gradient = torch.randint(-8, 9, (48, 5000)).bfloat16()
    index = torch.randint(-1, 700, (5000,))
    expected = reference.scatter(gradient.T, index, 700)
    assert torch.equal(operator("scatter")(gradient.cuda().T, index.cuda(), 700).cpu(), expected)
    torch.use_deterministic_algorithms(True)
    try:
        again = operator("scatter")(gradient.cuda().T, index.cuda(), 700)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(again.cpu(), expected)


def test_gradient_of_the_readout(launch) -> None:
    held = memory([cloud("random", 5000), cloud("ties", 3000)], torch.float32)
    projection = views(VIEWS, *GRID)
    gradients = []
    for device, source in (("cuda", on_gpu(held)), ("cpu", held)):
        tokens = [rows.clone().requires_grad_() for rows in source.tokens]
        made = read_tokens(
            source._replace(tokens=tokens), projection.to(device), GRID,
            channels=48, dtype=torch.float32, nearest_centre=False,
        )[0]  # fmt: skip
        (made * noise(*made.shape).to(device)).sum().backward()
        gradients.append(torch.cat([rows.grad.cpu() for rows in tokens]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_opcheck_and_one_graph(launch) -> None:
    held = on_gpu(memory([cloud("random", 900)], torch.float32))
    projection = views(2, *GRID).cuda()
    tokens = [rows.requires_grad_() for rows in held.tokens]
    arguments = (
        held.points, held.bounds, tokens, held.scales, projection, *GRID, 48, torch.float32, False,
    )  # fmt: skip
    torch.library.opcheck(operator("readout"), arguments)
    torch.library.opcheck(operator("gather"), (tokens, torch.tensor([3, -1], device="cuda")))

    def step(matrices: Tensor) -> Tensor:
        return operator("readout")(*arguments[:4], matrices * 1.0, *arguments[5:])[0] * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(projection), step(projection))


@pytest.mark.parametrize("blocks", [1, 100])
@pytest.mark.parametrize("points", [40, 3520])
def test_in_a_cuda_graph(launch, blocks: int, points: int) -> None:
    """A replay reads the cameras that lie in the captured tensor at the time."""
    held = on_gpu(memory([cloud("around", points, seed=n) for n in range(blocks)]))
    given = views(VIEWS, *GRID).cuda()

    def run() -> tuple[Tensor, ...]:
        return read_tokens(
            held, given, GRID, channels=48, dtype=torch.bfloat16, nearest_centre=False
        )

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for seed in (1, 2, 3):
        given.copy_(views(VIEWS, *GRID, seed=seed))
        for part in captured:
            part.zero_()
        graph.replay()
        assert same_bits(tuple(part.clone() for part in captured), tuple(p.cuda() for p in run()))


def test_nothing_waits_for_the_device(launch) -> None:
    held = on_gpu(memory([cloud("random", 35_200)] * 3))
    projection = views(VIEWS, *GRID).cuda()
    read_tokens(held, projection, GRID, channels=48, dtype=torch.bfloat16, nearest_centre=False)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        read_tokens(held, projection, GRID, channels=48, dtype=torch.bfloat16, nearest_centre=True)
        gather_rows(held.points, torch.zeros(5, dtype=torch.int64, device="cuda"))
        run_bounds(held.points[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_runs_on_the_current_stream(launch) -> None:
    """Points that another stream is still writing would show."""
    projection = views(VIEWS, *GRID)
    source = cloud("random", 352_000)
    expected = reference.splat_keys([source], [point_bounds(source)], projection, *GRID, False)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        points = torch.zeros(3, len(source), device="cuda")
        torch.cuda._sleep(20_000_000)
        points.copy_(source.T.contiguous().pin_memory(), non_blocking=True)
        held = BlockTensors([points.T], [run_bounds(points.T)])
        keys = splat_keys(
            held, projection.pin_memory().to("cuda", non_blocking=True), GRID, nearest_centre=False
        )
    stream.synchronize()
    assert torch.equal(keys.cpu(), expected)


def test_in_a_thread_that_never_used_cuda(launch) -> None:
    """ComfyUI works in a thread of its own."""
    held, projection = on_gpu(memory([cloud("random", 900)])), views(2, *GRID).cuda()
    expected = splat_keys(held, projection, GRID, nearest_centre=False)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(splat_keys, held, projection, GRID, nearest_centre=False).result()
    assert torch.equal(found, expected)


def test_mixed_devices_are_refused(launch) -> None:
    held = memory([cloud("random", 10)])
    with pytest.raises(ShapeError, match="devices"):
        splat_keys(held, views(1, *GRID).cuda(), GRID, nearest_centre=False)


def test_the_memory_is_read_alike_on_both_devices(launch) -> None:
    """Through the library's own types, several chunks long, in every storage."""
    blocks = []
    for number in range(12):
        blocks.append(
            CacheBlock(
                points=cloud("around", 3000, seed=number),
                tokens=noise(3000, 48, seed=number).half(),
                source=torch.zeros(3000),
                slope=torch.zeros(3000, 2),
                world_to_camera=torch.eye(4)[None],
                intrinsics=torch.eye(3)[None],
                frames=torch.zeros(1),
            )
        )
    poses = torch.eye(4, dtype=torch.float64).repeat(33, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.5, 0.5, 33)
    shot = Trajectory(poses, intrinsics_from_fov(1280, 704, 75).repeat(33, 1, 1), 1280, 704)
    for dtype in (torch.float16, torch.bfloat16, torch.int8):
        cache = LatentCache(tuple(blocks)).to("cpu", dtype)
        here, there = read(cache, shot), read(cache.to("cuda"), shot)
        for name in ("tokens", "visible", "depth", "winner"):
            assert same_bits((getattr(here, name),), (getattr(there, name).cpu(),)), name
    fine = shot.select([16])
    lens = fine.intrinsics / 4
    lens[:, 2, 2] = 1
    index, depth = read_winners(cache, fine.world_to_camera, lens, (176, 320))
    other = read_winners(cache.to("cuda"), fine.world_to_camera, lens, (176, 320))
    assert same_bits((index, depth), tuple(part.cpu() for part in other))


def test_switched_off_torch_reads_the_same(launch, monkeypatch, caplog) -> None:
    held = on_gpu(memory([cloud("random", 9000)] * 2))
    projection = views(VIEWS, *GRID).cuda()

    def run() -> tuple[Tensor, ...]:
        return read_tokens(
            held, projection, GRID, channels=48, dtype=torch.bfloat16, nearest_centre=False
        )

    expected = run()
    monkeypatch.setenv("MIRAGE_DISABLE_CUDA", "1")
    reset()
    try:
        with caplog.at_level("INFO", logger="mirage"):
            found = run()
            run()
    finally:
        reset()
    assert len([line for line in caplog.messages if "MIRAGE_DISABLE_CUDA" in line]) == 1
    assert same_bits(tuple(p.cpu() for p in found), tuple(p.cpu() for p in expected))


def test_first_use_in_a_fresh_process(tmp_path: Path) -> None:
    """Compiles once; the second process finds the kernels; damaged ones are made again."""
    environment = {**os.environ, "MIRAGE_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "mirage_core.doctor"]
    said = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert "CUDA kernels, compiled now" in said[0]
    assert "CUDA kernels, from the cache" in said[1]
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.write_bytes(b"damaged")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "CUDA kernels, compiled now" in done.stdout
