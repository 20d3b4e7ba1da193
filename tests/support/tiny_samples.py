"""Small samples in the released format, hostile ones, and a watch over what reading them does."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from mirage_core.errors import CacheFormatError

PROTOCOLS = (2, 3, 4, 5)
GRID = (4, 6)
MEMORY = 32 << 20
"""Most bytes that reading a hostile file of a few kilobytes may take."""

ACTS = {
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "exec", "compile",
    "pickle.find_class", "ctypes.dlopen", "socket.connect",
}  # fmt: skip
"""What the interpreter reports when code is looked up or run."""

_acts: list[str] | None = None


def _audit(event: str, _: tuple) -> None:
    if _acts is not None and event in ACTS:
        _acts.append(event)


sys.addaudithook(_audit)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Nothing is looked up or run inside the block, and little memory is used."""
    global _acts
    _acts = []
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        acts, _acts = _acts, None
    assert acts == []
    assert peak < MEMORY


def refuse(
    read: Callable[[bytes], object], data: bytes, match: str | None = None
) -> CacheFormatError:
    """The error with which a reader refuses some bytes, under the watch of `nothing_runs`."""
    with nothing_runs(), pytest.raises(CacheFormatError, match=match) as caught:
        read(data)
    return caught.value


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def archive(content: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def tensors(
    seed: int = 0,
    references: int = 2,
    grid: tuple[int, int] = GRID,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, torch.Tensor]:
    """Latents of one sample as the released code lays them out."""
    scene = noise(3, 48, *grid, seed=seed + 1, dtype=dtype)
    scene[1, :, 1:, 2] = 0
    scene[0, 1:, 0, 0] = 0
    found = {
        "train_target_rgb.pt": noise(3, 48, *grid, seed=seed, dtype=dtype),
        "train_target_scene_proj_rgb.pt": scene,
        "train_preceding_rgb.pt": noise(2, 48, *grid, seed=seed + 2, dtype=dtype),
        "train_preceding_scene_proj_rgb.pt": torch.zeros(2, 48, *grid, dtype=dtype),
    }
    if references:
        found["train_reference_rgb.pt"] = noise(48, references, *grid, seed=seed + 3, dtype=dtype)
    return found


def files(latents: dict, legacy: bool = False) -> dict[str, bytes]:
    return {
        **{name: archive({"latent": value}, legacy=legacy) for name, value in latents.items()},
        "train_target_rgb.txt": "A courtyard, naïvely lit.\n".encode(),
        "train_target_rgb_frame0.png": b"\x89PNG not looked at",
        "train_sample.json": b"{not looked at",
        "empty.txt": b"",
    }


def sample(seed: int = 0, protocol: int = 4, **options: Any) -> bytes:
    return pickle.dumps(files(tensors(seed, **options)), protocol)


def write_shard(path: Path, samples: dict[str, bytes], folder: bool = False) -> None:
    with lmdb.open(str(path), subdir=folder, map_size=1 << 28, lock=False) as database:
        with database.begin(write=True) as transaction:
            for key, value in samples.items():
                transaction.put(key.encode(), value)


class Act:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def hostile(sentinel: Path) -> list[Act]:
    """What would leave a file if it were read by `pickle`."""
    code = f"open({str(sentinel)!r}, 'w').close()"
    return [
        Act(os.system, f"touch {sentinel}"),
        Act(builtins.eval, code),
        Act(builtins.exec, code),
        Act(builtins.open, str(sentinel), "w"),
        Act(os.mkdir, str(sentinel)),
        Act(getattr, Act(__import__, "os"), "mkdir"),
    ]
