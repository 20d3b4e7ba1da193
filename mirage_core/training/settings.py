"""How a model is trained: every choice that its weights depend on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from ..conditioning.features import parse_features
from ..errors import ResumeError, ValueRangeError
from ..sampling.schedule import DEFAULT_SHIFT, MAX_SHIFT
from ..validate import expect_range
from .settings_file import read_document, write_document

SETTINGS: Final = "settings.json"
"""File of the settings in a run's folder."""

Stage = Literal["branch", "joint", "single", "lora", "backbone", "full"]
STAGES: Final[tuple[str, ...]] = get_args(Stage)

FULL_MODEL_STAGES: Final = ("backbone", "full")
"""Stages that train every weight of the video model."""

Noise = Literal["frame", "clip"]
OptimiserName = Literal["adamw", "adamw8bit", "muon"]
Loss = Literal["latent", "pixel"]
LoraLayers = Literal["attention", "released"]
BranchInit = Literal["copy", "zero"]
Preset = Literal["", "paper-stage-one", "paper-stage-two", "from-spatia"]
PRESETS: Final[tuple[str, ...]] = get_args(Preset)
"""Names of `mirage_core.training.presets`; the first is for none."""
FrozenDtype = Literal["dtype", "float8"]

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

RESUMABLE: Final = {
    "steps", "checkpoint_every", "keep", "validate_every", "validation_clips", "validation_scenes",
    "validation_frames", "validation_size", "validation_steps", "readers",
    "gradient_checkpointing", "context_parallel", "wandb",
}  # fmt: skip
"""Settings that may change when a run is resumed: the weights so far do not depend on them."""

OF_BRANCH: Final = ("side_blocks", "side_features", "side_shared_embedding")
"""Settings of a new branch; a branch that is given has its own."""

MUON_TORCH: Final = "2.9"
"""The first torch that has Muon."""

