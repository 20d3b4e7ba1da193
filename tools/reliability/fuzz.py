"""Damaged files of every format: readers refuse them with a typed error, at once and in little.

    python tools reliability.fuzz [--formats memory lora] [--count 10000] [--first 0]
        [--seconds 1] [--gib 1] [--limit 600] [--out out/fuzz]

Makes small valid files with Mirage's own writers, damages them, and reads each in a process of its
own kind: one that has died or hangs is replaced. Prints a table, and saves an input for each kind
of failure. Equal numbers give equal inputs. Ends with 1 when a reader failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reliability.formats import FORMATS
from reliability.worker import GIB, READ, UNTYPED, Reader, Result, leave, serve

HANG: Final = 20.0
"""Seconds without a word from a reader after which it is ended."""

START: Final = 120.0
"""The same for its first word: libraries are imported, and valid files made, before it."""

COLUMNS: Final = (
    "format", "inputs", "read", "untyped", "slow", "large", "died", "slowest ms", "peak MiB",
)  # fmt: skip


@dataclass
class Tally:
    """What the inputs of one format did."""

    inputs: int = 0
    read: int = 0
    untyped: int = 0
    slow: int = 0
    large: int = 0
    died: int = 0
    seconds: float = 0.0
    grown: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)

    def add(self, result: Result, seconds: float, size: int) -> None:
        """Count one result against the bounds."""
        slow, large = result.seconds > seconds, result.grown > size
        self.inputs += 1
        self.read += result.outcome == READ
        self.untyped += result.outcome == UNTYPED
        self.slow += slow
        self.large += large
        self.seconds = max(self.seconds, result.seconds)
        self.grown = max(self.grown, result.grown)
        if result.reason:
            self.reasons[result.reason] += 1
        if slow or large:
            self.reasons[f"{result.seconds:.1f} s, {result.grown >> 20} MiB"] += 1
            self.failed.append(result.number)

    def lost(self, number: int, how: str) -> None:
        """Count an input that ended the process."""
        self.inputs += 1
        self.died += 1
        self.reasons[how] += 1
        self.failed.append(number)

    @property
    def failures(self) -> int:
        """Inputs for which the reader did not do what it should."""
        return self.untyped + self.slow + self.large + self.died

    def row(self, name: str) -> tuple[object, ...]:
        """Cells of the table."""
        return (
            name, self.inputs, self.read, self.untyped, self.slow, self.large, self.died,
            round(1000 * self.seconds), self.grown >> 20,
        )  # fmt: skip


def run(name: str, options: argparse.Namespace) -> Tally:
    """Read all inputs of one format."""
    tally = Tally()
    start, end = options.first, options.first + options.count
    until = time.monotonic() + (options.limit or float("inf"))
    while start < end and time.monotonic() < until:
        start = _some(name, start, end, until, tally, options)
    for number in tally.failed:
        _leave_again(name, number, options.out)
    return tally


def _some(
    name: str, start: int, end: int, until: float, tally: Tally, options: argparse.Namespace
) -> int:
    """Read inputs in one process for as long as it lives; returns the number that comes next."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=serve, args=(name, start, end - start, theirs, options.out), daemon=True
    )
    process.start()
    theirs.close()
    current, wait = None, START
    try:
        while time.monotonic() < until:
            if not mine.poll(wait):
                tally.lost(start if current is None else current, "no answer")
                return end if current is None else current + 1
            word = mine.recv()
            wait = HANG
            if isinstance(word, Result):
                tally.add(word, options.seconds, int(options.gib * GIB))
                current, start = None, word.number + 1
            else:
                current = word
    except EOFError:
        process.join()
        if current is None and start < end:
            raise RuntimeError(f"The reader of {name} did not start") from None
        if current is not None:
            tally.lost(current, f"ended with {process.exitcode}")
            start = current + 1
    finally:
        process.kill()
        process.join()
        mine.close()
    return start


def _leave_again(name: str, number: int, out: Path) -> None:
    """Save an input whose process did not live to do it, or that was slow or large."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mirage-fuzz-") as place:
        reader = Reader(name, Path(place))
        file, _, chosen = reader.chosen(number)
        leave(out, name, number, file, reader.content(file, chosen))


def main(arguments: Sequence[str]) -> int:
    """0 when every reader did what it should."""
    parser = argparse.ArgumentParser(prog="reliability.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seconds", type=float, default=1.0, help="most of one input")
    parser.add_argument("--gib", type=float, default=1.0, help="most memory of one input")
    parser.add_argument("--limit", type=float, default=0.0, help="most seconds of a format")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="for failing inputs")
    options = parser.parse_args(arguments)
    print(("{:>11}" * len(COLUMNS)).format(*COLUMNS))
    failures = 0
    for name in options.formats:
        tally = run(name, options)
        failures += tally.failures
        print(("{:>11}" * len(COLUMNS)).format(*tally.row(name)), flush=True)
        for reason, count in tally.reasons.most_common(20):
            print(f"    {count:>6} {reason}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
