"""The README's sizes of the models, counted from the layouts of their files."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from mirage_core.checkpoints.branch_file import expected_shapes
from tiny_models import inpaint_shapes, vace_shapes
from tiny_weights import (
    Backbone,
    Shapes,
    backbone_shapes,
    branch_config,
    vae21_shapes,
    vae_shapes,
)
from workflows import inpaint, spatia, vace
from workflows.writer import Node

README = Path(__file__).resolve().parents[1] / "README.md"
GIB = 2**30
SIZE = Backbone(dim=3072, heads=24, ffn_dim=14336, layers=30, text_dim=4096, freq_dim=256)
WIDTH, HEIGHT, LATENTS, STRIDE = 1280, 704, 9, 16
CLEAN = 6
"""Four reference and two preceding frames."""

COMFY_FACTOR = 3072 / 2222
"""ComfyUI's own estimate of a step, in MiB for each cell and byte of 16-bit numbers: 0.01."""


SMALL_VACE = Backbone(1536, 12, 8960, 30, 4096, 256, channels=16)
LARGE_VACE = Backbone(5120, 40, 13824, 40, 4096, 256, channels=16)
VACE_FACTOR = 1.2
"""By which ComfyUI takes a step of VACE to be larger."""


@dataclasses.dataclass(frozen=True)
class Made:
    """What is in a row of the table of templates."""

    row: str
    nodes: dict[int, Node]
    size: Backbone
    parameters: int
    side_layers: int = 0
    stride: int = 16
    references: int = 0
    factor: float = 1.0

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of the first chunk."""
        scaled, frames = self.nodes[9].inputs, self.nodes[14].inputs["first_chunk_frames"]
        latents = 1 + (frames - 1) // 4 + self.references
        return latents, scaled["height"] // self.stride, scaled["width"] // self.stride

    @property
    def aside(self) -> float:
        """GiB that ComfyUI sets aside for a step, and the node for the branch."""
        latents, *plane = self.grid
        frame = math.prod(plane) * 2 * 0.01 * self.factor * self.size.dim / 2222 / 1024
        kept = 3 * self.tokens * self.size.dim * 2 / GIB if self.row.endswith("spatia*") else 0.0
        return frame * (latents + math.ceil(kept / frame))

    @property
    def tokens(self) -> int:
        latents, rows, columns = self.grid
        return latents * (rows // 2) * (columns // 2)

    @property
    def work(self) -> float:
        """PFLOP of a pass: two for each weight and token, and the attention among tokens."""
        layers = self.size.layers + self.side_layers
        attention = 4 * self.tokens**2 * self.size.dim * layers
        return (2 * self.parameters * self.tokens + attention) / 1e15


def vace_count(size: Backbone, blocks: int) -> int:
    return count(vace_shapes(size, blocks))


def templates() -> list[Made]:
    fun = count(inpaint_shapes(SIZE))
    small, large = vace_count(SMALL_VACE, 15), vace_count(LARGE_VACE, 8)
    shown = {"stride": 8, "references": 1, "factor": VACE_FACTOR}
    return [
        Made("*mirage_vace*, 1.3B", vace.VACE, SMALL_VACE, small, 15, **shown),
        Made("*mirage_vace*, 14B", vace.VACE, LARGE_VACE, large, 8, **shown),
        Made("*mirage_fun_inpaint*", inpaint.FUN_INPAINT, SIZE, fun),
        Made("*mirage_spatia*", spatia.SPATIA, SIZE, count(backbone_shapes(SIZE)) + branch(4), 8),
    ]


STEPS = {"*mirage_fun_inpaint*": (20, 2), "*mirage_spatia*": (40, 2)}
"""Steps, and passes of each with guidance; 25 for the others."""


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


@pytest.mark.parametrize("made", templates(), ids=lambda made: made.row)
def test_templates(made: Made) -> None:
    text = README.read_text("utf-8")
    (line,) = [x for x in text.splitlines() if x.startswith(f"| {made.row}:")]
    (work,) = re.findall(r"([\d.]+) PFLOP", line)
    weights = 2 * made.parameters / GIB
    expected = [weights, made.aside, weights + made.aside]
    assert [float(x) for x in re.findall(r"([\d.]+) GiB", line)] == pytest.approx(
        expected, abs=0.051
    )
    steps, passes = STEPS.get(made.row, (25, 2))
    assert float(work) == pytest.approx(steps * passes * made.work, rel=0.02)


def test_the_vae_of_wan21() -> None:
    text = README.read_text("utf-8")
    (line,) = [x for x in text.splitlines() if x.startswith("The Wan2.1 VAE has")]
    billions, aside = (float(x) for x in re.findall(r"(\d\.\d+) (?!VAE)", line))
    assert billions == pytest.approx(count(vae21_shapes(96)) / 1e9, abs=0.006)
    cells = math.prod(vace.SIZE) // 64
    assert aside == pytest.approx(7000 * cells * 64 * 2 / GIB, abs=0.051)
