"""Scores by WorldScore's evaluator, from the options of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..evaluation.worldscore_scores import LOG, Evaluator, score


def evaluator_of(arguments: argparse.Namespace) -> Evaluator | None:
    """The evaluator that arguments name; None where they name none."""
    if getattr(arguments, "evaluator", None) is None:
        return None
    python = arguments.evaluator_python or Path(sys.executable)
    return Evaluator(
        arguments.evaluator.absolute(), python.absolute(), arguments.evaluator_model
    )


def scored(evaluator: Evaluator, run: Path) -> str:
    """Score the videos of a run, showing what the evaluator says.

    Args:
        evaluator: What to start.
        run: Folder of the run.

    Returns:
        The scores, a line each.

    Raises:
        MirageError: As `score`.
    """

    def show(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    found = score(evaluator, run.absolute(), show)
    lines = [f"{name}: {value:g}" for name, value in found.items()]
    return "\n".join([*lines, f"What the evaluator said is in {run / LOG}"])
