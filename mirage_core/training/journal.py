"""Where a run tells what it does: TensorBoard's files, and Weights & Biases where it is asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..files import storage_error
from .films import animated
from .packages import expect_packages
from .settings import TrainingSettings

LOGS: Final = "logs"
"""Folder of the TensorBoard files inside a run's folder."""

WANDB_MODE: Final = "WANDB_MODE"
OFFLINE: Final = "offline"


@dataclass(frozen=True)
class StepReport:
    """What happened in one step, or in the validation before the first one.

    Attributes:
        step: Steps that are done.
        steps: Steps of the run.
        values: Numbers by name: ``loss``, ``rate``, ``gradient``, ``seconds``, ``waiting`` (share
            of the time spent waiting for clips), and those of a validation. Before the first
            step there are those of the validation alone.
    """

    step: int
    steps: int
    values: dict[str, float]


class Journal:
    """The books of a run; nothing is written without a folder.

    TensorBoard writes in a thread of its own. What that meets is raised by a later call, all of
    which raise `StorageError`.

    Args:
        folder: Of the run; None in all processes but the first.
        step: Steps that are done: what a killed program told after its last state is not shown.
        settings: Of the run.

    Raises:
        PackageError: wandb is asked for and not installed.
    """

    def __init__(self, folder: Path | None, step: int, settings: TrainingSettings) -> None:
        self._writer: Any = None
        self._wandb: Any = None
        if folder is None:
            return
        self._logs = folder / LOGS
        expect_packages(settings)
        from torch.utils.tensorboard import SummaryWriter

        with self._typed():
            self._writer = SummaryWriter(str(self._logs), purge_step=step + 1 if step else 0)
            if settings.wandb:
                self._wandb = _open_wandb(folder, settings)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with self._typed():
                self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def facts(self, name: str, values: Mapping[str, object], step: int) -> None:
        """Write a table of facts, such as the settings."""
        if self._writer is None:
            return
        rows = "\n".join(f"| {key} | {value} |" for key, value in values.items())
        with self._typed():
            self._writer.add_text(name, f"| | |\n|---|---|\n{rows}", step)
        if self._wandb is not None:
            self._wandb.config.update({name: dict(values)}, allow_val_change=True)

    def write(self, report: StepReport) -> None:
        """Write the numbers of a step."""
        if self._writer is None:
            return
        with self._typed():
            for name, value in report.values.items():
                self._writer.add_scalar(name, value, report.step)
        if self._wandb is not None:
            self._wandb.log(dict(report.values), step=report.step)

    def film(self, name: str, frames: Tensor, fps: float, step: int, path: Path) -> None:
        """Write a video (F, H, W, 3) that also stands in ``path``."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        content, width, height = animated(frames, fps)
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=content
        )
        with self._typed():
            self._writer.file_writer.add_summary(
                Summary(value=[Summary.Value(tag=name, image=image)]), step
            )
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Video(str(path), format="mp4")}, step=step)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(self._logs, error) from error


def _open_wandb(folder: Path, settings: TrainingSettings) -> Any:
    """A run of wandb inside the run's folder; offline unless the environment says otherwise.

    A run that goes on is another one of the same group: wandb takes no step twice.
    """
    import wandb

    return wandb.init(
        project=settings.wandb,
        group=folder.resolve().name,
        dir=str(folder),
        mode=os.environ.get(WANDB_MODE, OFFLINE),
        config={"settings": dataclasses.asdict(settings)},
    )
