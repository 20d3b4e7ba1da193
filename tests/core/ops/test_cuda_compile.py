"""Compiling the kernels: with nvcc for every GPU, with NVRTC as users do; and doing without."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mirage_core.errors import KernelError
from mirage_core.ops import backend as backends
from mirage_core.ops import nvrtc
from mirage_core.ops.backend import backend, reset
from mirage_core.ops.driver import KERNELS
from mirage_core.ops.nvrtc import OLDEST_DEVICE, SOURCE, Nvrtc

pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def compiler() -> Nvrtc:
    try:
        return nvrtc.find()
    except KernelError as error:
        pytest.skip(f"needs NVRTC, the package nvidia-cuda-nvrtc: {error}")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "kernels"


def find_nvcc() -> str:
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        pytest.skip("needs nvcc, the compiler of the CUDA toolkit")
    return found


def test_every_gpu_without_spills(tmp_path: Path) -> None:
    nvcc = find_nvcc()
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    devices = [int(n) for n in re.findall(r"sm_(\d+)\b", listed.stdout) if int(n) >= OLDEST_DEVICE]
    assert {75, 80, 86, 89, 90} <= set(devices)
    release = re.search(r"release (\d+)\.(\d+)", version.stdout)
    assert release is not None
    assert (int(release[1]), int(release[2])) < (12, 8) or {100, 120} <= set(devices)
    command = [
        nvcc, "-fatbin", "-std=c++17", "-Xptxas", "-v", "--threads", "0", str(SOURCE),
        "-o", str(tmp_path / "all"),
    ]  # fmt: skip
    for number in devices:
        command += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    built = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", done.stderr)
    assert set(built) == {(name, f"sm_{number}") for name in KERNELS for number in devices}
    spills = re.findall(r"(\d+) bytes spill", done.stderr)
    assert len(spills) == 2 * len(built)
    assert set(spills) == {"0"}


def test_nvrtc_compiles_once_and_keeps_it(compiler: Nvrtc, own_folder: Path) -> None:
    first = nvrtc.binary(compiler, 90)
    assert not first.kept
    assert first.seconds > 0
    assert first.data[:4] == b"\x7fELF"
    assert all(name.encode() in first.data for name in KERNELS)
    again = nvrtc.binary(compiler, 90)
    assert again.kept
    assert again.data == first.data
    assert list(own_folder.iterdir()) == [first.path]
    assert nvrtc.binary(compiler, 75).path != first.path
    first.path.write_bytes(b"damaged")
    assert nvrtc.binary(compiler, 90, fresh=True).data == first.data
    assert nvrtc.binary(compiler, 90).data == first.data


def test_nvrtc_compiles_for_every_gpu(compiler: Nvrtc) -> None:
    """As users do it, beside what nvcc makes of the same source."""
    devices = [number for number in compiler.devices if number >= OLDEST_DEVICE]
    assert {75, 80, 86, 89, 90} <= set(devices)
    assert compiler.version < (12, 8) or {100, 120} <= set(devices)
    for number in devices:
        data = nvrtc.compile_source(compiler, SOURCE.read_bytes(), f"sm_{number}")
        assert data[:4] == b"\x7fELF", number
        assert all(name.encode() in data for name in KERNELS), number


def test_another_source_is_another_file(compiler, tmp_path: Path, monkeypatch) -> None:
    before = nvrtc.binary(compiler, 90)
    changed = tmp_path / "readout.cu"
    changed.write_bytes(SOURCE.read_bytes() + b"// changed\n")
    monkeypatch.setattr(nvrtc, "SOURCE", changed)
    after = nvrtc.binary(compiler, 90)
    assert not after.kept
    assert after.path != before.path


def test_a_gpu_newer_than_nvrtc_gets_ptx(compiler: Nvrtc) -> None:
    newest = compiler.devices[-1]
    assert nvrtc.target_of(compiler, newest) == f"sm_{newest}"
    assert nvrtc.target_of(compiler, newest + 50) == f"compute_{newest}"
    data = nvrtc.binary(compiler, newest + 50).data
    assert b".visible .entry mirage_splat" in data
    assert data.endswith(b"\0")


def test_an_old_gpu_is_refused(compiler: Nvrtc) -> None:
    with pytest.raises(KernelError, match="compute capability 7.0"):
        nvrtc.binary(compiler, 70)


def test_the_compilers_words_are_passed_on(compiler: Nvrtc) -> None:
    with pytest.raises(KernelError, match="undefined_name"):
        nvrtc.compile_source(compiler, b"__global__ void f() { undefined_name(); }", "sm_90")


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    compiler: Nvrtc, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path / "file"))
    made = nvrtc.binary(compiler, 90)
    assert made.data[:4] == b"\x7fELF"
    assert not made.path.exists()


@pytest.mark.parametrize(
    ("system", "cuda", "name"),
    [
        ("linux", "13.0", "libnvrtc.so.13"),
        ("linux", "12.6", "libnvrtc.so.12"),
        ("linux", "11.8", "libnvrtc.so.11.2"),
        ("win32", "13.0", "nvrtc64_130_0.dll"),
        ("win32", "12.8", "nvrtc64_120_0.dll"),
        ("win32", "11.8", "nvrtc64_112_0.dll"),
    ],
)
def test_names_of_the_library(monkeypatch, system: str, cuda: str, name: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert list(nvrtc.candidates())[-1] == name


def test_a_torch_without_cuda_has_no_nvrtc(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert list(nvrtc.candidates()) == []
    with pytest.raises(KernelError, match="NVRTC"):
        nvrtc.find()


@pytest.mark.parametrize(
    ("system", "variable", "tail"),
    [("linux", "XDG_CACHE_HOME", ("mirage", "kernels")),
     ("win32", "LOCALAPPDATA", ("mirage", "kernels"))],
)  # fmt: skip
def test_the_users_cache_folder(monkeypatch, tmp_path, system, variable, tail) -> None:
    monkeypatch.delenv(nvrtc.CACHE_VARIABLE)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv(variable, str(tmp_path))
    assert nvrtc.cache_folder() == tmp_path.joinpath(*tail)


@pytest.fixture
def undecided():
    reset()
    yield
    reset()


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_switching_off(monkeypatch, value: str, off: bool) -> None:
    monkeypatch.setenv(backends.DISABLE_VARIABLE, value)
    assert backends.switched_off() == off


def test_one_line_says_why(monkeypatch, caplog, undecided) -> None:
    monkeypatch.setenv(backends.DISABLE_VARIABLE, "1")
    with caplog.at_level(logging.INFO, logger="mirage"):
        for _ in range(3):
            assert backend(0).launcher is None
    (line,) = caplog.messages
    assert "MIRAGE_DISABLE_CUDA is set" in line
    assert "\n" not in line


def test_what_is_missing_is_named(monkeypatch, caplog, undecided) -> None:
    monkeypatch.delenv(backends.DISABLE_VARIABLE, raising=False)

    def missing(index: int):
        raise KernelError("The CUDA driver's library was not found", got="two\nlines")

    monkeypatch.setattr(backends, "DeviceLauncher", missing)
    found = backend(0)
    assert found.launcher is None
    assert "driver's library was not found" in found.reason
    assert "\n" not in found.reason
    reset()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "not built for CUDA" in backend(0).reason


@pytest.mark.parametrize(
    "error",
    [
        KernelError("The driver rejects the compiled kernels"),
        RuntimeError("CUDA error: no kernel image"),
        FileNotFoundError("csrc/readout.cu"),
        AttributeError("undefined symbol: nvrtcGetCUBINSize"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_torch_reads(monkeypatch, caplog, undecided, error: Exception) -> None:
    monkeypatch.delenv(backends.DISABLE_VARIABLE, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def fails(index: int):
        raise error

    monkeypatch.setattr(backends, "DeviceLauncher", fails)
    assert backend(0).launcher is None
    (line,) = caplog.messages
    assert str(error).split(":")[0].rstrip(".") in line


def test_the_doctor_tells_the_state(tmp_path: Path) -> None:
    environment = {**os.environ, "MIRAGE_CACHE_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for extra in ({}, {"MIRAGE_DISABLE_CUDA": "1"}, {"CUDA_VISIBLE_DEVICES": ""}):
        done = subprocess.run(
            [sys.executable, "-m", "mirage_core.doctor"],
            cwd=Path(sys.executable).parent,
            env={**environment, **extra},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for word in ("torch", torch.__version__, "NVRTC", str(tmp_path), "diffusers", "readout"):
            assert word in done.stdout
        assert ("switched off" in done.stdout) == bool(extra.get("MIRAGE_DISABLE_CUDA"))
