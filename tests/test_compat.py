"""What ``make compat`` finds and prints."""

from __future__ import annotations

import sys
from pathlib import Path

from dev.compat import environment, find_python, line


def test_pythons_are_found_by_path_and_version() -> None:
    assert find_python(sys.executable) == Path(sys.executable)
    assert find_python("3.99") is None
    assert find_python("/nowhere/bin/python") is None


def test_the_version_of_this_environment_needs_no_other() -> None:
    assert environment(Path(sys.executable)) == Path(sys.executable)


def test_a_line_of_the_table() -> None:
    found = {
        "comfyui_version": "0.30.0", "python_version": "3.13.0 (main, May 9) [GCC]",
        "pytorch_version": "2.11.0", "required_frontend_version": "1.47.12", "shot": "made",
    }  # fmt: skip
    assert line(found) == "| 0.30.0 | 3.13.0 | 2.11.0 | 1.47.12 | made |"
