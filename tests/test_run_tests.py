"""`make test` runs every test once: there is no second try for one that fails."""

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
    seen.with_suffix(".passed").touch()
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


@pytest.mark.parametrize("folder", ["browser", "core", "nodes", "server"])
@pytest.mark.parametrize("beside", [FAILS, PASSES])
def test_every_test_has_one_try(tmp_path: Path, folder: str, beside: str) -> None:
    other = "browser" if folder != "browser" else "core"
    files = {f"{folder}/test_a.py": PASSES_WHEN_RUN_AGAIN, f"{other}/test_b.py": beside}
    status, output = run(tmp_path, files)
    assert status == 1
    assert "tests/" + f"{folder}/test_a.py::test_something" in output
    assert not (tmp_path / "tests" / folder / "test_a.passed").exists()


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
