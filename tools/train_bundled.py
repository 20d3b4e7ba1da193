"""Train the small video model that ships, from nothing, and put it where the pack looks for it.

Run it with ``python tools train_bundled --out FOLDER``. It goes on from where it was stopped.
``--scale`` makes all of it shorter or longer. What the stages are for is in
docs/embedded-model.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mirage_core.checkpoints.branch_file import split_merged
from mirage_core.models.bundled import BRANCH, FOLDER, MODEL
from mirage_core.training.journal import LOGS

SIZES = "width=256,heads=2,ffn=768,layers=4,text=64"
SMOOTHING = 0.03
COMMON = (
    "--embedded-codec", "--text-tokens", "1", "--batch", "8", "--micro-batch", "8",
    "--optimiser", "muon", "--beta2", "0.98", "--weight-decay", "0.01", "--ema-decay", "0.995",
    "--noise", "clip", "--shift", "3", "--loss", "pixel", "--references", "0",
    "--no-gradient-checkpointing", "--validate-every", "0", "--checkpoint-every", "100",
    "--export-dtype", "float16",
)  # fmt: skip


@dataclass(frozen=True)
class Rooms:
    """A set of training clips.

    Attributes:
        name: Folder of the clips.
        size: Of the pictures.
        first: Seed of the first room.
        count: Rooms; each gives 32 clips.
    """

    name: str
    size: str
    first: int
    count: int


@dataclass(frozen=True)
class Stage:
    """One run of the trainer.

    Attributes:
        name: Folder of the run.
        stage: What it trains.
        clips: Folder of its clips.
        steps: Of 8 clips.
        rate: Highest learning rate.
        final: Last learning rate, as a share of the highest.
        warmup: Steps until the highest rate.
        start: Arguments that name the weights that it begins with.
    """

    name: str
    stage: str
    clips: str
    steps: int
    rate: float
    final: float
    warmup: int
    start: tuple[str, ...]


CLIPS = (
    Rooms("clips_first", "192x128", 1000, 64),
    Rooms("clips_small", "192x128", 2000, 76),
    Rooms("clips_large", "320x192", 4000, 31),
)


def runs_of(out: Path, seed: int) -> Path:
    """Folder of the runs of one seed."""
    return out / f"seed_{seed}"


def stages(out: Path, scale: float) -> tuple[Stage, ...]:
    """The runs in their order, each from the weights of the one before."""
    steps = {name: max(MIN_STEPS, round(count * scale)) for name, count in STEPS.items()}
    backbone = out / "backbone" / "model" / f"step_{steps['backbone']:07d}_model.safetensors"
    branch = out / "branch" / "vace" / f"step_{steps['branch']:07d}_vace.safetensors"
    joint = out / "joint" / "model" / f"step_{steps['joint']:07d}_model.safetensors"
    features = ("--side-blocks", "2", "--side-features", "drawn_best,visible")
    return (
        Stage("backbone", "backbone", "clips_first", steps["backbone"], 2.5e-3, 0.0, 50,
              ("--new-transformer", SIZES)),
        Stage("branch", "branch", "clips_small", steps["branch"], 2.5e-3, 0.0, 50,
              ("--transformer", str(backbone), *features)),
        Stage("joint", "full", "clips_small", steps["joint"], 2.5e-3, 0.25, 50,
              ("--transformer", str(backbone), "--branch", str(branch))),
        Stage("large", "full", "clips_large", steps["large"], 1e-3, 0.0, 20,
              ("--transformer", str(joint))),
    )  # fmt: skip


STEPS = {"backbone": 1900, "branch": 400, "joint": 1600, "large": 400}
"""Optimizer steps of the stages at scale 1."""

MIN_STEPS, MIN_ROOMS = 60, 4


def train(out: Path, scale: float, device: str, seed: int) -> Path:
    """Make the clips, which all seeds share, and run all stages.

    Returns:
        The last file: the video model with its side branch.
    """
    for rooms in CLIPS:
        mirage(
            "data", "make", "--out", str(out / rooms.name), "--size", rooms.size,
            "--procedural", str(max(MIN_ROOMS, round(rooms.count * scale))),
            "--first-room", str(rooms.first), "--embedded-codec", "--drawn", "best_view",
            "--references", "0", "--device", device,
        )  # fmt: skip
    runs = runs_of(out, seed)
    plan = stages(runs, scale)
    for stage in plan:
        mirage(
            "train", "--out", str(runs / stage.name), "--data", str(out / stage.clips),
            "--stage", stage.stage, "--steps", str(stage.steps), "--device", device,
            "--seed", str(seed),
            "--learning-rate", str(stage.rate), "--final-rate", str(stage.final),
            "--warmup", str(stage.warmup), *stage.start, *COMMON,
        )  # fmt: skip
    last = plan[-1]
    return runs / last.name / "model" / f"step_{last.steps:07d}_model.safetensors"


def mirage(*arguments: str) -> None:
    """Run the command line of the library."""
    print("mirage", *arguments, flush=True)
    # Waiting threads that spin make everything slower on a machine that has other work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(
        [sys.executable, "-m", "mirage_core", *arguments], check=True, env=environment
    )


def install(merged: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two files that ship.

    The text embedding is all zeros, since the model knows no text, and as wide as ComfyUI
    expects it.
    """
    model, branch = folder / MODEL, folder / BRANCH
    folder.mkdir(parents=True, exist_ok=True)
    for path in (model, branch):
        path.unlink(missing_ok=True)
    return split_merged(merged, model, branch)


def plot_curves(folders: list[Path], path: Path) -> None:
    """Draw the loss of runs, in the order of the folders, as a picture."""
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, len(folders), sharey=True)
    for axis, folder in zip(axes, folders, strict=True):
        events = EventAccumulator(str(folder / LOGS), {"scalars": 0})
        events.Reload()
        losses = sorted({event.step: event.value for event in events.Scalars("loss")}.items())
        smooth, points = losses[0][1], []
        for step, loss in losses:
            smooth += SMOOTHING * (loss - smooth)
            points.append((step, smooth))
        axis.plot(*zip(*losses, strict=True), color="#c8d2dc", linewidth=0.6)
        axis.plot(*zip(*points, strict=True), color="#1f5f99")
        axis.set(title=folder.name, xlabel="step", ylim=(0, 1.8))
    axes[0].set_ylabel("loss, weighted by pixels")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train and install, or install only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of clips and runs")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all clips and steps")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, order and noise; clips are the same"
    )
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument("--install", type=Path, default=FOLDER, help="folder of the two files")
    parser.add_argument("--merged", type=Path, help="install this file and train nothing")
    parser.add_argument("--curves", type=Path, help="draw the losses of the runs in --out here")
    given = parser.parse_args()
    if given.curves is not None:
        plot_curves([runs_of(given.out, given.seed) / name for name in STEPS], given.curves)
        return
    merged = given.merged or train(given.out, given.scale, given.device, given.seed)
    for path in install(merged, given.install):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
