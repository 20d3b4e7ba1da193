"""`make test` runs every test once, and tries again what drives the browser and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "dev" / "run_tests.py"

PASSES_WHEN_RUN_AGAIN = """
from pathlib import Path

def test_something():
    seen = Path(__file__).with_suffix(".seen")
    before = seen.exists()
    seen.touch()
    assert before
"""
FAILS = "def test_something(): assert False"
PASSES = "def test_something(): pass"


def run(folder: Path, files: dict[str, str], *options: str) -> tuple[int, str]:
    """Exit status and output of a run over these tests."""
    for name, text in files.items():
        path = folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "tests", *options],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_browser_has_a_second_try_that_is_told(tmp_path: Path) -> None:
    files = {"browser/test_a.py": PASSES_WHEN_RUN_AGAIN, "core/test_b.py": PASSES}
    status, output = run(tmp_path, files)
    assert status == 0
    assert (output.count("1 passed"), output.count("1 failed")) == (2, 1)
    told = output.partition("Failed at first and passed when run again")[2]
    assert "tests/browser/test_a.py::test_something" in told


def test_a_test_that_fails_twice_has_failed(tmp_path: Path) -> None:
    status, output = run(tmp_path, {"browser/test_a.py": FAILS, "core/test_b.py": PASSES})
    assert status == 1
    assert "Once more, in a new process" in output
    assert "passed when run again" not in output


@pytest.mark.parametrize("folder", ["core", "nodes", "server"])
@pytest.mark.parametrize("beside", [FAILS, PASSES])
def test_other_tests_have_one_try(tmp_path: Path, folder: str, beside: str) -> None:
    files = {f"{folder}/test_a.py": PASSES_WHEN_RUN_AGAIN, "browser/test_b.py": beside}
    status, output = run(tmp_path, files)
    assert status == 1
    assert "Once more" not in output


def test_what_passes_runs_once(tmp_path: Path) -> None:
    status, output = run(tmp_path, {"browser/test_a.py": PASSES})
    assert (status, output.count("1 passed")) == (0, 1)


COUNTS = """
from pathlib import Path

def test_something():
    with Path(__file__).with_suffix(".runs").open("a") as file:
        file.write(".")
"""


def test_every_test_runs_once_whatever_its_folder(tmp_path: Path) -> None:
    names = ("browser/test_a.py", "core/test_b.py", "core/deep/test_c.py", "test_d.py")
    assert run(tmp_path, dict.fromkeys(names, COUNTS))[0] == 0
    for name in names:
        assert (tmp_path / "tests" / name).with_suffix(".runs").read_text() == "."


def test_the_browser_runs_after_other_failures_unless_told(tmp_path: Path) -> None:
    files = {"browser/test_a.py": COUNTS, "core/test_b.py": FAILS}
    assert run(tmp_path, files)[0] == 1
    assert (tmp_path / "tests/browser/test_a.runs").exists()
    assert run(tmp_path, files, "-x")[0] != 0
    assert (tmp_path / "tests/browser/test_a.runs").read_text() == "."
