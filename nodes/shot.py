"""A shot on its way between nodes: planned, begun by a loop, and written chunk by chunk."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from ..mirage_core.errors import MirageError
from ..mirage_core.files import make_unused_folder
from ..mirage_core.folder_lock import exclusive_folder
from ..mirage_core.rollout.chain import shot_start
from ..mirage_core.rollout.run_folder import open_folder
from ..mirage_core.rollout.state import RolloutState, rollout_id
from .comfy.prompt import running_prompt, when_prompt_ends

_made: dict[tuple[str, Path], Path] = {}
"""Folders that were made in place of used ones, by prompt and used folder."""


@dataclass(frozen=True)
class PlannedShot:
    """What Rollout Start plans; every loop that begins from it makes a rollout of its own.

    Attributes:
        state: The state before the first chunk, of no rollout yet.
        folder: Where the loops' rollouts get folders.
        resume: Go on with saved chunks of the same rollout.
        start_id: The Rollout Start.
        as_given: The state's cameras are those that the Rollout Start was given, unchanged.
    """

    state: RolloutState
    folder: Path
    resume: bool
    start_id: str
    as_given: bool = False

    def begin(self, settings: str, ways: str) -> RolloutState:
        """The rollout of a loop, after the chunks that it has saved.

        No other program gets into its folder before the prompt is over.

        Args:
            settings: Text that stands for all that the loop does, and for all that leads to it.
            ways: Text that stands for what the loop does with what the plan holds. Chunks of
                shots with equal texts are taken over.

        Raises:
            FolderInUseError: Another program works on this rollout.
            ResumeError: The folder belongs to another rollout.
            StorageError: The folder cannot be written.
        """
        plan = self.state
        run_id = rollout_id(
            plan.trajectory, plan.cache, plan.first_latent, plan.seed, settings, plan.lengths
        )
        folder = self._folder(run_id)
        held = ExitStack()
        held.enter_context(exclusive_folder(folder))
        when_prompt_ends(held.close)
        start = shot_start(plan.cache, plan.first_latent, plan.seed, ways)
        begun = dataclasses.replace(plan, run_id=run_id, folder=folder, start=start)
        return open_folder(begun, anew=not self.resume)

    def _folder(self, run_id: str) -> Path:
        """The rollout's folder; without ``resume`` a new one for each prompt."""
        folder = self.folder / run_id[:12]
        if self.resume:
            return folder
        # Without a cache ComfyUI may run a Loop Open twice in one prompt.
        key = running_prompt(), folder
        if not key[0]:
            return make_unused_folder(folder)
        if key not in _made:
            _made[key] = make_unused_folder(folder)
            when_prompt_ends(partial(_made.__delitem__, key))
        return _made[key]


def expect_begun(state: RolloutState | PlannedShot) -> RolloutState:
    """The state itself; raises `MirageError` for one that belongs to no rollout yet."""
    if isinstance(state, PlannedShot):
        raise MirageError(
            "The state comes straight from Mirage Rollout Start",
            expected="the state of a loop, which says what is made and where it is saved",
            fix="Connect Mirage Rollout Start to Mirage Loop Open, and take state from there",
        )
    return state


_writers: WeakKeyDictionary[RolloutState, str] = WeakKeyDictionary()
"""States whose chunk is written, and the Cache Update that does."""


def expect_one_writer(state: RolloutState, node_id: str) -> None:
    """Raise `MirageError` when another node writes the chunk after ``state``.

    Args:
        state: The state before the chunk.
        node_id: The Cache Update that is about to write.
    """
    if _writers.setdefault(state, node_id) != node_id:
        raise MirageError(
            "The loop's body writes the same chunk twice",
            got=f"nodes {_writers[state]} and {node_id} with the same state",
            expected="one Mirage Cache Update in the body of a loop",
            fix="Remove one, or give it a loop of its own: copy the body together with Mirage "
            "Loop Open and Mirage Loop Close",
        )
