"""A training run as one file: ``--config run.toml``, and the same beside the run's checkpoints.

Each line is an option of ``mirage train`` without its dashes. argparse reads them as if they stood
on the command line before the others, so types and choices are checked in one place.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ..errors import ResumeError
from ..files import atomic_write
from ..training.settings import TrainingSettings
from .train import RUN

NOT_KEPT: Final = {
    "run", "out", "config", "settings", "preset", "plan", "plan_size", "card",
}  # fmt: skip
"""What is no option of the run itself. What presets and files of settings say is kept as settings;
``out`` is the folder that the file lies in."""

OF_BRANCH: Final = {"side_blocks", "side_features", "side_shared_embedding"}
"""Settings of a new branch; a branch that is given has its own."""

_SETTINGS: Final = {field.name for field in dataclasses.fields(TrainingSettings)}


def with_file(
    parser: argparse.ArgumentParser, argv: Sequence[str], path: Path
) -> argparse.Namespace:
    """Parse the arguments together with those of a file.

    Args:
        parser: Of the whole command line.
        argv: What was given there, the command first.
        path: The file.

    Returns:
        All arguments; those of the command line replace those of the file.

    Raises:
        ResumeError: The file cannot be read, or says what is no option.
    """
    command, *given = argv
    from_file = [command, *_options(path)]
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args(from_file)
    except SystemExit as error:
        raise ResumeError(
            f"{path} says what mirage train does not take",
            got=said.getvalue().strip().rpartition("error: ")[2],
            expected="options of mirage train without their dashes, such as steps = 1000",
            fix="Correct the file",
        ) from error
    try:
        return parser.parse_args([*from_file, *given])
    except SystemExit:
        sys.stderr.write(f"Options of {path} count as well.\n")
        raise


def write_run(arguments: argparse.Namespace, settings: TrainingSettings) -> Path:
    """Write ``run.toml`` into the run's folder: all paths and settings, whole or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    files = {n: v for n, v in vars(arguments).items() if n not in NOT_KEPT | _SETTINGS}
    content = {name: _written(value) for name, value in files.items() if value not in (None, False)}
    content |= {
        name: _written(value)
        for name, value in dataclasses.asdict(settings).items()
        if value != "" and not _of_given_branch(name, arguments)
    }
    path: Path = arguments.out / RUN
    with atomic_write(path, "w") as file:
        file.write(tomlkit.dumps(content))
    return path


def _of_given_branch(name: str, arguments: argparse.Namespace) -> bool:
    """Whether the file of a branch says it, and the command line did not."""
    given = getattr(arguments, name) is not None
    return name in OF_BRANCH and arguments.branch is not None and not given


def _written(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def read_run(path: Path) -> dict[str, Any]:
    """Options of a file by name.

    Raises:
        ResumeError: It cannot be read.
    """
    try:
        content: dict[str, Any] = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (OSError, ValueError, TOMLKitError) as error:
        raise ResumeError(
            "The file of the run cannot be read", got=f"{path}: {error}", expected="TOML"
        ) from error
    return content


def _options(path: Path) -> list[str]:
    options = []
    for name, value in read_run(path).items():
        option = name.replace("_", "-")
        if option in ("config", "help") or not isinstance(value, str | bool | int | float):
            raise ResumeError(
                f"{path} says what mirage train does not take",
                got=name,
                expected='lines such as steps = 1000, transformer = "model.safetensors", or '
                'validation_size = "320x192"',
                fix="Correct the file",
            )
        options += _option(option, value)
    return options


def _option(option: str, value: str | bool | float) -> list[str]:
    if value is True:
        return [f"--{option}"]
    if value is False:
        return [f"--no-{option}"] if option.replace("-", "_") in _SETTINGS else []
    return [f"--{option}={value}"]
