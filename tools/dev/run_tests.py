"""Runs pytest; tests in the browser get a second try, in a new process.

Chromium that draws in software on a busy machine can miss what a test waits for, and what one
test leaves on the page can trip the next. Those tests, and no others, are run once more, with a
new server and page; a test that fails twice has failed. What passed only then is named at the
end, since it may be a fault that people meet as well.

    python tools dev.run_tests [options of pytest]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BROWSER = "tests/browser/"
"""Where the tests are that drive the frontend."""

FAILED = 1
"""Pytest's exit status for tests that failed; others tell that it could not run them."""

CACHE = "out/test_cache"


def pytest(options: Sequence[str]) -> int:
    """Pytest's exit status, run as a program: ``python -m`` puts the checkout on sys.path."""
    program = Path(sys.executable).with_name("pytest.exe" if sys.platform == "win32" else "pytest")
    return subprocess.run([str(program), "-o", f"cache_dir={CACHE}", *options]).returncode


def failed_tests() -> list[str]:
    """Ids of the tests that failed in the run before."""
    kept = Path(CACHE, "v", "cache", "lastfailed")
    return sorted(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else []


def may_be_tried_again(failed: Sequence[str]) -> bool:
    """Whether there are some, and all of them drive the frontend."""
    return bool(failed) and all(name.startswith(BROWSER) for name in failed)


def main(options: Sequence[str]) -> int:
    """Pytest's exit status after one or two runs."""
    status = pytest(["--cache-clear", *options])
    failed = failed_tests() if status == FAILED else []
    if not may_be_tried_again(failed):
        return status
    print(f"\nOnce more, in a new process: {', '.join(failed)}", flush=True)
    status = pytest(["--last-failed", *options])
    if status == 0:
        print("\nFailed at first and passed when run again (please look into it, and report it):")
        print("\n".join(f"  {name}" for name in failed), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
