"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..checkpoints.lora_format import LoraFile
from ..conditioning.features import Features
from ..errors import ResumeError, ValueRangeError
from ..files import ensure_writable_folder, storage_error
from ..log import logger
from .batch import BatchMaker
from .checkpoint import TrainingState, has_state, load_state, remove_partial, save_state
from .data.dataset import ClipDataset
from .distributed import Distributed, gathered, local_shard, sharded_like
from .export import export_weights
from .flow import flow_loss
from .forward import velocity
from .optimiser import Ema, Optimiser
from .prefetch import Prefetcher
from .sampler import ClipSampler, Position
from .settings import DTYPES, SETTINGS, TrainingSettings
from .stages import prepare_model, seeded
from .validation import LoopTest, describe, held_out_loss

LOGS: Final = "logs"
"""Folder of the TensorBoard files inside a run's folder."""


@dataclass(frozen=True)
class StepReport:
    """What happened in one step.

    Attributes:
        step: Steps that are done.
        steps: Steps of the run.
        values: Numbers by name: ``loss``, ``rate``, ``gradient``, ``seconds``, ``waiting`` (share
            of the time spent waiting for clips), and those of a validation.
    """

    step: int
    steps: int
    values: dict[str, float]


OnStep = Callable[[StepReport], None]
"""Called in every process after every step; may raise to stop."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What is read, and what goes with it.

    Attributes:
        folder: Data set to train on.
        empty_text: (L, D) what stands for a missing or dropped caption.
        held_out: Data set that the loss is measured on; None for none.
        white: (C, F, h, w) latent of a white video, for branches that take one.
        loss_weights: (C,) of the loss, see `mirage_core.training.flow.pixel_weights`.
    """

    folder: Path
    empty_text: Tensor
    held_out: Path | None = None
    white: Tensor | None = None
    loss_weights: Tensor | None = None


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
        self.processes.share(self.settings.micro_batches)
        prepare_model(self.model, self.settings, self.lora)
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

    def run(self, on_step: OnStep | None = None) -> None:
        """Train until the settings' last step, with checkpoints and validations on the way.

        Raises:
            ValueRangeError: The loss or the gradient is not a number any more.
            StorageError: A checkpoint cannot be written; the ones before it are good.
        """
        settings = self.settings
        if self.step >= settings.steps:
            return
        shards = self._position.shards if self._position else ()
        dataset = ClipDataset(self.data.folder, shards=shards)
        sampler = ClipSampler(dataset, settings.micro_batch, settings.seed, self._position)
        with (
            Prefetcher(
                dataset, sampler, self._maker,
                micro_batches=settings.micro_batches,
                share=self.processes.share(settings.micro_batches),
                first_step=self.step,
            ) as batches,
            _Log(self.folder / LOGS if self.processes.first else None, self.step) as log,
        ):  # fmt: skip
            while self.step < settings.steps:
                values = self._step(batches)
                # Saved first: what stops a validation must not cost the steps before it.
                if self._due(settings.checkpoint_every):
                    self.save()
                if self._due(settings.validate_every):
                    values |= self.validate()
                report = StepReport(self.step, settings.steps, values)
                log.write(report)
                if on_step is not None:
                    on_step(report)

    def validate(self) -> dict[str, float]:
        """Loss and closed loops of the averaged weights; all processes must call this."""
        settings, values = self.settings, {}
        self.model.eval()
        with self._averaged(), torch.no_grad():
            if self.data.held_out is not None and settings.validation_clips:
                dataset = ClipDataset(self.data.held_out)
                values["held_out/loss"] = held_out_loss(
                    self.model, dataset, self._maker, self.processes, self.data.loss_weights
                )
            if self.loops is not None and settings.validation_scenes:
                values |= describe(self.loops(self.model))
        return values

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
            state = TrainingState(self.step, self._position, weights, average, moments)
            save_state(self.folder, state, self.settings.keep)
        self.processes.wait()

    def _step(self, batches: Prefetcher) -> dict[str, float]:
        settings, processes = self.settings, self.processes
        began, waited = time.perf_counter(), batches.waited
        share = processes.share(settings.micro_batches)
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
                loss.backward()
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
            self.settings.expect_same(TrainingSettings.load(path))
        self.processes.wait()
        if self.processes.first:
            ensure_writable_folder(self.folder)
            remove_partial(self.folder)
        self.processes.wait()

    def _restore(self, state: TrainingState) -> None:
        if state.step > self.settings.steps:
            raise ResumeError(
                "The run is already longer than the settings say",
                got=f"a state after {state.step} of {self.settings.steps} steps",
            )
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


class _Log:
    """TensorBoard files; nothing without a folder.

    TensorBoard writes in a thread of its own. What that meets is raised by a later call, all of
    which raise `StorageError`.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        self._folder = folder
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed program logged after its last state is not shown.
            with self._typed():
                self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with self._typed():
                self._writer.close()

    def write(self, report: StepReport) -> None:
        """Log the numbers of a step."""
        if self._writer is not None:
            with self._typed():
                for name, value in report.values.items():
                    self._writer.add_scalar(name, value, report.step)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(self._folder or Path(LOGS), error) from error
