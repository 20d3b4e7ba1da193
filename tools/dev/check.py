"""``make check``: lint, types, and the tests that need nothing but this machine's cores.

The tests run in one process for each core, beside the check of the types. Markers say what a test
needs; those of `LEFT_OUT` are for ``make test``.

    python tools dev.check [options of pytest]
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dev.run_tests import pytest

LEFT_OUT = (
    "server", "browser", "gpu", "processes", "compiler", "estimators", "samplers", "rooms",
    "training", "rollout",
)  # fmt: skip
"""Markers of tests that need more: every one that there is."""

PROCESSES = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
"""Tests of a file stay together, since they share what is slow to make."""

SETTINGS = {
    # The processes share the cores already.
    "OMP_NUM_THREADS": "1",
    # Fewer examples where tests draw them.
    "HYPOTHESIS_PROFILE": "quick",
    # Compiled tests are kept: compiling is a third of the time until the first test runs.
    "PYTHONDONTWRITEBYTECODE": "",
}


def main(options: Sequence[str]) -> int:
    """0 when everything is in order."""
    style = subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "."]).returncode
    types = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1]), "dev.check_types"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.environ.update(SETTINGS)
    tests = pytest(["-q", *PROCESSES, "-m", f"not ({' or '.join(LEFT_OUT)})", *options])
    print(f"types: {types.communicate()[0].strip()}")
    return int(any((style, tests, types.returncode)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
