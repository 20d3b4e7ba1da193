"""The CUDA readout beside its byte floor, the released algorithm and an RGB memory: one JSON.

Reads 9 views of 44 x 80 cells with 48 bfloat16 channels. Times are medians of CUDA events around
the replay of a CUDA graph that holds one read; inputs rotate, so that none is still in a cache
of the GPU. The replay is queued before the GPU comes to it; the same replay on an idle GPU, the
plain call, and the released algorithm in the same process stand beside it.

The RGB memory holds the same frames at pixel resolution. Its cost is the z-buffer over its
points, by the same kernels, and the Wan2.2 VAE's encoder on the 33 frames drawn.

Last comes the memory of the default write policy on a walk of a hundred chunks, as in
``memory.py``: its read after chunk 100 beside that after chunk 10.

``--save FOLDER`` keeps JSON and plot. ``python benchmarks/readout_gpu.py --device cpu --small``
runs every part on the CPU, in torch.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from _readout_growth import growth
from _readout_rgb import against_rgb
from _readout_timing import VIEWS, Plan, cameras, captured, copies, reads, rotate, spread
from readout_cpu import GRID, grid_lens, pose, processor, read_as_released, walk
from torch import Tensor

from mirage_core.cache.footprints import viewers
from mirage_core.constants import LATENT_CHANNELS
from mirage_core.ops import gather as reference
from mirage_core.ops import kernels
from mirage_core.ops.backend import backend
from mirage_core.ops.best_view import BestView, Seen
from mirage_core.ops.kernels import BlockTensors, Grid
from mirage_core.ops.operators import best_winners, run_bounds, splat_keys

TARGETS_US = {3_520: 20.0, 352_000: 25.0, 3_520_000: 60.0}
BEST_VIEW_US = {3_520: 30.0, 352_000: 40.0, 3_520_000: 100.0}
TARGET_RATIO, TARGET_RATIO_FROM = 100.0, 35_200


def copy_bandwidth(plan: Plan) -> float:
    """Bytes per microsecond of a copy on the device, read and written counted."""
    size = 1 << (22 if plan.small else 31)
    source = torch.zeros(size, dtype=torch.uint8, device=plan.device)
    target = torch.empty_like(source)
    times = rotate(plan, [lambda: target.copy_(source)], plan.runs, queued=True)
    return 2 * source.numel() / statistics.median(times)


def latent_memory(plan: Plan, steps: int, blocks: int = 1) -> BlockTensors:
    """The last steps of the walk, bfloat16, cut into blocks of equal numbers of points."""
    block = walk(steps)[0].blocks[0]
    points = [part.T.contiguous().to(plan.device).T for part in block.points.chunk(blocks)]
    tokens = [part.to(plan.device, torch.bfloat16) for part in block.tokens.chunk(blocks)]
    return BlockTensors(points, [run_bounds(part) for part in points], tokens, [])


def floor_bytes(points: int, visible: int) -> int:
    """Bytes that any implementation moves: points, z-buffer, winners' tokens, results."""
    cells, token = VIEWS * GRID[0] * GRID[1], 2 * LATENT_CHANNELS
    return 12 * points + 3 * 8 * cells + token * visible + cells * (token + 1 + 4 + 8)


def paths(plan: Plan, held: list[BlockTensors], views: list[Tensor]) -> dict[str, object]:
    """The two-pass and the fused path by themselves, to see where they cross."""
    launch = backend(0).launcher if plan.cuda else None
    if launch is None or sum(map(len, held[0].points)) > 100_000:
        return {}

    def call(memory: BlockTensors, view: Tensor, fused: bool) -> Callable[[], tuple[Tensor, ...]]:
        grid = Grid(*GRID, 0)
        return lambda: kernels.readout(
            launch, memory, view, grid, LATENT_CHANNELS, torch.bfloat16, fused=fused
        )

    found: dict[str, object] = {}
    for name, fused in (("two_passes_us", False), ("fused_us", True)):
        calls = [call(memory, views[n % len(views)], fused) for n, memory in enumerate(held)]
        found[name] = spread(rotate(plan, captured(plan, calls), plan.runs, queued=True))
    return found


def best_views(
    plan: Plan, steps: int, blocks: int, held: list[BlockTensors], views: list[Tensor]
) -> dict[str, object]:
    """The z-buffer by best views, beside that of the nearest points; without the tokens."""
    block = walk(steps)[0].blocks[0]
    observers = viewers(block.world_to_camera, block.intrinsics, plan.device)
    source, slope = (rows.to(plan.device).chunk(blocks) for rows in (block.source, block.slope))
    seen = Seen(source, slope, [observers] * len(source))
    place = torch.stack([pose(1000 + n)[:3, 3] for n in range(VIEWS)]).float()
    focal = torch.full((VIEWS, 1), float(grid_lens()[0, 0]))
    eyes = torch.cat([place, focal], dim=1).to(plan.device)

    def call(memory: BlockTensors, view: Tensor) -> Callable[[], object]:
        return lambda: best_winners(
            memory._replace(tokens=(), scales=()), seen, view, eyes, GRID,
            rule=BestView(), nearest_centre=False,
        )  # fmt: skip

    def nearest(memory: BlockTensors, view: Tensor) -> Callable[[], object]:
        return lambda: splat_keys(
            memory._replace(tokens=(), scales=()), view, GRID, nearest_centre=False
        )

    found: dict[str, object] = {}
    for name, way in (("nearest_winners_us", nearest), ("best_view_winners_us", call)):
        calls = [way(memory, views[n % len(views)]) for n, memory in enumerate(held)]
        found[name] = spread(rotate(plan, captured(plan, calls), plan.runs, queued=True))
    return found


