"""A hundred chunks through a room: what each write policy remembers, and what it costs.

Prints one JSON object and, with ``--save``, keeps it in ``docs/benchmarks/memory_cpu.json`` with
a plot in ``docs/images/memory_policies.png``. ``python benchmarks/memory.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _memory_cost import pixel_memories, real_size
from _memory_policies import APPEND, DEFAULT, FIRST, POLICIES, VIEWS, WITH_CODEC, Policy
from _walk import PER_CHUNK, Views, Walk, grid_lens, make_walk, with_field
from readout_cpu import processor

from mirage_core.cache.accounting import footprint
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import CODEC_NAME
from mirage_core.geometry.camera import projection_matrices
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.ops.best_view import BestView
from mirage_core.readout.readout import read, read_winners
from mirage_core.writing.policy import WriteLimits, WriteRules, write

ROOT = Path(__file__).resolve().parents[1]
PEAK = 8.0
"""Square of the range of a token: twice the square root of two, as of a sine of unit variance."""

PHANTOM, SEE_THROUGH = 0.9, 1.1
"""Remembered depth relative to the truth from which a cell shows something in front, or behind."""

EVERY = 10
READS = 9

Scores = dict[str, dict[str, float]]
"""What `score` finds, by the names of `VIEWS`."""


@dataclass
class Run:
    """What one policy did on one walk."""

    points: list[int] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    kept: dict[int, LatentCache] = field(default_factory=dict)
    read_ms: dict[int, float] = field(default_factory=dict)
    in_view: dict[int, int] = field(default_factory=dict)
    same_cameras: float = 0.0
    same_content: float = 0.0
    alike_in_view: int = 0
    write_ms: list[float] = field(default_factory=list)
    upcoming: list[Scores] = field(default_factory=list)
    revisit: Scores = field(default_factory=dict)


def scores(cache: LatentCache, views: Views) -> Scores:
    """`score` of each way to look at a memory."""
    return {name: score(cache, views, view) for name, view in VIEWS.items()}


def score(cache: LatentCache, views: Views, view: BestView | None) -> dict[str, float]:
    """Holes, token PSNR on what is visible and on everything, phantoms and see-throughs."""
    size = (int(views.depth.shape[1]), int(views.depth.shape[2]))
    winner, depth = read_winners(
        cache, views.cameras.world_to_camera, grid_lens(views.cameras, size), size, view=view
    )
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks]).float()
    error = (tokens.permute(3, 0, 1, 2) - views.tokens).square().mean(dim=0)
    seen, ratio = winner >= 0, depth / views.depth
    shown = int(seen.sum())
    return {
        "holes": 1 - shown / seen.numel(),
        "psnr_visible": decibel(error[seen]),
        "psnr_all": decibel(error),
        "phantoms": int((seen & (ratio < PHANTOM)).sum()) / shown,
        "see_through": int((ratio > SEE_THROUGH).sum()) / shown,
    }


def decibel(error: torch.Tensor) -> float:
    return 10 * float(torch.log10(PEAK / error.mean()))


def selected(views: Views, part: slice) -> Views:
    return Views(views.cameras.select(part), views.tokens[:, part], views.depth[part])


def nine_views(walk: Walk, views: list[int]) -> Trajectory:
    """Nine latent frames of the walk, as the cameras of 33 pixel frames."""
    return walk.views.cameras.select([view for view in views for _ in range(4)][:33])


def points_in_view(cache: LatentCache, walk: Walk, views: list[int]) -> list[int]:
    """Points inside the frustum of each latent frame; hidden ones count too."""
    cameras = walk.views.cameras.select(views)
    height, width = (int(side) for side in walk.views.depth.shape[1:])
    points = torch.cat([block.points for block in cache.blocks])
    counts = []
    for matrix in projection_matrices(cameras.world_to_camera, grid_lens(cameras, (height, width))):
        x, y, z = (points @ matrix[:, :3].T + matrix[:, 3]).unbind(1)
        u, v = x / z, y / z
        counts.append(int(((z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)).sum()))
    return counts


def chosen_views(run: Run, walk: Walk) -> tuple[list[int], list[int]]:
    """Nine cameras of the first chunks, and nine that see no more of the last memory.

    The latter have about as many points of the last memory in view as the former had of the
    first one.
    """
    first, last = min(run.kept), max(run.kept)
    same = [1 + PER_CHUNK * view for view in range(9)]
    candidates = list(range(1, len(walk.views.cameras), 4))
    counts = points_in_view(run.kept[last], walk, candidates)
    alike = []
    for wanted in points_in_view(run.kept[first], walk, same):
        best = min(range(len(counts)), key=lambda number: abs(counts[number] - wanted))
        alike.append(candidates.pop(best))
        run.alike_in_view += counts.pop(best)
    return same, alike


def time_reads(run: Run, walk: Walk) -> None:
    """Read every kept memory in turn, so that all share the drift of the machine.

    The same nine cameras, of the first ten chunks, read all memories. The last memory is also
    read by nine cameras that have about as many points in view as those had after ten chunks.
    """
    first, last = min(run.kept), max(run.kept)
    same, alike = chosen_views(run, walk)
    run.in_view = {k: sum(points_in_view(cache, walk, same)) for k, cache in run.kept.items()}
    times: dict[int, list[float]] = {k: [] for k in (0, *run.kept)}
    for _ in range(READS):
        for k, cache in ((0, run.kept[last]), *run.kept.items()):
            cameras = nine_views(walk, same if k else alike)
            # Seconds of this thread, which do not count what else the machine does.
            start = time.thread_time()
            read(cache, cameras)
            times[k].append(1e3 * (time.thread_time() - start))
    run.read_ms = {k: statistics.median(times[k]) for k in run.kept}
    paired = list(zip(times[first], times[last], times[0], strict=True))
    run.same_cameras = statistics.median(late / early for early, late, _ in paired)
    run.same_content = statistics.median(late / early for early, _, late in paired)
    run.kept.clear()


def rollout(walk: Walk, policy: Policy, most: int = 0, timed: bool = True) -> Run:
    """Write all chunks of a walk, and measure on the way."""
    run = written(walk, policy, most, keep=timed)
    if timed:
        time_reads(run, walk)
    return run


def written(walk: Walk, policy: Policy, most: int = 0, *, keep: bool) -> Run:
    """Write all chunks of a walk; ``keep`` holds on to the memory of every tenth chunk."""
    rules, run = policy.rules, Run()
    if most:
        rules = WriteRules(rules.policy, rules.novelty, WriteLimits(most))
    cache = write(
        LatentCache(codec=CODEC_NAME), walk.observation(slice(0, 1), policy.drop_flying), rules
    ).to("cpu", policy.storage)
    for number in range(walk.chunks):
        part = walk.chunk(number)
        if number % EVERY == EVERY - 1:
            run.upcoming.append(scores(cache, selected(walk.views, part)))
        written = slice(part.stop - 1, part.stop) if policy.last_frame_only else part
        observation = walk.observation(written, policy.drop_flying)
        start = time.perf_counter()
        cache = write(cache, observation, rules)
        run.write_ms.append(1e3 * (time.perf_counter() - start))
        run.points.append(len(cache))
        run.mebibytes.append(footprint(cache).mebibytes)
        if keep and number % EVERY == EVERY - 1:
            run.kept[number + 1] = cache
    run.revisit = scores(cache, walk.revisits)
    return run


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: mean([row[key] for row in rows]) for key in rows[0]}


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


def quality(runs: list[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over the walks of what views show before they are written, and at the end."""
    return {
        name: {
            "next": rounded(means([means([s[name] for s in run.upcoming]) for run in runs])),
            "revisit": rounded(means([run.revisit[name] for run in runs])),
        }
        for name in VIEWS
    }


