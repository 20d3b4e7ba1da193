"""Which implementation of the operators runs on a device, and why."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Final

import torch

from ..errors import KernelError
from ..log import logger
from .driver import DeviceLauncher

DISABLE_VARIABLE: Final = "MIRAGE_DISABLE_CUDA"
"""Environment variable that switches the CUDA kernels off, with any value but 0."""


@dataclass(frozen=True)
class Backend:
    """What runs on a CUDA device.

    Attributes:
        launcher: Starts the kernels; None where torch does the work.
        reason: Why torch does the work; empty where the kernels do.
    """

    launcher: DeviceLauncher | None
    reason: str = ""


_BACKENDS: dict[int, Backend] = {}
_LOCK = threading.Lock()


def backend(index: int) -> Backend:
    """The implementation for a CUDA device, decided at first use.

    Says in one line of the log why the kernels do not run, if they do not.
    """
    found = _BACKENDS.get(index)
    if found is not None:
        return found
    with _LOCK:
        if index not in _BACKENDS:
            _BACKENDS[index] = decided = _decide(index)
            if decided.reason:
                logger.warning("The memory is read by torch on cuda:%d: %s", index, decided.reason)
        return _BACKENDS[index]


def reset() -> None:
    """Decide again at the next use, for a changed environment."""
    with _LOCK:
        _BACKENDS.clear()


def switched_off() -> bool:
    """Whether the user switched the CUDA kernels off."""
    return os.environ.get(DISABLE_VARIABLE, "0").strip() not in ("", "0")


def _decide(index: int) -> Backend:
    if switched_off():
        return Backend(None, f"{DISABLE_VARIABLE} is set")
    if torch.version.cuda is None:
        return Backend(None, "this torch is not built for CUDA")
    try:
        return Backend(DeviceLauncher(index))
    except (KernelError, RuntimeError, OSError, AttributeError) as error:
        # An incomplete install or a library of another age: reading goes on without kernels.
        return Backend(None, " ".join(str(error).split()))
