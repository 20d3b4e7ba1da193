"""Workers on Ray: processes of this machine, or of a whole cluster."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from ...errors import ModelMismatchError, ValueRangeError
from ...log import logger
from ...validate import expect_range
from .pipeline import BadShot, ItemResult, Worker

MAX_DEATHS: Final = 2
"""Workers that may die while making one item before it is skipped."""

OBJECT_STORE: Final = 100 << 20
"""Bytes of Ray's shared memory; clips go from the workers straight to the disk."""

FLUSH_SECONDS: Final = 300.0
HURRIED_SECONDS: Final = 2.0
"""Seconds that workers have to store what is waiting after Ctrl-C."""

WORKER_THREADS: Final = 2
"""One works on an item, and one can store what is waiting meanwhile."""

START_SECONDS: Final = 60.0
"""Seconds after which a warning says that workers have not started."""

MAX_WORKERS: Final = 4096


class AnyWorker(Protocol):
    """Works on items in a process of its own, as `Worker` does."""

    def make(self, item: str) -> ItemResult:
        """Work on one item; failures are reported in the result."""

    def flush(self) -> tuple[str, ...]:
        """Store what is waiting; names of the items that were stored."""


class RayPool:
    """Workers that each make clips and write shards of their own, or do other work on items.

    A worker that dies is replaced. What it had not stored is made again, and an item of which
    two workers died is skipped.

    Args:
        folder: The data set; on a cluster, a folder that all machines share.
        job: What to do.
        make_worker: Starts a worker from folder and job, in its process.
        workers: How many.
        address: A running cluster (``auto``, ``ray://host:10001``); None starts Ray on this
            machine, and ends it in `close`.
        gpus: GPUs that each worker takes, also less than one.

    Raises:
        ModelMismatchError: Ray is not installed, the cluster does not answer, or the workers
            cannot load what they need.
        ValueRangeError: The number of workers is out of range, or this machine has too few GPUs.
    """

    def __init__(
        self,
        folder: Path,
        job: Any,
        *,
        make_worker: Callable[[Path, Any], AnyWorker] = Worker,
        workers: int = 1,
        address: str | None = None,
        gpus: float = 0.0,
    ) -> None:
        expect_range("The number of workers", workers, 1, MAX_WORKERS)
        if address is None:
            _expect_gpus(workers, gpus)
        self._ray = _start(workers, address)
        # Ray's memory monitor ends workers too, and tells of it by a class of its own.
        self._dead = (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError)
        actor = self._ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=0, max_concurrency=WORKER_THREADS
        )(make_worker)
        self._start_worker = lambda: actor.remote(folder.absolute(), job)
        self._workers: list[Any] = [self._start_worker() for _ in range(workers)]
        self._unstored: list[dict[str, int]] = [{} for _ in range(workers)]
        self._deaths: dict[str, int] = {}
        self._expect_started()

    def _expect_started(self) -> None:
        """Raise what keeps workers from starting, such as a missing model, before the work."""
        asked = [worker.flush.remote() for worker in self._workers]
        count = len(asked)
        while len(self._ray.wait(asked, num_returns=count, timeout=START_SECONDS)[0]) < count:
            logger.warning(
                "Some of %d workers have not started yet: they are loading models, or the cluster "
                "has no CPUs or GPUs left for them (%s)",
                len(asked), self._ray.available_resources(),
            )  # fmt: skip
        try:
            self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            self._ray.shutdown()
            raise ModelMismatchError(
                "The workers could not start",
                got=str(error).strip().splitlines()[-1][:500],
                expected="the same models and packages on every machine",
                fix="Try --workers 0, which reports more",
            ) from error

    def run(self, items: Iterator[str]) -> Iterator[ItemResult]:
        """Work through items; results come as they are ready."""
        again: deque[str] = deque()
        busy: dict[Any, tuple[int, str]] = {}

        def assign(index: int) -> None:
            item = again.popleft() if again else next(items, None)
            if item is not None:
                busy[self._workers[index].make.remote(item)] = (index, item)

        for index in range(len(self._workers)):
            assign(index)
        while busy:
            ready, _ = self._ray.wait(list(busy), num_returns=1)
            index, item = busy.pop(ready[0])
            try:
                result: ItemResult = self._ray.get(ready[0])
            except self._dead as error:
                yield from self._replace_worker(index, item, error, again)
            else:
                self._unstored[index][item] = result.clips
                for stored in result.stored:
                    self._unstored[index].pop(stored, None)
                yield result
            for idle in set(range(len(self._workers))) - {index for index, _ in busy.values()}:
                assign(idle)

    def _replace_worker(
        self, index: int, item: str, error: Exception, again: deque[str]
    ) -> Iterator[ItemResult]:
        """Replace a dead worker; its items are made again, the one it died of last."""
        logger.warning("A worker died while making %s: %s", item, error)
        for lost, clips in self._unstored[index].items():
            again.append(lost)
            yield ItemResult(lost, clips=-clips)
        self._unstored[index] = {}
        self._workers[index] = self._start_worker()
        deaths = self._deaths[item] = self._deaths.get(item, 0) + 1
        if deaths < MAX_DEATHS:
            again.append(item)
        else:
            reason = f"{deaths} workers died while making it: {str(error).splitlines()[0][:300]}"
            yield ItemResult(item, bad=(BadShot(item, reason),))

    def close(self, *, hurried: bool = False) -> tuple[str, ...]:
        """Store what is waiting, and end the workers.

        Args:
            hurried: Do not wait for what they are at.

        Returns:
            The items that were stored.
        """
        stored: list[str] = []
        seconds = HURRIED_SECONDS if hurried else FLUSH_SECONDS
        try:
            asked = [worker.flush.remote() for worker in self._workers]
            ready, late = self._ray.wait(asked, num_returns=len(asked), timeout=seconds)
            if late:
                logger.error("%d workers did not store their last clips in time", len(late))
            for answer in ready:
                try:
                    stored += self._ray.get(answer)
                except self._ray.exceptions.RayError as error:
                    logger.error("A worker could not store its last clips: %s", error)
        finally:
            for worker in self._workers if hurried else ():
                self._ray.kill(worker)
            self._ray.shutdown()
        return tuple(stored)


def _expect_gpus(workers: int, gpus: float) -> None:
    """Refuse what Ray would wait for without end."""
    there = torch.cuda.device_count()
    if workers * gpus > there:
        raise ValueRangeError(
            "This machine has too few GPUs for the workers",
            got=f"{workers} workers with {gpus:g} GPUs each",
            expected=f"at most {there} in all",
            fix="Use fewer --workers, or a smaller --gpus-per-worker",
        )


def _start(workers: int, address: str | None) -> Any:
    """The ray module, connected."""
    # Read at start; without it Ray reports to its makers over the network.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ModelMismatchError(
            "Several workers require Ray",
            got="it is not installed",
            fix='Install it with `pip install "ray>=2.40"`, or use --workers 0',
        ) from error
    local: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ModelMismatchError(
            "Ray could not be started" if address is None else "The cluster does not answer",
            got=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
            expected="room for a few processes" if address is None else address,
            fix="Use --workers 0" if address is None
            else "Check the address; for a cluster that asks for a token, set RAY_AUTH_MODE=token",
        ) from error
    return ray
