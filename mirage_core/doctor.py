"""What runs on this machine, and why: ``python -m mirage_core.doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Iterator
from typing import Final

import torch

from .errors import KernelError
from .ops import nvrtc
from .ops.backend import DISABLE_VARIABLE, backend, switched_off

OPTIONAL: Final = {
    "OpenEXR": "reading depth passes in .exr files",
    "diffusers": "running Wan2.2 outside of ComfyUI",
    "transformers": "its text encoder",
    "accelerate": "models larger than the GPU's memory",
    "peft": "LoRA adapters",
    "gguf": "GGUF model files",
    "lmdb": "importing released training samples",
    "opencv-python": "reading and comparing photographs in the benchmarks",
}
"""Packages that only some tasks need, and which."""

REQUIRED: Final = ("numpy", "einops", "safetensors", "scipy", "av")


def main() -> int:
    """Write the report to standard output."""
    # The reason is part of the report already.
    logging.getLogger("mirage").setLevel(logging.ERROR)
    sys.stdout.write("\n".join(report()) + "\n")
    return 0


def report() -> Iterator[str]:
    """Lines of the report: versions, compiler, devices and packages."""
    package = importlib.import_module(__package__ or "mirage_core")
    yield f"Mirage {package.__version__}"
    yield from _versions()
    yield ""
    yield from _compiler()
    yield ""
    yield from _devices()
    yield ""
    yield from _packages()


def _versions() -> Iterator[str]:
    cuda = torch.version.cuda
    built = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    yield f"  Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield f"  torch {torch.__version__}, {built}"


def _compiler() -> Iterator[str]:
    yield "CUDA kernels"
    if switched_off():
        yield f"  switched off by {DISABLE_VARIABLE}"
    folder = nvrtc.cache_folder()
    kept = sorted(folder.glob("readout-*.bin")) if folder.is_dir() else []
    try:
        found = nvrtc.find()
        yield f"  NVRTC {found.version[0]}.{found.version[1]} at {found.path}"
    except KernelError as error:
        yield f"  NVRTC: {error}"
    yield f"  compiled kernels are cached in {folder}"
    yield f"  in the cache: {', '.join(path.name for path in kept) or 'none yet'}"


def _devices() -> Iterator[str]:
    yield "Where the readout runs"
    yield f"  cpu: torch, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        yield "  no CUDA device: the readout runs on the CPU"
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        name = f"cuda:{index} ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)"
        decided = backend(index)
        if decided.launcher is None:
            yield f"  {name}: torch, because {decided.reason}"
            continue
        binary = decided.launcher.binary
        made = "from the cache" if binary.kept else f"compiled now in {binary.seconds:.2f} s"
        yield f"  {name}: CUDA kernels, {made}"


def _packages() -> Iterator[str]:
    yield "Packages"
    for name in REQUIRED:
        yield f"  {name} {_version(name) or 'MISSING: needed for everything'}"
    for name, purpose in OPTIONAL.items():
        version = _version(name)
        yield f"  {name} {version}" if version else f"  {name}: not installed; for {purpose}"
    yield "  the embedded codec and scenes need no package and no weights"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
