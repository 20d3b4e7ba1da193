"""The command line: which commands there are, and how they end."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..checkpoints.branch_file import split_merged
from ..checkpoints.lora_format import read_lora, write_for_comfyui
from ..errors import MirageError, StorageError
from .data import add_command as add_data_command
from .evaluate import add_command as add_evaluate_command
from .export import add_command as add_export_command
from .inputs import add_branch_format, parse_path
from .rollout import add_command
from .train import add_command as add_train_command
from .train import run as run_training
from .train import with_options_of_file

BAD_INPUT: Final = 2
"""Exit code when something about the input is wrong; argparse's own."""

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells expect it."""

ROOT: Final = __name__.split(".cli.", maxsplit=1)[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C; 143 of a training that SIGTERM
        ended.
    """
    parser = make_parser()
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(given)
    try:
        if arguments.run is run_training:
            arguments = with_options_of_file(parser, given, arguments)
        code: int = arguments.run(arguments)
    except MirageError as error:
        sys.stderr.write(f"mirage: {error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return INTERRUPTED
    return code


def make_parser() -> argparse.ArgumentParser:
    """The argument parser; each command stores its function as ``run``."""
    parser = argparse.ArgumentParser(
        prog="mirage", description="Long camera-directed video from one picture."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(commands)
    add_data_command(commands)
    add_train_command(commands)
    add_export_command(commands)
    add_evaluate_command(commands)
    split = commands.add_parser(
        "split",
        help="split a model file that contains a side branch",
        description="Splits a safetensors file that contains a video model and its side branch. "
        "The file itself is not changed.",
    )
    split.add_argument("model", type=parse_path, help="the merged .safetensors file")
    split.add_argument("--model-out", type=parse_path, help="default: MODEL_backbone.safetensors")
    split.add_argument("--branch-out", type=parse_path, help="default: MODEL_vace.safetensors")
    add_branch_format(split)
    split.set_defaults(run=_split)
    lora = commands.add_parser(
        "lora",
        help="convert a LoRA to the names that ComfyUI's loader reads",
        description="Converts a LoRA for the video model, such as one from the released training "
        "code, to the names that ComfyUI's loader reads. The file itself is not changed.",
    )
    lora.add_argument("file", type=parse_path, help="the .safetensors file, in any naming scheme")
    lora.add_argument("--out", type=parse_path, help="default: FILE_comfyui.safetensors")
    lora.set_defaults(run=_lora)
    if importlib.util.find_spec(f"{ROOT}.doctor") is not None:
        doctor = commands.add_parser("doctor", help="report what works on this machine, and why")
        doctor.set_defaults(run=_doctor)
    return parser


def _split(arguments: argparse.Namespace) -> int:
    model: Path = arguments.model
    backbone = arguments.model_out or model.with_name(f"{model.stem}_backbone.safetensors")
    branch = arguments.branch_out or model.with_name(f"{model.stem}_vace.safetensors")
    for target in (backbone, branch):
        _expect_free(target, "--model-out or --branch-out")
    for path in split_merged(model, backbone, branch, arguments.branch_format):
        sys.stdout.write(f"{path}\n")
    return 0


def _lora(arguments: argparse.Namespace) -> int:
    file: Path = arguments.file
    target = arguments.out or file.with_name(f"{file.stem}_comfyui.safetensors")
    _expect_free(target, "--out")
    sys.stdout.write(f"{write_for_comfyui(read_lora(file), target)}\n")
    return 0


def _expect_free(target: Path, options: str) -> None:
    if target.exists():
        raise StorageError(
            "A file of this name already exists",
            got=target,
            fix=f"Choose another name with {options}",
        )


def _doctor(_: argparse.Namespace) -> int:
    runpy.run_module(f"{ROOT}.doctor", run_name="__main__", alter_sys=True)
    return 0
