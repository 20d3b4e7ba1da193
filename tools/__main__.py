"""Runs a program of this folder: ``python tools dev.demo`` runs ``dev/demo.py``.

The folder stands at the head of ``sys.path``, so that programs import each other by the names of
their packages, and the checkout itself stays off the path: its package ``nodes`` would shadow
ComfyUI's module.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
"""Makes the small files that pictures of the shipped graphs are drawn with."""

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python tools PACKAGE.PROGRAM [options], such as: python tools dev.demo")
    sys.path.append(str(SUPPORT))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
