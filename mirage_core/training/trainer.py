"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.lora_format import LoraFile
from ..conditioning.features import Features
from ..errors import ResumeError, ValueRangeError
from ..files import ensure_writable_folder
from ..log import logger
from ..rollout.video import write_clip
from .batch import BatchMaker, one_text
from .checkpoint import (
    FILMS,
    TrainingState,
    has_state,
    load_state,
    remove_partial,
    save_state,
    step_name,
)
from .context_parallel import share_frames
from .data.dataset import ClipDataset
from .distributed import (
    Distributed,
    compile_blocks,
    gathered,
    local_shard,
    sharded_like,
)
from .export import export_weights
from .facts import data_facts
from .flow import flow_loss
from .forward import velocity
from .frozen import expect_same_frozen, frozen_digest
from .journal import Journal, StepReport
from .optimiser import Ema, Optimiser
from .prefetch import Prefetcher
from .sampler import ClipSampler, Position
from .settings import DTYPES, OF_BRANCH, SETTINGS, TrainingSettings
from .settings_file import read_document
from .stages import prepare_model, seeded
from .stop import StopFlag, StopRequested
from .validation import Film, LoopTest, describe, held_out_loss

OnStep = Callable[[StepReport], None]
"""Called in every process after every step, and after the validation before the first one; may
raise to stop."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What is read, and what goes with it.

    Attributes:
        folder: Data set to train on.
        empty_text: (L, D) or (1, L, D) what stands for a missing or dropped caption.
        held_out: Data set that the loss is measured on; None for none.
        white: (C, F, h, w) latent of a white video, for branches that take one.
        loss_weights: (C,) of the loss, see `mirage_core.training.flow.pixel_weights`.
    """

    folder: Path
    empty_text: Tensor
    held_out: Path | None = None
    white: Tensor | None = None
    loss_weights: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "empty_text", one_text(self.empty_text))


