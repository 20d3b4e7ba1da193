"""The picture of `memory.py`: growth, reading and quality of every policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

MIDDLE_MIB = 20
"""Memories above this size have their label on the left."""


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw three panels and save them as PNG."""
    policies = report["policies"]
    chunks = list(range(10, report["chunks"] + 1, 10))
    figure, (growth, reading, quality) = plt.subplots(1, 3, figsize=(14, 4.6))
    for number, (name, values) in enumerate(policies.items()):
        style = {"color": f"C{number}", "label": name, "marker": "o", "markersize": 3}
        growth.plot(chunks, [points / 1000 for points in values["points"]], **style)
        reading.plot(chunks, [values["read_ms"][str(chunk)] for chunk in chunks], **style)
        revisit = values["best_view"]["revisit"]
        nearest = values["nearest"]["revisit"]["psnr_all"]
        place = (values["mebibytes"][-1], revisit["psnr_all"])
        quality.plot(*place, "o", color=f"C{number}", markersize=8)
        quality.plot([place[0]] * 2, [nearest, place[1]], color=f"C{number}", linewidth=1)
        left = place[0] > MIDDLE_MIB or "int8" in name
        quality.annotate(
            f"{100 * revisit['holes']:.1f} % holes", place, textcoords="offset points",
            xytext=(-7 if left else 7, -3), ha="right" if left else "left", fontsize=7,
        )  # fmt: skip
    growth.set(title="points in the memory", xlabel="chunks", ylabel="thousand", yscale="log")
    reading.set(title="one read, same 9 views, 1 CPU thread", xlabel="chunks", ylabel="ms")
    reading.set_ylim(bottom=0)
    quality.set(
        title="revisits: best views, and down to nearest", xlabel="MiB", xscale="log",
        ylabel="token PSNR, holes included, dB",
    )  # fmt: skip
    quality.margins(x=0.15)
    quality.set_xticks([3, 5, 10, 20, 50], labels=["3", "5", "10", "20", "50"])
    quality.set_xticks([], minor=True)
    handles, labels = growth.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    for axis in (growth, reading, quality):
        axis.grid(alpha=0.3)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=110)
