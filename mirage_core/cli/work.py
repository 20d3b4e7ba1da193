"""Options and progress of commands that work through items, on one process or many."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from tqdm import tqdm

from ..errors import ValueRangeError
from ..training.data.pipeline import DataProgress

Group = Any


def add_work(group: Group) -> None:
    """Add the options of workers to a group of arguments."""
    group.add_argument(
        "--workers", type=int, default=0,
        help="number of Ray worker processes; 0 (default) works in this process without Ray",
    )  # fmt: skip
    group.add_argument(
        "--address", help="address of a running Ray cluster; default: this machine only"
    )
    group.add_argument(
        "--gpus-per-worker", type=float, default=0.0,
        help="GPUs that Ray assigns to each worker, may be a fraction; default: 0, CPU only",
    )  # fmt: skip
    group.add_argument("--retry", action="store_true", help="retry what was skipped before")


def device_of(arguments: argparse.Namespace) -> str:
    """Where models compute. Ray hides GPUs from workers that are given none.

    Raises:
        ValueRangeError: Workers without a GPU are to use one.
    """
    workers = getattr(arguments, "workers", 0)
    shares = bool(workers) and arguments.gpus_per_worker > 0
    if arguments.device == "auto":
        return "cuda" if shares or (not workers and torch.cuda.is_available()) else "cpu"
    if workers and not shares and arguments.device.startswith("cuda"):
        raise ValueRangeError(
            "Workers can use a GPU only if a share of one is assigned to them",
            got=f"--device {arguments.device} --gpus-per-worker 0",
            expected="GPUs for each worker, such as 1, or 0.5 for two workers on each GPU",
            fix="Add --gpus-per-worker 0.5, or use --device cpu",
        )
    return str(arguments.device)


class ItemBar:
    """A bar over all items, with the time that is left.

    Args:
        noun: What is made of them.
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._bar: Any = None

    def __enter__(self) -> ItemBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: DataProgress) -> None:
        """Show how far the work is."""
        if self._bar is None:
            self._bar = tqdm(
                total=progress.total, file=sys.stderr, dynamic_ncols=True,
                bar_format="{n_fmt} of {total_fmt} |{bar}| {postfix}",
            )  # fmt: skip
        self._bar.n = progress.done
        left = progress.seconds_left
        text = f"{progress.clips} {self._noun}, {progress.skipped} skipped"
        text += "" if left is None else f", {tqdm.format_interval(left)} left"
        self._bar.set_postfix_str(text, refresh=True)
