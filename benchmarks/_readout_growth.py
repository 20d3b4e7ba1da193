"""The memory of the default write policy as a walk goes on: is it read as fast at the end?"""

from __future__ import annotations

import statistics
from typing import Any

from _readout_timing import Plan, captured, copies, reads, rotate, spread
from _walk import Walk, grid_lens, make_walk, with_field
from memory import DEFAULT, POLICIES, chosen_views, written

from mirage_core.cache.types import LatentCache
from mirage_core.geometry.camera import projection_matrices
from mirage_core.ops.kernels import BlockTensors

SEED = 1
TARGET = 1.5
"""Most that the last read may take of the first one, for the same content of the views."""


def growth(plan: Plan) -> dict[str, Any]:
    """Reads after the first ten chunks and after the last.

    ``same_cameras`` reads both memories with one set of nine cameras. ``as_many_points_in_view``
    reads the last one with nine that see about as many points as those saw in the first.
    """
    chunks, width, height = (20, 96, 64) if plan.small else (100, 512, 288)
    walk = with_field(make_walk(SEED, chunks, width, height, revisits=1))
    run = written(walk, POLICIES[DEFAULT], keep=True)
    first, last = min(run.kept), max(run.kept)
    same, alike = chosen_views(run, walk)
    times = {
        "first": _times(plan, run.kept[first], walk, same),
        "same_cameras": _times(plan, run.kept[last], walk, same),
        "as_many_points_in_view": _times(plan, run.kept[last], walk, alike),
    }
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seed": SEED,
        "chunks": [first, last],
        "grid": list(walk.views.depth.shape[1:]),
        "points": [run.points[first - 1], run.points[last - 1]],
        "read_us": {name: spread(values) for name, values in times.items()},
        **{name: round(us / middle["first"], 2) for name, us in middle.items() if name != "first"},
        "at_most": {name: TARGET for name in middle if name != "first"},
    }


def _times(plan: Plan, cache: LatentCache, walk: Walk, views: list[int]) -> list[float]:
    """Microseconds of replays of a read by nine cameras of the walk."""
    size = (int(walk.views.depth.shape[1]), int(walk.views.depth.shape[2]))
    cameras = walk.views.cameras.select(views)
    lens = grid_lens(cameras, size)
    projection = projection_matrices(cameras.world_to_camera, lens).to(plan.device)
    blocks = cache.to(plan.device).blocks
    held = BlockTensors(
        [block.points for block in blocks],
        [block.bounds for block in blocks],
        [block.tokens for block in blocks],
    )
    calls = reads(copies(plan, held), [projection], size)
    return rotate(plan, captured(plan, calls), plan.runs, queued=True)
