"""``mirage evaluate``: one table of the paper with one command, and two runs beside each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CacheFormatError, ModelMismatchError
from ..files import atomic_write
from ..training.data.ray_pool import RayPool
from . import inputs
from .evaluate_options import TASKS, TINY_SIZE, TaskKind
from .inputs import parse_path
from .work import ItemBar, add_work

if TYPE_CHECKING:
    from ..evaluation.report import Report
    from ..evaluation.work import OpenPool


def add_command(commands: Any) -> None:
    """Add ``evaluate`` with its tasks to the commands of a parser."""
    parser = commands.add_parser(
        "evaluate",
        help="judge a model or a memory as the paper judged its own",
        description="Measures one table, item by item. Run the same command again to resume. At "
        "the end the folder contains results.json and results.md.",
    )
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    for kind in TASKS:
        task = tasks.add_parser(kind.name, help=kind.help, description=kind.help)
        _add_common(task, kind)
        kind.add_options(task)
        task.set_defaults(run=partial(run_task, kind))
    _add_compare(tasks)


def _add_common(parser: Any, kind: TaskKind) -> None:
    parser.add_argument("--out", type=parse_path, required=True, help="folder for the results")
    parser.add_argument(
        "--page", type=parse_path,
        help="file to write the page to as well, with the first item's pictures beside it as JPG",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=parse_path, help=kind.data)
    data.add_argument(
        "--tiny", action="store_true",
        help=f"procedural rooms at {TINY_SIZE[0]}x{TINY_SIZE[1]} in place of --data",
    )
    data.add_argument("--rooms", type=int, default=3, help="of --tiny (default: 3)")
    data.add_argument(
        "--size", type=inputs.parse_size,
        help=f"WIDTHxHEIGHT, multiples of 32 (default: {kind.size[0]}x{kind.size[1]})",
    )  # fmt: skip
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--lpips", type=parse_path, metavar="FOLDER",
        help="folder with the networks of LPIPS (default: torch's cache); without them the column "
        "stays empty",
    )  # fmt: skip
    metrics.add_argument(
        "--download", action="store_true",
        help="fetch the networks of LPIPS where they are missing; nothing else is ever fetched",
    )  # fmt: skip
    add_work(parser.add_argument_group("processes"))


def _add_compare(tasks: Any) -> None:
    parser = tasks.add_parser(
        "compare",
        help="differences of two runs, paired by item, with bootstrap intervals",
        description="Prints the differences of two runs of one task: the second minus the first.",
    )
    parser.add_argument("one", type=parse_path, help="folder of a run")
    parser.add_argument("other", type=parse_path, help="folder of another one, or the same")
    parser.add_argument("--way", help="row of the first run (default: all that both have)")
    parser.add_argument("--to", help="row of the second run (default: as --way)")
    parser.add_argument("--page", type=parse_path, help="file to write to as well")
    parser.set_defaults(run=run_compare)


def run_task(kind: TaskKind, arguments: argparse.Namespace) -> int:
    """Measure a table; 0 also when some items were skipped, which is reported.

    Raises:
        MirageError: All of them were skipped, or something about the input is wrong.
    """
    # Imported late, so that help and typing errors do not wait for diffusers.
    from ..evaluation.quality import Quality, download_lpips
    from ..evaluation.report import PAGE, write_page
    from ..evaluation.work import evaluate
    from .evaluate_scores import evaluator_of, scored
    from .evaluate_tasks import MAKERS

    if arguments.download:
        download_lpips(Quality(arguments.lpips).folder)
    task = MAKERS[kind.name](arguments)
    with ItemBar("results") as bar:
        try:
            report = evaluate(
                arguments.out, task, _pool_of(arguments),
                command=command_of(sys.argv[1:]), retry=arguments.retry, on_progress=bar,
            )  # fmt: skip
        except KeyboardInterrupt:
            sys.stderr.write("\nMeasured items are stored. Run the same command again to resume.\n")
            raise
    if not report.items:
        raise CacheFormatError(
            "No item could be measured",
            got="; ".join(f"{item}: {why}" for item, why in report.skipped.items())[:1000],
            fix="Mend what is wrong with them; --retry tries them again",
        )
    if arguments.page is not None:
        write_page(arguments.page, report, arguments.out)
    sys.stdout.write(f"{told(report)}\n{arguments.out / PAGE}\n")
    evaluator = evaluator_of(arguments)
    if evaluator is not None:
        sys.stdout.write(f"{scored(evaluator, arguments.out)}\n")
    elif kind.after:
        sys.stdout.write(f"{kind.after}\n")
    return 0


def _pool_of(arguments: argparse.Namespace) -> OpenPool:
    from ..evaluation.work import EvaluationWorker, LocalPool

    if arguments.workers:
        return partial(
            RayPool, make_worker=EvaluationWorker, workers=arguments.workers,
            address=arguments.address, gpus=arguments.gpus_per_worker,
        )  # fmt: skip
    if arguments.address:
        raise ModelMismatchError(
            "A cluster requires workers", got="--workers 0", fix="Set the number with --workers"
        )
    return LocalPool


def command_of(words: Sequence[str]) -> str:
    """The command for the page; of paths the last part, since folders are nobody's affair."""
    return " ".join(["mirage", *(Path(word).name if "/" in word else word for word in words)])


def told(report: Report) -> str:
    """The means in plain text."""
    from ..evaluation.report import cell

    lines = [f"{report.task}, {len(report.items)} measured, {len(report.skipped)} skipped"]
    for way, found in report.summary().items():
        values = [
            f"{column.heading} {cell(found[column.name], column.digits, len(report.items))}"
            for column in report.columns
            if column.name in found
        ]
        lines.append(f"{way}: {'; '.join(values)}")
    lines += [f"skipped: {item}: {reason}" for item, reason in report.skipped.items()]
    return "\n".join(lines)


def run_compare(arguments: argparse.Namespace) -> int:
    """Print the differences of two runs.

    Raises:
        CacheFormatError: A folder holds no results.
        ValueRangeError: The runs have nothing in common.
    """
    from ..evaluation.compare import compare
    from ..evaluation.report import read_report

    one, other = read_report(arguments.one), read_report(arguments.other)
    text = compare(one, other, arguments.way, arguments.to).page(
        arguments.one.name, arguments.other.name
    )
    if arguments.page is not None:
        with atomic_write(arguments.page, "w") as file:
            file.write(text)
    sys.stdout.write(text)
    return 0
