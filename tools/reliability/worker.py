"""The process that reads damaged files, one after the other, and measures each."""

from __future__ import annotations

import logging
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import torch

from mirage_core.errors import MirageError
from reliability.formats import FORMATS
from reliability.mutations import Damage, apply, damages

READ, REFUSED, UNTYPED = "read", "refused", "untyped"
RESERVE: Final = 4 << 30
"""Bytes of address space that a reader may ask for before the system refuses: bombs end there."""

GIB: Final = 1 << 30


@dataclass(frozen=True)
class Result:
    """What a reader did with one input.

    Attributes:
        number: Of the input.
        outcome: `READ`, `REFUSED` (a typed error) or `UNTYPED`.
        seconds: Of processor time.
        grown: Bytes by which the process grew at most.
        reason: Error and place, where the outcome is `UNTYPED`.
    """

    number: int
    outcome: str
    seconds: float
    grown: int
    reason: str = ""


class Reader:
    """Reads inputs of one format in a folder of its own.

    Args:
        name: Of the format.
        place: Where to make the folder.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.format = name, FORMATS[name]
        self.valid = place / "valid"
        self.work = place / "work"
        self.valid.mkdir(parents=True)
        self.files = [path.relative_to(self.valid) for path in self.format.make(self.valid)]
        self._restore()

    def _restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.valid, self.work)

    def warm_up(self) -> None:
        """Read every valid file: what is imported and kept then does not count later."""
        for file in self.files:
            self._restore()
            self.format.read(self.work / file)

    def chosen(self, number: int) -> tuple[Path, bool, list[tuple[Damage, int]]]:
        """File, whether other files follow the damage, and damages of an input."""
        rng = random.Random(f"{self.name} {number}")
        file = rng.choice(self.files)
        return file, rng.random() < 0.7, damages(f"{self.name} {number} damages", file.suffix)

    def content(self, file: Path, chosen: Sequence[tuple[Damage, int]]) -> bytes:
        """The damaged file."""
        return apply((self.valid / file).read_bytes(), chosen)

    def read(self, number: int) -> Result:
        """Make an input and read it."""
        file, follow, chosen = self.chosen(number)
        return self.read_content(number, file, self.content(file, chosen), follow)

    def read_content(self, number: int, file: Path, content: bytes, follow: bool) -> Result:
        """Read ``content`` in the place of a valid file."""
        self._restore()
        path = self.work / file
        path.write_bytes(content)
        if follow and self.format.settle is not None:
            self.format.settle(path)
        outcome, reason = READ, ""
        _reset_peak()
        before, started = _memory("VmRSS"), time.process_time()
        try:
            self.format.read(path)
        except MirageError as error:
            outcome, reason = _judge(error)
        except Exception as error:  # what this program looks for
            outcome, reason = UNTYPED, place_of(error)
        seconds = time.process_time() - started
        return Result(number, outcome, seconds, max(0, _memory("VmHWM") - before), reason)

    def smallest(self, result: Result) -> bytes:
        """The input with as few damages as give the same error."""
        file, follow, chosen = self.chosen(result.number)
        kept = list(chosen)
        for damage in chosen:
            fewer = [other for other in kept if other is not damage]
            if not fewer:
                break
            content = self.content(file, fewer)
            again = self.read_content(result.number, file, content, follow)
            if (again.outcome, again.reason) == (result.outcome, result.reason):
                kept = fewer
        return self.content(file, kept)


def _judge(error: MirageError) -> tuple[str, str]:
    """A typed error counts if its message is text that can be shown and stored."""
    try:
        str(error).encode()
    except UnicodeEncodeError:
        return UNTYPED, f"a lone surrogate in the message; {place_of(error)}"
    return REFUSED, ""


def place_of(error: BaseException) -> str:
    """Kind of an error, the innermost line of Mirage that it came through, and its text."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "mirage_core" in frame.filename]
    where = (own or frames)[-1]
    short = where.filename.partition("mirage_core/")[2] or Path(where.filename).name
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    return f"{type(error).__name__} in {short}:{where.lineno}: {text[:80]}"


def _reset_peak() -> None:
    """Forget the largest size of this process so far; where Linux does not let it, peaks stay."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _memory(field: str) -> int:
    """Bytes of a field of this process's status; what was used most, where there is no such."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field)), 0)


def serve(name: str, first: int, count: int, channel: Connection, saved: Path) -> None:
    """Read inputs ``first`` to ``first + count - 1``; tell of each one before and after.

    Args:
        name: Of the format.
        first: Number of the first input.
        count: How many.
        channel: Gets the number of an input before it is read, and its `Result` after that.
        saved: Folder in which failing inputs are left, one for each kind of failure.
    """
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Decoders write what they find to the terminal.
    for output in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    with tempfile.TemporaryDirectory(prefix="mirage-fuzz-") as place:
        reader = Reader(name, Path(place))
        reader.warm_up()
        limit = _memory("VmSize") + RESERVE
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        seen: set[str] = set()
        for number in range(first, first + count):
            channel.send(number)
            result = reader.read(number)
            if result.outcome == UNTYPED and result.reason not in seen:
                seen.add(result.reason)
                leave(saved, name, number, reader.chosen(number)[0], reader.smallest(result))
            channel.send(result)


def leave(saved: Path, name: str, number: int, file: Path, content: bytes) -> Path:
    """Save a failing input under a name that says what it is."""
    saved.mkdir(parents=True, exist_ok=True)
    path = saved / f"{name}_{number}_{file.stem}{file.suffix}"
    path.write_bytes(content)
    return path
