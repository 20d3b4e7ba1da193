"""Measuring all items of a table, on one process or many; stopped and resumed at will."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import MirageError, StorageError
from ..folder_lock import exclusive_folder
from ..training.data.manifest import read_skipped
from ..training.data.pipeline import (
    BadShot,
    DataProgress,
    ItemResult,
    Pool,
    reason_for,
    work_through,
)
from .report import Report, write_report
from .results import claim_run, read_items, store_item
from .task import Task


class EvaluationWorker:
    """Measures items, and stores each result when it is there.

    Args:
        folder: Of the run.
        task: What to measure.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self._folder, self._task = folder, task
        task.prepare()

    def make(self, item: str) -> ItemResult:
        """Measure one item; failures are reported in the result."""
        try:
            store_item(self._folder, item, self._task.run(item))
        except StorageError as error:
            return ItemResult(item, fatal=str(error))
        except MirageError as error:
            return ItemResult(item, bad=(BadShot(item, reason_for(item, error)),))
        return ItemResult(item, 1, stored=(item,))

    def flush(self) -> tuple[str, ...]:
        """Nothing waits to be stored."""
        return ()


class LocalPool:
    """One worker in this process."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._worker = EvaluationWorker(folder, task)

    def run(self, items: Iterator[str]) -> Iterator[ItemResult]:
        """Measure items in order."""
        return map(self._worker.make, items)

    def close(self, *, hurried: bool = False) -> tuple[str, ...]:
        """Nothing waits to be stored."""
        return self._worker.flush()


OpenPool = Callable[[Path, Task], Pool]
"""Starts the workers of a run."""


def evaluate(
    folder: Path,
    task: Task,
    open_pool: OpenPool = LocalPool,
    *,
    command: str = "",
    retry: bool = False,
    on_progress: Callable[[DataProgress], None] | None = None,
) -> Report:
    """Measure the items that a run lacks, and write its results and its page.

    Whatever ends the call early loses the items at work and nothing else; call again to go on.

    Args:
        folder: Of the run.
        task: What to measure.
        open_pool: Starts the workers.
        command: What made the run, for its page.
        retry: Try again what was skipped before.
        on_progress: Called after each item; may raise to stop.

    Returns:
        All results.

    Raises:
        ResumeError: The folder holds results that were made in another way.
        FolderInUseError: Another program works there.
        StorageError: The disk is full, or the folder cannot be written.
    """
    with exclusive_folder(folder):
        claim_run(folder, task)
        items = task.items()
        work_through(
            folder, items, read_items(folder), lambda: open_pool(folder, task),
            retry=retry, on_progress=on_progress,
        )  # fmt: skip
        stored = read_items(folder)
        report = Report.of(
            task,
            {item: stored[item] for item in items if item in stored},
            {item: why for item, why in read_skipped(folder).items() if item in items},
            command,
        )
        write_report(folder, report)
    return report
