"""Runs pytest in two parts: all but the browser in one process for each core, then the browser.

Tests that drive the frontend have the machine to themselves, and get a second try, in a new
process: Chromium that draws in software on a busy machine can miss what a test waits for, and
what one test leaves on the page can trip the next. Those tests, and no others, are run once more,
with a new server and page; a test that fails twice has failed. What passed only then is named at
the end, since it may be a fault that people meet as well.

    python tools dev.run_tests [options of pytest]
"""

from __future__ import annotations

import json
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

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The processes share the cores already."""

CACHE = "out/test_cache"


def pytest(options: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Pytest's exit status, run as a program: ``python -m`` puts the checkout on sys.path."""
    program = Path(sys.executable).with_name("pytest.exe" if sys.platform == "win32" else "pytest")
    command = [str(program), "-o", f"cache_dir={CACHE}", *options]
    return subprocess.run(command, env={**os.environ, **(env or {})}).returncode


def failed_tests() -> list[str]:
    """Ids of the tests that failed in the run before."""
    kept = Path(CACHE, "v", "cache", "lastfailed")
    return sorted(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else []


def without_browser(options: Sequence[str]) -> int:
    """Exit status of all tests but those that drive the frontend."""
    return pytest(["--cache-clear", *PROCESSES, f"--deselect={BROWSER}", *options], ONE_THREAD)


def in_browser(options: Sequence[str], again: bool) -> int:
    """Exit status of the tests that drive the frontend, after one or two runs.

    Args:
        options: Of pytest.
        again: Whether tests that fail may be tried once more.
    """
    browser = Path(BROWSER)
    beside = sorted(path.as_posix() for path in browser.parent.glob("[!_]*") if path != browser)
    others = [f"--deselect={path}" for path in beside]
    status = pytest(["--cache-clear", *others, *options])
    failed = failed_tests() if status == FAILED and again else []
    if not failed:
        return status
    print(f"\nOnce more, in a new process: {', '.join(failed)}", flush=True)
    status = pytest(["--last-failed", *others, *options])
    if status == PASSED:
        print("\nFailed at first and passed when run again (please look into it, and report it):")
        print("\n".join(f"  {name}" for name in failed), flush=True)
    return status


def main(options: Sequence[str]) -> int:
    """The higher exit status of the two parts; a part without tests has none."""
    first = without_browser(options)
    if first not in (PASSED, FAILED, NO_TESTS):
        return first
    second = in_browser(options, again=first != FAILED)
    found = [status for status in (first, second) if status != NO_TESTS]
    return max(found, default=NO_TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
