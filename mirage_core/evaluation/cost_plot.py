"""The picture of ``efficiency``: what a read takes and what a memory holds, chunk by chunk."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ..constants import WHITE_8
from ..log import logger
from .task import Value, Ways

PANELS: Final = {"read_ms": "read of one chunk, ms", "mebibytes": "memory, MiB"}
"""Columns that are drawn, and what stands at their axes."""

AFTER: Final = ", after chunk "
"""Between kind and chunk in the names of ways."""

SIZE, DPI = (8.0, 2.8), 100
"""Of the picture, in inches, and pixels of an inch."""


def curves(ways: Ways, column: str) -> dict[str, dict[int, float]]:
    """Values of a column by kind of memory and by chunk, from ways named *kind, after chunk n*."""
    found: dict[str, dict[int, float]] = {}
    for way, values in ways.items():
        kind, _, chunk = way.partition(AFTER)
        value: Value = values.get(column)
        if chunk and value is not None:
            found.setdefault(kind, {})[int(chunk)] = value
    return found


def cost_pictures(ways: Ways) -> Mapping[str, Tensor]:
    """The plot as a picture (H, W, 3) in 0..1 by what it shows; none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('No plot: matplotlib is not installed (`pip install "mirage[evaluate]"`)')
        return {}
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axis, (column, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for kind, points in curves(ways, column).items():
            axis.plot(list(points), list(points.values()), marker="o", label=kind)
        axis.set(yscale="log", xlabel="chunks in the memory", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    picture = pixels.view(height, width, 4)[..., :3].float() / WHITE_8
    return {"what a read takes and what a memory holds, chunk by chunk": picture}
