"""A training run as one file: ``--config run.toml``, and the same beside the run's checkpoints.

Each line is an option of ``mirage train`` without its dashes. argparse reads them as if they stood
on the command line before the others, so types and choices are checked in one place.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ..errors import ResumeError
from ..files import atomic_write
from ..training.settings import OF_BRANCH, TrainingSettings
from .train import RUN, setting_names

NOT_KEPT: Final = {
    "run", "out", "config", "settings", "preset", "plan", "plan_size", "card",
}  # fmt: skip
"""What is no option of the run itself. What presets and files of settings say is kept as settings;
``out`` is the folder that the file lies in."""

_SETTINGS: Final = setting_names()


def with_file(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    path: Path,
    ignored: Container[str] = (),
) -> argparse.Namespace:
    """Parse the arguments together with those of a file.

    Args:
        parser: Of the whole command line.
        argv: What was given there, the command first.
        path: The file.
        ignored: Names of options that do not count where the file says them.

    Returns:
        All arguments; those of the command line replace those of the file.

    Raises:
        ResumeError: The file cannot be read, or says what is no option.
    """
    command, *given = argv
    known = vars(parser.parse_args([command]))
    content = {name: v for name, v in _options(path).items() if name not in ignored}
    from_file = [command, *(word for item in content.items() for word in _option(*item))]
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
    _expect_whole_names(path, content, known)
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
        if value != "" and not _of_given_branch(name, arguments, settings)
    }
    path: Path = arguments.out / RUN
    with atomic_write(path, "w") as file:
        file.write(tomlkit.dumps(content))
    return path


def _of_given_branch(
    name: str, arguments: argparse.Namespace, settings: TrainingSettings
) -> bool:
    """Whether the file of a branch says it, and neither the command line nor a preset did."""
    given = getattr(arguments, name) is not None
    given |= settings.new_planes and name != "side_blocks"
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
        content: dict[str, Any] = tomlkit.parse(path.read_text(encoding="utf-8-sig")).unwrap()
    except (OSError, ValueError, TOMLKitError) as error:
        raise ResumeError(
            "The file of the run cannot be read", got=f"{path}: {error}", expected="TOML"
        ) from error
    return content


def _options(path: Path) -> dict[str, str | bool | float]:
    options = {}
    for name, value in read_run(path).items():
        option = name.replace("-", "_")
        if option in ("config", "help") or not isinstance(value, str | bool | int | float):
            raise ResumeError(
                f"{path} says what mirage train does not take",
                got=name,
                expected='lines such as steps = 1000, transformer = "model.safetensors", or '
                'validation_size = "320x192"',
                fix="Correct the file",
            )
        options[option] = value
    return options


def _expect_whole_names(
    path: Path, content: Mapping[str, str | bool | float], known: Mapping[str, Any]
) -> None:
    """Refuse parts of names, which argparse takes, and false for what cannot be switched off."""
    for name, value in content.items():
        switch = name in _SETTINGS or isinstance(known.get(name), bool)
        if name == "run" or name not in known or (value is False and not switch):
            raise ResumeError(
                f"{path} says what mirage train does not take",
                got=f"{name} = {str(value).lower() if isinstance(value, bool) else value}",
                expected="whole names of options, and false for those that can be switched off",
                fix="Correct the file",
            )


def _option(name: str, value: str | bool | float) -> list[str]:
    option = name.replace("_", "-")
    if value is True:
        return [f"--{option}"]
    if value is False:
        return [f"--no-{option}"] if name in _SETTINGS else []
    return [f"--{option}={value}"]
