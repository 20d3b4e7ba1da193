"""What a chunk depends on, in one digest: the start of the shot, and all chunks up to it.

Nothing in a chunk depends on what comes after it. So shots that begin in the same way have their
first chunks in common, however they end.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from torch import Tensor

from ..cache.types import LatentCache
from ..geometry.trajectory import Trajectory
from .plan import Chunk


def shot_start(cache: LatentCache, first_latent: Tensor, seed: int, settings: str) -> str:
    """Digest of what a shot begins with and how it is made, whatever its cameras are.

    Args:
        cache: The memory at the start.
        first_latent: (C, 1, h, w) latent of the given picture.
        seed: Seed of the shot.
        settings: Any text that stands for the models and settings in use, and for all else that
            chunks are made of, such as known depth.
    """
    digest = hashlib.sha256()
    for part in (cache.fingerprint(), str(seed), settings, str(tuple(first_latent.shape))):
        digest.update(part.encode() + b"\0")
    digest.update(first_latent.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def chunk_chains(start: str, trajectory: Trajectory, plan: tuple[Chunk, ...]) -> tuple[str, ...]:
    """The chain of each chunk: digest of the chain before it, its plan and its cameras.

    Args:
        start: From `shot_start`.
        trajectory: Cameras of the whole shot; a chunk's are those of all frames that the model
            sees, with their lenses, the picture's size and the frame rate.
        plan: The chunks in order.
    """
    chains: list[str] = []
    for chunk in plan:
        before = chains[-1] if chains else start
        cut = f"{chunk.index},{chunk.output_start},{chunk.output_end},{chunk.overlap}"
        cameras = trajectory.fingerprint(slice(chunk.first_frame, chunk.output_end))
        chains.append(hashlib.sha256(f"{before}\0{cut}\0{cameras}".encode()).hexdigest())
    return tuple(chains)