def measure(plan: Plan, steps: int, blocks: int, bandwidth: float) -> dict[str, Any]:
    """One size of memory."""
    memory = latent_memory(plan, steps, blocks)
    views = [cameras(shift, GRID, VIEWS).to(plan.device) for shift in range(8)]
    held = copies(plan, memory)
    calls = reads(held, views)
    replays = captured(plan, calls)
    replay = rotate(plan, replays, plan.runs, queued=True)
    idle = rotate(plan, replays, plan.runs)
    plain = rotate(plan, calls, plan.runs)
    poses = torch.stack([pose(1000 + n) for n in range(VIEWS)]).float().to(plan.device)
    points, tokens = torch.cat(list(memory.points)), torch.cat(list(memory.tokens))
    lens = grid_lens().float().to(plan.device)
    old = rotate(plan, [lambda: read_as_released(points, tokens, poses, lens)], min(plan.runs, 10))
    made = calls[0]()
    here = BlockTensors(*([part.cpu() for part in parts] for parts in memory))
    wanted = reference.readout(*here, views[0].cpu(), *GRID, LATENT_CHANNELS, torch.bfloat16, False)
    count, us = len(points), statistics.median(replay)
    floor = floor_bytes(count, int(wanted[1].sum())) / bandwidth
    return {
        "points": count,
        "blocks": blocks,
        "same_bits_as_torch_on_the_cpu": all(
            torch.equal(a.cpu(), b) for a, b in zip(made, wanted, strict=True)
        ),
        "replay_us": spread(replay),
        "replay_on_an_idle_gpu_us": spread(idle),
        "call_us": spread(plain),
        "released_us": spread(old),
        "ratio_released_to_replay": round(statistics.median(old) / us, 1),
        "ratio_released_to_call": round(statistics.median(old) / statistics.median(plain), 1),
        "floor_us": round(floor, 2),
        "share_of_copy_bandwidth": round(floor / us, 3),
        **paths(plan, held, views),
        **best_views(plan, steps, blocks, held, views),
    }


def targets(sizes: list[dict[str, Any]], grown: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed for on an H200, and what was found."""
    rows: list[tuple[str, float, float, bool]] = []
    for size in sizes:
        count, found = size["points"], size["replay_us"]["median"]
        name = f"{count} points in {size['blocks']} blocks"
        if count in TARGETS_US:
            rows.append(
                (f"{name}, us at most", TARGETS_US[count], found, found <= TARGETS_US[count])
            )
            best = size["best_view_winners_us"]["median"]
            aim = BEST_VIEW_US[count]
            rows.append((f"{name}, best views, us at most", aim, best, best <= aim))
        if count >= TARGET_RATIO_FROM:
            ratio = size["ratio_released_to_replay"]
            rows.append((f"{name}, times as fast", TARGET_RATIO, ratio, ratio >= TARGET_RATIO))
    for name, limit in grown["at_most"].items():
        rows.append((f"last read over first, {name}", limit, grown[name], grown[name] <= limit))
    return [
        {"name": name, "aim": aim, "found": found, "met": met} for name, aim, found, met in rows
    ]


def machine(plan: Plan) -> dict[str, object]:
    """What this ran on."""
    found: dict[str, object] = {"cpu": processor(), "system": platform.system()}
    if plan.cuda:
        facts = torch.cuda.get_device_properties(0)
        found |= {"gpu": facts.name, "gpu_memory_gib": round(facts.total_memory / 2**30, 1)}
        chosen = backend(0)
        found["path"] = "CUDA kernels" if chosen.launcher else f"torch: {chosen.reason}"
    return found


def measured(plan: Plan, with_rgb: bool) -> dict[str, Any]:
    """The report."""
    with torch.inference_mode():
        bandwidth = copy_bandwidth(plan)
        pairs = [(steps, blocks) for steps in plan.steps for blocks in (1, min(steps, 100))]
        sizes = [measure(plan, *pair, bandwidth) for pair in dict.fromkeys(pairs)]
        grown = growth(plan)
        rgb = against_rgb(plan) if with_rgb else None
    return {
        "benchmark": "readout of 9 views of 44 x 80 cells, 48 channels bfloat16",
        "date": date.today().isoformat(),
        "machine": machine(plan),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "small": plan.small,
        "copy_bandwidth_tb_s": round(bandwidth / 1e6, 3),
        "sizes": sizes,
        "as_the_memory_grows": grown,
        "against_rgb": rgb,
        "targets": targets(sizes, grown),
    }


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="little of everything, as a check")
    parser.add_argument("--no-rgb", action="store_true", help="leave the RGB memory out")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep JSON and plot there")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.stdout.write(json.dumps({"skipped": "needs a CUDA device"}) + "\n")
        return
    plan = Plan(torch.device(arguments.device, 0), arguments.small)
    if not plan.cuda:
        torch.set_num_threads(1)
    text = json.dumps(measured(plan, with_rgb=not arguments.no_rgb), indent=2)
    sys.stdout.write(text + "\n")
    if arguments.save:
        from _readout_plot import plot

        arguments.save.mkdir(parents=True, exist_ok=True)
        (arguments.save / "readout_gpu.json").write_text(text + "\n", encoding="utf-8")
        plot(json.loads(text), arguments.save / "readout_gpu.png")


if __name__ == "__main__":
    main()