@dataclass(eq=False)
class Trainer:
    """One run in one folder; making it reads the newest state, if there is one.

    Attributes:
        model: A `mirage_core.models.transformer.MirageTransformer3DModel` on its device. The
            stage's branch and LoRA are added to it.
        settings: Of the run.
        data: What is read.
        folder: Of the run.
        processes: That share the run.
        loops: Closed loops of the validation; None for none.
        lora: What the LoRA begins as; None for a new one, which changes nothing at first.

    Raises:
        ResumeError: The folder holds a run with other settings, or damaged states only.
        ModelMismatchError: The model does not fit the stage or the saved state.
        CacheFormatError: The data set is empty or damaged.
        StorageError: The folder cannot be written.
    """

    model: Any
    settings: TrainingSettings
    data: TrainingData
    folder: Path
    processes: Distributed = field(default_factory=lambda: Distributed(cpu=True))
    loops: LoopTest | None = None
    lora: LoraFile | None = None
    step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._open()
        self._share()
        prepare_model(self.model, self.settings, self.lora)
        self._frozen = frozen_digest(self.model)
        if self.settings.compile:
            compile_blocks(self.model)
        share_frames(self.model, self.settings, self.processes)
        self.processes.shard(self.model)
        # Sharing out replaces parameters by their parts.
        self._parameters: dict[str, nn.Parameter] = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad
        }
        self._optimiser = Optimiser(self._parameters, self.settings)
        self._position: Position | None = None
        state = load_state(self.folder)
        if state is not None:
            self._restore(state)
        # The average begins at the weights, so it is made after they are there.
        decay = self.settings.ema_decay
        self._ema = Ema(self._parameters, decay) if decay else None
        if self._ema is not None and state is not None:
            self._ema.load(state.average)
        self._maker = BatchMaker(
            self.settings, self._features(), self.data.empty_text.float(), self.data.white
        )
        if self.processes.first:
            self.settings.save(self.folder)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, as they are sharded."""
        return self._parameters

    def run(self, on_step: OnStep | None = None, stop: StopFlag | None = None) -> bool:
        """Train until the settings' last step, with checkpoints and validations on the way.

        Args:
            on_step: Called after every step, and after the validation before the first one.
            stop: Asked after every step, and inside validations. A run that is to end saves
                what it has and returns.

        Returns:
            True when the last step is done.

        Raises:
            ValueRangeError: The loss or the gradient is not a number any more.
            StorageError: A checkpoint cannot be written; the ones before it are good.
        """
        settings, stop = self.settings, stop or StopFlag(self.processes)
        if self.step >= settings.steps:
            return True
        shards = self._position.shards if self._position else ()
        dataset = ClipDataset(self.data.folder, shards=shards)
        sampler = ClipSampler(dataset, settings.micro_batch, settings.seed, self._position)
        with (
            Prefetcher(
                dataset, sampler, self._maker,
                micro_batches=settings.micro_batches,
                share=self._share(),
                first_step=self.step,
            ) as batches,
            Journal(self.folder if self.processes.first else None, self.step, settings) as journal,
        ):  # fmt: skip
            self._tell_facts(journal)
            ending = self._begin(journal, stop, on_step)
            while self.step < settings.steps and not ending:
                values = self._step(batches)
                ending = self._save_and_validate(values, stop, journal)
                self._report(values, journal, on_step)
        return self.step >= settings.steps

    def _begin(self, journal: Journal, stop: StopFlag, on_step: OnStep | None) -> bool:
        """Validate before the first step: what all later ones are compared with."""
        if self.step or not self.settings.validate_every:
            return False
        try:
            values = self.validate(stop, journal)
        except StopRequested:
            return True
        if values:
            self._report(values, journal, on_step)
        return False

    def _report(
        self, values: dict[str, float], journal: Journal, on_step: OnStep | None
    ) -> None:
        report = StepReport(self.step, self.settings.steps, values)
        journal.write(report)
        if on_step is not None:
            on_step(report)

    def _tell_facts(self, journal: Journal) -> None:
        if not self.processes.first:
            return
        journal.facts("settings", dataclasses.asdict(self.settings), self.step)
        journal.facts("data", data_facts(self.data.folder), self.step)
        if self.data.held_out is not None:
            journal.facts("held_out", data_facts(self.data.held_out), self.step)

    def _save_and_validate(
        self, values: dict[str, float], stop: StopFlag, journal: Journal
    ) -> bool:
        """What is due after a step, its numbers added to ``values``; True to end here."""
        ending = stop.agreed()
        # Saved first: what stops a validation must not cost the steps before it.
        saved = ending or self._due(self.settings.checkpoint_every)
        if saved:
            self.save()
        if ending or not self._due(self.settings.validate_every):
            return ending
        try:
            values |= self.validate(stop, journal)
        except StopRequested:
            if not saved:
                self.save()
            return True
        return False

    def validate(
        self, stop: StopFlag | None = None, journal: Journal | None = None
    ) -> dict[str, float]:
        """Loss and closed loops of the averaged weights; all processes must call this.

        Args:
            stop: Asked on the way.
            journal: Gets films of the closed loops, which are also kept in the run's folder.

        Raises:
            StopRequested: ``stop`` was asked to end on the way.
        """
        settings, values = self.settings, {}
        self.model.eval()
        with self._averaged(), torch.no_grad():
            if self.data.held_out is not None and settings.validation_clips:
                dataset = ClipDataset(self.data.held_out)
                values["held_out/loss"] = held_out_loss(
                    self.model, dataset, self._maker, self.processes, self.data.loss_weights, stop
                )
            if self.loops is not None and settings.validation_scenes:
                on_film = None
                if journal is not None and self.processes.first:
                    on_film = partial(self._keep_film, journal)
                values |= describe(self.loops(self.model, stop, on_film))
        return values

    def _keep_film(self, journal: Journal, film: Film) -> None:
        path = self.folder / FILMS / step_name(self.step) / f"room_{film.scene}.mp4"
        write_clip(path, film.frames, film.fps)
        journal.film(f"closed_loop/room_{film.scene}", film.frames, film.fps, self.step, path)

    def save(self) -> None:
        """Write finished weights and a state to resume from; all processes must call this."""
        weights = self._gather(self._parameters.items())
        average = {} if self._ema is None else self._gather(self._ema.tensors())
        moments = self._gather(self._optimiser.tensors())
        if self.processes.first and self._position is not None:
            export_weights(
                self.folder,
                self.step,
                self.model,
                average or weights,
                DTYPES[self.settings.export_dtype],
                full_model=self.settings.trains_full_model,
            )
            state = TrainingState(
                self.step, self._position, weights, average, moments, self._frozen
            )
            save_state(self.folder, state, self.settings.keep)
        self.processes.wait()

    def _step(self, batches: Prefetcher) -> dict[str, float]:
        settings, processes = self.settings, self.processes
        began, waited = time.perf_counter(), batches.waited
        share = self._share()
        self.model.train()
        total = torch.zeros((), device=processes.device)
        for _ in share:
            micro_batch = next(batches)
            batch = micro_batch.batch.to(processes.device, settings.compute_dtype)
            with seeded(batch.seed, processes.device):
                loss = flow_loss(
                    velocity(self.model, batch, settings),
                    batch.target, batch.noise, self.data.loss_weights,
                ) / len(share)  # fmt: skip
                # Gradients are averaged over all processes, and summed where they share a clip.
                (loss * settings.context_parallel).backward()
            total += loss.detach()
        mean = float(processes.mean(total))
        norm = float(self._optimiser.step(self.step))
        _expect_finite(self.step, mean, norm)
        if self._ema is not None:
            self._ema.update(self.step)
        self._position = micro_batch.position
        rate = settings.rate(self.step)
        self.step += 1
        seconds = time.perf_counter() - began
        waiting = (batches.waited - waited) / max(seconds, 1e-9)
        return {
            "loss": mean, "rate": rate, "gradient": norm, "seconds": seconds, "waiting": waiting,
        }  # fmt: skip

    def _share(self) -> range:
        """Which of a step's micro-batches are this process's."""
        return self.processes.share(self.settings.micro_batches, self.settings.context_parallel)

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.settings.steps)

    def _averaged(self) -> Any:
        return nullcontext() if self._ema is None else self._ema.applied()

    def _gather(self, tensors: Any) -> dict[str, Tensor]:
        """Whole tensors on the CPU of the first process; the others get none."""
        found = {}
        for name, tensor in tensors:
            full = gathered(tensor.detach())
            if self.processes.first:
                found[name] = full.float().cpu().clone()
        return found

    def _open(self) -> None:
        """Make the folder ready, and refuse one that holds a run with other settings."""
        path = self.folder / SETTINGS
        if path.exists() and has_state(self.folder):
            self.settings.expect_same(self._settings_there(path))
        self.processes.wait()
        if self.processes.first:
            ensure_writable_folder(self.folder)
            remove_partial(self.folder)
        self.processes.wait()

    def _settings_there(self, path: Path) -> TrainingSettings:
        """Settings of the run that the folder holds."""
        there = TrainingSettings.load(path)
        version, values = read_document(path)
        # Of the files of version 1 only the later ones have this entry; those before it hold the
        # defaults of a new branch where one was given.
        if self.model.branch_config is None or version > 1 or "new_planes" in values:
            return there
        own = {name: getattr(self.settings, name) for name in OF_BRANCH}
        return dataclasses.replace(there, **own)

    def _restore(self, state: TrainingState) -> None:
        if state.step > self.settings.steps:
            raise ResumeError(
                "The run is already longer than the settings say",
                got=f"a state after {state.step} of {self.settings.steps} steps",
            )
        expect_same_frozen(state.frozen, self._frozen)
        state.expect_fits(self._parameters)
        self._optimiser.load(state.moments, state.step)
        self._position, self.step = state.position, state.step
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                saved = sharded_like(state.weights[name], parameter.data)
                local_shard(parameter.detach()).copy_(local_shard(saved))
        logger.info("Resuming after step %d of %s", state.step, self.folder)

    def _features(self) -> Features:
        branch = self.model.branch_config
        return () if branch is None else branch.features


def _expect_finite(step: int, loss: float, norm: float) -> None:
    if loss == loss and norm == norm and abs(loss) != float("inf") and norm != float("inf"):
        return
    raise ValueRangeError(
        f"The training diverged in step {step + 1}",
        got=f"loss {loss}, gradient {norm}",
        expected="finite numbers",
        fix="Resume from the last checkpoint with a lower learning rate, in another folder",
    )
