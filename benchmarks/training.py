"""How fast training is, and what it waits for: prints one JSON object.

Run from the folder that holds ``mirage_core``: ``python benchmarks/training.py --help``. The model
and the clips are small and random; nothing needs to be there. Variants are ratios against the
first of them, ``plain``, in the same run; they take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mirage_core.conditioning.condition import Condition
from mirage_core.models.transformer import MirageTransformer3DModel
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipWriter
from mirage_core.training.distributed import Distributed
from mirage_core.training.journal import StepReport
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData

CLIPS = 64
TEXT = 64
FRAMES = 9

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
    "lora_only": {"stage": "lora"},
    "one_clip_a_pass": {"micro_batch": 1},
}


def write_clips(folder: Path, grid: tuple[int, int]) -> Path:
    """Clips of noise, with two preceding frames and two references."""
    rng = torch.Generator().manual_seed(0)
    with ClipWriter(folder) as writer:
        for number in range(CLIPS):
            noise = [torch.randn(48, n, *grid, generator=rng) for n in (FRAMES, FRAMES, 2, 2, 2)]
            target, projection, preceding, shown, references = noise
            condition = Condition(
                projection=projection,
                visible=torch.ones(FRAMES, *grid, dtype=torch.bool),
                references=references,
                preceding=preceding,
                preceding_projection=shown,
                preceding_visible=torch.ones(2, *grid, dtype=torch.bool),
            )
            writer.add(TrainingClip(target=target, condition=condition, key=f"clip-{number}"))
    return folder


def make_trainer(
    arguments: argparse.Namespace,
    clips: Path,
    out: Path,
    changes: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Trainer:
    """A run of one variant, whose frozen weights have the given type."""
    settings = TrainingSettings(
        stage="branch", steps=1_000_000, batch=arguments.batch, micro_batch=arguments.batch,
        text_tokens=1, side_blocks=arguments.layers // 2, lora_rank=16, dtype="float32",
        gradient_checkpointing=False, checkpoint_every=1_000_000, validate_every=0,
        random_subsets=False,
    )  # fmt: skip
    settings = replace(settings, **changes)
    processes = Distributed(cpu=arguments.device == "cpu")
    torch.manual_seed(0)
    side = {"side_layers": (0,), "side_features": "scene,visible"}
    model = MirageTransformer3DModel(
        num_attention_heads=arguments.width // 128, attention_head_dim=128,
        ffn_dim=4 * arguments.width, num_layers=arguments.layers, text_dim=TEXT,
        **(side if settings.stage == "lora" else {}),
    ).to(processes.device, dtype)  # fmt: skip
    data = TrainingData(clips, torch.zeros(1, TEXT))
    return Trainer(model, settings, data, out, processes)


class Enough(Exception):
    """The steps of one turn are done."""


def steps(trainer: Trainer, count: int) -> Iterator[StepReport]:
    """So many more steps of a run."""
    reports: list[StepReport] = []

    def collect(report: StepReport) -> None:
        reports.append(report)
        if len(reports) == count:
            raise Enough

    with contextlib.suppress(Enough):
        trainer.run(collect)
    return iter(reports)


def held_on_device(trainer: Trainer) -> int:
    """Bytes that tensors hold on a GPU; the peak is counted anew. 0 on a CPU."""
    device = trainer.processes.device
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def used_on_device(trainer: Trainer, held: int) -> float:
    """MiB that steps took above what was held before them: activations and gradients."""
    return round((torch.cuda.max_memory_allocated(trainer.processes.device) - held) / 2**20, 1)


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Samples per second of each variant, turn by turn."""
    grid = (arguments.height // 16, arguments.picture_width // 16)
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    waits: dict[str, list[float]] = {name: [] for name in VARIANTS}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", grid)
        trainers = {
            name: make_trainer(arguments, clips, Path(folder) / name, changes)
            for name, changes in VARIANTS.items()
        }
        for turn in range(arguments.turns + 1):
            for name, trainer in trainers.items():
                held = held_on_device(trainer)
                # The first step of a turn opens files and starts threads.
                done = list(steps(trainer, arguments.steps + 1))[1:]
                if turn:
                    memory |= {name: used_on_device(trainer, held)} if held else {}
                    seconds = sum(report.values["seconds"] for report in done)
                    rates[name].append(arguments.batch * len(done) / seconds)
                    waits[name].extend(report.values["waiting"] for report in done)
    base = rates["plain"]
    return {
        "samples_per_second": {name: spread(values) for name, values in rates.items()},
        "share_of_time_waiting_for_clips": {name: spread(v) for name, v in waits.items()},
        **({"device_memory_of_a_step_mib": memory} if memory else {}),
        "speed_against_plain": {
            name: spread([one / other for one, other in zip(values, base, strict=True)])
            for name, values in rates.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or auto")
    parser.add_argument("--width", type=int, default=256, help="of the model, a multiple of 128")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--picture-width", type=int, default=192)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="of one turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "threads": arguments.threads,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name()
        if arguments.device != "cpu" and torch.cuda.is_available()
        else "cpu",
        "model": f"{arguments.layers} layers of width {arguments.width}",
        "clips": f"{FRAMES} frames of {arguments.picture_width} x {arguments.height}, "
        "2 preceding, 2 references",
        "batch": arguments.batch,
        **measure(arguments),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