def gains(runs: list[Run], base: list[Run], view: str, base_view: str) -> dict[str, float]:
    """How many dB better revisits are, over the walks, on what each memory shows."""
    return _spread(
        [
            mine.revisit[view]["psnr_visible"] - other.revisit[base_view]["psnr_visible"]
            for mine, other in zip(runs, base, strict=True)
        ]
    )


def summary(runs: list[Run], append: list[Run], first: list[Run]) -> dict[str, Any]:
    """Means over the walks, with the range over walks where it says something."""
    last = len(runs[0].points)
    shares = [run.points[-1] / base.points[-1] for run, base in zip(runs, append, strict=True)]
    tenth = last // 10
    return {
        "points": [round(mean([run.points[k] for run in runs])) for k in _decades(last)],
        "mebibytes": [round(mean([run.mebibytes[k] for run in runs]), 3) for k in _decades(last)],
        "points_of_append": _spread(shares),
        "growth_last_tenth_over_first": _spread(
            [(run.points[-1] - run.points[-1 - tenth]) / run.points[tenth - 1] for run in runs]
        ),
        "write_ms_per_chunk": round(mean([statistics.median(run.write_ms) for run in runs]), 1),
        "read_ms": {k: round(mean([run.read_ms[k] for run in runs]), 2) for k in runs[0].read_ms},
        "points_in_view": {
            k: round(mean([run.in_view[k] for run in runs])) for k in runs[0].in_view
        },
        "read_last_over_first": {
            "same_cameras": _spread([run.same_cameras for run in runs]),
            "as_many_points_in_view": _spread([run.same_content for run in runs]),
            "points_in_view_of_the_latter": round(mean([run.alike_in_view for run in runs])),
        },
        **quality(runs),
        "revisit_gain_db": {
            "nearest over append, nearest": gains(runs, append, "nearest", "nearest"),
            "best_view over append, best_view": gains(runs, append, "best_view", "best_view"),
            "best_view over first views, nearest": gains(runs, first, "best_view", "nearest"),
        },
        "phantoms_of_revisits": {
            name: _spread([run.revisit[name]["phantoms"] for run in runs]) for name in VIEWS
        },
    }


