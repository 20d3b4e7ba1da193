"""What the options for one card take from memory: prints one JSON object.

Run from the folder that holds ``mirage_core``: ``python benchmarks/training_memory.py --help``. The
model and the clips are random; nothing needs to be there. Every variant trains in a process of its
own, one after the other. Its figure is the most that the process held in steps after the first,
above what it held before there was a model; ratios are against ``plain``, in the same run.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from training import make_trainer, steps, write_clips

from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer

MIB = 1 << 20

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_gradient_checkpointing": {"gradient_checkpointing": False},
    "frozen_float8": {"frozen_dtype": "float8"},
    "adamw8bit": {"optimiser": "adamw8bit"},
    "no_average": {"ema_decay": 0.0},
    "all_three": {"frozen_dtype": "float8", "optimiser": "adamw8bit", "ema_decay": 0.0},
    "compile": {"compile": True},
}
"""Changes of the settings; plain has the defaults of a run in bfloat16."""

PLAIN: dict[str, Any] = {"dtype": "bfloat16", "gradient_checkpointing": True, "ema_decay": 0.999}

NEEDS = {"adamw8bit": "torchao", "all_three": "torchao"}

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes glibc give memory back at once, so that what a process holds is what tensors take."""


def held(kind: str) -> int:
    """Bytes that this process holds (``VmRSS``), or has held at the most (``VmHWM``)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{kind}:\s+(\d+) kB", status)
    if found is None:
        raise OSError(f"the kernel does not tell {kind}")
    return int(found[1]) * 1024


def tensors(trainer: Trainer) -> int:
    """Bytes of the model's parameters as they are stored."""
    return sum(p.untyped_storage().nbytes() for p in trainer.model.parameters())


def one(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Memory and seconds of a variant, in this process."""
    device = arguments.device
    before = held("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        grid = (arguments.height // 16, arguments.picture_width // 16)
        clips = write_clips(Path(folder) / "clips", grid)
        changes = PLAIN | VARIANTS[name]
        trainer = make_trainer(arguments, clips, Path(folder) / "run", changes, torch.bfloat16)
        list(steps(trainer, 2))
        gc.collect()
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        else:
            torch.cuda.reset_peak_memory_stats()
        done = list(steps(trainer, arguments.steps))
        most = held("VmHWM") - before if device == "cpu" else torch.cuda.max_memory_allocated()
    seconds = [report.values["seconds"] for report in done]
    return {
        "peak_mib": round(most / MIB, 1),
        "weights_mib": round(tensors(trainer) / MIB, 1),
        "seconds_a_step": round(min(seconds), 3),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every variant in a process of its own."""
    found: dict[str, Any] = {}
    for name in arguments.only or VARIANTS:
        package = NEEDS.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            found[name] = f"not measured: needs {package}"
            continue
        words = [sys.executable, __file__, "--one", name, *sys.argv[1:]]
        done = subprocess.run(
            words, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=False
        )
        if done.returncode:
            found[name] = f"failed: {done.stderr.strip().splitlines()[-1:]}"
            continue
        found[name] = json.loads(done.stdout)
    base = found.get("plain")
    for result in found.values():
        if isinstance(result, dict) and isinstance(base, dict):
            result["peak_against_plain"] = round(result["peak_mib"] / base["peak_mib"], 3)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--width", type=int, default=768, help="of the model, a multiple of 128")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--picture-width", type=int, default=192)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="these alone")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        json.dump(one(arguments, arguments.one), sys.stdout)
        return
    result = {
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "torch": torch.__version__,
        "device": arguments.device,
        "model": f"{arguments.layers} layers of width {arguments.width}, a branch of "
        f"{arguments.layers // 2} blocks",
        "clips": f"9 frames of {arguments.picture_width} x {arguments.height}, 2 preceding, "
        f"2 references, {arguments.batch} a step",
        "stage": TrainingSettings().stage,
        "variants": measure(arguments),
    }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
