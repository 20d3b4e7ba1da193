"""How the programs of the readout measure: one clock for calls and for replays of CUDA graphs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from readout_cpu import GRID, HEIGHT, WIDTH, grid_lens, pose
from torch import Tensor

from mirage_core.constants import LATENT_CHANNELS
from mirage_core.geometry.camera import projection_matrices
from mirage_core.geometry.transform import invert_rigid
from mirage_core.ops.kernels import BlockTensors
from mirage_core.ops.operators import read_tokens

VIEWS = 9
AHEAD_CYCLES = 400_000
"""Clock cycles that the GPU waits before a replay, so that the replay is queued by then."""


@dataclass(frozen=True)
class Plan:
    """What to measure: all of it on a GPU, a little of everything with ``--small``."""

    device: torch.device
    small: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def steps(self) -> tuple[int, ...]:
        return (1, 3) if self.small else (1, 10, 100, 1000)

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1, 2) if self.small else (1, 2, 5, 10, 20, 50, 100)

    @property
    def picture(self) -> tuple[int, int]:
        return (64, 96) if self.small else (HEIGHT, WIDTH)

    @property
    def frames(self) -> int:
        return 5 if self.small else 33

    @property
    def runs(self) -> int:
        return 3 if self.small else 30


def time_call(plan: Plan, call: Callable[[], object], *, queued: bool = False) -> float:
    """Microseconds of one call: of events on a GPU, of the wall on a CPU.

    ``queued`` keeps the GPU waiting until the call is queued behind the first event: what the
    host takes to queue it does not count then, and all that the GPU takes does.
    """
    if not plan.cuda:
        start = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if queued:
        torch.cuda._sleep(AHEAD_CYCLES)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end)


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    numbers = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, 2) for name, value in numbers.items()}


def rotate(
    plan: Plan, calls: list[Callable[[], object]], runs: int, *, queued: bool = False
) -> list[float]:
    """Microseconds of ``runs`` calls, taken in turn, after one round of warming up."""
    for call in calls:
        call()
    return [time_call(plan, calls[number % len(calls)], queued=queued) for number in range(runs)]


def captured(plan: Plan, calls: list[Callable[[], object]]) -> list[Callable[[], object]]:
    """Each call as the replay of a CUDA graph; on a CPU the call itself."""
    if not plan.cuda:
        return calls
    replays = []
    for call in calls:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # Graphs own their outputs: the last reference may go.
            call()
        replays.append(graph.replay)
    return replays


def cameras(shift: int, size: tuple[int, int], count: int, stride: int = 1) -> Tensor:
    """(count, 3, 4) projections of the views that go on with the walk, ``shift`` steps later."""
    poses = torch.stack([pose(1000 + (shift + n) // stride) for n in range(count)])
    return projection_matrices(invert_rigid(poses), grid_lens(size).expand(count, 3, 3))


def copies(plan: Plan, held: BlockTensors) -> list[BlockTensors]:
    """So many copies that the GPU's cache holds no part of one when it is read again."""
    size = sum(part.nbytes for parts in held for part in parts)
    cache = torch.cuda.get_device_properties(0).L2_cache_size if plan.cuda else 0
    count = min(64, max(3, math.ceil(2 * cache / max(1, size))))
    return [
        BlockTensors(
            [part.T.clone().T for part in held.points],
            *([part.clone() for part in parts] for parts in held[1:]),
        )
        for _ in range(count)
    ]


def reads(
    held: list[BlockTensors], views: list[Tensor], size: tuple[int, int] = GRID
) -> list[Callable[[], object]]:
    """One call per memory, each with cameras of its own; tokens as they are stored."""

    def call(memory: BlockTensors, view: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: read_tokens(
            memory, view, size, channels=LATENT_CHANNELS, dtype=memory.tokens[0].dtype,
            nearest_centre=False,
        )  # fmt: skip

    return [call(memory, views[n % len(views)]) for n, memory in enumerate(held)]
