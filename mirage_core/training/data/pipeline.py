"""Making a data set: items in, clips out, on one process or many; stopped and resumed at will."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from ...codecs.base import LatentCodec
from ...errors import MirageError, StorageError
from ...files import discard_unfinished
from ...log import logger
from .build_clip import ClipSettings, Shot, build_clips
from .captions import CaptionEncoder, Captions
from .clip import TrainingClip
from .dataset import ClipWriter, expect_storable
from .manifest import DataManifest, claim, read_skipped, write_skipped
from .shards import shot_of
from .stored import begun_items, finished_items, items_of, without_item

ABANDONED_SECONDS: Final = 3600.0
"""Age in seconds at which a half-written shard counts as left by a killed worker."""


@dataclass(frozen=True)
class BadShot:
    """A part of an item that cannot be used, while others can.

    Attributes:
        key: Its name.
        reason: Why.
    """

    key: str
    reason: str


@dataclass(frozen=True)
class UnusedFrames:
    """Frames at the end of an item that are too few for a shot.

    Attributes:
        count: How many.
    """

    count: int


class ShotSource(Protocol):
    """Where shots come from; is sent to the workers."""

    @property
    def width(self) -> int:
        """Picture width of all shots in pixels, a multiple of 32."""

    @property
    def height(self) -> int:
        """Picture height of all shots in pixels, a multiple of 32."""

    def items(self) -> Sequence[str]:
        """Names of what can be loaded, without loading it; the same at every call."""

    def load(self, item: str) -> Iterable[Shot | BadShot | UnusedFrames]:
        """The shots of one item; their keys are the item's name, a slash and a number."""


@runtime_checkable
class ContinuedSource(Protocol):
    """A source that can leave out shots whose clips are stored, before it works on them."""

    def rest(
        self, item: str, stored: Collection[str]
    ) -> Iterable[Shot | BadShot | UnusedFrames]:
        """What ``load`` gives, without the shots of these keys."""


@dataclass(frozen=True)
class DataJob:
    """Everything a worker needs to make clips.

    Attributes:
        source: Where shots come from.
        codec: Makes the codec; called once per worker, since codecs can be large.
        codec_name: Name of that codec.
        settings: How clips are made.
        text: Makes the text encoder, for clips with embedded captions.
        text_name: Name of that encoder; empty without one.
        flush_seconds: See `mirage_core.training.data.dataset.ClipWriter`.
    """

    source: ShotSource
    codec: Callable[[], LatentCodec]
    codec_name: str
    settings: ClipSettings = field(default_factory=ClipSettings)
    text: Callable[[], CaptionEncoder] | None = None
    text_name: str = ""
    flush_seconds: float = 60.0

    @property
    def manifest(self) -> DataManifest:
        """What all clips of this job have in common."""
        source, settings = self.source, self.settings.describe()
        return DataManifest(self.codec_name, source.width, source.height, settings, self.text_name)


@dataclass(frozen=True)
class ItemResult:
    """What became of one item.

    Attributes:
        item: Its name.
        clips: Clips that were made of it; negative when as many were lost with a worker, and
            the item is made again.
        bad: Why the item, or a shot of it, gave no clip, by name.
        stored: Items whose clips were stored meanwhile, this one or earlier ones.
        fatal: Why no other item would fare better; empty when all is well.
        unused: Frames at its end that are too few for a shot.
    """

    item: str
    clips: int = 0
    bad: tuple[BadShot, ...] = ()
    stored: tuple[str, ...] = ()
    fatal: str = ""
    unused: int = 0


@dataclass(frozen=True)
class DataProgress:
    """How far a data set is.

    Attributes:
        done: Items that are finished, those of earlier runs included.
        total: All items.
        clips: Clips that this run has made.
        skipped: Items and shots that were skipped, those of earlier runs included.
        seconds_left: Estimate; None while nothing is known.
        unused: Frames that this run left out, since they were too few for a shot.
    """

    done: int
    total: int
    clips: int
    skipped: int
    seconds_left: float | None
    unused: int = 0


