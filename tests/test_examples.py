"""The programs in `docs/examples`, each as a person runs it, with small pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cache.io import load_cache
from mirage_core.metrics import psnr
from mirage_core.rollout.video import read_frames

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
MAX_LINES = 40
WIDTH, HEIGHT = 128, 64

pytestmark = pytest.mark.processes


def run(program: str, *options: object) -> str:
    """What an example prints; small pictures gain nothing from threads."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def frames_of(video: Path) -> torch.Tensor:
    return torch.stack(list(read_frames(video))).float() / 255


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shot of two chunks, there and back."""
    folder = tmp_path_factory.mktemp("shot")
    said = run("make_a_shot.py", "--size", WIDTH, HEIGHT, "--frames", 37, "--out", folder)
    assert "1 saving 4\n" in said
    assert str(folder) in said
    return folder


def test_the_examples_are_short() -> None:
    lines = {p.name: len(p.read_text("utf-8").splitlines()) for p in EXAMPLES.glob("*.py")}
    assert set(lines) == {"preview_a_move.py", "make_a_shot.py", "ask_the_memory.py"}
    assert max(lines.values()) <= MAX_LINES, lines


def test_a_move_is_previewed_from_the_room(tmp_path: Path) -> None:
    out = tmp_path / "new" / "preview"
    said = run("preview_a_move.py", "--size", WIDTH, HEIGHT, "--move", "truck", "--out", out)
    points, unseen = re.fullmatch(r"(\d+) points, ([\d.]+)% of the cells unseen\n", said).groups()
    # A cell at a depth edge is two points.
    assert len(load_cache(out / "memory.safetensors")) == int(points) < 2 * 8 * 4
    assert 1 < float(unseen) < 60
    frames = frames_of(out / "preview.mp4")
    assert frames.shape == (33, HEIGHT, WIDTH, 3)
    picture = np.asarray(Image.open(out / "preview.png"))
    assert picture.shape == (HEIGHT, 3 * WIDTH, 3)
    # The move is seen, and the first frame is the picture, but for the video's own loss.
    assert psnr(frames[0], frames[-1]) < 25
    assert psnr(torch.from_numpy(picture[:, :WIDTH] / 255.0).float(), frames[0]) > 30


def test_a_move_is_previewed_from_a_picture_with_depth(tmp_path: Path) -> None:
    """A flat wall, whose grey of a fifth is a fifth of the way in 1 / distance."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    picture.save(tmp_path / "wall.png")
    Image.new("L", (WIDTH, HEIGHT), 51).save(tmp_path / "depth.png")
    places = [tmp_path / "wall.png", tmp_path / "depth.png"]
    options = ["--size", WIDTH, HEIGHT, "--frames", 5, "--move", "static", "--range", 2, 8]
    run("preview_a_move.py", "--picture", *places, *options, "--out", tmp_path)
    (block,) = load_cache(tmp_path / "memory.safetensors").blocks
    distance = 1 / (0.2 / 2 + 0.8 / 8)
    torch.testing.assert_close(block.points[:, 2], torch.full((len(block),), distance))
    frames = frames_of(tmp_path / "preview.mp4")
    assert len(frames) == 5
    assert psnr(frames[-1], torch.from_numpy(np.asarray(picture) / 255.0).float()) > 25


def test_a_shot_is_made_and_returns_to_where_it_began(shot: Path) -> None:
    frames = frames_of(shot / "video.mp4")
    assert frames.shape == (37, HEIGHT, WIDTH, 3)
    middle, last = psnr(frames[18], frames[0]), psnr(frames[-1], frames[0])
    assert last > middle + 2
    memory = load_cache(shot / "memory.safetensors")
    written = torch.cat([block.frames for block in memory.blocks])
    assert int(written.max()) > 0, "nothing was remembered on the way"
    assert Image.open(shot / "sheet.png").width > 256


def test_the_memory_says_what_is_in_view(shot: Path) -> None:
    """The camera turns away from all that the memory knows."""
    options = ["--size", WIDTH, HEIGHT, "--move", "pan", "--amount", 4]
    lines = run("ask_the_memory.py", shot / "memory.safetensors", *options).splitlines()
    pattern = r"frame (\d+): (\d+)% known(?:, nearest surface ([\d.]+) away, seen in frames (.*))?"
    rows = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [int(row[0]) for row in rows] == list(range(0, 33, 4))
    assert int(rows[0][1]) > 60 > int(rows[-1][1])
    assert 0.3 < float(rows[0][2]) < 8
    assert rows[0][3].startswith("[0")
