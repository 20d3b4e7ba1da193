"""The CUDA kernels, from their unmodified source, on the CPU: bit for bit as in torch.

``emulation/emulator.cpp`` runs each CUDA thread as a fiber, in a random order.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.ops import gather as reference
from mirage_core.ops import kernels, registration
from mirage_core.ops.backend import Backend
from mirage_core.ops.best_view import BestView, best_view
from mirage_core.ops.driver import KERNELS
from mirage_core.ops.kernels import BlockTensors, Grid
from mirage_core.ops.nvrtc import SOURCE
from mirage_core.ops.splat import BOUNDS_RUN, EMPTY_KEY, point_bounds, winners
from readout_cases import CLOUDS, cloud, memory, noise, same_bits, seen_by, viewers, views

pytestmark = pytest.mark.compiler

EMULATOR = Path(__file__).parent / "emulation" / "emulator.cpp"
HEIGHT, WIDTH, VIEWS = 11, 18, 3


class EmulatedLauncher:
    """In the place of the driver: runs each kernel to its end."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.launched: list[str] = []

    def __call__(self, kernel, grid, threads, arguments) -> None:
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        assert self.library.emulate(kernel.encode(), *grid, threads, places), kernel
        self.launched.append(kernel)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> EmulatedLauncher:
    if sys.platform == "win32":
        pytest.skip("needs ucontext.h, which Windows does not have")
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler: install g++ or clang++")
    library = tmp_path_factory.mktemp("emulator") / "emulator.so"
    command = [
        compiler, "-O2", "-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-shared",
        "-fPIC", "-w", f'-DKERNEL_SOURCE="{SOURCE}"', "-o", str(library), str(EMULATOR),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return EmulatedLauncher(library)


@pytest.fixture
def launch(built: EmulatedLauncher) -> EmulatedLauncher:
    built.launched.clear()
    return built


def both(
    launch, held: BlockTensors, projection: Tensor, size: tuple[int, int], nearest: bool,
    dtype: torch.dtype, fused: bool, channels: int = 48,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    """What the kernels and what torch make of the same memory."""
    found = kernels.readout(
        launch, held, projection, Grid(*size, nearest), channels, dtype, fused=fused
    )
    expected = reference.readout(*held, projection, *size, channels, dtype, nearest)
    return found, expected


FUSED = pytest.mark.parametrize("fused", [False, True], ids=["two passes", "fused"])
NEAREST = pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])


@FUSED
@NEAREST
@pytest.mark.parametrize("name", CLOUDS)
def test_hostile_clouds(launch, name: str, nearest: bool, fused: bool) -> None:
    held = memory([cloud(name, 1300)])
    projection = views(VIEWS, HEIGHT, WIDTH)
    found, expected = both(
        launch, held, projection, (HEIGHT, WIDTH), nearest, torch.bfloat16, fused
    )
    assert same_bits(found, expected)
    assert bool(found[1].any()) == (name not in ("behind", "empty"))
    assert ("mirage_fused" in launch.launched) == fused


RULES = {
    "default": BestView(),
    "wide": BestView(band=0.5, limit=0.5),
    "no band": BestView(band=0.0, lean=0.0, limit=0.0),
    "fine bins": BestView(bin=0.001, coarser=3.0, finer=2.0),
}


@NEAREST
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLOUDS)
def test_best_views_of_hostile_clouds(launch, name: str, rule: str, nearest: bool) -> None:
    """Several blocks, some of them empty, and every view of them."""
    parts = [cloud(name, count, seed=count) for count in (700, 0, 1, 513)]
    if name == "random":
        parts[0][::3] = parts[3][0]
    seen = seen_by(parts)
    seen.slope[0][::50] = torch.nan
    seen.observers[3][1, :3] = torch.inf
    seen.observers[0][2, :3] = parts[0][0] if len(parts[0]) else 0.0
    projection = views(VIEWS, HEIGHT, WIDTH)
    boxes = [point_bounds(part) for part in parts]
    found = kernels.best_view(
        launch, BlockTensors(parts, boxes), seen, projection, viewers(projection),
        Grid(HEIGHT, WIDTH, nearest), RULES[rule].numbers,
    )  # fmt: skip
    expected = best_view(
        parts, boxes, *seen, projection, viewers(projection), HEIGHT, WIDTH, RULES[rule].numbers,
        nearest,
    )  # fmt: skip
    assert same_bits(found, expected)
    keys = reference.splat_keys(parts, boxes, projection, HEIGHT, WIDTH, nearest)
    assert torch.equal(expected[0] >= 0, keys != EMPTY_KEY)
    if rule == "no band":
        assert torch.equal(winners(keys)[1], expected[1])


