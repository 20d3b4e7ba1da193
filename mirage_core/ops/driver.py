"""Loading compiled kernels and launching them on torch's current stream."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from ..errors import KernelError
from . import nvrtc

KERNELS: Final = (
    "mirage_prepare",
    "mirage_bounds",
    "mirage_splat",
    "mirage_view",
    "mirage_resolve",
    "mirage_fused",
    "mirage_gather",
    "mirage_scatter",
)
"""Entry points of the kernel source."""


class DeviceLauncher:
    """A `mirage_core.ops.kernels.Launcher` for one CUDA device.

    Everything that may wait happens when it is made; a launch only queues work, so it can be
    part of a CUDA graph.

    Args:
        index: Number of the device.

    Attributes:
        compiler: The compiler that made the kernels.
        binary: The kernels.

    Raises:
        KernelError: NVRTC or the driver is missing, or refuses the kernels.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.compiler = nvrtc.find()
        self._driver = _driver()
        self._context = self._retain()
        major, minor = torch.cuda.get_device_capability(index)
        self.binary = nvrtc.binary(self.compiler, 10 * major + minor)
        try:
            self._functions = self._load(self.binary.data)
        except KernelError:
            if not self.binary.kept:
                raise
            # What is kept was damaged, or made for another driver.
            self.binary = nvrtc.binary(self.compiler, 10 * major + minor, fresh=True)
            self._functions = self._load(self.binary.data)

    def __call__(
        self, kernel: str, grid: tuple[int, int], threads: int, arguments: Sequence[Any]
    ) -> None:
        """Queue a kernel.

        Raises:
            KernelError: The driver refuses.
        """
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        stream = torch.cuda.current_stream(self.index).cuda_stream
        with self._current():
            code = self._driver.cuLaunchKernel(
                self._functions[kernel], *grid, 1, threads, 1, 1, 0, stream, places, None
            )
        self._expect(code, f"The kernel {kernel} did not start")

    def _retain(self) -> ctypes.c_void_p:
        """The context that torch uses on the device."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        failed = "The CUDA driver does not give access to the GPU"
        self._expect(self._driver.cuInit(0), failed)
        self._expect(self._driver.cuDeviceGet(ctypes.byref(device), self.index), failed)
        code = self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        self._expect(code, failed)
        return context

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The device's context for this thread, which may never have used CUDA before."""
        code = self._driver.cuCtxPushCurrent_v2(self._context)
        self._expect(code, "The CUDA driver does not give access to the GPU")
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _load(self, data: bytes) -> dict[str, ctypes.c_void_p]:
        module, functions = ctypes.c_void_p(), {}
        with self._current():
            code = self._driver.cuModuleLoadData(ctypes.byref(module), data)
            self._expect(code, "The driver rejects the compiled kernels")
            for name in KERNELS:
                function = ctypes.c_void_p()
                code = self._driver.cuModuleGetFunction(
                    ctypes.byref(function), module, name.encode()
                )
                self._expect(code, f"The compiled kernels do not contain {name}")
                functions[name] = function
        return functions

    def _expect(self, code: int, what: str) -> None:
        if code == 0:
            return
        words = ctypes.c_char_p()
        self._driver.cuGetErrorString(code, ctypes.byref(words))
        message = words.value.decode(errors="replace") if words.value else "unknown error"
        raise KernelError(
            what,
            got=f"CUDA error {code}: {message}",
            fix="Update the GPU's driver, or set MIRAGE_DISABLE_CUDA=1 to run without the kernels",
        )


def _driver() -> ctypes.CDLL:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise KernelError(
            "The CUDA driver's library was not found", got=str(error), expected=name
        ) from error
    number, handle = ctypes.c_uint, ctypes.c_void_p
    driver.cuLaunchKernel.argtypes = [
        handle, *[number] * 7, handle, ctypes.POINTER(handle), ctypes.POINTER(handle),
    ]  # fmt: skip
    driver.cuCtxPushCurrent_v2.argtypes = [handle]
    driver.cuModuleLoadData.argtypes = [ctypes.POINTER(handle), ctypes.c_char_p]
    driver.cuModuleGetFunction.argtypes = [ctypes.POINTER(handle), handle, ctypes.c_char_p]
    return driver