MAX_STEPS: Final = 10_000_000
MAX_CONTEXT_FRAMES: Final = 64


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one run; the defaults follow the paper where it says something.

    Attributes:
        stage: What is trained. ``branch``: the side branch alone. ``joint``: branch and LoRA,
            from a branch of the first stage. ``single``: both from the beginning, the paper's
            ablation. ``lora``: LoRA alone, as the released code's second stage.
            ``backbone``: the video model without a branch. ``full``: the whole model with its
            branch. These two are for small models without weights to start from.
        steps: Optimizer steps.
        batch: Clips of one step, over all processes.
        micro_batch: Clips of one forward pass. They share their numbers of reference and
            preceding frames. ``batch`` is a multiple of it times the number of processes.
        seed: Of weights, order, noise and dropout.
        optimiser: ``adamw``. ``adamw8bit``: moments in 8 bits, a quarter of their memory; needs
            torchao. ``muon``: for the matrices of the blocks, and AdamW for the rest: learns
            faster from nothing; its weights cannot be sharded over processes.
        learning_rate: Highest rate.
        final_rate: Rate at the last step, as a share of the highest.
        warmup: Steps until the highest rate.
        beta1: Decay of AdamW's mean. The paper prints 0.0, which turns the mean off.
        beta2: Decay of AdamW's square.
        weight_decay: Of matrices; vectors are not decayed.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights that checkpoints and validation use; 0 for none.
        shift: How far noise levels lean towards high noise.
        noise: One level per target ``frame`` (released code) or per ``clip`` (as in sampling).
        loss: Error of ``latent`` channels alike, or weighted by what they do to a ``pixel``.
        text_dropout: Share of clips whose caption is replaced by the empty one.
        text_tokens: Length that captions are filled up to.
        references: Most reference frames.
        preceding: Most preceding frames.
        random_subsets: Draw how many of them are shown, and which.
        side_blocks: Blocks of a new side branch.
        side_features: Input planes of a new side branch.
        side_shared_embedding: A new branch embeds the scene as the backbone does (paper).
        side_init: How a new branch begins: ``copy`` of the backbone's blocks, or ``zero``.
        lora_rank: Rank of the LoRA; its factor is 1.
        lora_layers: ``attention``: q, k, v, o of self-attention. ``released``: of both
            attentions, and the feed-forward part.
        lora_dropout: Dropout before the LoRA.
        dtype: Type to compute in, and of weights that are not trained.
        frozen_dtype: How matrices of blocks that are not trained are stored: as ``dtype``, or in
            ``float8`` with a factor for each row, half the memory of bfloat16.
        export_dtype: Type of the weights in finished files.
        gradient_checkpointing: Compute blocks again instead of keeping what is inside them.
        context_parallel: Processes that share every frame of a clip; see
            `mirage_core.training.context_parallel`. ``batch`` is then divided over groups of so
            many. Their number divides that of all processes, of heads, and of tokens in a frame.
        compile: Compile the blocks with torch.compile: fewer passes over memory, after minutes of
            compiling; needs a C++ compiler, or Triton on a GPU.
        checkpoint_every: Steps between checkpoints.
        keep: Number of states to keep for resuming; finished weights are never removed.
        validate_every: Steps between validations; 0 for none.
        validation_clips: Held-out clips whose loss is measured.
        validation_scenes: Procedural scenes whose closed loop is measured.
        validation_frames: Length of these shots, 4n + 1.
        validation_size: Width and height of these shots in pixels.
        validation_steps: Sampling steps of these shots.
        readers: Threads that read clips ahead.
        wandb: Project of Weights & Biases that is also told, offline unless WANDB_MODE is set;
            empty for none.
        preset: What the settings began as; see `mirage_core.training.presets`. Those that were
            given beside it have won.
        new_planes: The given branch keeps its blocks, and gets the planes ``side_features`` in
            place of its own.
        still_steps: With new planes: steps in which all else that is trained is nearly still.
        still_rate: Its share of the rate in these steps.
        rest_rate: Its share of the rate afterwards, which is reached in as many steps again.

    Raises:
        ValueRangeError: A setting is out of range or unknown, or this torch is too old for the
            optimiser.
        ModelMismatchError: The features are unknown.
    """

    stage: Stage | str = "branch"
    steps: int = 10_000
    batch: int = 64
    micro_batch: int = 1
    seed: int = 0
    optimiser: OptimiserName | str = "adamw"
    learning_rate: float = 1e-4
    final_rate: float = 0.0
    warmup: int = 500
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    shift: float = DEFAULT_SHIFT
    noise: Noise | str = "frame"
    loss: Loss | str = "latent"
    text_dropout: float = 0.2
    text_tokens: int = 512
    references: int = 4
    preceding: int = 2
    random_subsets: bool = True
    side_blocks: int = 8
    side_features: str = "scene,visible"
    side_shared_embedding: bool = False
    side_init: BranchInit | str = "copy"
    lora_rank: int = 64
    lora_layers: LoraLayers | str = "attention"
    lora_dropout: float = 0.05
    dtype: str = "bfloat16"
    frozen_dtype: FrozenDtype | str = "dtype"
    export_dtype: str = "bfloat16"
    gradient_checkpointing: bool = True
    compile: bool = False
    context_parallel: int = 1
    checkpoint_every: int = 500
    keep: int = 2
    validate_every: int = 500
    validation_clips: int = 32
    validation_scenes: int = 4
    validation_frames: int = 65
    validation_size: tuple[int, int] = (320, 192)
    validation_steps: int = 8
    readers: int = 2
    wandb: str = ""
    preset: Preset | str = ""
    new_planes: bool = False
    still_steps: int = 0
    still_rate: float = 0.01
    rest_rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "validation_size", tuple(self.validation_size))
        for name, known in CHOICES.items():
            _expect_choice(name, getattr(self, name), known)
        for name, (low, high) in _RANGES.items():
            expect_range(f"The setting {name}", getattr(self, name), low, high)
        _expect_optimiser(self.optimiser)
        parse_features(self.side_features)
        if self.trains_full_model and self.frozen_dtype != "dtype":
            raise ValueRangeError(
                "Nothing is frozen that could be stored in 8 bits",
                got=f"frozen_dtype {self.frozen_dtype} and the stage {self.stage}",
                expected="a stage that trains a branch or a LoRA",
            )
        if self.batch % self.micro_batch:
            raise ValueRangeError(
                "The batch is not divisible into micro-batches",
                got=f"batch {self.batch}, micro_batch {self.micro_batch}",
                expected="a multiple of micro_batch",
            )

    @property
    def micro_batches(self) -> int:
        """Forward passes of one step, over all processes."""
        return self.batch // self.micro_batch

    @property
    def with_lora(self) -> bool:
        """True when a LoRA is trained."""
        return self.stage in ("joint", "single", "lora")

    @property
    def with_branch(self) -> bool:
        """True when the side branch is trained."""
        return self.stage not in ("lora", "backbone")

    @property
    def trains_full_model(self) -> bool:
        """True when every weight of the video model is trained."""
        return self.stage in FULL_MODEL_STAGES

    @property
    def compute_dtype(self) -> torch.dtype:
        """The torch type of ``dtype``."""
        return DTYPES[self.dtype]

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..: linear warm-up, then half a cosine.

        The last step has the final rate. Nothing but the step and the settings counts: a run
        that is made longer goes on where one of the new length would be, so its rate rises at
        that step.
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        span = max(1, self.steps - 1 - self.warmup)
        share = min(1.0, (step - self.warmup) / span)
        fall = 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * fall)

    def rest_share(self, step: int) -> float:
        """Share of the rate of step 0, 1, .. that all but new planes are trained with."""
        if not self.new_planes:
            return 1.0
        if step < self.still_steps:
            return self.still_rate
        risen = min(1.0, (step - self.still_steps) / max(1, self.still_steps))
        return self.still_rate + (self.rest_rate - self.still_rate) * risen

    def save(self, folder: Path) -> Path:
        """Write ``settings.json`` into a run's folder."""
        path = folder / SETTINGS
        write_document(path, dataclasses.asdict(self))
        return path

    @classmethod
    def load(cls, path: Path) -> TrainingSettings:
        """Read settings from JSON; what the file leaves out keeps its default.

        Raises:
            ResumeError: The file is missing or damaged, of a newer version, or holds unknown
                settings.
            ValueRangeError: A setting is out of range.
        """
        _, found = read_document(path)
        return cls(**_known(found, path))

    def expect_same(self, other: TrainingSettings) -> None:
        """Raise `ResumeError` unless a run with the other settings can resume with these.

        ``steps`` may be more than the other's; see `rate` for what that does.
        """
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        changed = [name for name in mine if name not in RESUMABLE and mine[name] != theirs[name]]
        if self.steps < other.steps:
            raise ResumeError(
                "A run may become longer, not shorter",
                got=f"steps {self.steps} instead of {other.steps}",
                fix="Leave --steps out or raise it; finished weights of every checkpoint are there",
            )
        if changed:
            name = changed[0]
            raise ResumeError(
                "The run was started with other settings",
                got=f"{name} {mine[name]!r} instead of {theirs[name]!r}"
                + (f", and {len(changed) - 1} more" if len(changed) > 1 else ""),
                fix="Use the same settings, or another folder",
            )


CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "stage": STAGES,
    "optimiser": get_args(OptimiserName),
    "noise": get_args(Noise),
    "loss": get_args(Loss),
    "side_init": get_args(BranchInit),
    "lora_layers": get_args(LoraLayers),
    "dtype": ("float32", "bfloat16"),
    "frozen_dtype": get_args(FrozenDtype),
    "export_dtype": tuple(DTYPES),
    "preset": PRESETS,
}

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "steps": (1, MAX_STEPS),
    "batch": (1, 1 << 20),
    "micro_batch": (1, 1 << 16),
    "seed": (0, (1 << 63) - 1),
    "learning_rate": (0.0, 1.0),
    "final_rate": (0.0, 1.0),
    "warmup": (0, MAX_STEPS),
    "beta1": (0.0, 0.99999),
    "beta2": (0.0, 0.9999999),
    "weight_decay": (0.0, 10.0),
    "clip_norm": (1e-6, 1e6),
    "ema_decay": (0.0, 0.9999999),
    "shift": (0.01, MAX_SHIFT),
    "text_dropout": (0.0, 1.0),
    "text_tokens": (1, 4096),
    "references": (0, MAX_CONTEXT_FRAMES),
    "preceding": (0, MAX_CONTEXT_FRAMES),
    "side_blocks": (1, 1000),
    "lora_rank": (1, 4096),
    "lora_dropout": (0.0, 0.99),
    "checkpoint_every": (1, MAX_STEPS),
    "context_parallel": (1, 64),
    "keep": (1, 1000),
    "validate_every": (0, MAX_STEPS),
    "validation_clips": (0, 1 << 20),
    "validation_scenes": (0, 1 << 16),
    "validation_frames": (5, 1 << 16),
    "validation_steps": (1, 1000),
    "readers": (1, 256),
    "still_steps": (0, MAX_STEPS),
    "still_rate": (0.0, 1.0),
    "rest_rate": (0.0, 1.0),
}


def _expect_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueRangeError(
            f"The setting {name} is unknown", got=value, expected=", ".join(filter(None, known))
        )


def _expect_optimiser(name: str) -> None:
    """Refuse what this torch does not have before the first gigabyte is read."""
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise ValueRangeError(
            "The optimiser muon needs a newer torch",
            got=f"torch {torch.__version__}",
            expected=f"torch {MUON_TORCH} or newer",
            fix=f'Run pip install --upgrade "torch>={MUON_TORCH}", or choose the optimiser adamw',
        )


def _known(found: dict[str, Any], path: Path) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(TrainingSettings)}
    unknown = sorted(set(found) - set(fields))
    wrong = [
        name
        for name, value in found.items()
        if name in fields and not _same_kind(value, fields[name].default)
    ]
    if unknown or wrong:
        raise ResumeError(
            f"{path.name} contains settings that this version does not know",
            got=", ".join(unknown + [f"{name} = {found[name]!r}" for name in wrong]),
            fix="Correct the file, or update Mirage",
        )
    return found


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(isinstance(v, int) for v in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