@FUSED
@pytest.mark.parametrize("channels", [48, 5])
@pytest.mark.parametrize(
    ("stored", "read"),
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
def test_token_types(launch, stored, read, channels: int, fused: bool) -> None:
    """Rows that consist of pieces of 16 bytes, and rows that do not."""
    held = memory([cloud("random", 700), cloud("random", 300, seed=4)], stored, channels)
    projection = views(VIEWS, HEIGHT, WIDTH)
    found, expected = both(launch, held, projection, (HEIGHT, WIDTH), False, read, fused, channels)
    assert found[0].dtype == read
    assert same_bits(found, expected)
    if stored == torch.int8:
        wide = held._replace(scales=[scale.float() for scale in held.scales])
        again, _ = both(launch, wide, projection, (HEIGHT, WIDTH), False, read, fused, channels)
        assert same_bits(again, expected)


@FUSED
@NEAREST
def test_blocks_and_layouts(launch, nearest: bool, fused: bool) -> None:
    """Many blocks, empty ones and single points; axes far apart, rows that are not aligned."""
    lengths = [0, 600, 1, 0, 513, 512, 3, 40, 0]
    parts = [cloud("around", n, seed=n) for n in lengths] + [cloud("ties", 700)] * 2
    parts[1] = parts[1].contiguous()
    parts[4] = torch.cat([parts[4], parts[4]]).T.contiguous().T[: len(parts[4])]
    held = memory(parts, torch.float16)
    held.tokens[1] = torch.cat([torch.zeros(1), noise(600 * 48)]).half()[1:].view(600, 48)
    held.tokens[4] = noise(513, 96).half()[:, ::2]
    found, expected = both(
        launch, held, views(VIEWS, HEIGHT, WIDTH), (HEIGHT, WIDTH), nearest, torch.float16, fused
    )
    assert same_bits(found, expected)
    owners = torch.bucketize(found[3][found[1]], torch.tensor(lengths).cumsum(0), right=True)
    assert {1, 4, 5} <= set(owners.tolist())


def test_a_hundred_blocks_take_two_launches_to_describe(launch) -> None:
    parts = [cloud("around", 37 + number % 3, seed=number) for number in range(100)]
    found, expected = both(
        launch, memory(parts), views(2, HEIGHT, WIDTH), (HEIGHT, WIDTH), False, torch.bfloat16,
        False,
    )  # fmt: skip
    assert same_bits(found, expected)
    assert launch.launched == ["mirage_prepare"] * 2 + ["mirage_splat", "mirage_resolve"]


@FUSED
@pytest.mark.parametrize("size", [(1, 1), (30, 50), (5, 340), (44, 80), (3, 512)], ids=str)
def test_grids(launch, size: tuple[int, int], fused: bool) -> None:
    held = memory([cloud("random", 900)])
    found, expected = both(launch, held, views(2, *size), size, True, torch.bfloat16, fused)
    assert same_bits(found, expected)


@pytest.mark.parametrize("count", [0, 1, 32, 33, 70])
def test_any_number_of_views(launch, count: int) -> None:
    held = memory([cloud("around", 600)])
    found, expected = both(launch, held, views(count, 6, 9), (6, 9), False, torch.bfloat16, False)
    assert same_bits(found, expected)
    assert len(found[3]) == count


@FUSED
@NEAREST
def test_borders_of_cells(launch, nearest: bool, fused: bool) -> None:
    """Exactly half way, exactly on the border, and the next numbers on either side."""
    halves = torch.arange(-3, 2 * WIDTH + 3) / 2
    around = [halves, halves.nextafter(torch.tensor(-9.0)), halves.nextafter(torch.tensor(99.0))]
    u, v = torch.cartesian_prod(torch.cat(around), torch.arange(-3, 2 * HEIGHT + 3) / 2).unbind(1)
    points = torch.stack([u, v, torch.ones(len(u))], dim=1)
    order = torch.randperm(len(u), generator=torch.Generator().manual_seed(0))
    held = memory([points[order]], channels=8)
    found, expected = both(
        launch, held, torch.eye(3, 4)[None], (HEIGHT, WIDTH), nearest, torch.bfloat16, fused, 8
    )
    assert same_bits(found, expected)
    assert bool(found[1].all())


@FUSED
def test_no_block_at_all(launch, fused: bool) -> None:
    found, expected = both(
        launch, BlockTensors((), ()), views(2, 6, 9), (6, 9), False, torch.float32, fused, 7
    )
    assert same_bits(found, expected)


def test_culling_leaves_nothing_out(launch) -> None:
    """Runs down to single points, so that no neighbour keeps a box in view."""
    size, count = (6, 9), 60 * BOUNDS_RUN
    runs = torch.arange(count) // BOUNDS_RUN
    for scale in (1e-6, 1.0, 1e6):
        corner = 2 * noise(60, 3, seed=1)[runs]
        points = (scale * corner).T.contiguous().T
        projection = views(2, *size, reach=1)
        projection[:, :, 3] *= scale
        held = memory([points], channels=8)
        found, expected = both(launch, held, projection, size, True, torch.bfloat16, False, 8)
        assert same_bits(found, expected)
        assert bool(found[1].any())


def test_boxes(launch) -> None:
    for count in (0, 1, BOUNDS_RUN, 3 * BOUNDS_RUN + 5):
        points = cloud("not numbers", count)
        assert torch.equal(kernels.bounds(launch, points), point_bounds(points))
    nowhere = torch.full((5, 3), torch.nan)
    assert torch.equal(kernels.bounds(launch, nowhere), point_bounds(nowhere))


def test_every_half_as_a_scale(launch) -> None:
    """All 65,536 scales: subnormal ones, infinite ones, products that overflow."""
    side = 256
    index = torch.arange(side * side)
    points = torch.stack([index % side + 0.5, index // side + 0.5, torch.ones(side * side)], 1)
    scale = index.to(torch.int32).sub(32768).to(torch.int16).view(torch.float16)
    tokens = torch.randint(-128, 128, (side * side, 4), dtype=torch.int8)
    held = BlockTensors([points], [point_bounds(points)], [tokens], [scale])
    projection = torch.eye(3, 4)[None]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found, expected = both(launch, held, projection, (side, side), False, dtype, False, 4)
        assert bool(found[1].all())
        assert torch.equal(found[0].isnan(), expected[0].isnan())
        assert same_bits((found[0].nan_to_num(7.0),), (expected[0].nan_to_num(7.0),))


@pytest.mark.parametrize(
    "make_rows",
    [
        lambda n: cloud("random", n),
        lambda n: noise(n, 3),
        lambda n: torch.arange(n, dtype=torch.int32),
        lambda n: noise(n, 2).half(),
        lambda n: noise(n, 2, 4).double(),
        lambda n: noise(n, 5) > 0,
        lambda n: torch.arange(n) * 10**12,
    ],
    ids=["by axis", "by row", "int32", "half", "double", "bool", "int64"],
)
def test_gathering(launch, make_rows) -> None:
    rows = [make_rows(n) for n in (40, 0, 1, 30)]
    index = torch.randint(-2, 71, (4, 9))
    found = kernels.gather(launch, rows, index)
    assert torch.equal(found, reference.gather(rows, index))
    assert kernels.gather(launch, rows, index[:0]).shape[:2] == (0, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("planes", [False, True], ids=["rows", "planes"])
def test_scattering(launch, dtype, planes: bool) -> None:
    """Whole numbers, whose sums do not depend on the order; many cells to one row."""
    gradient = torch.randint(-8, 9, (6, 50) if planes else (50, 6)).to(dtype)
    gradient = gradient.T if planes else gradient
    index = torch.randint(-1, 9, (50,))
    found = kernels.scatter(launch, gradient, index, 12)
    assert torch.equal(found, reference.scatter(gradient, index, 12))
    assert bool(found.any())
    assert kernels.scatter(launch, gradient, torch.full((50,), -1), 0).shape == (0, 6)


def test_the_operators_reach_the_kernels(launch, monkeypatch) -> None:
    """What is registered for CUDA, with the emulated launcher for a device."""
    monkeypatch.setattr(registration, "backend", lambda index: Backend(launch))
    held = memory([cloud("random", 300)])
    projection = views(2, 6, 9)
    made = registration._CUDA["readout"](*held, projection, 6, 9, 48, torch.bfloat16, False)
    assert same_bits(made, reference.readout(*held, projection, 6, 9, 48, torch.bfloat16, False))
    points, boxes = held.points, held.bounds
    keys = registration._CUDA["splat"](points, boxes, projection, 6, 9, True)
    assert torch.equal(keys, reference.splat_keys(points, boxes, projection, 6, 9, True))
    assert torch.equal(registration._CUDA["bounds"](points[0]), boxes[0])
    seen, rule = seen_by(points), BestView().numbers
    shown = registration._CUDA["best_view"](
        points, boxes, *seen, projection, viewers(projection), 6, 9, rule, False
    )
    expected = best_view(points, boxes, *seen, projection, viewers(projection), 6, 9, rule, False)
    assert same_bits(shown, expected)
    index = torch.tensor([5, -1, 299, 5])
    rows = registration._CUDA["gather"](held.tokens, index)
    assert torch.equal(rows, reference.gather(held.tokens, index))
    summed = registration._CUDA["scatter"](rows.float(), index, 300)
    assert torch.equal(summed, reference.scatter(rows.float(), index, 300))
    assert set(launch.launched) == set(KERNELS) - {"mirage_resolve"}


def test_without_a_launcher_torch_does_the_work(monkeypatch) -> None:
    monkeypatch.setattr(registration, "backend", lambda index: Backend(None, "a reason"))
    held = memory([cloud("random", 300)])
    projection = views(2, 6, 9)
    made = registration._CUDA["readout"](*held, projection, 6, 9, 48, torch.bfloat16, False)
    assert bool(made[1].any())
    assert torch.equal(registration._CUDA["bounds"](held.points[0]), held.bounds[0])
    keys = registration._CUDA["splat"](held.points, held.bounds, projection, 6, 9, True)
    assert keys.shape == (2, 54)
    index, _ = registration._CUDA["best_view"](
        held.points, held.bounds, *seen_by(held.points), projection, viewers(projection), 6, 9,
        BestView().numbers, True,
    )  # fmt: skip
    assert index.shape == (2, 54)
    rows = registration._CUDA["gather"](held.tokens, torch.tensor([1]))
    assert registration._CUDA["scatter"](rows, torch.tensor([1]), 2).shape == (2, 48)


def test_small_memories_take_one_launch(launch) -> None:
    projection = views(1, 6, 9)
    for held, expected in (
        (memory([cloud("random", 300)] * 16, channels=8), True),
        (memory([cloud("random", 300)] * 17, channels=8), False),
        (memory([cloud("random", kernels.FUSED_POINTS + 1)], channels=8), False),
    ):
        launch.launched.clear()
        kernels.readout(launch, held, projection, Grid(6, 9, 0), 8, torch.bfloat16)
        assert (launch.launched == ["mirage_fused"]) == expected


def test_source_and_host_agree() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    values = dict(re.findall(r"#define (\w+) (\d+)\b", text))
    for name, value in values.items():
        if hasattr(kernels, name):
            assert getattr(kernels, name) == int(value), name
    assert {"BOUNDS_RUN", "TABLE_BLOCKS", "FUSED_BLOCKS", "VIEW_GROUP"} <= values.keys()
    assert tuple(re.findall(r'extern "C" __global__ .*?(mirage_\w+)\(', text, re.S)) == KERNELS
    # Arguments of a kernel, the block table among them, take at most 4 KB.
    assert ctypes.sizeof(kernels.Table) + 32 <= 4096
    assert "#include" not in text
