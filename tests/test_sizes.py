"""The README's sizes of the models, counted from the layouts of their files."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from mirage_core.checkpoints.branch_file import expected_shapes
from tiny_weights import Backbone, Shapes, backbone_shapes, branch_config, vae_shapes

README = Path(__file__).resolve().parents[1] / "README.md"
GIB = 2**30
SIZE = Backbone(dim=3072, heads=24, ffn_dim=14336, layers=30, text_dim=4096, freq_dim=256)
WIDTH, HEIGHT, LATENTS, STRIDE = 1280, 704, 9, 16
CLEAN = 6
"""Four reference and two preceding frames."""

COMFY_FACTOR = 3072 / 2222
"""ComfyUI's own estimate of a step, in MiB for each cell and byte of 16-bit numbers: 0.01."""


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def branch(step: int) -> int:
    return count(expected_shapes(branch_config(SIZE, layers=tuple(range(0, SIZE.layers, step)))))


def step(frames: int) -> float:
    """GiB that ComfyUI sets aside for a step in 16 bits, where flash attention is at hand."""
    cells = frames * (WIDTH // STRIDE) * (HEIGHT // STRIDE)
    return cells * 2 * 0.01 * COMFY_FACTOR / 1024


def with_branch() -> float:
    """The same with what `MirageApply` adds for clean frames and for the branch."""
    tokens = (LATENTS + 2) * (WIDTH // STRIDE // 2) * (HEIGHT // STRIDE // 2)
    kept = 3 * tokens * SIZE.dim * 2 / GIB
    return step(LATENTS + CLEAN + math.ceil(kept / step(1)))


def row(start: str) -> list[float]:
    """Figures in GiB of a line of the README's table."""
    (line,) = [x for x in README.read_text("utf-8").splitlines() if x.startswith(f"| {start}")]
    return [float(x) for x in re.findall(r"([\d.]+) GiB", line)]


@pytest.mark.parametrize(
    ("start", "parameters"),
    [
        ("video model, 5.00 billion", count(backbone_shapes(SIZE))),
        ("side branch with 15 blocks, 2.61 billion", branch(2)),
        ("side branch with 8 blocks, 1.40 billion", branch(4)),
        ("VAE, 0.70 billion", count(vae_shapes(160, 256))),
    ],
)
def test_weights(start: str, parameters: int) -> None:
    billions = float(re.search(r"([\d.]+) billion", start)[1])
    assert parameters / 1e9 == pytest.approx(billions, abs=0.006)
    found = row(start)
    sizes = [2 * parameters / GIB, parameters / GIB][: len(found)]
    assert found == pytest.approx(sizes, abs=0.051)


def test_what_is_set_aside() -> None:
    assert row("set aside for a step: plain") == pytest.approx([step(LATENTS)], abs=0.051)
    assert row("set aside for a step: branch") == pytest.approx([with_branch()], abs=0.051)
    cells = (WIDTH // STRIDE) * (HEIGHT // STRIDE)
    decoding = 8000 * cells * STRIDE**2 * 2 / GIB
    assert row("set aside for decoding") == pytest.approx([decoding], abs=0.051)


def test_sums() -> None:
    text = README.read_text("utf-8")
    (line,) = [x for x in text.splitlines() if x.startswith("With `cfg` above 1")]
    plain, full, narrow, narrow_full = (float(x) for x in re.findall(r"\d+\.\d+", line))
    model, side = 2 * count(backbone_shapes(SIZE)) / GIB, 2 * branch(2) / GIB
    expected = [model + step(LATENTS), model + side + with_branch()]
    assert [plain, full] == pytest.approx(expected, abs=0.11)
    expected = [model / 2 + step(LATENTS), model / 2 + side + with_branch()]
    assert [narrow, narrow_full] == pytest.approx(expected, abs=0.11)
