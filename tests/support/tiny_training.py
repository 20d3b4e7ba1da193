"""A data set of random clips and a tiny model, to train on in tests and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import tiny_weights
from mirage_core.conditioning.condition import Condition
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipWriter

GRID = (4, 6)
FRAMES = 3
TEXT = 16

SETTINGS: dict[str, Any] = {
    "steps": 12, "batch": 4, "micro_batch": 2, "warmup": 2, "learning_rate": 1e-2,
    "text_tokens": 4, "side_blocks": 2, "lora_rank": 4, "dtype": "float32",
    "export_dtype": "float32", "checkpoint_every": 4, "validate_every": 0,
    "validation_scenes": 0,
}  # fmt: skip
"""Settings of a run that takes a second."""


def clip(number: int, *, planes: bool = False, grid: tuple[int, int] = GRID) -> TrainingClip:
    """A clip of noise, with 0..4 references, 0..2 preceding frames, every second one with text."""
    rng = torch.Generator().manual_seed(number)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, *grid, generator=rng)

    before = number % 3
    visible = torch.rand(FRAMES, *grid, generator=rng) > 0.3
    earlier = torch.rand(before, *grid, generator=rng) > 0.3
    extra = {}
    if planes:
        extra = {
            "offset": (noise(2, FRAMES) / 6).clamp(-0.5, 0.5) * visible,
            "log_depth": noise(FRAMES) / 10 * visible,
            "preceding_offset": (noise(2, before) / 6).clamp(-0.5, 0.5) * earlier,
            "preceding_log_depth": noise(before) / 10 * earlier,
        }
    return TrainingClip(
        target=noise(48, FRAMES),
        condition=Condition(
            projection=noise(48, FRAMES) * visible,
            visible=visible,
            preceding=noise(48, before),
            preceding_projection=noise(48, before) * earlier,
            preceding_visible=earlier,
            references=noise(48, number % 5),
            **extra,
        ),
        text=torch.randn(3, TEXT, generator=rng) if number % 2 else None,
        key=f"clip-{number}",
    )


def write_clips(folder: Path, numbers: range, name: str = "a", **options: Any) -> Path:
    """Store clips as one shard."""
    with ClipWriter(folder, name=name, dtype=torch.float32) as writer:
        for number in numbers:
            writer.add(clip(number, **options))
    return folder


def write_model(folder: Path) -> Path:
    """A tiny video model under released names."""
    size = tiny_weights.Backbone()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tiny_weights.backbone_tensors(size)
    return tiny_weights.write(folder / "model.safetensors", tensors, tiny_weights.metadata(size))


def write_branch(folder: Path) -> Path:
    """A side branch for it, as the first stage leaves one."""
    config = tiny_weights.branch_config()
    folder.mkdir(parents=True, exist_ok=True)
    return tiny_weights.write(
        folder / "branch.safetensors", tiny_weights.branch_tensors(config), config.metadata()
    )
