"""Reading ahead: threads make the next batches while the model is busy."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from .batch import BatchMaker, TrainingBatch
from .data.dataset import ClipDataset
from .sampler import BATCH_SEED, ClipSampler, Position, mixed_seed


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One forward pass of this process.

    Attributes:
        batch: What it takes.
        position: Where the data set is read after the step that it belongs to.
    """

    batch: TrainingBatch
    position: Position


class Prefetcher:
    """Batches of this process, in order, without end.

    Which clips a step sees, and what is random about them, does not depend on the number of
    processes or threads.

    Args:
        dataset: The data set.
        sampler: Which clips come next.
        maker: Makes batches.
        micro_batches: Forward passes of a step, over all processes.
        share: Which of them are this process's.
        first_step: Number of the step to begin with.

    Attributes:
        waited: Seconds that were spent waiting for clips.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        sampler: ClipSampler,
        maker: BatchMaker,
        *,
        micro_batches: int,
        share: range,
        first_step: int,
    ) -> None:
        self.waited = 0.0
        self._dataset, self._sampler, self._maker = dataset, sampler, maker
        self._micro_batches, self._share = micro_batches, share
        self._plans = self._plan(first_step)
        self._reading = threading.Lock()
        readers = maker.settings.readers
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="mirage-feed")
        self._ahead: deque[tuple[Future[TrainingBatch], Position]] = deque()
        self._depth = 2 * readers

    def __next__(self) -> MicroBatch:
        """The next batch.

        Raises:
            CacheFormatError: A shard was damaged since the data set was opened.
            ShapeError: Clips do not fit together, or not the model.
        """
        while len(self._ahead) < self._depth:
            numbers, seed, position = next(self._plans)
            self._ahead.append((self._threads.submit(self._make, numbers, seed), position))
        future, position = self._ahead.popleft()
        since = time.perf_counter()
        batch = future.result()
        self.waited += time.perf_counter() - since
        return MicroBatch(batch, position)

    def __iter__(self) -> Iterator[MicroBatch]:
        return self

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _plan(self, step: int) -> Iterator[tuple[tuple[int, ...], int, Position]]:
        """Clips and seed of each forward pass of this process."""
        run_seed = self._maker.settings.seed
        while True:
            clips = [next(self._sampler) for _ in range(self._micro_batches)]
            position = self._sampler.position
            for number in self._share:
                index = step * self._micro_batches + number
                yield clips[number], mixed_seed(run_seed, BATCH_SEED, index), position
            step += 1

    def _make(self, numbers: tuple[int, ...], seed: int) -> TrainingBatch:
        # The data set keeps a list of open files; making batches is the longer part.
        with self._reading:
            clips = [self._dataset[number] for number in numbers]
        return self._maker.make(clips, seed)
