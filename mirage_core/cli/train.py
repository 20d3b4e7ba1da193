"""``mirage train``: training of side branch and LoRA on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, Final

from ..errors import MirageError, ResumeError, ValueRangeError
from ..validate import expect_range
from .inputs import add_branch_format, parse_path, parse_size

RUN: Final = "run.toml"
"""File in a run's folder that holds all of its options."""

MAX_CARD: Final = 1 << 20
"""GiB; far more than any card has."""

TINY_DEFAULT: Final = "width=256,heads=2,ffn=1024,layers=6,text=64"


def add_command(commands: Any) -> None:
    """Add ``train`` to the commands of a parser."""
    parser = commands.add_parser(
        "train",
        help="train a side branch, a LoRA, or a small model",
        description="Trains in a folder that can be resumed at any time: the same command, or "
        "--out alone, continues after the last checkpoint. With several processes "
        "(accelerate launch -m mirage_core train ...) the model is sharded over them. "
        "Exit status: 0 when the last step is done, 2 for bad input; 130 after Ctrl-C and 143 "
        "after SIGTERM, which save first.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config", type=parse_path, metavar="FILE",
        help="TOML file with options of this command, such as steps = 1000; those of the command "
        "line replace them. Default: run.toml of a run that --out holds",
    )  # fmt: skip
    parser.add_argument("--out", type=parse_path, metavar="FOLDER", help="folder for the run")
    parser.add_argument(
        "--data", type=parse_path, metavar="FOLDER", help="training clips, from `mirage data make`"
    )
    parser.add_argument(
        "--held-out", type=parse_path, metavar="FOLDER", help="held-out clips for validation loss"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--transformer", type=parse_path, metavar="PATH",
        help="Wan2.2-TI2V-5B, bf16, fp16 or fp32",
    )  # fmt: skip
    model.add_argument(
        "--new-transformer", metavar="SIZES", nargs="?", const=TINY_DEFAULT,
        help=f"train a new small model, for --stage full (default: {TINY_DEFAULT})",
    )  # fmt: skip
    parser.add_argument(
        "--branch", type=parse_path, metavar="FILE", help="side branch to start from"
    )
    parser.add_argument("--lora", type=parse_path, metavar="FILE", help="LoRA to start from")
    add_branch_format(parser)
    codec = parser.add_mutually_exclusive_group()
    codec.add_argument(
        "--vae", type=parse_path, metavar="PATH", help="Wan2.2 VAE, for closed-loop validation"
    )
    codec.add_argument(
        "--embedded-codec", action="store_true", help="the clips were made with the embedded codec"
    )
    parser.add_argument("--device", default="auto", help="auto or cpu")
    _add_plan(parser)
    parser.add_argument(
        "--settings", type=parse_path, metavar="FILE", help="JSON file with initial settings"
    )
    _add_settings(parser.add_argument_group("settings", "docs/training.md has more of each"))


def _add_plan(parser: Any) -> None:
    parser.add_argument(
        "--plan", type=int, metavar="N",
        help="do not train; print the memory that each of N devices needs. Without "
        "--transformer for Wan2.2-TI2V-5B, whose weights are not needed",
    )  # fmt: skip
    parser.add_argument(
        "--plan-size", type=parse_size, default=(1280, 704), metavar="WIDTHxHEIGHT",
        help="picture size of --plan (default: 1280x704)",
    )  # fmt: skip
    parser.add_argument(
        "--card", type=float, metavar="GIB",
        help="with --plan (of one device by default): whether a card of so many GiB holds that, "
        "and which options make it fit",
    )  # fmt: skip


def _add_settings(group: Any) -> None:
    from ..training.setting_texts import setting_texts
    from ..training.settings import CHOICES, TrainingSettings

    texts = setting_texts()
    for field in dataclasses.fields(TrainingSettings):
        name = f"--{field.name.replace('_', '-')}"
        default: Any = field.default
        options: dict[str, Any] = {"default": None}
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
            shown = "on" if default else "off"
        elif isinstance(default, tuple):
            options["type"] = parse_size
            options["metavar"] = "WIDTHxHEIGHT"
            shown = "x".join(map(str, default))
        elif field.name in CHOICES:
            options["choices"] = [choice for choice in CHOICES[field.name] if choice]
            shown = default or "none"
        else:
            options["type"] = type(default)
            options["metavar"] = type(default).__name__.upper()
            shown = default if default != "" else "none"
        text = texts[field.name].rstrip(".").replace("%", "%%")
        group.add_argument(name, help=f"{text} (default: {shown})", **options)


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
    given = {name: getattr(arguments, name) for name in setting_names()}
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def setting_names() -> frozenset[str]:
    """Names of all settings of a run."""
    from ..training.settings import TrainingSettings

    return frozenset(field.name for field in dataclasses.fields(TrainingSettings))


def with_options_of_file(
    parser: argparse.ArgumentParser, argv: Sequence[str], arguments: argparse.Namespace
) -> argparse.Namespace:
    """The arguments with those of ``--config``, or of the run that ``--out`` holds.

    Raises:
        ResumeError: The file cannot be read, or says what is no option.
    """
    path, ignored = arguments.config, frozenset[str]()
    if path is None and arguments.out is not None and (arguments.out / RUN).exists():
        path = arguments.out / RUN
        if arguments.settings is not None or arguments.preset is not None:
            # The run's own settings would stand for options that replace those asked for.
            ignored = setting_names()
    if path is None:
        return arguments
    # Imported late: TOML comes with the packages for training.
    from .train_file import with_file

    return with_file(parser, argv, path, ignored)


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
    from ..training.packages import expect_packages
    from . import train_parts as parts
    from .train_file import write_run

    if arguments.plan is not None or arguments.card is not None:
        return _plan(arguments, settings)
    _expect_needed(arguments)
    expect_packages(settings)
    with parts.deterministic(), parts.own_folder(arguments):
        trainer = parts.make_trainer(arguments, settings)
        if trainer.processes.first:
            write_run(arguments, trainer.settings)
        return _train(trainer)


def _plan(arguments: argparse.Namespace, settings: Any) -> int:
    from .train_card import describe_card
    from .train_parts import plan

    arguments.plan = 1 if arguments.plan is None else arguments.plan
    if arguments.card is not None:
        expect_range("The memory of a card in GiB", arguments.card, 1, MAX_CARD)
    sys.stdout.write(f"{plan(arguments, settings)}\n")
    if arguments.card is not None:
        sys.stdout.write(f"{describe_card(arguments, settings)}\n")
    return 0


def _train(trainer: Any) -> int:
    from ..training.stop import StopFlag
    from .train_report import Reporter

    if trainer.step >= trainer.settings.steps and trainer.processes.first:
        sys.stderr.write(f"All {trainer.step} steps are done; --steps makes the run longer.\n")
    stop = StopFlag(trainer.processes)
    resume = f"mirage train --out {trainer.folder} goes on from there."
    try:
        with stop.on_signals():
            finished = trainer.run(Reporter(trainer) if trainer.processes.first else None, stop)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nEnded at once; the last checkpoint is good. {resume}\n")
        raise
    finally:
        trainer.processes.close()
    if finished:
        return 0
    if trainer.processes.first:
        saved = f"after step {trainer.step}, which is saved" if trainer.step else "at the beginning"
        sys.stderr.write(f"Stopped {saved}. {resume}\n")
    return stop.exit_code


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
