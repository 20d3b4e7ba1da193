"""WorldScore's own evaluator, started where the user has it, for the videos of a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from ..errors import CacheFormatError, ModelMismatchError, PackageError
from ..files import storage_error

ENTRY: Final = Path("worldscore") / "run_evaluate.py"
"""What to start, from the root of its repository: its page and its relative paths say so."""

CONFIGS: Final = Path("config") / "model_configs"
SCORES: Final = "worldscore.json"
OUTPUT: Final = "worldscore_output"
"""Folder of the videos below a model's runs_root, as its config/base_config.yaml has it."""

LOG: Final = "worldscore.log"
PATIENCE_S: Final = 10
"""Seconds that the evaluator has to end by itself when it is stopped."""

_TOLD: Final = 12
_RUNS_ROOT: Final = re.compile(r"^runs_root:\s*(.+?)\s*(?:#.*)?$", re.MULTILINE)
_VARIABLE: Final = re.compile(r"\$\{oc\.env:(\w+)\}")


@dataclass(frozen=True)
class Evaluator:
    """WorldScore's evaluator.

    Attributes:
        root: Its repository.
        python: Interpreter of its own environment.
        model: Name under which its configuration has the videos.
    """

    root: Path
    python: Path
    model: str

    @property
    def command(self) -> list[str]:
        """What is started, in `root`."""
        return [str(self.python), ENTRY.as_posix(), "--model_name", self.model]

    def environment(self) -> dict[str, str]:
        """The process's variables, and those of the evaluator's ``.env``."""
        try:
            text = (self.root / ".env").read_text(encoding="utf-8")
        except OSError:
            text = ""
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
        own = {k.strip(): v.strip() for k, v in pairs if not k.lstrip().startswith("#")}
        # Its imports are relative to its root, whether it was installed or not.
        path = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, **own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def expect_ready(self, run: Path) -> None:
        """Raise unless the evaluator is there and would score the videos of this run.

        Args:
            run: Folder of the run, which contains `OUTPUT`.

        Raises:
            PackageError: There is no evaluator, or no interpreter.
            ModelMismatchError: It does not know the model, or has its videos elsewhere.
        """
        entry = self.root / ENTRY
        for what, path in (("WorldScore's evaluator", entry), ("The interpreter", self.python)):
            if not path.is_file():
                raise PackageError(
                    f"{what} does not exist",
                    got=path,
                    expected=f"a copy of github.com/haoyi-duan/WorldScore, with {ENTRY}, and the "
                    "Python of its environment",
                    fix="Check --evaluator and --evaluator-python",
                )
        config = self.root / CONFIGS / f"{self.model}.yaml"
        try:
            found = _RUNS_ROOT.search(config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            found = None
        place = None if found is None else _expanded(found.group(1), self.environment())
        if place is None or place.resolve() != run.resolve():
            raise ModelMismatchError(
                f"WorldScore would not look for the videos of {self.model} in this run",
                got=f"no runs_root in {config}" if place is None else f"runs_root {place}",
                expected=f"{run}, which contains {OUTPUT}",
                fix=f"Write runs_root: {run} into {config}, and {self.model} into "
                "worldscore/benchmark/utils/modeltype.py, as WorldScore's page says",
            )


def _expanded(text: str, variables: Mapping[str, str]) -> Path:
    """A path of the configuration, with the variables that it names."""
    return Path(_VARIABLE.sub(lambda found: variables.get(found[1], ""), text.strip("'\"")))


def score(
    evaluator: Evaluator, run: Path, on_line: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Score the videos of a run. What the evaluator says goes to `LOG` in the run's folder.

    Whatever ends the call early, Ctrl-C too, also ends the evaluator and all that it started;
    what it has scored stays, and it goes on from there.

    Args:
        evaluator: What to start.
        run: Folder of the run, which contains `OUTPUT`.
        on_line: Called with each line that it says; may raise to stop.

    Returns:
        Scores by aspect, 0 to 100, with WorldScore-Static and WorldScore-Dynamic.

    Raises:
        PackageError: It is not there, or ends with an error, or without scores.
        ModelMismatchError: It would score other videos.
        CacheFormatError: Its scores cannot be read.
        StorageError: The folder cannot be written.
    """
    evaluator.expect_ready(run)
    scores = run / OUTPUT / SCORES
    before = _changed(scores)
    last: deque[str] = deque(maxlen=_TOLD)
    try:
        log = (run / LOG).open("w", encoding="utf-8")
    except OSError as error:
        raise storage_error(run / LOG, error) from error
    with log:
        code = _started(evaluator, log, last, on_line)
    if code or _changed(scores) == before:
        raise PackageError(
            "WorldScore's evaluator failed" if code else "WorldScore's evaluator left no scores",
            got="\n".join(last) or f"exit status {code}",
            expected=f"{OUTPUT}/{SCORES}",
            fix=f"All that it said is in {LOG} of the run's folder; its environment is its own",
        )
    return _read(scores)


def _started(
    evaluator: Evaluator, log: TextIO, last: deque[str], on_line: Callable[[str], None]
) -> int:
    """The exit status, when all that it says is in the log."""
    process = subprocess.Popen(
        evaluator.command, cwd=evaluator.root, env=evaluator.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout or ():
            log.write(line)
            last.append(line.rstrip())
            on_line(line.rstrip())
        return process.wait()
    finally:
        _end(process)


def _changed(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that still runs, with its group, in which its own jobs are."""
    if process.poll() is None:
        _signal_all(process, force=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        # Jobs that did not heed it would outlive a parent that did.
        with contextlib.suppress(ProcessLookupError):
            _signal_all(process, force=True)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _signal_all(process: subprocess.Popen[str], *, force: bool) -> None:
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
    elif force:
        process.kill()
    else:
        process.terminate()


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CacheFormatError(
            f"{SCORES} of WorldScore cannot be read",
            got=str(error)[:200],
            expected="numbers by aspect",
            fix="Run WorldScore's evaluator again",
        ) from error
