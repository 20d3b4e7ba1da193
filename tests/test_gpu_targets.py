"""`make gpu-test` and `make gpu-bench` on a machine without a network, as far as a CPU shows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[1]

# What torch's own images do not bring along, and what only a setup of the checkout installs.
BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "av", "websocket", "diffusers", "cv2", "playwright", "gguf", "xdist", "execnet"
        }:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
"""


OF_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def make(folder: Path, target: str, **variables: str) -> str:
    """Standard output of a make target that uses this interpreter without any setup."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    (folder / "sitecustomize.py").write_text(BLOCKED, encoding="utf-8")
    given = [f"{name}={value}" for name, value in variables.items()]
    # A make that runs this test would pass on its variables, and have its name printed.
    own = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    done = subprocess.run(
        ["make", target, f"GPU_PYTHON={sys.executable}", *given],
        cwd=ROOT,
        env={**own, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_gpu_tests_need_no_setup(tmp_path: Path) -> None:
    said = make(tmp_path, "gpu-test", PYTEST_ARGS="--collect-only -q")
    assert "test_large_clouds" in said
    assert (ROOT / "out" / "gpu" / "mirage_core").resolve() == ROOT / "mirage_core"
    assert not (ROOT / "out" / "gpu" / "nodes").exists()


def test_the_gpu_benchmark_needs_no_setup(tmp_path: Path) -> None:
    """Every part but the VAE's, in little, with JSON and plot."""
    arguments = f"--device cpu --small --save {tmp_path / 'kept'}"
    report = json.loads(make(tmp_path, "gpu-bench", BENCH_ARGS=arguments))
    assert json.loads((tmp_path / "kept" / "readout_gpu.json").read_text("utf-8")) == report
    assert (tmp_path / "kept" / "readout_gpu.png").stat().st_size > 1000
    assert all(size["same_bits_as_torch_on_the_cpu"] for size in report["sizes"])
    rgb = report["against_rgb"]
    assert "diffusers" in rgb["encode"]["skipped"]
    assert [row["ratio"] for row in rgb["per_chunk"]] == [None, None]
    assert {row["met"] for row in report["targets"]} <= {True, False}
    assert report["as_the_memory_grows"]["points"][1] > report["as_the_memory_grows"]["points"][0]
