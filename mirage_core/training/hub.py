"""A run's weights as a folder that a hub of models takes: files, settings, and a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ResumeError, StorageError
from ..files import atomic_path, atomic_write, ensure_writable_folder
from ..tensor_files import read_header
from .checkpoint import ANY_STEP, FILMS, step_name
from .journal import LOGS
from .settings import SETTINGS, TrainingSettings

CARD: Final = "README.md"
FILM: Final = "validation.mp4"
BASE: Final = "Wan-AI/Wan2.2-TI2V-5B"
"""Name of the video model under which hubs know it."""

BASE_WIDTH: Final = 3072
"""Its channels: what was trained with a model of another width is not for it."""

MODEL: Final = "model/{step}_model.safetensors"
BRANCH: Final = "vace/{step}_vace.safetensors"
LORA: Final = "lora/{step}_lora.safetensors"

WIDTHS: Final = {
    MODEL: ("patch_embedding.weight", 0), BRANCH: ("after_proj.weight", 0),
    LORA: ("self_attn.q.lora_A.weight", -1),
}  # fmt: skip
"""How the name of a tensor ends that is as wide as the video model, and along which axis."""

KINDS: Final = {
    BRANCH: (
        "mirage_branch.safetensors", "the side branch: ComfyUI's `models/model_patches`, for "
        "Mirage Load Branch, or `mirage rollout --branch`",
    ),
    "lora/{step}_lora_comfyui.safetensors": (
        "mirage_lora_comfyui.safetensors", "the LoRA: ComfyUI's `models/loras`, for any LoRA "
        "loader, or `mirage rollout --lora`",
    ),
    LORA: (
        "mirage_lora.safetensors", "the same LoRA under the names of the released code",
    ),
    MODEL: (
        "mirage_model.safetensors", "the whole model with its branch, for `mirage rollout`; "
        "`mirage split` takes it apart for the graph",
    ),
}  # fmt: skip
"""Finished files of a run, what they are called in the folder, and what they are for."""

LAST_LOSSES: Final = 100
"""Steps whose mean loss the card tells."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the settings.

    Attributes:
        license: Identifier of the licence under which the weights are given away.
        base: Name of the video model on a hub; None where it is no model that hubs know.
        model: What the video model is, for people, such as "for Wan-AI/Wan2.2-TI2V-5B".
        data: Facts of the clips by name, without places on this machine.
    """

    license: str
    base: str | None
    model: str
    data: Mapping[str, object]


def newest_step(run: Path) -> int:
    """The last step of which a run has finished weights.

    Raises:
        ResumeError: It has none.
    """
    steps = [
        int(path.name.split("_")[1])
        for pattern in KINDS
        for path in run.glob(pattern.format(step=ANY_STEP))
    ]
    if not steps:
        raise ResumeError(
            "The folder holds no finished weights",
            got=run,
            expected="the folder of a run of mirage train, after its first checkpoint",
        )
    return max(steps)


def width_of(run: Path, step: int) -> int | None:
    """Channels of the video model that a run's weights belong to; None where they do not tell.

    Args:
        run: Folder of a run.
        step: Whose weights are taken.

    Raises:
        ModelMismatchError: A file is damaged.
    """
    for pattern, (ending, axis) in WIDTHS.items():
        path = run / pattern.format(step=step_name(step))
        shapes = read_header(path).shapes if path.exists() else {}
        for name, shape in shapes.items():
            if name.endswith(ending):
                return shape[axis]
    return None


def export_run(run: Path, out: Path, step: int, facts: CardFacts) -> list[Path]:
    """Write the folder; nothing is sent anywhere.

    Args:
        run: Folder of the run.
        out: A new or empty folder.
        step: Whose weights are taken.
        facts: For the card.

    Returns:
        What was written, the card last.

    Raises:
        ResumeError: The run has no weights of this step, or its settings are damaged.
        StorageError: The folder is not empty, or cannot be written.
    """
    name = step_name(step)
    found = {
        run / pattern.format(step=name): entry
        for pattern, entry in KINDS.items()
        if (run / pattern.format(step=name)).exists()
    }
    if not found:
        raise ResumeError(f"The run has no finished weights of step {step}", got=run)
    settings = TrainingSettings.load(run / SETTINGS)
    if out.is_dir() and any(out.iterdir()):
        raise StorageError("The folder is not empty", got=out, fix="Choose a new folder with --out")
    ensure_writable_folder(out)
    written = [_copied(path, out / entry[0]) for path, entry in found.items()]
    film = _film(run, step)
    if film is not None:
        written.append(_copied(film, out / FILM))
    written.append(settings.save(out))
    files = {entry[0]: entry[1] for entry in found.values()}
    with atomic_write(out / CARD, "w") as file:
        file.write(_card(settings, step, facts, files, figures(run, step), film is not None))
    return [*written, out / CARD]


def figures(run: Path, step: int) -> dict[str, tuple[int, float]]:
    """Numbers of the last validation up to a step, and the mean loss before it, from the logs.

    Returns:
        Step and value by name.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / LOGS), {"scalars": 0})
    events.Reload()
    found: dict[str, tuple[int, float]] = {}
    for name in events.Tags()["scalars"]:
        past = [event for event in events.Scalars(name) if event.step <= step]
        if name == "loss" and past:
            last = [event.value for event in past[-LAST_LOSSES:]]
            found[f"loss, mean of the last {len(last)} steps"] = step, sum(last) / len(last)
        elif past and name.startswith(("held_out/", "closed_loop/")):
            found[name] = past[-1].step, past[-1].value
    return found


def _copied(source: Path, target: Path) -> Path:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _film(run: Path, step: int) -> Path | None:
    """A film of the last validation up to a step."""
    films = sorted((run / FILMS).glob("step_*/*.mp4"))
    past = [film for film in films if int(film.parent.name.split("_")[1]) <= step]
    last = [film for film in past if film.parent == past[-1].parent]
    return last[0] if last else None


def _card(
    settings: TrainingSettings,
    step: int,
    facts: CardFacts,
    files: Mapping[str, str],
    measured: Mapping[str, tuple[int, float]],
    filmed: bool,
) -> str:
    values: dict[str, Any] = vars(settings)
    lines = ["---", f"license: {facts.license}", "pipeline_tag: image-to-video"]
    if facts.base is not None:
        lines += [f"base_model: {facts.base}", "base_model_relation: adapter"]
    lines += ["tags:", "- video-generation", "- camera-control", "- mirage", "---", ""]
    lines += [
        "# Latent spatial memory", "",
        f"Weights {facts.model}: a video model is shown what a memory of 3D points with latent "
        f"tokens knows. Stage `{settings.stage}` of Mirage, after {step:,} steps.", "",
        "## Files", "", "| file | is |", "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in files.items()),
        f"| `{SETTINGS}` | all settings of the training |",
    ]  # fmt: skip
    if filmed:
        lines.append(f"| `{FILM}` | a validation: memory, made, truth, from the left |")
    lines += ["", "## Data", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.data.items()]
    lines += ["", "## Figures", ""]
    if measured:
        lines += ["Closed loops are in dB, on procedural rooms with seeds kept for validation.", ""]
        lines += ["| | value | at step |", "|---|---|---|"]
        lines += [f"| {name} | {value:.4g} | {at} |" for name, (at, value) in measured.items()]
    else:
        lines.append("None were measured.")
    lines += ["", "## Settings", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in values.items() if name != "wandb"]
    return "\n".join(lines) + "\n"
