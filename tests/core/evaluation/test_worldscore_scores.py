"""WorldScore's evaluator as a program: one that the test writes, laid out as the published one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from mirage_core.cli.main import main
from mirage_core.errors import CacheFormatError, ModelMismatchError, PackageError
from mirage_core.evaluation.worldscore_scores import LOG, Evaluator, score

NAME = "mirage"
PROGRAM = """
import json, os, pathlib, re, subprocess, sys, time
from worldscore.common.utils import print_banner

assert sys.argv[1:] == ["--model_name", "mirage"], sys.argv
config = pathlib.Path("config/model_configs/mirage.yaml").read_text()
root = re.search("runs_root: (.*)", config)[1]
root = root.replace("${oc.env:MODEL_PATH}", os.environ["MODEL_PATH"])
out = pathlib.Path(root) / "worldscore_output"
print_banner("EVALUATION")
how = os.environ.get("HOW", "")
if how == "fails":
    sys.exit("CUDA is not available")
if how == "waits":
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    said = "print('child', os.getpid(), flush=True)"
    waits = f"import os, signal, time; {stubborn}; {said}; time.sleep(600)"
    subprocess.run([sys.executable, "-c", waits])
if how != "silent":
    worlds = sorted(out.rglob("image_data.json"))
    frames = sum(len(list((path.parent / "frames").iterdir())) for path in worlds)
    scores = {"camera_control": frames, "WorldScore-Static": 12.5}
    text = "[1]" if how == "broken" else json.dumps(scores)
    (out / "worldscore.json").write_text(text)
"""


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with one world of three frames."""
    folder = tmp_path / "models" / "run"
    frames = folder / "worldscore_output" / "static" / "rendered" / "indoor" / "a" / "0" / "frames"
    frames.mkdir(parents=True)
    for number in range(3):
        (frames / f"{number:03}.png").touch()
    (frames.parent / "image_data.json").write_text("{}")
    return folder


@pytest.fixture
def evaluator(tmp_path) -> Evaluator:
    """The published layout: a package, its entry point, configurations and a ``.env``."""
    root = tmp_path / "WorldScore"
    (root / "worldscore" / "common").mkdir(parents=True)
    (root / "config" / "model_configs").mkdir(parents=True)
    (root / "worldscore" / "__init__.py").touch()
    (root / "worldscore" / "common" / "__init__.py").touch()
    (root / "worldscore" / "common" / "utils.py").write_text(
        "def print_banner(text):\n    print('==', text, '==')\n"
    )
    (root / "worldscore" / "run_evaluate.py").write_text(PROGRAM)
    (root / "config" / "model_configs" / f"{NAME}.yaml").write_text(
        f"model: {NAME}\n\nruns_root: ${{oc.env:MODEL_PATH}}/run\n\nframes: 3\n"
    )
    (root / ".env").write_text(f"# paths\nMODEL_PATH={tmp_path / 'models'}\n")
    return Evaluator(root, Path(sys.executable), NAME)


def test_scores_are_read_and_all_that_was_said_is_kept(evaluator, run) -> None:
    said: list[str] = []
    assert score(evaluator, run, said.append) == {"camera_control": 3, "WorldScore-Static": 12.5}
    assert said == ["== EVALUATION =="]
    assert (run / LOG).read_text() == "== EVALUATION ==\n"


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("fails", PackageError, "CUDA is not available"),
        ("silent", PackageError, "left no scores"),
        ("broken", CacheFormatError, "cannot be read"),
    ],
)
def test_its_errors_are_told(evaluator, run, monkeypatch, how, error, told) -> None:
    (run / "worldscore_output" / "worldscore.json").write_text('{"old": 1}')
    monkeypatch.setenv("HOW", how)
    with pytest.raises(error, match=told):
        score(evaluator, run)


def runs(process: int) -> bool:
    """Whether it has not ended; without its parent it may stay as a zombie for a while."""
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


def test_stopping_ends_it_with_all_that_it_started(evaluator, run, monkeypatch) -> None:
    monkeypatch.setenv("HOW", "waits")
    children: list[int] = []

    def stop(line: str) -> None:
        if line.startswith("child"):
            children.append(int(line.split()[1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(evaluator, run, stop)
    assert "child" in (run / LOG).read_text()
    given_up = time.monotonic() + 60
    while runs(children[0]):
        assert time.monotonic() < given_up, "what the evaluator started still runs"
        time.sleep(0.01)


def test_one_that_would_score_other_videos_is_refused(evaluator, run, tmp_path) -> None:
    with pytest.raises(ModelMismatchError, match="runs_root"):
        evaluator.expect_ready(tmp_path / "another")
    (evaluator.root / "config" / "model_configs" / f"{NAME}.yaml").unlink()
    with pytest.raises(ModelMismatchError, match="no runs_root"):
        evaluator.expect_ready(run)
    (evaluator.root / "worldscore" / "run_evaluate.py").unlink()
    with pytest.raises(PackageError, match="haoyi-duan/WorldScore"):
        evaluator.expect_ready(run)


def test_the_command_scores_what_it_made(evaluator, tmp_path, capsys) -> None:
    words = ["evaluate", "worldscore", "--tiny", "--rooms", "1", "--size", "64x64", "--frames", "5"]
    words += ["--model", "preview", "--evaluator", str(evaluator.root), "--out"]
    assert main([*words, str(tmp_path / "models" / "run")]) == 0
    told = capsys.readouterr()
    assert "camera_control: 5" in told.out and "EVALUATION" in told.err
    assert "run_evaluate.py" not in told.out
    other = tmp_path / "models" / "other"
    assert main([*words, str(other)]) == 2
    assert "runs_root" in capsys.readouterr().err and not other.exists()
