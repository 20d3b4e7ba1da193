"""Runs pytest in two parts: all but the browser in one process for each core, then the browser.

Tests that drive the frontend have the machine to themselves: Chromium draws in software, and is
slow beside anything else. Every test has one try.

    python tools dev.run_tests [options of pytest]
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BROWSER = "tests/browser/"
"""Where the tests are that drive the frontend."""

PASSED, FAILED, NO_TESTS = 0, 1, 5
"""Exit statuses of pytest; others tell that it could not run the tests."""

PROCESSES = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
"""Tests of a file stay together, since they share what is slow to make."""

SLOWEST = ("--durations=15", "--durations-min=5")
"""What takes longest is told at the end, so that it does not grow unseen."""

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The processes share the cores already."""

CACHE = "out/test_cache"


def pytest(options: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Pytest's exit status, run as a program: ``python -m`` puts the checkout on sys.path."""
    program = Path(sys.executable).with_name("pytest.exe" if sys.platform == "win32" else "pytest")
    command = [str(program), "-o", f"cache_dir={CACHE}", *options]
    return subprocess.run(command, env={**os.environ, **(env or {})}).returncode


def without_browser(options: Sequence[str]) -> int:
    """Exit status of all tests but those that drive the frontend."""
    chosen = ["--cache-clear", *PROCESSES, *SLOWEST, f"--deselect={BROWSER}"]
    return pytest([*chosen, *options], ONE_THREAD)


def in_browser(options: Sequence[str]) -> int:
    """Exit status of the tests that drive the frontend."""
    browser = Path(BROWSER)
    beside = sorted(path.as_posix() for path in browser.parent.glob("[!_]*") if path != browser)
    chosen = ["--cache-clear", *SLOWEST, *(f"--deselect={path}" for path in beside)]
    return pytest([*chosen, *options])


def main(options: Sequence[str]) -> int:
    """The higher exit status of the two parts; a part without tests has none."""
    first = without_browser(options)
    if first not in (PASSED, FAILED, NO_TESTS):
        return first
    second = in_browser(options)
    found = [status for status in (first, second) if status != NO_TESTS]
    return max(found, default=NO_TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
