"""The picture of `readout_gpu.py`: reads over the size of the memory, and beside pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw two panels and save them as PNG; the second stays empty without an RGB memory."""
    figure, (sizes, chunks) = plt.subplots(1, 2, figsize=(10, 4.4))
    whole = [size for size in report["sizes"] if size["blocks"] == 1]
    points = [size["points"] for size in whole]
    for name, label in (
        ("released_us", "released algorithm"),
        ("call_us", "plain call"),
        ("replay_us", "replay of a CUDA graph"),
    ):
        sizes.plot(points, [size[name]["median"] for size in whole], marker="o", label=label)
    floor = [size["floor_us"] for size in whole]
    sizes.plot(points, floor, "k--", label="floor: bytes at copy bandwidth")
    rows = (report["against_rgb"] or {"per_chunk": []})["per_chunk"]
    count = [row["chunks"] for row in rows]
    for name, label in (
        ("rgb_total_us", "pixels: rasterise and encode"),
        ("rgb_rasterise_us", "pixels: rasterise"),
        ("latent_read_us", "latent tokens"),
    ):
        values = [row[name]["median"] if isinstance(row[name], dict) else row[name] for row in rows]
        if None not in values:
            chunks.plot(count, values, marker="o", label=label)
    sizes.set(title="9 views of 44 x 80 cells", xlabel="points", ylabel="us")
    chunks.set(title="one chunk's read", xlabel="chunks in the memory", ylabel="us")
    for axis in (sizes, chunks):
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    machine = report["machine"]
    figure.suptitle(f"{machine.get('gpu', machine['cpu'])}, {report['date']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
