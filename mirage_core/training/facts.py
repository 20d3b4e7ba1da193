"""What a run will take: epochs, disk and memory; and what it learns from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ..files import storage_error
from .data.dataset import ClipDataset
from .data.manifest import MANIFEST, read_manifest
from .memory_estimate import GIB, plan_prepared
from .settings import DTYPES, TrainingSettings

STATE_COPIES: Final = 3
"""Float32 numbers of a state for each trained one, without the average: itself and two moments."""


@dataclass(frozen=True)
class RunFacts:
    """What a run will take.

    Attributes:
        steps: Of the run.
        left: Of them, still to be done.
        batch: Clips of a step.
        clips: Of the data set.
        checkpoint: Bytes of finished weights at a checkpoint.
        state: Bytes of a state to resume from.
        disk: Bytes that the folder will have grown by in the end, without films and logs.
        free: Bytes that the disk has left.
        memory: Bytes of one device, in part an estimate.
        device: Bytes that the device has; 0 where that is not known.
    """

    steps: int
    left: int
    batch: int
    clips: int
    checkpoint: int
    state: int
    disk: int
    free: int
    memory: int
    device: int

    def describe(self) -> str:
        """One line."""
        epochs = self.steps * self.batch / max(1, self.clips)
        device = f" of {_size(self.device)}" if self.device else ""
        return (
            f"{self.left:,} of {self.steps:,} steps of {self.batch} clips, {epochs:.1f} epochs of "
            f"{self.clips:,} clips in all; disk: {_size(self.checkpoint)} a checkpoint, "
            f"{_size(self.state)} a state, {_size(self.disk)} by the end, {_size(self.free)} free; "
            f"memory: about {_size(self.memory)}{device}"
        )


def run_facts(trainer: Any) -> RunFacts:
    """What a run will take, before its first step.

    Args:
        trainer: A `mirage_core.training.trainer.Trainer`.

    Raises:
        StorageError: The disk of the run's folder cannot be asked.
    """
    settings: TrainingSettings = trainer.settings
    dataset = ClipDataset(trainer.data.folder)
    sizes = dataset.entry(0).sizes
    trained = sum(p.numel() for p in trainer.parameters.values())
    number = DTYPES[settings.export_dtype].itemsize
    lora = sum(p.numel() for name, p in trainer.parameters.items() if ".lora_" in name)
    # A LoRA is written under two naming schemes.
    checkpoint = number * (trained + lora)
    state = 4 * trained * (STATE_COPIES + bool(settings.ema_decay))
    left = settings.steps - trainer.step
    checkpoints = -(-left // settings.checkpoint_every)
    plan = plan_prepared(
        trainer.model, settings, trainer.processes.count, (sizes.height, sizes.width)
    )
    return RunFacts(
        steps=settings.steps,
        left=left,
        batch=settings.batch,
        clips=len(dataset),
        checkpoint=checkpoint,
        state=state,
        disk=checkpoints * checkpoint + min(checkpoints, settings.keep) * state,
        free=_free(trainer.folder),
        memory=plan.total,
        device=_device_memory(trainer.processes.device),
    )


def data_facts(folder: Path) -> dict[str, object]:
    """What a data set is, by name: place, clips, size, frames, and how it was made."""
    dataset = ClipDataset(folder)
    sizes = dataset.entry(0).sizes
    found: dict[str, object] = {
        "folder": folder.resolve(), "clips": len(dataset), "latent frames": sizes.target,
        "latent grid": f"{sizes.width}x{sizes.height}",
    }  # fmt: skip
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        found |= {
            "codec": manifest.codec, "size": f"{manifest.width}x{manifest.height}",
            "made with": manifest.settings, "text": manifest.text or "none",
        }  # fmt: skip
    return found


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(folder, error) from error


def _device_memory(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def _size(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / (1 << 20):.1f} MiB"
