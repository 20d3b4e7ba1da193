"""`rollout.json`: whose folder it is, and what the chunks in it are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..digests import is_whole, sealed
from ..errors import PlanError
from ..files import atomic_write
from .plan import ChunkLengths
from .state import RolloutState

FORMAT: Final = "mirage-rollout"
VERSION: Final = 1
MANIFEST: Final = "rollout.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder says of its rollout.

    Attributes:
        run_id: Whose folder it is.
        lengths: How long the chunks are.
        chains: Of every chunk of the plan, made or not; empty in folders of earlier versions.
        anew: All chunks were asked to be made anew: none comes from another folder.
        kept: Where the shot is that the folder held before; None where it held none.
    """

    run_id: str
    lengths: ChunkLengths
    chains: tuple[str, ...] = ()
    anew: bool = False
    kept: Path | None = None

    def shared_with(self, state: RolloutState) -> int:
        """How many leading chunks are the same in both shots, if they are made."""
        count = 0
        for ours, theirs in zip(state.chains, self.chains, strict=False):
            if ours != theirs:
                break
            count += 1
        return count


def read_manifest(path: Path) -> Manifest | None:
    """What the file says; None where it is damaged, foreign, or not there.

    A folder without lengths was begun with the default ones.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or not is_whole(found):
            return None
        lengths = ChunkLengths(**found.get("lengths", {}))
        chains = tuple(map(str, found.get("chains", ())))
        return Manifest(str(found["run_id"]), lengths, chains, bool(found.get("anew", False)))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, PlanError):
        return None


def write_manifest(path: Path, state: RolloutState, *, anew: bool = False) -> None:
    """Note in a folder whose it is.

    Raises:
        StorageError: The folder cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "run_id": state.run_id,
        "frames": len(state.trajectory),
        "width": state.trajectory.width,
        "height": state.trajectory.height,
        "fps": state.trajectory.fps,
        "seed": state.seed,
        "chunks": len(state.plan),
    }
    if not state.lengths.are_default:
        content["lengths"] = asdict(state.lengths)
    if state.chains:
        content["chains"] = list(state.chains)
    if anew:
        content["anew"] = True
    with atomic_write(path, "w") as file:
        json.dump(sealed(content), file, indent=1)