def _decades(count: int) -> list[int]:
    return list(range(EVERY - 1, count, EVERY))


def _spread(values: list[float]) -> dict[str, float]:
    return rounded({"mean": mean(values), "low": min(values), "high": max(values)})


def targets(report: dict[str, Any]) -> dict[str, Any]:
    """What the default policy has to reach, and whether it does on the worst walk."""
    default = report["policies"][DEFAULT]
    reads = default["read_last_over_first"]
    growth = default["growth_last_tenth_over_first"]["high"]
    share = default["points_of_append"]["high"]
    nearest, best, over_first = (gain["low"] for gain in default["revisit_gain_db"].values())
    phantoms = default["phantoms_of_revisits"]["best_view"]["high"]
    rows = {
        "points of append, at most 1/4": (share, share <= 1 / 4),
        "gain over append, nearest, at least 1 dB": (nearest, nearest >= 1),
        "gain over append, best view, at least 0 dB": (best, best >= 0),
        "gain over first views by nearest points, at least 1.5 dB": (over_first, over_first >= 1.5),
        "phantoms by best views, at most 1.2 %": (phantoms, phantoms <= 0.012),
        "growth of the last tenth over the first, below 1/2": (growth, growth < 1 / 2),
    }
    for name in ("as_many_points_in_view", "same_cameras"):
        ratio = reads[name]["high"]
        rows[f"read at the end over chunk 10, {name}, at most 1.5"] = (ratio, ratio <= 1.5)
    return {name: {"worst_walk": value, "met": met} for name, (value, met) in rows.items()}


def on_all(walks: list[Walk], note: Callable[[str], None]) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for name, policy in POLICIES.items():
        runs[name] = []
        for number, walk in enumerate(walks):
            most = int(policy.cap * runs[DEFAULT][number].points[-1]) if policy.cap else 0
            runs[name].append(rollout(walk, policy, most))
        note(f"{name}: {[run.points[-1] for run in runs[name]]} points")
    return runs


def reads_alone(arguments: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """What `summary` says of reads, for the default policy alone."""
    runs = []
    for seed in arguments.seeds:
        walk = make_walk(seed, arguments.chunks, arguments.width, arguments.height, revisits=1)
        runs.append(rollout(with_field(walk), POLICIES[DEFAULT]))
        note(f"seed {seed}: {runs[-1].points[-1]} points")
    report = summary(runs, runs, runs)
    names = ("points", "read_ms", "points_in_view", "read_last_over_first")
    return {"policy": DEFAULT, **{name: report[name] for name in names}}


def measure(arguments: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    walks = [
        make_walk(seed, arguments.chunks, arguments.width, arguments.height, arguments.revisits)
        for seed in arguments.seeds
    ]
    note("walks are rendered")
    runs = on_all([with_field(walk) for walk in walks], note)
    report: dict[str, Any] = {
        "policies": {
            name: summary(mine, runs[APPEND], runs[FIRST]) for name, mine in runs.items()
        },
    }
    report["targets"] = targets(report)
    coded = {
        name: [rollout(walk, POLICIES[name], timed=False) for walk in walks] for name in WITH_CODEC
    }
    report["embedded_codec_tokens"] = {
        "token_mean_square": round(mean([float(w.views.tokens.square().mean()) for w in walks]), 4),
        **{name: quality(mine) for name, mine in coded.items()},
    }
    note("with the codec's own tokens: done")
    report["at_pixel_resolution"] = pixel_memories(walks[0])
    note("memories at pixel resolution: done")
    report["footprint_704x1280"] = real_size(arguments.seeds[0], arguments.chunks)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--chunks", type=int, default=100, help="at least 20, a multiple of 10")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--revisits", type=int, default=60)
    parser.add_argument("--save", action="store_true", help="keep JSON and plot under docs")
    parser.add_argument("--reads", action="store_true", help="only reads of the default policy")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    program = reads_alone if arguments.reads else measure
    report = {
        "date": datetime.date.today().isoformat(),
        "program": "benchmarks/memory.py",
        "machine": processor(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{key: value for key, value in vars(arguments).items() if key not in ("save", "reads")},
        **program(arguments, lambda text: print(text, file=sys.stderr, flush=True)),
    }
    report["seconds"] = round(time.perf_counter() - started)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.save and not arguments.reads:
        from _memory_plot import plot

        (ROOT / "docs" / "benchmarks" / "memory_cpu.json").write_text(text + "\n")
        plot(json.loads(text), ROOT / "docs" / "images" / "memory_policies.png")


if __name__ == "__main__":
    main()
