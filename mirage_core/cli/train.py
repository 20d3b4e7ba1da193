"""``mirage train``: training of side branch and LoRA on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any, Final

from ..errors import MirageError, ResumeError, ValueRangeError
from .inputs import add_branch_format, parse_path, parse_size

MIN_REPORTED_WAIT: Final = 0.05
"""Share of the time spent waiting for clips above which it is reported."""

TINY_DEFAULT: Final = "width=256,heads=2,ffn=1024,layers=6,text=64"


def add_command(commands: Any) -> None:
    """Add ``train`` to the commands of a parser."""
    parser = commands.add_parser(
        "train",
        help="train a side branch, a LoRA, or a small model",
        description="Trains in a folder that can be resumed at any time: the same command "
        "continues after the last checkpoint. With several processes "
        "(accelerate launch -m mirage_core train ...) the model is sharded over them.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--out", type=parse_path, help="folder for the run")
    parser.add_argument("--data", type=parse_path, help="training clips, from `mirage data make`")
    parser.add_argument("--held-out", type=parse_path, help="held-out clips for validation loss")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--transformer", type=parse_path, help="Wan2.2-TI2V-5B, bf16, fp16 or fp32")
    model.add_argument(
        "--new-transformer", metavar="SIZES", nargs="?", const=TINY_DEFAULT,
        help=f"train a new small model, for --stage full (default: {TINY_DEFAULT})",
    )  # fmt: skip
    parser.add_argument("--branch", type=parse_path, help="side branch to start from")
    parser.add_argument("--lora", type=parse_path, help="LoRA to start from")
    add_branch_format(parser)
    codec = parser.add_mutually_exclusive_group()
    codec.add_argument("--vae", type=parse_path, help="Wan2.2 VAE, for closed-loop validation")
    codec.add_argument(
        "--embedded-codec", action="store_true", help="the clips were made with the embedded codec"
    )
    parser.add_argument("--device", default="auto", help="auto or cpu")
    parser.add_argument(
        "--plan", type=int, metavar="N",
        help="do not train; print the memory that each of N devices needs. Without "
        "--transformer for Wan2.2-TI2V-5B, whose weights are not needed",
    )  # fmt: skip
    parser.add_argument(
        "--plan-size", type=parse_size, default=(1280, 704), help="picture size of --plan"
    )
    parser.add_argument("--settings", type=parse_path, help="JSON file with initial settings")
    _add_settings(parser.add_argument_group("settings", "see docs/training.md"))


def _add_settings(group: Any) -> None:
    from ..training.settings import TrainingSettings

    for field in dataclasses.fields(TrainingSettings):
        name = f"--{field.name.replace('_', '-')}"
        default: Any = field.default
        if isinstance(default, bool):
            group.add_argument(
                name, action=argparse.BooleanOptionalAction, default=None,
                help="on by default" if default else "off by default",
            )  # fmt: skip
        elif isinstance(default, tuple):
            text = "x".join(map(str, default))
            group.add_argument(name, type=parse_size, help=f"default: {text}")
        else:
            group.add_argument(
                name, type=type(default), metavar=type(default).__name__.upper(),
                help=f"default: {default}",
            )  # fmt: skip


def settings_of(arguments: argparse.Namespace) -> Any:
    """Settings from a file, the run that is there, or a preset; arguments replace them.

    Raises:
        ResumeError: The file is damaged or holds unknown settings.
        ValueRangeError: A setting is out of range.
    """
    from ..training.presets import first_settings
    from ..training.settings import SETTINGS, TrainingSettings

    saved = None if arguments.out is None else arguments.out / SETTINGS
    if arguments.settings is not None:
        _expect_one_beginning(arguments)
        base = TrainingSettings.load(arguments.settings)
    elif saved is not None and saved.exists():
        base = first_settings(arguments.preset, TrainingSettings.load(saved))
    else:
        base = first_settings(arguments.preset, None)
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    given = {name: getattr(arguments, name) for name in names}
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def _expect_one_beginning(arguments: argparse.Namespace) -> None:
    if arguments.preset:
        raise ValueRangeError(
            "Settings begin with a file or with a preset",
            got=f"--settings and --preset {arguments.preset}",
            fix="Leave one of them out",
        )


def run(arguments: argparse.Namespace) -> int:
    """Train, or plan; see `mirage_core.cli.main.main` for the exit codes."""
    settings = settings_of(arguments)
    # Imported late, so that help and typing errors do not wait for diffusers.
    from . import train_parts as parts

    if arguments.plan is not None:
        sys.stdout.write(f"{parts.plan(arguments, settings)}\n")
        return 0
    _expect_needed(arguments)
    with parts.deterministic(), parts.own_folder(arguments):
        return _train(parts.make_trainer(arguments, settings))


def _train(trainer: Any) -> int:
    try:
        trainer.run(_print_step if trainer.processes.first else None)
    except KeyboardInterrupt:
        sys.stderr.write("\nRun the same command again to resume from the last checkpoint.\n")
        raise
    finally:
        trainer.processes.close()
    return 0


def _expect_needed(arguments: argparse.Namespace) -> None:
    """Refuse missing arguments and paths that lead nowhere before the first gigabyte is read."""
    for name in ("out", "data"):
        if getattr(arguments, name) is None:
            raise MirageError(f"Training requires --{name}", fix="See mirage train --help")
    if arguments.transformer is None and arguments.new_transformer is None:
        raise MirageError(
            "There is nothing to train",
            fix="Set --transformer, or --new-transformer with --stage full",
        )
    for name in ("data", "held_out", "transformer", "branch", "lora", "vae", "settings"):
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            raise ResumeError(
                f"The path of --{name.replace('_', '-')} does not exist",
                got=path,
                expected="a file or folder on this machine; nothing is downloaded",
                fix="Check the path",
            )


def _print_step(report: Any) -> None:
    values = report.values
    line = f"step {report.step} of {report.steps}, loss {values['loss']:.4f}"
    left = values["seconds"] * (report.steps - report.step)
    line += f", {values['seconds']:.2f} s a step, {_duration(left)} left"
    if values["waiting"] > MIN_REPORTED_WAIT:
        line += f", {values['waiting']:.0%} of the time waiting for clips"
    for name, unit in (
        ("held_out/loss", ""), ("closed_loop/closed", " dB"), ("closed_loop/truth", " dB"),
    ):  # fmt: skip
        if name in values:
            line += f", {name.replace('/', ' ').replace('_', ' ')} {values[name]:.3f}{unit}"
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