class Pool(Protocol):
    """Workers that take items."""

    def run(self, items: Iterator[str]) -> Iterator[ItemResult]:
        """Work through items, in any order; results come as they are ready."""

    def close(self, *, hurried: bool = False) -> tuple[str, ...]:
        """Store what is waiting, and end the workers; names of the items that were stored.

        Args:
            hurried: Somebody waits for the end: what is at work is given up, and what cannot be
                stored within seconds as well.
        """


class Worker:
    """Makes clips of items and writes them to shards of its own.

    Args:
        folder: The data set.
        job: What to do.
    """

    def __init__(self, folder: Path, job: DataJob) -> None:
        self._job = job
        self._codec = job.codec()
        self._captions = None if job.text is None else Captions(folder, job.text())
        self._writer = ClipWriter(folder, flush_seconds=job.flush_seconds)
        self._begun = begun_items(folder)

    def make(self, item: str) -> ItemResult:
        """Make the clips of one item; failures are reported in the result.

        Clips are handed to the writer shot by shot. Those of the last one are held back until
        more come or the item ends, so that what is stored always says whether there is more.
        """
        before = self._begun.get(item, ())
        held: list[TrainingClip] = []
        bad: list[BadShot] = []
        count = unused = 0
        stored: list[str] = []
        try:
            for shot in self._shots(item, frozenset(map(shot_of, before))):
                if isinstance(shot, UnusedFrames):
                    unused = shot.count
                elif isinstance(shot, BadShot):
                    bad.append(shot)
                elif made := self._made(shot, bad):
                    stored += self._writer.add(*held, total=0) if held else ()
                    held, count = made, count + len(made)
            # One shot alone is stored as a whole, and needs no count.
            total = None if len(held) == count and not before else len(before) + count
            last = self._writer.add(*held, total=total) if held else ()
        except StorageError as error:
            return ItemResult(item, fatal=str(error))
        except Exception as error:
            # Footage comes from anywhere, and what no check foresaw must not end a run of days.
            bad.append(BadShot(item, reason_for(item, error)))
            return self._broken_off(item, held, bad, count, stored)
        if not count:
            bad.append(BadShot(item, "None of its shots can be used."))
        whole = items_of([*stored, *last] if last else without_item(item, stored))
        return ItemResult(item, count, tuple(bad), whole, unused=unused)

    def _shots(
        self, item: str, known: Collection[str]
    ) -> Iterable[Shot | BadShot | UnusedFrames]:
        """Shots of an item, without those of these keys."""
        source = self._job.source
        if not known:
            return source.load(item)
        if isinstance(source, ContinuedSource):
            return source.rest(item, known)
        return (s for s in source.load(item) if not (isinstance(s, Shot) and s.key in known))

    def _broken_off(
        self,
        item: str,
        held: list[TrainingClip],
        bad: list[BadShot],
        count: int,
        stored: list[str],
    ) -> ItemResult:
        """What became of an item that ended early: the shots before are good."""
        try:
            stored += self._writer.add(*held, total=0) if held else ()
        except StorageError as error:
            return ItemResult(item, fatal=str(error))
        return ItemResult(item, count, tuple(bad), items_of(without_item(item, stored)))

    def _made(self, shot: Shot, bad: list[BadShot]) -> list[TrainingClip]:
        try:
            return self._build(shot)
        except Exception as error:
            bad.append(BadShot(shot.key, reason_for(shot.key, error)))
            return []

    def _build(self, shot: Shot) -> list[TrainingClip]:
        if self._captions is not None:
            shot = dataclasses.replace(shot, text=self._captions.encode(shot.caption))
        clips = build_clips(shot, self._codec, self._job.settings)
        for clip in clips:
            expect_storable(clip)
        return clips

    def flush(self) -> tuple[str, ...]:
        """Store what is waiting; names of the items that were stored.

        Another thread than that of `make` may call it.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        return items_of(self._writer.flush())


def reason_for(name: str, error: Exception) -> str:
    """Why an item or a shot cannot be used; what no check foresaw goes to the log whole."""
    if isinstance(error, MirageError):
        return str(error)
    logger.error("Unexpected error in %s", name, exc_info=error)
    return f"{type(error).__name__}: {error}"[:500]


class LocalPool:
    """One worker in this process."""

    def __init__(self, folder: Path, job: DataJob) -> None:
        self._worker = Worker(folder, job)

    def run(self, items: Iterator[str]) -> Iterator[ItemResult]:
        """Work through items in order."""
        return map(self._worker.make, items)

    def close(self, *, hurried: bool = False) -> tuple[str, ...]:
        """Store what is waiting; nothing else is at work."""
        return self._worker.flush()


def make_data(
    folder: Path,
    job: DataJob,
    open_pool: Callable[[Path, DataJob], Pool] = LocalPool,
    *,
    retry: bool = False,
    on_progress: Callable[[DataProgress], None] | None = None,
) -> DataProgress:
    """Make the clips that a data set lacks.

    Items that are stored are not made again, and neither are those that were skipped before.
    Whatever ends the call early loses the clips of the last minute at most; call again to go
    on.

    Args:
        folder: The data set, which may be read and extended by others meanwhile.
        job: What to make.
        open_pool: Starts the workers.
        retry: Try again what was skipped before.
        on_progress: Called after each item; may raise to stop.

    Returns:
        How far the data set is.

    Raises:
        ResumeError: The folder holds clips that were made in another way.
        StorageError: The disk is full, or the folder cannot be written.
    """
    claim(folder, job.manifest)
    discard_unfinished(folder, age=ABANDONED_SECONDS)
    return work_through(
        folder, job.source.items(), finished_items(folder), partial(open_pool, folder, job),
        retry=retry, on_progress=on_progress,
    )  # fmt: skip


def work_through(
    folder: Path,
    items: Sequence[str],
    finished: Collection[str],
    open_pool: Callable[[], Pool],
    *,
    retry: bool = False,
    on_progress: Callable[[DataProgress], None] | None = None,
) -> DataProgress:
    """Work through the items that a folder lacks; what cannot be used is noted and left out.

    Args:
        folder: Where the results are, and the list of what was skipped.
        items: All of them.
        finished: Those whose results are there.
        open_pool: Starts the workers, if there is work.
        retry: Try again what was skipped before.
        on_progress: Called after each item; may raise to stop.

    Returns:
        How far the folder is.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    if retry:
        write_skipped(folder, {})
    skipped = read_skipped(folder)
    left = [item for item in items if item not in finished and item not in skipped]
    count = _Count(len(items), len(items) - len(left), skipped)
    if not left:
        return count.progress()
    pool = open_pool()
    hurried = False
    try:
        for result in pool.run(iter(left)):
            if result.fatal:
                raise StorageError(result.fatal)
            count.take(result)
            for shot in result.bad:
                logger.warning("Skipped %s: %s", shot.key, shot.reason)
            if result.bad:
                write_skipped(folder, count.skipped)
            if on_progress is not None:
                on_progress(count.progress())
    except KeyboardInterrupt:
        hurried = True
        raise
    finally:
        pool.close(hurried=hurried)
    return count.progress()


class _Count:
    def __init__(self, total: int, done: int, skipped: dict[str, str]) -> None:
        self.skipped = dict(skipped)
        self._total, self._first, self._done = total, done, done
        self._clips = self._unused = 0
        self._since = time.monotonic()

    def take(self, result: ItemResult) -> None:
        self._done += 1 if result.clips >= 0 else -1
        self._clips += result.clips
        self._unused += result.unused
        self.skipped |= {shot.key: shot.reason for shot in result.bad}

    def progress(self) -> DataProgress:
        made = self._done - self._first
        pace = (time.monotonic() - self._since) / made if made else None
        left = None if pace is None else pace * (self._total - self._done)
        return DataProgress(
            self._done, self._total, self._clips, len(self.skipped), left, self._unused
        )
