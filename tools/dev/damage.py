"""Damage a finished shot of five chunks bit by bit, and look at what is made of each.

Prints one JSON object: how often the shot came out the same, how often a message said what is
wrong, and where another shot came out, which must be nowhere. Every byte of the headers and every
hundredth of the rest are damaged in turn; ``--every`` chooses another step for the rest, and
``--files`` other files than all. ``--remake`` makes the chunks again that are not taken up, in
place of trusting that equal states give equal chunks.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from mirage_core.codecs.dct import DctCodec
from mirage_core.digests import tensors_digest
from mirage_core.errors import MirageError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.log import logger
from mirage_core.preview.fill import fill_readout
from mirage_core.readout.readout import read
from mirage_core.rollout.chain import shot_start
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import VIDEO, commit, finish, open_folder
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import RolloutState, rollout_id

CHUNKS: Final = 5
LENGTHS: Final = ChunkLengths(5, 5, 1)
SIZE: Final = 64
EVERY: Final = 100
CODEC: Final = DctCodec()

MP4_HEADERS: Final = (b"ftyp", b"moov")
"""Boxes of an MP4 that say what it holds."""


def begin(folder: Path) -> RolloutState:
    """A textured wall, seen by a camera that moves sideways."""
    frames = 1 + (LENGTHS.later - 1) * CHUNKS
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = -0.03 * torch.arange(frames)
    cameras = Trajectory(
        poses, intrinsics_from_fov(SIZE, SIZE, 60).repeat(frames, 1, 1), SIZE, SIZE
    )
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(1, SIZE, SIZE, 3, generator=rng)
    depth = 2 + torch.rand(1, SIZE, SIZE, generator=rng)
    tokens = CODEC.encode_images(picture)
    cache = begin_memory(tokens, FrameGeometry(depth, cameras.intrinsics[:1]), "damage")
    run_id = rollout_id(cameras, cache, tokens, 0, "damage", LENGTHS)
    start = shot_start(cache, tokens, 0, "damage")
    return RolloutState(
        cameras, cache, tokens, 0, run_id, folder, lengths=LENGTHS, start=start
    )


def advance(state: RolloutState) -> RolloutState:
    """The state one chunk later, painted by the preview."""
    readout = read(state.cache, state.frame_cameras)
    latents, depth = fill_readout(readout)
    latents = torch.cat([state.overlap_latent, latents[:, state.chunk.clean_latents :]], dim=1)
    frames = CODEC.decode(latents)
    height, width = state.grid
    geometry = FrameGeometry(depth, readout.latent_cameras.resized(width, height).intrinsics)
    written = write_chunk(
        state, latents, frames, geometry, MemorySettings(align=None), encode=CODEC.encode_images
    )
    return commit(state, latents=latents, frames=frames, readout=readout, cache=written.cache)


def identity(state: RolloutState) -> tuple[Any, ...]:
    """All that the chunks after a state depend on, and what is told of those before."""
    last: dict[str, Any] = {} if state.last is None else vars(state.last)
    tensors = {name: tensor for name, tensor in last.items() if tensor is not None}
    return state.done, state.statistics, state.cache.fingerprint(), tensors_digest(tensors)


@dataclass
class Shot:
    """A finished shot in a folder, and what it was before anything was damaged.

    Attributes:
        folder: Where it is.
        first: The state before the first chunk.
        whole: Bytes of every file by name.
        states: Identity of the state after so many chunks.
    """

    folder: Path
    first: RolloutState = field(init=False)
    whole: dict[str, bytes] = field(default_factory=dict)
    states: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = begin(self.folder)
        state = open_folder(self.first)
        self.states = [identity(state)]
        while not state.complete:
            state = advance(state)
            self.states.append(identity(state))
        finish(state)
        self.whole = self.contents()

    def contents(self) -> dict[str, bytes]:
        """Bytes of every file by name."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def restore(self) -> None:
        """Bring every file back to what it was."""
        for name, content in self.whole.items():
            path = self.folder / name
            if path.read_bytes() != content:
                path.write_bytes(content)

    def places(self, name: str, every: int) -> Iterator[int]:
        """Every byte of a file's headers, and each so many of the rest."""
        content = self.whole[name]
        headers = _headers(name, content)
        for place in range(len(content)):
            if place % every == 0 or any(place in part for part in headers):
                yield place

    def outcome(self, name: str, content: bytes, *, remake: bool) -> str:
        """``same``, ``message`` or ``other``: what comes of the shot when one file is this.

        Args:
            name: Of the file.
            content: What it holds.
            remake: Make the chunks again that are not taken up. Without, a state that is the one
                which was there before is trusted to lead to the same shot.
        """
        (self.folder / name).write_bytes(content)
        try:
            state = open_folder(self.first)
            if identity(state) != self.states[state.done]:
                return "other"
            if not remake and not state.complete:
                return "same"
            while not state.complete:
                state = advance(state)
            finish(state)
        except MirageError:
            return "message"
        if remake:
            return "same" if self.contents() == self.whole else "other"
        return "same" if (self.folder / VIDEO).read_bytes() == self.whole[VIDEO] else "other"


def _headers(name: str, content: bytes) -> list[range]:
    """Where a file says what it holds."""
    if name.endswith(".safetensors"):
        return [range(8 + int.from_bytes(content[:8], "little"))]
    if not name.endswith(".mp4"):
        return [range(len(content))]
    parts, start = [], 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in MP4_HEADERS:
            parts.append(range(start, start + length))
        # The head of each box is one of the headers too.
        parts.append(range(start, start + 8))
        start += length
    return parts


def flipped(content: bytes, place: int) -> bytes:
    """The content with one bit changed, another one from byte to byte."""
    changed = bytearray(content)
    changed[place] ^= 1 << (place * 5 + place // 8) % 8
    return bytes(changed)


def sweep(shot: Shot, names: list[str], every: int, *, remake: bool) -> dict[str, Any]:
    """What came of every damage, by kind of file."""
    found: dict[str, Counter[str]] = {}
    others = []
    for name in names:
        kind = name if not name.startswith("chunk") else f"chunks{Path(name).suffix}"
        for place in shot.places(name, every):
            result = shot.outcome(name, flipped(shot.whole[name], place), remake=remake)
            found.setdefault(kind, Counter())[result] += 1
            if result == "other":
                others.append([name, place])
            shot.restore()
    return {"outcomes": {kind: dict(counts) for kind, counts in found.items()}, "others": others}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=EVERY, help="step behind the headers")
    parser.add_argument("--files", nargs="*", help="names of files; all by default")
    parser.add_argument("--remake", action="store_true", help="make chunks again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # One line for every damage is what is counted here.
    logger.setLevel(logging.ERROR)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mirage-damage-") as folder:
        shot = Shot(Path(folder) / "shot")
        names = arguments.files or list(shot.whole)
        report = sweep(shot, names, arguments.every, remake=arguments.remake)
    report["damages"] = sum(sum(counts.values()) for counts in report["outcomes"].values())
    report["seconds"] = round(time.monotonic() - started)
    print(json.dumps(report, indent=1))
    return 1 if report["others"] else 0


if __name__ == "__main__":
    sys.exit(main())
