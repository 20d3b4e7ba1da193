"""The registered operators: schema, shapes, gradients, compilation, and a second copy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import mirage_core
from mirage_core.errors import ShapeError
from mirage_core.ops import registration
from mirage_core.ops.kernels import BlockTensors
from mirage_core.ops.operators import gather_rows, read_tokens, run_bounds, splat_keys
from mirage_core.ops.registration import operator
from mirage_core.ops.splat import EMPTY_KEY, point_bounds, splat, winners
from readout_cases import cloud, memory, noise, views

SIZE = (7, 12)


@pytest.fixture
def held() -> BlockTensors:
    return memory([cloud("random", 300), cloud("around", 1), cloud("random", 90, seed=9)])


@pytest.fixture
def projection() -> torch.Tensor:
    return views(3, *SIZE)


def with_grad(held: BlockTensors) -> BlockTensors:
    return held._replace(tokens=[rows.float().requires_grad_() for rows in held.tokens])


def arguments(held: BlockTensors, projection: torch.Tensor, dtype: torch.dtype) -> tuple:
    lists = (list(held.points), list(held.bounds), list(held.tokens), list(held.scales))
    return (*lists, projection, *SIZE, 48, dtype, False)


def read_all(held: BlockTensors, projection: torch.Tensor, dtype=torch.float32):
    return read_tokens(held, projection, SIZE, channels=48, dtype=dtype, nearest_centre=False)


@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck_of_the_readout(held, projection, gradient: bool) -> None:
    held = with_grad(held) if gradient else held
    torch.library.opcheck(operator("readout"), arguments(held, projection, held.tokens[0].dtype))


def test_opcheck_of_int8(projection) -> None:
    held = memory([cloud("random", 300)], torch.int8)
    torch.library.opcheck(operator("readout"), arguments(held, projection, torch.float16))


def test_opcheck_of_the_others(held, projection) -> None:
    points, boxes = list(held.points), list(held.bounds)
    torch.library.opcheck(operator("splat"), (points, boxes, projection, *SIZE, True))
    torch.library.opcheck(operator("bounds"), (points[0],))
    rows = [noise(n, 2, 3).requires_grad_() for n in (4, 6)]
    index = torch.tensor([[0, 9], [-1, 4]])
    torch.library.opcheck(operator("gather"), (rows, index))
    torch.library.opcheck(operator("scatter"), (noise(5, 3), torch.tensor([1, -1, 0, 1, 2]), 4))


def test_compiles_as_one_graph(held, projection) -> None:
    held = with_grad(held)

    def step(tokens: list[torch.Tensor], matrices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = read_all(held._replace(tokens=tokens), matrices * 1.0)
        mean = torch.where(made[1], made[0].mean(dim=0), 0.0)
        return mean + made[2], made[3]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, index = step(held.tokens, projection)
    found, same = compiled(held.tokens, projection)
    assert torch.equal(found, expected)
    assert torch.equal(same, index)
    wanted = torch.autograd.grad(expected.sum(), held.tokens)
    given = torch.autograd.grad(found.sum(), held.tokens)
    assert all(torch.equal(a, b) for a, b in zip(wanted, given, strict=True))

    def keys(matrices: torch.Tensor) -> torch.Tensor:
        return splat_keys(held, matrices, SIZE, nearest_centre=True) + 1

    assert torch.equal(
        torch.compile(keys, fullgraph=True, backend="aot_eager")(projection), keys(projection)
    )


def test_gradient_is_the_sum_over_all_cells_that_a_point_wins(held, projection) -> None:
    held = with_grad(held)
    tokens, visible, depth, winner = read_all(held, projection)
    assert not (visible.requires_grad or depth.requires_grad or winner.requires_grad)
    weight = noise(*tokens.shape, seed=4)
    (tokens * weight).sum().backward()
    expected = torch.zeros(391, 48)
    for view, row, column in visible.nonzero().tolist():
        expected[winner[view, row, column]] += weight[:, view, row, column]
    assert winner[visible].bincount().max() >= 2
    found = torch.cat([rows.grad for rows in held.tokens])
    assert torch.allclose(found, expected, atol=1e-5)


def test_gradient_has_the_type_of_the_tokens(held, projection) -> None:
    held = held._replace(tokens=[rows.requires_grad_() for rows in held.tokens])
    tokens = read_all(held, projection, torch.bfloat16)[0]
    tokens.sum().backward()
    assert {rows.grad.dtype for rows in held.tokens} == {torch.bfloat16}


def test_gathering_is_differentiable() -> None:
    rows = [noise(n, 2, 2).double().requires_grad_() for n in (3, 0, 4)]
    index = torch.tensor([[6, 0, 0], [-1, 2, 6]])
    weight = noise(2, 3, 2, 2).double()
    (gather_rows(rows, index) * weight).sum().backward()
    every = torch.cat([part.detach() for part in rows]).requires_grad_()
    (torch.where(index[..., None, None] >= 0, every[index], 0) * weight).sum().backward()
    found = torch.cat([part.grad for part in rows])
    # Sums are made in float32.
    assert torch.allclose(found, every.grad, rtol=1e-6)


def test_blocks_are_numbered_through(held, projection) -> None:
    joined = torch.cat(list(held.points))
    keys = torch.full((3, SIZE[0] * SIZE[1]), EMPTY_KEY)
    splat(keys, joined, point_bounds(joined), projection, height=SIZE[0], width=SIZE[1])
    assert torch.equal(splat_keys(held, projection, SIZE, nearest_centre=False), keys)
    _, visible, depth, winner = read_all(held, projection, torch.bfloat16)
    assert torch.equal(winner.flatten(), winners(keys)[0].flatten())
    assert torch.equal(depth.flatten(), winners(keys)[1].flatten())
    assert torch.equal(visible, winner >= 0)


def test_boxes_through_the_operator() -> None:
    points = cloud("not numbers", 1100)
    assert torch.equal(run_bounds(points), point_bounds(points))


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held._replace(tokens=held.tokens[:2]),
        lambda held: held._replace(tokens=[rows[:-1] for rows in held.tokens]),
        lambda held: held._replace(tokens=[rows[:, :40] for rows in held.tokens]),
        lambda held: held._replace(tokens=[held.tokens[0].float(), *held.tokens[1:]]),
        lambda held: held._replace(tokens=[rows.to(torch.int8) for rows in held.tokens]),
        lambda held: held._replace(scales=[torch.ones(300)]),
        lambda held: held._replace(bounds=[boxes[:0] for boxes in held.bounds]),
        lambda held: held._replace(points=[points[:, :2] for points in held.points]),
    ],
    ids=["count", "rows", "channels", "types", "scales", "spare scale", "boxes", "points"],
)
def test_memories_that_do_not_fit_together_are_refused(held, projection, change) -> None:
    with pytest.raises(ShapeError):
        read_all(change(held), projection, torch.bfloat16)


def test_devices_must_agree(held, projection) -> None:
    with pytest.raises(ShapeError, match="devices"):
        read_all(held, projection.to("meta"), torch.bfloat16)


def test_a_second_copy_of_the_library_changes_nothing(held, projection) -> None:
    """ComfyUI may hold the pack twice, under two names."""
    before = read_all(held, projection, torch.bfloat16)
    folder = Path(mirage_core.__file__).parent
    spec = importlib.util.spec_from_file_location(
        "second_mirage", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    second = importlib.util.module_from_spec(spec)
    sys.modules["second_mirage"] = second
    try:
        spec.loader.exec_module(second)
        copy = importlib.import_module("second_mirage.ops.operators")
        copied = importlib.import_module("second_mirage.ops.registration")
        assert copied is not registration
        assert copied._register() is None
        assert registration._register() is None
        for read in (copy.read_tokens, read_tokens):
            again = read(
                held, projection, SIZE, channels=48, dtype=torch.bfloat16, nearest_centre=False
            )
            assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
    finally:
        for name in [name for name in sys.modules if name.startswith("second_mirage")]:
            del sys.modules[name]
    assert torch.equal(read_all(held, projection, torch.bfloat16)[0], before[0])
