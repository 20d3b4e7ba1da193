"""Compiling the kernels at first use, with the compiler library that torch brings along.

NVRTC turns CUDA source into machine code without a toolkit, a C++ compiler or headers. The
result is kept on disk, so that it is made once per machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from ..errors import KernelError, StorageError
from ..files import atomic_write
from ..log import logger

SOURCE: Final = Path(__file__).with_name("csrc") / "readout.cu"
"""The kernels."""

OLDEST_DEVICE: Final = 75
"""Compute capability, ten times, from which on the kernels run."""

CACHE_VARIABLE: Final = "MIRAGE_CACHE_DIR"
"""Environment variable that names the folder for what is made once per machine."""

_OPTIONS: Final = ("--std=c++17", "--fmad=false")


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC, loaded.

    Attributes:
        path: The library's file, or the name under which the system knows it.
        version: (major, minor) of CUDA.
        library: Its functions.
    """

    path: str
    version: tuple[int, int]
    library: ctypes.CDLL

    @property
    def devices(self) -> list[int]:
        """Compute capabilities, ten times, that it makes machine code for; ascending."""
        count = ctypes.c_int()
        _check(self, self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        _check(self, self.library.nvrtcGetSupportedArchs(found))
        return sorted(found)


@dataclass(frozen=True)
class Binary:
    """Kernels ready to be loaded.

    Attributes:
        data: Machine code, or PTX where NVRTC is older than the device.
        path: Where it is kept.
        kept: Whether it was there already.
        seconds: What it took to compile, 0 if it was there.
    """

    data: bytes
    path: Path
    kept: bool
    seconds: float


def find() -> Nvrtc:
    """Load the NVRTC of torch's own CUDA version.

    Raises:
        KernelError: There is none.
    """
    tried = list(candidates())
    for name in tried:
        try:
            library = ctypes.CDLL(name)
            library.nvrtcGetErrorString.restype = ctypes.c_char_p
            major, minor = ctypes.c_int(), ctypes.c_int()
            code = library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        except (OSError, AttributeError):
            continue
        if code == 0:
            return Nvrtc(name, (major.value, minor.value), library)
    raise KernelError(
        "NVRTC, the library that compiles CUDA source, was not found",
        got=f"torch {torch.__version__}, none of {', '.join(tried) or 'no name known'}",
        fix="Reinstall torch with CUDA; NVRTC comes with it",
    )


def candidates() -> Iterator[str]:
    """Paths and names that NVRTC may have on this system, best first."""
    major = (torch.version.cuda or "").partition(".")[0]
    if not major:
        return
    if sys.platform == "win32":
        names = [f"nvrtc64_{'112' if major == '11' else major + '0'}_0.dll"]
    else:
        names = [f"libnvrtc.so.{'11.2' if major == '11' else major}"]
    for folder in _folders():
        for name in names:
            yield from sorted(str(path) for path in folder.glob(f"**/{name}"))
    yield from names


def _folders() -> Iterator[Path]:
    """Where torch's wheels put NVIDIA's libraries."""
    yield Path(torch.__file__).parent / "lib"
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("cu*"), reverse=True)


def cache_folder() -> Path:
    """Folder for compiled kernels: below `CACHE_VARIABLE`, or in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser() / "kernels"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mirage" / "kernels"


def binary(nvrtc: Nvrtc, device: int, *, fresh: bool = False) -> Binary:
    """The kernels for a device: from disk if they are kept, else compiled and kept.

    Args:
        nvrtc: The compiler.
        device: Compute capability, ten times.
        fresh: Compile whatever is kept.

    Raises:
        KernelError: The device is too old, or the compiler refuses.
    """
    source = SOURCE.read_bytes()
    target = target_of(nvrtc, device)
    key = hashlib.sha256(b"\0".join((source, target.encode(), _versions(nvrtc)))).hexdigest()
    path = cache_folder() / f"readout-{target}-{key[:32]}.bin"
    if not fresh:
        try:
            return Binary(path.read_bytes(), path, True, 0.0)
        except OSError:
            logger.debug("%s is not cached yet", path)
    start = time.perf_counter()
    data = compile_source(nvrtc, source, target)
    seconds = time.perf_counter() - start
    try:
        with atomic_write(path, "wb") as file:
            file.write(data)
    except StorageError as error:
        logger.info("Compiled CUDA kernels cannot be cached, each start compiles them: %s", error)
    return Binary(data, path, False, seconds)


def target_of(nvrtc: Nvrtc, device: int) -> str:
    """``sm_90`` for machine code; ``compute_90`` for PTX, where the device is newer than NVRTC.

    Raises:
        KernelError: The device is older than `OLDEST_DEVICE`, or than all that NVRTC knows.
    """
    known = [number for number in nvrtc.devices if OLDEST_DEVICE <= number <= device]
    if device < OLDEST_DEVICE or not known:
        raise KernelError(
            "The GPU is too old for the CUDA kernels",
            got=f"compute capability {device // 10}.{device % 10}",
            expected=f"{OLDEST_DEVICE // 10}.{OLDEST_DEVICE % 10} or newer",
        )
    return f"{'sm' if known[-1] == device else 'compute'}_{known[-1]}"


def compile_source(nvrtc: Nvrtc, source: bytes, target: str) -> bytes:
    """Machine code (``sm_..``) or PTX (``compute_..``) of CUDA source.

    Raises:
        KernelError: With the compiler's words.
    """
    library, program = nvrtc.library, ctypes.c_void_p()
    name = SOURCE.name.encode()
    _check(nvrtc, library.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None))
    try:
        given = [*_OPTIONS, f"--gpu-architecture={target}"]
        options = (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
        code = library.nvrtcCompileProgram(program, len(given), options)
        if code:
            log = _text(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise KernelError(f"NVRTC could not compile the kernels for {target}", got=log.strip())
        return _text(nvrtc, program, "CUBIN" if target.startswith("sm") else "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: Nvrtc, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    data = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc.library, f"nvrtcGet{what}")(program, data))
    return data.raw


def _versions(nvrtc: Nvrtc) -> bytes:
    numbers = ".".join(map(str, nvrtc.version))
    return "|".join((numbers, torch.version.cuda or "", *_OPTIONS)).encode()


def _check(nvrtc: Nvrtc, code: int) -> None:
    if code:
        words = nvrtc.library.nvrtcGetErrorString(code)
        raise KernelError("NVRTC failed", got=words.decode() if words else f"code {code}")
