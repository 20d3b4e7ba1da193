"""Settings by name: those of the paper, and the shortest way to a branch that reads tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .settings import PRESETS, TrainingSettings

_PAPER: Final[Mapping[str, Any]] = {
    "batch": 64,
    "beta1": 0.0,
    "beta2": 0.999,
    "weight_decay": 1e-3,
    "text_dropout": 0.2,
    "side_blocks": 8,
    "side_features": "scene,visible",
    "side_shared_embedding": True,
    "side_init": "copy",
    "lora_rank": 64,
    "lora_layers": "attention",
    "lora_dropout": 0.05,
}
"""What the paper says of both stages. The LoRA's alpha is its rank in every run."""

_VALUES: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {},
    "paper-stage-one": {**_PAPER, "stage": "branch", "learning_rate": 1e-5},
    "paper-stage-two": {**_PAPER, "stage": "joint", "learning_rate": 1e-4},
    "from-spatia": {
        "stage": "branch",
        "new_planes": True,
        "side_features": "scene,visible",
        "steps": 3000,
        "warmup": 100,
        "learning_rate": 1e-4,
        # Spatia's branch was trained at 1e-5: its blocks come to that rate, and not above.
        "still_steps": 500,
        "still_rate": 0.01,
        "rest_rate": 0.1,
    },
}


def preset_values(name: str) -> Mapping[str, Any]:
    """The settings that a preset says something of, by name."""
    return _VALUES.get(name, {})


def preset_settings(name: str) -> TrainingSettings:
    """Settings of a preset; what it says nothing of has its default.

    Args:
        name: One of `mirage_core.training.settings.PRESETS`.

    Raises:
        ValueRangeError: The name is unknown.
    """
    return TrainingSettings(preset=name, **preset_values(name))


def first_settings(preset: str | None, saved: TrainingSettings | None) -> TrainingSettings:
    """What the options of a command replace: the run's own settings, a preset, or the defaults.

    Args:
        preset: As given; None where none was.
        saved: Settings of the run that is there, if any. Those of a run that was begun with
            another preset do not count.

    Raises:
        ValueRangeError: The preset is unknown.
    """
    if saved is not None and preset in (None, saved.preset):
        return saved
    return preset_settings(preset or PRESETS[0])
