"""``mirage export``: a run's weights with a model card, in the layout of a hub's repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ResumeError
from .inputs import parse_path
from .train import RUN

PLACES = ("folder",)
"""Facts of the clips that say where they lie on this machine, which nobody else needs."""


def add_command(commands: Any) -> None:
    """Add ``export`` to the commands of a parser."""
    parser = commands.add_parser(
        "export",
        help="write a training's weights with a model card, for a hub of models",
        description="Writes a folder in the layout of a hub's repository: the finished weights of "
        "a run, its settings, a film of its last validation, and a README.md with data, figures "
        "and settings. Nothing is sent anywhere.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "training", type=parse_path, metavar="RUN", help="folder of a run of mirage train"
    )
    parser.add_argument(
        "--out", type=parse_path, required=True, metavar="FOLDER", help="a new folder"
    )
    parser.add_argument(
        "--license", required=True, metavar="ID",
        help="licence of the weights, as hubs name it, such as apache-2.0: yours to decide, within "
        "what the licences of the video model and of the footage allow",
    )  # fmt: skip
    parser.add_argument("--step", type=int, help="of a checkpoint (default: the last one)")
    parser.add_argument(
        "--data", type=parse_path, metavar="FOLDER",
        help="the clips, where they are no longer where the run had them",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; see `mirage_core.cli.main.main` for the exit codes."""
    from ..training.facts import data_facts
    from ..training.hub import CardFacts, export_run, newest_step
    from .train_file import read_run

    training: Path = arguments.training
    step = newest_step(training) if arguments.step is None else arguments.step
    # Runs of earlier versions have no such file.
    content = read_run(training / RUN) if (training / RUN).exists() else {}
    data = content.get("data") if arguments.data is None else arguments.data
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        raise ResumeError(
            "The clips of the run are not there, and the card tells of them",
            got=data,
            fix="Say with --data where they are now",
        )
    facts = {name: value for name, value in data_facts(Path(data)).items() if name not in PLACES}
    card = CardFacts(arguments.license, *_base(content, training, step), facts)
    for path in export_run(training, arguments.out, step, card):
        sys.stdout.write(f"{path}\n")
    return 0


def _base(content: Mapping[str, Any], training: Path, step: int) -> tuple[str | None, str]:
    """Name of the video model on a hub, if it is there, and what it is in words.

    Args:
        content: All options of the run; empty where it has no file of them.
        training: Folder of the run.
        step: Whose weights are taken.
    """
    from ..training.hub import BASE, BASE_WIDTH, width_of

    if "new_transformer" in content:
        return None, "of a small model, trained from nothing"
    width = width_of(training, step)
    if width == BASE_WIDTH:
        return BASE, f"for {BASE}"
    named = content.get("transformer")
    file = f", `{Path(named).name}`" if isinstance(named, str) else ""
    return None, f"for a small model of {width or 'unknown'} channels{file}"
