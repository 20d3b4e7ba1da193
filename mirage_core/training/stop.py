"""Ending a run before its last step: signals are answered after a step, and nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from .distributed import Distributed

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what Slurm and most other programs send before they kill."""

EXIT_BASE: Final = 128
"""What shells add to the number of the signal that ended a program."""


class StopRequested(Exception):
    """Ends a validation early, in all processes at the same place."""


class StopFlag:
    """Whether a run is to end; its processes agree on the step after which they do.

    Args:
        processes: That share the run.

    Attributes:
        signal: Number of the signal that the processes have agreed on; 0 for none.
    """

    def __init__(self, processes: Distributed) -> None:
        self._processes = processes
        # By itself, so that what is asked while the processes talk is not written over.
        self._asked = 0
        self.signal = 0

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return EXIT_BASE + self.signal

    def request(self, number: int) -> None:
        """Ask this process to end, as a signal does."""
        self._asked = number

    def agreed(self) -> bool:
        """True when any process was asked to end; all processes must call this."""
        self.signal = self._processes.largest(self._asked)
        return bool(self.signal)

    def check(self) -> None:
        """Raise `StopRequested` in all processes when any was asked; all must call this."""
        if self.agreed():
            raise StopRequested

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let `SIGNALS` ask inside the block.

        In a run of one process a second Ctrl-C raises `KeyboardInterrupt` at once. Of several
        processes each gets one from the terminal and one from what started them. Outside of the
        main thread no program gets signals, and nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._answer) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _answer(self, number: int, _: FrameType | None) -> None:
        again = self._asked == number == signal.SIGINT
        if again and self._processes.count == 1:
            raise KeyboardInterrupt
        self.request(number)
